"""Training runs for tests: the tiny BERT on the tiny data, in this process, through the command line's own entry."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from tiny import make_bert_folder, make_data_folder
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import evaluate
import train_multitask
from heads.kinds import KINDS
from runtime.errors import run_cli
from training.checkpoint import saved
from training.options import parse
from training.session import Session

STILL = ("--lr", 1e-30, "--max_grad_norm", 1e30)  # no weight moves in float32, no gradient is clipped


@contextmanager
def workshop(home: Path) -> Iterator[Path]:
    """Inside, home/bert and home/data are there, and nobody waits for the disk."""
    make_bert_folder(home / "bert")
    make_data_folder(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield home


def command(home: Path, *options: object) -> list[str]:
    """The arguments of a small run; later ones win."""
    usual = ["--data_dir", home / "data", "--batch_size", 8, "--amp", "off"]
    source = [] if "--init_from" in options else ["--checkpoint", home / "bert"]
    return [str(word) for word in (*source, *usual, *options)]


def exit_code(main: Callable[[list[str]], object], *words: object) -> int:
    """What a command with these words ends with."""
    try:
        return run_cli(main, [str(word) for word in words])
    except SystemExit as exit:  # after a signal
        return exit.code


def train(home: Path, out: Path, *options: object) -> int:
    """A run into the folder `out`: its exit code."""
    return exit_code(train_multitask.main, *command(home, "--output_dir", out, *options))


def evaluate_run(*words: object) -> int:
    return exit_code(evaluate.main, *words)


def make_session(home: Path, *options: object) -> Session:
    """A run put together, no step made; it writes nothing until it is trained, and then into home/session."""
    return Session(parse(command(home, "--output_dir", home / "session", "--log_every", 1, *options)))


def take_steps(session: Session, count: int) -> list[dict]:
    """Train for so many steps: their lines of the log."""
    before = session.state.step
    session.last_step = before + count
    train_multitask.train(session)
    return [line for line in log_lines(session.options.output_dir) if "losses" in line and line["step"] > before]


@contextmanager
def before_update(action: Callable[[int], object]) -> Iterator[None]:
    """Inside, the action is called in each step, of whichever run, with the number of the optimiser's update from 1."""

    def hook(optimizer, args, kwargs) -> None:
        action(1 + max((state["step"] for state in optimizer.state.values()), default=0))

    handle = register_optimizer_step_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def recorded(session: Session, steps: int) -> list[tuple[dict[str, Tensor], dict]]:
    """Every parameter's gradient at each step, as the optimiser gets it, and the log's line."""
    found = []

    def note(number: int) -> None:
        parameters = session.model.named_parameters()
        found.append({name: p.grad.to_dense().clone() for name, p in parameters if p.grad is not None})

    with before_update(note):
        lines = take_steps(session, steps)
    return list(zip(found, lines, strict=True))


def copied(session: Session) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in session.model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The names of the tensors that differ in any bit."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@contextmanager
def other_kind(kind: str, **attributes: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, kind, type("Other", (KINDS[kind],), attributes))
        yield


def accuracy_by(kind: str, metric: Callable[..., float | None]) -> AbstractContextManager:
    """Inside, the accuracy of tasks of this kind is what the metric makes of predictions and gold labels."""
    return other_kind(kind, metrics=KINDS[kind].metrics | {"acc": metric})


def loss_by(kind: str, how: Callable[[int, Tensor, Tensor], Tensor]) -> AbstractContextManager:
    """Inside, the loss of tasks of this kind is `how(number, loss, y)`: of its number from 1, itself, the outputs."""
    class_of, numbers = KINDS[kind], itertools.count(1)

    def loss(self, y, *rest):
        return how(next(numbers), class_of.loss(self, y, *rest), y)

    return other_kind(kind, loss=loss)


def scripted(*scores: float | None) -> Callable[..., float | None]:
    """A metric: these one after the other, then always the last. Predicting at a run's end asks once more."""
    left = list(scores)
    return lambda *arrays: left.pop(0) if len(left) > 1 else left[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, but for the lock's, which stay when the process that held it has gone."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".minbert.")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def leftovers(folder: Path) -> list[Path]:
    """What a killed process may leave behind, and the next one takes away."""
    return [path for path in folder.rglob(".*") if not path.name.startswith(".minbert.")]


def log_lines(out: Path) -> list[dict]:
    """log.jsonl, without the seconds, which no two runs share."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


def outcome(out: Path) -> dict:
    """What two runs with the same seed must share, byte for byte: weights, moments, numbers, log and predictions."""
    newest = saved(out / "checkpoints")[0]
    state = json.loads((newest / "state.json").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    spent = [state["progress"].pop(name) for name in ("seconds", "evaluation_seconds", "log_size")]
    assert min(*spent, metrics.pop("seconds"), metrics.pop("peak_gb")) >= 0  # the last but one rounded to tenths
    return {
        "step": newest.name,
        "state": state,
        "tensors": {path.name: path.read_bytes() for path in newest.glob("*.safetensors")},
        "log": log_lines(out),
        "metrics": metrics,
        "best": contents(out / "best"),
        "predictions": contents(out / "predictions"),
    }
