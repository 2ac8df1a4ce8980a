"""experiments/plot.py: what a picture holds for the logs that there are, and what is said where none can be drawn."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data.tasks import TASKS
from experiments.plot import Run, main, picture
from heads.config import HeadsConfig
from runtime.errors import run_cli

TASKS_OF_RUN = [TASKS["sst"], TASKS["sts"], replace(TASKS["sst"], name="own", course=None, metric="macro_f1")]
PAIRS = ("sst-sts", "sst-own", "sts-own")
LOSSES = [f"training loss: {task.name}" for task in TASKS_OF_RUN]
DEV = ["on dev: sst_acc", "on dev: sts_pearson", "on dev: own_macro_f1"]
COSINES = [f"cosine: {pair}" for pair in PAIRS]
RATE, SHARES = "encoder's learning rate", "% of cosines below 0"


def step_line(step: int, *, cosine: bool = True) -> dict:
    """The first pair conflicts in every second step, the second in every fourth, the third never."""
    line = {"step": step, "seconds": 1.0, "losses": {task.name: 1 / step for task in TASKS_OF_RUN}, "lr": 1e-4 / step}
    values = [0.1 * (-1) ** step, -0.1 if step % 4 == 0 else 0.2, 0.05]
    return line | ({"cosine": dict(zip(PAIRS, values, strict=True))} if cosine else {})


def dev_line(step: int, *values: float | None) -> dict:
    names = ("sst_f1", "sst_acc", "sts_pearson", "own_macro_f1")
    return {"step": step, "seconds": 1.0, "dev": dict(zip(names, (0.1, *values), strict=True))}


LOG = [
    *map(step_line, range(1, 17)),
    dev_line(16, 0.2, 0.3, 0.4),
    {"step": 17, "seconds": 1.0, "losses": {"sst": None, "sts": 0.1, "own": 0.1}, "skipped": "sst: infinite"},
    *map(step_line, range(18, 25)),
    dev_line(24, 0.1, 0.9, 0.4),
    dev_line(25, 0.5, 0.3, 0.5),
    dev_line(26, 0.9, None, 0.9),  # not defined: not the best
    {"step": 27, "seconds": 1.0, "dev": {"sst_acc": 1.0}},  # nor what is not there
]
DAMAGED = [
    *("", "7", "null", "[]", "{}", '{"step": "2"}', '{"step": true}', '{"step": 0}', "[" * 99_999, '{"a":' * 99_999),
    *(f'{{"step": 2, "losses": {losses}}}' for losses in ("[0.1]", "0.1", "null", '{"sst": "0.1"}', '{"sst": {}}')),
    *(f'{{"step": 2, "losses": {{"sst": {value}}}}}' for value in ("NaN", "-Infinity", "1e999", "9" * 999, "true")),
    *("\ufeff{}", '{"step": 2, "losses": {"\\ud800": 1}}', '{"step": 2, "losses": {"' + "x" * 10**6 + '": 1}}'),
    *('{"step": 2, "dev": [0.5]}', '{"step": 2, "cosine": {"sst-sts": [0.1]}}', '{"step": 2, "lr": "1e-4"}'),
    *('{"step": 2, "losses": {"sst": 1.0}}', '{"step": 2, "seconds": "2"}'),
]


def make_run(folder: Path, log: list[dict], rest: str = "") -> Path:
    folder.mkdir()
    config = asdict(HeadsConfig()) | {"task_definitions": [task.to_json() for task in TASKS_OF_RUN]}
    config |= {"seed": 0, "data_dir": "data", "checkpoint": "minilm", "machine": {"precision": "off"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log) + rest)
    return folder


@pytest.mark.parametrize(
    ("log", "titles", "missing"),
    [
        (LOG, [*LOSSES, *DEV, *COSINES, RATE, SHARES], ""),
        ([step_line(n, cosine=False) for n in (1, 2, 3)], [*LOSSES, RATE], "dev metrics, cosines of task gradients"),
        ([step_line(50)], [*LOSSES, *COSINES, RATE, SHARES], "dev metrics"),
        ([LOG[17]], LOSSES[1:], "dev metrics, cosines of task gradients, encoder's learning rate"),
    ],
)
def test_each_part_of_a_log_has_its_panels_and_what_is_missing_is_named(tmp_path, capsys, log, titles, missing):
    """Also a log of one line, and a last line that the run is just writing."""
    run, out = make_run(tmp_path / "run", log, rest='{"step": 99, "los'), tmp_path / "new" / "plot.png"
    figure = picture([Run.read(run, "C0")])
    assert [ax.get_title() for ax in figure.axes] == titles
    assert figure.get_supxlabel().endswith(f"Not in these logs: {missing}." if missing else "would give.")
    assert run_cli(main, [str(run), "--output", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr() == (f"{out}\n", "")


def test_runs_share_axes_and_a_star_is_where_the_mean_of_the_main_metrics_is_best(tmp_path):
    log = [line for line in LOG if "cosine" not in line]
    runs = [Run.read(make_run(tmp_path / name, lines), name) for name, lines in (("red", LOG), ("blue", log[:2]))]
    figure = picture(runs)
    axes = {ax.get_title(): ax for ax in figure.axes}
    for title, values in zip(DEV, ((0.1, 0.2), (0.9, 0.3), (0.4, 0.4)), strict=True):
        stars = [line for line in axes[title].lines if line.get_marker() == "*"]
        found = {star.get_color(): (*star.get_xdata(), *star.get_ydata()) for star in stars}
        assert found == {"red": (24, values[0]), "blue": (16, values[1])}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.removeprefix(f"{tmp_path}/") for label in labels] == [
        "red: best on dev 0.467, at step 24, average of sst, sts, own, steps skipped: 1",
        "blue: best on dev 0.300, at step 16, average of sst, sts, own, steps skipped: 1",
    ]
    assert [text.get_text() for text in axes[SHARES].texts] == ["48 %", "26 %", "0 %"]  # 11 and 6 of 23


def test_the_smooth_line_is_the_mean_of_a_twelfth(tmp_path):
    ax = picture([Run.read(make_run(tmp_path / "run", LOG), "C0")]).axes[1]
    raw, smooth = (line.get_xydata() for line in ax.lines[:2])
    assert len(raw) == 24 and smooth == pytest.approx((raw[1:] + raw[:-1]) / 2)


@pytest.mark.fault(63)
@pytest.mark.parametrize(
    ("log", "rest", "message"),
    [
        ([], "", "run/log.jsonl: expected a step's losses; found none yet; wait"),
        ([], '{"step"', "found none yet; wait"),
        ([LOG[17] | {"losses": {"sst": None}}, dev_line(1, 0.5, 0.5, 0.5)], "", "found none yet; wait"),
        ([], "no json\n", "log.jsonl:1: expected a run's log; found Expecting value"),
        *(([LOG[0]], f"{line}\n", "log.jsonl:2: expected a run's log; found ") for line in DAMAGED),
    ],
)
def test_a_log_that_cannot_be_drawn(tmp_path, capsys, log, rest, message):
    assert run_cli(main, [str(make_run(tmp_path / "run", log, rest))]) == 3
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_what_is_no_run_and_too_many_of_them(tmp_path, capsys):
    assert run_cli(main, [str(tmp_path)]) == 3
    assert "log.jsonl: expected a run's log; found none" in capsys.readouterr().err
    assert run_cli(main, ["run"] * 11) == 2
    assert "runs: expected 10 at most, a colour each; found 11" in capsys.readouterr().err
