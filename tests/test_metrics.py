"""heads/metrics.py against scikit-learn and NumPy, and where a metric is not defined."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from heads.metrics import accuracy, exact_match, f1, macro_f1, pearson, spearman

ROWS = st.shared(st.integers(0, 13), key="rows")
SEVERAL = st.tuples(st.shared(st.integers(0, 11), key="rows"), st.shared(st.integers(1, 5), key="classes"))


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-12)


@settings(max_examples=50)  # scikit-learn is slow on so few rows
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_one_class_a_row_against_scikit_learn(rows):
    predictions, gold = np.array(rows).T
    assert accuracy(predictions, gold) == close(sklearn.metrics.accuracy_score(gold, predictions))
    assert macro_f1(predictions, gold) == close(sklearn.metrics.f1_score(gold, predictions, average="macro"))
    ones = sklearn.metrics.f1_score(gold == 1, predictions == 1, zero_division=np.nan)
    assert f1(predictions, gold) == (None if np.isnan(ones) else close(ones))


@settings(max_examples=50)
@given(arrays(np.int64, SEVERAL, elements=st.integers(0, 1)), arrays(np.int64, SEVERAL, elements=st.integers(0, 1)))
def test_several_classes_a_row_against_scikit_learn(predictions, gold):
    there = np.flatnonzero((predictions + gold).any(axis=0))  # classes that nobody names do not count
    if len(there) == 0:
        assert f1(predictions, gold) is macro_f1(predictions, gold) is None
        return
    assert f1(predictions, gold) == close(sklearn.metrics.f1_score(gold.ravel(), predictions.ravel()))
    each = [sklearn.metrics.f1_score(gold[:, c], predictions[:, c]) for c in there]
    assert macro_f1(predictions, gold) == close(np.mean(each))


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of theirs."""
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5)), min_size=2, max_size=40))
def test_correlations_against_numpy(rows):
    predictions, gold = np.array(rows).T / 100
    if len(set(predictions)) == 1 or len(set(gold)) == 1:
        assert pearson(predictions, gold) is spearman(predictions, gold) is None
    else:
        assert pearson(predictions, gold) == pytest.approx(np.corrcoef(predictions, gold)[0, 1], abs=1e-9)
        expected = np.corrcoef(ranks(predictions), ranks(gold))[0, 1]
        assert spearman(predictions, gold) == pytest.approx(expected, abs=1e-9)


@given(arrays(np.float32, ROWS, elements=st.floats(0, 5, width=32)), arrays(np.int64, ROWS, elements=st.integers(0, 5)))
def test_a_metric_of_scores_is_in_its_range_or_none(predictions, gold):
    """Never NaN, and never a warning, however small the differences."""
    for metric, low in ((pearson, -1), (spearman, -1), (exact_match, 0)):
        value = metric(predictions, gold)
        assert value is None or low <= value <= 1


def test_exact_match_rounds_halves_up():
    predictions = np.array([0.5, 1.5, 2.5, 2.4, 4.6, 0.49999997, 1.2], dtype=np.float32)
    gold = np.array([1.0, 2.0, 2.5, 2.49, 5.0, 0.0, 2.0])
    assert exact_match(predictions, gold) == 6 / 7  # all but the last
    assert exact_match(np.array([0.49999997, 2.5], dtype=np.float32), np.array([1.0, 2.0])) == 0
