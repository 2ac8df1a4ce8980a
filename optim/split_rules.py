"""A layer's weight gradients from its input and its output's gradient, so that they can be taken for some rows alone.

Each rule: (layer, x, dy) -> {parameter's name: its gradient}; x the layer's input, dy the gradient of its output, both
with the rows on the first axis. Products and sums come in dy's precision, the forward pass's, as autograd's would.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight

Gradients = dict[str, Tensor]


def linear(layer: nn.Linear, x: Tensor, dy: Tensor) -> Gradients:
    """y = x W^T + b: dW = dy^T x, db = sum of dy. x: (..., in), dy: (..., out), W: (out, in)"""
    x, dy = x.to(dy.dtype).flatten(0, -2), dy.flatten(0, -2)
    return {"weight": dy.T @ x, "bias": dy.sum(0)}


def layer_norm(layer: nn.LayerNorm, x: Tensor, dy: Tensor) -> Gradients:
    """y = n * w + b, n = (x - mean) / deviation: dw = sum of dy * n, db = sum of dy. x, dy: (..., *shape of w)"""
    n = F.layer_norm(x.to(layer.weight.dtype), layer.normalized_shape, eps=layer.eps)
    rows = tuple(range(x.dim() - len(layer.normalized_shape)))
    return {"weight": (dy * n).sum(rows), "bias": dy.sum(rows)}


def embedding(layer: nn.Embedding, x: Tensor, dy: Tensor) -> Gradients:
    """y = W[x]: dy is added to the rows of dW that x names; sparse where sparse=True. x: (...), dy: (..., D)"""
    ids, dy = x.flatten(), dy.reshape(-1, layer.embedding_dim)
    if layer.sparse:
        return {"weight": sparse_rows(ids, dy, layer.weight.shape)}
    return {"weight": dy.new_zeros(layer.weight.shape).index_add_(0, ids, dy)}


def conv1d(layer: nn.Conv1d, x: Tensor, dy: Tensor) -> Gradients:
    """y[:, i] = sum over j of x[:, j] * W[i, j] + b[i], * a cross-correlation. x: (B, in, T), dy: (B, out, T)"""
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return {"weight": conv1d_weight(x.to(dy.dtype), layer.weight.shape, dy, *settings), "bias": dy.sum((0, 2))}


def sparse_rows(rows: Tensor, values: Tensor, shape: torch.Size, is_coalesced: bool | None = None) -> Tensor:
    """The sparse matrix with `values` (N, D) in `rows` (N,), which are in range: the forward pass has read them."""
    return torch.sparse_coo_tensor(rows[None], values, shape, is_coalesced=is_coalesced, check_invariants=False)


RULES = {nn.Linear: linear, nn.LayerNorm: layer_norm, nn.Embedding: embedding, nn.Conv1d: conv1d}


def rule_of(layer: nn.Module, name: str) -> Callable[[nn.Module, Tensor, Tensor], Gradients]:
    """The rule for a layer of these kinds, or derived from one with the same forward. Raises TypeError, with `name`."""
    plain = True
    if isinstance(layer, nn.Embedding):
        plain = layer.padding_idx is None and layer.max_norm is None and not layer.scale_grad_by_freq
    for kind, rule in RULES.items():
        if plain and isinstance(layer, kind) and type(layer).forward is kind.forward:
            return rule
    known = ", ".join(kind.__name__ for kind in RULES)
    raise TypeError(f"{name}: expected a plain {known}; found {layer}; add its rule to RULES")
