"""optim/task_gradients.py and row_hooks.py, in float64.

Against torch.autograd.grad, plain backward passes and torch's own clipping.
"""

import math
import warnings
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from small_bert import assert_same, noisy, seeded
from torch import Tensor, nn

from optim import TaskGradients, pcgrad
from optim.surgery import SURGERIES, Surgery
from optim.surgery.gramian import gramian
from optim.task_gradients import clip_and_combine

TASKS = ("a", "b", "c")
SENTENCES = {"a": 5, "b": 2, "c": 3}
WORDS = 7  # of a sentence


class Net(nn.Module):
    """Every kind of layer; tokens on the first axis up to the convolution, sentences from there on; a head per task."""

    def __init__(self, sparse: bool = False):
        super().__init__()
        self.word, self.position = nn.Embedding(17, 6, sparse=sparse), nn.Embedding(WORDS, 6)
        self.norm, self.wide, self.dropout = nn.LayerNorm(6), nn.Linear(6, 11), nn.Dropout(0.2)
        self.frozen, self.conv, self.last = nn.Linear(11, 11), nn.Conv1d(11, 5, 3, padding=1), nn.Linear(5, 5)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(2, 3)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS})
        generator = seeded()
        with torch.no_grad():
            for parameter in self.double().parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def shared(self) -> list[nn.Parameter]:
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("heads")]

    def reached(self) -> list[nn.Parameter]:
        modules = (self.word, self.position, self.norm, self.wide, self.conv, self.last)
        return [parameter for module in modules for parameter in module.parameters()]

    def losses(self, tasks=TASKS, seed: int = 0) -> dict[str, Tensor]:
        count = sum(SENTENCES[task] for task in tasks)
        ids = torch.randint(17, (count * WORDS,), generator=seeded(seed)).to(self.last.weight.device)
        torch.manual_seed(seed)
        x = self.norm(self.word(ids) + self.position(torch.arange(WORDS, device=ids.device).repeat(count)))
        x = self.frozen(torch.tanh(self.dropout(self.wide(x)))).unflatten(0, (count, WORDS))
        x = self.last(torch.tanh(self.conv(x.mT)).mean(2))
        parts = x.split([SENTENCES[task] for task in tasks])
        return {task: self.heads[task](part).square().mean() for task, part in zip(tasks, parts, strict=True)}


def sizes(tasks=TASKS) -> tuple[list[int], list[int]]:
    """Sentences and words."""
    sentences = [SENTENCES[task] if task in tasks else 0 for task in TASKS]
    return sentences, [WORDS * count for count in sentences]


def jacobian(losses: Iterable[Tensor], parameters: Iterable[Tensor]) -> Tensor:
    """(T, P), by torch.autograd.grad."""
    settings = {"retain_graph": True, "materialize_grads": True}
    rows = [torch.autograd.grad(loss, list(parameters), **settings) for loss in losses]
    return torch.stack([torch.cat([gradient.to_dense().flatten() for gradient in row]) for row in rows])


def shared_jacobian(net: Net) -> Tensor:
    return jacobian(net.losses().values(), net.reached())


def add_all(gradients: TaskGradients, net: Net, way: str, tasks=TASKS, seed: int = 0, factors=(1, 1, 1)) -> None:
    """One micro-batch: one backward pass for all tasks, or one for each."""
    scale = dict(zip(TASKS, factors, strict=True))
    if way == "by_rows":
        with gradients.by_rows(net, *sizes(tasks)):
            sum(loss * scale[task] for task, loss in net.losses(tasks, seed).items()).backward()
        return
    for task in tasks:
        gradients.backward(task, net.losses(tasks, seed)[task] * scale[task])


def shared_gradient(net: Net) -> Tensor:
    return torch.cat([parameter.grad.to_dense().flatten() for parameter in net.reached()])


def made(way: str, sparse: bool = False, device: str = "cpu", **settings) -> tuple[Net, TaskGradients]:
    net = Net(sparse).to(device)
    gradients = TaskGradients(TASKS, net.shared(), sparse=[net.word.weight] if sparse else [])
    add_all(gradients, net, way, **settings)
    return net, gradients


both_ways = pytest.mark.parametrize("way", ["by_rows", "backward"])
dense_and_sparse = pytest.mark.parametrize("sparse", [False, True])


# ---- each task's gradient --------------------------------------------------------------------------------------------


