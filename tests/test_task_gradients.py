"""optim/task_gradients.py against plain backward passes, torch.autograd.grad and optim.surgery on stacked rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optim import pcgrad, pcgrad_weights
from optim.surgery import gramian
from optim.task_gradients import TaskGradients

TASKS = ("a", "b", "c")
ROWS = 32


class Net(nn.Module):
    """Two shared layers, one that tasks a and b alone use, one frozen, one that nobody uses, and a head per task."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.partly = nn.Linear(5, 7), nn.Linear(7, 11), nn.Linear(11, 11)
        self.frozen, self.unused = nn.Linear(11, 11).requires_grad_(False), nn.Linear(2, 3)
        self.heads = nn.ModuleDict({task: nn.Linear(11, 1) for task in TASKS})

    def shared(self) -> list[nn.Parameter]:
        modules = (self.first, self.second, self.partly, self.frozen, self.unused)
        return [parameter for module in modules for parameter in module.parameters()]

    def reached(self) -> list[nn.Parameter]:
        return [parameter for module in (self.first, self.second, self.partly) for parameter in module.parameters()]

    def loss(self, task: str, rows: slice = slice(ROWS)) -> Tensor:
        """The mean squared error of these rows, each task with data of its own."""
        generator = torch.Generator().manual_seed(TASKS.index(task))
        x, y = (torch.randn(ROWS, n, dtype=torch.float64, generator=generator)[rows] for n in (5, 1))
        x = self.frozen(self.second(torch.tanh(self.first(x))))
        return ((self.heads[task](x if task == "c" else self.partly(x)) - y) ** 2).mean()


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(48)  # with which every two tasks are in conflict
        net = Net().double()
        for parameter in net.heads.parameters():
            parameter.mul_(5)
        return net


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def operate(gradients: TaskGradients, generator: torch.Generator | None = None) -> None:
    gradients.combine(pcgrad_weights(gradients.gramian(), generator))


def jacobian(net: Net, losses: list[Tensor]) -> Tensor:
    """(T, P), by torch.autograd.grad."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, net.reached(), allow_unused=True)
        parts = zip(found, net.reached(), strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in parts]))
    return torch.stack(rows)


def shared_gradient(net: Net) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in net.reached()])


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_shared_parameters_get_pcgrad_of_the_stacked_gradients(net):
    stacked = jacobian(net, [net.loss(task) for task in TASKS])
    assert (gramian(stacked) < 0).sum() == 6  # every two tasks conflict
    gradients = TaskGradients(TASKS, net.shared())
    for task in TASKS:
        gradients.backward(task, net.loss(task))
    assert_close(gradients.gramian(), gramian(stacked))
    operate(gradients, seeded())
    assert_close(shared_gradient(net), pcgrad(stacked, seeded()))


def test_heads_get_their_plain_gradient_bit_for_bit(net):
    for task in TASKS:
        net.loss(task).backward()
    plain = [parameter.grad for parameter in net.heads.parameters()]
    net.zero_grad()
    gradients = TaskGradients(TASKS, net.shared())
    for task in TASKS:
        gradients.backward(task, net.loss(task))
    operate(gradients)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.heads.parameters(), plain, strict=True))


def test_frozen_and_unused_parameters_have_no_gradient(net):
    gradients = TaskGradients(TASKS, net.shared())
    for task in TASKS:
        gradients.backward(task, net.loss(task))
    operate(gradients)
    for module in (net.frozen, net.unused):
        assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.grad is not None for parameter in net.reached())


def test_what_a_task_does_not_reach_is_zero_in_its_gradient(net):
    """Of `partly`, task c has no part: its gradient is the weighted sum of the other two."""
    a, b = (torch.autograd.grad(net.loss(task), net.partly.weight)[0] for task in ("a", "b"))
    gradients = TaskGradients(TASKS, net.shared())
    for task in TASKS:
        gradients.backward(task, net.loss(task))
    gradients.combine(torch.tensor([2.0, 3.0, 1000.0]))
    assert_close(net.partly.weight.grad, 2 * a + 3 * b)


def test_until_combined_the_shared_parameters_have_no_gradient(net):
    gradients = TaskGradients(TASKS, net.shared())
    gradients.backward("a", net.loss("a"))
    assert all(parameter.grad is None for parameter in net.shared())


def test_without_conflict_the_plain_backward_bit_for_bit():
    weight = nn.Parameter(torch.randn(7, 5, generator=seeded()).abs())

    def loss(task: str) -> Tensor:
        return (weight @ torch.rand(5, generator=seeded(TASKS.index(task)))).pow(2).sum()  # gradients above 0

    for task in TASKS:
        loss(task).backward()
    plain, weight.grad = weight.grad, None
    gradients = TaskGradients(TASKS, [weight])
    for task in TASKS:
        gradients.backward(task, loss(task))
    operate(gradients)
    assert torch.equal(weight.grad, plain)


def test_four_micro_batches_are_one_batch(net):
    """Surgery is done once, on the accumulated gradients; the whole batch's differ from them by rounding alone."""
    whole = TaskGradients(TASKS, net.shared())
    for task in TASKS:
        whole.backward(task, net.loss(task))
    operate(whole, seeded())
    expected = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    gradients = TaskGradients(TASKS, net.shared())
    for start in range(0, ROWS, 8):
        for task in TASKS:
            gradients.backward(task, net.loss(task, slice(start, start + 8)) / 4)
    operate(gradients, seeded())
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            assert_close(parameter.grad, gradient)


