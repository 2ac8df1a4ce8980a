"""IMTL-G (Liu et al. 2021, "Towards Impartial Multi-Task Learning"): w = a / (1 . a), with G a = d, d_i = |g_i|.

The update has the same projection on each task's gradient, whatever their norms: ConFIG's direction, of another length.
The weights have the sum 1, and may be negative. Where 1 . a is negative (three tasks or more, one short and between the
others), the division turns ConFIG's direction round, and every loss rises: so the paper has it.
"""

from torch import Generator, Tensor

from optim.surgery.config import equal_cosines
from optim.surgery.gramian import Surgery, check_gramian


class IMTLG(Surgery):
    """All weights are 0 where their sum, the divisor, is 0."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        weights = equal_cosines(check_gramian(gramian))
        total = weights.sum()
        return weights / total if total.abs() > 1e-12 * weights.abs().max() else 0 * weights
