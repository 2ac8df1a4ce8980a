"""IMTL-G (Liu et al. 2021, "Towards Impartial Multi-Task Learning"): w = G^+ d / (1 . G^+ d), d_i = |g_i|.

The update has the same projection on each task's gradient, whatever their norms. The weights have the sum 1, and may be
negative. As in Quinton and Rey (2024) the pseudo-inverse G^+ also takes gradients that depend on each other.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian


class IMTLG(Surgery):
    """All weights are 0 where their sum, the divisor, is 0."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        weights = torch.linalg.pinv(products, hermitian=True) @ products.diagonal().sqrt()
        total = weights.sum()
        return weights / total if total.abs() > 1e-12 * weights.abs().max() else 0 * weights
