"""evaluate.py: names of metrics and their averages, prediction files to the byte, the command line."""

import csv
import io
import json
import locale
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import child
import numpy as np
import pytest
import torch
from own_tasks import make_own_tasks
from tiny import make_data_folder
from tiny_run import contents, evaluate_run, outcome, train

from data.tasks import LEADERBOARD, TASKS, Task
from evaluate import averages, prediction_text, report, score, task_metrics, undefined

SST, PARA, STS = (TASKS[name] for name in LEADERBOARD)
FILES = {"train": "t.csv", "dev": 0.1}
NLI = Task("nli", "classes", ("a", "b"), "gold", FILES, classes=("yes", 'no, or "no"', "it;s"), metric="acc")
TOPICS = Task("topics", "labels", ("a",), "t", FILES, classes=("x", "y", "z"), several=True, metric="micro_f1")
URGENCY = Task("urgency", "score", ("a",), "u", FILES, range=(0.1, 0.7), metric="pearson")

# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_names_by_task():
    """A course's task has the leaderboard's names, a user's those of its kind."""
    assert task_metrics(SST, np.array([0, 3, 3]), [0, 3, 4]) == {"sst_acc": 2 / 3, "sst_f1": (1 + 2 / 3 + 0) / 3}
    assert task_metrics(PARA, np.array([1, 0, 1, 1]), [1, 0, 0, 1]) == {"para_acc": 0.75, "para_f1": 0.8}
    found = task_metrics(STS, np.array([0.2, 2.0, 4.6]), [0.0, 2.4, 4.8])
    r = pytest.approx(np.corrcoef([0.2, 2.0, 4.6], [0.0, 2.4, 4.8])[0, 1], rel=1e-12)
    assert found == {"sts_pearson": r, "sts_spearman": pytest.approx(1, abs=1e-12), "sts_em": 1.0}
    assert task_metrics(NLI, np.array([2, 2]), [2, 1]) == {"nli_acc": 0.5, "nli_macro_f1": pytest.approx(1 / 3)}
    found = task_metrics(TOPICS, np.array([[1, 1, 0], [0, 0, 0]]), [(0,), (0, 1)])
    assert found == {"topics_micro_f1": pytest.approx(0.4), "topics_macro_f1": pytest.approx(1 / 3)}
    with pytest.raises(KeyError):
        task_metrics(replace(SST, kind="ranks"), np.array([0]), [0])


@pytest.mark.fault(24)
def test_what_is_not_defined_is_none_with_its_reason():
    nothing = {name: value for task in (SST, PARA, STS) for name, value in task_metrics(task, np.array([]), []).items()}
    metrics = nothing | averages(nothing)
    assert set(metrics.values()) == {None} and undefined(metrics).keys() == metrics.keys()
    constant = task_metrics(PARA, np.zeros(2), [0, 0]) | task_metrics(STS, np.full(3, 2.5), [0.0, 1.0, 4.0])
    expected = {"para_acc": 1.0, "para_f1": None, "sts_pearson": None, "sts_spearman": None, "sts_em": 0.0}
    assert constant == expected
    assert undefined(constant).keys() == {name for name, value in expected.items() if value is None}
    assert re.search(r"  para_f1 +not defined: \w+", report(constant)) and "sts_em        0.0000" in report(constant)
    assert report(dict.fromkeys(("sts_em", "overall_2024"), 0.5)).splitlines() == [
        "  sts_em        0.5000  share that agrees, rounded to integers",
        "  overall_2024  0.5000  average with (r + 1) / 2 for Pearson's r",
    ]
    assert re.fullmatch(r"  topics_macro_f1 +0\.5000\n  a +0\.2500", report({"topics_macro_f1": 0.5, "a": 0.25}))


def test_both_leaderboards_and_the_score():
    metrics = {"sst_acc": 0.5, "para_acc": 0.8, "sts_pearson": -0.2}
    expected = {"average": (0.5 + 0.8 - 0.2) / 3, "overall_2024": (0.5 + 0.8 + 0.4) / 3}
    assert averages(metrics) == pytest.approx(expected, rel=1e-12)
    for name in metrics:
        assert averages(metrics | {name: None}) == {"average": None, "overall_2024": None}
        assert averages({other: value for other, value in metrics.items() if other != name}) == {}
    assert score(metrics | {"nli_acc": 0.1}, [SST, PARA]) == pytest.approx(0.65, rel=1e-12)
    assert score(metrics | {"sts_pearson": None}, [SST]) == 0.5
    assert score(metrics | {"sts_pearson": None}, [SST, STS]) is None


