"""Metrics of predictions against gold labels, pure functions of two arrays; None where a metric is not defined.

Letters: N rows, K classes. Arrays are (N,), or for several labels a row (N, K) of 0 and 1.
"""

import numpy as np
from scipy.stats import pearsonr, spearmanr


def accuracy(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """Share of rows that agree; None for no rows."""
    return float(np.mean(predictions == gold)) if len(gold) else None


def f1(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """2 TP / (2 TP + FP + FN) over all elements, where 1 is positive; None where no gold or prediction is 1."""
    hits = np.sum((predictions == 1) & (gold == 1))
    positives = np.sum(predictions == 1) + np.sum(gold == 1)
    return float(2 * hits / positives) if positives else None


def macro_f1(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """The plain mean of the classes' F1, over the classes that occur in gold or predictions; None for none."""
    if np.ndim(gold) == 2:
        values = [f1(predictions[:, c], gold[:, c]) for c in range(gold.shape[1])]
    else:
        values = [f1(predictions == c, gold == c) for c in np.union1d(predictions, gold)]
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def pearson(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """Pearson's r; None where either side is constant."""
    predictions, gold = predictions.astype(np.float64), gold.astype(np.float64)
    return None if constant(predictions, gold) else float(pearsonr(predictions, gold).statistic)


def spearman(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """Spearman's rho, Pearson's r of the ranks; None where either side is constant."""
    return None if constant(predictions, gold) else float(spearmanr(predictions, gold).statistic)


def constant(predictions: np.ndarray, gold: np.ndarray) -> bool:
    return len(gold) < 2 or np.ptp(predictions) == 0 or np.ptp(gold) == 0


def exact_match(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """EM: share of rows where prediction and gold, each rounded to the nearest integer (halves up), agree."""
    predictions = predictions.astype(np.float64)  # in float32, 0.49999997 + 0.5 would be 1
    return accuracy(np.floor(predictions + 0.5), np.floor(gold + 0.5))


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 5) -> tuple[float, list[tuple[float, ...]]]:
    """The expected calibration error (Guo et al. 2017, equation 3), the sum over bins of share |confidence - accuracy|;
    and for each bin that is not empty: low, high, share of all elements, mean confidence, accuracy. Bins are equally
    wide and include their upper end.

    Args: (N,) or (N, K), at least one element: the prediction's probability, and whether the prediction is right.
    """
    bin_of = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1)
    rows = []
    for n in range(bins):
        inside = bin_of == n
        if inside.any():
            rows.append((n / bins, (n + 1) / bins, inside.mean(), confidence[inside].mean(), right[inside].mean()))
    return float(sum(share * abs(mean - acc) for _, _, share, mean, acc in rows)), rows
