"""Training runs for tests: the tiny BERT on the tiny data, through the command line's own entry, in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny import make_bert_folder, make_data_folder

import train_multitask
from training.checkpoint import saved
from training.errors import run_cli
from training.run import Run


@contextmanager
def workshop(home: Path) -> Iterator[Path]:
    """Inside, home/bert and home/data are there, torch has one thread, and nobody waits for the disk."""
    make_bert_folder(home / "bert")
    make_data_folder(home / "data")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: None)
            yield home
    finally:
        torch.set_num_threads(threads)


def command(home: Path, *options: object) -> list[str]:
    """The arguments of a small run; later ones win."""
    usual = ["--checkpoint", home / "bert", "--data_dir", home / "data", "--batch_size", 8, "--amp", "off"]
    return [str(word) for word in (*usual, *options)]


def train(home: Path, out: Path, *options: object) -> int:
    """A run into the folder `out`: its exit code."""
    return run_cli(train_multitask.main, command(home, "--output_dir", out, *options))


def make_run(home: Path, *options: object) -> Run:
    """A run put together, no step made and no dropout; it writes nothing unless told to."""
    args = train_multitask.build_parser().parse_args(command(home, *options))
    return Run(args, train_multitask.settle(args), train_multitask.read_data(args))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, but for the lock, which stays when the process that held it has gone."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def log_lines(out: Path) -> list[dict]:
    """log.jsonl, without the seconds, which no two runs share."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


def outcome(out: Path) -> dict:
    """What two runs with the same seed must share, byte for byte: weights, moments, numbers, log and predictions."""
    newest = saved(out / "checkpoints")[0]
    progress = json.loads((newest / "state.json").read_text())["progress"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert progress.pop("seconds") > 0 and metrics.pop("seconds") >= 0  # the latter rounded to tenths
    return {
        "step": newest.name,
        "progress": progress,
        "tensors": {path.name: path.read_bytes() for path in newest.glob("*.safetensors")},
        "log": log_lines(out),
        "metrics": metrics,
        "best": contents(out / "best"),
        "predictions": contents(out / "predictions"),
    }
