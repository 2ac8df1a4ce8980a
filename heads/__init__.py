"""What stands on the encoder: poolings, architectures, losses, and the whole model for three tasks."""

from heads.multitask import MultitaskBert

__all__ = ["MultitaskBert"]
