"""optim/surgery/ against Yu et al.'s algorithm 1 as printed, on whole gradients, torchjd and hand-made cases."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_bert import seeded
from torch import Tensor

from optim import pcgrad, pcgrad_weights
from optim.surgery import SURGERIES
from optim.surgery.gramian import cosines, gramian

SPAN = 512  # columns that are summed in float32 on a CPU

# The golden case of three tasks: each order of the other tasks gives one of these four.
GOLDEN = torch.tensor([[3, 0, 0, 1], [-1, 2, 0, 0], [-2, -1, 1, 0]], dtype=torch.float64)
OUTCOMES = {(1.9, 1.6, 2.0), (1.9, 1.6, 2.3), (1.9, 1.96, 2.0), (1.9, 1.96, 2.3)}
MEAN = torch.tensor([1.9, 1.78, 2.15], dtype=torch.float64)


def algorithm_1(jacobian: Tensor, orders: list[list[int]]) -> Tensor:
    """Yu et al. 2020, line by line on the gradients themselves. orders: for each task, that of all tasks."""
    projected = [gradient.clone() for gradient in jacobian]
    for i, order in enumerate(orders):
        for j in order:
            if i == j:
                continue
            dot = projected[i] @ jacobian[j]
            if dot < 0:
                projected[i] -= dot / (jacobian[j] @ jacobian[j]) * jacobian[j]
    return sum(projected)


@st.composite
def jacobians(draw) -> Tensor:
    """Random gradients, of unlike sizes; the drift makes them agree, conflict, or neither."""
    tasks, parameters = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 3, 17]))
    drift = draw(st.floats(-1, 1))
    generator = seeded(draw(st.integers(0, 2**31)))
    signs = torch.randint(0, 2, (tasks, 1), generator=generator) * 2 - 1
    sizes = 10.0 ** torch.randint(-2, 3, (tasks, 1), generator=generator)
    return sizes * (torch.randn(tasks, parameters, dtype=torch.float64, generator=generator) + drift * signs)


seeds = st.integers(0, 2**31)


def assert_close(actual: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12 * scale)


# ---- PCGrad: known results -------------------------------------------------------------------------------------------


def test_three_tasks_golden_case_gives_all_four_outcomes_and_no_other():
    weights = torch.stack([pcgrad_weights(gramian(GOLDEN), seeded(seed)) for seed in range(800)])
    found = [tuple(row) for row in weights.numpy().round(12)]
    assert set(found) == OUTCOMES
    # Equally likely, for the order is drawn anew for each task; tolerances of four standard deviations of 800 draws.
    for outcome in OUTCOMES:
        assert found.count(outcome) / 800 == pytest.approx(1 / 4, abs=0.06)
    torch.testing.assert_close(weights.mean(dim=0), MEAN, rtol=0, atol=0.026)


@given(jacobians(), seeds)
def test_the_same_as_algorithm_1_on_whole_gradients(jacobian, seed):
    generator, scale = seeded(seed), jacobian.abs().max().item()
    orders = [torch.randperm(len(jacobian), generator=generator).tolist() for _ in jacobian]
    before = torch.get_rng_state()
    assert_close(pcgrad(jacobian, seeded(seed)), algorithm_1(jacobian, orders), scale)
    weights = pcgrad_weights(gramian(jacobian), seeded(seed))
    assert weights.dtype == torch.float64 and (weights >= 1).all()
    assert_close(weights @ jacobian, algorithm_1(jacobian, orders), scale)
    assert torch.equal(torch.get_rng_state(), before)  # a given generator leaves the global one alone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert torch.equal(pcgrad_weights(gramian(jacobian)), weights)  # which draws where none is given


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_the_mean_over_all_orders(tasks):
    jacobian = torch.randn(tasks, 7, dtype=torch.float64, generator=seeded(3))
    by_order = torch.stack([algorithm_1(jacobian, [order] * tasks) for order in permutations(range(tasks))])
    assert_close(SURGERIES["pcgrad_mean"]().weights(gramian(jacobian)) @ jacobian, by_order.mean(dim=0))


@pytest.mark.fault(23)
@pytest.mark.parametrize("size", [0.0, 1e-170])  # the square of which underflows
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_zero_gradient_is_left_out(row, size):
    jacobian = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
    with_zero = torch.cat([jacobian[:row], torch.full((1, 3), -size, dtype=torch.float64), jacobian[row:]])
    assert_close(pcgrad(with_zero), pcgrad(jacobian))
    assert pcgrad_weights(gramian(with_zero))[row] == 1


# ---- the Gramian -----------------------------------------------------------------------------------------------------

# Of a span's sums in float32, relative to |g_i| |g_j|.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-7, torch.bfloat16: 3e-7, torch.float16: 3e-7}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("columns", [1, SPAN - 1, SPAN, 2 * SPAN + 3, 1001 * SPAN])
def test_gramian(dtype, columns):
    """Whatever type the gradients have, and however many columns are left over; under autocast the same bits."""
    jacobian = torch.randn(3, columns, generator=seeded(0)).to(dtype)
    found = gramian(jacobian)
    assert found.dtype == torch.float64
    tolerance = TOLERANCE[dtype] if columns >= SPAN else 1e-12
    torch.testing.assert_close(found, jacobian.double() @ jacobian.double().mT, rtol=0, atol=tolerance * columns)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gramian(jacobian), found)
        assert pcgrad(jacobian).dtype == dtype


@pytest.mark.parametrize("apart", [1, SPAN])
def test_a_conflict_too_small_for_float32_sums_is_found(apart):
    """g_0 . g_1 = -1 + 1e8 - 1e8: a float32 sum of these loses the -1, and with it the conflict."""
    jacobian = torch.zeros(2, 3 * apart)
    jacobian[:, ::apart] = torch.tensor([[1.0, 1e4, 1e4], [-1.0, 1e4, -1e4]])
    assert (pcgrad_weights(gramian(jacobian)) > 1).all()


def test_a_zero_gradient_has_no_cosine():
    found = cosines(gramian(torch.tensor([[3.0, 4.0], [0.0, 0.0], [-4.0, 3.0]])))
    assert str(found.tolist()) == "[[1.0, nan, 0.0], [nan, nan, nan], [0.0, nan, 1.0]]"
    tiny = torch.ones(2, 4 * SPAN)  # its square is zero in float32, its product with the other is not
    tiny[1] = 1e-24
    assert cosines(gramian(tiny)).isnan().tolist() == [[False, True], [True, True]]