@both_ways
@dense_and_sparse
def test_each_tasks_gradient_is_autograds(way, sparse):
    """The Gramian, and by weights of which one counts each row of the Jacobian."""
    expected = shared_jacobian(Net(sparse))
    for t, weights in enumerate(torch.eye(3)):
        net, gradients = made(way, sparse)
        assert_same(gradients.gramian(), expected @ expected.mT)
        gradients.combine(weights)
        assert net.word.weight.grad.is_sparse == sparse
        assert_same(shared_gradient(net), expected[t])


@both_ways
def test_a_sparse_gradient_that_was_not_announced_is_as_good(way):
    net = Net(sparse=True)
    gradients = TaskGradients(TASKS, net.shared())
    add_all(gradients, net, way)
    expected = shared_jacobian(net)
    assert_same(gradients.gramian(), expected @ expected.mT)
    gradients.combine(torch.ones(3))
    assert_same(shared_gradient(net), expected.sum(0))


def test_backward_of_losses_that_share_a_forward_pass():
    net, (_, gradients) = Net(), made("by_rows")
    again = TaskGradients(TASKS, net.shared())
    with pytest.raises(ValueError, match=r"^task: expected one of a, b, c; found 'd'"):
        again.backward("d", net.losses()["a"])
    for task, loss in net.losses().items():
        again.backward(task, loss, retain_graph=True)
    assert_same(again.gramian(), gradients.gramian())


@both_ways
@dense_and_sparse
def test_micro_batches_add_up_with_dropout_and_without_a_task(way, sparse):
    """The second has no rows of task b. Then a second step; what was forgotten before each and .grad of the step before
    count for nothing."""
    other, weights = Net(sparse), torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
    expected = shared_jacobian(other)
    expected[[0, 2]] += jacobian(other.losses(("a", "c"), seed=1).values(), other.reached())
    net, gradients = made(way, sparse, seed=2)
    for _ in range(2):
        gradients.forget()
        add_all(gradients, net, way)
        add_all(gradients, net, way, tasks=("a", "c"), seed=1)
        assert_same(gradients.gramian(), expected @ expected.mT)
        gradients.combine(weights)
        assert_same(shared_gradient(net), weights @ expected)


@pytest.mark.parametrize("reached_by", [("a", "c"), ("b",), ()])
def test_what_a_task_does_not_reach_is_zero_in_its_gradient(reached_by):
    weights, factors = {"a": 2.0, "b": 3.0, "c": 5.0}, {"a": 7.0, "b": 11.0, "c": 13.0}
    partly, always = (nn.Parameter(torch.ones(3)) for _ in range(2))
    table = nn.Embedding(5, 3, sparse=True)
    gradients = TaskGradients(TASKS, [partly, table.weight, always], sparse=[table.weight])
    gradients.jacobian.fill_(math.nan)  # as memory may be
    for task in TASKS:
        x = partly + table(torch.tensor(4)) if task in reached_by else 1
        gradients.backward(task, factors[task] * (x * always).sum())
    gradients.combine(torch.tensor(list(weights.values())))
    assert (partly.grad is None) == (table.weight.grad is None) == (not reached_by)
    if reached_by:
        assert partly.grad.tolist() == [sum(weights[task] * factors[task] for task in reached_by)] * 3
        assert torch.equal(table.weight.grad.to_dense()[4], partly.grad)


@both_ways
def test_gradients_are_float32_under_autocast(way):
    net = Net().float()
    gradients = TaskGradients(TASKS, net.shared())
    with torch.autocast("cpu", torch.bfloat16):
        expected = shared_jacobian(net).double()
        add_all(gradients, net, way)
        found = gradients.gramian()
    assert gradients.jacobian.dtype == torch.float32 and found.dtype == torch.float64
    error = (found - expected @ expected.mT).norm() / (expected @ expected.mT).norm()
    assert error < 1e-2  # eight bits


def test_no_tensor_of_another_device_takes_part():
    """The meta device refuses to mix with the CPU, in backward passes too."""
    net, gradients = made("by_rows", device="meta")
    gradients.combine(torch.ones(3))
    assert all(parameter.grad.device.type == "meta" for parameter in net.reached())


# ---- what by_rows cannot take ----------------------------------------------------------------------------------------


USES = {  # what a model does with its two layers' weights after y = first(x)
    "once": lambda model, y: model.second(y),
    "without gradients": lambda model, y: model.second(y + torch.no_grad()(model.second.__call__)(y)),
    "functional": lambda model, y: F.linear(y, model.first.weight),
    "penalty": lambda model, y: model.second(y) + model.first.weight.square().sum(),
    "twice": lambda model, y: model.first(torch.tanh(y)),
    "keyword": lambda model, y: model.second(input=y),
    "tied": lambda model, y: model.tied(torch.tanh(y)),
    "tied embedding": lambda model, y: y + model.table(torch.arange(len(y)) % 3),
}


