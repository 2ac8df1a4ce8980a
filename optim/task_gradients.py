"""From the tasks' losses to .grad: each task's gradient of the shared parameters, surgery, their combination.

Letters: T tasks, P shared parameters' elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from optim.split_rules import RULES, Rule, rule_of, sparse_rows
from optim.surgery import gramian

# Columns of the Jacobian at a time. On a CPU what is made of them stays in its cache; a GPU wants large operations.
COLUMNS = {"cpu": 1 << 18, "cuda": 1 << 22}


class TaskGradients:
    """The gradients of a step, by task, of the parameters that tasks share. Made once, used in every step:

        for each micro-batch:
            with gradients.by_rows(model, sizes): sum(losses of all tasks).backward()
        gradients.combine(pcgrad_weights(gradients.gramian(), generator))       # writes .grad of the shared parameters
        clip, optimizer.step(), zero_grad

    The plain form, `backward` for one task's loss after the other, finds the same at T times the price: it is what
    by_rows is tested against, and for models that by_rows cannot take.

    Parameters outside `shared` get their plain gradient from the same backward passes, bit for bit. A shared parameter
    that is frozen, or that no task reached, keeps .grad None; one that only some tasks reached counts as zero in the
    others. A second backward of a task adds to its first (accumulation), so surgery is done once, on whole gradients.

    The task gradients lie in one (T, P) buffer, the Jacobian, whose memory every step uses again; .grad is a view of
    it, good until the next step's first backward pass. Those of `sparse` parameters, an embedding's with sparse=True,
    lie beside it as the rows that the step's tokens name, and so does their .grad.
    """

    def __init__(self, tasks: Sequence[str], shared: Sequence[Tensor], sparse: Sequence[Tensor] = ()):
        self.tasks = list(tasks)
        self.shared = [parameter for parameter in shared if parameter.requires_grad]
        self.sparse = {k for k, parameter in enumerate(self.shared) if any(parameter is other for other in sparse)}
        sizes = [0 if k in self.sparse else parameter.numel() for k, parameter in enumerate(self.shared)]
        self.spans = list(pairwise(accumulate(sizes, initial=0)))  # of each parameter, in the Jacobian's columns
        self.forget()

    @cached_property
    def jacobian(self) -> Tensor:
        """(T, P), of the parameters that are not sparse; memory alone until gradients are added."""
        like = self.shared[0] if self.shared else torch.empty(0)
        return like.new_empty(len(self.tasks), self.spans[-1][1] if self.spans else 0)

    @cached_property
    def views(self) -> dict[str, list[Tensor]]:
        """By task, where the Jacobian holds its gradient of each parameter, in its shape; of a sparse one nothing."""
        shapes = [(0,) if k in self.sparse else parameter.shape for k, parameter in enumerate(self.shared)]
        places = list(zip(self.spans, shapes, strict=True))
        return {
            task: [row[first:end].view(shape) for (first, end), shape in places]
            for task, row in zip(self.tasks, self.jacobian, strict=True)
        }

    def forget(self) -> None:
        """Drop what was added since the last `combine`: the step is made anew."""
        # By task, of each parameter: a view of the Jacobian, a sparse gradient, or None, not reached.
        self.rows: dict[str, list[Tensor | None]] = {task: [None] * len(self.shared) for task in self.tasks}
        self._of_touched: list[tuple[Tensor, Tensor, Tensor]] | None = None  # what _touched has found in them

    def backward(self, task: str, loss: Tensor) -> None:
        """Add the loss's gradients: shared parameters' to the task's row, all others' to their .grad.

        Each task's graph is its own and is freed at once.
        """
        loss.backward()
        for k, parameter in enumerate(self.shared):
            if parameter.grad is not None:
                self._add(task, k, parameter.grad)
                parameter.grad = None

    def _add(self, task: str, k: int, gradient: Tensor) -> None:
        row, self._of_touched = self.rows[task], None
        if row[k] is not None:
            row[k].add_(gradient)
        elif k in self.sparse:
            row[k] = gradient
        else:
            row[k] = self.views[task][k].copy_(gradient.to_dense())

    @contextmanager
    def by_rows(self, model: nn.Module, *sizes: Sequence[int]) -> Iterator[None]:
        """Inside, one forward pass over all tasks' rows and one backward pass add to every task's row.

        Rows of different tasks never meet in a layer, so the gradients of the activations are those of the sum of the
        losses, and only the weights' have to be taken task by task, dW_t = dY[rows of t]^T X[rows of t]. So autograd is
        told that the shared weights take no gradient, which spares it their sums over all rows, and a hook on each
        layer's output takes the gradients of the layer's weights from dY. The price is that of the plain sum.

        Args:   model: where the shared parameters are. A layer that owns one is called with the rows of all tasks, one
                task after another on the first axis, and its weights are used by its calls alone.
                A subclass of a layer that has a rule is taken to compute the same.
                sizes: of each task, how many of a layer's rows are its own, (T,); several where layers differ in it
                (sentences, tokens). The sum of the first axis tells which holds.
        Raises: TypeError for a shared parameter in a layer without a rule; ValueError where no size fits, or two do.
        """
        bounds = {sum(size): [slice(*ends) for ends in pairwise(accumulate(size, initial=0))] for size in sizes}
        if len(bounds) < len({tuple(size) for size in sizes}):
            raise ValueError(f"sizes: expected different sums; found {' and '.join(map(str, sizes))}")
        place = {parameter: k for k, parameter in enumerate(self.shared)}
        handles = []
        for name, layer in model.named_modules():
            owned = {key: place[p] for key, p in layer.named_parameters(recurse=False) if p in place}
            rule = rule_of(layer)
            if owned and rule is None:
                known = ", ".join(kind.__name__ for kind in RULES)
                raise TypeError(f"{name}: expected one of {known}; found {type(layer).__name__}; add a rule for it")
            if owned:
                handles.append(layer.register_forward_hook(partial(self._note, rule, owned, bounds)))
        for parameter in self.shared:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.shared:
                parameter.requires_grad_()
            for handle in handles:
                handle.remove()

    def _note(
        self,
        rule: Rule,
        owned: dict[str, int],
        bounds: dict[int, list[slice]],
        layer: nn.Module,
        inputs: tuple,
        y: Tensor,
    ) -> None:
        """Have y's gradient, once it is known, split by task."""
        (x,) = inputs
        if len(x) not in bounds:
            expected = " or ".join(map(str, bounds))
            raise ValueError(f"sizes: expected {expected} rows, those of all tasks; found {len(x)} in {layer}")

        def split(dy: Tensor) -> None:
            for task, rows in zip(self.tasks, bounds[len(x)], strict=True):
                if rows.start < rows.stop:
                    gradients = rule(layer, x[rows], dy[rows])
                    for name, k in owned.items():
                        self._add(task, k, gradients[name])

        if not y.requires_grad:  # nothing below takes a gradient, so autograd would not come here: ask it to
            y.requires_grad_()
        y.register_hook(split)

    def gramian(self) -> Tensor:
        """Inner products of the task gradients, scaled as the losses were: (T, T) float64.

        A gradient that holds an infinite or undefined number shows in its place on the diagonal.
        """
        total = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64, device=self.jacobian.device)
        for first, end in self._columns():
            total += gramian(self.jacobian[:, first:end])
        for _, _, values in self._touched():
            total += gramian(values.flatten(1))
        return total

    def combine(self, weights: Tensor) -> None:
        """Write .grad = sum over tasks of weight * gradient, weights (T,), and forget the rows.

        The sum is made in the place of the first task's row: no memory of its own, and one pass over the others.
        """
        weights, columns = weights.tolist(), COLUMNS.get(self.jacobian.device.type, COLUMNS["cuda"])
        for first, end in self._columns():
            for block in self.jacobian[:, first:end].split(columns, dim=1):  # (T, C)
                weighted_sum(block, weights)
        for k, parameter in enumerate(self.shared):
            reached = k not in self.sparse and any(row[k] is not None for row in self.rows.values())
            parameter.grad = self.views[self.tasks[0]][k] if reached else None
        for parameter, touched, values in self._touched():
            total = weighted_sum(values, weights)
            parameter.grad = sparse_rows(touched, total, parameter.shape, is_coalesced=True)
        self.forget()

    def _columns(self) -> list[tuple[int, int]]:
        """The Jacobian's columns of all parameters that some task reached, made zero in tasks that did not reach them.

        As first column and end; neighbouring parameters are one such span.
        """
        spans: list[tuple[int, int]] = []
        for k, (first, end) in enumerate(self.spans):
            missing = [task for task, row in self.rows.items() if row[k] is None]
            if first == end or len(missing) == len(self.tasks):
                continue
            for task in missing:
                self.views[task][k].zero_()
            if spans and spans[-1][1] == first:  # goes on where the span before ends
                first, _ = spans.pop()
            spans.append((first, end))
        return spans

    def _touched(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each sparse parameter that some task reached, the R of its rows that any did, and their gradients (T, R, D).

        Of a word embedding a step touches a few hundred rows: all others are zero in every task.
        """
        if self._of_touched is not None:
            return self._of_touched
        self._of_touched = []
        for k in sorted(self.sparse):
            found = {t: self.rows[task][k] for t, task in enumerate(self.tasks) if self.rows[task][k] is not None}
            if not found:
                continue
            indices = [gradient._indices()[0] for gradient in found.values()]
            touched, places = torch.cat(indices).unique(return_inverse=True)
            values = self.shared[k].new_zeros(len(self.tasks), len(touched), self.shared[k].shape[1])
            for (t, gradient), place in zip(found.items(), places.split([len(i) for i in indices]), strict=True):
                values[t].index_add_(0, place, gradient._values())
            self._of_touched.append((self.shared[k], touched, values))
        return self._of_touched


def weighted_sum(rows: Tensor, weights: Sequence[float]) -> Tensor:
    """rows: (T, ...) -> their sum, weighted, in the place of the first of them: (...)"""
    total, *others = rows
    total.mul_(weights[0])
    for row, weight in zip(others, weights[1:], strict=True):
        total.add_(row, alpha=weight)
    return total
