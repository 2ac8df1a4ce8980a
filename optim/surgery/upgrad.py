"""UPGrad and DualProj (Quinton and Rey 2024, "Jacobian Descent for Multi-Objective Optimization", sections 3, 6).

Both project on the directions against which no task's loss rises, the dual cone of the gradients: UPGrad each task's
gradient, then takes their mean; DualProj, which is GEM's way (Lopez-Paz and Ranzato 2017), the mean gradient alone.

    UPGrad    w = mean over i of argmin { v G' v : v >= e_i }
    DualProj  w = argmin { v G' v : v >= 1 / T }

with G' = G / tr G + 1e-4 I, as the authors have it, so that v is one even where gradients depend on each other.
"""

import numpy as np
import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian
from optim.surgery.quadratic import factor, shortest_above

RIDGE = 1e-4


def regularized(gramian: Tensor) -> np.ndarray:
    """A (T, T) with A.T @ A = G'."""
    products = check_gramian(gramian).numpy()
    return factor(products / (np.trace(products) or 1.0) + RIDGE * np.eye(len(products)))


class UPGrad(Surgery):
    """Without conflict the mean gradient: weights of 1 / T. They are never less."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        gradients = regularized(gramian)
        projected = [shortest_above(gradients, unit) for unit in np.eye(len(gradients))]
        return torch.from_numpy(np.mean(projected, axis=0))


class DualProj(Surgery):
    """Without conflict the mean gradient: weights of 1 / T. They are never less."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        gradients = regularized(gramian)
        return torch.from_numpy(shortest_above(gradients, np.full(len(gradients), 1 / len(gradients))))
