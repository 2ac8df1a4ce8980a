"""Every method of optim/surgery against torchjd, conditions of optimality, closed forms, and what it promises."""

import json

import pytest
import torch
import torchjd.aggregation as torchjd
from torch import Tensor

from optim.surgery import SURGERIES
from optim.surgery.gramian import combined_norm, cosines, gramian

F64 = torch.float64


def jacobian(tasks: int, seed: int, kind: str, parameters: int = 7) -> Tensor:
    """Random task gradients that agree or conflict; of norms 1e-2 to 1e2; two of them all but alike; one zero."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, parameters, dtype=F64, generator=draw)
    rows += torch.rand(1, dtype=F64, generator=draw) * torch.randn(tasks, 1, dtype=F64, generator=draw)
    if kind == "unlike":
        rows *= 10.0 ** torch.randint(-2, 3, (tasks, 1), generator=draw)
    if kind == "alike":
        rows[1] = rows[0] + 1e-2 * rows[1]
    if kind == "zero":
        rows[torch.randint(tasks, (1,), generator=draw)] = 0
    return rows


KINDS = ("plain", "unlike", "alike", "zero")
MANY = [(kind, tasks, range(50 if kind == "plain" else 25)) for kind in KINDS for tasks in (2, 3, 5)]  # 375
of_many = pytest.mark.parametrize(("kind", "tasks", "seeds"), MANY, ids=[f"{kind}-{tasks}" for kind, tasks, _ in MANY])


def weights(name: str, rows: Tensor, seed: int = 0, **settings) -> Tensor:
    surgery = SURGERIES[name](**settings)
    surgery.losses = torch.ones(len(rows))
    found = surgery.weights(rows @ rows.mT, torch.Generator().manual_seed(seed))
    assert found.shape == (len(rows),) and found.dtype == F64 and found.isfinite().all()
    return found


# ---- torchjd ---------------------------------------------------------------------------------------------------------

REFERENCES = {
    "pcgrad": lambda rows: torchjd.PCGradWeighting(),
    "random": lambda rows: torchjd.RandomWeighting(),
    "gradvac": lambda rows: torchjd.GradVacWeighting(beta=0.01, eps=1e-30),
    "imtl_g": lambda rows: torchjd.IMTLGWeighting(),
    "aligned_mtl": lambda rows: torchjd.AlignedMTLWeighting(torch.ones(len(rows), dtype=F64)),
    "upgrad": lambda rows: torchjd.UPGradWeighting(),
    "dualproj": lambda rows: torchjd.DualProjWeighting(),
}


@of_many
@pytest.mark.parametrize("name", REFERENCES)
def test_the_weights_of_torchjd(name, kind, tasks, seeds):
    for seed in seeds:
        rows = jacobian(tasks, seed, kind)
        lengths = torch.linalg.svdvals(rows)
        if name == "aligned_mtl" and lengths.min() < 1e-3 * lengths.max():
            continue  # counts as zero, as it does for torchjd in float32
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # torchjd draws from torch's own generator, in the order in which we do
            expected = REFERENCES[name](rows)(rows @ rows.mT)
        found = weights(name, rows, seed)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["imtl_g", "config", "aligned_mtl"])
def test_gradients_in_float32_that_depend_on_each_other(name, seed):
    """Against the same in float64 by the singular vectors: rounding errors are no direction of their own."""
    rows = torch.randn(3, 1009, generator=torch.Generator().manual_seed(seed))
    rows[2] = rows[0] + rows[1]
    update, exact = weights(name, rows) @ rows.double(), rows.double()
    u, values, vh = torch.linalg.svd(exact, full_matrices=False)
    unit = torch.linalg.pinv(exact / exact.norm(dim=1, keepdim=True), rtol=1e-4).sum(1)
    unit /= unit.norm()
    expected = {
        "imtl_g": update.norm() * unit,
        "config": (exact @ unit).sum() * unit,
        "aligned_mtl": values[1] * u[:, :2].sum(0) @ vh[:2],
    }[name]
    assert (update - expected).norm() <= 1e-4 * expected.norm() and update.norm() > 1


@of_many
def test_the_update_of_torchjds_config(kind, tasks, seeds):
    """Which has no weights: it takes the pseudo-inverse of the unit gradients themselves."""
    for seed in seeds:
        rows = jacobian(tasks, seed, kind)
        expected = torchjd.ConFIG()(rows)
        assert (weights("config", rows) @ rows - expected).norm() <= 1e-6 * rows.norm()


# ---- conditions that only the right weights meet ---------------------------------------------------------------------


@of_many
def test_mgda_is_the_shortest_convex_sum(kind, tasks, seeds):
    """w is it where no gradient's product with the update is less than the update's own: (G w)_i >= w G w."""
    for seed in seeds:
        rows = jacobian(tasks, seed, kind)
        w, products = weights("mgda", rows), rows @ rows.mT
        assert (w >= 0).all() and w.sum() == pytest.approx(1, abs=1e-12)
        square = w @ products @ w
        assert (products @ w - square).min() >= -1e-9 * products.diagonal().max()
        reference = torchjd.MGDAWeighting(epsilon=1e-3, max_iters=100)(products)  # Frank and Wolfe's steps
        assert square <= (1 + 1e-12) * (reference @ products @ reference) + 1e-15 * products.diagonal().max()


@of_many
def test_cagrad_is_optimal(kind, tasks, seeds):
    """Its dual is: at v no other point of the simplex is lower, to first order, and the dual is convex."""
    for seed in seeds:
        rows, c = jacobian(tasks, seed, kind), 0.4
        w, mean, given = weights("cagrad", rows, c=c), rows.mean(dim=0), rows.any(dim=1)
        assert w[~given].tolist() == [1 / tasks] * sum(~given)  # of zero: whatever it is, it changes nothing
        w, rows = w[given], rows[given]
        v = (w - 1 / tasks) / (w - 1 / tasks).sum()
        slope = rows @ mean + c * mean.norm() * rows @ (v @ rows) / (v @ rows).norm()
        assert (slope - v @ slope).min() >= -1e-6 * rows.norm(dim=1).max() * mean.norm()
        moved = (w - 1 / tasks) @ rows
        assert moved.norm() == pytest.approx(c * mean.norm().item(), rel=1e-9)  # on the ball's edge
        assert (w > 1 / tasks - 1e-12).all()  # and away from it


@of_many
@pytest.mark.parametrize(("name", "settings"), [("nash_mtl", {}), ("fairgrad", {"p": 20.0})])
def test_fair_weights_solve_their_equation(name, settings, kind, tasks, seeds):
    for seed in seeds:
        rows = jacobian(tasks, seed, kind)
        w, given = weights(name, rows, **settings), rows.any(dim=1)
        assert ((w > 0) == given).all()
        gains = (rows @ (w @ rows))[given]
        expected = w[given] ** (-1 / settings.get("p", 1))
        torch.testing.assert_close(gains, expected, rtol=2e-5, atol=0)  # the root is flat


def test_pcgrad_mean_of_many_tasks_is_the_mean_of_draws():
    rows = jacobian(6, 0, "plain")
    many = weights("pcgrad_mean", rows, draws=2000)
    draws = torch.stack([weights("pcgrad", rows, seed) for seed in range(400)])
    assert ((draws.mean(dim=0) - many).abs() <= 5 * draws.std(dim=0) / 20 + 1e-12).all()


@pytest.mark.parametrize("ratio", [1e-6, 0.9e-7, 1e-8])
def test_cagrad_helps_a_task_with_a_tiny_gradient(ratio):
    """Two at right angles: the move away from the mean, half as long as it, is along the shorter one."""
    lengths = torch.tensor([1, ratio], dtype=torch.float64)
    update = weights("cagrad", lengths.diag(), c=0.5) * lengths
    torch.testing.assert_close(update, torch.tensor([0.5, 0.25], dtype=torch.float64), rtol=1e-5, atol=0)


def test_what_gradvac_has_given_as_its_state_stays_as_it_was_and_is_of_a_number_of_tasks():
    surgery, draws = SURGERIES["gradvac"](), torch.Generator().manual_seed(0)
    surgery.weights(torch.eye(3), draws)
    state = surgery.state_dict()
    before = json.dumps(state)
    surgery.weights(torch.eye(3) + 0.5, draws)
    assert json.dumps(state) == before != json.dumps(surgery.state_dict())
    with pytest.raises(ValueError, match="gramian: expected 3 tasks, as before; found 2"):
        surgery.weights(torch.eye(2), draws)


@pytest.mark.parametrize("name", ["mgda", "cagrad"])
def test_many_tasks_with_two_directions_have_weights(name):
    """scipy's own limit of iterations is too low for these."""
    draw = torch.Generator().manual_seed(675)
    rows = torch.randn(11, 2, dtype=F64, generator=draw) @ torch.randn(2, 30, dtype=F64, generator=draw)
    weights(name, (rows * torch.exp(3 * torch.randn(11, 1, dtype=F64, generator=draw))).float().double())


