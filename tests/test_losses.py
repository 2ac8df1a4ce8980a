"""heads/losses.py against torch's own losses, and the triplets' store."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from heads.losses import (
    LossSettings,
    PreviousBatch,
    cosine_embedding_loss,
    para_loss,
    sst_loss,
    sts_loss,
    triplet_loss,
)

B, D = 11, 7
FULL, BCE = LossSettings(), LossSettings(para_loss="bce")
LABELS = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def para_rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """probabilities, v_a, v_b, labels, negatives"""
    return torch.sigmoid(randn(B, seed=seed)), *randn(2, B, D, seed=seed + 1), LABELS, randn(B, D, seed=seed + 2)


def torchs_triplets(a: Tensor, b: Tensor, negatives: Tensor, labels: Tensor, margin: float) -> Tensor:
    """torch's mean over the positive rows, as a sum over them divided by all rows."""
    rows = labels == 1
    distance = nn.TripletMarginWithDistanceLoss(
        distance_function=lambda x, y: 1 - F.cosine_similarity(x, y), margin=margin
    )
    return distance(a[rows], b[rows], negatives[rows]) * rows.sum() / len(labels)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


# ---- against torch's -------------------------------------------------------------------------------------------------


def test_sst_is_torchs_cross_entropy():
    logits, labels = randn(B, 5), torch.arange(B) % 5
    assert torch.equal(sst_loss(logits, labels), F.cross_entropy(logits, labels))


def test_bce_alone_is_torchs():
    probabilities, a, b, labels, negatives = para_rows()
    expected = F.binary_cross_entropy(probabilities, labels)
    assert torch.equal(para_loss(probabilities, a, b, labels, negatives, BCE), expected)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
def test_cosine_embedding_is_torchs(margin):
    _, a, b, labels, _ = para_rows()
    expected = nn.CosineEmbeddingLoss(margin=margin)(a, b, 2 * labels - 1)
    assert_close(cosine_embedding_loss(a, b, labels, margin), expected)


@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_triplets_are_torchs_over_the_positive_rows(margin):
    _, a, b, labels, negatives = para_rows()
    found = triplet_loss(a, b, negatives, labels, margin)
    assert_close(found, torchs_triplets(a, b, negatives, labels, margin))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_sts_is_torchs_squared_and_absolute_error(gamma):
    predictions, labels = randn(B), 5 * torch.rand(B, dtype=torch.float64, generator=seeded())
    expected = gamma * nn.MSELoss()(predictions, labels) + (1 - gamma) * nn.L1Loss()(predictions, labels)
    assert_close(sts_loss(predictions, labels, gamma), expected)


def test_full_is_the_sum_of_three():
    settings = LossSettings(cosine_margin=0.2, triplet_margin=0.7)
    probabilities, a, b, labels, negatives = para_rows()
    expected = (
        F.binary_cross_entropy(probabilities, labels)
        + nn.CosineEmbeddingLoss(margin=0.2)(a, b, 2 * labels - 1)
        + torchs_triplets(a, b, negatives, labels, 0.7)
    )
    assert_close(para_loss(probabilities, a, b, labels, negatives, settings), expected)


def test_without_negatives_there_is_no_triplet_term():
    probabilities, a, b, labels, _ = para_rows()
    expected = F.binary_cross_entropy(probabilities, labels) + nn.CosineEmbeddingLoss()(a, b, 2 * labels - 1)
    assert_close(para_loss(probabilities, a, b, labels, None, FULL), expected)


def test_the_margins_are_torchs_defaults():
    assert nn.CosineEmbeddingLoss().margin == FULL.cosine_margin
    assert nn.TripletMarginWithDistanceLoss().margin == FULL.triplet_margin


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_batch_of_one_class_is_finite(label):
    probabilities, a, b, _, negatives = para_rows()
    a.requires_grad_(True)
    labels = torch.full((B,), label, dtype=torch.float64)
    loss = para_loss(probabilities, a, b, labels, negatives, FULL)
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all()
    assert (triplet_loss(a, b, negatives, labels, 1.0) > 0) == bool(label)


# ---- means over rows -------------------------------------------------------------------------------------------------


