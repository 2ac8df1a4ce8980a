"""The learning rate over a run, as a pure function of the step."""

from __future__ import annotations


def lr_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """What the peak learning rate is multiplied by: linear warm-up, then linear decay to 0 after the last step.

    Args:    step: 0 .. total_steps - 1, the update about to be made.
    Returns: (step + 1) / (warmup_steps + 1) while step < warmup_steps; then from 1 down, never 0 within the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step: expected 0 to {total_steps - 1}; found {step}")
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps: expected 0 to {total_steps - 1}; found {warmup_steps}")
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return (total_steps - step) / (total_steps - warmup_steps)
