"""experiments/search.py: what trials draw, how the search is shared, interrupted and taken up again."""

import json
import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
from tiny_run import before_update, command, exit_code, log_lines, train

from data.tasks import TASKS
from experiments import search
from runtime.errors import DivergedError
from runtime.files import lock
from training.options import parse

RUN = ("--max_steps", 3, "--eval_every", 1)


def searched(home: Path, out: Path, trials: int, *options: object) -> int:
    """A search in the folder `out`: its exit code."""
    return exit_code(search.main, "--trials", trials, "--output_dir", out, *command(home, *RUN, *options))


def study(out: Path):
    return search.optuna().load_study(study_name="search", storage=f"sqlite:///{out}/trials.db")


def scores(out: Path) -> list[float]:
    """Of the trials' folders, in their order, by the files that the runs wrote."""
    found = [json.loads(path.read_text())["dev"] for path in sorted(out.glob("trial-*/metrics.json"))]
    return [(dev["sst_acc"] + dev["para_acc"] + dev["sts_pearson"]) / 3 for dev in found]


def test_the_best_is_told_and_the_search_goes_on(home, capsys):
    out = home / "whole"
    assert searched(home, out, 2, "--lr", 1e-3) == 0
    first = scores(out)
    assert len(first) == 2 and [trial.value for trial in study(out).trials] == pytest.approx(first)
    assert searched(home, out, 3, "--lr", 1e-3, "--measure", 2) == 0
    assert scores(out)[:2] == first and len(scores(out)) == 3
    told = capsys.readouterr().out
    best = study(out).best_trial
    assert f"  {max(scores(out)):.4f}  {shlex.join(best.user_attrs['options'])}" in told
    assert "on seeds 1, 2" in told and "best less usual" in told
    config = json.loads((out / f"best-{best.number:04}-seed-2" / "config.json").read_text())
    assert config["seed"] == 2 and config["weight_decay"] == pytest.approx(best.params["weight_decay"], rel=1e-2)
    assert json.loads((out / "usual-seed-2" / "config.json").read_text())["weight_decay"] == 0.01
    assert not [*out.glob("*/best"), *out.glob("*/checkpoints")]
    assert searched(home, out, 3, "--lr", 1e-4) == 2
    assert "is of a search with" in capsys.readouterr().err
    assert searched(home, out, 1, "--lr", 1e-4, "--storage", f"sqlite:///{out}/other.db") == 2
    assert "trial-0000: holds a run with another " in capsys.readouterr().err


def test_a_search_does_not_go_on_with_other_data(home, tmp_path, capsys):
    data = shutil.copytree(home / "data", tmp_path / "data")
    assert searched(home, tmp_path / "out", 1, "--data_dir", data) == 0
    lines = (data / "sts-dev.csv").read_text().splitlines(keepends=True)
    (data / "sts-dev.csv").write_text("".join(lines[:-1]))
    assert searched(home, tmp_path / "out", 2, "--data_dir", data) == 2
    assert "is of a search with another dev of sts: sts-dev.csv; bring it back" in capsys.readouterr().err


def test_what_is_drawn_is_a_run_s_options(home):
    library = search.optuna()
    drawn = library.create_study(sampler=library.samplers.RandomSampler(seed=0))
    for _ in range(20):
        words = search.draw_options(drawn.ask(), ["warmup"], [TASKS["sst"], TASKS["sts"]])
        options = parse(command(home, "--tasks", "sst,sts", *words))
        assert 2e-5 <= options.lr <= 4e-4 and options.warmup == 0.1
        assert 0.3 <= options.loss_scale["sts"] <= 3 and options.heads.layer in (-1, -2)
        assert "para" not in shlex.join(words)
    assert {name.split()[0] for name in drawn.trials[0].distributions} == search.SPACE.keys() - {"warmup"}
    for task, without in (("sst", {"loss_scale", "pairs", "sts_gamma"}), ("sts", {"loss_scale"})):  # no meaning there
        drawn = library.create_study()
        search.draw_options(drawn.ask(), [], [TASKS[task]])
        assert {name.split()[0] for name in drawn.trials[0].distributions} == search.SPACE.keys() - without


