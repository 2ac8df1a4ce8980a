"""optim/schedule.py against the straight lines that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.schedule import lr_factor


@st.composite
def runs(draw) -> tuple[int, int]:
    total = draw(st.integers(1, 97))
    return total, draw(st.integers(0, total - 1))


def factors(total: int, warmup: int) -> list[float]:
    return [lr_factor(step, total, warmup) for step in range(total)]


def test_a_run_of_seven_steps():
    assert factors(7, 2) == pytest.approx([1 / 3, 2 / 3, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5], rel=1e-15)


def test_without_warm_up_the_first_step_is_the_peak():
    assert factors(4, 0) == [1, 0.75, 0.5, 0.25]


def test_a_run_of_one_step():
    assert factors(1, 0) == [1]


@given(runs())
def test_two_straight_lines_from_0_to_1_to_0(run):
    """0 at the step before the first, 1 at the end of the warm-up, 0 at the step after the last."""
    total, warmup = run
    expected = np.interp(range(total), [-1, warmup, total], [0, 1, 0])
    np.testing.assert_allclose(factors(total, warmup), expected, rtol=1e-12)


@given(runs())
def test_every_step_moves_and_the_peak_is_reached_once(run):
    total, warmup = run
    found = factors(total, warmup)
    assert all(0 < factor <= 1 for factor in found)
    assert [step for step, factor in enumerate(found) if factor == 1] == [warmup]


@pytest.mark.parametrize("step, total, warmup", [(-1, 5, 0), (5, 5, 0), (0, 0, 0)])
def test_a_step_outside_the_run_is_refused(step, total, warmup):
    with pytest.raises(ValueError, match="step: expected 0 to"):
        lr_factor(step, total, warmup)


@pytest.mark.parametrize("warmup", [-1, 5])
def test_a_warm_up_longer_than_the_run_is_refused(warmup):
    with pytest.raises(ValueError, match="warmup_steps: expected 0 to 4; found"):
        lr_factor(0, 5, warmup)