def test_gradvac_of_torchjd_step_after_step():
    """Whose targets follow the cosines, too; above 0 a pair that agrees is moved as well."""
    ours, theirs = SURGERIES["gradvac"](beta=0.3), torchjd.GradVacWeighting(beta=0.3, eps=1e-30)
    for step in range(40):
        rows = jacobian(3, step, "plain")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            expected = theirs(rows @ rows.mT)
        torch.testing.assert_close(ours.weights(rows @ rows.mT, torch.Generator().manual_seed(step)), expected)


def test_config_of_opposed_gradients_is_zero():
    """No direction has one cosine above 0 with both."""
    for seed in range(50):
        g = jacobian(1, seed, "plain")
        assert not weights("config", torch.cat([g, -g * (seed + 1) / 7])).any()


def test_db_mtl_gives_every_task_the_longest_log_gradient():
    """LibMTL's: of the gradients of log l_i, each is multiplied by the longest norm over its own."""
    rows, losses = jacobian(3, 0, "unlike"), torch.tensor([0.5, 2.0, 3.0])
    surgery = SURGERIES["db_mtl"]()
    surgery.losses = losses
    of_log = rows / losses[:, None]
    expected = sum(of_log.norm(dim=1).max() / g.norm() * g for g in of_log)
    torch.testing.assert_close(surgery.weights(rows @ rows.mT) @ rows, expected, check_dtype=False)
    surgery.losses = torch.tensor([0.5, 0.0, 0.0])  # of tasks that are learned
    rows[2] = 0
    expected = rows[1].norm() / 1e-8 * torch.tensor([1 / rows[0].norm(), 1 / rows[1].norm(), 0])
    torch.testing.assert_close(surgery.weights(rows @ rows.mT), expected, check_dtype=False)
    with pytest.raises(ValueError, match="losses: expected the step's"):
        SURGERIES["db_mtl"]().weights(rows @ rows.mT)


