"""PCGrad, gradient surgery, found from the Gramian alone (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning").

Letters: T tasks, P parameters; J the (T, P) Jacobian, one task's gradient a row.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

SPAN = 512  # columns of J


def gramian(jacobian: Tensor) -> Tensor:
    """J @ J.T in one pass over J. (T, P) -> (T, T) float64

    The products of SPAN columns are summed in float32 (float64 where J is in it), these sums in float64. That spares a
    float64 copy of J; the error, some 1e-7 of |g_i| |g_j| for one span, is 1e-9 for the many spans of a model.
    """
    wide = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))
    spans, left_over = wide.shape[1] // SPAN, wide.shape[1] % SPAN
    blocks = wide[:, : spans * SPAN].unflatten(1, (spans, SPAN)).transpose(0, 1)  # (P // SPAN, T, SPAN)
    rest = wide[:, wide.shape[1] - left_over :].double()  # (T, P % SPAN)
    with torch.autocast(jacobian.device.type, enabled=False):
        return (blocks @ blocks.mT).sum(0, dtype=torch.float64) + rest @ rest.mT


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
    products = gramian.detach().double().cpu()
    coefficients = torch.eye(len(products), dtype=torch.float64)  # c of each task's projected gradient, a row each
    for i, projected in enumerate(coefficients):
        for j in torch.randperm(len(products), generator=generator).tolist():
            dot = projected @ products[:, j]
            if j != i and dot < 0 and products[j, j] > 0:
                projected[j] -= dot / products[j, j]
    return coefficients.sum(0)


def combined_norm(weights: Tensor, gramian: Tensor) -> float:
    """|w @ J| from the Gramian alone:  |w J|^2 = w G w.  weights: (T,), gramian: (T, T), both float64"""
    return (weights @ gramian @ weights).clamp(min=0).sqrt().item()  # what cancels may round to less than 0


def pcgrad(jacobian: Tensor, generator: Generator | None = None) -> Tensor:
    """The sum of the projected task gradients. (T, P) -> (P,), in J's type and on its device, under autocast too."""
    weights = pcgrad_weights(gramian(jacobian), generator)
    with torch.autocast(jacobian.device.type, enabled=False):
        return weights.to(jacobian) @ jacobian


def cosines(gramian: Tensor) -> Tensor:
    """The cosine of each pair of task gradients, (T, T) -> (T, T) in [-1, 1]; NaN where a gradient is zero."""
    norms = gramian.diagonal().sqrt()
    return (gramian / (norms[:, None] * norms)).clamp(-1, 1)
