"""optim/clipping.py against torch.nn.utils.clip_grad_norm_ and what follows from its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from optim.clipping import clip_gradients


def make(sparse: bool) -> list[nn.Parameter]:
    """Two weights with a gradient, one without, and a table whose tokens repeat."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((3, 5), (7,), (2,))]
    for weight in weights[:2]:
        weight.grad = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    table = nn.Embedding(11, 5, sparse=sparse, dtype=torch.float64)
    factor = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    (table(torch.tensor([3, 5, 3, 7])) * factor).sum().backward()
    return [*weights, table.weight]


def assert_gradients(found: list[nn.Parameter], expected: list[nn.Parameter], rtol: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.grad is theirs.grad is None or torch.allclose(ours.grad.to_dense(), theirs.grad.to_dense(), rtol, 0)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_it_is_torchs(max_norm, sparse):
    found, expected = make(sparse), make(sparse=False)
    norm = torch.nn.utils.clip_grad_norm_(expected, max_norm).item()
    assert clip_gradients(found, max_norm) == pytest.approx(norm, rel=1e-12)
    assert found[2].grad is None and found[3].grad.is_sparse == sparse
    assert_gradients(found, expected, rtol=1e-5)  # torch adds 1e-6 to the norm
    assert clip_gradients([found[2]], max_norm) == 0  # where there is no gradient


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_with_others_it_is_as_if_these_were_among_them(max_norm):
    further = nn.Parameter(torch.zeros(13, dtype=torch.float64))
    further.grad = torch.arange(13.0, dtype=torch.float64)
    found, expected, others = make(sparse=True), make(sparse=False), further.grad.norm().item()
    norm = clip_gradients([*expected, further], max_norm)
    assert clip_gradients(found, max_norm, others) == pytest.approx(norm, rel=1e-12)
    assert_gradients(found, expected, rtol=1e-12)


@pytest.mark.parametrize("bad, max_norm", [(None, 1e6), (math.inf, 1.0), (-math.inf, 1.0), (math.nan, 1.0)])
def test_within_the_bound_no_bit_changes_nor_beside_an_infinite_gradient_which_shows(bad, max_norm):
    found, expected = make(sparse=True), make(sparse=True)
    if bad is not None:
        found[1].grad[3] = expected[1].grad[3] = bad
    assert (clip_gradients(found, max_norm) == math.inf) == (bad is not None)
    found[1].grad[3] = expected[1].grad[3] = 0  # NaN is unlike itself
    assert_gradients(found, expected, rtol=0)
