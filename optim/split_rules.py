"""A layer's weight gradients from its input and its output's gradient, so that they can be taken for some rows alone.

Each rule: (layer, x, dy) -> {parameter's name: a function of a slice of rows -> their gradient, of the parameter's
shape}; x the layer's input, dy the gradient of its output, both with the rows on the first axis. What is the same for
all rows is computed once, before. dy is in the precision that the forward pass had.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ByRows = dict[str, Callable[[slice], Tensor]]


def linear(layer: nn.Linear, x: Tensor, dy: Tensor) -> ByRows:
    """y = x W^T + b"""
    x = x.to(dy.dtype)
    return {
        "weight": lambda rows: dy[rows].flatten(0, -2).T @ x[rows].flatten(0, -2),
        "bias": lambda rows: sum_rows(dy[rows], 1, layer.weight.dtype),
    }


def layer_norm(layer: nn.LayerNorm, x: Tensor, dy: Tensor) -> ByRows:
    """y = (x - mean) / deviation * w + b"""
    normal = F.layer_norm(x.to(layer.weight.dtype), layer.normalized_shape, eps=layer.eps)
    for_weight, kept = dy * normal, len(layer.normalized_shape)
    return {
        "weight": lambda rows: sum_rows(for_weight[rows], kept, layer.weight.dtype),
        "bias": lambda rows: sum_rows(dy[rows], kept, layer.weight.dtype),
    }


def embedding(layer: nn.Embedding, x: Tensor, dy: Tensor) -> ByRows:
    """y = W[x]; with sparse=True a sparse gradient, of the rows that x names."""

    def weight(rows: slice) -> Tensor:
        ids, gradient = x[rows].flatten(), dy[rows].reshape(-1, layer.embedding_dim)
        if layer.sparse:
            return torch.sparse_coo_tensor(ids[None], gradient, layer.weight.shape, check_invariants=False)
        return dy.new_zeros(layer.weight.shape).index_add_(0, ids, gradient)

    return {"weight": weight}


def conv1d(layer: nn.Conv1d, x: Tensor, dy: Tensor) -> ByRows:
    """y[:, i] = sum over j of x[:, j] * W[i, j] + b[i], * a cross-correlation"""
    x, weight = x.to(dy.dtype), layer.weight.to(dy.dtype)

    def for_weight(rows: slice) -> Tensor:
        return torch.ops.aten.convolution_backward(
            dy[rows], x[rows], weight, None, layer.stride, layer.padding, layer.dilation, False, [0], layer.groups,
            [False, True, False],
        )[1]  # fmt: skip

    return {"weight": for_weight, "bias": lambda rows: dy[rows].sum((0, 2), dtype=layer.weight.dtype)}


def sum_rows(x: Tensor, kept: int, dtype: torch.dtype) -> Tensor:
    """Sum over all axes but the last `kept`."""
    return x.sum(tuple(range(x.dim() - kept)), dtype=dtype)


RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], ByRows]] = {
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    nn.Embedding: embedding,
    nn.Conv1d: conv1d,
}
