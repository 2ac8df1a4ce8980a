"""How much each task's loss counts: the one place where losses are weighed. A new way is a class and a line here.

    weighed = weigh(losses, generator)                     # before the backward pass
    weigh.update({"sst": 1.1, "sts": 0.2}, again)          # after the optimiser's step

Letters: T tasks; l the losses; w the factors.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn

from optim.adamw import AdamW
from optim.memory import Memory


class Fixed(Memory):
    """w_i = a constant for each task, {"sst": 1.0, "sts": 4.0}; the base of all other ways, whose w it multiplies."""

    def __init__(self, scales: Mapping[str, float]):
        self.scales = scales

    def __call__(self, losses: Mapping[str, Tensor], generator: Generator | None = None) -> dict[str, Tensor]:
        """Losses by task, of all tasks or some -> the same, weighed. generator: a CPU generator for
        random factors, new for each micro-batch, with one seed for all of a step."""
        factors = self.factors({task: loss.detach() for task, loss in losses.items()}, generator)
        return {task: loss * (self.scales[task] * factors[task]) for task, loss in losses.items()}

    def factors(self, losses: Mapping[str, Tensor], generator: Generator | None) -> Mapping[str, float | Tensor]:
        """w by task, at least of the tasks in `losses`."""
        return dict.fromkeys(losses, 1.0)

    def by_task(self, values: Tensor) -> dict[str, float]:
        """(T,), in the order of the scales -> by task"""
        return dict(zip(self.scales, values.tolist(), strict=True))

    def update(self, losses: Mapping[str, float], again: Callable[[], Mapping[str, float]]) -> None:
        """Call it after a step. losses: of the step's rows before it, not weighed. again(): the same after it."""


class Equal(Fixed):
    """Brings losses to one size: w_i = 1 / m_i, divided by the mean of these; m_i a running mean of l_i.

    So it finds the factors c_i with which the paper scales its losses. In the first step w_i = 1.
    beta: in [0, 1), the share of the running mean that stays in each step.
    """

    remembers = ("means", "steps")

    def __init__(self, scales: Mapping[str, float], beta: float = 0.99):
        super().__init__(scales)
        if not 0 <= beta < 1:
            raise ValueError(f"beta: expected a number in [0, 1); found {beta}")
        self.beta, self.means, self.steps = beta, dict.fromkeys(scales, 1.0), 0

    def factors(self, losses: Mapping[str, Tensor], generator: Generator | None) -> Mapping[str, float]:
        inverse = {task: 1 / max(mean, 1e-12) for task, mean in self.means.items()}
        mean = sum(inverse.values()) / len(inverse)
        return {task: value / mean for task, value in inverse.items()}

    def update(self, losses: Mapping[str, float], again: Callable[[], Mapping[str, float]]) -> None:
        self.steps += 1
        share = (1 - self.beta) / (1 - self.beta**self.steps)  # 1 in the first step: no bias towards the first means, 1
        self.means = {task: (1 - share) * self.means[task] + share * loss for task, loss in losses.items()}


class DynamicAverage(Fixed):
    """DWA (Liu et al. 2019, "End-To-End Multi-Task Learning With Attention", equation 7).

        w = T softmax(r / temperature),   r_i = L_i(t - 1) / L_i(t - 2)

    A loss that falls slowly counts more. L(t) is the mean loss of the t-th interval of `steps` steps (in the paper, an
    epoch); w_i = 1 in the first two.
    """

    remembers = ("sums", "count", "ratios", "before")

    def __init__(self, scales: Mapping[str, float], temperature: float = 2.0, steps: int = 50):
        super().__init__(scales)
        if not (temperature > 0 and steps >= 1):
            raise ValueError(f"expected temperature > 0 and steps >= 1; found {temperature}, {steps}")
        self.temperature, self.steps = temperature, steps
        self.sums, self.count, self.ratios = dict.fromkeys(scales, 0.0), 0, dict.fromkeys(scales, 1.0)
        self.before: dict[str, float] = {}  # the mean losses of the last whole interval

    def factors(self, losses: Mapping[str, Tensor], generator: Generator | None) -> Mapping[str, float]:
        ratios = torch.tensor([self.ratios[task] for task in self.scales], dtype=torch.float64)
        return self.by_task(len(ratios) * (ratios / self.temperature).softmax(0))

    def update(self, losses: Mapping[str, float], again: Callable[[], Mapping[str, float]]) -> None:
        self.sums = {task: self.sums[task] + loss for task, loss in losses.items()}
        self.count += 1
        if self.count >= self.steps:  # more where a resumed run has fewer steps
            means = {task: total / self.count for task, total in self.sums.items()}
            if self.before:
                self.ratios = {task: mean / max(self.before[task], 1e-12) for task, mean in means.items()}
            self.before, self.sums, self.count = means, dict.fromkeys(means, 0.0), 0


