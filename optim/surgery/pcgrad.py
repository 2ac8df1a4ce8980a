"""PCGrad (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1).

Each task's gradient loses its projection on every other one that it is in conflict with, these taken in random order;
the results are added up. Letters: T tasks, P parameters; J the (T, P) Jacobian, one task's gradient a row.

    g_i <- g_i - (g_i . g_j / |g_j|^2) g_j    where g_i . g_j < 0, g_j the original gradient of task j

With g_i = c @ J and the Gramian G = J @ J.T this is  c_j <- c_j - c @ G[:, j] / G[j, j]  where c @ G[:, j] < 0.
As printed there, and other than in much public code: the order is drawn anew for each task, and is kept; no task is
projected on itself; the result is the sum over tasks, neither their mean nor T times it.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian, gramian


class PCGrad(Surgery):
    """The weights are each >= 1. A task whose gradient is zero projects nothing and is not projected."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        combinations = torch.eye(len(products), dtype=torch.float64)  # c of each task's projected gradient, a row each
        for i, c in enumerate(combinations):  # c is a view: its row changes in place
            for j in torch.randperm(len(products), generator=generator).tolist():
                dot = c @ products[:, j]
                if j != i and dot < 0 and products[j, j] > 0:
                    c[j] -= dot / products[j, j]
        return combinations.sum(0)


def pcgrad_weights(gramian: Tensor, generator: Generator | None = None) -> Tensor:
    """w with PCGrad(J) = w @ J, (T,) float64 on the CPU. gramian: (T, T), J @ J.T; ValueError where not finite."""
    return PCGrad().weights(gramian, generator)


def pcgrad(jacobian: Tensor, generator: Generator | None = None) -> Tensor:
    """The sum of the projected task gradients. (T, P) -> (P,), in J's type and on its device, under autocast too."""
    weights = pcgrad_weights(gramian(jacobian), generator)
    with torch.autocast(jacobian.device.type, enabled=False):
        return weights.to(jacobian) @ jacobian
