"""experiments/table2.py and table3.py: every row with the tiny BERT, stopped and gone on, failing, refused."""

import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from child import result, start
from tiny_run import before_update, leftovers, workshop

import train_multitask
from experiments import ablation, claims, docs, surgeries, table1, table2, table3, tables
from experiments.best import WITH_PHRASES
from experiments.rows import PRESETS, TABLES, UNTRAINED
from experiments.runs import Run, in_subprocess, plan, split
from experiments.tables import parser_for, table_text
from heads import MultitaskBert
from heads.config import HeadsConfig
from optim.surgery import SURGERIES
from optim.weighing import WEIGHINGS
from runtime.errors import run_cli
from runtime.files import lock
from runtime.seeds import seeded
from training.options import parse

DOORS = {2: table2.main, 3: table3.main}
ALL = ("sst", "para", "sts")
KEYS = ("sst_acc", "para_acc", "sts_pearson")
DEV_FILES = sorted(f"{task}-dev-output.csv" for task in ALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The tiny BERT and its data; the preset smoke is a step or two with it."""
    tiny = {"checkpoint": tmp_path_factory.mktemp("tables") / "bert", "max_steps": 2, "eval_every": 1, "amp": "off"}
    with workshop(tiny["checkpoint"].parent) as home, pytest.MonkeyPatch.context() as patch:
        smoke = {"": tiny | {"checkpoint": str(tiny["checkpoint"]), "epochs": 2}, "untrained": UNTRAINED}
        patch.setitem(PRESETS, "smoke", smoke)
        yield home


def in_process(words, log: Path) -> int:
    """What in_subprocess does, in a thousandth of the time; what a run says goes into its log."""
    with open(log, "w", encoding="utf-8") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        patch.setattr(sys, "stdout", file)
        return run_cli(train_multitask.main, words)


class StopAt:
    """Train in this process until the n-th run, where Ctrl-C comes before it begins, or in its first step."""

    def __init__(self, run: int, midway: bool):
        self.left, self.midway = run, midway

    def __call__(self, words, log: Path) -> int:
        self.left -= 1
        if self.left:
            return in_process(words, log)
        if self.midway:  # the run hears it first: it saves its step and ends
            with before_update(lambda number: signal.raise_signal(signal.SIGINT)), pytest.raises(SystemExit) as ended:
                in_process(words, log)
            assert ended.value.code == 130 and "stopped and saved at step 1 of 2" in log.read_text()
        raise KeyboardInterrupt


def called(main, home: Path, out: Path, *options: object) -> int:
    words = ["--preset", "smoke", "--data_dir", home / "data", "--output_dir", out, *options]
    return run_cli(main, [str(word) for word in words])


def table(home: Path, out: Path, *options: object, number: int = 3, train=in_process) -> int:
    return called(partial(DOORS[number], train=train), home, out, *options)


def runs_of(home: Path, out: Path, preset: str, number: int = 3, seed: int = 0) -> dict[int, Run]:
    """By row, the last of each."""
    words = ["--preset", preset, "--seeds", seed, "--data_dir", home / "data", "--output_dir", out]
    return {
        run.row.number: run for run in plan(parser_for("").parse_args([str(word) for word in words]), f"table{number}")
    }


def content(out: Path, number: int = 3) -> dict:
    return json.loads((out / f"table{number}-smoke.json").read_text())


@pytest.fixture(scope="module")
def done(home):
    """Table 3 of two seeds, and what was printed."""
    out = home / "done"
    assert table(home, out, "--seeds", "0,1") == 0
    return out


def test_all_rows_of_table_3_run_and_their_cells_are_those_of_the_runs(home, done, capsys):
    assert table(home, done, "--seeds", "0,1", train=None) == 0  # nothing is left to run
    printed, said = capsys.readouterr()
    assert said == f"done already: 32 of 32 runs\nall of it: {done / 'table3-smoke.json'}\n"
    rows, cells = (content(done)[name] for name in ("rows", "cells"))
    assert [(cell["row"], cell["seed"]) for cell in cells] == [(row, seed) for seed in (0, 1) for row in range(1, 17)]
    for cell in cells:
        place = done / "smoke" / f"seed-{cell['seed']}" / f"table3-row-{cell['row']}"
        assert not (place / "checkpoints").exists() and (place / "best").is_dir()
        assert sorted(path.name for path in place.glob("predictions/*.csv")) == DEV_FILES
        own = json.loads((place / "metrics.json").read_text())["dev"]
        own.pop("average", None), own.pop("overall_2024", None)
        assert own.items() <= cell["dev"].items() and {*KEYS} <= cell["dev"].keys()
        assert {"torch", "python"} <= cell["versions"].keys()
        options = parse(shlex.split(cell["command"])[2:])
        assert options.output_dir == place and options.seed == cell["seed"] and options.task_names == cell["tasks"]
    for row in rows:
        of_row = [[cell["dev"][key] for key in KEYS] for cell in cells if cell["row"] == row["row"]]
        averages = [None if None in values else statistics.mean(values) for values in of_row]
        for name, values in zip((*ALL, "average"), [*zip(*of_row, strict=True), averages], strict=True):
            if None in values:  # not defined for a seed: no mean of the others
                assert row["mean"][name] is row["spread"][name] is None
            else:
                assert row["mean"][name] == pytest.approx(100 * statistics.mean(values))
                assert row["spread"][name] == pytest.approx(100 * statistics.stdev(values))
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 100 and len({len(line) for line in lines[2:20]}) == 1
    ours, paper = rows[5]["mean"]["para"], 60.1
    assert lines[9].split()[:2] == ["6", "gs"] and lines[9].split()[6] == f"{ours:.1f}"
    assert lines[9].split()[8:10] == [f"{paper}", f"{ours - paper:+.1f}"]


@pytest.mark.parametrize(("rows", "run", "midway"), [("6,7", 1, False), ("6,7", 2, True), ("8,1", 1, True)])
def test_stopped_and_gone_on_it_is_the_same(home, done, tmp_path, capsys, rows, run, midway):
    """Row 8 brings row 6 along, which it starts from."""
    out = tmp_path / "out"
    assert table(home, out, "--rows", rows, train=StopAt(run, midway)) == 130
    assert capsys.readouterr().err.endswith("interrupted; what is done is kept; the same command goes on\n")
    assert table(home, out, "--rows", rows) == 0
    text = (out / "table3-smoke.json").read_text().replace(str(out), str(done))
    wanted = [1, 6, 8] if rows == "8,1" else [6, 7]
    there = [cell for cell in content(done)["cells"] if cell["seed"] == 0 and cell["row"] in wanted]
    assert json.loads(text)["cells"] == there
    assert not leftovers(tmp_path)


def test_a_row_that_fails_is_told_and_the_rest_goes_on(home, tmp_path, capsys, monkeypatch):
    """Mended, the same command runs what failed, and that alone."""
    with monkeypatch.context() as patch:
        patch.setitem(PRESETS["smoke"], "gs", {"layer": -5})
        patch.setitem(PRESETS["smoke"], "pair", {"lr": 1e30})
        assert table(home, tmp_path, "--rows", "1,6,7,10") == 2
    printed, said = capsys.readouterr()
    reason = "--layer: expected -2 to -1; found -5 (exit 2)"
    lines = printed.splitlines()
    assert lines[5:9] == [
        " 6 gs             failed",
        f"     row 6, gs, seed 0, failed: {reason}",
        " 7 gs, then sst   failed",
        "     row 7, gs, then sst, seed 0, failed: row 6 failed",
    ]
    assert f"failed: {reason}" in said
    assert "row 10, para+sts 1:1, seed 0, failed: para: expected finite outputs; " in printed
    failed = {cell["row"]: cell["exit"] for cell in content(tmp_path)["cells"] if "failed" in cell}
    assert failed == {6: 2, 7: 2, 10: 5} and content(tmp_path)["rows"][0]["mean"]["average"] is not None
    shutil.rmtree(tmp_path / "smoke" / "seed-0" / "table3-row-10")  # it has begun with another learning rate
    assert table(home, tmp_path, "--rows", "1,6,7,10") == 0
    assert "[1/4]" not in capsys.readouterr().err


def test_a_real_process_and_its_log(home, tmp_path, capsys):
    """What it says lies beside the run; killed, it is a row that failed."""
    assert table(home, tmp_path, "--rows", "1", train=in_subprocess) == 0
    assert "step 2/2" in (tmp_path / "smoke" / "seed-0" / "table3-row-1.log").read_text()
    killed = lambda words, log: log.write_text("") or -9  # noqa: E731
    assert table(home, tmp_path, "--rows", "2", train=killed) == 137
    assert "row 2, single para, seed 0, failed: killed by signal 9" in capsys.readouterr().out


def test_a_second_process_and_results_of_other_options_are_refused(home, done, capsys, monkeypatch):
    with lock(done):
        assert result(start(lambda: os._exit(table(home, done, "--seeds", "0,1")))) == 2
    before = (done / "table3-smoke.json").read_bytes()
    monkeypatch.setitem(PRESETS["smoke"], "single", {"lr": 0.5})
    assert table(home, done) == 2
    assert "table3-row-1.json: --lr was None there, is 0.5; take another --output_dir" in capsys.readouterr().err
    assert (done / "table3-smoke.json").read_bytes() == before


def test_results_of_other_data_are_refused(home, done, tmp_path, capsys):
    """Under the same path, one row fewer; dev also of tasks that row 1 does not train, for it is measured on all."""
    files, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(home / "data", files)
    assert table(home, out, "--rows", "1", "--data_dir", files) == 0
    for name, of in (("sts-train.csv", ""), ("quora-dev.csv", "dev of para"), ("ids-sst-train.csv", "train of sst")):
        path = files / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        split.cache_clear()  # as in a new process
        assert table(home, out, "--rows", "1", "--data_dir", files, train=None) == (2 if of else 0)
        said = capsys.readouterr().err
        assert not of or f"table3-row-1.json: does not say that it is of this {of}: {name}; bring" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rows", "1,17"), f"--rows: expected some of {', '.join(map(str, range(1, 17)))}; found 17"),
        (("--preset", "lap"), "--preset: expected one of paper, laptop, smoke; found 'lap'; did you mean laptop?"),
        (("--seeds", "0,-1"), "--seeds: expected a whole number, 0 or more; found '-1'"),
        (("--seeds", ""), "--seeds: expected a value; found an empty one"),
    ],
)
def test_what_there_is_not(home, tmp_path, capsys, options, message):
    assert table(home, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


ROWS = {  # PAPER.md: epochs, lr, batch, accumulation, dropout; then strategy, tasks, arch, pooling, layer
    (2, 1): (3, 1e-5, 16, 1, 0.7, "single", None, "v1", "cls", -1),
    (2, 2): (3, 1e-5, 16, 1, 0.7, "single", None, "v2", "mean", -2),
    (2, 3): (3, 1e-5, 16, 1, 0.7, "single", None, "v3a", "mean", -2),
    (2, 4): (3, 5e-6, 8, 1, 0.7, "gs", [*ALL], "v3a", "cnn", -2),
    (2, 5): (3, 5e-6, 8, 1, 0.7, "gs", [*ALL], "v3a", "cls", -1),
    (2, 6): (3, 1e-5, 16, 1, 0.7, "single", None, "v3b", "mean", -2),
    (3, 1): (15, 5e-6, 32, 1, 0.7, "single", ["sst"], "v3a", "attention_mean", -2),
    (3, 2): (15, 5e-6, 32, 1, 0.7, "single", ["para"], "v3a", "attention_mean", -2),
    (3, 3): (15, 5e-6, 32, 1, 0.7, "single", ["sts"], "v3a", "attention_mean", -2),
    (3, 4): (15, 8e-6, 8, 4, 0.65, "mtl", [*ALL], "v3a", "attention_mean", -2),
    (3, 5): (15, 8e-6, 8, 4, 0.65, "gs", [*ALL], "v3b", "attention_mean", -2),
    (3, 6): (15, 8e-6, 8, 4, 0.65, "gs", [*ALL], "v3a", "attention_mean", -2),
    (3, 7): (10, 6e-7, 32, 1, 0.7, "single", ["sst"], "v3a", "attention_mean", -2),
    (3, 8): (10, 6e-7, 32, 1, 0.7, "single", ["para"], "v3a", "attention_mean", -2),
    (3, 9): (10, 6e-7, 32, 1, 0.7, "single", ["sts"], "v3a", "attention_mean", -2),
} | {(3, row): (10, 2e-6, 16, 1, 0.7, "gs", ["para", "sts"], "v3a", "attention_mean", -2) for row in (10, 11, 12, 13)}


@pytest.mark.parametrize("number", DOORS)
def test_the_preset_paper_is_the_papers(home, tmp_path, number):
    runs = runs_of(home, tmp_path, "paper", number, seed=3)
    assert [*runs] == [row for table, row in ROWS if table == number] + [14, 15, 16] * (number == 3)
    for run in (run for run in runs.values() if run.row.number < 14):
        o, row = parse(run.words(checkpoint=True)), run.row.number
        heads = (o.heads.arch, o.heads.pooling, o.heads.layer)
        (size,) = {*o.batch_size.values()}
        found = (o.epochs, o.lr, size, o.grad_accum, o.heads.hidden_dropout_prob, o.strategy, o.task_names, *heads)
        expected = ROWS[number, row]
        assert found == (*expected[:6], expected[6] or [*run.tasks], *expected[7:])
        assert (o.checkpoint, o.seed, o.max_steps) == ("bert-base-uncased", 3, None)
        assert (o.patience > 0) == (number == 3 and row <= 3)
        assert o.head_lr_scale == 1
        assert o.losses.para_loss == ("bce" if (number, row) in ((3, 12), (3, 13)) else "full")
        assert o.loss_scale.get("sts") in ((4,) if (number, row) in ((3, 11), (3, 13)) else (1, None))
        words, from_gs = run.words(), (number, row) in ((3, 7), (3, 8), (3, 9))
        assert ("--init_from" in words) == from_gs == ("--checkpoint" not in words)
        if from_gs:
            assert words[words.index("--init_from") + 1] == str(tmp_path / "paper" / "seed-3" / "table3-row-6")


def test_the_papers_averages_are_those_of_its_cells():
    for row in TABLES["table3"][:13]:
        assert row.paper[3] == pytest.approx(statistics.mean(row.paper[:3]), abs=0.04), row.name  # 41.1 is printed


def test_a_dry_run_rehearses_rows_and_writes_nothing(home, tmp_path, capsys, monkeypatch):
    """31 rows, 4 x 8 of each a step for 15 epochs, say; a row that is not accepted says so, and the next goes on."""
    monkeypatch.setitem(PRESETS["paper"], "single", PRESETS["paper"]["single"] | {"layer": -5})
    options = ("--preset", "paper", "--checkpoint", home / "bert", "--dry_run", "--rows", "1,6", "--seeds", "3,4")
    assert table(home, tmp_path / "out", *options) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "row 1, single sst, seed 3  failed: --layer: expected -2 to -1; found -5"
    assert re.fullmatch(r"row 6, gs, seed 3 15 steps \d+ seconds \d+\.\d+ GB", " ".join(lines[1].split()))
    assert len(lines) == 3 and not (tmp_path / "out").exists()


def killed(words):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dry_run_goes_on_where_a_rehearsal_is_killed(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tables, "rehearse", killed)
    assert table(home, tmp_path / "out", "--preset", "smoke", "--dry_run", "--rows", "1,2") == 1
    assert capsys.readouterr().out.count("failed: killed") == 2


def test_a_checkpoint_that_has_seen_the_data_is_named(home, tmp_path):
    runs = [runs_of(home, tmp_path, "laptop")[6]]
    text = table_text("table3", "laptop", runs, {runs[0].folder: (5, "too long a story, " * 20)})
    assert "minilm has seen Quora's pairs" in text and max(map(len, text.splitlines())) <= 100


@pytest.fixture(scope="module")
def both(home, done):
    """Table 2 beside it."""
    assert table(home, done, "--seeds", "0,1", number=2) == 0
    return done


def test_table_2_takes_each_cell_of_an_architecture_from_the_run_of_its_task(home, both, capsys):
    assert table(home, both, "--seeds", "0,1", number=2, train=None) == 0  # nothing is left to run
    cells, rows = content(both, 2)["cells"], content(both, 2)["rows"]
    assert len(cells) == 2 * (4 * 3 + 2)
    for row, seed, (name, key) in itertools.product(rows, (0, 1), zip(ALL, KEYS, strict=True)):
        place = (row["row"], seed)
        (own,) = [c["dev"][key] for c in cells if (c["row"], c["seed"]) == place and name in c["tasks"]]
        assert row["seeds"][str(seed)][name] == (None if own is None else 100 * own)
    printed = capsys.readouterr().out
    assert " 2 v2 mean " in printed and max(map(len, printed.splitlines())) <= 100


def test_an_untrained_row_is_what_the_seed_makes(home, done):
    with seeded(0, "heads"):
        fresh = MultitaskBert.from_pretrained(home / "bert", config=HeadsConfig("v3a", "attention_mean", -2))
    there = MultitaskBert.from_pretrained(done / "smoke" / "seed-0" / "table3-row-16" / "best").state_dict()
    torch.testing.assert_close(there, fresh.state_dict(), rtol=0, atol=1e-29)


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(claims, "RESAMPLES", 20)
    yield
    claims.scores.cache_clear()


def test_claims_are_differences_of_the_tables_cells(home, both, capsys, few_resamples):
    assert called(claims.main, home, both, "--seeds", "0,1") == 0
    printed, found = capsys.readouterr().out, json.loads((both / "claims-smoke.json").read_text())
    rows = {(number, row["row"]): row for number in (2, 3) for row in content(both, number)["rows"]}
    for claim in found["claims"]:
        better, worse = (rows[tuple(claim[name])] for name in ("better", "worse"))
        for name, column in claim["columns"].items():
            pairs = [(better["seeds"][seed][name], worse["seeds"][seed][name]) for seed in ("0", "1")]
            if None in itertools.chain(*pairs):
                assert column["difference"] is None and column["verdict"] == "cannot be told"
                continue
            ours = [one - other for one, other in pairs]
            assert column["difference"] == pytest.approx(statistics.mean(ours), abs=1e-9)
            assert column["spread"] == pytest.approx(statistics.stdev(ours), abs=1e-9)
            half = 12.7062 * column["spread"] / 2**0.5  # Student's t for one degree of freedom
            expected = [column["difference"] - half, column["difference"] + half]
            assert column["interval over seeds"] == pytest.approx(expected, rel=1e-4, abs=1e-9)
            assert column["verdict"] in printed
            if None not in (better["paper"][name], worse["paper"][name]):
                assert column["paper"] == pytest.approx(better["paper"][name] - worse["paper"][name])
    assert max(map(len, printed.splitlines())) <= 100


def test_the_interval_over_rows_is_that_of_paired_accuracies(home, both):
    """Its width is the closed form's: of the N differences (-1, 0 or 1) of right answers, 2 x 1.96 standard errors."""
    one, other = (runs_of(home, both, "smoke")[row] for row in (2, 16))
    seeds, resampled = claims.differences([one], [other], "para")
    labels = [example.label for example in split("dev", home / "data")["para"].examples]
    there = [i for i, label in enumerate(labels) if label is not None]
    right = [claims.predictions(run, "para")[there] == [labels[i] for i in there] for run in (one, other)]
    parts = 100 * (right[0].astype(float) - right[1])
    assert parts.any()
    assert seeds == pytest.approx([parts.mean()]) and resampled.mean() == pytest.approx(parts.mean(), abs=2)
    assert resampled.std() == pytest.approx(parts.std() / len(parts) ** 0.5, rel=0.1)
    same, still = claims.differences([one], [one], "para")
    assert not same.any() and not still.any()  # paired: equal models never differ


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([[0.1, 3], [0.2, 5]], "holds"),
        ([[0.1, 3], [-0.1, 5]], "cannot be told"),
        ([[-3, -0.1], [-2, -1]], "does not hold: the reverse"),
        ([[-3, 0.5], [-2, 0.9]], "does not hold: no gain of a point"),
        ([[-3, 0.5], [-2, 1.1]], "cannot be told"),
        ([None, [1, 2]], "cannot be told"),
    ],
)
def test_no_verdict_that_both_intervals_do_not_carry(intervals, verdict):
    assert claims.verdict(intervals) == verdict


