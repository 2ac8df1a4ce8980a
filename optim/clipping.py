"""Clipping by the common norm of all gradients (Pascanu et al. 2013), sparse ones among them."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from runtime.ranks import ALONE, World


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float, others: float = 0.0, world: World = ALONE) -> float:
    """g <- g * min(1, max_norm / norm)  for every gradient g, with the 2-norm of all of them together.

    Parameters whose .grad is None do not count. Sparse gradients, which torch.nn.utils.clip_grad_norm_ cannot clip, are
    coalesced in place.
    Args:    others: the norm of further gradients, which count in the norm and which the caller multiplies.
             world: its ranks hold the other pieces of the gradients; each rank has sparse ones whole.
    Returns: the norm before clipping, in the gradients' precision; inf where it is not finite, and then nothing is
             multiplied.
    """
    reached = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter in reached:
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    values = [p.grad.values() if p.grad.is_sparse else p.grad for p in reached]
    own_values = [p.grad.values()[:, world.own] if p.grad.is_sparse else p.grad for p in reached]
    norm = math.hypot(*world.gather(torch.nn.utils.get_total_norm(own_values).item()), others)
    if values and max_norm < norm < math.inf:
        torch._foreach_mul_(values, max_norm / norm)
    return norm if math.isfinite(norm) else math.inf
