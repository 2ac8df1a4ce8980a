"""ConFIG (Liu, Chu and Thuerey 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks").

The direction that has the same cosine with every task's gradient, as long as the sum of their projections on it:

    a = b / d,  b = C^+ 1        w = (1 . G a / a . G a) a

C the cosines, d_i = |g_i|. IMTL-G has the same direction where the gradients do not depend on each other.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian, cosines


class ConFIG(Surgery):
    """A gradient of zero has weight 0 and no part in the direction. All weights are 0 where no direction exists."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        norms, c = products.diagonal().sqrt(), cosines(products).nan_to_num(0)
        b = torch.linalg.pinv(c, hermitian=True).sum(1)
        a = torch.where(norms > 0, b / norms, 0)
        return (products @ a).sum() / b.sum() * a if b.sum() > 1e-9 else 0 * a  # a . G a = b . C b = 1 . b
