"""Training runs of several processes for tests: forked, so that they have everything imported, and joined by gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import child

Rank = Callable[[int], int]  # what a rank does, by its number: its exit code


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environments(count: int) -> list[dict[str, str]]:
    """What torchrun sets in each of so many processes."""
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    return [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def start(count: int, action: Rank, folder: Path, **variables: str) -> list[int]:
    """Begin `action` in so many processes, with torchrun's variables: their numbers. stderr goes to folder/err-RANK."""
    folder.mkdir(parents=True, exist_ok=True)
    of_ranks = environments(count)

    def begin(rank: int) -> int:
        os.environ.update(of_ranks[rank] | variables)
        return action(rank)

    with ExitStack() as files:
        into = [files.enter_context(open(folder / f"err-{rank}", "w")).fileno() for rank in range(count)]
        return [child.start_program(partial(begin, rank), file) for rank, file in enumerate(into)]


def end(numbers: list[int], folder: Path) -> tuple[list[int], str]:
    """Wait for them: their exit codes, and all that they wrote on stderr."""
    codes = [child.result(number) for number in numbers]
    return codes, "".join((folder / f"err-{rank}").read_text() for rank in range(len(numbers)))


def run(count: int, action: Rank, folder: Path, **variables: str) -> tuple[list[int], str]:
    return end(start(count, action, folder, **variables), folder)
