"""Aligned-MTL (Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning", algorithm 1).

The Jacobian's principal components are made equally long, as long as the shortest: with G = V L V.T

    w = sqrt(l_min) V L^(-1/2) V.T 1

with the eigenvalues l > T eps l_max, eps float32's; the others count as zero. That, and the update as a sum over tasks,
are as in the authors' program.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import ROUNDING, Surgery, check_gramian


class AlignedMTL(Surgery):
    """Gradients that are orthogonal and of one norm have weights of 1."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        values, vectors = torch.linalg.eigh(products)
        kept = values > values.max() * len(values) * ROUNDING
        if not kept.any():
            return torch.ones(len(products), dtype=torch.float64)
        values, vectors = values[kept], vectors[:, kept]
        return vectors @ (values.min().sqrt() / values.sqrt() * vectors.sum(0))
