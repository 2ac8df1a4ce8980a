"""The optimiser, by hand: AdamW, the schedule, each task's gradient, gradient surgery. For any torch model."""

from optim.adamw import AdamW
from optim.surgery.pcgrad import pcgrad, pcgrad_weights
from optim.task_gradients import TaskGradients

__all__ = ["AdamW", "TaskGradients", "pcgrad", "pcgrad_weights"]