@given(cuts=st.lists(st.integers(0, B), max_size=3), seed=st.integers(0, 2**31))
def test_micro_batches_weighted_by_their_rows_are_the_whole_batch(cuts, seed):
    """Loss and gradients, for each task; with the negatives fixed."""
    edges = [0, *sorted(set(cuts) - {0, B}), B]
    pieces = [slice(*edge) for edge in itertools.pairwise(edges)]
    x = randn(B, 2 * D, seed=seed).requires_grad_(True)
    classes, negatives = torch.arange(B) % 5, randn(B, D, seed=seed + 1)

    def losses(rows: slice) -> Tensor:
        v_a, v_b = x[rows].chunk(2, dim=1)
        return torch.stack(
            [
                sst_loss(x[rows, :5], classes[rows]),
                para_loss(torch.sigmoid(x[rows, 0]), v_a, v_b, LABELS[rows], negatives[rows], FULL),
                sts_loss(x[rows, 0], LABELS[rows], 0.3),
            ]
        )

    whole, parts = losses(slice(B)), sum(losses(rows) * (rows.stop - rows.start) / B for rows in pieces)
    assert_close(parts, whole)
    for task in range(3):
        first, second = (torch.autograd.grad(total[task], x, retain_graph=True)[0] for total in (whole, parts))
        assert_close(second, first)


# ---- the previous batch ----------------------------------------------------------------------------------------------


def stored(rows: int = 13) -> PreviousBatch:
    previous = PreviousBatch()
    previous.add(torch.arange(rows * D, dtype=torch.float32).reshape(rows, D))
    previous.end_step()
    return previous


def test_before_the_first_batch_there_is_nothing_to_draw():
    assert PreviousBatch().draw(3, seeded()) is None


def test_this_steps_vectors_are_not_drawn_before_its_end():
    previous = PreviousBatch()
    previous.add(torch.ones(2, D))
    assert previous.draw(3, seeded()) is None
    previous.end_step()
    assert torch.equal(previous.draw(3, seeded()), torch.ones(3, D))
    previous.add(torch.zeros(2, D))
    assert torch.equal(previous.draw(3, seeded()), torch.ones(3, D))


def test_a_step_replaces_the_step_before_and_joins_its_micro_batches():
    previous = stored()
    a, b, c = (torch.full((n, D), float(n)) for n in (2, 3, 5))
    previous.add(a, b)
    previous.add(c)
    previous.end_step()
    assert torch.equal(previous.vectors, torch.cat([a, b, c]))
    assert previous.pending == []


def test_a_step_without_a_para_batch_keeps_the_store():
    previous = stored()
    before = previous.vectors
    previous.end_step()
    assert torch.equal(previous.vectors, before)


def test_the_vectors_are_detached():
    previous = PreviousBatch()
    previous.add(torch.ones(2, D, requires_grad=True) * 2)
    previous.end_step()
    assert not previous.vectors.requires_grad


@given(rows=st.integers(1, 31), size=st.integers(1, 13), seed=st.integers(0, 2**31))
def test_draws_are_stored_vectors_and_a_function_of_the_generator(rows, size, seed):
    previous = stored(size)
    drawn = previous.draw(rows, seeded(seed))
    numbers = (drawn[:, 0] / D).long()  # row k begins with k * D
    assert torch.equal(drawn, previous.vectors[numbers])
    assert torch.equal(previous.draw(rows, seeded(seed)), drawn)


def test_every_vector_is_drawn_about_as_often():
    numbers = (stored(5).draw(5000, seeded())[:, 0] / D).long()
    counts = torch.bincount(numbers, minlength=5)
    torch.testing.assert_close(counts / 5000, torch.full((5,), 0.2), rtol=0, atol=0.023)  # four standard deviations


def test_four_micro_batches_draw_what_one_batch_draws():
    previous, generator = stored(), seeded()
    pieces = [previous.draw(8, generator) for _ in range(4)]
    assert torch.equal(torch.cat(pieces), previous.draw(32, seeded()))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    stored().draw(3, seeded())
    assert torch.equal(torch.random.get_rng_state(), before)
