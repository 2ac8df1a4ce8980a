"""ConFIG (Liu, Chu and Thuerey 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks").

The direction that has the same cosine with every task's gradient, as long as the sum of their projections on it:

    a = b / d,  b = C^+ 1        w = (1 . G a / a . G a) a

C the cosines, C^+ the pseudo-inverse, d_i = |g_i|. Where gradients depend on each other so that no direction has equal
cosines, it is the one whose cosines differ least from a common one.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import ROUNDING, Surgery, check_gramian, cosines


def equal_cosines(products: Tensor) -> Tensor:
    """a, the weights of that direction. products: G (T, T) -> (T,); a gradient of zero has weight 0; all 0 for none."""
    norms, c = products.diagonal().sqrt(), cosines(products).nan_to_num(0)
    b = torch.linalg.pinv(c, rtol=len(c) * ROUNDING, hermitian=True).sum(1)
    return torch.where(norms > 0, b / norms, 0) if b.sum() > 1e-9 else torch.zeros_like(b)


class ConFIG(Surgery):
    """A gradient of zero has weight 0 and no part in the direction. All weights are 0 where no direction exists."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        a = equal_cosines(products)
        square = a @ products.diagonal().sqrt()  # a . G a = b . C b = 1 . b
        return (products @ a).sum() / square * a if square else a
