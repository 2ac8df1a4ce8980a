"""optim/adamw.py against torch.optim.AdamW, the course's own check, and what follows from its equations."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optim import AdamW

SHAPES = ((3, 5), (7,), (2, 1, 11), ())
TOLERANCE = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}


def parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator)) for shape in SHAPES]


def gradients(step: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor | None]:
    """A step's gradients, of very different sizes; each parameter is without one in every seventh step."""
    generator = torch.Generator().manual_seed(1000 + step)
    made = [10.0 ** (k - 2) * torch.randn(shape, dtype=dtype, generator=generator) for k, shape in enumerate(SHAPES)]
    return [None if (step + k) % 7 == 0 else gradient for k, gradient in enumerate(made)]


def groups(params: list[nn.Parameter]) -> list[dict]:
    return [
        {"params": params[:2]},
        {"params": params[2:3], "lr": 0.03, "weight_decay": 0.0},
        {"params": params[3:], "betas": (0.5, 0.7), "eps": 1e-3},
    ]


def run(optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Make these steps; the learning rates change with the step."""
    params = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    rates = [group.setdefault("peak", group["lr"]) for group in optimizer.param_groups]
    for step in steps:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.sin(step)) / 2
        for parameter, gradient in zip(params, gradients(step, params[0].dtype), strict=True):
            parameter.grad = gradient
        optimizer.step()


def assert_equal(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# ---- the same as torch's ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_many_steps_are_torchs(dtype):
    """Changing rates, groups with their own settings, decay, and gradients that are missing now and then."""
    ours, theirs = parameters(dtype), parameters(dtype)
    run(AdamW(groups(ours), lr=0.1, weight_decay=0.2), range(60))
    run(torch.optim.AdamW(groups(theirs), lr=0.1, weight_decay=0.2, foreach=False), range(60))
    torch.testing.assert_close(ours, theirs, **TOLERANCE[dtype])


def test_defaults_are_torchs():
    ours, theirs = parameters(), parameters()
    run(AdamW(ours), range(5))
    run(torch.optim.AdamW(theirs), range(5))
    torch.testing.assert_close(ours, theirs, **TOLERANCE[torch.float64])


@given(
    lr=st.floats(0, 2),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)),
    eps=st.floats(1e-12, 1),
    weight_decay=st.floats(0, 1),
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5),
)
def test_the_docstrings_equations(lr, betas, eps, weight_decay, values):
    """One number and its gradients, in plain Python."""
    parameter = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    optimizer = AdamW([parameter], lr, betas, eps, weight_decay)
    (beta1, beta2), p, m, v = betas, 0.7, 0.0, 0.0
    for t, g in enumerate(values, start=1):
        parameter.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        p -= lr * weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)
        assert parameter.item() == pytest.approx(p, rel=1e-12, abs=1e-12)


def test_the_courses_own_check():
    """1000 steps of a linear model, by the loop of the course's optimiser test."""
    rng = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(3, 2, bias=False)
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, eps=1e-6)
    for _ in range(1000):
        x = torch.FloatTensor(rng.uniform(size=[3]))
        y = torch.stack([x[0] + x[1], -x[2]])
        loss = ((y - model(x)) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = torch.tensor([[0.554828, 0.866657, 0.072920], [-0.447245, -0.295123, -0.271727]])
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-4, atol=1e-6)  # as the course compares


@given(exponent=st.integers(-40, 40))
def test_without_eps_the_gradients_scale_does_not_matter(exponent):
    """Bit for bit, for powers of two."""
    plain, scaled = parameters(), parameters()
    first, second = AdamW(plain, eps=0), AdamW(scaled, eps=0)
    for step in range(3):
        for a, b, gradient in zip(plain, scaled, gradients(step), strict=True):
            a.grad, b.grad = gradient, None if gradient is None else gradient * 2.0**exponent
        first.step()
        second.step()
    assert_equal(plain, scaled)


# ---- what is left alone ----------------------------------------------------------------------------------------------


