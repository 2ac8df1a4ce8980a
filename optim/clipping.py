"""Clipping by the common norm of all gradients (Pascanu et al. 2013), sparse ones among them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float, others: float = 0.0) -> float:
    """g <- g * min(1, max_norm / norm)  for every gradient g, with the 2-norm of all of them together.

    Parameters whose .grad is None do not count. Sparse gradients, which torch.nn.utils.clip_grad_norm_ cannot clip, are
    coalesced in place.
    Args:    others: the norm of further gradients that belong to these, and that the caller multiplies by clip_factor.
    Returns: the norm before, infinite or NaN where a gradient is; then nothing is multiplied.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm = math.hypot(torch.nn.utils.get_total_norm(values).item(), others)
    factor = clip_factor(norm, max_norm)
    if factor < 1:
        for value in values:
            value.mul_(factor)
    return norm


def clip_factor(norm: float, max_norm: float) -> float:
    """min(1, max_norm / norm); 1 where the norm is not finite"""
    return max_norm / norm if max_norm < norm < math.inf else 1.0
