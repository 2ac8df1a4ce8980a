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


class Exact(Session):
    """In float64, without dropout."""

    def make_optimizer(self) -> None:
        self.model.double().eval()
        super().make_optimizer()


def exact_run(words: list[str], make_session: type[Session] = Exact) -> None:
    with join() as world:
        options = parse(words)
        train_multitask.run(options, partial(make_session, world=world), world)


def tensors(out: Path) -> dict[str, torch.Tensor]:
    """Weights, moments, vectors of the newest checkpoint."""
    files = sorted(saved(out / "checkpoints")[0].glob("*.safetensors"))
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


SAME = {
    "pcgrad": (),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("count", [2])
def test_ranks_give_the_weights_of_one_process(home, tmp_path, name, count):
    words = partial(command, home, *STEPS, *SAME[name], "--output_dir")
    assert run_cli(lambda argv: exact_run(argv), words(home / name)) == 0
    codes, text = ranks.run(count, lambda rank: run_cli(exact_run, words(tmp_path / "run")), tmp_path)
    assert codes == [0] * count, text
    one, several = tensors(home / name), tensors(tmp_path / "run")
    assert one.keys() == several.keys()
    for key, value in one.items():
        torch.testing.assert_close(several[key], value, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}")
    print(log_lines(home/name)[-1], log_lines(tmp_path/"run")[-1])
