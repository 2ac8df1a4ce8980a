"""One backward pass over the rows of all tasks, and each weight's gradient task by task: TaskGradients.by_rows.

In its layer's call a weight takes no gradient. A hook on the layer's output y gets dy, the gradient of y, and computes
from it each task's gradient of the weight, by the layer's rule in optim/split_rules.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from optim.split_rules import WAY_OUT, rule_of

Add = Callable[[Tensor, Mapping[int, Tensor]], None]  # takes a parameter and its gradients, by the tasks' numbers


@contextmanager
def split_by_rows(
    model: nn.Module, shared: Sequence[Tensor], sizes: Sequence[Sequence[int]], add: Add
) -> Iterator[None]:
    """Inside, a forward and a backward pass give `add` every task's gradients of the shared parameters.

    sizes and what is raised: see TaskGradients.by_rows. Parameters that are frozen stay so.
    """
    bounds = {sum(size): [slice(*ends) for ends in pairwise(accumulate(size, initial=0))] for size in sizes}
    if len(bounds) < len({tuple(size) for size in sizes}):
        raise ValueError(f"sizes: expected different sums; found {' and '.join(map(str, sizes))}")
    trained, called = {parameter for parameter in shared if parameter.requires_grad}, set()
    with ExitStack() as at_end:
        for parameter in trained:
            at_end.callback(parameter.requires_grad_)
        for prefix, layer in model.named_modules():
            parameters = layer.named_parameters(prefix, recurse=False)
            if owned := {name: parameter for name, parameter in parameters if parameter in trained}:
                hooks = LayerHooks(layer, owned, bounds, called, add)
                at_end.enter_context(layer.register_forward_pre_hook(hooks.before))
                # Ours comes first: dy is the gradient of the layer's own output, whatever other hooks make of it.
                at_end.enter_context(layer.register_forward_hook(hooks.after, prepend=True))
        yield
    reached = [k for k, parameter in enumerate(shared) if parameter.grad is not None]
    if reached:  # by autograd, outside their layers' calls
        names = {parameter: name for name, parameter in model.named_parameters()}
        name = names.get(shared[reached[0]], f"shared[{reached[0]}]")
        for k in reached:
            shared[k].grad = None
        raise ValueError(f"{name}: expected its layer's call alone to use it; found another use; {WAY_OUT}")


class LayerHooks:
    """The hooks of one layer, for one forward and one backward pass.

    weights: the layer's own, by full name. bounds: by the number of rows, each task's slice of them.
    called: the parameters of all layers that were called so far.
    """

    def __init__(
        self, layer: nn.Module, weights: dict[str, Tensor], bounds: dict[int, list[slice]], called: set, add: Add
    ):
        self.weights, self.bounds, self.called, self.add = weights, bounds, called, add
        self.name = next(iter(weights))  # for messages
        self.rule = rule_of(layer, self.name)

    def before(self, layer: nn.Module, inputs: tuple) -> None:
        for parameter in self.weights.values():
            parameter.requires_grad_(False)

    def after(self, layer: nn.Module, inputs: tuple, y: Tensor) -> Tensor:
        for parameter in self.weights.values():
            parameter.requires_grad_()
        if not torch.is_grad_enabled():
            return y
        x = self.checked_input(inputs)
        split = partial(self.split, layer, x, x._version, y.shape)
        if not y.requires_grad:  # nothing below takes a gradient, yet autograd must call `split`
            y.requires_grad_().register_hook(split)
            return y.clone()  # the model may not write to a leaf
        (y if y._base is None else y._base).register_hook(split)  # writing to a view drops the hooks on it
        return y

    def checked_input(self, inputs: tuple) -> Tensor:
        """The layer's input. Raises ValueError for a second call, and for other inputs than the rows of all tasks."""
        if self.called.intersection(self.weights.values()):
            raise ValueError(f"{self.name}: expected one call that uses it; found another; {WAY_OUT}")
        self.called.update(self.weights.values())
        if len(inputs) != 1:
            raise ValueError(f"{self.name}: expected one input, by position; found {len(inputs)}; {WAY_OUT}")
        (x,) = inputs
        if len(x) not in self.bounds:
            expected = f"expected {' or '.join(map(str, self.bounds))} rows"
            advice = f"check sizes, give what is the same for all rows to each of them, or {WAY_OUT}"
            raise ValueError(f"{self.name}: {expected}; found {len(x)}; {advice}")
        return x

    def split(self, layer: nn.Module, x: Tensor, version: int, shape: torch.Size, dy: Tensor) -> None:
        """From dy, the gradient of the layer's output, each task's gradient of the weights."""
        if x._version != version:
            raise ValueError(f"{self.name}: expected its layer's input as it was; found it written to; copy it")
        rows = {t: rows for t, rows in enumerate(self.bounds[len(x)]) if rows.start < rows.stop}
        gradients = self.rule(layer, x, dy.reshape(shape), [*rows.values()])
        for full_name, parameter in self.weights.items():
            self.add(parameter, dict(zip(rows, gradients[full_name.rpartition(".")[2]], strict=True)))
