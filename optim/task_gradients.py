"""From the tasks' losses to .grad: each task's gradient of the shared parameters, surgery, clipping, their sum.

Letters: T tasks, P elements of the shared parameters. Each rank combines S of these P columns: all, where it is alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from optim.clipping import clip_gradients
from optim.row_hooks import split_by_rows
from optim.shards import Shards
from optim.split_rules import sparse_rows
from optim.surgery import Surgery
from optim.surgery.gramian import combined_norm, gramian
from runtime.errors import check_name
from runtime.ranks import ALONE, World


class TaskGradients:
    """Each task's gradient of the parameters that tasks share. Made once, used in every step:

        with gradients.by_rows(model, sizes): sum(losses of all tasks).backward()       # for each micro-batch
        clip_and_combine(gradients, surgery, model.parameters(), max_norm)      # writes .grad of the shared parameters
        optimizer.step(), zero_grad

    Parameters outside `shared` get their plain gradient from the same backward passes, bit for bit; one that is frozen
    when this is made counts as outside. A shared parameter that is frozen later, or that no task reached, keeps .grad
    None. If only some tasks reached it, the other tasks' gradients of it are zero. The task gradients lie in one (T, P)
    buffer, the Jacobian; .grad is a view of it, valid until the next step's first backward pass. Gradients of `sparse`
    parameters (embeddings with sparse=True) lie beside it, a row for each token of the step; those of others are dense.
    With several ranks the task gradients are first summed over the ranks, and .grad is that of `shards.pieces`.

    Raises: ValueError for shared parameters of several dtypes.
    """

    def __init__(
        self, tasks: Sequence[str], shared: Sequence[Tensor], sparse: Sequence[Tensor] = (), world: World = ALONE
    ):
        self.tasks, self.sparse, self.world = list(tasks), set(sparse), world
        self.shared = [parameter for parameter in dict.fromkeys(shared) if parameter.requires_grad]
        if len(dtypes := dict.fromkeys(str(parameter.dtype) for parameter in self.shared)) > 1:
            raise ValueError(f"shared: expected parameters of one dtype, as .grad is; found {' and '.join(dtypes)}")
        self.shards = Shards(self.shared, self.sparse, self.world)
        self.jacobian = self.shards.new(len(self.tasks))  # (T, P), and zeros that make it a multiple of the ranks
        self.views = self.shards.split(self.jacobian)  # each dense parameter's columns of the Jacobian, (T, ...)
        self.forget()

    def forget(self) -> None:
        """Drop the gradients that were added since the last `combine`."""
        # For each parameter and task: a view of the Jacobian, a sparse gradient, or None if the task did not reach it.
        self.rows: dict[Tensor, list[Tensor | None]] = {key: [None] * len(self.tasks) for key in self.shared}
        self._summed: tuple | None = None  # cache of `summed`

    def backward(self, task: str, loss: Tensor, retain_graph: bool = False) -> None:
        """Add one task's gradients: the plain form, T times as slow as by_rows, for models that by_rows refuses.

        retain_graph: as in torch; True for all but the last of several losses that come from one forward pass.
        """
        check_name("task", self.tasks, task)
        self._clear()
        loss.backward(retain_graph=retain_graph)
        for parameter in self.shared:
            if parameter.grad is not None:
                self._add(parameter, {self.tasks.index(task): parameter.grad})
                parameter.grad = None

    def _clear(self) -> None:
        """Drop .grad of the shared parameters: the last step's, or another program's."""
        for parameter in self.shared:
            parameter.grad = None

    def _add(self, parameter: Tensor, gradients: Mapping[int, Tensor]) -> None:
        """Add gradients of one parameter, by the tasks' numbers: all in one call, which on a GPU is one launch."""
        self._summed, row = None, self.rows[parameter]
        if parameter in self.sparse:
            for t, gradient in gradients.items():
                if not gradient.is_sparse:
                    found = f"found a dense gradient {tuple(gradient.shape)}; leave it out of `sparse`"
                    raise ValueError(f"sparse: expected parameters of embeddings with sparse=True; {found}")
                row[t] = gradient if row[t] is None else row[t].add_(gradient)
            return
        first = [t for t in gradients if row[t] is None]
        again = [t for t in gradients if row[t] is not None]
        for t in first:
            row[t] = self.views[parameter][t]
        if first:
            torch._foreach_copy_([row[t] for t in first], [gradients[t].to_dense() for t in first])
        if again:
            torch._foreach_add_([row[t] for t in again], [gradients[t].to_dense() for t in again])

    def by_rows(self, model: nn.Module, *sizes: Sequence[int]) -> AbstractContextManager[None]:
        """Inside, one forward pass over all tasks' rows and one backward pass add to every task's row.

        Rows of different tasks never meet in a layer. So the gradients of the activations are those of the sum of the
        losses, and only the weight gradients must be computed task by task: dW_t = dY[rows of t]^T X[rows of t]. The
        weights take no gradient in their layer's call; a hook on its output computes it from dY, at the plain sum's
        price.

        Args:   model: uses each shared parameter only in one call of its layer, on the rows of all tasks, task after
                task along the first axis.
                sizes: how many of these rows each task has, (T,). Layers may differ (sentences, tokens): give one for
                each kind; their sums tell them apart.
        Raises: ValueError for a parameter with another use, or where no size fits; TypeError for a layer that has no
                rule in optim/split_rules.py.
        """
        if any(len(size) != len(self.tasks) for size in sizes):
            expected = f"expected {len(self.tasks)} numbers each, one a task and 0 for a task without rows"
            raise ValueError(f"sizes: {expected}; found {' and '.join(map(str, sizes))}")
        self._clear()
        return split_by_rows(model, self.shared, sizes, self._add)

    def sizes(self, counts: Mapping[str, Sequence[int]]) -> list[list[int]]:
        """The `sizes` of by_rows, from each task's counts of sentences, tokens, ...; 0 for tasks that are absent."""
        kinds = len(next(iter(counts.values())))
        return [[counts[task][kind] if task in counts else 0 for task in self.tasks] for kind in range(kinds)]

    def gramian(self) -> Tensor:
        """(T, T) float64 on the CPU, of the gradients with their loss scale. What is not finite shows on the diagonal.

        It is a sum over columns, and each rank has columns of the summed gradients: the ranks' Gramians add up to it.
        """
        jacobian, touched, _ = self.summed()
        # Every rank has the sparse gradients whole
        own_columns = [values.flatten(1)[:, self.world.own] for _, values in touched.values()]
        own = gramian(jacobian) + sum(map(gramian, own_columns))
        return sum(self.world.gather(own.cpu()))

    def combine(self, weights: Tensor) -> None:
        """Write .grad = sum over tasks of weight * gradient, weights (T,), and forget the task gradients. The sum takes
        the place of the first task's row: no further memory, and one pass over the other rows.

        Raises: ValueError where a shared parameter has a .grad already, which the sum would replace.
        """
        if plain := [tuple(parameter.shape) for parameter in self.shared if parameter.grad is not None]:
            expected = "expected gradients of the shared parameters by `backward` or `by_rows` alone"
            advice = "add a penalty to a task's loss; call .backward() inside the `by_rows` block"
            raise ValueError(f"{expected}; found another in .grad, first of a parameter of shape {plain[0]}; {advice}")
        jacobian, touched, reached = self.summed()
        columns = 1 << (18 if jacobian.is_cpu else 22)  # at a time: a CPU's cache holds so few, a GPU wants many
        weight, *weights = weights.tolist()
        for total, *others in [*jacobian.split(columns, dim=1), *(values for _, values in touched.values())]:
            total.mul_(weight)
            for row, other in zip(others, weights, strict=True):
                total.add_(row, alpha=other)
        self.shards.give(jacobian[0], reached)
        for parameter, (rows, values) in touched.items():
            parameter.grad = sparse_rows(rows, values[0], parameter.shape, is_coalesced=True)
        self.forget()

    def summed(self) -> tuple[Tensor, dict[Tensor, tuple[Tensor, Tensor]], list[Tensor]]:
        """The task gradients, summed over the ranks.

        Returns: this rank's columns of the Jacobian (T, S), zero where a task did not reach a parameter;
                 for each sparse parameter that a task reached: the numbers of the R rows that any task reached, and
                 the tasks' gradients of these rows (T, R, D);
                 the parameters that any task reached.
        """
        if self._summed is None:
            empty = [view[t] for key, view in self.views.items() for t, g in enumerate(self.rows[key]) if g is None]
            if empty:
                torch._foreach_zero_(empty)
            reached = self.shards.reached(any(g is not None for g in row) for row in self.rows.values())
            touched = {parameter: self._touched(parameter) for parameter in reached if parameter in self.sparse}
            self._summed = self.world.reduce_scatter(self.jacobian), touched, reached
        return self._summed

    def _touched(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and gradients (see `summed`) of a sparse parameter that a task reached, on this rank or another."""
        reached = [(t, gradient) for t, gradient in enumerate(self.rows[parameter]) if gradient is not None]
        indices = [F.pad(gradient._indices(), (0, 0, 1, 0), value=t).T for t, gradient in reached]  # (n, 2): task, row
        indices = self.world.gather_rows(torch.cat(indices) if indices else None)
        values = self.world.gather_rows(torch.cat([gradient._values() for _, gradient in reached]) if reached else None)
        rows, places = indices[:, 1].unique(return_inverse=True)
        gradients = parameter.new_zeros(len(self.tasks) * len(rows), parameter.shape[1])
        gradients.index_add_(0, indices[:, 0] * len(rows) + places, values)
        return rows, gradients.view(len(self.tasks), len(rows), -1)


class Conflict(NamedTuple):
    """What a step's gradients were, before clipping."""

    gramian: Tensor | None  # (T, T) float64 on the CPU; None without surgery
    infinite: list[str]  # the tasks whose gradient of the shared parameters is infinite or NaN; [] without surgery
    norm: float  # of the combined gradient and all others together; inf where it is not finite

    @property
    def problem(self) -> str:
        """Why the step must be skipped; "" where it need not."""
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

    Where a task's gradient of the shared parameters is not finite there is no surgery. Where any is not, the result
    has a `problem`, and the caller skips the step.
    Args: surgery: None for the plain sum.
          parameters: all whose gradients count in the norm, or their `Shards.pieces`.
          max_norm: of all gradients together, without `scale`.
          generator: a CPU generator for the surgery's random draws.
          scale: a GradScaler's factor of the losses. .grad keeps it; what is returned does not have it.
          losses: each task's, for the surgeries that read them.
    """
    weights = torch.ones(len(gradients.tasks))
    if surgery is None:
        gradients.combine(weights)
        return Conflict(None, [], clip_gradients(parameters, max_norm * scale, world=gradients.world) / scale)
    products, norm = gradients.gramian() / scale**2, math.inf
    infinite = [task for task, g in zip(gradients.tasks, products.diagonal(), strict=True) if not g.isfinite()]
    if not infinite:
        surgery.losses = torch.tensor([float(loss) for loss in losses]) if len(losses) else None
        weights = surgery.weights(products, generator)
        others = combined_norm(weights, products) * scale
        norm = clip_gradients(parameters, max_norm * scale, others, gradients.world) / scale
    clip = max_norm / norm if max_norm < norm < math.inf else 1.0
    gradients.combine(weights * clip)  # the weights are clipped, which saves a pass over .grad
    return Conflict(products, infinite, norm)