# ---- prediction files ------------------------------------------------------------------------------------------------


def test_the_text_to_the_byte():
    text = prediction_text(SST, ["a", "b c"], torch.eye(5)[[4, 0]])
    assert text == "id \t Predicted_Sentiment \na , 4 \nb c , 0 \n"
    text = prediction_text(PARA, ["7f", "8"], torch.tensor([0.5, 0.4999]))
    assert text == "id \t Predicted_Is_Paraphrase \n7f , 1.0 \n8 , 0.0 \n"
    text = prediction_text(TASKS["cfimdb"], ["7f"], torch.tensor([1.0]))
    assert text == "id \t Predicted_Sentiment \n7f , 1 \n"
    text = prediction_text(STS, ["1", "2", "3", "4"], torch.tensor([-0.1, 5.1, 1 / 3, 1e-7]))
    rows = "1 , 0.0 \n2 , 5.0 \n3 , 0.3333333432674408 \n4 , 1.0000000116860974e-07 \n"
    assert text == "id \t Predicted_Similiary \n" + rows


def test_the_text_of_a_users_tasks():
    """Csv as any reader has it: names quoted where need be, a probability for each class."""
    text = prediction_text(NLI, ['p "1", q', "2"], torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["id", "prediction", "yes", 'no, or "no"', "it;s"]
    assert [row[:2] for row in rows] == [['p "1", q', 'no, or "no"'], ["2", "it;s"]]
    e = np.exp([[0, 1, 0], [0, 0, 2]])
    np.testing.assert_allclose([[float(p) for p in row[2:]] for row in rows], e / e.sum(1, keepdims=True), rtol=1e-6)
    text = prediction_text(TOPICS, ["1", "2"], torch.tensor([[0.5, 0.25, 0.75], [0.25, 0.0, 0.0]]))
    assert text == "id,prediction,x,y,z\n1,x;z,0.5,0.25,0.75\n2,;,0.25,0.0,0.0\n"
    assert TOPICS.parse(";") == ()  # as the reader takes it
    text = prediction_text(replace(TOPICS, classes=("id", "y", "z")), [], torch.empty(0, 3))
    assert text == "id,prediction,topics_id,y,z\n"
    text = prediction_text(URGENCY, ["1", "2", "3"], torch.tensor([0.25, 9.0, -9.0]))
    assert text == "id,prediction\n1,0.25\n2,0.7\n3,0.1\n"  # in no digit beyond the range, which float32 has not


# ---- command line ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(home) -> Path:
    assert train(home, home / "run", "--max_steps", 2, "--lr", 0.01) == 0
    return home / "run"


def dev_files(name: str) -> tuple[str, str]:
    return f"{name}-dev-output.csv", f"readable/{name}-dev.tsv"


@pytest.mark.parametrize("names", [("dev",), ("test",), ("dev", "test")])
def test_evaluating_a_run_gives_what_the_run_gave(run, tmp_path, capsys, names):
    """On the run's own data and in its precision, which its config.json names, without being told. To the byte."""
    before = contents(run)
    split = "all" if len(names) == 2 else names[0]
    assert evaluate_run(run, "--split", split, "--predictions-dir", tmp_path) == 0
    streams = capsys.readouterr()
    pattern = rf"predictions/(readable/)?\w+-({'|'.join(names)})(-output\.csv|\.tsv)"
    expected = {name for name in before if re.fullmatch(pattern, name)}
    assert contents(tmp_path) == {name.removeprefix("predictions/"): before[name] for name in expected}
    assert len(expected) == 3 * len(names) + 3 * ("dev" in names)
    assert contents(run) == before
    lines = report(json.loads(before["metrics.json"])["dev"]).splitlines()
    assert streams.out.splitlines()[1:] == (lines if "dev" in names else [])


def test_a_run_on_tasks_of_ones_own(home, tmp_path, capsys):
    """A dev that is a share of train is drawn again by the run's seed; --tasks chooses; best/ alone has no files."""
    options = ("--task_file", make_own_tasks(tmp_path / "own"), "--max_steps", 1, "--seed", 3)
    assert train(home, tmp_path / "run", *options) == 0
    before = contents(tmp_path / "run" / "predictions")
    files = {file for name in ("nli", "urgency", "topics", "mood") for file in dev_files(name)}
    assert before.keys() == files | {"nli-test-output.csv"}
    assert evaluate_run(tmp_path / "run", "--split", "all", "--predictions_dir", tmp_path / "again") == 0
    assert contents(tmp_path / "again") == before
    options = ("--tasks", "urgency,mood", "--predictions_dir", tmp_path / "two")
    assert evaluate_run(tmp_path / "run", *options) == 0
    assert contents(tmp_path / "two").keys() == {*dev_files("urgency"), *dev_files("mood")}
    assert evaluate_run(tmp_path / "run", *options, "--split", "test") == 2
    assert "--split test: expected a task with a file for it; found none for urgency, mood" in capsys.readouterr().err
    plain, full = [], []
    for found, words in ((plain, ()), (full, ("--report",))):  # a page a task, after the metrics
        assert evaluate_run(tmp_path / "run", *words) == 0
        found += capsys.readouterr().out.split("\n\n")
    assert len(plain) == 1 and full[0] == plain[0].rstrip("\n")
    heads = [part.splitlines()[0] for part in full[1:] if not part.startswith("  ")]
    rows = {"nli": 40, "urgency": 7, "topics": 20, "mood": 20}
    assert heads == [f"{name}: {count} rows with a label" for name, count in rows.items()]
    model = shutil.copytree(tmp_path / "run" / "best", tmp_path / "model")
    assert evaluate_run(model) == 2
    assert "where the data of nli" in capsys.readouterr().err


def test_the_best_folder_alone_and_other_data(run, tmp_path, capsys):
    options = ("--data_dir", make_data_folder(tmp_path / "other", seed=1), "--predictions_dir", tmp_path / "p")
    assert evaluate_run(run / "best", *options) == 0
    streams = capsys.readouterr()
    assert str(options[1]) in streams.out and len(streams.out.splitlines()) == 1 + 9
    assert "warning: " in streams.err and "no is_duplicate" in streams.err  # what is odd in the data is told here too
    assert contents(tmp_path / "p")["sts-dev-output.csv"] != contents(run)["predictions/sts-dev-output.csv"]


def test_a_model_alone_gets_no_texts_of_the_data_beside_it(home, run, tmp_path, capsys):
    model = shutil.copytree(run / "best", tmp_path / "model")
    before, options = contents(model), ("--data_dir", home / "data")
    assert evaluate_run(model, *options) == 2
    assert f"--predictions_dir: expected a folder, for {model} is a model" in capsys.readouterr().err
    assert evaluate_run(model, *options, "--predictions_dir", tmp_path / "p") == 0
    assert contents(model) == before and contents(tmp_path / "p").keys() >= {*dev_files("sst")}


def test_best_that_is_missing_is_not_another_model(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "best")
    before = contents(copy)
    assert evaluate_run(copy / "best") == 2 and contents(copy) == before
    assert "expected best/heads.json or a checkpoint in it; found no such folder" in capsys.readouterr().err


def test_from_inside_the_best_folder_files_go_beside_it(home, run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run" / "best")
    assert evaluate_run(".", "--data_dir", home / "data") == 0
    assert contents(tmp_path / "run").keys() == contents(run).keys()


def test_a_run_whose_folder_is_named_best(home, tmp_path):
    assert train(home, tmp_path / "best", "--max_steps", 2) == 0
    shutil.rmtree(tmp_path / "best" / "predictions")
    assert evaluate_run(tmp_path / "best") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "predictions" / "sst-dev-output.csv").is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("{home}/data", 2, "expected best/heads.json or a checkpoint in it; found none; check the path"),
        ("{home}/run --split test --report", 2, "--report: expected --split dev or all; found test"),
        ("{home}/run --data_dir {home}/nowhere", 3, "nowhere"),
        ("{home}/run --tasks cfimdb", 2, "--tasks: expected one of sst, para, sts; found 'cfimdb'"),
        ("{home}/run --predictions_dir {home}/run/config.json", 7, "config.json"),
        ("", 2, "required: run"),
    ],
)
def test_a_wrong_command(home, run, capsys, words, code, message):
    before = contents(run)
    assert evaluate_run(*words.format(home=home).split()) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert contents(run) == before


