"""optim/adamw.py against torch.optim.AdamW and the course's own check."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from optim import AdamW
from optim.adamw import move, move_together

SHAPES = ((3, 5), (7,), (2, 1, 11), ())
TOLERANCE = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}
both_types = pytest.mark.parametrize("dtype", TOLERANCE)


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator)) for shape in SHAPES]


def gradients(step: int, dtype: torch.dtype) -> list[torch.Tensor | None]:
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
    """Make these steps; the learning rates change with the step. Gradients are not changed."""
    params = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    rates = [group.setdefault("peak", group["lr"]) for group in optimizer.param_groups]
    for step in steps:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.sin(step)) / 2
        for parameter, gradient in zip(params, gradients(step, params[0].dtype), strict=True):
            parameter.grad = gradient
        optimizer.step()
        assert_equal([parameter.grad for parameter in params], gradients(step, params[0].dtype))


def assert_equal(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@both_types
def test_many_steps_are_torchs(dtype):
    """Changing rates, groups with their own settings, decay, and gradients that are missing now and then."""
    ours, theirs = parameters(dtype), parameters(dtype)
    run(AdamW(groups(ours), lr=0.1, weight_decay=0.2), range(60))
    run(torch.optim.AdamW(groups(theirs), lr=0.1, weight_decay=0.2, foreach=False), range(60))
    torch.testing.assert_close(ours, theirs, **TOLERANCE[dtype])


def test_the_courses_own_check():
    """1000 steps of a linear model, by the loop of the course's optimiser test, made a closure."""
    rng = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(3, 2, bias=False)
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, eps=1e-6)
    for _ in range(1000):
        x = torch.FloatTensor(rng.uniform(size=[3]))
        y = torch.stack([x[0] + x[1], -x[2]])

        def closure(x=x, y=y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = ((y - model(x)) ** 2).sum()
            loss.backward()
            return loss

        assert optimizer.step(closure) >= 0
    expected = torch.tensor([[0.554828, 0.866657, 0.072920], [-0.447245, -0.295123, -0.271727]])
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-4, atol=1e-6)  # as the course compares


def stored(optimizer: AdamW) -> dict:
    """A copy of the state dict, in which a checkpoint finds tensors and whole numbers alone."""
    state = copy.deepcopy(optimizer.state_dict())
    assert {type(value) for values in state["state"].values() for value in values.values()} == {torch.Tensor, int}
    return state


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sparse_gradients_are_the_dense_ones_bit_for_bit(weight_decay):
    """With repeated and new tokens, steps without a gradient, a dense step between, and a state that is stored."""
    tables = [nn.Embedding(1201, 7, sparse=sparse) for sparse in (False, True)]
    tables[1].load_state_dict(tables[0].state_dict())
    optimizers = [AdamW(table.parameters(), lr=0.01, weight_decay=weight_decay) for table in tables]
    for step in range(9):
        tokens = torch.randint(300 + 100 * step, (3, 101), generator=torch.Generator().manual_seed(step))
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad()
            if step not in (2, 6):
                (table(tokens) * torch.linspace(-1, 1, 7)).square().sum().backward()
            if step == 4:
                table.weight.grad = table.weight.grad.to_dense()
            optimizer.step()
        if step == 5:
            again = AdamW(tables[1].parameters(), lr=0.01, weight_decay=weight_decay)
            again.load_state_dict(stored(optimizers[1]))
            optimizers[1] = again
        assert_equal(tables[1].weight, tables[0].weight)
    states = [optimizer.state[table.weight] for table, optimizer in zip(tables, optimizers, strict=True)]
    for name, value in states[0].items():
        assert_equal(states[1][name], value)
    assert 512 < states[1]["touched"].sum() < 1101  # more than are moved at once; those that no step named are not


@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf])
@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay", "betas"])
def test_settings_out_of_range_are_refused(name, bad):
    with pytest.raises(ValueError, match=rf"^{name}: expected 0 <= .* <"):
        AdamW([nn.Parameter(torch.ones(2))], **{name: (0.9, bad) if name == "betas" else bad})
    AdamW([nn.Parameter(torch.ones(2))], lr=0, betas=(0, 0), eps=0, weight_decay=0)


def test_many_tensors_together_are_each_by_itself():
    """What a GPU does, on the CPU: bit for bit."""
    draw = torch.Generator().manual_seed(0)
    sets = [[torch.rand(shape, generator=draw) for _ in range(4)] for shape in ((3, 5), (7,), (2, 3, 5))]  # p, g, m, v
    together, settings = [[tensor.clone() for tensor in four] for four in sets], (0.1, 0.9, 0.99, 1e-8, 5)
    for p, g, m, v in sets:
        p.mul_(1 - 0.01)
        move(p, g, m, v, *settings)
    move_together(together, 0.01, *settings)
    for four, same in zip(sets, together, strict=True):
        assert all(map(torch.equal, four, same))
