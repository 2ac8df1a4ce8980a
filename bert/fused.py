"""Linear layers that take bias and GELU along with the product: for inference on a CPU.

oneDNN adds the bias and takes the GELU of a block of the product while that is in the processor's cache; by plain torch
each is a pass over memory of its own. And in float32 torch on x86 has the product from MKL, which on AMD's processors
leaves AVX-512 unused. The operator is torch.compile's; its name is private, in torch 2.10 as in 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """nn.Linear, which computes by one call of oneDNN inside `fused`."""

    _weights: tuple[Tensor, Tensor] | None = None  # weight and bias as oneDNN gets them; only inside

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return super().forward(x) if self._weights is None else self._product(x, "none")

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of what `forward` gives, the exact erf form."""
        return F.gelu(self(x)) if self._weights is None else self._product(x, "gelu")

    def _product(self, x: Tensor, then: str) -> Tensor:
        weight, bias = self._weights
        return torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), weight, bias, then, [], "none")


@contextmanager
def fused(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, the `Linear` layers of the model compute in dtype by oneDNN, where this machine has it for that.

    No gradients, and no change of a weight, inside: where dtype is not the weights' own, they are cast once, here.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    try:
        if layers and can_fuse(layers[0].weight.device, dtype):
            for layer in layers:
                layer._weights = layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)
        yield
    finally:
        for layer in layers:
            layer._weights = None


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has the product for it."""
    there = device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not there or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