class Random(Fixed):
    """RLW (Lin et al. 2022): w = T softmax(a draw from the standard normal), anew in each step. The paper has no T.

    Needs a generator, so that each micro-batch of a step has the same.
    """

    def factors(self, losses: Mapping[str, Tensor], generator: Generator | None) -> Mapping[str, float]:
        draw = torch.randn(len(self.scales), generator=generator, dtype=torch.float64).softmax(0)
        return self.by_task(len(draw) * draw)


class Learned(Fixed):
    """Ways that learn a number x_i for each task, 0 at first, by Adam."""

    def __init__(self, scales: Mapping[str, float], lr: float = 0.025):
        super().__init__(scales)
        if not 0 < lr < math.inf:
            raise ValueError(f"lr: expected a number above 0; found {lr}")
        self.x = nn.Parameter(torch.zeros(len(scales), dtype=torch.float64))
        self.optimizer = AdamW([self.x], lr=lr, weight_decay=0.0)

    def descend(self, slope: Tensor) -> None:
        self.x.grad = slope
        self.optimizer.step()

    def state_dict(self) -> dict:
        moments = {name: value.tolist() for name, value in self.optimizer.state[self.x].items() if name != "step"}
        return {"x": self.x.tolist(), "moments": moments, "step": self.optimizer.state[self.x].get("step", 0)}

    def load_state_dict(self, state: dict) -> None:
        self.x.data = torch.tensor(state["x"], dtype=torch.float64)
        moments = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["moments"].items()}
        self.optimizer.state[self.x] = moments | ({"step": state["step"]} if moments else {})


class Uncertainty(Learned):
    """Kendall et al. 2018 ("Multi-Task Learning Using Uncertainty to Weigh Losses"): w_i = e^-x_i / 2.

    x_i is the logarithm of the task's variance, learned with the model by the sum of  e^-x_i l_i / 2 + x_i / 2. That is
    what the paper has for regression; in its equation 10 a classification's loss has no 1/2.
    lr: the learning rate of x. The paper takes the model's, which in fine-tuning is too small for x to move.
    """

    def factors(self, losses: Mapping[str, Tensor], generator: Generator | None) -> Mapping[str, float]:
        return self.by_task((-self.x.detach()).exp() / 2)

    def update(self, losses: Mapping[str, float], again: Callable[[], Mapping[str, float]]) -> None:
        x = self.x.detach()
        self.descend((1 - (-x).exp() * torch.tensor([losses[task] for task in self.scales], dtype=torch.float64)) / 2)


class Famo(Learned):
    """FAMO (Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization", algorithm 1): all losses fall at one rate.

        z = softmax(x),   w_i = (z_i / l_i) / sum_j (z_j / l_j)
        x <- Adam(x, J_z^T (log l - log l') + decay x),   l' the losses of the same rows after the step

    J_z the softmax's Jacobian. l' costs a forward pass a step. Each micro-batch of a step is weighed by its own l; for
    a task that is not in it counts the l of the step's last one that had it. (Each rank knows its own rows alone.)
    """

    def __init__(self, scales: Mapping[str, float], lr: float = 0.025, decay: float = 0.01):
        super().__init__(scales, lr)
        if not 0 <= decay < math.inf:
            raise ValueError(f"decay: expected 0 or more; found {decay}")
        self.decay = decay
        self.shares: dict[str, Tensor] = {}  # z / l of the step so far

    def factors(self, losses: Mapping[str, Tensor], generator: Generator | None) -> Mapping[str, Tensor]:
        z = self.by_task(self.x.detach().softmax(0))
        self.shares |= {task: z[task] / loss.clamp(min=1e-8) for task, loss in losses.items()}
        total = sum(self.shares.values())
        return {task: share / total for task, share in self.shares.items()}

    def update(self, losses: Mapping[str, float], again: Callable[[], Mapping[str, float]]) -> None:
        after, x = again(), self.x.detach()
        self.shares = {}
        fall = [math.log(max(losses[task], 1e-8)) - math.log(max(after[task], 1e-8)) for task in self.scales]
        z, fall = x.softmax(0), torch.tensor(fall, dtype=torch.float64)
        self.descend(z * (fall - z @ fall) + self.decay * x)


WEIGHINGS: dict[str, type[Fixed]] = {
    "fixed": Fixed,
    "equal": Equal,
    "uncertainty": Uncertainty,
    "dwa": DynamicAverage,
    "famo": Famo,
    "rlw": Random,
}
