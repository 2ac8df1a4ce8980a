"""A task's predictions for people to read: the mistakes one by one, and a page that sums them up.

Letters: B rows, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise
from unicodedata import combining, east_asian_width

import numpy as np
from torch import Tensor

from data.reader import Example
from data.table import csv_writer
from data.tasks import NONE, Task
from heads.kinds import KINDS
from heads.metrics import calibration

WIDTH = 80  # of a page, in columns of a terminal
short = "{:.5g}".format


def mistakes(task: Task, examples: Sequence[Example], y: Tensor) -> str:
    """A table with tabs, quoted as in csv, of all rows: the worst first, those without a label last.

    Columns: error, as the kind defines it, and gold, both empty without a label; prediction; confidence: the
    prediction's probability (for several labels their product, for a score empty); id; the texts as in the file.
    """
    kind, lines = KINDS[task.kind](task), []
    rows, gold = kind.gold([example.label for example in examples])
    errors = dict(zip(rows, kind.errors(y[rows], gold), strict=True))
    golds = dict(zip(rows, words(task, kind.names(gold)), strict=True))
    predicted = words(task, kind.names(kind.predict(y)))
    confidences = [short(c.prod()) for c in kind.confidence(y)] if task.classes else [""] * len(predicted)
    table = csv_writer(lines.append, "\t")
    table.writerow(["error", "gold", "prediction", "confidence", "id", *("text_a", "text_b")[: len(task.texts)]])
    for row in sorted(range(len(examples)), key=lambda row: -errors.get(row, -1)):  # equal errors in the file's order
        error = short(errors[row]) if row in errors else ""
        cells = error, golds.get(row, ""), predicted[row], confidences[row]
        table.writerow([*cells, examples[row].id, *examples[row].texts])
    return "".join(lines)


def words(task: Task, values: Sequence) -> list:
    """The values of `Kind.names` as people read them: numbers rounded, several classes as one text, or (none)."""
    if task.several:
        return [task.separator.join(map(str, value)) or NONE for value in values]
    return [short(value) if task.range else value for value in values]


def page(task: Task, labels: Sequence, y: Tensor) -> str:
    """A page on the rows with a label: which classes are taken for which, or how the error depends on the score; and
    how well the probabilities agree with the accuracy."""
    kind = KINDS[task.kind](task)
    rows, gold = kind.gold(labels)
    predictions, lines = kind.predict(y[rows]), [f"{task.name}: {len(rows)} rows with a label"]
    if rows:
        lines += {"one": confusion, "several": by_class, "number": by_fifth}[kind.label_form](task, predictions, gold)
    if rows and task.classes:
        error, bins = calibration(kind.confidence(y[rows]), predictions == gold)
        table = [["confidence", "decisions" if task.several else "rows", "mean confidence", "accuracy"]]
        for low, high, share, *means in bins:
            table.append([f"{low:.1f} to {high:.1f}", f"{share:.1%}", *map("{:.3f}".format, means)])
        lines += [*aligned(table), "  confidence: the probability of what is predicted, ideally equal to accuracy"]
        lines += [f"  expected calibration error {error:.3f}: by how much they differ on average"]
    return "\n".join(lines)


def confusion(task: Task, predictions: np.ndarray, gold: np.ndarray) -> list[str]:
    """A matrix with a column for each predicted class; if too wide, `by_class` and the ten most frequent mix-ups."""
    size, names = len(task.classes), [str(name) for name in task.classes]
    one_hot, first = np.eye(size, dtype=int), 24 if size < 4 else 12
    counts = one_hot[gold].T @ one_hot[predictions]
    room = (WIDTH - 2 - first - 8) // size - 2  # for a name, after the first and the last column
    if room < 5:
        wrong = counts * (1 - one_hot)
        pairs = sorted(zip(*wrong.nonzero(), strict=True), key=lambda pair: -wrong[pair])[:10]
        mixed = [(cut(names[g], 30), cut(names[p], 30), wrong[g, p]) for g, p in pairs]
        classes = by_class(task, one_hot[predictions], one_hot[gold])
        return [*classes, *aligned([("gold", "taken for", "rows"), *mixed], left=2)]
    recalls = map(ratio, counts.diagonal(), counts.sum(axis=1))
    precisions = map(ratio, counts.diagonal(), counts.sum(axis=0))
    rows = [(cut(name, first), *row, recall) for name, row, recall in zip(names, counts, recalls, strict=True)]
    header = ("", *(cut(name, room) for name in names), "recall")
    return ["  rows: gold label; columns: predicted label", *aligned([header, *rows, ("precision", *precisions, "")])]


def by_class(task: Task, predictions: np.ndarray, gold: np.ndarray) -> list[str]:
    """For each class, how many rows have it in gold, as prediction, and as both; and F1. Arrays: (B, K) of 0 and 1."""
    names, both = [cut(str(name), 30) for name in task.classes], (predictions * gold).sum(axis=0)
    counts = gold.sum(axis=0), predictions.sum(axis=0), both
    f1s = map(ratio, 2 * both, (gold + predictions).sum(axis=0))
    return aligned([("class", "gold", "predicted", "both", "F1"), *zip(names, *counts, f1s, strict=True)])


def by_fifth(task: Task, predictions: np.ndarray, gold: np.ndarray) -> list[str]:
    """Mean absolute error and mean prediction for gold in each fifth of the range, and over all rows."""
    edges, errors = np.linspace(*task.range, 6), abs(predictions - gold)
    fifth = np.searchsorted(edges[1:-1], gold, side="right")
    parts = [(f"{low:.6g} to {high:.6g}", fifth == n) for n, (low, high) in enumerate(pairwise(edges))]
    table = [("gold", "rows", "mean abs. error", "mean prediction")]
    for part, rows in (*parts, ("all", fifth >= 0)):
        count = rows.sum()
        table.append((part, count, ratio(errors[rows].sum(), count), ratio(predictions[rows].sum(), count)))
    return aligned(table)


def ratio(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def columns(text: str) -> int:
    """A text's width on a terminal: 2 for a wide letter, such as a Chinese one, 0 for a combining accent, else 1."""
    return sum(1 + (east_asian_width(letter) in "WF") - (combining(letter) > 0) for letter in text)


def cut(name: str, room: int) -> str:
    """A name on one line, abbreviated where it is too wide."""
    name = " ".join(name.split())
    while columns(name) > room:
        name = name.removesuffix(".")[:-1] + "."
    return name


def aligned(rows: Sequence[Sequence], left: int = 1) -> list[str]:
    """An empty line, then rows of cells as lines: the first `left` columns left-aligned, the others right-aligned."""
    padded = []
    for n, column in enumerate(zip(*rows, strict=True)):
        width = max(columns(str(cell)) for cell in column)
        gaps = [" " * (width - columns(str(cell))) for cell in column]
        padded.append([f"{cell}{gap}" if n < left else f"{gap}{cell}" for cell, gap in zip(column, gaps, strict=True)])
    return ["", *("  " + "  ".join(row).rstrip() for row in zip(*padded, strict=True))]
