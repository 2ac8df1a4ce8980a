"""ConFIG (Liu, Chu and Thuerey 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks").

The direction that has the same cosine with every task's gradient, as long as the sum of their projections on it:

    a = C^+ 1 / d        w = (1 . G a / a . G a) a

C the cosines, d_i = |g_i|. IMTL-G has the same direction where the gradients do not depend on each other.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian, cosines


class ConFIG(Surgery):
    """A gradient of zero has weight 0 and no part in the direction. All weights are 0 where no direction exists."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        ones, norms = torch.ones(len(products), dtype=torch.float64), products.diagonal().sqrt()
        a = torch.linalg.pinv(cosines(products).nan_to_num(0), hermitian=True) @ ones / norms
        a = torch.where(norms > 0, a, 0)
        square = a @ products @ a
        return (ones @ products @ a) / square * a if square > 0 else 0 * a