def gramian_of(use: str, way: str) -> Tensor:
    """Of two tasks with three and two rows."""
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in ("first", "second", "tied")})
    model["table"] = nn.Embedding(3, 3)
    model.double().tied.weight = model.table.weight = model.first.weight
    parameters, x = list(model.parameters()), torch.randn(5, 3, dtype=torch.float64)

    def losses() -> dict[str, Tensor]:
        y = USES[use](model, torch.tanh(model.first(x)))
        return {"a": y[:3].square().sum(), "b": y[3:].square().sum()}

    gradients = TaskGradients(("a", "b"), parameters)
    if way == "autograd":
        return gramian(jacobian(losses().values(), parameters))
    if way == "by_rows":
        with gradients.by_rows(model, [3, 2]):
            sum(losses().values()).backward()
    else:
        gradients.backward("a", losses()["a"])
        gradients.backward("b", losses()["b"])
    return gradients.gramian()


@pytest.mark.parametrize("use", ["functional", "penalty", "twice", "keyword", "tied", "tied embedding"])
def test_a_weight_that_is_used_otherwise_is_refused_by_name(use):
    name = {"tied": "tied", "tied embedding": "table", "keyword": "second"}.get(use, "first")
    with pytest.raises(ValueError, match=rf"^{name}.weight: expected .* found (another|0).*take TaskGradients"):
        gramian_of(use, "by_rows")
    assert_same(gramian_of(use, "backward"), gramian_of(use, "autograd"))  # the way out


@pytest.mark.parametrize("use", ["once", "without gradients"])
def test_a_call_without_gradients_counts_for_nothing(use):
    assert_same(gramian_of(use, "by_rows"), gramian_of(use, "autograd"))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layers_output_may_be_written_to_and_changed_by_a_hook(bias):
    """Also the first layer's, below which nothing takes a gradient; of three axes it is a view."""
    model = nn.Sequential(nn.Linear(3, 5, bias), nn.ReLU(inplace=True), nn.Linear(5, 2, bias), nn.ReLU(inplace=True))
    model[2].register_forward_hook(lambda layer, inputs, y: y.mul_(2) + 1)
    x, parameters = torch.randn(5, 7, 3, generator=seeded()).double(), list(model.double().parameters())
    gradients = TaskGradients(("a", "b"), parameters)
    with gradients.by_rows(model, [3, 2]):
        model(x).square().sum().backward()
    losses = [model(x[rows]).square().sum() for rows in (slice(3), slice(3, 5))]
    assert_same(gradients.gramian(), gramian(jacobian(losses, parameters)))


SETTINGS = [
    (nn.LayerNorm((3, 7), eps=1e-3), (5, 2, 3, 7)),
    (nn.Embedding(13, 7, padding_idx=3), None),
    (nn.Conv1d(6, 4, kernel_size=3, stride=2, dilation=2, groups=2), (5, 6, 11)),
]


@pytest.mark.parametrize(("layer", "size"), SETTINGS, ids=str)
def test_a_layers_gradients_are_autograds_whatever_its_settings(layer, size):
    x = torch.randn(size, generator=seeded()).double() if size else torch.arange(15).view(5, 3) % 7
    gradients, parameters = TaskGradients(TASKS, noisy(layer).parameters()), list(layer.parameters())
    with gradients.by_rows(layer, [1, 2, 2]):
        layer(x).square().sum().backward()
    expected = jacobian([layer(x[rows]).square().sum() for rows in (slice(1), slice(1, 3), slice(3, 5))], parameters)
    assert_same(gradients.gramian(), gramian(expected))
    gradients.combine(torch.tensor([2.0, 3.0, 5.0]))
    combined = torch.cat([parameter.grad.flatten() for parameter in parameters])
    assert_same(combined, torch.tensor([2, 3, 5]).double() @ expected)


def test_a_parameter_that_is_frozen_later_stays_so():
    net = Net()
    gradients = TaskGradients(TASKS, net.shared())
    net.wide.requires_grad_(False)
    with gradients.by_rows(net, *sizes()):
        sum(net.losses().values()).backward()
    clip_and_combine(gradients, SURGERIES["pcgrad"](), net.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in net.wide.parameters())
    assert net.last.weight.grad is not None