def test_cagrad_of_norms_as_unlike_as_can_be():
    """The search for s takes more steps than brentq's usual 100."""
    short, product, long = 1.3210252310471076e-08, -444611.77061988995, 1.4964106810970102e19
    products = torch.tensor([[short, product], [product, long]], dtype=F64)
    mean = torch.full((2,), 0.5, dtype=F64)
    added = SURGERIES["cagrad"](c=0.99).weights(products) - mean
    assert combined_norm(added, products) == pytest.approx(0.99 * combined_norm(mean, products))


@pytest.mark.parametrize("rows", [[[-3, 0], [1, 0]], [[-3, 0], [1, 0], [0, 0]], [[-9, 0, 0], [1, 0, 0], [1, 2, 0]]])
def test_cagrad_of_gradients_that_could_cancel(rows):
    """A convex sum of them is zero, and yet not the best: as with a last digit that lets none be zero."""
    rows = torch.tensor(rows, dtype=F64)
    nearly = rows.clone()
    nearly[1, -1] += 1e-7
    found = weights("cagrad", rows)
    torch.testing.assert_close(found, weights("cagrad", nearly), rtol=1e-5, atol=0)
    mean = rows.mean(dim=0)
    assert ((found - 1 / len(rows)) @ rows).norm() == pytest.approx(0.5 * mean.norm().item())


