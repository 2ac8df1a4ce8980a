"""evaluate.py: metrics against scikit-learn, NumPy and arithmetic; prediction files to the byte; the command line."""

from __future__ import annotations

import json
import locale
import math
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace

import child
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import make_data_folder
from tiny_run import contents, train, workshop

import evaluate
from data.reader import read
from data.tasks import TASKS
from evaluate import (
    accuracy,
    check_predictions,
    evaluate_dev,
    exact_match,
    f1,
    leaderboards,
    macro_f1,
    pearson,
    predict_split,
    prediction_text,
    report,
    task_metrics,
    undefined,
    write_predictions,
)
from heads.multitask import UndefinedOutput
from training import precision
from training.errors import DiskError, DivergedError, run_cli
from training.files import write_atomic

# ---- metrics ---------------------------------------------------------------------------------------------------------

CLASSES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)
SIMILARITIES = st.floats(0, 5, width=32)


@settings(max_examples=50)  # scikit-learn is slow on so few rows
@given(CLASSES)
def test_classes_against_scikit_learn(rows):
    predictions, gold = np.array(rows).T
    assert accuracy(predictions, gold) == pytest.approx(sklearn.metrics.accuracy_score(gold, predictions), rel=1e-12)
    expected = sklearn.metrics.f1_score(gold, predictions, average="macro")
    assert macro_f1(predictions, gold) == pytest.approx(expected, rel=1e-12)
    if 1 in gold or 1 in predictions:
        expected = sklearn.metrics.f1_score(gold == 1, predictions == 1)
        assert f1(predictions, gold, positive=1) == pytest.approx(expected, rel=1e-12)
    else:
        assert f1(predictions, gold, positive=1) is None


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=2, max_size=40))
def test_pearson_against_numpy(rows):
    predictions, gold = np.array(rows).T / 1000
    if len(set(predictions)) == 1 or len(set(gold)) == 1:
        assert pearson(predictions, gold) is None
    else:
        assert pearson(predictions, gold) == pytest.approx(np.corrcoef(predictions, gold)[0, 1], abs=1e-9)


@given(arrays(np.float32, st.shared(st.integers(0, 9), key="rows"), elements=SIMILARITIES),
       arrays(np.int64, st.shared(st.integers(0, 9), key="rows"), elements=st.integers(0, 5)))  # fmt: skip
def test_a_metric_is_in_its_range_or_none(predictions, gold):
    """Never NaN, and never a warning, however small the differences."""
    metrics = task_metrics("sts", predictions, gold)
    assert metrics["sts_pearson"] is None or -1 <= metrics["sts_pearson"] <= 1
    assert metrics["sts_em"] is None or 0 <= metrics["sts_em"] <= 1


def test_pearson_does_not_compute_in_the_predictions_precision():
    predictions = np.array([4096, 4096.5, 4097], dtype=np.float32)
    assert pearson(predictions, np.array([1.0, 2.0, 3.0])) == pytest.approx(1, abs=1e-12)


def test_exact_match_rounds_halves_up():
    predictions = np.array([0.5, 1.5, 2.5, 2.4, 4.6, 0.49999997, 1.2], dtype=np.float32)
    gold = np.array([1.0, 2.0, 2.5, 2.49, 5.0, 0.0, 2.0])
    assert exact_match(predictions, gold) == 6 / 7  # all but the last
    assert exact_match(np.array([0.49999997, 2.5], dtype=np.float32), np.array([1.0, 2.0])) == 0


def test_names_by_task():
    assert task_metrics("sst", [0, 3, 3], [0, 3, 4]) == {"sst_acc": 2 / 3, "sst_f1": (1 + 2 / 3 + 0) / 3}
    assert task_metrics("para", [1, 0, 1, 1], [1, 0, 0, 1]) == {"para_acc": 0.75, "para_f1": 0.8}
    assert task_metrics("sts", [0.2, 2.0, 4.6], [0.0, 2.4, 4.8]) == {
        "sts_pearson": pytest.approx(np.corrcoef([0.2, 2.0, 4.6], [0.0, 2.4, 4.8])[0, 1], rel=1e-12),
        "sts_em": 1.0,
    }


