"""heads/losses.py against torch's own losses, and the triplets' store."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small_bert import assert_same, seeded
from torch import Tensor, nn

from heads.losses import EDGE, LossSettings, PreviousStep, binary_cross_entropy, contrastive_loss

B, D = 11, 7
LABELS = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


@given(st.lists(st.tuples(st.booleans(), st.floats(EDGE, 1 - EDGE)), min_size=1, max_size=31))
def test_binary_cross_entropy_is_torchs_away_from_0_and_1(rows):
    """Loss and gradient."""
    labels, p = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    p.requires_grad_(True)
    found, expected = binary_cross_entropy(p, labels), F.binary_cross_entropy(p, labels)
    assert_same(found, expected)
    assert_same(*(torch.autograd.grad(loss, p)[0] for loss in (found, expected)))


def test_the_gradient_in_float32_is_float64s():
    p = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    labels = torch.arange(64) % 2
    found, expected = (
        torch.autograd.functional.jacobian(lambda x: binary_cross_entropy(x, labels), p.to(dtype))
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def logarithm(p: float) -> tuple[float, float]:
    """Value and slope of what the loss takes for log p."""
    x = torch.tensor([p], dtype=torch.float64, requires_grad=True)
    y = -binary_cross_entropy(x, torch.ones(1))
    return y.item(), torch.autograd.grad(y, x)[0].item()


@given(st.floats(0, 1))
def test_the_logarithm_has_a_tangent_below_the_edge(p):
    expected = (math.log(p), 1 / p) if p >= EDGE else (math.log(EDGE) + p / EDGE - 1, 1 / EDGE)
    assert logarithm(p) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def torchs_triplets(a: Tensor, b: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """torch's mean over the positive rows, as a sum over them divided by all rows."""
    rows, cos = LABELS == 1, F.cosine_similarity
    loss = nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: 1 - cos(x, y), margin=margin)
    return loss(a[rows], b[rows], negatives[rows]) * rows.sum() / B


@given(cosine_margin=st.floats(0, 1), triplet_margin=st.floats(0.01, 2), seed=st.integers(0, 2**31))
def test_the_contrastive_loss_is_torchs_cosine_embedding_and_triplets(cosine_margin, triplet_margin, seed):
    assert nn.CosineEmbeddingLoss().margin == LossSettings().cosine_margin
    assert nn.TripletMarginWithDistanceLoss().margin == LossSettings().triplet_margin
    settings, (a, b, negatives) = LossSettings("full", 0.5, cosine_margin, triplet_margin), randn(3, B, D, seed=seed)
    expected = nn.CosineEmbeddingLoss(margin=cosine_margin)(a, b, 2 * LABELS - 1)
    assert_same(contrastive_loss(a, b, LABELS, None, settings), expected)
    expected = expected + torchs_triplets(a, b, negatives, triplet_margin)
    assert_same(contrastive_loss(a, b, LABELS, negatives, settings), expected)


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_is_finite_and_has_triplets_if_it_is_of_ones(label):
    a, b, negatives = randn(3, B, D)
    a.requires_grad_(True)
    without, loss = (contrastive_loss(a, b, torch.full((B,), label), n, LossSettings()) for n in (None, negatives))
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all()
    assert (loss > without) == bool(label)


def stored(rows: int = 13) -> PreviousStep:
    previous = PreviousStep()
    previous.vectors["para"] = torch.arange(rows * D, dtype=torch.float32).reshape(rows, D)
    return previous


def test_this_steps_vectors_are_not_drawn_before_its_end():
    previous = PreviousStep()
    previous.add("para", torch.ones(2, D), 0, range(1))
    assert previous.draw("para", range(3), seeded()) is None
    previous.end_step()
    assert torch.equal(previous.draw("para", range(3), seeded()), torch.ones(3, D))
    previous.add("para", torch.zeros(2, D), 0, range(1))
    assert torch.equal(previous.draw("para", range(3), seeded()), torch.ones(3, D))


def test_a_step_replaces_the_step_before_and_joins_its_micro_batches():
    """Batch by batch, of each the first sentences before the second ones, however they were cut and in any order."""
    previous = stored()
    whole = [randn(2 * n, D, seed=n).requires_grad_(True) for n in (5, 2)]
    for number, rows in ((1, [1]), (0, [1, 3]), (0, [0, 2, 4]), (1, [0])):
        batch, first = whole[number], 5 * number
        sides = torch.cat([batch.chunk(2)[side][rows] for side in range(2)])
        previous.add("para", sides, number, [first + row for row in rows])
    previous.end_step()
    assert torch.equal(previous.vectors["para"], torch.cat(whole)) and not previous.vectors["para"].requires_grad
    before = previous.vectors["para"]
    previous.end_step()  # one without a batch keeps the store
    assert torch.equal(previous.vectors["para"], before)


@given(places=st.lists(st.integers(0, 61), min_size=1), size=st.integers(1, 13), seed=st.integers(0, 2**31))
def test_draws_are_stored_vectors_and_a_function_of_generator_and_place(places, size, seed):
    """Any rows of a step draw what they draw in the whole one; the global generator is left alone."""
    previous, before = stored(size), torch.random.get_rng_state()
    drawn, whole = (previous.draw("para", rows, seeded(seed)) for rows in (places, range(62)))
    assert torch.equal(drawn, whole[places])
    assert torch.equal(whole, previous.vectors["para"][(whole[:, 0] / D).long()])  # row k begins with k * D
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_draws_of_two_tasks_do_not_depend_on_each_others_rows():
    previous = stored(13)
    previous.vectors["other"] = previous.vectors["para"]
    draws, whole = seeded(), previous.draw("other", range(9), seeded())
    previous.draw("para", range(4), draws)
    assert torch.equal(previous.draw("other", range(9), draws), whole)


def test_every_vector_is_drawn_about_as_often():
    counts = torch.bincount((stored(5).draw("para", range(5000), seeded())[:, 0] / D).long(), minlength=5)
    torch.testing.assert_close(counts / 5000, torch.full((5,), 0.2), rtol=0, atol=0.023)  # four standard deviations
