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
        gradients = TaskGradients(TASKS, [table.weight, bias], sparse=[table.weight] if sparse else [])
        for micro in range(2):
            for task in TASKS:
                x = table(torch.tensor(tokens[task][micro])) if task in reached_by else 1
                gradients.backward(task, ((x + bias) * factor[task]).pow(2).sum())
        products = gradients.gramian()
        operate(gradients, seeded())
        assert table.weight.grad.is_sparse == sparse
        found.append((products, table.weight.grad.to_dense(), bias.grad))
    for sparse, plain in zip(*found, strict=True):
        assert_close(sparse, plain)


# ---- all tasks in one pass -------------------------------------------------------------------------------------------

SIZES = {"a": 5, "b": 2, "c": 3}  # sentences
WORDS = 7  # of a sentence


class Encoder(nn.Module):
    """Every kind of layer: tokens on the first axis up to the convolution, sentences from there on."""

    def __init__(self, sparse: bool):
        super().__init__()
        self.word, self.position = nn.Embedding(17, 6, sparse=sparse), nn.Embedding(WORDS, 6)
        self.norm, self.wide, self.dropout = nn.LayerNorm(6), nn.Linear(6, 11), nn.Dropout(0.2)
        self.frozen, self.conv, self.last = nn.Linear(11, 11), nn.Conv1d(11, 5, 3, padding=1), nn.Linear(5, 5)
        self.frozen.requires_grad_(False)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS})
        generator = seeded()
        with torch.no_grad():
            for parameter in self.double().parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def shared(self) -> list[nn.Parameter]:
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("heads")]

    def losses(self, tasks=TASKS, seed: int = 0) -> dict[str, Tensor]:
        count = sum(SIZES[task] for task in tasks)
        ids = torch.randint(17, (count * WORDS,), generator=seeded(seed))
        torch.manual_seed(seed)
        x = self.norm(self.word(ids) + self.position(torch.arange(WORDS).repeat(count)))
        x = self.frozen(torch.tanh(self.dropout(self.wide(x)))).unflatten(0, (count, WORDS))
        x = self.last(self.last(torch.tanh(self.conv(x.mT)).mean(2)))  # a layer used twice
        parts = x.split([SIZES[task] for task in tasks])
        return {task: self.heads[task](part).square().mean() for task, part in zip(tasks, parts, strict=True)}


def both_sizes(tasks=TASKS) -> tuple[list[int], list[int]]:
    sentences = [SIZES[task] if task in tasks else 0 for task in TASKS]
    return sentences, [WORDS * count for count in sentences]


@pytest.mark.parametrize("sparse", [False, True])
def test_one_pass_over_all_rows_finds_each_tasks_gradients(sparse):
    """With dropout, two micro-batches, of which the second has no rows of task b."""
    model = Encoder(sparse)
    tables = [model.word.weight] if sparse else []
    gradients, plain = (TaskGradients(TASKS, model.shared(), sparse=tables) for _ in range(2))
    for micro, tasks in enumerate((TASKS, ("a", "c"))):
        with gradients.by_rows(model, *both_sizes(tasks)):
            sum(model.losses(tasks, micro).values()).backward()
    heads = [parameter.grad for parameter in model.heads.parameters()]
    model.zero_grad()
    for micro, tasks in enumerate((TASKS, ("a", "c"))):
        for task in tasks:
            plain.backward(task, model.losses(tasks, micro)[task])
    for task in TASKS:
        for found, expected in zip(gradients.rows[task], plain.rows[task], strict=True):
            assert (found is None) == (expected is None)
            if found is not None:
                assert found.is_sparse == expected.is_sparse
                assert_close(found.to_dense(), expected.to_dense())
    assert_close(gradients.gramian(), plain.gramian())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.heads.parameters(), heads, strict=True))
    assert all(parameter.grad is None for parameter in model.shared())


def test_after_one_pass_the_model_is_as_before():
    """Parameters take gradients again, or not, and no hook stays: also where the pass failed."""
    model = Encoder(sparse=False)
    gradients = TaskGradients(TASKS, model.shared())
    before = [parameter.requires_grad for parameter in model.parameters()]
    for fails in (False, True):
        try:
            with gradients.by_rows(model, *both_sizes()):
                assert not any(parameter.requires_grad for parameter in model.shared())
                losses = model.losses()
                assert not fails
        except AssertionError:
            assert fails
        assert [parameter.requires_grad for parameter in model.parameters()] == before
        assert not any(module._forward_hooks for module in model.modules())
    del losses
    sum(model.losses().values()).backward()
    assert all(row == [None] * len(row) for row in gradients.rows.values())
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_rows_that_no_size_fits_are_refused():
    model = Encoder(sparse=False)
    sentences, words = both_sizes()
    split = TaskGradients(TASKS, model.shared()).by_rows(model, sentences, [*words[:2], words[2] - 1])
    with pytest.raises(ValueError, match=r"expected 10 or 69 rows, those of all tasks; found 70 in Embedding"), split:
        model.losses()


def test_a_layer_without_a_rule_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Bilinear(3, 3, 3))
    split = TaskGradients(TASKS, list(model.parameters())).by_rows(model, [1, 1, 1])
    with pytest.raises(TypeError, match=r"1: expected one of Linear, .*; found Bilinear; add a rule"), split:
        pass
    with TaskGradients(TASKS, list(model[0].parameters())).by_rows(model, [1, 1, 1]):
        pass  # not shared: autograd's own


def test_a_subclass_has_its_parents_rule():
    class Named(nn.Linear):
        pass

    model, x = nn.Sequential(Named(5, 3)), torch.randn(6, 5, generator=seeded())
    gradients = TaskGradients(TASKS, list(model.parameters()))
    with gradients.by_rows(model, [1, 2, 3]):
        model(x).square().sum().backward()
    gradients.combine(torch.ones(3))
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_one_pass_under_autocast_keeps_float32_rows(net):
    x = torch.randn(9, 5, generator=seeded())
    net = net.float()
    gradients = TaskGradients(TASKS, net.first.parameters())
    with gradients.by_rows(net, [2, 3, 4]):
        with torch.autocast("cpu", torch.bfloat16):
            y = net.first(x)
        y.float().square().sum().backward()
    for task, rows in zip(TASKS, (slice(0, 2), slice(2, 5), slice(5, 9)), strict=True):
        assert all(gradient.dtype == torch.float32 for gradient in gradients.rows[task])
        with torch.autocast("cpu", torch.bfloat16):
            y = net.first(x[rows])
        expected = torch.autograd.grad(y.float().square().sum(), net.first.parameters())
        for found, plain in zip(gradients.rows[task], expected, strict=True):
            torch.testing.assert_close(found, plain, rtol=2e-2, atol=2e-2)  # eight bits
