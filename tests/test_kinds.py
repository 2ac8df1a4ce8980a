"""heads/kinds.py: from labels to losses, predictions and metrics, against torch's own and closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every_kind import EVERY, LABELS, task_of
from hypothesis import assume, given
from hypothesis import strategies as st
from small_bert import assert_same
from torch import Tensor

from heads.kinds import KINDS
from heads.losses import LossSettings

B = 11
CELLS = {  # labels as they stand in a file, each of them what the model should say
    "classes": ["maybe", "yes", "no", "yes"],
    "binary": ["spam", "ham", "ham", "spam"],
    "score": [-1.0, 9.0, 3.5, 0.5],
    "labels": [["red", "pink"], [], ["blue"], ["green"]],
}
each_task = pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)


def certain(task, labels: list) -> Tensor:
    """What a head must compute for the model to be sure of these labels: (N, width) float64"""
    if task.kind == "score":  # low + 2 z, and single texts start from z = 2.5
        return torch.tensor(labels, dtype=torch.float64)[:, None] / 2 + (0.5 if task.sequences == 2 else -2)
    gold = torch.zeros(len(labels), len(task.classes), dtype=torch.float64)
    for row, label in enumerate(labels):
        gold[row, list(np.atleast_1d(np.array(label, dtype=int)))] = 1
    return 80 * (gold[:, 1:] if task.kind == "binary" else gold) - 40


def rows(task, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random f (B, width) float64, and labels' targets."""
    kind, draws = KINDS[task.kind](task), torch.Generator().manual_seed(seed)
    labels = [LABELS[task.kind][row % 3] for row in range(B)]
    return torch.randn(B, kind.width(), dtype=torch.float64, generator=draws), kind.target(labels)


@each_task
def test_who_is_certain_says_the_labels_and_has_no_loss(task):
    """Through everything that a kind does: parse, target, output, loss, predict, metrics, names."""
    kind, cells = KINDS[task.kind](task), CELLS[task.kind]
    labels = [task.parse(cell) for cell in cells]
    f = certain(task, labels)
    assert f.shape == (4, kind.width())
    y, gold = kind.output(f), kind.target(labels).numpy()
    predictions = kind.predict(y)
    assert np.array_equal(predictions, gold)
    assert kind.loss(y, kind.target(labels), LossSettings()).abs() < 1e-12
    for metric in kind.metrics.values():
        assert metric(predictions, gold) == pytest.approx(1, rel=1e-12)
    expected = [tuple(cell) for cell in cells] if task.several else cells
    assert list(kind.names(predictions)) == expected


@each_task
def test_losses_are_torchs(task):
    kind, (f, target), settings = KINDS[task.kind](task), rows(task), LossSettings(sts_gamma=0.3)
    y = kind.output(f)
    assert len(y) == B and target.dtype == (torch.float64 if task.kind == "score" else torch.int64)
    if task.kind == "classes":
        expected = F.cross_entropy(f, target)
    elif task.kind == "score":  # its range is twice as wide as 0 to 5
        expected = 0.3 * F.mse_loss(y / 2, target.double() / 2) + 0.7 * F.l1_loss(y / 2, target.double() / 2)
    else:
        logits = f[:, 0] if task.kind == "binary" else f
        expected = F.binary_cross_entropy_with_logits(logits, target.double())
    assert_same(kind.loss(y, target, settings), expected)


def test_probabilities():
    f = torch.tensor([[0.0, 1.0, -2.0], [3.0, 3.0, 3.0]], dtype=torch.float64)
    one, two, several = (KINDS[kind](task_of(kind, 1)) for kind in ("classes", "binary", "labels"))
    assert_same(one.probabilities(f), f.exp() / f.exp().sum(dim=1, keepdim=True))
    p = two.output(f[:, :1])
    assert_same(two.probabilities(p), torch.stack([1 / (1 + f[:, 0].exp()), p], dim=1))
    assert_same(several.probabilities(several.output(f)), 1 / (1 + (-f).exp()))


def test_a_cosine_as_a_probability_and_as_a_score():
    cos = torch.tensor([-1.0, 0.0, 1.0, 1.0000002], dtype=torch.float32)  # the last by rounding
    assert KINDS["binary"](task_of("binary", 2)).of_cosine(cos).tolist() == [0, 0.5, 1, 1]
    assert KINDS["score"](task_of("score", 2)).of_cosine(cos[:3]).tolist() == [-11, -1, 9]


@given(low=st.floats(-1e6, 1e6), high=st.floats(-1e6, 1e6), y=st.lists(st.floats(width=32, allow_nan=False)))
def test_scores_stay_in_their_range(low, high, y):
    """Also where float32 has not its ends, as 0.1: a file with such a prediction is refused."""
    assume(low < high)
    task = task_of("score", 1, range=(low, high))
    predictions = KINDS["score"](task).predict(torch.tensor(y))
    assert [task.parse(repr(float(value))) for value in predictions] == [min(max(value, low), high) for value in y]
