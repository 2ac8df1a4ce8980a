"""Nash-MTL (Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", equation 2): G w = 1 / w.

Each task bargains for its gain, and the product of the gains is made as large as it can be. w G w = T, so the update's
norm is sqrt(T) however long the gradients are. Those of zero, and those of which a convex sum is zero, add nothing, and
T is then the number of the others. The authors approximate w by a few convex problems in each step; here it is solved
exactly.
"""

from optim.surgery.fairgrad import FairGrad


class NashMTL(FairGrad):
    """FairGrad with p = 1."""

    def __init__(self):
        super().__init__(p=1.0)
