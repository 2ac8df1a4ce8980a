"""heads/architectures.py against equation (1) worked out in numpy, and what the outputs' ranges must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, expit
from torch import Tensor, nn

from bert.model import Dropout
from heads.architectures import (
    ARCHITECTURES,
    STS_MAX,
    ResidualMLP,
    SeparateHeads,
    SharedHeads,
    as_probability,
    cosine,
    mlp,
    pair_features,
)

B, D = 5, 7
NAMES = tuple(ARCHITECTURES)
ALPHAS = {"v1": (0, 0), "v2": (0, 0), "v3a": (0.99, 0.01), "v3b": (0.01, 0.99)}  # para, sts


def make(name: str, dropout: float = 0.0, size: int = D, random: bool = True) -> SeparateHeads | SharedHeads:
    """Heads in float64; where random, with no weight left at 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        heads = ARCHITECTURES[name](size, dropout).double()
        if random:
            for parameter in heads.parameters():
                nn.init.normal_(parameter, std=0.5)
    return heads


def vectors(rows: int = B, seed: int = 0, size: int = D) -> tuple[Tensor, Tensor]:
    return torch.randn(2, rows, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).unbind()


def mlp_by_hand(layers: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """W_2 gelu(W_1 x + b_1) + b_2, gelu in its exact erf form."""
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in layers.parameters())
    hidden = x @ w1.T + b1
    return hidden * (1 + erf(hidden / math.sqrt(2))) / 2 @ w2.T + b2


def cosine_by_hand(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def assert_close(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


# ---- the equations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v3a", "v3b"])
def test_equation_1_by_hand(name):
    """y = alpha f(concat(a, b, |a - b|)) + (1 - alpha) cos(a, b), by task mapped to [0, 1] and times 5."""
    heads, (a, b) = make(name), vectors()
    alpha_para, alpha_sts = ALPHAS[name]
    x, y = a.numpy(), b.numpy()
    features, cos = np.concatenate([x, y, abs(x - y)], axis=1), cosine_by_hand(x, y)
    f_para, f_sts = (mlp_by_hand(head, features)[:, 0] for head in (heads.para_head, heads.sts_head))
    assert_close(heads.para(a, b), alpha_para * expit(f_para) + (1 - alpha_para) * (1 + cos) / 2)
    assert_close(heads.sts(a, b), alpha_sts * f_sts + (1 - alpha_sts) * 5 * cos)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_v1_and_v2_compare_by_the_cosine_alone(name):
    """alpha = 0, with the same maps."""
    heads, (a, b) = make(name), vectors()
    cos = cosine_by_hand(a.numpy(), b.numpy())
    assert_close(heads.para(a, b), (1 + cos) / 2)
    assert_close(heads.sts(a, b), 5 * cos)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_v1_and_v2_have_an_mlp_per_task(name):
    heads, (x, _) = make(name), vectors()
    assert_close(heads.vector("para", x), x.numpy() + mlp_by_hand(heads.para_head.mlp, x.numpy()))
    assert_close(heads.vector("sts", x), x.numpy() + mlp_by_hand(heads.sts_head.mlp, x.numpy()))
    assert_close(heads.sst(heads.vector("sst", x)), mlp_by_hand(heads.sst_head, x.numpy()))


@pytest.mark.parametrize("name", ["v3a", "v3b"])
def test_v3_has_one_mlp_for_all_tasks(name):
    heads, (x, _) = make(name), vectors()
    shared = x.numpy() + mlp_by_hand(heads.shared_mlp.mlp, x.numpy())
    for task in ("sst", "para", "sts"):
        assert_close(heads.vector(task, x), shared)
    assert_close(heads.sst(heads.vector("sst", x)), mlp_by_hand(heads.sst_head, shared))


def test_pair_features():
    a, b = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 3.0]])
    assert pair_features(a, b).tolist() == [[1, 5, 2, 3, 1, 2]]


