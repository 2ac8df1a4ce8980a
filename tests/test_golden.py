"""Twelve steps in float64, without dropout, end in the losses and weights that commit dc92558 made of them.

tests/golden/ has a tiny BERT, nine files of made-up rows, and dc92558.json: of each run its options, each task's loss
and the gradients' norm at each step, and of every weight at the end two numbers that see all of its elements. The
heads' first weights are a function of their names in that commit, so that the order in which they are drawn is free.
"""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import train_multitask
from optim import TaskGradients
from training.options import parse
from training.session import Session

GOLDEN = Path(__file__).parent / "golden"
RECORDED = json.loads((GOLDEN / "dc92558.json").read_text(encoding="utf-8"))
NAMES = [  # of weights, where they have changed since that commit: now, then
    (r"^heads\.shared\.", "heads.shared_mlp."),
    (r"^heads\.tasks\.(\w+)_head\.(f|own)\.", r"heads.\1_head."),
]


def old_name(name: str) -> str:
    for now, before in NAMES:
        name = re.sub(now, before, name)
    return name


def first_weight(name: str, shape: torch.Size) -> Tensor:
    """Of a head, by its name in that commit; float64"""
    draw = random.Random(name)
    return torch.tensor([draw.gauss(0, 0.2) for _ in range(shape.numel())], dtype=torch.float64).view(shape)


def norm_and_product(name: str, weight: Tensor) -> list[float]:
    """The norm, and the product with cos(0.7 n + 1), n the element's number.

    But for the bias of the keys: it adds one number to all of a query's scores, which the softmax takes off again, so
    its gradient is 0 and what moves it is rounding alone, which AdamW divides by itself.
    """
    if name.endswith("query_key_value.bias"):
        weight = weight.unflatten(0, (3, -1))[[0, 2]]
    flat = weight.detach().flatten()
    return [flat.norm().item(), (flat @ torch.cos(0.7 * torch.arange(len(flat), dtype=torch.float64) + 1)).item()]


@pytest.mark.parametrize("name", RECORDED["runs"])
def test_twelve_steps_are_those_of_dc92558(name: str, tmp_path: Path):
    recorded = RECORDED["runs"][name]
    folders = ["--checkpoint", GOLDEN / "bert", "--data_dir", GOLDEN / "data", "--output_dir", tmp_path / "run"]
    words = [*folders, *RECORDED["common"].split(), *recorded["options"].split(), "--log_every", 1]
    words += ["--head_lr_scale", 1]  # as in that commit
    session = Session(parse([str(word) for word in words]))
    session.model.double()
    made = session.gradients  # its buffer is of the type that the weights had
    session.gradients = TaskGradients(made.tasks, made.shared, sparse=[session.model.bert.embeddings.word.weight])
    with torch.no_grad():
        for key, weight in session.model.named_parameters():
            if not key.startswith("bert."):
                weight.copy_(first_weight(old_name(key), weight.shape))
    train_multitask.train(session)

    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "losses" in line]
    for task, losses in recorded["losses"].items():
        assert [line["losses"][task] for line in steps] == pytest.approx(losses, rel=1e-12), task
    assert [line["grad_norm"] for line in steps] == pytest.approx(recorded["norms"], rel=1e-12)
    weights = {old_name(key): weight for key, weight in session.model.named_parameters()}
    assert weights.keys() == recorded["weights"].keys()
    for key, (norm, product) in recorded["weights"].items():
        assert norm_and_product(key, weights[key]) == pytest.approx([norm, product], rel=0, abs=1e-12 * norm), key
