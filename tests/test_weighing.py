"""optim/weighing.py: the weighed losses against torchjd's scalarizations, and what is remembered."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchjd import scalarization

from optim.weighing import WEIGHINGS, Fixed

SCALES = {"a": 2.0, "b": 3.0, "c": 1.0}
ONES = dict.fromkeys(SCALES, 1.0)


def losses_of(step: int) -> dict[str, Tensor]:
    """Losses of three tasks that fall at rates of their own, by one parameter each."""
    rates, sizes = torch.tensor([0.9, 0.97, 1.01]), torch.tensor([1.0, 5.0, 0.2])
    return dict(zip(SCALES, sizes * rates**step + 0.01 * math.sin(step), strict=True))


def floats(losses: dict[str, Tensor]) -> dict[str, float]:
    return {task: loss.item() for task, loss in losses.items()}


def never() -> dict[str, float]:
    raise AssertionError("only FAMO looks at the losses again")


def trained(name: str, steps: int, scales: dict[str, float] = ONES, **settings) -> Fixed:
    weigh = WEIGHINGS[name](scales, **settings)
    for step in range(steps):
        weigh(losses_of(step), torch.Generator().manual_seed(step))
        weigh.update(floats(losses_of(step)), lambda after=step + 1: floats(losses_of(after)))
    return weigh


def test_fixed_factors_weigh_the_losses_that_are_there():
    weigh, loss = Fixed({"a": 2.0, "b": 3.0}), torch.tensor(5.0, requires_grad=True)
    weighed = weigh({"b": loss**2})
    weighed["b"].backward()
    assert weighed == {"b": torch.tensor(75.0)} and loss.grad == 30


@pytest.mark.parametrize("name", WEIGHINGS)
def test_the_scales_multiply_every_way(name):
    plain, scaled = trained(name, 20), trained(name, 20, SCALES)
    draws = (torch.Generator().manual_seed(1) for _ in range(2))
    one, other = (weigh(losses_of(20), next(draws)) for weigh in (plain, scaled))
    for task, scale in SCALES.items():
        torch.testing.assert_close(other[task], scale * one[task])


@pytest.mark.parametrize("name", WEIGHINGS)
def test_the_gradient_goes_through_the_loss_alone(name):
    """The factors are constants, also those that FAMO makes of the losses."""
    weigh, x = trained(name, 20), torch.tensor(3.0, requires_grad=True)
    weighed = weigh({task: x * (k + 1) for k, task in enumerate(SCALES)}, torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad(sum(weighed.values()), x)
    torch.testing.assert_close(slope, sum(weighed.values()).detach() / 3)


@pytest.mark.parametrize("name", WEIGHINGS)
def test_a_loss_of_zero_has_a_finite_factor(name):
    weigh, losses = WEIGHINGS[name](ONES), dict(zip(ONES, (torch.tensor(x) for x in (0.0, 1.0, 2.0)), strict=True))
    for _ in range(3):
        assert all(loss.isfinite() for loss in weigh(losses, torch.Generator()).values())
        weigh.update(floats(losses), lambda: floats(losses))


def test_equal_makes_losses_of_one_size():
    weigh, losses = WEIGHINGS["equal"](ONES), {"a": 0.1, "b": 10.0, "c": 2.0}
    tensors = {task: torch.tensor(loss) for task, loss in losses.items()}
    assert weigh(tensors) == tensors  # nothing seen yet
    for _ in range(5):
        weigh.update(losses, never)
    weighed = weigh(tensors)
    torch.testing.assert_close(weighed["a"], weighed["b"])
    torch.testing.assert_close(weighed["a"], weighed["c"])
    assert sum(weighed[task].item() / losses[task] for task in losses) == pytest.approx(3)


def test_equal_follows_a_running_mean_without_bias():
    weigh = WEIGHINGS["equal"](ONES, beta=0.5)
    for value in (1.0, 2.0, 4.0):
        weigh.update(dict.fromkeys(ONES, value), never)
    assert weigh.means["a"] == pytest.approx((1 * 0.25 + 2 * 0.5 + 4) / 1.75)


def test_dwa_of_torchjd():
    weigh, reference = WEIGHINGS["dwa"](ONES, temperature=1.5, steps=7), scalarization.DWA(temperature=1.5)
    for step in range(40):
        losses = losses_of(step)
        total = reference(torch.stack([*losses.values()]))
        torch.testing.assert_close(sum(weigh(losses).values()), total)
        weigh.update(floats(losses), never)
        if step % 7 == 6:
            reference.step()


def test_dwa_after_a_resumed_run_has_fewer_steps():
    long, short = (WEIGHINGS["dwa"](ONES, steps=steps) for steps in (9, 2))
    for step in range(3):
        long.update(floats(losses_of(step)), never)
    short.load_state_dict(long.state_dict())
    short.update(floats(losses_of(3)), never)
    mean = sum(floats(losses_of(step))["a"] for step in range(4)) / 4
    assert short.before["a"] == pytest.approx(mean) and short.count == 0


def test_dwa_of_one_loss_that_rises_without_end():
    """All of the weight is its own, and nothing overflows."""
    weigh = WEIGHINGS["dwa"](ONES, temperature=0.001, steps=1)
    for value in (0.0, 1.0):
        weigh.update({"a": value, "b": 1.0, "c": 1.0}, never)
    assert floats(weigh(dict.fromkeys(ONES, torch.tensor(1.0)))) == {"a": 3.0, "b": 0.0, "c": 0.0}


def test_uncertainty_of_torchjd():
    """Whose variances are parameters of torch's Adam; ours are of our own."""
    weigh, reference = WEIGHINGS["uncertainty"](ONES, lr=0.05), scalarization.UW(3).double()
    adam = torch.optim.Adam(reference.parameters(), lr=0.05)
    for step in range(100):
        losses = {task: loss.double() for task, loss in losses_of(step).items()}
        total = reference(torch.stack([*losses.values()]))
        torch.testing.assert_close(sum(weigh(losses).values()), total - reference.log_var.detach().sum() / 2)
        adam.zero_grad()
        total.backward()
        adam.step()
        weigh.update(floats(losses), never)
    torch.testing.assert_close(weigh.x.detach(), reference.log_var.detach())


