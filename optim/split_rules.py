"""A layer's weight gradients from its input and its output's gradient, so that they can be taken for some rows alone.

Each rule: (layer, x, dy) -> {parameter's name: gradient, of the parameter's shape}; x the layer's input, dy the
gradient of its output, both with the rows on the first axis. dy is in the precision that the forward pass had.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(layer: nn.Linear, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """y = x W^T + b"""
    x, dy = x.reshape(-1, layer.in_features), dy.reshape(-1, layer.out_features)
    return {"weight": dy.T @ x.to(dy.dtype), "bias": dy.sum(0, dtype=layer.weight.dtype)}


def layer_norm(layer: nn.LayerNorm, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """y = (x - mean) / deviation * w + b"""
    normal = F.layer_norm(x.to(layer.weight.dtype), layer.normalized_shape, eps=layer.eps)
    rows = range(dy.dim() - len(layer.normalized_shape))
    return {"weight": (dy * normal).sum(tuple(rows)), "bias": dy.sum(tuple(rows), dtype=layer.weight.dtype)}


def embedding(layer: nn.Embedding, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """y = W[x]; with sparse=True a sparse gradient, of the rows that x names."""
    x, dy = x.flatten(), dy.reshape(-1, layer.embedding_dim)
    if layer.sparse:
        return {"weight": torch.sparse_coo_tensor(x[None], dy, layer.weight.shape, check_invariants=False)}
    return {"weight": dy.new_zeros(layer.weight.shape).index_add_(0, x, dy)}


def conv1d(layer: nn.Conv1d, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """y[:, i] = sum over j of x[:, j] * W[i, j] + b[i], * a cross-correlation"""
    _, weight, bias = torch.ops.aten.convolution_backward(
        dy, x.to(dy.dtype), layer.weight.to(dy.dtype), [layer.out_channels], layer.stride, layer.padding,
        layer.dilation, False, [0], layer.groups, [False, True, True],
    )  # fmt: skip
    return {"weight": weight, "bias": bias}


RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]] = {
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    nn.Embedding: embedding,
    nn.Conv1d: conv1d,
}
