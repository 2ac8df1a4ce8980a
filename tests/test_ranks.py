"""Several processes, one exact surgery: what two and three ranks make of a run is what one makes of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import ranks
import tiny_run
import torch
from safetensors.torch import load_file
from tiny_run import command, log_lines
from torch.testing import assert_close

import train_multitask
from runtime.errors import run_cli
from runtime.ranks import join
from training.checkpoint import saved
from training.options import parse
from training.session import Session

STEPS = ("--max_steps", 6, "--eval_every", 3, "--save_every", 3, "--lr", 0.003, "--seed", 5)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    with tiny_run.workshop(tmp_path_factory.mktemp("home")) as home:
        yield home


class Plain(Session):
    """Without dropout, whose draws are each rank's own."""

    def make_optimizer(self) -> None:
        self.model.eval()
        super().make_optimizer()


class Wide(Plain):
    """In float64."""

    def make_optimizer(self) -> None:
        self.model.double()
        super().make_optimizer()


def exact(words: list[str], make_session: type[Session] = Wide) -> int:
    """train_multitask.py with such a session: its exit code."""

    def main(argv: list[str]) -> None:
        with join() as world:
            train_multitask.run(parse(argv), partial(make_session, world=world), world)

    return run_cli(main, words)


def tensors(out: Path) -> dict[str, torch.Tensor]:
    """Weights, moments and triplets' vectors of the newest checkpoint."""
    files = sorted(saved(out / "checkpoints")[0].glob("*.safetensors"))
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


def assert_same_run(one: Path, several: Path, **tolerance: float) -> None:
    """In its tensors and, line by line, in losses, cosines, norms and scores."""
    expected, found = tensors(one), tensors(several)
    assert expected.keys() == found.keys() and any(name.startswith("optimizer/") for name in found)
    for name, value in expected.items():
        assert_close(found[name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
    for line, other in zip(log_lines(one), log_lines(several), strict=True):
        assert line.keys() == other.keys()
        for part, value in line.items():
            assert other[part] == pytest.approx(value, rel=1e-6, abs=1e-9), part


RUNS = {  # the options; how many ranks
    "pcgrad, three in a batch of 8, 8 and 7": ((), 3),
    "gradvac, accumulated, 1 row of a task a batch": (
        ("--surgery", "gradvac:beta=0.3", "--grad_accum", 3, "--batch_size", "sst=5,para=4,sts=1"),
        2,
    ),
    "random weights, losses of equal size": (("--surgery", "random", "--weigh", "equal", "--layer", -2), 2),
    "db_mtl, which reads the losses; cnn": (("--surgery", "db_mtl", "--pooling", "cnn", "--max_grad_norm", 0.1), 2),
    "the plain sum, pairs at once": (("--strategy", "mtl", "--pairs", "sts=cross", "--pooling", "attention_mean"), 2),
    "heads alone": (("--strategy", "mtl", "--option", "pretrain", "--arch", "v2"), 2),
}


@pytest.mark.parametrize("name", RUNS)
def test_ranks_give_the_weights_of_one_process(home, tmp_path, name):
    """In float64, to 1e-10: weights, moments, vectors, losses, cosines, norms, scores."""
    options, count = RUNS[name]
    words = command(home, *STEPS, *options, "--output_dir")
    assert exact([*words, str(tmp_path / "one")]) == 0
    codes, text = ranks.run(count, lambda rank: exact([*words, str(tmp_path / "several")]), tmp_path)
    assert codes == [0] * count, text
    assert_same_run(tmp_path / "one", tmp_path / "several", rtol=1e-10, atol=1e-10)
    assert text.count("step 1/6") == 1  # rank 0 alone talks
