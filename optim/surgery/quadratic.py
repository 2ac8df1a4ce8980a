"""The small quadratic problems that several methods solve, exactly, by non-negative least squares (Lawson and Hanson
1974, scipy's). A stands for any matrix with A.T @ A = G, the Gramian of T task gradients: its columns take the place of
the gradients, with T numbers each and the same products."""

import numpy as np
from numpy import ndarray
from scipy.optimize import nnls

ITERATIONS = 1000  # at most; scipy's own limit, three a task, is too low for a few Gramians of eight tasks and more


def factor(gramian: ndarray) -> ndarray:
    """A (T, T) with A.T @ A = G, by the cosines' eigenvectors, so that a short gradient is as exact as a long one.

    Eigenvalues that rounding has made negative count as zero.
    """
    norms = np.sqrt(gramian.diagonal())
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    values, vectors = np.linalg.eigh(gramian * inverse * inverse[:, None])
    return np.sqrt(values.clip(min=0))[:, None] * vectors.T * norms


def shortest_mean(points: ndarray) -> ndarray:
    """argmin |points @ v| over v >= 0 with sum 1: the point of the columns' convex hull that is nearest to the origin.

    For v = s u, with the sum s, |points v|^2 + (sum v - 1)^2 = s^2 |points u|^2 + (s - 1)^2: whatever s is, the same u
    is best. So this is non-negative least squares with a row of ones below the points, and a 1 to be met there.
    """
    size = np.abs(points).max() or 1.0  # else the row of ones could be far too small or too large
    with_ones, target = np.vstack([points / size, np.ones(points.shape[1])]), np.append(np.zeros(len(points)), 1)
    v, _ = nnls(with_ones, target, maxiter=ITERATIONS)
    return v / v.sum()


def shortest_above(points: ndarray, low: ndarray) -> ndarray:
    """argmin |points @ v| over v >= low, (T,)"""
    x, _ = nnls(points, -points @ low, maxiter=ITERATIONS)
    return low + x
