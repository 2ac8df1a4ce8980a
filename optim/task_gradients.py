"""From the tasks' losses to .grad: each task's gradient of the shared parameters, surgery, clipping, their sum.

Letters: T tasks, P elements of the shared parameters; of several ranks each has S of these columns to combine.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from optim.clipping import clip_gradients
from optim.shards import Shards
from optim.split_rules import WAY_OUT, rule_of, sparse_rows
from optim.surgery import Surgery
from optim.surgery.gramian import combined_norm, gramian
from runtime.ranks import ALONE, World

# Columns of the Jacobian at a time. On a CPU what is made of them stays in its cache; a GPU wants large operations.
COLUMNS = {"cpu": 1 << 18, "cuda": 1 << 22}


class TaskGradients:
    """The gradients of a step, by task, of the parameters that tasks share. Made once, used in every step:

        with gradients.by_rows(model, sizes): sum(losses of all tasks).backward()       # for each micro-batch
        clip_and_combine(gradients, surgery, model.parameters(), max_norm)      # writes .grad of the shared parameters
        optimizer.step(), zero_grad

    Parameters outside `shared` get their plain gradient from the same backward passes, bit for bit. A shared parameter
    that is frozen, or that no task reached, keeps .grad None; one that only some tasks reached is zero in the others.
    The task gradients lie in one (T, P) buffer, the Jacobian; .grad is a view of it, good until the next step's first
    backward pass. Those of `sparse` parameters (an embedding's, with sparse=True) lie beside it, as rows of the step's
    tokens. Where the world has several ranks they are summed over these first, and .grad is that of `shards.pieces`.
    """

    def __init__(
        self, tasks: Sequence[str], shared: Sequence[Tensor], sparse: Sequence[Tensor] = (), world: World = ALONE
    ):
        self.tasks, self.sparse, self.world = list(tasks), set(sparse), world
        self.shared = [parameter for parameter in dict.fromkeys(shared) if parameter.requires_grad]
        self.shards = Shards(self.shared, self.sparse, self.world)
        self.jacobian = self.shards.new(len(self.tasks))  # (T, P), and zeros that make it a multiple of the ranks
        self.views = self.shards.split(self.jacobian)  # each parameter's part of the Jacobian, (T, ...)
        self.forget()

    def forget(self) -> None:
        """Drop what was added since the last `combine`: the step is made anew."""
        # Of each parameter, by task: a view of the Jacobian, a sparse gradient, or None, not reached.
        self.rows: dict[Tensor, list[Tensor | None]] = {key: [None] * len(self.tasks) for key in self.shared}
        self._summed: tuple | None = None  # what `summed` has found

    def backward(self, task: str, loss: Tensor) -> None:
        """Add one task's gradients: the plain form, T times as slow as by_rows, for models that by_rows refuses."""
        loss.backward()
        for parameter in self.shared:
            if parameter.grad is not None:
                gradient = parameter.grad if parameter in self.sparse else parameter.grad.to_dense()
                self._add(parameter, {self.tasks.index(task): gradient})
                parameter.grad = None

    def _add(self, parameter: Tensor, gradients: Mapping[int, Tensor]) -> None:
        """Add gradients of some tasks, by the tasks' numbers; together, for on a GPU each call is a launch."""
        self._summed, row, views = None, self.rows[parameter], self.views[parameter].unbind()
        first = [t for t in gradients if row[t] is None]
        again = [t for t in gradients if row[t] is not None]
        if parameter in self.sparse:
            for t in again:
                row[t].add_(gradients[t])
        elif again:
            torch._foreach_add_([row[t] for t in again], [gradients[t] for t in again])
        if first and parameter not in self.sparse:
            torch._foreach_copy_([views[t] for t in first], [gradients[t] for t in first])
        for t in first:
            row[t] = gradients[t] if parameter in self.sparse else views[t]

    @contextmanager
    def by_rows(self, model: nn.Module, *sizes: Sequence[int]) -> Iterator[None]:
        """Inside, one forward pass over all tasks' rows and one backward pass add to every task's row.

        Rows of different tasks never meet in a layer, so the gradients of the activations are those of the sum of the
        losses, and only the weights' have to be taken task by task, dW_t = dY[rows of t]^T X[rows of t]. So a layer's
        weights take no gradient in its own call, and a hook on its output takes them from dY, at the plain sum's price.

        Args:   model: in which each shared parameter is used by one call of its layer alone, with the rows of all
                tasks, one task after another on the first axis.
                sizes: each task's number of these rows, (T,); several where layers differ in it (sentences, tokens),
                told apart by their sums.
        Raises: ValueError for a parameter that is used otherwise, or where no size fits; TypeError without a rule.
        """
        bounds = {sum(size): [slice(*ends) for ends in pairwise(accumulate(size, initial=0))] for size in sizes}
        if len(bounds) < len({tuple(size) for size in sizes}):
            raise ValueError(f"sizes: expected different sums; found {' and '.join(map(str, sizes))}")
        called, handles = set(), []
        for parameter in self.shared:
            parameter.grad = None
        try:
            for prefix, layer in model.named_modules():
                parameters = layer.named_parameters(prefix, recurse=False)
                if owned := {name: parameter for name, parameter in parameters if parameter in self.views}:
                    handles += self._watch(layer, owned, bounds, called)
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter in self.shared:
                parameter.requires_grad_()
        for k, parameter in enumerate(self.shared):
            if parameter.grad is not None:  # autograd came here by another way than the layer's call
                name = next((name for name, other in model.named_parameters() if other is parameter), f"shared[{k}]")
                raise ValueError(f"{name}: expected its layer's call alone to use it; found another use; {WAY_OUT}")

    def _watch(self, layer: nn.Module, owned: dict[str, Tensor], bounds: dict[int, list[slice]], called: set) -> list:
        """Hooks: the layer's weights, `owned`, take no gradient in its call; its output's gradient is split by task."""
        name = next(iter(owned))
        rule = rule_of(layer, name)

        def before(layer: nn.Module, inputs: tuple) -> None:
            for parameter in owned.values():
                parameter.requires_grad_(False)

        def after(layer: nn.Module, inputs: tuple, y: Tensor) -> None:
            for parameter in owned.values():
                parameter.requires_grad_()
            if not torch.is_grad_enabled():
                return
            if called.intersection(owned.values()):
                raise ValueError(f"{name}: expected one call that uses it; found another; {WAY_OUT}")
            called.update(owned.values())
            (x,) = inputs
            version = x._version
            if len(x) not in bounds:
                found = f"found {len(x)}; check sizes, give what is the same for all rows to each of them, or {WAY_OUT}"
                raise ValueError(f"{name}: expected {' or '.join(map(str, bounds))} rows; {found}")

            def split(dy: Tensor) -> None:
                if x._version != version:
                    raise ValueError(f"{name}: expected its layer's input as it was; found it written to; copy it")
                rows = {t: rows for t, rows in enumerate(bounds[len(x)]) if rows.start < rows.stop}
                gradients = rule(layer, x, dy, [*rows.values()])
                for full_name, parameter in owned.items():
                    self._add(parameter, dict(zip(rows, gradients[full_name.rpartition(".")[2]], strict=True)))

            y.requires_grad_()  # where nothing below takes a gradient, autograd would not come here
            y.register_hook(split)

        return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]

    def sizes(self, counts: Mapping[str, Sequence[int]]) -> list[list[int]]:
        """For by_rows, from each task's counts of sentences, tokens, ...; a task that is absent has none."""
        some = next(iter(counts.values()))
        return [[counts[task][k] if task in counts else 0 for task in self.tasks] for k in range(len(some))]

    def gramian(self) -> Tensor:
        """(T, T) float64, scaled as the losses were. What is not finite in a gradient shows on the diagonal.

        A sum over columns: each rank's are those of the summed gradients, so the ranks' Gramians add up to the whole.
        """
        jacobian, touched, _ = self.summed()
        ours = [values.flatten(1)[:, self.world.own] for _, values in touched.values()]  # which every rank has whole
        return self.world.sum(gramian(jacobian) + sum(map(gramian, ours)))

    def combine(self, weights: Tensor) -> None:
        """Write .grad = sum over tasks of weight * gradient, weights (T,), and forget the rows. The sum is made in the
        place of the first task's row: no memory of its own, and one pass over the others."""
        jacobian, touched, reached = self.summed()
        columns = COLUMNS.get(jacobian.device.type, COLUMNS["cuda"])
        weight, *weights = weights.tolist()
        for total, *others in [*jacobian.split(columns, dim=1), *(values for _, values in touched.values())]:
            total.mul_(weight)
            for row, other in zip(others, weights, strict=True):
                total.add_(row, alpha=other)
        for parameter in self.shared:
            parameter.grad = None
        self.shards.give(jacobian[0], reached)
        for parameter, (rows, values) in touched.items():
            parameter.grad = sparse_rows(rows, values[0], parameter.shape, is_coalesced=True)
        self.forget()

    def summed(self) -> tuple[Tensor, dict[Tensor, tuple[Tensor, Tensor]], list[Tensor]]:
        """The task gradients, summed over the ranks.

        Returns: this rank's columns of the Jacobian (T, S), all where it is alone, zero where a task reached nothing;
                 of each sparse parameter that some task reached, the R rows of it that any did, and all tasks'
                 gradients of these (T, R, D); the parameters that some task reached.
        """
        if self._summed is None:
            empty = [self.views[key][t] for key, row in self.rows.items() for t, g in enumerate(row) if g is None]
            if empty:
                torch._foreach_zero_(empty)
            reached = self.shards.reached(any(g is not None for g in row) for row in self.rows.values())
            touched = {parameter: self._touched(parameter) for parameter in reached if parameter in self.sparse}
            self._summed = self.world.scatter(self.jacobian), touched, reached
        return self._summed

    def _touched(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Of a sparse parameter that a task on some rank reached: see `summed`."""
        reached = [(t, gradient) for t, gradient in enumerate(self.rows[parameter]) if gradient is not None]
        named = [F.pad(gradient._indices(), (0, 0, 1, 0), value=t).T for t, gradient in reached]  # (n, 2): task, row
        named = self.world.join_rows(torch.cat(named) if named else None)
        values = self.world.join_rows(torch.cat([gradient._values() for _, gradient in reached]) if reached else None)
        rows, places = named[:, 1].unique(return_inverse=True)
        of_tasks = parameter.new_zeros(len(self.tasks) * len(rows), parameter.shape[1])
        of_tasks.index_add_(0, named[:, 0] * len(rows) + places, values)
        return rows, of_tasks.view(len(self.tasks), len(rows), -1)


class Conflict(NamedTuple):
    """What a step's gradients were before they were combined."""

    gramian: Tensor | None  # (T, T) float64 on the CPU; None without surgery
    infinite: list[str]  # the tasks whose gradient of the shared parameters is infinite or undefined
    norm: float  # of all gradients together, before clipping; inf where it is not finite

    @property
    def problem(self) -> str:
        """What forbids a step with .grad; "" where nothing does."""
        of_tasks = f" of {', '.join(self.infinite)}" if self.infinite else ""
        return "" if math.isfinite(self.norm) else f"infinite gradient{of_tasks}"


def clip_and_combine(
    gradients: TaskGradients,
    surgery: Surgery | None,
    parameters: Iterable[Tensor],
    max_norm: float = math.inf,
    generator: Generator | None = None,
    scale: float = 1.0,
    losses: Sequence[float] = (),
) -> Conflict:
    """A step's .grad: Gramian, the surgery's weights, clipping by these, one pass over the task gradients.

    Where a gradient is not finite there is no surgery, and .grad is not finite: the caller skips the step.
    Args: surgery: None for the plain sum. parameters: all whose gradients the norm is of, or their `Shards.pieces`.
          max_norm: of the gradients as they are without `scale`. generator: a CPU generator for the surgery's draws.
          scale: what a GradScaler has multiplied the losses by; .grad has it, nothing else does.
          losses: each task's, for the surgeries that read them.
    """
    weights = torch.ones(len(gradients.tasks))
    if surgery is None:
        gradients.combine(weights)
        return Conflict(None, [], clip_gradients(parameters, max_norm * scale, world=gradients.world) / scale)
    products, norm = gradients.gramian().cpu() / scale**2, math.inf
    infinite = [task for task, g in zip(gradients.tasks, products.diagonal(), strict=True) if not g.isfinite()]
    if not infinite:
        surgery.losses = torch.tensor(losses) if losses else None
        weights = surgery.weights(products, generator)
        others = combined_norm(weights, products) * scale
        norm = clip_gradients(parameters, max_norm * scale, others, gradients.world) / scale
    # Clipped by its weights, the sum needs no further pass. What is infinite shows in .grad, where GradScaler looks.
    clip = math.inf if norm == math.inf else max_norm / norm if norm > max_norm else 1.0
    gradients.combine(weights * clip)
    return Conflict(products, infinite, norm)
