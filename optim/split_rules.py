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
from torch.nn.grad import conv1d_weight

ByRows = dict[str, Callable[[slice], Tensor]]


def linear(layer: nn.Linear, x: Tensor, dy: Tensor) -> ByRows:
    """y = x W^T + b: dW = dy^T x, db = sum of dy. x: (..., in), dy: (..., out), W: (out, in)"""
    x = x.to(dy.dtype)
    return {
        "weight": lambda rows: dy[rows].flatten(0, -2).T @ x[rows].flatten(0, -2),
        "bias": lambda rows: sum_rows(dy[rows], 1),
    }


def layer_norm(layer: nn.LayerNorm, x: Tensor, dy: Tensor) -> ByRows:
    """y = n * w + b, n = (x - mean) / deviation: dw = sum of dy * n, db = sum of dy. x, dy: (..., *shape of w)"""
    kept = len(layer.normalized_shape)
    products = dy * F.layer_norm(x.to(layer.weight.dtype), layer.normalized_shape, eps=layer.eps)
    return {
        "weight": lambda rows: sum_rows(products[rows], kept),
        "bias": lambda rows: sum_rows(dy[rows], kept),
    }


def embedding(layer: nn.Embedding, x: Tensor, dy: Tensor) -> ByRows:
    """y = W[x]: dy is added to the rows of dW that x names; sparse where sparse=True. x: (...), dy: (..., D)"""
    if layer.padding_idx is not None or layer.max_norm is not None or layer.scale_grad_by_freq:
        raise TypeError(f"expected a plain Embedding; found {layer}, for whose settings there is no rule")

    def weight(rows: slice) -> Tensor:
        ids, gradient = x[rows].flatten(), dy[rows].reshape(-1, layer.embedding_dim)
        if layer.sparse:
            return sparse_rows(ids, gradient, layer.weight.shape)
        return dy.new_zeros(layer.weight.shape).index_add_(0, ids, gradient)

    return {"weight": weight}


def conv1d(layer: nn.Conv1d, x: Tensor, dy: Tensor) -> ByRows:
    """y[:, i] = sum over j of x[:, j] * W[i, j] + b[i], * a cross-correlation. x: (B, in, T), dy: (B, out, T)"""
    x, settings = x.to(dy.dtype), (layer.stride, layer.padding, layer.dilation, layer.groups)
    return {
        "weight": lambda rows: conv1d_weight(x[rows], layer.weight.shape, dy[rows], *settings),
        "bias": lambda rows: dy[rows].sum((0, 2)),
    }


def sparse_rows(rows: Tensor, values: Tensor, shape: torch.Size, is_coalesced: bool | None = None) -> Tensor:
    """The sparse matrix with `values` (N, D) in `rows` (N,), which are in range: the forward pass has read them."""
    return torch.sparse_coo_tensor(rows[None], values, shape, is_coalesced=is_coalesced, check_invariants=False)


def sum_rows(x: Tensor, kept: int) -> Tensor:
    """Sum over all axes but the last `kept`."""
    return x.sum(tuple(range(x.dim() - kept)))


RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], ByRows]] = {
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    nn.Embedding: embedding,
    nn.Conv1d: conv1d,
}
