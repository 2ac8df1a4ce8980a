"""DB-MTL (Lin et al. 2023, "Dual-Balancing for Multi-Task Learning", algorithm 1), without its running mean (beta = 0).

Balances the losses by taking their logarithms, whose gradients are g_i / l_i; then makes these gradients, of the norms
n_i = |g_i| / l_i, all as long as the longest:  w_i = (max n / n_i) / l_i = max n / |g_i|
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian


class DBMTL(Surgery):
    """Also reads the step's losses. All weighed gradients are equally long; one of zero has the weight 0.

    A loss counts as 1e-8 or more, for in float32 the loss of a task that is learned can be exactly 0.
    """

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        if self.losses is None:
            raise ValueError("losses: expected the step's, (T,), in surgery.losses; found none")
        norms = check_gramian(gramian).diagonal().sqrt()
        longest = (norms / self.losses.double().clamp(min=1e-8)).max()
        return torch.where(norms > 0, longest / norms, 0)
