"""The optimiser, by hand: AdamW, the schedule, each task's gradient, gradient surgery. For any torch model."""

from optim import surgery
from optim.adamw import AdamW
from optim.surgery.pcgrad import pcgrad, pcgrad_weights
from optim.task_gradients import TaskGradients, clip_and_combine

__all__ = ["AdamW", "TaskGradients", "clip_and_combine", "pcgrad", "pcgrad_weights", "surgery"]