def test_parameters_may_lie_in_memory_in_any_order():
    model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    gradients = TaskGradients(("a",), model.parameters())
    loss = model(torch.ones(2, 3, 4, 4)).square().sum()
    (expected,) = torch.autograd.grad(loss, [model.weight], retain_graph=True)
    gradients.backward("a", loss)
    clip_and_combine(gradients, None, model.parameters())
    assert torch.equal(model.weight.grad, expected)
    with pytest.raises(ValueError, match=r"shared: expected parameters of one dtype.*; found torch.float32 and .*16"):
        TaskGradients(("a",), [model.weight, nn.Parameter(torch.ones(2, dtype=torch.bfloat16))])


def test_a_parameter_that_is_not_the_models_is_refused():
    model, other = nn.Linear(3, 3), nn.Parameter(torch.ones(3))
    split = TaskGradients(("a",), [model.weight, other]).by_rows(model, [5])
    with pytest.raises(ValueError, match=r"^shared\[1\]: expected its layer's call alone"), split:
        (model(torch.ones(5, 3)) * other).sum().backward()
    assert other.grad is model.weight.grad is None  # nothing is added to what `backward` computes instead


def test_an_input_that_is_written_to_before_the_backward_pass_is_refused():
    model, x = nn.Linear(3, 3), torch.ones(5, 3)
    with TaskGradients(("a",), [model.weight]).by_rows(model, [5]):
        y = model(x)
        x.mul_(2)
        with pytest.raises(ValueError, match=r"^weight: expected its layer's input as it was"):
            y.sum().backward()


@pytest.mark.parametrize("fails", ["", "outside a layer", "in a layer"])
def test_after_one_pass_the_model_is_as_before(fails):
    """Parameters take gradients again, or not, and no hook stays."""
    net = Net()
    gradients = TaskGradients(TASKS, net.shared())
    before = [parameter.requires_grad for parameter in net.parameters()]
    try:
        with gradients.by_rows(net, *sizes()):
            net.losses()
            assert fails != "outside a layer"
            net.unused(torch.ones(3, 5) if fails else torch.ones(10, 2).double())
    except (AssertionError, RuntimeError):
        assert fails
    assert [parameter.requires_grad for parameter in net.parameters()] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    sum(net.losses().values()).backward()
    assert torch.equal(gradients.gramian(), torch.zeros(3, 3, dtype=torch.float64))
    assert all(parameter.grad is not None for parameter in net.reached())


