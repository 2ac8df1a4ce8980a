"""The optimiser, by hand: AdamW, the schedule, gradient surgery, per-task gradients."""

from optim.adamw import AdamW
from optim.surgery import pcgrad, pcgrad_weights

__all__ = ["AdamW", "pcgrad", "pcgrad_weights"]
