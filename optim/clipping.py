"""Clipping by the common norm of all gradients (Pascanu et al. 2013), sparse ones among them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """g <- g * min(1, max_norm / norm)  for every gradient g, with the 2-norm of all of them together.

    Parameters whose .grad is None do not count. Sparse gradients, which torch.nn.utils.clip_grad_norm_ cannot clip, are
    coalesced in place.
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
    norm = torch.nn.utils.get_total_norm(values).item()
    if max_norm < norm < float("inf"):
        for value in values:
            value.mul_(max_norm / norm)
    return norm