@pytest.mark.fault(24)
def test_what_is_not_defined_is_none_with_its_reason():
    nothing = task_metrics("sst", [], []) | task_metrics("para", [], []) | task_metrics("sts", [], [])
    metrics = nothing | leaderboards(nothing)
    assert set(metrics.values()) == {None}
    assert undefined(metrics).keys() == metrics.keys()
    constant = task_metrics("para", [0, 0], [0, 0]) | task_metrics("sts", np.full(3, 2.5), [0.0, 1.0, 4.0])
    assert constant == {"para_acc": 1.0, "para_f1": None, "sts_pearson": None, "sts_em": 0.0}
    assert undefined(constant).keys() == {"para_f1", "sts_pearson"}
    assert "all the same" in report(constant) and "sts_em        0.0000" in report(constant)


def test_both_leaderboards():
    metrics = {"sst_acc": 0.5, "para_acc": 0.8, "sts_pearson": -0.2}
    expected = {"average": (0.5 + 0.8 - 0.2) / 3, "overall_2024": (0.5 + 0.8 + 0.4) / 3}
    assert leaderboards(metrics) == pytest.approx(expected, rel=1e-12)
    for name in metrics:
        assert leaderboards(metrics | {name: None}) == {"average": None, "overall_2024": None}


# ---- from a model to metrics -----------------------------------------------------------------------------------------


class Echo:
    """In a model's place: predicts from the length of a text, so that each row can be told from another."""

    def predict(self, task, texts_a, texts_b=None, amp="off"):
        assert texts_b is None or len(texts_a) == len(texts_b)
        lengths = np.array([len(text) for text in texts_a])
        return {"sst": lengths % 5, "para": lengths % 2, "sts": (lengths % 6).astype(np.float32)}[task]


def test_rows_without_a_label_are_predicted_and_not_scored(tmp_path):
    dev = {task: read(task, "dev", make_data_folder(tmp_path)) for task in TASKS}
    metrics, predictions = evaluate_dev(Echo(), dev)
    examples = dev["para"].examples
    assert [example.label for example in examples].count(None) == 1
    assert [example.texts[1] for example in examples].count("") == 1
    assert len(predictions["para"]) == len(examples)
    right = [len(e.texts[0]) % 2 == e.label for e in examples if e.label is not None]
    assert metrics["para_acc"] == sum(right) / (len(examples) - 1)
    assert list(metrics) == [
        *("sst_acc", "sst_f1", "para_acc", "para_f1", "sts_pearson", "sts_em", "average", "overall_2024")
    ]


def test_a_prediction_that_is_no_number_is_refused(tmp_path):
    split = read("sts", "dev", make_data_folder(tmp_path))

    def predict(*texts, amp):
        raise UndefinedOutput("sts", 3)

    with pytest.raises(DivergedError, match=f"row 3: {split.examples[3].id} of .*sts-dev.csv"):
        predict_split(SimpleNamespace(predict=predict), split)


# ---- prediction files ------------------------------------------------------------------------------------------------


def test_the_text_to_the_byte():
    assert prediction_text("sst", ["a", "b c"], np.array([4, 0])) == "id \t Predicted_Sentiment \na , 4 \nb c , 0 \n"
    assert prediction_text("para", ["7f"], np.array([1])) == "id \t Predicted_Is_Paraphrase \n7f , 1.0 \n"
    values = np.array([0, 5, 1 / 3, 1e-7], dtype=np.float32)
    assert prediction_text("sts", ["1", "2", "3", "4"], values) == (
        "id \t Predicted_Similiary \n1 , 0.0 \n2 , 5.0 \n3 , 0.3333333432674408 \n4 , 1.0000000116860974e-07 \n"
    )


@given(st.lists(SIMILARITIES, max_size=9))
def test_numbers_are_not_rounded(values):
    predictions = np.array(values, dtype=np.float32)
    ids = [f"id-{row}" for row in range(len(values))]
    text = prediction_text("sts", ids, predictions)
    check_predictions(text, "sts", ids)
    assert [np.float32(line.split(" , ")[1]) for line in text.splitlines()[1:]] == predictions.tolist()


