"""AdamW, by hand (Loshchilov and Hutter 2019, algorithm 2, with bias correction, in the order of torch.optim.AdamW)."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")  # m and v, by the names that torch.optim.AdamW has for them
ROWS = 512  # of a table updated at a time: they fit a CPU's cache, which halves the time where most rows change


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

        p <- p - lr * weight_decay * p
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g * g
        p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    A parameter whose .grad is None is left alone: it is neither moved nor decayed, and its t does not count. A sparse
    gradient (of an embedding with sparse=True) has the same effect as the dense one, with eps > 0.
    Args:   params: parameters or parameter groups, each with its own settings if wanted; lr >= 0 is the step size,
            betas in [0, 1), eps >= 0 outside the root, weight_decay >= 0 a rate per unit of lr; else ValueError. Those
            of a group are not checked.
    """

    def __init__(self, params, lr: float = 1e-3, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2):
        beta1, beta2 = betas
        bounds = [("lr", lr, math.inf), ("eps", eps, math.inf), ("weight_decay", weight_decay, math.inf)]
        bounds += [("betas", beta1, 1), ("betas", beta2, 1)]
        for name, value, bound in bounds:
            if not 0 <= value < bound:
                raise ValueError(f"{name}: expected 0 <= {name} < {bound}; found {value}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient; returns the closure's loss."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            together = defaultdict(list)  # on a GPU: (decay, *settings), t among them -> tensors of `move`
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, together)
            for settings, tensors in together.items():
                move_together(tensors, *settings)
        return loss

    def _update(self, parameter: Tensor, group: dict, together: dict[tuple, list]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        if not state:
            state.update({"step": 0, **{name: torch.zeros_like(parameter) for name in MOMENTS}})  # t, m, v
        state["step"] += 1
        decay = group["lr"] * group["weight_decay"]
        settings = (group["lr"], *group["betas"], group["eps"], state["step"])
        if gradient.is_sparse:
            parameter.mul_(1 - decay)
            move_rows(parameter, gradient.coalesce(), state, settings)
            return
        state.pop("touched", None)  # any row may be moved from here on
        tensors = (parameter, gradient, *(state[name] for name in MOMENTS))
        if parameter.is_cpu:
            parameter.mul_(1 - decay)
            move(*tensors, *settings)
        else:
            together[(decay, *settings)].append(tensors)


def move(p: Tensor, g: Tensor, m: Tensor, v: Tensor, lr: float, beta1: float, beta2: float, eps: float, t: int) -> None:
    """AdamW's equations without the decay, in place. All tensors have one shape.

    With r = sqrt(1 - beta2^t), which saves a division for each element:
    m / (1 - beta1^t) / (sqrt(v) / r + eps)  =  r / (1 - beta1^t) * m / (sqrt(v) + r * eps)
    """
    root = math.sqrt(1 - beta2**t)
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    p.addcdiv_(m, v.sqrt().add_(root * eps), value=-lr * root / (1 - beta1**t))


def move_together(
    tensors: list[tuple], decay: float, lr: float, beta1: float, beta2: float, eps: float, t: int
) -> None:
    """`move` for many parameters at once, with their decay. tensors: p, g, m and v of each.

    On a GPU each line is a few launches, and one parameter after the other would be a thousand. On a CPU the tensors'
    way in and out of the cache would cost more than the calls.
    """
    ps, gs, ms, vs = zip(*tensors, strict=True)
    root = math.sqrt(1 - beta2**t)
    torch._foreach_mul_(ps, 1 - decay)
    torch._foreach_lerp_(ms, gs, 1 - beta1)
    torch._foreach_mul_(vs, beta2)
    torch._foreach_addcmul_(vs, gs, gs, value=1 - beta2)
    deviations = torch._foreach_sqrt(vs)
    torch._foreach_add_(deviations, root * eps)
    torch._foreach_addcdiv_(ps, ms, deviations, value=-lr * root / (1 - beta1**t))


def move_rows(table: Tensor, gradient: Tensor, state: dict, settings: tuple) -> None:
    """`move` for a coalesced sparse gradient (V, D): an embedding's, of a step's tokens.

    A row that never had a gradient has moments of zero and does not move. state["touched"] is 1 for all others; they
    move as with a dense gradient, zeros included.
    """
    tensors, step_rows = (table, *(state[name] for name in MOMENTS)), gradient.indices()[0]
    if "touched" not in state:  # the first step, or one after dense gradients
        state["touched"] = (state["exp_avg"].any(dim=1) | state["exp_avg_sq"].any(dim=1)).to(table.dtype)
    state["touched"][step_rows] = 1  # not bool: load_state_dict converts it to the parameter's type
    rows = state["touched"].nonzero()[:, 0]  # (R,)
    dense = table.new_zeros(len(rows), table.shape[1])  # (R, D)
    dense.index_copy_(0, torch.searchsorted(rows, step_rows), gradient.values())
    for part, g in zip(rows.split(ROWS), dense.split(ROWS), strict=True):
        p, m, v = (tensor.index_select(0, part) for tensor in tensors)
        move(p, g, m, v, *settings)
        for tensor, values in zip(tensors, (p, m, v), strict=True):
            tensor.index_copy_(0, part, values)


def decayed_matrices(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups of all trained parameters: matrices decay, vectors (biases, LayerNorm) do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() > 1]
    vectors = [parameter for parameter in trained if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def packed(state: dict) -> dict[str, Tensor]:
    """A parameter's state as tensors, to be stored; of a table's moments only the rows that have ever moved."""
    stored = {name: torch.as_tensor(value) for name, value in state.items()}
    if "touched" in state:
        rows = state["touched"].nonzero()[:, 0]
        for name in MOMENTS:
            stored[name] = state[name][rows]
    return stored


def unpacked(stored: dict[str, Tensor]) -> dict:
    """The state from which `packed` made these tensors."""
    state = {**stored, "step": stored["step"].item()}
    if "touched" in stored:
        rows = stored["touched"].nonzero()[:, 0]
        for name in MOMENTS:
            whole = stored[name].new_zeros(len(stored["touched"]), stored[name].shape[1])
            state[name] = whole.index_copy(0, rows, stored[name])
    return state