NEEDED = ("task_definitions", "seed", "data_dir", "machine", "arch")  # keys of a run's config.json
WRONG = [
    *(("seed", value) for value in ("0", 1.0, True, -1)),
    *(("data_dir", value) for value in (7, ["data"], "\ud800")),
    *(("machine", value) for value in ("cpu", {"precision": 16}, {"precision": "fp8"})),
    *((name, 3) for name in ("task_definitions", "data")),
]


@pytest.mark.fault(57)
def test_a_damaged_config_of_the_run(run, tmp_path, capsys):
    """One without a key, or with another type: evaluated by a default, figures would be of other rows or precision."""
    path = shutil.copytree(run, tmp_path / "run") / "config.json"
    text = path.read_text()
    config = json.loads(text)
    damaged = [(content, "") for content in (text[:-30], text.replace('"kind": "score"', '"knd": "score"'), "", "{}")]
    damaged += [(json.dumps({key: config[key] for key in config if key != name}), name) for name in NEEDED]
    damaged += [(json.dumps(config | {key: value}), "") for key, value in WRONG]
    damaged += [(json.dumps(config | {"machine": {}}), "precision"), (None, "")]
    for content, named in damaged:
        path.unlink() if content is None else path.write_text(content)
        assert evaluate_run(tmp_path / "run", "--predictions_dir", tmp_path / "p") == 4
        error = capsys.readouterr().err.splitlines()[-1]
        assert str(path) in error and named in error and not (tmp_path / "p").exists()


