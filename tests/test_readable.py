"""heads/readable.py: mistakes as csv reads them back, and the pages of every kind; calibration in closed form."""

import csv
import io

import numpy as np
import pytest
import torch
from every_kind import EVERY, LABELS, task_of
from hypothesis import given
from hypothesis import strategies as st

from data.reader import Example
from heads.metrics import calibration
from heads.readable import mistakes, page

Y = {  # of four rows, whose labels are LABELS, and none
    "classes": [[0.0, 0.0, 3.0], [0.0, 3.0, 0.0], [0.0, 1.0, 1.5], [9.0, 0.0, 0.0]],
    "binary": [0.75, 0.625, 0.125, 0.5],
    "score": [0.25, 4.5, 99.0, -1.0],
    "labels": [[0.75, 0.5, 0.0, 0.0, 0.75], [0.25] * 5, [0.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 5],
}
e = np.exp
ROWS = {  # error, gold, prediction, confidence, row: the worst first, then what has no label
    "classes": [
        (1 - 1 / (2 + e(3)), "no", "maybe", e(3) / (2 + e(3)), 1),
        (1 - e(1) / (1 + e(1) + e(1.5)), "maybe", "yes", e(1.5) / (1 + e(1) + e(1.5)), 2),
        (1 - e(3) / (2 + e(3)), "yes", "yes", e(3) / (2 + e(3)), 0),
        ("", "", "no", e(9) / (2 + e(9)), 3),
    ],
    "binary": [
        (0.875, "spam", "ham", 0.875, 2),
        (0.625, "ham", "spam", 0.625, 1),
        (0.25, "spam", "spam", 0.75, 0),
        ("", "", "spam", 0.5, 3),
    ],
    "score": [
        (6.25, "2.75", "9", "", 2),
        (0.5, "5", "4.5", "", 1),
        (0.25, "0", "0.25", "", 0),
        ("", "", "-1", "", 3),
    ],
    "labels": [
        (3, "red;blue", "red;green;pink", 0.75 * 0.5 * 0.75, 0),
        (0, "(none)", "(none)", 0.75**5, 1),
        (0, "green", "green", 1, 2),
        ("", "", "(none)", 1, 3),
    ],
}
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))


def read_back(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))


def labels_of(task) -> list:
    return [*LABELS[task.kind], None]


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)
def test_mistakes_of_every_kind(task):
    """The worst first, in words; no label, no error."""
    sides = len(task.texts)
    examples = [Example(f"id {n}", (f"a {n}", f"b {n}")[:sides], label, n) for n, label in enumerate(labels_of(task))]
    header, *rows = read_back(mistakes(task, examples, torch.tensor(Y[task.kind])))
    assert header == ["error", "gold", "prediction", "confidence", "id", *("text_a", "text_b")[:sides]]
    for found, (error, gold, prediction, confidence, row) in zip(rows, ROWS[task.kind], strict=True):
        assert found[1:3] == [gold, prediction] and found[4:] == [examples[row].id, *examples[row].texts]
        for cell, number in zip((found[0], found[3]), (error, confidence), strict=True):
            assert cell == number == "" or float(cell) == pytest.approx(number, rel=1e-4)


@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_whatever_stands_in_a_text_is_read_back(texts):
    """Tabs, quotes, new lines of any system."""
    task = task_of("binary", 2)
    examples = [Example(str(row), pair, None, row) for row, pair in enumerate([*texts, ('\t"\r', "\r\nx\n")])]
    text = mistakes(task, examples, torch.full((len(examples),), 0.5))
    assert [tuple(row[-2:]) for row in read_back(text)[1:]] == [example.texts for example in examples]


def test_expected_calibration_error():
    """Two bins: (0.5, 1] has confidences 0.6 and 1, of which one is right; 0.5 belongs to the lower one."""
    error, bins = calibration(np.array([[0.5, 0.6], [0.25, 1.0]]), np.array([[True, False], [True, True]]), bins=2)
    assert bins == [(0, 0.5, 0.5, 0.375, 1), (0.5, 1, 0.5, 0.8, 0.5)]
    assert error == pytest.approx(0.5 * (1 - 0.375) + 0.5 * (0.8 - 0.5), rel=1e-12)
    draw = np.random.default_rng(0)
    confidence = draw.uniform(size=100_003)
    assert calibration(confidence, draw.uniform(size=100_003) < confidence)[0] < 0.01  # honest, up to chance
    assert [row[0] for row in calibration(np.array([0.0, 1.0]), np.array([True, True]))[1]] == [0, 0.8]


CALIBRATION = """\
  confidence: the probability of what is predicted, ideally equal to accuracy
  expected calibration error"""
PAGES = {
    "classes": f"""\
classes-1: 3 rows with a label
  rows: gold label; columns: predicted label

             no  maybe    yes  recall
  no          0      1      0   0.000
  maybe       0      0      1   0.000
  yes         0      0      1   1.000
  precision   -  0.000  0.500

  confidence   rows  mean confidence  accuracy
  0.4 to 0.6  33.3%            0.547     0.000
  0.8 to 1.0  66.7%            0.909     0.500
{CALIBRATION} 0.455: by how much they differ on average""",
    "score": """\
score-1: 3 rows with a label

  gold     rows  mean abs. error  mean prediction
  -1 to 1     1            0.250            0.250
  1 to 3      1            6.250            9.000
  3 to 5      0                -                -
  5 to 7      1            0.500            4.500
  7 to 9      0                -                -
  all         3            2.333            4.583""",
    "labels": f"""\
labels-1: 3 rows with a label

  class  gold  predicted  both     F1
  red       1          1     1  1.000
  green     1          2     1  0.667
  blue      1          0     0  0.000
  grey      0          0     0      -
  pink      0          1     0  0.000

  confidence  decisions  mean confidence  accuracy
  0.4 to 0.6       6.7%            0.500     0.000
  0.6 to 0.8      46.7%            0.750     0.857
  0.8 to 1.0      46.7%            1.000     0.857
{CALIBRATION} 0.150: by how much they differ on average""",
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_of_every_kind(kind):
    assert page(task_of(kind, 1), labels_of(task_of(kind, 1)), torch.tensor(Y[kind])) == PAGES[kind]
    assert page(task_of(kind, 1), [None] * 4, torch.tensor(Y[kind])) == f"{kind}-1: 0 rows with a label"


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 9, 40])
def test_a_page_fits_a_terminal(size):
    """Long names, and letters of two columns; from nine classes on the worst mix-ups stand for the matrix."""
    classes = tuple(f"{'a rather long name of a class' if n % 2 else '日本' * 9} {n}" for n in range(size))
    task, gold, said = task_of("classes", 1, classes=classes), np.arange(997) % size, np.arange(997) // 2 % size
    lines = page(task, gold.tolist(), torch.eye(size)[said]).splitlines()
    widths = [len(line) + sum(map(line.count, "日本")) for line in lines]
    assert max(widths) <= 80 and any(line.startswith("  gold ") for line in lines) == (size > 8)
    if size <= 8:
        assert len(set(widths[3 : 4 + size])) == 1
        matrix = [line.split()[-size - 1 : -1] for line in lines[4 : 4 + size]]
        expected = [[sum((gold == row) & (said == column)) for column in range(size)] for row in range(size)]
        assert np.array(matrix, dtype=int).tolist() == expected
