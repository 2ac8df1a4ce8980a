"""The learning rate over a run, as a pure function of the step."""


def lr_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """What the peak learning rate is multiplied by: linear warm-up, then linear decay to 0 after the last step.

    Args:    step: 0 .. total_steps - 1, the update about to be made. warmup_steps: 0 .. total_steps - 1.
    Returns: (step + 1) / (warmup_steps + 1) while step < warmup_steps; then from 1 down, never 0 within the run.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return (total_steps - step) / (total_steps - warmup_steps)
