"""Nash-MTL (Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", equation 2): G w = 1 / w.

Each task bargains for its gain, and the product of the gains is made as large as it can be. w G w = T, so the update's
norm is sqrt(T) whatever the gradients are. The authors come near to w by a sequence of convex problems, of which a step
takes a few; here it is solved to the end.
"""

from optim.surgery.fairgrad import FairGrad


class NashMTL(FairGrad):
    """FairGrad with p = 1. The weights are positive."""

    def __init__(self):
        super().__init__(p=1.0)
