"""From the tasks' losses to .grad: each task's gradient of the shared parameters, surgery, their combination.

Letters: T tasks, P shared parameters' elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from optim.surgery import gramian


class TaskGradients:
    """The gradients of one step, by task, of the parameters that tasks share.

        gradients = TaskGradients(tasks, shared)
        for each micro-batch and task: gradients.backward(task, loss)
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