def test_the_rows_are_forgotten_once_combined(net):
    gradients = TaskGradients(TASKS, net.shared())
    results = []
    for _ in range(2):
        for task in TASKS:
            gradients.backward(task, net.loss(task))
        operate(gradients, seeded())
        results.append(shared_gradient(net))
        net.zero_grad()
    assert torch.equal(*results)


def test_a_losss_graph_is_freed(net):
    loss = net.loss("a")
    TaskGradients(TASKS, net.shared()).backward("a", loss)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.fault(22)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_shows_on_the_diagonal(net, bad):
    gradients = TaskGradients(TASKS, net.shared())
    for task in TASKS:
        gradients.backward(task, net.loss(task) * (bad if task == "b" else 1))
    assert gradients.gramian().diagonal().isfinite().tolist() == [True, False, True]
    with pytest.raises(ValueError, match="finite"):
        operate(gradients)


def test_with_everything_shared_frozen_only_the_heads_get_gradients(net):
    for parameter in net.shared():
        parameter.requires_grad_(False)
    gradients = TaskGradients(TASKS, net.shared())
    for task in TASKS:
        gradients.backward(task, net.loss(task))
    assert torch.equal(gradients.gramian(), torch.zeros(3, 3, dtype=torch.float64))
    operate(gradients)
    assert all(parameter.grad is None for parameter in net.shared())
    assert all(parameter.grad is not None for parameter in net.heads.parameters())


def test_a_task_that_was_not_run_adds_nothing(net):
    """Its row is zero, so the others are combined as if it were not there."""
    stacked = jacobian(net, [net.loss(task) for task in ("a", "b")])
    gradients = TaskGradients(TASKS, net.shared())
    for task in ("a", "b"):
        gradients.backward(task, net.loss(task))
    operate(gradients)
    assert_close(shared_gradient(net), pcgrad(stacked))


def test_float32_gradients_under_autocast(net):
    """The Gramian is float64 there too, and equals that of the gradients themselves."""
    net = net.float()
    gradients = TaskGradients(TASKS, [net.first.weight, net.first.bias])
    with torch.autocast("cpu", torch.bfloat16):
        for task in TASKS:
            loss = (net.first(torch.randn(3, 5, generator=seeded(TASKS.index(task)))) ** 2).mean()
            gradients.backward(task, loss)
        found = gradients.gramian()
    rows = torch.stack([torch.cat([g.flatten() for g in gradients.rows[task]]) for task in TASKS]).double()
    assert_close(found, rows @ rows.mT)


@pytest.mark.parametrize("reached_by", [("a", "b", "c"), ("a", "c"), ("b",)])
def test_an_embedding_s_sparse_gradients_are_the_dense_ones(reached_by):
    """Tokens that several tasks use, that repeat, that one uses alone; two micro-batches; tasks without it."""
    tokens = {"a": [[3, 5, 5], [7, 11, 3]], "b": [[5, 2, 2], [5, 5, 13]], "c": [[16, 0, 3], [5, 16, 16]]}
    factor = {task: torch.randn(3, 7, dtype=torch.float64, generator=seeded(k)) for k, task in enumerate(TASKS)}
    found = []
    for sparse in (False, True):
        table = nn.Embedding(17, 7, sparse=sparse, dtype=torch.float64)
        bias = nn.Parameter(torch.zeros(7, dtype=torch.float64))  # so that every task reaches something
        with torch.no_grad():
            table.weight.copy_(torch.randn(17, 7, generator=seeded()))
        gradients = TaskGradients(TASKS, [table.weight, bias])
        for micro in range(2):
            for task in TASKS:
                x = table(torch.tensor(tokens[task][micro])) if task in reached_by else 1
                gradients.backward(task, ((x + bias) * factor[task]).pow(2).sum())
        products = gradients.gramian()
        operate(gradients, seeded())
        assert not table.weight.grad.is_sparse
        found.append((products, table.weight.grad, bias.grad))
    for sparse, plain in zip(*found, strict=True):
        assert_close(sparse, plain)
