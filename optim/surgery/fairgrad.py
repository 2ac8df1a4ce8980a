"""FairGrad (Ban and Ji 2024, "Fair Resource Allocation in Multi-Task Learning", equation 4): G w = w^(-1/p).

What a step does for a task's loss, (G w)_i, is shared out alpha-fairly, as bandwidth is: p = 1 is proportional
fairness, which is Nash-MTL's; the larger p, the more it favours the task that gains least.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian

RIDGE = 1e-10  # share of the diagonal added to it: where a convex sum of the gradients is 0, weights would be infinite


class FairGrad(Surgery):
    """p: above 0, at most 20. The weights are positive; a gradient of zero has the weight 0.

    Solved by Newton's method, as w minimises the convex  w G w / 2 - sum of the integral of w^(-1/p). (With p = 30 it
    may take thousands of steps.)
    """

    def __init__(self, p: float = 1.0):
        if not 0 < p <= 20:
            raise ValueError(f"p: expected a number above 0, at most 20; found {p}")
        self.p = p

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        nonzero, weights = products.diagonal() > 0, torch.zeros(len(products), dtype=torch.float64)
        products = products[nonzero][:, nonzero]
        if len(products):
            weights[nonzero] = self.solve(products + RIDGE * products.diagonal().diag())
        return weights

    def solve(self, products: Tensor) -> Tensor:
        """w for gradients none of which is zero."""
        power = 1 / self.p

        def slope(w: Tensor) -> Tensor:
            return products @ w - w**-power

        w = products.diagonal() ** (-1 / (1 + power))  # exact for orthogonal gradients
        for _ in range(200):
            curvature = products + power * (w ** (-power - 1)).diag()
            here = slope(w)
            step = torch.linalg.solve(curvature, here)
            largest = (step / w).max().item()
            if largest > 0.9:  # the most that a step may take of a weight
                step *= 0.9 / largest
            while slope(w - step) @ step < -1e-3 * (here @ step).abs():  # beyond the minimum it points back
                step /= 2
            w = w - step
            if ((step / w).abs() < 1e-13).all():
                break
        return w
