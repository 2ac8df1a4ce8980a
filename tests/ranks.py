"""Training runs of several processes for tests: forked, so that they have everything imported, and joined by gloo."""

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


def run(count: int, action: Rank, folder: Path, **variables: str) -> tuple[list[int], str]:
    """Call `action` in so many processes, with torchrun's variables: their exit codes, and all that they wrote on
    stderr, which goes to folder/err-RANK."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"err-{rank}" for rank in range(count)]
    of_ranks = environments(count)

    def begin(rank: int) -> int:
        os.environ.update(of_ranks[rank] | variables)
        return action(rank)

    with ExitStack() as files:
        into = [files.enter_context(open(path, "w")).fileno() for path in paths]
        numbers = [child.start_program(partial(begin, rank), file) for rank, file in enumerate(into)]
    return [child.result(number) for number in numbers], "".join(path.read_text() for path in paths)
