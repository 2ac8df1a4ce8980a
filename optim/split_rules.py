"""A layer's weight gradients for each task's rows, from the layer's input and the gradient of its output.

Each rule: (layer, x, dy, rows) -> {parameter's name: a gradient for each slice}; x the layer's input, dy the gradient
of its output, both with the rows on the first axis; rows: slices of that axis. What all slices share is computed once.
Products and sums are in dy's precision, that of the forward pass, as autograd's are.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight

WAY_OUT = "take TaskGradients.backward, for one task's loss after the other"
Gradients = dict[str, list[Tensor]]
Rows = Sequence[slice]


def linear(layer: nn.Linear, x: Tensor, dy: Tensor, rows: Rows) -> Gradients:
    """y = x W^T + b: dW = dy^T x, db = sum of dy. x: (..., in), dy: (..., out), W: (out, in)"""
    x = x.to(dy.dtype)
    products = [dy[r].flatten(0, -2).T @ x[r].flatten(0, -2) for r in rows]
    return {"weight": products, "bias": sums(dy, rows, dy.dim() - 1)}


def layer_norm(layer: nn.LayerNorm, x: Tensor, dy: Tensor, rows: Rows) -> Gradients:
    """y = n * w + b, n = (x - mean) / deviation: dw = sum of dy * n, db = sum of dy. x, dy: (..., *shape of w)"""
    n = F.layer_norm(x.to(layer.weight.dtype), layer.normalized_shape, eps=layer.eps)
    leading = x.dim() - len(layer.normalized_shape)
    return {"weight": sums(dy * n, rows, leading), "bias": sums(dy, rows, leading)}


def embedding(layer: nn.Embedding, x: Tensor, dy: Tensor, rows: Rows) -> Gradients:
    """y = W[x]: dy is added to the rows of dW that x names; sparse where sparse=True. x: (...), dy: (..., D)"""
    if layer.sparse:
        return {"weight": [sparse_rows(x[r].flatten(), dy[r].flatten(0, -2), layer.weight.shape) for r in rows]}
    count, padding = layer.num_embeddings, -1 if layer.padding_idx is None else layer.padding_idx
    backward = torch.ops.aten.embedding_dense_backward  # repeatable bit for bit on a GPU, unlike index_add_
    return {"weight": [backward(dy[r], x[r], count, padding, False) for r in rows]}


def conv1d(layer: nn.Conv1d, x: Tensor, dy: Tensor, rows: Rows) -> Gradients:
    """y[:, i] = sum over j of x[:, j] * W[i, j] + b[i], * a cross-correlation. x: (B, in, T), dy: (B, out, T)"""
    settings, x = (layer.stride, layer.padding, layer.dilation, layer.groups), x.to(dy.dtype)
    products = [conv1d_weight(x[r], layer.weight.shape, dy[r], *settings) for r in rows]
    return {"weight": products, "bias": [dy[r].sum((0, 2)) for r in rows]}


def sums(y: Tensor, rows: Rows, leading: int) -> list[Tensor]:
    """For each slice in rows, the sum of these rows of y over its first `leading` axes."""
    return [y[r].sum(tuple(range(leading))) for r in rows]


def sparse_rows(rows: Tensor, values: Tensor, shape: torch.Size, is_coalesced: bool | None = None) -> Tensor:
    """The sparse matrix with `values` (N, D) in `rows` (N,), which are in range: the forward pass has read them."""
    return torch.sparse_coo_tensor(rows[None], values, shape, is_coalesced=is_coalesced, check_invariants=False)


RULES = {nn.Linear: linear, nn.LayerNorm: layer_norm, nn.Embedding: embedding, nn.Conv1d: conv1d}


def rule_of(layer: nn.Module, name: str) -> Callable[[nn.Module, Tensor, Tensor, Rows], Gradients]:
    """The rule for a layer of a kind in RULES, or a subclass with the same forward. Raises TypeError with `name`."""
    plain = {key for key, _ in layer.named_parameters(recurse=False)} <= {"weight", "bias"}  # weight_norm has others
    if isinstance(layer, nn.Conv1d):
        plain = plain and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.Embedding):
        plain = plain and layer.max_norm is None and not layer.scale_grad_by_freq
        plain = plain and (layer.padding_idx is None or not layer.sparse)
    for kind, rule in RULES.items():
        if plain and isinstance(layer, kind) and getattr(layer.forward, "__func__", None) is kind.forward:
            return rule
    known = ", ".join(kind.__name__ for kind in RULES)
    expected = f"expected a plain {known}, with no parameter or setting that its rule leaves out"
    raise TypeError(f"{name}: {expected}; found {layer}; add a rule to RULES, or {WAY_OUT}")
