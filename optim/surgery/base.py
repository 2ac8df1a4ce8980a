"""What every method of gradient surgery is."""

from __future__ import annotations

from torch import Generator, Tensor


class Surgery:
    """Weights w of the task gradients, whose weighted sum w @ J is the update, found from the Gramian J @ J.T."""

    def weights(self, gramian: Tensor, generator: Generator | None = None) -> Tensor:
        """gramian: (T, T) float64, finite; generator: a CPU generator, None for torch's own -> (T,) float64, CPU"""
        raise NotImplementedError

    def state_dict(self) -> dict:
        """What the method remembers from step to step, as JSON can hold it."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take back what state_dict gave."""