def test_parameters_without_a_gradient_are_neither_moved_nor_decayed():
    frozen, unused, used = (nn.Parameter(torch.ones(3)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = AdamW([frozen, unused, used], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        (used.sum() + frozen.sum()).backward()
        optimizer.step()
    assert_equal([frozen.data, unused.data], [torch.ones(3)] * 2)
    assert not torch.equal(used.data, torch.ones(3))
    assert set(optimizer.state) == {used}


def test_a_zero_gradient_still_decays():
    parameter = nn.Parameter(torch.tensor([2.0, -3.0]))
    parameter.grad = torch.zeros(2)
    AdamW([parameter], lr=0.5, weight_decay=0.5).step()
    assert_equal(parameter.data, torch.tensor([1.5, -2.25]))


def test_gradients_are_not_changed():
    params = parameters()
    optimizer = AdamW(params, weight_decay=0.1)
    for parameter, gradient in zip(params, gradients(1), strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    assert_equal([parameter.grad for parameter in params], gradients(1))


def test_a_closure_runs_with_gradients_and_its_loss_comes_back():
    parameter = nn.Parameter(torch.tensor(3.0))
    optimizer = AdamW([parameter], lr=0.1, weight_decay=0.0)

    def closure() -> torch.Tensor:
        loss = parameter**2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9
    assert parameter.item() == pytest.approx(2.9)  # the first step is lr * sign(g)
    assert optimizer.step() is None


# ---- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_stored_state_goes_on_bit_for_bit(dtype):
    through, cut = parameters(dtype), parameters(dtype)
    run(AdamW(groups(through)), range(20))
    first = AdamW(groups(cut))
    run(first, range(9))
    state = copy.deepcopy(first.state_dict())
    resumed = [nn.Parameter(parameter.data.clone()) for parameter in cut]
    second = AdamW(groups(resumed))
    second.load_state_dict(state)
    run(second, range(9, 20))
    assert_equal(resumed, through)


# ---- sparse gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sparse_gradients_are_the_dense_ones_bit_for_bit(weight_decay, monkeypatch):
    """With repeated and new tokens, steps without a gradient, a dense step between, and a state that is loaded."""
    monkeypatch.setattr("optim.adamw.BLOCK", 14)  # two rows at a time
    tables = [nn.Embedding(23, 7, sparse=sparse) for sparse in (False, True)]
    tables[1].load_state_dict(tables[0].state_dict())
    optimizers = [AdamW(table.parameters(), lr=0.01, weight_decay=weight_decay) for table in tables]
    for step in range(9):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(5 + 2 * step, (3, 5), generator=generator)
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad()
            if step not in (2, 6):
                (table(tokens) * torch.linspace(-1, 1, 7)).square().sum().backward()
            if step == 4:
                table.weight.grad = table.weight.grad.to_dense()
            optimizer.step()
        if step == 5:
            again = AdamW(tables[1].parameters(), lr=0.01, weight_decay=weight_decay)
            again.load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
            optimizers[1] = again
        assert_equal(tables[1].weight, tables[0].weight)
    states = [optimizer.state[table.weight] for table, optimizer in zip(tables, optimizers, strict=True)]
    for name, value in states[0].items():
        assert_equal(states[1][name], value)
    assert 0 < states[1]["touched"].sum() < 23  # rows that no step named were passed over


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, name",
    [
        ({"lr": -1e-9}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": math.inf}, "lr"),
        ({"betas": (1.0, 0.9)}, "beta1"),
        ({"betas": (0.9, -0.1)}, "beta2"),
        ({"eps": -1e-9}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_settings_out_of_range_are_refused(setting, name):
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=f"^{name}: expected 0 <= {name} <"):
        AdamW([parameter], **setting)
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        AdamW([{"params": [parameter], **setting}])


def test_the_ends_of_the_ranges_are_allowed():
    AdamW([nn.Parameter(torch.ones(2))], lr=0, betas=(0, 0), eps=0, weight_decay=0)