def test_a_run_that_another_process_trains_stays(home, capsys):
    out = home / "shared"
    assert searched(home, out, 1) == 0
    (out / "best-0000-seed-1").mkdir()
    with lock(out / "best-0000-seed-1"):
        assert searched(home, out, 1, "--measure", 1) == 2
        assert (out / "best-0000-seed-1").is_dir()
    assert f"best-0000-seed-1: in use by process {os.getpid()}; wait for it" in capsys.readouterr().err


class Behind:
    """A trial that is to end at its second evaluation."""

    def __init__(self):
        self.reports = []

    def report(self, value: float, step: int) -> None:
        self.reports.append((step, value))

    def should_prune(self) -> bool:
        return len(self.reports) == 2


def test_a_trial_that_is_behind_ends_at_an_evaluation(home):
    trial, out = Behind(), home / "behind"
    lines = []

    class Logged(search.TrialSession):
        def save_if_due(self, evaluated: bool) -> None:
            lines[:] = log_lines(self.out)
            super().save_if_due(evaluated)

    with pytest.raises(search.optuna().TrialPruned):
        search.train(command(home, *RUN), out, lambda *run: Logged(*run, trial=trial))
    means = [(d["sst_acc"] + d["para_acc"] + d["sts_pearson"]) / 3 for d in (x["dev"] for x in lines if "dev" in x)]
    assert len(means) == 2 and trial.reports == [(1, pytest.approx(means[0])), (2, pytest.approx(max(means)))]
    assert not out.exists()


def test_an_interrupted_trial_is_taken_over(home, monkeypatch):
    monkeypatch.setattr(search, "BEATS", 1)
    out = home / "interrupted"
    with before_update(lambda step: step == 2 and os.kill(os.getpid(), signal.SIGTERM)):
        assert searched(home, out, 2) == 143
    (trial,) = study(out).trials
    assert trial.state.name == "RUNNING" and [*(out / "trial-0000" / "checkpoints").iterdir()]
    time.sleep(4)  # beyond two beats: the database counts in whole seconds
    assert searched(home, out, 2) == 0
    first, *others = study(out).trials
    folders = [trial.user_attrs["folder"] for trial in others]
    assert first.state.name == "FAIL" and folders == ["trial-0000", "trial-0002"]
    assert others[0].params == first.params
    assert "resumed at step 2 of 3" in (out / "trial-0000.log").read_text()
    assert sorted(others[0].intermediate_values) == [1, 2, 3]


def test_a_trial_that_diverges_is_none_of_those_asked_for(home, monkeypatch):
    train, failed = search.train, []

    def once(*run):
        if not failed:
            failed.append(run)
            raise DivergedError("as if")
        return train(*run)

    monkeypatch.setattr(search, "train", once)
    assert searched(home, home / "diverged", 1) == 0
    assert [trial.state.name for trial in study(home / "diverged").trials] == ["FAIL", "COMPLETE"]


def test_trials_without_a_score_fail_and_so_many_in_a_row_end_the_search(home, monkeypatch, capsys):
    values = [None, 0.5, None, None]
    monkeypatch.setattr(search, "FAILED", 2)
    monkeypatch.setattr(search, "score", lambda metrics, tasks: values.pop(0))
    assert searched(home, home / "unscored", 9) == 5
    assert [trial.state.name for trial in study(home / "unscored").trials] == ["FAIL", "COMPLETE", "FAIL", "FAIL"]
    said = capsys.readouterr().err
    assert "trial-0000: expected a score on dev; found none" in said and "found 2 failed ones in a row" in said


@pytest.mark.parametrize(("words", "message"), [
    (("--dry_run",), "--dry_run: is for one run, and a search makes many"),
    (("--storage", "abc"), "--storage: expected a database's URL"),
])  # fmt: skip
def test_what_is_refused(home, capsys, words, message):
    assert searched(home, home / "refused", 1, *words) == 2
    assert message in capsys.readouterr().err


def test_v1_is_searched_with_the_pooling_that_it_has(home):
    words = [*command(home, *RUN), "--arch", "v1", "--trials", 4, "--output-dir", home / "v1"]
    assert exit_code(search.main, *words) == 0
    assert len(scores(home / "v1")) == 4 and "pooling" not in study(home / "v1").trials[0].params


def test_from_a_run_the_heads_stay_as_they_are(home):
    assert train(home, home / "start", "--max_steps", 1, "--arch", "v2") == 0
    assert searched(home, home / "from", 2, "--init_from", home / "start") == 0
    assert not {"pooling", "layer", "pairs para"} & study(home / "from").trials[0].params.keys()
