"""UPGrad and DualProj (Quinton and Rey 2024, "Jacobian Descent for Multi-Objective Optimization", sections 3, 6).

Both project on the dual cone of the gradients, the updates whose step raises no task's loss. UPGrad projects each
task's gradient and takes the mean; DualProj projects the mean gradient, as GEM does (Lopez-Paz and Ranzato 2017).

    UPGrad    w = mean over i of argmin { v G' v : v >= e_i }
    DualProj  w = argmin { v G' v : v >= 1 / T }

with G' = G / tr G + 1e-4 I, as in the authors' program, so that v is unique even where gradients depend on each other.
For a gradient shorter than about a hundredth of the longest that ridge decides: a step may raise its task's loss.
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
    """The weights are >= 1 / T. Without conflict they are 1 / T: the mean gradient."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        gradients = regularized(gramian)
        projected = [shortest_above(gradients, unit) for unit in np.eye(len(gradients))]
        return torch.from_numpy(np.mean(projected, axis=0))


class DualProj(Surgery):
    """The weights are >= 1 / T. Without conflict they are 1 / T: the mean gradient."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        gradients = regularized(gramian)
        return torch.from_numpy(shortest_above(gradients, np.full(len(gradients), 1 / len(gradients))))
