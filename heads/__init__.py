"""What stands on the encoder: kinds of tasks, poolings, heads, losses, and the whole model."""

from heads.multitask import MultitaskBert

__all__ = ["MultitaskBert"]
