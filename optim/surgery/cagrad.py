"""CAGrad (Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning", algorithm 1).

Of all directions within c |m| of the mean gradient m, the one that helps most the task that it helps least. Its dual,
with the hull of the task gradients, g_v = sum v_i g_i over v >= 0 with sum 1:

    v = argmin g_v . m + c |m| |g_v|        w = 1 / T + c |m| v / |g_v|
"""

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian
from optim.surgery.quadratic import factor, shortest_mean


class CAGrad(Surgery):
    """c: in [0, 1), how far from the mean gradient (c = 0 is that itself); 0.5 in the paper. The weights are >= 1 / T.

    A gradient of zero has no part in the dual: no direction helps that task. Where a convex sum of the others is zero,
    and best in the dual, no direction helps all of these: the mean gradient is taken.
    The dual is quadratic except for its norm, |g_v| = min over s > 0 of (|g_v|^2 / s + s) / 2. With a fixed s
    its solution is the shortest mean of the gradients moved by s m / (c |m|); the right s is |g_v| itself.
    """

    def __init__(self, c: float = 0.5):
        if not 0 <= c < 1:
            raise ValueError(f"c: expected a number in [0, 1); found {c}")
        self.c = c

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        gradients = factor(check_gramian(gramian).numpy())  # as columns
        weights, mean = np.full(len(gradients), 1 / len(gradients)), gradients.mean(axis=1)
        norms, radius = np.linalg.norm(gradients, axis=0), self.c * np.linalg.norm(mean)
        if not radius:
            return torch.from_numpy(weights)
        given, largest = norms > 0, norms.max()
        gradients, norms = gradients[:, given], norms[given]

        def dual(s: float) -> np.ndarray:
            return shortest_mean(gradients + s / radius * mean[:, None])

        def excess(s: float) -> float:
            return np.linalg.norm(gradients @ dual(s)) - s

        v, low = dual(0), 0.0
        if np.linalg.norm(gradients @ v) <= 1e-7 * (v @ norms):  # zero, so that s = 0 is a root, if not the right one
            low = 1e-6 * (v @ norms)
        if excess(low) > 0:
            v = dual(brentq(excess, low, 2 * largest, xtol=1e-15 * largest, rtol=1e-15, maxiter=1000, disp=False))
        norm = np.linalg.norm(gradients @ v)
        if norm > 1e-7 * (v @ norms):  # else they cancel, and what is left of them is rounding
            weights[given] += radius / norm * v
        return torch.from_numpy(weights)
