"""PCGrad, gradient surgery, found from the Gramian alone (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning").

Letters: T tasks, P parameters; J the (T, P) Jacobian, one task's gradient a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

COLUMNS = 384 * 384  # of J turned into float64 at a time: the copy stays in the processor's cache


def gramian(rows: Tensor | Sequence[Tensor]) -> Tensor:
    """J @ J.T, summed in float64 whatever J's type. J as (T, P) or as its T rows of (P,) -> (T, T) float64."""
    device, columns = rows[0].device, rows[0].shape[0]
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=device)
    exact = torch.empty(len(rows), min(COLUMNS, columns), dtype=torch.float64, device=device)
    for start in range(0, columns, COLUMNS):
        block = exact[:, : columns - start]  # (T, C)
        for copy, row in zip(block, rows, strict=True):
            copy.copy_(row[start : start + COLUMNS])
        total += block @ block.mT  # float64, which autocast leaves alone
    return total


def pcgrad_weights(gramian: Tensor, generator: Generator | None = None) -> Tensor:
    """Weights w with  PCGrad(J) = w @ J,  found without touching J.

    Every projected gradient is a combination c @ J of the task gradients, so c and all inner products
    (c @ J) . g_j = c @ G[:, j]  follow from the Gramian G alone.
    Args:    gramian: (T, T), J @ J.T; float64 inside. generator: a CPU generator for the order of the other tasks,
             drawn anew for each task; None = torch's global one.
    Returns: (T,) float64 on the CPU, each >= 1. A task whose gradient is zero projects nothing and is not projected.
    Raises:  ValueError where the Gramian is not square or not finite.
    Source:  Yu et al. 2020, algorithm 1. The result is the sum over tasks, as printed there, not their mean.
    """
    if gramian.dim() != 2 or gramian.shape[0] != gramian.shape[1]:
        raise ValueError(f"gramian: expected (T, T); found {tuple(gramian.shape)}")
    if not gramian.isfinite().all():
        raise ValueError("gramian: expected finite numbers; found an infinite or undefined one; skip this step")
    products = gramian.detach().double().cpu().numpy()
    tasks = len(products)
    weights = torch.zeros(tasks, dtype=torch.float64)
    for i in range(tasks):
        projected = torch.zeros(tasks, dtype=torch.float64).numpy()  # c: the coefficients of task i's gradient
        projected[i] = 1
        for j in torch.randperm(tasks, generator=generator).tolist():
            dot = projected @ products[:, j]
            if j != i and dot < 0 and products[j, j] > 0:
                projected[j] -= dot / products[j, j]
        weights += torch.from_numpy(projected)
    return weights


def pcgrad(jacobian: Tensor, generator: Generator | None = None) -> Tensor:
    """The sum of the projected task gradients. (T, P) -> (P,), in J's type and on its device, under autocast too."""
    weights = pcgrad_weights(gramian(jacobian), generator)
    with torch.autocast(jacobian.device.type, enabled=False):
        return weights.to(jacobian) @ jacobian


def cosines(gramian: Tensor) -> Tensor:
    """The cosine of each pair of task gradients, (T, T) -> (T, T) in [-1, 1]; NaN where a gradient is zero."""
    norms = gramian.diagonal().sqrt()
    return (gramian / (norms[:, None] * norms)).clamp(-1, 1)
