"""PCGrad (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1), and its mean over all orders.

Each task's gradient loses its projection on every other one that it is in conflict with, in random order; the results
are added up. Letters: T tasks, P parameters; J the (T, P) Jacobian, one task's gradient a row.

    g_i <- g_i - (g_i . g_j / |g_j|^2) g_j    where g_i . g_j < 0, g_j the original gradient of task j

With g_i = c @ J, where at first c is 1 for task i and 0 for the others, and with the Gramian G = J @ J.T, this is

    c_j <- c_j - c @ G[:, j] / G[j, j]        where c @ G[:, j] < 0

As in the paper, and unlike much public code: the order is drawn anew for each task, and is kept; no task is projected
on itself; the result is the sum over tasks, neither their mean nor T times it.
"""

from collections.abc import Iterable
from itertools import permutations

import numpy as np
import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian, gramian


def projected(products: np.ndarray, i: int, order: Iterable[int]) -> np.ndarray:
    """c of task i's gradient, projected on the others in this order. products: G (T, T) -> (T,)"""
    c = np.zeros(len(products))
    c[i] = 1
    for j in order:
        dot = c @ products[:, j]
        if j != i and dot < 0 and products[j, j] > 0:
            c[j] -= dot / products[j, j]
    return c


class PCGrad(Surgery):
    """The weights are each >= 1, for a projection adds to them. A task whose gradient is zero projects nothing and is
    not projected."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products, tasks = check_gramian(gramian).numpy(), range(len(gramian))
        orders = (torch.randperm(len(tasks), generator=generator).tolist() for _ in tasks)
        return torch.from_numpy(sum(projected(products, i, order) for i, order in enumerate(orders)))


class PCGradMean(Surgery):
    """PCGrad's expectation: the mean over all orders, or over `draws` of them where there are more than 5 tasks.

    With 5 tasks or fewer it draws nothing, and its update does not depend on the order in which tasks are named.
    """

    def __init__(self, draws: int = 100):
        if not draws >= 1:
            raise ValueError(f"draws: expected 1 or more; found {draws}")
        self.draws = draws

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products, tasks = check_gramian(gramian).numpy(), range(len(gramian))
        total = np.zeros(len(products))
        for i in tasks:
            orders = permutations([j for j in tasks if j != i])
            if len(tasks) > 5:
                orders = (torch.randperm(len(tasks), generator=generator).tolist() for _ in range(self.draws))
            total += np.mean([projected(products, i, order) for order in orders], axis=0)
        return torch.from_numpy(total)


def pcgrad_weights(gramian: Tensor, generator: Generator | None = None) -> Tensor:
    """w with PCGrad(J) = w @ J, (T,) float64 on the CPU. gramian: (T, T), J @ J.T; ValueError where not finite."""
    return PCGrad().weights(gramian, generator)


def pcgrad(jacobian: Tensor, generator: Generator | None = None) -> Tensor:
    """The sum of the projected task gradients. (T, P) -> (P,), in J's type and on its device, under autocast too."""
    weights = pcgrad_weights(gramian(jacobian), generator)
    with torch.autocast(jacobian.device.type, enabled=False):
        return weights.to(jacobian) @ jacobian
