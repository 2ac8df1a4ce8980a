"""data/batches.py: every row once, at most one short batch, the same order everywhere, little padding."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.batches import POOL, BatchStream, epoch_batches

LENGTHS = st.lists(st.integers(0, 97), max_size=211)
ROWS = st.integers(1, 13)
SEED = st.integers(0, 2**64)
TASK = st.sampled_from(["sst", "para", "sts"])


def tokens(batches: list[list[int]], lengths) -> int:
    """What the batches cost, padding counted."""
    return sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)


@pytest.mark.fault(37)
@given(LENGTHS, ROWS, SEED, TASK, st.integers(0, 7))
def test_each_row_comes_once_and_one_batch_at_most_is_short(lengths, batch_size, seed, task, epoch):
    batches = epoch_batches(lengths, batch_size, seed, task, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    full, rest = divmod(len(lengths), batch_size)
    assert Counter(map(len, batches)) == Counter({batch_size: full}) + Counter({rest: 1} if rest else {})


def test_the_last_pool_alone_may_leave_a_short_batch():
    rows = 3 * POOL * 7 + 5
    batches = epoch_batches(np.arange(rows) % 89, 7, seed=0, task="para", epoch=0)
    assert sorted(map(len, batches)) == [5] + [7] * (3 * POOL)


def test_the_order_depends_on_seed_task_and_epoch_and_on_nothing_else():
    lengths = np.random.default_rng(0).integers(3, 60, size=499)
    first = epoch_batches(lengths, 8, seed=11, task="sst", epoch=2)
    np.random.rand()  # the global generator has no say
    assert epoch_batches(list(lengths), 8, seed=11, task="sst", epoch=2) == first
    for seed, task, epoch in [(12, "sst", 2), (11, "sts", 2), (11, "sst", 3)]:
        assert epoch_batches(lengths, 8, seed, task, epoch) != first


def test_the_order_is_the_one_it_always_was():
    """Runs must be resumable with later versions; and in any process, whose hashes of texts are drawn anew."""
    assert epoch_batches([5, 2, 9, 2, 7, 1, 8], 3, 17, "sts", 1) == [[5, 1, 3], [0, 4, 6], [2]]


def test_rows_of_like_length_share_a_batch():
    lengths = np.random.default_rng(1).geometric(1 / 20, size=5003) + 2
    shuffled = np.random.default_rng(2).permutation(5003)
    plain = [list(shuffled[i : i + 16]) for i in range(0, 5003, 16)]
    batches = epoch_batches(lengths, 16, seed=0, task="para", epoch=0)
    assert tokens(batches, lengths) < 1.1 * lengths.sum() < 0.5 * tokens(plain, lengths)


def test_short_and_long_batches_are_mixed():
    lengths = list(range(400))
    means = [np.mean(batch) for batch in epoch_batches(lengths, 8, seed=0, task="sst", epoch=0)]
    assert means != sorted(means)
    assert abs(np.mean(means[:25]) - np.mean(means[25:])) < 100  # 200 where the batches came in order of length


@given(st.lists(st.integers(0, 97), min_size=1, max_size=53), ROWS, SEED, TASK, st.lists(st.integers(0, 67)))
def test_a_stream_is_the_epochs_one_after_the_other_read_in_any_order(lengths, batch_size, seed, task, positions):
    epochs = [batch for epoch in range(68) for batch in epoch_batches(lengths, batch_size, seed, task, epoch)]
    stream = BatchStream(lengths, batch_size, seed, task)
    assert [stream[position] for position in positions] == [epochs[position] for position in positions]
