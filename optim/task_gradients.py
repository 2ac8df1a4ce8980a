"""From the tasks' losses to .grad: each task's gradient of the shared parameters, surgery, their combination.

Letters: T tasks, P shared parameters' elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from optim.split_rules import RULES
from optim.surgery import gramian


class TaskGradients:
    """The gradients of one step, by task, of the parameters that tasks share.

        gradients = TaskGradients(tasks, shared)
        for each micro-batch and task: gradients.backward(task, loss)           # the plain form, or in one pass:
        with gradients.by_rows(model, sizes): sum(losses of all tasks).backward()
        gradients.combine(pcgrad_weights(gradients.gramian(), generator))       # writes .grad of the shared parameters
        clip, optimizer.step(), zero_grad

    Parameters outside `shared` get their plain gradient from the same backward passes, bit for bit. A shared parameter
    that is frozen, or that no task reached, keeps .grad None; one that only some tasks reached counts as zero in the
    others. A second backward of a task adds to its first (accumulation), so surgery is done once, on whole gradients.
    """

    def __init__(self, tasks: Sequence[str], shared: Sequence[Tensor]):
        self.tasks = list(tasks)
        self.shared = [parameter for parameter in shared if parameter.requires_grad]
        self.rows: dict[str, list[Tensor | None]] = {task: [None] * len(self.shared) for task in self.tasks}

    def backward(self, task: str, loss: Tensor) -> None:
        """Add the loss's gradients: shared parameters' to the task's row, all others' to their .grad.

        Each task's graph is its own and is freed at once. The row is what autograd accumulates into: no copies.
        """
        for parameter, gradient in zip(self.shared, self.rows[task], strict=True):
            parameter.grad = gradient
        loss.backward()
        self.rows[task] = [parameter.grad for parameter in self.shared]
        for parameter in self.shared:
            parameter.grad = None

    @contextmanager
    def by_rows(self, model: nn.Module, *sizes: Sequence[int]) -> Iterator[None]:
        """Inside, one forward pass over all tasks' rows and one backward pass add to every task's row.

        Rows of different tasks never meet in a layer, so the gradients of the activations are those of the sum of the
        losses, and only the weights' have to be taken task by task, dW_t = dY[rows of t]^T X[rows of t]. It is what
        `backward` finds, for the price of the plain sum.

        Args:   model: where the shared parameters are. A layer that owns one is called with the rows of all tasks, one
                task after another on the first axis, and its weights are used by its calls alone.
                sizes: of each task, how many of a layer's rows are its own, (T,); several where layers differ in it
                (sentences, tokens). The sum of the first axis tells which holds.
        Raises: TypeError for a shared parameter in a layer without a rule; ValueError where no size fits.
        """
        bounds = {sum(size): [slice(*ends) for ends in pairwise(accumulate(size, initial=0))] for size in sizes}
        place = {parameter: k for k, parameter in enumerate(self.shared)}
        handles = []
        for name, layer in model.named_modules():
            owned = {key: place[p] for key, p in layer.named_parameters(recurse=False) if p in place}
            if owned and type(layer) not in RULES:
                known = ", ".join(kind.__name__ for kind in RULES)
                raise TypeError(f"{name}: expected one of {known}; found {type(layer).__name__}; add a rule for it")
            if owned:
                handles.append(layer.register_forward_hook(partial(self._note, owned, bounds)))
        for parameter in self.shared:  # autograd is to leave them out
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.shared:
                parameter.requires_grad_()
            for handle in handles:
                handle.remove()

    def _note(
        self, owned: dict[str, int], bounds: dict[int, list[slice]], layer: nn.Module, inputs: tuple, y: Tensor
    ) -> None:
        """Have y's gradient, once it is known, split by task."""
        (x,) = inputs
        if len(x) not in bounds:
            expected = " or ".join(map(str, bounds))
            raise ValueError(f"sizes: expected {expected} rows, those of all tasks; found {len(x)} in {layer}")

        def split(dy: Tensor) -> None:
            for task, rows in zip(self.tasks, bounds[len(x)], strict=True):
                if rows.start == rows.stop:
                    continue
                found = RULES[type(layer)](layer, x[rows], dy[rows])
                for name, k in owned.items():
                    gradient, before = found[name].to(self.shared[k].dtype), self.rows[task][k]
                    self.rows[task][k] = gradient if before is None else before.add_(gradient)

        if not y.requires_grad:  # all below is frozen, or takes no gradient, like token ids
            y.requires_grad_()
        y.register_hook(split)

    def gramian(self) -> Tensor:
        """Inner products of the task gradients, scaled as the losses were: (T, T) float64.

        A gradient that holds an infinite or undefined number shows in its place on the diagonal.
        """
        device = self.shared[0].device if self.shared else None
        total = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64, device=device)
        for parameter, gradients in self._reached():
            total += gramian([gradient.flatten() for gradient in alike(parameter, gradients)])
        return total

    def combine(self, weights: Tensor) -> None:
        """Write .grad = sum over tasks of weight * gradient, weights (T,), and forget the rows."""
        for parameter, gradients in self._reached():
            parameter.grad = None
            for weight, gradient in zip(weights.tolist(), gradients, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = dense(gradient).mul_(weight)
                else:
                    parameter.grad.add_(gradient, alpha=weight)
        self.rows = {task: [None] * len(self.shared) for task in self.tasks}

    def _reached(self) -> Iterator[tuple[Tensor, list[Tensor | None]]]:
        """Each shared parameter that some task reached, with its gradient in each task."""
        for k, parameter in enumerate(self.shared):
            gradients = [self.rows[task][k] for task in self.tasks]
            if any(gradient is not None for gradient in gradients):
                yield parameter, gradients


def dense(gradient: Tensor) -> Tensor:
    """The gradient as it is, or, of an embedding with sparse=True, with its zeros written out."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def alike(parameter: Tensor, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """One parameter's task gradients as dense tensors of one shape, with the inner products that they have.

    An embedding's sparse gradients are zero but for the few hundred rows of the step's tokens: only the rows that any
    task touched are kept.
    """
    found = [gradient for gradient in gradients if gradient is not None]
    if all(gradient.is_sparse for gradient in found):
        found = [gradient.coalesce() for gradient in found]
        touched = torch.cat([gradient.indices()[0] for gradient in found]).unique()
        found = [gradient.index_select(0, touched) for gradient in found]
    nothing, filled = parameter.new_zeros(found[0].shape), iter(found)
    return [nothing if gradient is None else dense(next(filled)) for gradient in gradients]