# ---- what is shared --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_shared_is_what_more_than_one_task_uses(name):
    heads, (a, b) = make(name), vectors()
    used = dict.fromkeys(heads.parameters(), 0)
    for task in ("sst", "para", "sts"):
        v_a, v_b = heads.vector(task, a), heads.vector(task, b)
        out = heads.sst(v_a) if task == "sst" else getattr(heads, task)(v_a, v_b)
        gradients = torch.autograd.grad(out.sum(), list(used), allow_unused=True)
        for parameter, gradient in zip(used, gradients, strict=True):
            used[parameter] += gradient is not None
    shared = {parameter for module in heads.shared() for parameter in module.parameters()}
    assert {parameter for parameter, tasks in used.items() if tasks > 1} == shared
    assert min(used.values()) == 1  # and there is none that nobody uses
    assert bool(shared) == name.startswith("v3")


# ---- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**31), size=st.floats(1e-3, 1e3))
def test_para_is_a_probability_and_a_cosine_alone_at_most_5(name, seed, size):
    heads, (a, b) = make(name), vectors(seed=seed)
    para, sts = heads.para(size * a, size * b), heads.sts(size * a, size * b)
    assert para.shape == sts.shape == (B,)
    assert ((para >= 0) & (para <= 1)).all()
    if name in ("v1", "v2"):
        assert (sts.abs() <= STS_MAX + 1e-12).all()


@given(seed=st.integers(0, 2**31), opposite=st.booleans())
def test_identical_and_opposite_vectors_are_safe_for_binary_cross_entropy(seed, opposite):
    """In float32 the cosine of two such vectors may come out beyond 1."""
    a = torch.randn(67, 3, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    probabilities = as_probability(cosine(a, -a if opposite else a.clone()))
    loss = F.binary_cross_entropy(probabilities, torch.full((67,), float(opposite)))  # all of them wrong
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all()
    torch.testing.assert_close(probabilities, torch.full((67,), 1.0 - opposite))


def test_a_zero_vector_has_cosine_0():
    a, zero = torch.randn(1, D, generator=torch.Generator().manual_seed(0)), torch.zeros(1, D, requires_grad=True)
    assert cosine(a, zero).item() == 0
    cosine(a, zero).backward()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_sst_gives_a_logit_for_each_class(name):
    heads, (x, _) = make(name), vectors()
    assert heads.sst(heads.vector("sst", x)).shape == (B, 5)


# ---- how it starts, and dropout --------------------------------------------------------------------------------------


def test_a_residual_mlp_starts_as_the_identity_and_learns():
    block, (x, _) = ResidualMLP(D, 0.0).double(), vectors()
    assert torch.equal(block(x), x)
    block(x).sum().backward()
    assert (block.mlp[-1].weight.grad != 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_fresh_heads_compare_the_encoders_own_vectors(name):
    heads, (x, _) = make(name, random=False), vectors()
    for task in ("para", "sts"):
        assert torch.equal(heads.vector(task, x), x)


def test_dropout_before_each_product():
    """With a rate near 1, all of x is dropped by the first, all that the last product reads by the second."""
    layers, (x, _) = mlp(D, 11, 3, dropout=0.0).double(), vectors()
    first, second = (layer for layer in layers if isinstance(layer, Dropout))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first.p, second.p = 0.99999, 0.0
        assert_close(layers(x), mlp_by_hand(layers, np.zeros((B, D))))
        first.p, second.p = 0.0, 0.99999
        assert_close(layers(x), layers[-1].bias.detach().expand(B, 3).numpy())
    assert_close(layers.eval()(x), mlp_by_hand(layers, x.numpy()))


@pytest.mark.parametrize("name", NAMES)
def test_the_dropout_rate_is_every_mlps(name):
    rates = {module.p for module in make(name, dropout=0.3).modules() if isinstance(module, Dropout)}
    assert rates == {0.3}


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name):
    double, (a, b) = make(name), vectors()
    single = ARCHITECTURES[name](D, 0.0)
    single.load_state_dict(double.state_dict())
    for task in ("para", "sts"):
        expected = getattr(double, task)(double.vector(task, a), double.vector(task, b))
        found = getattr(single, task)(single.vector(task, a.float()), single.vector(task, b.float()))
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
