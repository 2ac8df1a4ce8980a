"""Gradient surgery: from the tasks' gradients to the weights that they are added up with.

    update = SURGERIES["cagrad"](c=0.4).weights(gramian(jacobian), generator) @ jacobian

A new method is a file beside pcgrad.py with a subclass of Surgery, and an entry here. Its settings are keywords.
"""

from optim.surgery.aligned_mtl import AlignedMTL
from optim.surgery.cagrad import CAGrad
from optim.surgery.config import ConFIG
from optim.surgery.db_mtl import DBMTL
from optim.surgery.fairgrad import FairGrad
from optim.surgery.gradvac import GradVac
from optim.surgery.gramian import Surgery
from optim.surgery.imtl_g import IMTLG
from optim.surgery.mgda import MGDA
from optim.surgery.nash_mtl import NashMTL
from optim.surgery.pcgrad import PCGrad, PCGradMean
from optim.surgery.random_weights import RandomWeights
from optim.surgery.upgrad import DualProj, UPGrad

SURGERIES: dict[str, type[Surgery]] = {
    "pcgrad": PCGrad,
    "pcgrad_mean": PCGradMean,
    "gradvac": GradVac,
    "mgda": MGDA,
    "cagrad": CAGrad,
    "nash_mtl": NashMTL,
    "fairgrad": FairGrad,
    "imtl_g": IMTLG,
    "aligned_mtl": AlignedMTL,
    "upgrad": UPGrad,
    "dualproj": DualProj,
    "config": ConFIG,
    "db_mtl": DBMTL,
    "random": RandomWeights,
}

__all__ = ["SURGERIES", "Surgery"]
