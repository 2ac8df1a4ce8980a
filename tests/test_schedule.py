"""optim/schedule.py against the straight lines that it stands for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optim.schedule import lr_factor


@given(st.integers(1, 97).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total - 1))))
def test_two_straight_lines_from_0_to_1_to_0(run):
    """0 at the step before the first, 1 at the end of the warm-up and only there, 0 at the step after the last."""
    total, warmup = run
    found = [lr_factor(step, total, warmup) for step in range(total)]
    np.testing.assert_allclose(found, np.interp(range(total), [-1, warmup, total], [0, 1, 0]), rtol=1e-12)
    assert [step for step, factor in enumerate(found) if factor == 1] == [warmup] and min(found) > 0