SST, PARA, STS = (TASKS[task].prediction_header for task in ("sst", "para", "sts"))


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("sst", "a , 3 \nb , 4 \n"),  # no header
        ("sst", SST.replace(" \t ", "\t") + "a , 3 \nb , 4 \n"),
        ("sts", STS.replace("Similiary", "Similarity") + "a , 3.0 \nb , 4.0 \n"),  # the misspelling is official
        ("sst", PARA + "a , 3 \nb , 4 \n"),
        ("sst", SST + "a , 3 \n"),  # a row is missing
        ("sst", SST + "a , 3 \nb , 4 \nb , 4 \n"),  # one is there twice
        ("sst", SST + "a , 3 \na , 3 \n"),
        ("sst", SST + "b , 4 \na , 3 \n"),  # another order
        ("sst", SST + "a , 3 \nc , 4 \n"),  # another id
        ("sst", SST + "a , 3 \n\nb , 4 \n"),
        ("sst", SST + "a , 3 \nb , 4"),  # torn
        ("sst", SST + "a , 3 \nb , 4 \nb"),
        ("sst", SST + "a , 3\nb , 4 \n"),  # no space at the end
        ("sst", SST + "a,3 \nb , 4 \n"),
        ("sst", SST + "a , 3 \r\nb , 4 \r\n"),
        ("sst", SST + "a , 3 , 3 \nb , 4 \n"),
        ("sst", SST + "a , 5 \nb , 4 \n"),
        ("sst", SST + "a , 3.0 \nb , 4 \n"),
        ("sst", SST + "a ,  \nb , 4 \n"),
        ("para", PARA + "a , 1 \nb , 0.0 \n"),
        ("para", PARA + "a , 0.5 \nb , 0.0 \n"),
        ("sts", STS + "a , 5.1 \nb , 0.0 \n"),
        ("sts", STS + "a , -0.1 \nb , 0.0 \n"),
        ("sts", STS + "a , nan \nb , 0.0 \n"),
        ("sts", STS + "a , 3,5 \nb , 0.0 \n"),
        ("sts", STS + "a ,  3.5 \nb , 0.0 \n"),
        ("sts", STS + "a , 3.5  \nb , 0.0 \n"),
    ],
)
def test_a_damaged_file_is_refused(task, text):
    good = {"sst": SST + "a , 3 \nb , 4 \n", "para": PARA + "a , 1.0 \nb , 0.0 \n", "sts": STS + "a , 2 \nb , 1e-07 \n"}
    check_predictions(good[task], task, ["a", "b"])
    with pytest.raises(ValueError, match=rf"^{task}:?\d?: expected "):
        check_predictions(text, task, ["a", "b"])


def test_a_file_is_checked_before_it_replaces_an_old_one(tmp_path):
    split = read("sst", "dev", make_data_folder(tmp_path / "data"))
    good = np.arange(len(split.examples)) % 5
    path = write_predictions(tmp_path / "deep" / "er", "sst", "dev", split, good)
    assert path.name == "sst-dev-output.csv"
    before = contents(tmp_path / "deep")
    with pytest.raises(ValueError, match="sst:3: expected"):
        write_predictions(tmp_path / "deep" / "er", "sst", "dev", split, np.where(good == 1, 5, good))
    assert contents(tmp_path / "deep") == before
    with pytest.raises(DiskError, match="not written"):
        write_predictions(path, "sst", "dev", split, good)  # a file stands where the folder should be


DECIMAL_COMMAS = ("de_DE.UTF-8", "fr_FR.UTF-8", "nl_NL.UTF-8")


def enter_a_locale_with_decimal_commas(folder: Path) -> None:
    """One that is installed, else one built into the folder. For a child only. Raises locale.Error for neither."""
    for name in DECIMAL_COMMAS:
        try:
            locale.setlocale(locale.LC_ALL, name)
            return
        except locale.Error:
            pass
    if shutil.which("localedef"):
        subprocess.run(["localedef", "-f", "UTF-8", "-i", "de_DE", folder / "de_DE.UTF-8"], capture_output=True)
    os.environ |= {"LOCPATH": str(folder), "LC_ALL": "de_DE.UTF-8"}
    locale.setlocale(locale.LC_ALL, "")


def write_all(folder: Path) -> None:
    """Prediction files and metrics of the tiny data, and the metrics as people read them."""
    dev = {task: read(task, "dev", folder.parent / "data") for task in TASKS}
    metrics, predictions = evaluate_dev(Echo(), dev)
    predictions["sts"] = predictions["sts"] / np.float32(3)
    for task, split in dev.items():
        write_predictions(folder, task, "dev", split, predictions[task])
    write_atomic(folder / "metrics.json", json.dumps(metrics))
    write_atomic(folder / "report.txt", report(metrics))


