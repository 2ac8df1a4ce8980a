"""optim/surgery.py against Yu et al.'s algorithm 1 as printed, on whole gradients, and against hand-made cases."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from optim import pcgrad, pcgrad_weights
from optim.surgery import SPAN, combined_norm, cosines, gramian

# The golden case of three tasks: each order of the other tasks gives one of these four.
GOLDEN = torch.tensor([[3, 0, 0, 1], [-1, 2, 0, 0], [-2, -1, 1, 0]], dtype=torch.float64)
OUTCOMES = {(1.9, 1.6, 2.0), (1.9, 1.6, 2.3), (1.9, 1.96, 2.0), (1.9, 1.96, 2.3)}
MEAN = torch.tensor([1.9, 1.78, 2.15], dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def orders_of(generator: torch.Generator, tasks: int) -> list[list[int]]:
    return [torch.randperm(tasks, generator=generator).tolist() for _ in range(tasks)]


@st.composite
def jacobians(draw, min_tasks: int = 2, max_tasks: int = 5) -> Tensor:
    """Random gradients, of unlike sizes; the drift makes them agree, conflict, or neither."""
    tasks, parameters = draw(st.integers(min_tasks, max_tasks)), draw(st.sampled_from([1, 2, 3, 17]))
    drift = draw(st.floats(-1, 1))
    generator = seeded(draw(st.integers(0, 2**31)))
    signs = torch.randint(0, 2, (tasks, 1), generator=generator) * 2 - 1
    sizes = 10.0 ** torch.randint(-2, 3, (tasks, 1), generator=generator)
    return sizes * (torch.randn(tasks, parameters, dtype=torch.float64, generator=generator) + drift * signs)


seeds = st.integers(0, 2**31)


def assert_close(actual: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12 * scale)


# ---- known results ---------------------------------------------------------------------------------------------------


def test_two_tasks_golden_case():
    jacobian = torch.tensor([[-4.0, 1, 1], [6, 1, 1]])
    torch.testing.assert_close(pcgrad(jacobian), torch.tensor([0.5848, 3.8012, 3.8012]), rtol=0, atol=5e-5)  # 4 digits
    # In closed form: each loses its projection on the other, w_i = 1 + max(0, -g_i.g_j) / |g_i|^2.
    assert_close(pcgrad_weights(jacobian @ jacobian.mT), torch.tensor([1 + 22 / 18, 1 + 22 / 38], dtype=torch.float64))


def test_three_tasks_golden_case_gives_all_four_outcomes_and_no_other():
    weights = torch.stack([pcgrad_weights(gramian(GOLDEN), seeded(seed)) for seed in range(800)])
    found = [tuple(row) for row in weights.numpy().round(12)]
    assert set(found) == OUTCOMES
    # Equally likely, for the order is drawn anew for each task; tolerances of four standard deviations of 800 draws.
    for outcome in OUTCOMES:
        assert found.count(outcome) / 800 == pytest.approx(1 / 4, abs=0.06)
    torch.testing.assert_close(weights.mean(dim=0), MEAN, rtol=0, atol=0.026)


def test_algorithm_1_itself_averages_to_the_golden_mean_over_all_orders():
    """The reference of the tests below, on a case whose answer is known."""
    permutations = list(itertools.permutations(range(3)))
    results = [algorithm_1(GOLDEN, list(orders)) for orders in itertools.product(permutations, repeat=3)]
    assert_close(torch.stack(results).mean(dim=0), MEAN @ GOLDEN)


# ---- the algorithm ---------------------------------------------------------------------------------------------------


@given(jacobians(), seeds)
def test_the_same_as_algorithm_1_on_whole_gradients(jacobian, seed):
    expected = algorithm_1(jacobian, orders_of(seeded(seed), len(jacobian)))
    assert_close(pcgrad(jacobian, seeded(seed)), expected, scale=jacobian.abs().max().item())


@given(jacobians(), seeds)
def test_weights_are_those_of_pcgrad_and_at_least_1(jacobian, seed):
    weights = pcgrad_weights(gramian(jacobian), seeded(seed))
    assert weights.dtype == torch.float64 and weights.shape == (len(jacobian),)
    assert (weights >= 1).all()
    assert_close(pcgrad(jacobian, seeded(seed)), weights @ jacobian, scale=jacobian.abs().max().item())


@given(jacobians(max_tasks=2))
def test_of_two_tasks_neither_is_hurt(jacobian):
    sizes = jacobian.norm(dim=1)
    assert (jacobian @ pcgrad(jacobian) >= -1e-12 * sizes * sizes.max()).all()


@given(jacobians(), seeds)
def test_without_conflict_exactly_the_sum(jacobian, seed):
    jacobian = jacobian.abs()
    assert torch.equal(pcgrad_weights(gramian(jacobian), seeded(seed)), torch.ones(len(jacobian)).double())
    assert_close(pcgrad(jacobian, seeded(seed)), jacobian.sum(dim=0))


def test_the_sum_and_not_the_mean():
    assert torch.equal(pcgrad(torch.eye(3)), torch.ones(3))


def test_one_task_keeps_its_gradient():
    jacobian = torch.tensor([[-3.0, 5.0, 7.0]])
    assert torch.equal(pcgrad(jacobian), jacobian[0])


def test_opposite_gradients_cancel():
    assert torch.equal(pcgrad(torch.tensor([[1.0, -2.0], [-1.0, 2.0]])), torch.zeros(2))


# ---- sizes of gradients ----------------------------------------------------------------------------------------------


@given(jacobians(), seeds, st.integers(-60, 60))
def test_weights_do_not_depend_on_the_common_scale(jacobian, seed, exponent):
    """Bit for bit, for powers of two: no epsilon anywhere."""
    plain, scaled = (pcgrad_weights(gramian(j), seeded(seed)) for j in (jacobian, jacobian * 2.0**exponent))
    assert torch.equal(plain, scaled)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-12, 1e-30, 1e12])
def test_tiny_and_huge_gradients_are_projected_as_others(dtype, scale):
    jacobian = (GOLDEN * scale).to(dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    actual = pcgrad(jacobian, seeded(2)).double() / scale
    torch.testing.assert_close(actual, pcgrad(GOLDEN, seeded(2)), rtol=tolerance, atol=tolerance)


@pytest.mark.fault(23)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_zero_gradient_is_left_out(row):
    jacobian = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
    with_zero = torch.cat([jacobian[:row], torch.zeros(1, 3).double(), jacobian[row:]])
    assert torch.equal(pcgrad(with_zero), pcgrad(jacobian))
    assert pcgrad_weights(gramian(with_zero))[row] == 1


def test_a_gradient_whose_square_underflows_counts_as_zero():
    jacobian = torch.tensor([[1.0, 2.0], [-1e-170, 0.0]], dtype=torch.float64)
    assert torch.equal(pcgrad(jacobian), torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_all_gradients_zero():
    assert torch.equal(pcgrad(torch.zeros(3, 5)), torch.zeros(5))


@pytest.mark.fault(22)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_gradients_that_are_not_finite_are_refused(bad):
    jacobian = GOLDEN.clone()
    jacobian[1, 2] = bad
    with pytest.raises(ValueError, match="gramian: expected finite numbers"):
        pcgrad(jacobian)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_a_gramian_that_is_not_square_is_refused(shape):
    with pytest.raises(ValueError, match=r"^gramian: expected \(T, T\); found"):
        pcgrad_weights(torch.ones(shape))


@given(jacobians(), seeds)
def test_the_combinations_norm_follows_from_the_gramian(jacobian, seed):
    products = gramian(jacobian)
    weights = pcgrad_weights(products, seeded(seed))
    rounding = 1e-7 * (weights * jacobian.norm(dim=1)).max().item()  # where they cancel: the root of float64's 1e-16
    expected = (weights @ jacobian).norm().item()
    assert combined_norm(weights, products) == pytest.approx(expected, rel=1e-6, abs=rounding)


def test_what_cancels_has_no_norm():
    """Its square may be rounded to less than zero."""
    for scale in (0.1, 0.3, 0.7):
        jacobian = torch.tensor([[1.0], [-1.0]], dtype=torch.float64) * scale
        assert 0 <= combined_norm(torch.ones(2, dtype=torch.float64), gramian(jacobian)) < 1e-8


# ---- randomness ------------------------------------------------------------------------------------------------------


def test_a_given_generator_leaves_the_global_one_alone():
    before = torch.random.get_rng_state()
    pcgrad(GOLDEN, seeded(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_generator_the_global_one_decides():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        by_global = [pcgrad(GOLDEN) for _ in range(20)]
    generator = seeded(5)
    assert torch.equal(torch.stack(by_global), torch.stack([pcgrad(GOLDEN, generator) for _ in range(20)]))


# ---- the Gramian -----------------------------------------------------------------------------------------------------


# Of a span's sums in float32, relative to |g_i| |g_j|.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-7, torch.bfloat16: 3e-7, torch.float16: 3e-7}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("columns", [1, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN + 3, 1001 * SPAN])
def test_gramian(dtype, columns):
    """Whatever type the gradients have, and however many columns are left over."""
    jacobian = torch.randn(3, columns, generator=seeded(0)).to(dtype)
    expected = jacobian.double() @ jacobian.double().mT
    found = gramian(jacobian)
    assert found.dtype == torch.float64
    tolerance = TOLERANCE[dtype] if columns >= SPAN else 1e-12
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * columns)


def test_the_gramian_of_many_columns_is_nearly_that_in_float64():
    """Spans round independently of each other, so the more of them, the less it matters."""
    jacobian = torch.randn(3, 4001 * SPAN, generator=seeded(0))
    expected = jacobian.double() @ jacobian.double().mT
    torch.testing.assert_close(gramian(jacobian), expected, rtol=0, atol=3e-9 * jacobian.shape[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    jacobian = torch.randn(3, 1009, generator=seeded(0)).to(dtype)
    plain = gramian(jacobian), pcgrad(jacobian, seeded(0))
    with torch.autocast("cpu", torch.bfloat16):
        under = gramian(jacobian), pcgrad(jacobian, seeded(0))
    assert under[1].dtype == dtype
    torch.testing.assert_close(under, plain, rtol=0, atol=0)


@pytest.mark.parametrize("apart", [1, SPAN])
def test_a_conflict_too_small_for_float32_sums_is_found(apart):
    """g_0 . g_1 = -1 + 1e8 - 1e8: a float32 sum of these loses the -1, and with it the conflict."""
    jacobian = torch.zeros(2, 3 * apart)
    jacobian[:, ::apart] = torch.tensor([[1.0, 1e4, 1e4], [-1.0, 1e4, -1e4]])
    assert (pcgrad_weights(gramian(jacobian)) > 1).all()


def test_pcgrad_keeps_the_gradients_type():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert pcgrad(GOLDEN.to(dtype)).dtype == dtype


@given(jacobians())
def test_cosines_are_torchs(jacobian):
    assume((jacobian.norm(dim=1) > 1e-6).all())
    expected = F.cosine_similarity(jacobian[:, None], jacobian[None], dim=-1)
    found = cosines(gramian(jacobian))
    assert_close(found, expected)
    assert (found.abs() <= 1).all()


def test_a_zero_gradient_has_no_cosine():
    found = cosines(gramian(torch.tensor([[3.0, 4.0], [0.0, 0.0], [-4.0, 3.0]])))
    nan = float("nan")
    expected = torch.tensor([[1, nan, 0], [nan, nan, nan], [0, nan, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True)
