"""experiments/conflict.py: what it measures, that the run does not notice, and the numbers that it tells."""

import json
import os
import signal
import statistics
import sys
from itertools import combinations
from math import ceil, sqrt
from pathlib import Path

import pytest
import tiny_run
import torch
import torch.nn.functional as F
from tiny_run import before_update, command, exit_code, log_lines, outcome
from torch import Tensor

from experiments.conflict import MeasuredSession, main, verdict
from heads.losses import PreviousStep
from optim import TaskGradients
from runtime.seeds import generator
from training.options import parse

TASKS = ("sst", "para", "sts")
RUN = ("--max_steps", 6, "--eval_every", 3)


def measured(home: Path, out: Path, *options: object) -> int:
    """A measured run into the folder `out`: its exit code."""
    return exit_code(main, *command(home, "--output_dir", out, "--every", 2, *RUN, *options))


@pytest.fixture(scope="module")
def run(home) -> Path:
    assert measured(home, home / "run") == 0
    return home / "run"


def halves(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "halves.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("grad_accum", "parts"), [(1, 1), (2, 2)])
def test_cosines_of_halves_are_plain_autograds(home, grad_accum, parts):
    """One task and half after the other, in float64: in float32 roundings move para's by 1e-4, plain ones too.

    Triplets' negatives are all alike, so that their draw plays no part. In parts, as after memory has run out, every
    other one is of half A.
    """
    words = command(home, "--output_dir", home / "x", *RUN, "--grad_accum", grad_accum, "--batch_size", "sst=5,para=7")
    session, vector = MeasuredSession(parse(words), every=1), torch.linspace(-1, 2, 16, dtype=torch.float64)[None]
    session.state.parts = parts
    session.model.double().eval()  # no dropout
    shared, sparse = session.model.shared_parameters(), session.halves.sparse
    session.halves = TaskGradients(session.halves.tasks, shared, sparse)
    session.previous.vectors = {"para": vector}
    previous = PreviousStep()
    previous.vectors = {"para": vector}

    def gradient(task: str, half: int) -> Tensor:
        """Of the losses of all rows of this half, (P,), of length 1"""
        total, chunks = 0.0, []
        for rows in (session.rows[task].stream[2 * grad_accum + i] for i in range(grad_accum)):
            size = ceil(len(rows) / (2 * parts))
            chunks += [rows[i : i + size] for i in range(0, len(rows), size)]
        for batch in map(session.rows[task].batch, chunks[half::2]):
            losses = session.model.losses({task: batch}, session.options.losses, previous, generator(0, "other"))
            total += losses[task] * len(batch.ids)
        found = torch.autograd.grad(total, shared, materialize_grads=True)
        return F.normalize(torch.cat([g.to_dense().flatten() for g in found]), dim=0)

    cosine = {(s, t): (gradient(s, 0) @ gradient(t, 1)).item() for s in TASKS for t in TASKS}
    of_pairs = {f"{s}-{t}": (cosine[s, t] + cosine[t, s]) / 2 for s, t in combinations(TASKS, 2)}
    found = session.measure(2)
    assert found["one_task"] == pytest.approx({task: cosine[task, task] for task in TASKS}, abs=1e-12)
    assert found["two_tasks"] == pytest.approx(of_pairs, abs=1e-12)
    assert list(session.previous.vectors.values()) == [vector] and not session.previous.pending
    assert all(p.grad is None for p in session.model.parameters())


def test_the_run_does_not_notice(home, run):
    """Weights, moments, log, metrics and predictions are those of train_multitask.py, with dropout, bit for bit."""
    assert tiny_run.train(home, home / "plain", *RUN) == 0
    assert outcome(run) == outcome(home / "plain")
    assert [line["step"] for line in halves(run)] == [2, 4, 6]


@pytest.mark.parametrize("kind", ["signal", "fault"])
def test_stopped_and_resumed_it_tells_the_same(home, run, tmp_path, capsys, kind):
    """A signal in step 4, which is saved; a fault in step 6, of which step 3 is saved, with a line half written."""

    def strike(number: int) -> None:
        if (kind, number) == ("signal", 4):
            os.kill(os.getpid(), signal.SIGINT)
        if (kind, number) == ("fault", 6):
            raise RuntimeError("the power goes")

    with before_update(strike):
        assert measured(home, tmp_path) == {"signal": 130, "fault": 1}[kind]
    assert not (tmp_path / "conflict.json").exists()
    err = capsys.readouterr().err
    assert (kind == "fault") or "go on with: python -m experiments.conflict --every 2 --checkpoint" in err
    if kind == "fault":
        assert [line["step"] for line in halves(tmp_path)] == [2, 4, 6]
        with open(tmp_path / "halves.jsonl", "a") as file:
            file.write('{"step": 7, "two')
    assert measured(home, tmp_path, "--resume", "auto") == 0
    for name in ("halves.jsonl", "conflict.json"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes()
    assert outcome(tmp_path) == outcome(run)


def test_the_numbers_the_picture_and_what_is_printed(home, run, capsys):
    """A finished run's are made anew. By plain Python."""
    before = (run / "conflict.json").read_bytes()
    assert measured(home, run, "--resume", "auto") == 0
    assert (run / "conflict.json").read_bytes() == before and b"/" not in before
    assert (run / "conflict.png").read_bytes().startswith(b"\x89PNG")
    content, lines = json.loads(before), log_lines(run) + halves(run)
    assert content["one_task"]["sts"]["steps"] == 2  # in step 6 its batch has a single row
    for part in ("cosine", "two_tasks", "one_task"):
        for name, found in content[part].items():
            values = [line[part][name] for line in lines if part in line]
            count = len(values := [value for value in values if value is not None])
            sd, share = statistics.stdev(values), sum(value < 0 for value in values) / count
            expected = {"steps": count, "mean": statistics.mean(values), "sd": sd, "below_zero": share}
            errors = {"mean_se": sd / sqrt(count), "below_zero_se": sqrt(share * (1 - share) / count)}
            assert found == pytest.approx(expected | errors)
    assert content["batch_size"] == dict.fromkeys(TASKS, 8)
    shares = {pair: n["below_zero"] for pair, n in content["cosine"].items()}
    assert json.loads((run / "metrics.json").read_text())["conflicts"] == pytest.approx(shares)
    out, n = capsys.readouterr().out, content["cosine"]["para-sts"]
    assert f"para-sts: below 0 in {100 * n['below_zero']:.0f} % of 6 steps, " in out
    assert f"by chance (50 +- 41 %); mean {n['mean']:+.3f} +- {2 * n['mean_se']:.3f}\n" in out
    rows = [line for line in out.splitlines() if line.startswith(("cosines of", "  sst", "  para", "  sts"))]
    assert len(rows) == 10 and len({*map(len, rows)}) == 1  # aligned


@pytest.mark.parametrize("share, often", [(0.9, "more often than"), (0.1, "less often than"), (0.5, "as often as")])
def test_what_chance_would_give(share, often):
    n = {"steps": 100, "below_zero": share, "mean": 0.0, "mean_se": 0.0}
    found = {"cosine": {"a-b": n}, "two_tasks": {"a-b": n}, "one_task": {"a": n, "b": n}}
    assert f" {often} by chance" in verdict("a-b", "ab", found)


def test_what_cannot_be_measured(home, tmp_path, capsys, monkeypatch):
    for code, message, options in (
        (2, "--every: expected 3 at most, half of the run's steps; found 4; take less", ["--every", 4]),
        (2, "--strategy: expected gs, which logs the cosines; found mtl; leave it out", ["--strategy", "mtl"]),
        (2, "--evry: no such option", ["--evry", 1]),
        (2, "--batch_size: expected 2 or more of each task, to cut into halves", ["--batch_size", "sst=1"]),
        (3, "sst-para, two tasks, whole batches: expected cosines of 2 steps or more; found 1", ["--log_every", 9]),
    ):
        assert measured(home, tmp_path, *options) == code
        assert message in capsys.readouterr().err
    assert tiny_run.train(home, tmp_path / "plain", *RUN) == 0
    assert measured(home, tmp_path / "plain", "--resume", "auto") == 3
    assert "halves.jsonl: expected a run's log; found none; give a run that wrote one" in capsys.readouterr().err
    assert measured(home, tmp_path / "dry", "--dry_run") == 0 and not (tmp_path / "dry").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert measured(home, tmp_path / "none") == 2 and not (tmp_path / "none").exists()