def test_an_undefined_resample_leaves_the_interval_over_rows_out():
    column = claims.measured(np.array([1.0, 2.0]), np.array([1.0, math.nan]), (None, None))
    assert column["difference"] == 1.5 and column["interval over rows"] is None
    assert claims.as_words(column)[2:] == ["-", "-", "cannot be told"]


def test_table_1_is_the_best_rows_six_files(home, both, tmp_path, capsys):
    assert called(table1.main, home, both, "--seeds", "0,1") == 0
    folder, printed = both / "table1-smoke", capsys.readouterr().out
    assert sorted(path.name for path in folder.glob("*.csv")) == sorted(
        f"{task}-{name}-output.csv" for task in ALL for name in ("dev", "test")
    )
    rows = [row for row in content(both)["rows"] if row["mean"]["average"] is not None]
    best = max(rows, key=lambda row: row["mean"]["average"])
    seed = max(("0", "1"), key=lambda seed: best["seeds"][seed]["average"])
    assert f"row {best['row']}, {best['name']}, seed {seed}\n" in printed
    of_row = both / "smoke" / f"seed-{seed}" / f"table3-row-{best['row']}" / "predictions"
    for task in ALL:
        assert (folder / f"{task}-dev-output.csv").read_bytes() == (of_row / f"{task}-dev-output.csv").read_bytes()
        assert f"{task:<10}{best['seeds'][seed][task]:>10.1f}" in printed


