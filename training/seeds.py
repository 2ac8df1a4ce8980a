"""Randomness as a pure function of (seed, purpose, position), so that nothing depends on who drew first."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(seed: int, purpose: str, *position: int) -> int:
    """A 64-bit seed. Numbers are in [0, 2^32); another purpose, position or count of positions gives another one.

    torch's CPU generator looks at the lower 32 bits alone, so of very many positions two may share their draws.
    """
    # position as spawn_key, not in the list: SeedSequence pads a list with zeros, so [s, p] and [s, p, 0] would be one.
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())], spawn_key=position)
    return int(sequence.generate_state(1, np.uint64)[0])


def generator(seed: int, purpose: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator, e.g. generator(args.seed, "surgery", step)."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, *position))


@contextmanager
def seeded(seed: int, purpose: str, *position: int) -> Iterator[None]:
    """For code that draws from torch's global generator (Dropout): inside it is fresh, outside it is unchanged.

    On the CPU and, where CUDA is initialised (a model lies there), on the current GPU.
    """
    number = seed_of(seed, purpose, *position)
    on_gpu = torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
        torch.default_generator.manual_seed(number)  # torch.manual_seed would seed every GPU too
        if on_gpu:
            torch.cuda.manual_seed(number)
        yield
