"""MGDA (Désidéri 2012; Sener and Koltun 2018, "Multi-Task Learning as Multi-Objective Optimization").

    w = argmin { w G w : w >= 0, sum w = 1 }

The shortest convex sum of the task gradients: a step against it raises no task's loss, and it is zero where no task can
gain without harm to another. Sener and Koltun approximate it by Frank and Wolfe's steps; here it is exact.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian
from optim.surgery.quadratic import factor, shortest_mean


class MGDA(Surgery):
    """The weights are in [0, 1], with sum 1. A gradient of zero gets all the weight: nothing is shorter."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.from_numpy(shortest_mean(factor(check_gramian(gramian).numpy())))
