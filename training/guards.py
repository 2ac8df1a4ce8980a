"""Guards of the training loop: against memory that runs out, and losses and gradients that are not finite."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from heads.rows import TaskBatch
from optim.task_gradients import Conflict
from runtime.errors import DivergedError, is_out_of_memory, say
from training.session import Session, State

MAX_SKIPPED_IN_A_ROW = 20  # steps with an infinite gradient: loss scaling settles in a few, so this many is a fault


def in_parts_that_fit(session: Session, compute: Callable[[], tuple]) -> tuple:
    """Call `compute` until it succeeds, and return its result: where memory runs out, with batches of half the size.

    All ranks act alike: an error on one is raised on all, and where one runs out of memory all try again.
    """
    state, largest = session.state, max(session.options.batch_size.values())
    while True:
        result = None
        with session.world.together():
            try:
                result = compute()
            except Exception as error:
                if not is_out_of_memory(error) or state.parts >= largest:
                    raise
        if all(session.world.gather(result is not None)):
            return result
        state.parts *= 2  # here, where the error, and the graph that it keeps alive, are gone
        session.forget_step()
        parts = f"in {state.parts} parts from here on, with as many rows a step as before"
        say(f"warning: out of memory at step {state.step + 1}; batches are computed {parts}")


def finite_losses(
    losses: Mapping[str, Tensor], weighed: Mapping[str, Tensor], batches: Mapping[str, TaskBatch], step: int
) -> list[tuple[str, float, float]]:
    """Each task's name and loss, plain and weighed. Raises DivergedError, with its rows, for a plain one that is not
    finite."""
    values = torch.stack([*losses.values(), *weighed.values()]).view(2, -1).T.tolist()  # waits for a GPU once
    for name, (value, _) in zip(losses, values, strict=True):
        if not math.isfinite(value):
            place = f"{name} at step {step + 1}, rows {', '.join(batches[name].ids)}"
            advice = "lower --lr or look at these rows; the last checkpoint stands"
            raise DivergedError(f"expected a finite loss; found {value} for {place}; {advice}")
    return [(name, *pair) for name, pair in zip(losses, values, strict=True)]


def halve_scale(scaler: torch.amp.GradScaler) -> None:
    """After a skipped step, also one where only the norm exceeds float32's range, which the scaler does not see."""
    # Not by update(new_scale): good steps of before would count towards the next growth.
    scaler.load_state_dict(scaler.state_dict() | {"scale": scaler.get_scale() / 2, "_growth_tracker": 0})


def count_skipped(conflict: Conflict, state: State) -> None:
    """Count the steps in a row that must be skipped. Raises DivergedError after too many."""
    state.skipped_in_a_row = state.skipped_in_a_row + 1 if conflict.problem else 0
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        found = f"{MAX_SKIPPED_IN_A_ROW} steps in a row with an {conflict.problem}, up to step {state.step + 1}"
        advice = "lower --lr or take --amp off; the last checkpoint stands"
        raise DivergedError(f"expected finite gradients; found {found}; {advice}")
