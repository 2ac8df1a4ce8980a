"""heads/pairs.py against equation (1) worked out in NumPy, for every kind of task in every architecture."""

import math

import numpy as np
import pytest
import torch
from every_kind import EVERY, task_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, expit
from torch import Tensor, nn

from data.tasks import Task
from heads.config import ARCHITECTURES
from heads.losses import binary_cross_entropy
from heads.pairs import Heads, ResidualMLP, mlp

B, D = 5, 7
ALPHAS = {"v1": (0, 0), "v2": (0, 0), "v3a": (0.99, 0.01), "v3b": (0.01, 0.99)}  # the paper's, of para and sts
each_arch = pytest.mark.parametrize("arch", ARCHITECTURES)
each_task = pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)


def make(arch: str, tasks: list[Task] = EVERY, dropout: float = 0.0, random: bool = True) -> Heads:
    """Heads in float64; where random, with no weight left at 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        heads = Heads(tasks, arch, D, dropout).double()
        if random:
            for parameter in heads.parameters():
                nn.init.normal_(parameter, std=0.5)
    return heads


def vectors(sides: int = 1, rows: int = B, seed: int = 0) -> Tensor:
    return torch.randn(sides * rows, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mlp_by_hand(layers: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """W_2 gelu(W_1 x + b_1) + b_2, gelu in its exact erf form."""
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in layers.parameters())
    hidden = x @ w1.T + b1
    return hidden * (1 + erf(hidden / math.sqrt(2))) / 2 @ w2.T + b2


def by_hand(heads: Heads, arch: str, task: Task, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A task's vectors and outputs."""
    head, is_pair, both = heads[task.name], len(task.texts) == 2 and task.pairs != "cross", task.pairs == "both"
    alpha = {"binary": ALPHAS[arch][0], "score": ALPHAS[arch][1]}.get(task.kind, 1) if is_pair else 1
    v = x
    if arch in ("v3a", "v3b"):
        v = x + mlp_by_hand(heads.shared.mlp, x)
    elif alpha == 0:
        v = x + mlp_by_hand(head.own.mlp, x)
    a, b = v[:B], v[B : 2 * B]
    low, unit = (task.range[0], (task.range[1] - task.range[0]) / 5) if task.range else (0, 1)

    def output(f: np.ndarray) -> np.ndarray:
        score = low + unit * (f[:, 0] + (0 if is_pair and not both else 2.5))
        return {"classes": f, "binary": expit(f[:, 0]), "score": score, "labels": expit(f)}[task.kind]

    y = 0
    if alpha > 0:
        y = alpha * output(mlp_by_hand(head.f, np.concatenate([a, b, abs(a - b)], axis=1) if is_pair else v))
    if alpha < 1:
        cos = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        y = y + (1 - alpha) * {"binary": (1 + cos) / 2, "score": low + unit * 5 * cos}[task.kind]
    if both:
        y = (y + output(mlp_by_hand(head.f_ab, v[2 * B :]))) / 2
    return v, y


def assert_close(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


@each_arch
@each_task
def test_vectors_and_outputs_by_hand(arch, task):
    """y = alpha f(concat(a, b, |a - b|)) + (1 - alpha) cos(a, b), as its kind maps them; of all tasks in one pass."""
    heads, x = make(arch), {other.name: vectors(other.sequences, seed=seed) for seed, other in enumerate(EVERY)}
    v, y = by_hand(heads, arch, task, x[task.name].numpy())
    found = heads.vectors(x)[task.name]
    assert_close(found, v)
    assert_close(heads[task.name](found), y)


@given(seed=st.integers(0, 2**31), opposite=st.booleans())
def test_identical_and_opposite_pairs_with_the_wrong_label_have_a_small_gradient(seed, opposite):
    """In float32, where their cosine may come out beyond 1, and 1 / (1 - p) of its rounding has no bound."""
    a = torch.randn(67, 3, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    head = Heads([task_of("binary", 2)], "v2", 3, 0.0)["binary-2"]
    p = head(torch.cat([a, -a if opposite else a.clone()]))
    torch.testing.assert_close(p, torch.full((67,), 1.0 - opposite))
    loss = binary_cross_entropy(p, torch.full((67,), float(opposite)))
    loss.backward()
    assert loss.isfinite() and (a.grad.norm(dim=1) * a.detach().norm(dim=1)).max() < 0.1


@each_arch
def test_fresh_heads_compare_the_encoders_own_vectors_and_learn(arch):
    heads, x = make(arch, random=False), {task.name: vectors(task.sequences) for task in EVERY}
    v = heads.vectors(x)
    assert all(torch.equal(v[name], x[name]) for name in x)
    sum(rows.sum() for rows in v.values()).backward()
    blocks = [module.mlp[-1].weight.grad for module in heads.modules() if isinstance(module, ResidualMLP)]
    assert blocks and all((gradient != 0).any() for gradient in blocks)


def test_dropout_before_each_product():
    """With a rate near 1, all of x is dropped by the first, all that the last product reads by the second."""
    layers, x = mlp(D, 11, 3, dropout=0.0).double(), vectors()
    first, second = (layer for layer in layers if isinstance(layer, nn.Dropout))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first.p, second.p = 0.99999, 0.0
        assert_close(layers(x), mlp_by_hand(layers, np.zeros((B, D))))
        first.p, second.p = 0.0, 0.99999
        assert_close(layers(x), layers[-1].bias.detach().expand(B, 3).numpy())
    assert_close(layers.eval()(x), mlp_by_hand(layers, x.numpy()))


@each_arch
def test_the_dropout_rate_is_every_mlps(arch):
    assert {module.p for module in make(arch, dropout=0.3).modules() if isinstance(module, nn.Dropout)} == {0.3}
