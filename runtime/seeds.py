"""Randomness as a pure function of (seed, purpose, position), so that nothing depends on who drew first."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(seed: int, purpose: str, *position: int) -> int:
    """A 64-bit seed from numbers of 0 or more. Another purpose, position or count of positions gives another seed."""
    # position as spawn_key, not in the list: SeedSequence pads a list with zeros, so [s, p] and [s, p, 0] would be one.
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())], spawn_key=position)
    return int(sequence.generate_state(1, np.uint64)[0])


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A fresh CPU generator, e.g. generator(options.seed, "surgery", step)."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, *position))


@contextmanager
def seeded(seed: int, purpose: str, *position: int) -> Iterator[None]:
    """For code that draws from torch's global generators, as Dropout: they are seeded inside, unchanged outside."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # initialised once a model is on a GPU
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed_of(seed, purpose, *position))  # torch.manual_seed would seed every GPU
        if gpus:
            torch.cuda.manual_seed(seed_of(seed, purpose, *position))
        yield
