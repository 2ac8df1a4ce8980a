"""Aligned-MTL (Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning", algorithm 1).

The Jacobian's principal components are made equally long, as long as the shortest: with G = V L V.T

    w = sqrt(l_min) V L^(-1/2) V.T 1

with the eigenvalues l > T eps l_max; the others count as zero. The update is a sum over tasks, as in the authors'
program.
"""

import torch
from torch import Generator, Tensor

from optim.surgery.gramian import Surgery, check_gramian


class AlignedMTL(Surgery):
    """Gradients that are orthogonal and of one norm have weights of 1."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        products = check_gramian(gramian)
        values, vectors = torch.linalg.eigh(products)
        kept = values > values.max() * len(values) * torch.finfo(torch.float64).eps
        if not kept.any():
            return torch.ones(len(products), dtype=torch.float64)
        values, vectors = values[kept], vectors[:, kept]
        return vectors @ (values.min().sqrt() / values.sqrt() * vectors.sum(0))
