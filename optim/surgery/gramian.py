"""The Gramian of the task gradients, what is computed from it, and Surgery, the interface of all methods.

Letters: T tasks, P parameters; J the (T, P) Jacobian, one task's gradient a row; G = J @ J.T the Gramian.
"""

import torch
from torch import Generator, Tensor

from optim.memory import Memory

# Gradients are in float32. So of a Gramian's eigenvalues those that are not above T times this share of the largest are
# rounding errors, of gradients that depend on each other, and count as zero.
ROUNDING = torch.finfo(torch.float32).eps


class Surgery(Memory):
    """The base of all methods: weights w of the task gradients, computed from their Gramian; the update is w @ J."""

    losses: Tensor | None = None  # of the step, (T,), weighed like their gradients; set by clip_and_combine

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        """gramian: (T, T) float64, finite; generator: a CPU generator, None for torch's own -> (T,) float64, CPU"""
        raise NotImplementedError


def gramian(jacobian: Tensor) -> Tensor:
    """J @ J.T in one pass over J. (T, P) -> (T, T) float64

    The products of a span of columns are summed in float32 (float64 where J is in it), these sums in float64. That
    spares a float64 copy of J; the error, some 1e-7 of |g_i| |g_j| for one span, is 1e-9 for the many spans of a model.
    That is for elements of 1e-19 to 1e17, whose squares float32 can hold.
    """
    wide = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))
    span = 512 if wide.is_cpu else 8192  # columns of J; a GPU takes up to 65,535 products together
    spans = wide.shape[1] // span
    blocks = wide[:, : spans * span].unflatten(1, (spans, span)).transpose(0, 1)  # (P // span, T, span)
    rest = wide[:, spans * span :].double()  # (T, P % span)
    with torch.autocast(jacobian.device.type, enabled=False):
        return (blocks @ blocks.mT).sum(0, dtype=torch.float64) + rest @ rest.mT


def check_gramian(gramian: Tensor) -> Tensor:
    """G in float64 on the CPU. Raises ValueError where it is not (T, T) or not finite."""
    if gramian.dim() != 2 or gramian.shape[0] != gramian.shape[1]:
        raise ValueError(f"gramian: expected (T, T); found {tuple(gramian.shape)}")
    if not gramian.isfinite().all():
        raise ValueError("gramian: expected finite numbers; found an infinite or undefined one; skip this step")
    return gramian.detach().double().cpu()


def cosines(gramian: Tensor) -> Tensor:
    """The cosine of each pair of task gradients, (T, T) -> (T, T) in [-1, 1]; NaN where a gradient is zero."""
    norms = gramian.diagonal().sqrt()
    norms = norms.where(norms > 0, torch.nan)  # its products with the others need not have underflowed, too
    return (gramian / (norms[:, None] * norms)).clamp(-1, 1)


def combined_norm(weights: Tensor, gramian: Tensor) -> float:
    """|w @ J| from the Gramian alone:  |w J|^2 = w G w.  weights: (T,), gramian: (T, T), both float64

    It is off by some 1e-5 of the sum of |w_i g_i|, for that is the root of the Gramian's rounding errors.
    """
    return (weights @ gramian @ weights).clamp(min=0).sqrt().item()  # rounding can make it negative