@pytest.mark.parametrize("source", ["plain", "trained"])
def test_a_run_without_a_best_model_yet(home, run, tmp_path, capsys, source):
    """Of the newest checkpoint that is whole the same figures and files as of its weights in best/."""
    out, options = tmp_path / "run", ("--max_steps", 2, "--save_every", 1, "--lr", 0.01, "--arch", "v2")
    if source == "trained":
        options = (*options[:-2], "--init_from", run, "--tasks", "para,sts")
    assert train(home, out, *options) == 0
    assert evaluate_run(out, "--split", "all") == 0
    expected, before = capsys.readouterr().out.splitlines()[-4:], contents(out / "predictions")
    for name in ("best", "predictions"):
        shutil.rmtree(out / name)
    assert evaluate_run(out, "--split", "all") == 0
    streams = capsys.readouterr()
    assert streams.err.splitlines()[0] == "no best model yet: taking checkpoint step-000002"
    assert streams.out.splitlines()[-4:] == expected and contents(out / "predictions") == before
    (out / "checkpoints" / "step-000002" / "model.safetensors").write_bytes(b"")
    assert evaluate_run(out) == 0
    assert "no best model yet: taking checkpoint step-000001" in capsys.readouterr().err
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"pooling": "cnn"}))
    assert evaluate_run(out) == (4 if source == "plain" else 2)  # of trained heads the pooling is known
    shutil.rmtree(out / "checkpoints")
    capsys.readouterr()
    assert evaluate_run(out) == 2
    assert "found none yet" in capsys.readouterr().err


def enter_a_locale_with_decimal_commas(folder: Path) -> None:
    """One that is installed, else one built into the folder. For a child only. Raises locale.Error for neither."""
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "nl_NL.UTF-8"):
        with suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, name)
            return
    if shutil.which("localedef"):
        subprocess.run(["localedef", "-f", "UTF-8", "-i", "de_DE", folder / "de_DE.UTF-8"], capture_output=True)
    os.environ |= {"LOCPATH": str(folder), "LC_ALL": "de_DE.UTF-8"}
    locale.setlocale(locale.LC_ALL, "")


@pytest.mark.fault(43)
def test_a_locale_with_decimal_commas_changes_nothing(home, run, tmp_path):
    def in_another_locale():
        try:
            enter_a_locale_with_decimal_commas(tmp_path)
        except locale.Error:
            os._exit(77)
        assert locale.format_string("%.1f", 0.5) == "0,5"
        assert train(home, tmp_path / "run", "--max_steps", 2, "--lr", 0.01) == 0

    code = child.run(in_another_locale)
    if code == 77:
        pytest.skip("no locale with decimal commas is installed, and localedef builds none")
    assert code == 0 and outcome(tmp_path / "run") == outcome(run)