def test_weights_of_gradients_that_cancel_are_not_rounding_errors_divided_by_each_other():
    """CAGrad's best convex sum is zero; IMTL-G's weights have the sum zero."""
    rows = torch.tensor([[1, 0], [-1, 0], [0, 1]], dtype=F64)
    assert weights("cagrad", rows).tolist() == [1 / 3] * 3
    cosines, norms = torch.tensor([[1, 0, 0.9], [0, 1, 0.43], [0.9, 0.43, 1]], dtype=F64), torch.ones(3, dtype=F64)
    norms[2] = 0.734802939211757
    assert not SURGERIES["imtl_g"]().weights(cosines * norms * norms[:, None]).any()


def test_gradvac_may_forget_all_but_the_last_cosine():
    surgery = SURGERIES["gradvac"](beta=1.0)
    surgery.weights(torch.ones(2, 2))
    assert surgery.weights(torch.eye(2)).isfinite().all()  # the target is 1: no angle


# ---- what all of them promise ----------------------------------------------------------------------------------------

# How the update grows with the gradients: as they do, but for these.
POWER = {"nash_mtl": 0.0, "fairgrad": 0.0, "mgda": 1.0}


@pytest.mark.parametrize("name", SURGERIES)
def test_the_common_scale_of_the_gradients_changes_no_direction(name):
    for seed in range(10):
        rows = jacobian(3, seed, "plain")
        for scale in (1e-6, 1e6):
            expected = scale ** POWER.get(name, 1.0) * (weights(name, rows) @ rows)
            found = weights(name, scale * rows) @ (scale * rows)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("name", SURGERIES)
def test_degenerate_gradients_give_finite_weights(name):
    """One task; no gradient at all; opposite ones, of which nothing helps both; twice the same."""
    row = torch.tensor([1.0, 2.0], dtype=F64)
    for rows in ([row], [0 * row], [0 * row, 0 * row], [row, -row], [row, -3 * row], [row, row], [0 * row, row]):
        rows = torch.stack(rows)
        update = weights(name, rows) @ rows
        assert update.norm() <= 1e3 * rows.norm() + 1e3


@pytest.mark.parametrize("name", SURGERIES)
def test_opposed_gradients_in_float32(name):
    """Their Gramian has the rounding errors of float32: cosines below -1, squares below 0."""
    for seed in range(20):
        row = torch.randn(1, 3000, generator=torch.Generator().manual_seed(seed))
        products = gramian(torch.cat([row, -3.3 * row]))
        surgery = SURGERIES[name]()
        surgery.losses = torch.ones(2)
        w = surgery.weights(products, torch.Generator().manual_seed(seed))
        assert w.isfinite().all() and combined_norm(w, products) < torch.inf
        assert cosines(products).abs().max() <= 1


@pytest.mark.parametrize("name", SURGERIES)
def test_what_is_no_gramian_is_refused(name):
    surgery = SURGERIES[name]()
    surgery.losses = torch.ones(2)
    for bad in (torch.inf, -torch.inf, torch.nan):
        with pytest.raises(ValueError, match="gramian: expected finite numbers"):
            surgery.weights(torch.tensor([[1.0, 0], [0, bad]]))
    with pytest.raises(ValueError, match=r"gramian: expected \(T, T\); found \(2, 3\)"):
        surgery.weights(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cagrad", {"c": 1.0}, r"c: expected a number in \[0, 1\); found 1.0"),
        ("gradvac", {"beta": -0.1}, r"beta: expected a number in \[0, 1\]; found -0.1"),
        ("fairgrad", {"p": 0.0}, "p: expected a number above 0, at most 20; found 0.0"),
        ("fairgrad", {"p": 20.5}, "p: expected a number above 0, at most 20; found 20.5"),
        ("pcgrad_mean", {"draws": 0}, "draws: expected 1 or more; found 0"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        SURGERIES[name](**settings)
    for value in settings:
        with pytest.raises(ValueError):
            SURGERIES[name](**{value: float("nan")})
