"""optim/clipping.py against torch.nn.utils.clip_grad_norm_ and what follows from its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from optim.clipping import clip_factor, clip_gradients


def make(sparse: bool) -> tuple[list[nn.Parameter], nn.Embedding]:
    """Two weights with a gradient, one without, and a table whose tokens repeat."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((3, 5), (7,), (2,))]
    for weight in weights[:2]:
        weight.grad = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    table = nn.Embedding(11, 5, sparse=sparse, dtype=torch.float64)
    factor = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    (table(torch.tensor([3, 5, 3, 7])) * factor).sum().backward()
    return [*weights, table.weight], table


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_it_is_torchs(max_norm, sparse):
    found, _ = make(sparse)
    expected, _ = make(sparse=False)
    norm = torch.nn.utils.clip_grad_norm_(expected, max_norm).item()
    assert clip_gradients(found, max_norm) == pytest.approx(norm, rel=1e-12)
    assert found[2].grad is None and found[3].grad.is_sparse == sparse
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.grad is not None:  # rtol: torch adds 1e-6 to the norm
            torch.testing.assert_close(ours.grad.to_dense(), theirs.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_with_others_it_is_as_if_these_were_among_them(max_norm):
    found, expected = make(sparse=True)[0], make(sparse=False)[0]
    further = nn.Parameter(torch.zeros(13))
    further.grad = torch.arange(13.0)
    norm = clip_gradients([*expected, further], max_norm)
    assert clip_gradients(found, max_norm, others=torch.arange(13.0).norm().item()) == pytest.approx(norm, rel=1e-6)
    for ours, plain in zip([p.grad for p in found], [p.grad for p in expected], strict=True):
        assert ours is plain is None or torch.allclose(ours.to_dense(), plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.arange(13.0) * clip_factor(norm, max_norm), further.grad)


def test_a_norm_within_the_bound_changes_no_bit():
    found, expected = make(sparse=True)[0], make(sparse=True)[0]
    clip_gradients(found, 1e6)
    for ours, before in zip(found, expected, strict=True):
        assert ours.grad is before.grad is None or torch.equal(ours.grad.to_dense(), before.grad.to_dense())


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_an_infinite_gradient_shows_and_spoils_no_other(bad):
    found, expected = make(sparse=True)[0], make(sparse=True)[0]
    found[1].grad[3] = bad
    assert not math.isfinite(clip_gradients(found, 1.0))
    assert torch.equal(found[0].grad, expected[0].grad)


def test_without_gradients_the_norm_is_0():
    assert clip_gradients([nn.Parameter(torch.ones(3))], 1.0) == 0