@pytest.mark.fault(43)
def test_a_locale_with_decimal_commas_changes_nothing(tmp_path):
    make_data_folder(tmp_path / "data")
    (tmp_path / "locales").mkdir()

    def in_another_locale():
        try:
            enter_a_locale_with_decimal_commas(tmp_path / "locales")
        except locale.Error:
            os._exit(77)
        assert locale.format_string("%.1f", 0.5) == "0,5"
        write_all(tmp_path / "commas")

    code = child.run(in_another_locale)
    if code == 77:
        pytest.skip("no locale with decimal commas is installed, and localedef builds none")
    assert code == 0
    write_all(tmp_path / "points")
    assert contents(tmp_path / "commas") == contents(tmp_path / "points")
    assert len(contents(tmp_path / "points")) == 5


# ---- command line ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    with workshop(tmp_path_factory.mktemp("home")) as home:
        yield home


@pytest.fixture(scope="module")
def run(home) -> Path:
    assert train(home, home / "run", "--max_steps", 2, "--lr", 0.01) == 0
    return home / "run"


@pytest.mark.parametrize("names", [("dev",), ("test",), ("dev", "test")])
def test_evaluating_a_run_gives_what_the_run_gave(run, tmp_path, capsys, monkeypatch, names):
    """On the run's own data and in its precision, which its config.json names, without being told."""
    monkeypatch.setattr(precision, "computes_bf16", lambda device: True)  # what --amp auto would take
    before = contents(run)
    split = "all" if len(names) == 2 else names[0]
    assert run_cli(evaluate.main, [str(run), "--split", split, "--predictions-dir", str(tmp_path)]) == 0
    told = capsys.readouterr()
    expected = {name for name in before if re.match(rf"predictions/\w+-({'|'.join(names)})-output.csv", name)}
    assert contents(tmp_path) == {Path(name).name: before[name] for name in expected}
    assert len(expected) == 3 * len(names)
    assert contents(run) == before
    assert told.err.count("wrote ") == len(expected)
    metrics = json.loads(before["metrics.json"])["dev"]
    lines = [f"  {name:<14}{value:.4f}" for name, value in metrics.items()]
    assert told.out.splitlines()[1:] == (lines if "dev" in names else [])


def test_the_best_folder_alone_and_other_data(home, run, tmp_path, capsys):
    other = make_data_folder(tmp_path / "other", seed=1)
    options = ["--data_dir", str(other), "--predictions_dir", str(tmp_path)]
    assert run_cli(evaluate.main, [str(run / "best"), *options]) == 0
    told = capsys.readouterr()
    assert str(other) in told.out
    assert "warning: " in told.err and "no is_duplicate" in told.err  # what is odd in the data is told here too
    assert contents(tmp_path)["sts-dev-output.csv"] != contents(run)["predictions/sts-dev-output.csv"]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["{home}/data"], 2, "expected a run's folder with best/heads.json"),
        (["{home}/run", "--data_dir", "{home}/nowhere"], 3, "nowhere"),
        (["{home}/run", "--split", "train"], 2, "invalid choice: 'train'"),
        (["{home}/run", "--split", "dev", "--predictions_dir", "{home}/run/config.json"], 7, "config.json"),
        (["{home}/run", "--prediction_dir", "x"], 2, "did you mean --predictions_dir?"),
        ([], 2, "required: run"),
    ],
)
def test_a_wrong_command(home, run, capsys, options, code, told):
    before = contents(run)
    assert run_cli(evaluate.main, [word.format(home=home) for word in options]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and told in error
    assert contents(run) == before


def test_broken_weights_are_not_scored(run, tmp_path, capsys, monkeypatch):
    """A model that has left the numbers: no metric, no file."""
    original = evaluate.MultitaskBert.encode
    monkeypatch.setattr(evaluate.MultitaskBert, "encode", lambda *a, **k: original(*a, **k) * math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_cli(evaluate.main, [str(run), "--predictions_dir", str(tmp_path)]) == 5
    told = capsys.readouterr()
    assert told.out == "" and "sst: expected finite outputs" in told.err
    assert contents(tmp_path) == {}
