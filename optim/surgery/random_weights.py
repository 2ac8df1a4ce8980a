"""Random weighting (Lin et al. 2022, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
Learning"): w = softmax(a draw from the standard normal), anew in each step. A baseline for every other method."""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian


class RandomWeights(Surgery):
    """The weights are in (0, 1), with sum 1, and do not depend on the gradients."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.randn(len(check_gramian(gramian)), generator=generator, dtype=torch.float64).softmax(0)