def test_famo_of_torchjd():
    """The losses of a model that is really trained, seen again on the same rows after each step."""
    weigh, reference = WEIGHINGS["famo"](ONES), scalarization.FAMO(3, weight_decay=0.01).double()
    target = torch.tensor([[1.0, 2.0], [-1.0, 1.0], [0.5, -2.0]], dtype=torch.float64)

    def losses(x: Tensor) -> dict[str, Tensor]:
        return dict(zip(ONES, ((x - target) ** 2).sum(dim=1) + 0.1, strict=True))

    mine, theirs = (nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2))
    for _ in range(60):
        before = losses(mine)
        (slope,) = torch.autograd.grad(sum(weigh(before).values()), mine)
        mine.data -= 0.05 * slope
        weigh.update(floats(before), lambda: floats(losses(mine)))
        (slope,) = torch.autograd.grad(reference(torch.stack([*losses(theirs).values()])), theirs)
        theirs.data -= 0.05 * slope
        reference.update(torch.stack([*losses(theirs).values()]))
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)  # torchjd adds 1e-8 to a loss
    torch.testing.assert_close(weigh.x.detach(), reference._w.detach().double(), rtol=1e-5, atol=1e-7)
    assert weigh.x.detach().abs().max() > 0.1


def test_famos_factors_of_a_micro_batch_without_a_task():
    """Are what they are with it, if the losses are the same: else they would depend on how a step is cut."""
    weigh, losses = WEIGHINGS["famo"](ONES), {task: torch.tensor(k + 2.0) for k, task in enumerate(ONES)}
    whole, last = weigh(losses), [*ONES][-1]
    assert weigh({last: losses[last]}) == {last: whole[last]}
    weigh.update(floats(losses), lambda: floats(losses))
    assert weigh({last: losses[last]})[last] == losses[last]  # a new step, of which nothing else is known


def test_random_factors_have_the_sum_of_the_tasks():
    weigh = WEIGHINGS["rlw"](ONES)
    draw = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).softmax(0)
    weighed = weigh(dict.fromkeys(ONES, torch.tensor(1.0)), torch.Generator().manual_seed(4))
    torch.testing.assert_close(torch.stack([*weighed.values()]), (3 * draw).float())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("equal", {"beta": 1.0}),
        ("dwa", {"temperature": 0.0}),
        ("dwa", {"steps": 0}),
        ("uncertainty", {"lr": 0.0}),
        *(("famo", {"decay": decay}) for decay in (-1.0, float("inf"))),
    ],
)
def test_settings_out_of_range_are_refused(name, settings):
    for values in (settings, dict.fromkeys(settings, math.nan)):
        with pytest.raises(ValueError, match=r"expected .*; found"):
            WEIGHINGS[name](ONES, **values)
