"""Gradient Vaccine (Wang et al. 2021, "Gradient Vaccine: Investigating and Improving Multi-task Optimization in
Massively Multilingual Models", algorithm 1).

PCGrad asks for a cosine of at least 0; here each pair of gradients has a target of its own, a running mean of its past
cosines. With g_i = c @ J, n its norm, d_j = |g_j| and phi the cosine of the two:

    c_j <- c_j + n (target sqrt(1 - phi^2) - phi sqrt(1 - target^2)) / (d_j sqrt(1 - target^2))    where phi < target
    target <- (1 - beta) target + beta phi
"""

import math

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian


class GradVac(Surgery):
    """beta: in [0, 1], how fast the targets follow; 0.01 in the paper. The targets start at 0, which is PCGrad."""

    remembers = ("targets",)

    def __init__(self, beta: float = 0.01):
        if not 0 <= beta <= 1:
            raise ValueError(f"beta: expected a number in [0, 1]; found {beta}")
        self.beta, self.targets = beta, None

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        tasks, norms = len(products), products.diagonal().sqrt().tolist()
        before = self.targets or [[0.0] * tasks] * tasks
        if len(before) != tasks:
            raise ValueError(f"gramian: expected {len(before)} tasks, as before; found {tasks}")
        self.targets = [row.copy() for row in before]  # state_dict has given the old ones away
        combinations = torch.eye(tasks, dtype=torch.float64)
        for i in range(tasks):
            c, targets = combinations[i], self.targets[i]  # both are changed in place
            for place in torch.randperm(tasks - 1, generator=generator).tolist():
                j = place + (place >= i)  # place is among the others
                norm = (c @ products @ c).clamp(min=0).sqrt().item()
                if not norm * norms[j]:
                    continue  # a gradient of zero has no direction
                phi = min(1.0, max(-1.0, (c @ products[:, j]).item() / (norm * norms[j])))
                target = targets[j]
                if phi < target < 1:
                    sine, target_sine = math.sqrt(1 - phi**2), math.sqrt(1 - target**2)
                    c[j] += norm * (target * sine - phi * target_sine) / (norms[j] * target_sine)
                targets[j] = (1 - self.beta) * target + self.beta * phi
        return combinations.sum(0)
