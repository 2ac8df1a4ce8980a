"""Rows -> batches, in a seeded order.

Rows of similar length share a batch, because a batch is padded to its longest row. The order of training is a pure
function of (seed, task, epoch), so a run can resume at any position without replaying the earlier ones.
"""

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

POOL = 50  # batches that are sorted together: many enough for little padding, few enough to mix an epoch well


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, task: str, epoch: int) -> list[list[int]]:
    """One epoch of a task: each row number once, in batches of `batch_size`, at most one of them shorter.

    Shuffled rows are cut into pools of POOL batches; each pool is sorted by length; all batches are shuffled.
    Args: lengths: of each row, in tokens. seed, epoch: 0 or more. task: its name is mixed into the seed.
    """
    generator = np.random.default_rng([seed, zlib.crc32(task.encode()), epoch])  # hash() differs between processes
    lengths = np.asarray(lengths, dtype=np.int64)
    shuffled = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(shuffled), POOL * batch_size):
        pool = shuffled[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")].tolist()
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


class BatchStream:
    """A task's batches, of one row or more, epoch after epoch: `stream[position]` is a list of row numbers."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, task: str):
        self.batches_per_epoch = math.ceil(len(lengths) / batch_size)
        self._epoch = lru_cache(maxsize=1)(partial(epoch_batches, lengths, batch_size, seed, task))

    def __getitem__(self, position: int) -> list[int]:
        epoch, index = divmod(position, self.batches_per_epoch)
        return self._epoch(epoch)[index]