def test_results_of_another_start_or_of_fewer_seeds_are_not_taken(home, both, tmp_path, capsys):
    out = shutil.copytree(both, tmp_path / "out")
    shutil.rmtree(out / "smoke" / "seed-1")
    assert called(table1.main, home, out, "--seeds", "0,1") == 2
    assert "run experiments.table3 first" in capsys.readouterr().err
    with open(out / "smoke" / "seed-0" / "table3-row-6.json", "a") as file:
        file.write("\n")  # a run anew
    assert called(partial(table3.main, train=None), home, out, "--rows", "7") == 2
    assert "table3-row-7.json: does not say that it started from this " in capsys.readouterr().err


@pytest.mark.parametrize("module", [claims, table1])
def test_without_the_tables_they_say_what_to_run(home, tmp_path, capsys, module):
    assert called(module.main, home, tmp_path / "out", "--seeds", "0,1") == 2
    said = capsys.readouterr().err
    assert "found none" in said and "run" in said and not (tmp_path / "out").exists()


def test_the_pages_say_what_the_results_are():
    for page, text in docs.pages():
        assert page.read_text(encoding="utf-8") == text, "python -m experiments.docs"


def test_the_table_of_surgeries(home, tmp_path, capsys):
    """Of a few rows two seeds: differences paired by seed, tuned scales that have not seen the seed, a step's time."""
    words = ("--seeds", "0,1", "--rows", "1,2,3,7,12,26")
    assert called(partial(surgeries.main, train=in_process), home, tmp_path, *words) == 0
    found = json.loads((tmp_path / "surgeries-smoke.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert [*rows] == ["single", "mtl", "mtl 211", "mtl 114", "cagrad", "rlw", "mtl, tuned"]
    averages = {name: [cells["average"] for cells in row["seeds"].values()] for name, row in rows.items()}
    scaled = ("mtl", "mtl 211", "mtl 114")
    assert not any(None in values for values in averages.values())
    for seed, other in ((0, 1), (1, 0)):
        best = max(scaled, key=lambda name: averages[name][other])
        assert averages["mtl, tuned"][seed] == averages[best][seed]
    differences = np.subtract(averages["cagrad"], averages["mtl"])
    assert rows["cagrad"]["difference"]["mean"] == pytest.approx(differences.mean())
    half = 12.7062 * differences.std(ddof=1) / 2**0.5  # Student's t, one degree of freedom
    low, high = rows["cagrad"]["difference"]["interval"]
    assert (high - low) / 2 == pytest.approx(half, rel=1e-4)
    assert rows["mtl"]["difference"] is None and rows["single"]["seconds a step"] is None
    assert rows["cagrad"]["seconds a step"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("difference, 95 %     step") and max(map(len, lines)) <= 100
    shown = [line[3:16].strip() for line in lines[3:10]]
    assert shown == sorted(rows, key=lambda name: -rows[name]["mean"]["average"])
    ratio = rows["cagrad"]["seconds a step"] / rows["mtl"]["seconds a step"]
    assert lines[3 + shown.index("cagrad")].endswith(f"{ratio:.2f}")


def test_every_surgery_and_weighing_has_its_row():
    rows = TABLES["surgeries"]
    chosen = [row.options.get("surgery") or row.options.get("weigh") for row in rows[7:]]
    assert chosen == [*SURGERIES, *(name for name in WEIGHINGS if name != "fixed")]
    assert [row.number for row in rows] == [*range(1, len(rows) + 1)]


def test_the_table_of_the_recipes_parts(home, tmp_path, capsys):
    """Each row is read from its data, and compared with the whole or with nothing, paired by seed."""
    data = shutil.copytree(home / "data", tmp_path / "data")
    for name in ("phrases", "soft"):
        shutil.copytree(home / "data", data / name)
        with open(data / name / "ids-sst-train.csv", "a") as file:
            file.write(f"a film for {name}\t1\t{name}\n")
    words = ("--seeds", "0,1", "--rows", "6,17", "--data_dir", data)  # and what they are compared with
    assert called(partial(ablation.main, train=in_process), home, tmp_path / "out", *words) == 0
    found = json.loads((tmp_path / "out" / "ablation-smoke.json").read_text())
    read = {(cell["row"], Path(parse(shlex.split(cell["command"])[2:]).data_dir)) for cell in found["cells"]}
    assert read == {(1, data / "soft"), (2, data), (6, data / "soft"), (17, data / "phrases")}
    averages = {row["row"]: [cells["average"] for cells in row["seeds"].values()] for row in found["rows"]}
    means = {row["row"]: row["difference"] and row["difference"]["mean"] for row in found["rows"]}
    for row, base in ((6, 1), (17, 2)):
        assert means[row] == pytest.approx(np.subtract(averages[row], averages[base]).mean())
    assert means[1] is means[2] is None
    trained = {name for name in found["data"] if name.endswith("ids-sst-train.csv")}
    assert len({found["data"][name] for name in trained}) == len(trained) == 3
    results = [json.loads(path.read_text()) for path in tmp_path.glob("out/smoke/seed-?/ablation-row-6.json")]
    minutes = {row["row"]: row["minutes"] for row in found["rows"]}
    assert minutes[6] == pytest.approx(statistics.mean(result["seconds"] for result in results) / 60)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("minutes") and max(map(len, lines)) <= 100
    assert lines[5].split()[:4] == ["6", "-", "both", "ways"] and f"{means[6]:+.1f} (" in lines[5]
    other = shutil.copytree(data, tmp_path / "other")
    lines = (other / "soft" / "sts-dev.csv").read_text().splitlines(keepends=True)
    (other / "soft" / "sts-dev.csv").write_text("".join(lines[:-1]))
    assert called(partial(ablation.main, train=None), home, tmp_path / "out", *words[:-1], other) == 2
    said = capsys.readouterr().err
    assert f"expected dev of sts: sts-dev.csv in {other / 'soft'}; found another; make it anew" in said
    shutil.rmtree(data / "soft")
    assert called(partial(ablation.main, train=None), home, tmp_path / "out", *words) == 2
    assert (
        f"--data_dir: expected a folder soft in {data}; found none; make it by experiments.phrases"
        in capsys.readouterr().err
    )


def test_the_recipes_parts_are_its_options():
    """The whole is the recipe of experiments.best. A part is one option: all else is as in the whole, or nothing."""
    rows = {row.name: {**row.settings("laptop", ALL), "data": row.data} for row in TABLES["ablation"]}
    options = [f"--{key}={value}" for key, value in rows["the whole"].items() if key not in ("no_test", "data")]
    same = ["--no_test", "--output_dir=out", "--epochs=9", "--max_steps=9", "--eval_every=9"]
    recipe, whole = (vars(parse([*words, *same])) for words in (WITH_PHRASES.split(), options))
    assert [key for key in whole if whole[key] != recipe[key]] == ["command"]
    base, parts = {"-": rows["the whole"], "+": rows["nothing"]}, {"-": {}, "+": {}}
    for (sign, _, *part), row in rows.items():
        if sign in base:
            (parts[sign]["".join(part)],) = (key for key in row if row[key] != base[sign][key])
    assert parts["-"] == parts["+"]
    assert {*parts["-"].values()} == {key for key in base["-"] if base["-"][key] != base["+"][key]}