def test_rows_that_no_size_fits_or_two_are_refused():
    net = Net()
    gradients, (sentences, words) = TaskGradients(TASKS, net.shared()), sizes()
    with gradients.by_rows(net, sentences, [*words[:2], words[2] - 1]):
        refused = "^word.weight: expected 10 or 69 rows; found 70; .* to each of them, or take"
        with pytest.raises(ValueError, match=refused):
            net.losses()
        with pytest.raises(ValueError, match=r"^position.weight: expected .*; found 1; "):  # as transformers' are
            net.position(torch.zeros(1, WORDS, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^sizes: expected different sums"):
        gradients.by_rows(net, [1, 2, 0], [2, 1, 0]).__enter__()
    with pytest.raises(ValueError, match=r"^sizes: expected 3 numbers each, .*; found \[1, 2\]"):
        gradients.by_rows(net, [1, 2])


def test_a_dense_gradient_of_what_is_named_sparse_is_refused():
    net = Net()
    gradients = TaskGradients(TASKS, net.shared(), sparse=[net.word.weight])
    with pytest.raises(ValueError, match=r"^sparse: expected parameters of embeddings with sparse=True; found a dense"):
        gradients.backward(TASKS[0], next(iter(net.losses().values())))


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def patched(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: 2 * x
    return layer


def weight_normed(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice to take another form
        return nn.utils.weight_norm(layer)


WITHOUT_RULE = [
    patched(nn.Linear(3, 3)),
    *map(weight_normed, (nn.Linear(3, 3), nn.Embedding(3, 3))),
    nn.Bilinear(3, 3, 3),
    Doubled(3, 3),
    nn.Embedding(3, 3, padding_idx=0, sparse=True),
    nn.Embedding(3, 3, max_norm=1.0),
    nn.GroupNorm(1, 3),
    nn.Conv2d(3, 3, 1),
    nn.Conv1d(3, 3, 3, padding=1, padding_mode="circular"),
    nn.Conv1d(3, 3, 3, padding="same"),
]


@pytest.mark.parametrize("layer", WITHOUT_RULE, ids=str)
def test_a_layer_without_a_rule_is_refused_where_it_is_shared(layer):
    model = nn.Sequential(nn.modules.linear.NonDynamicallyQuantizableLinear(3, 3), layer)
    split = TaskGradients(TASKS, list(model.parameters())).by_rows(model, [1, 1, 1])
    with (
        pytest.raises(
            TypeError,
            match=rf"^1.\w+: expected a plain Linear.* out; found {type(layer).__name__}.*TaskGradients.backward",
        ),
        split,
    ):
        pass
    with TaskGradients(TASKS, list(model[0].parameters())).by_rows(model, [1, 1, 1]):
        pass


# ---- clipping and the combination ------------------------------------------------------------------------------------


def assert_same_gradients(net: Net, expected: Net) -> None:
    """rtol: torch's clipping adds 1e-6 to the norm, which is 180 here."""
    for found, other in zip(net.parameters(), expected.parameters(), strict=True):
        assert found.grad is other.grad is None or torch.allclose(found.grad.to_dense(), other.grad, 1e-7, 1e-12)


def combined(way: str, max_norm: float, surgery: Surgery | None, sparse: bool = False, **settings):
    net, gradients = made(way, sparse, **settings)
    return net, clip_and_combine(gradients, surgery, net.parameters(), max_norm, seeded())


@both_ways
@dense_and_sparse
@pytest.mark.parametrize("max_norm", [0.01, 1e6, math.inf])
def test_surgery_and_clipping_are_pcgrad_and_torchs_clipping(way, sparse, max_norm):
    net, conflict = combined(way, max_norm, SURGERIES["pcgrad"](), sparse)
    stacked, expected = shared_jacobian(Net()), Net()
    sum(expected.losses().values()).backward()  # for the heads
    parts = pcgrad(stacked, seeded()).split([parameter.numel() for parameter in expected.reached()])
    for parameter, part in zip(expected.reached(), parts, strict=True):
        parameter.grad = part.view_as(parameter)
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), max_norm).item()
    assert conflict.norm == pytest.approx(norm, rel=1e-12) and not conflict.infinite and conflict.gramian.min() < 0
    assert_same(conflict.gramian, gramian(stacked))
    assert_same_gradients(net, expected)


@pytest.mark.parametrize("surgery", [None, SURGERIES["pcgrad"]()])
def test_a_plain_gradient_of_a_shared_parameter_is_refused(surgery):
    """A penalty's, say, or that of a backward pass after the block: the sum of the task gradients would replace it."""
    net = Net()
    gradients = TaskGradients(TASKS, net.shared())
    add_all(gradients, net, "by_rows")
    net.shared()[0].square().sum().backward()
    with pytest.raises(ValueError, match=r"found another in .grad, first of a parameter of shape .*; add a penalty to"):
        clip_and_combine(gradients, surgery, net.parameters())


@pytest.mark.parametrize("shared", [False, True])
def test_without_surgery_it_is_the_plain_sum(shared):
    """With nothing shared the same lines train on the sum of the losses: by_rows does nothing. The table is sparse."""
    net, plain = Net(sparse=not shared), Net()
    gradients = TaskGradients(TASKS, net.shared() if shared else [])
    add_all(gradients, net, "by_rows")
    conflict = clip_and_combine(gradients, None, net.parameters(), 0.01)
    sum(plain.losses().values()).backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.01).item()
    assert conflict == (None, [], pytest.approx(norm, rel=1e-12))
    assert_same_gradients(net, plain)


@pytest.mark.fault(22)
@both_ways
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_infinite_gradient_of_one_task_names_it_and_goes_through(way, bad):
    for surgery, infinite in ((SURGERIES["pcgrad"](), ["b"]), (None, [])):
        net, conflict = combined(way, 1.0, surgery, factors=(1, bad, 1))
        assert conflict.infinite == infinite and conflict.norm == math.inf
        assert not any(parameter.grad.isfinite().all() for parameter in net.reached())


@pytest.mark.parametrize("name", SURGERIES)
def test_scaled_losses_give_scaled_gradients_and_nothing_else(name):
    """As under a GradScaler, bit for bit for powers of two: a surgery, the norm and its bound see what there was."""
    results = []
    for scale in (1.0, 1024.0):
        net, gradients = made("by_rows", False, factors=(scale,) * 3)
        surgery, losses = SURGERIES[name](), [3.0, 5.0, 7.0]
        conflict = clip_and_combine(gradients, surgery, net.parameters(), 0.5, seeded(), scale, losses)
        results.append((conflict, shared_gradient(net)))
    (one, plain), (other, scaled) = results
    assert other.norm == one.norm and torch.equal(other.gramian, one.gramian)
    assert torch.equal(scaled, 1024 * plain)
