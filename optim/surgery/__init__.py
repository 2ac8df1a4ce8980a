"""Gradient surgery: from the tasks' gradients to the weights that they are added up with.

    update = SURGERIES["pcgrad"]().weights(gramian(jacobian), generator) @ jacobian

A new method is a file beside pcgrad.py with a subclass of Surgery, and a line here. Its settings are keywords.
"""

from optim.surgery.gramian import Surgery
from optim.surgery.pcgrad import PCGrad

SURGERIES: dict[str, type[Surgery]] = {"pcgrad": PCGrad}
