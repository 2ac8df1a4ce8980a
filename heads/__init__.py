"""Everything on top of the encoder: kinds of tasks, poolings, heads, losses, and the whole model."""

from heads.multitask import MultitaskBert

__all__ = ["MultitaskBert"]
