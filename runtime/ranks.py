"""The processes of a run under torchrun, the ranks: what they tell each other, and how they all end alike.

    with join() as world: ...     # torchrun --nproc_per_node=2 PROGRAM; started without torchrun, a world of one

A world of one does nothing. Of a larger one every method is called by all ranks, in the same order. Letters: N ranks.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.errors import EXIT_CODES, UnavailableError, UsageError, explain

SILENCE = timedelta(seconds=50)  # a rank that does not answer for longer is taken for dead: a hang is no run
START = timedelta(minutes=5)  # until all have begun: imports take their time
POLL = 0.02  # seconds
NUMBERS = ("RANK", "WORLD_SIZE", "MASTER_PORT")  # what torchrun sets, beside MASTER_ADDR


class LostError(UnavailableError):
    """A rank has ended or is silent, so nobody is left to agree with."""


class World:
    """One process alone: what it tells all comes back to it."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this is the rank that talks and writes."""
        return self.rank == 0

    @property
    def own(self) -> slice:
        """Of things that are dealt out in turn, those of this rank."""
        return slice(self.rank, None, self.size)

    def gather(self, value: Any) -> list[Any]:
        """What each rank gives, on all of them."""
        return [value]

    def total(self, *numbers: Mapping[str, float]) -> list[dict[str, float]]:
        """Of each of these each key's sum over the ranks."""
        told = zip(*self.gather(numbers), strict=True)
        return [{key: sum(each[key] for each in of_ranks) for key in of_ranks[0]} for of_ranks in told]

    @contextmanager
    def together(self, slow: bool = False) -> Iterator[None]:
        """An error inside, on any rank, is raised on all of them. slow: it may take some ranks longer than SILENCE."""
        yield

    def first(self, make: Callable[[], Any]) -> Any:
        """What rank 0 makes, for as long as that takes, or the error that it raises; on all."""
        return make()

    def check_same(self, make: Callable[[], Mapping[str, Any]], kind: type[Exception] = UsageError) -> None:
        """Raise, on all ranks, where what they make is not the same."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the ranks of what has one shape, in its place."""
        return x

    def join_rows(self, x: Tensor | None) -> Tensor | None:
        """(n, ...), n of each rank's own, or None -> all of them, one rank after the other; None where all have None"""
        return x

    def undealt(self, x: Tensor) -> Tensor:
        """All rows, in order, of each rank's `own` ones."""
        return x

    def scatter(self, x: Tensor) -> Tensor:
        """(T, N S) -> of the sum over the ranks the columns of this one, (T, S): a view of x, whose rest is used up"""
        return x

    def unite(self, x: Tensor) -> Tensor:
        """(N S,), of which each rank knows its own S -> all of it, in its place"""
        return x


ALONE = World()


class Ranks(World):
    """One of several processes. Rank 0 talks; what the others say goes nowhere, but for the first error of all."""

    def __init__(self, store: dist.Store, rank: int, size: int):
        self.store, self.rank, self.size, self._meetings = store, rank, size, 0
        self._room = torch.empty(0)  # for what is received; kept, for on a CPU new memory costs as much as sending

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """What a lost rank does to the others."""
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's, of a connection that is closed or silent
            found = " ".join(str(error).split())[:200]
            expected = f"expected {self.size} processes at work; one has ended, or is silent ({found})"
            raise LostError(f"{expected}; give the same command with --resume auto") from error

    def gather(self, value: Any) -> list[Any]:
        found = [None] * self.size
        with self._heard():
            dist.all_gather_object(found, value)
        return found

    def meet(self) -> None:
        """Wait for all. Not in the network's own wait: that has an end, and no signal would be heard in it."""
        self._meetings += 1
        with self._heard():
            self.store.set(f"met {self._meetings} {self.rank}", "")
            while not self.store.check([f"met {self._meetings} {rank}" for rank in range(self.size)]):
                time.sleep(POLL)

    @contextmanager
    def together(self, slow: bool = False) -> Iterator[None]:
        mine = None
        try:
            yield
        except LostError:
            raise
        except Exception as error:
            mine = error
        if slow:
            self.meet()
        told = self.gather(mine and explain(mine))
        if any(told):
            rank, (code, text) = next((rank, each) for rank, each in enumerate(told) if each)
            if rank == self.rank:
                raise mine
            error = EXIT_CODES.get(code, RuntimeError)(text)
            error.exit_code, error.told = code, True
            raise error

    def first(self, make: Callable[[], Any]) -> Any:
        made = [None]
        with self.together(slow=True):
            if self.leads:
                made = [make()]
        with self._heard():
            dist.broadcast_object_list(made)
        return made[0]

    def check_same(self, make: Callable[[], Mapping[str, Any]], kind: type[Exception] = UsageError) -> None:
        first, *others = self.gather(make())
        for rank, other in enumerate(others, start=1):
            for name in first | other:
                a, b = first.get(name), other.get(name)
                if a != b:
                    found = f"found {name} {a!r:.100} in process 0, {b!r:.100} in process {rank}"
                    advice = "give all of them the same command, files and versions"
                    raise kind(f"expected the same in all {self.size} processes; {found}; {advice}")

    def sum(self, x: Tensor) -> Tensor:
        with self._heard():
            dist.all_reduce(x)
        return x

    def join_rows(self, x: Tensor | None) -> Tensor | None:
        told = self.gather(None if x is None else (len(x), x.shape[1:], x.dtype, x.device.type))
        if not any(told):
            return None
        _, shape, dtype, device = next(filter(None, told))
        counts = [each[0] if each else 0 for each in told]
        padded = torch.zeros(max(counts), *shape, dtype=dtype, device=device)
        if x is not None:
            padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        with self._heard():
            dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def undealt(self, x: Tensor) -> Tensor:
        counts, joined = self.gather(len(x)), self.join_rows(x)
        whole = torch.empty_like(joined)
        for rank, part in enumerate(joined.split(counts)):
            whole[rank :: self.size] = part
        return whole

    def scatter(self, x: Tensor) -> Tensor:
        """Each sends each the columns that are its own, and adds up what it gets in the order of the ranks. That is as
        many bytes as a reduce-scatter's, which gloo makes of an all-reduce, with twice as many."""
        own = x.view(len(x), self.size, -1)[:, self.rank]
        for row, total in zip(x, own, strict=True) if own.numel() else ():
            received = self._room_for(row)
            with self._heard():
                dist.all_to_all_single(received, row)
            torch.sum(received.view(self.size, -1), dim=0, out=total)
        return own

    def unite(self, x: Tensor) -> Tensor:
        """As `scatter` sends: gloo's all-gather copies all there is twice."""
        if len(x):
            sent = self._room_for(x)
            sent.view(self.size, -1)[:] = x.view(self.size, -1)[self.rank]
            with self._heard():
                dist.all_to_all_single(x, sent)
        return x

    def _room_for(self, x: Tensor) -> Tensor:
        """A buffer like x, (n,), with anything in it."""
        if self._room.numel() < len(x) or (self._room.dtype, self._room.device) != (x.dtype, x.device):
            self._room = torch.empty_like(x)
        return self._room[: len(x)]

    def is_first_to_fail(self) -> bool:
        """Whether no other rank has said yet why the run ends."""
        try:
            return self.store.add("failed", 1) == 1
        except RuntimeError:  # the rank that kept the store is gone
            return True


@contextmanager
def join() -> Iterator[World]:
    """The world that torchrun's variables tell of. Leaving it by an error, one rank alone says what it was.

    Raises: UsageError for variables that are missing or no numbers; UnavailableError where the others do not come.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    given = {name: os.environ.get(name, "") for name in ("MASTER_ADDR", *NUMBERS)}
    if wrong := [name for name, value in given.items() if not (value.isdecimal() if name in NUMBERS else value)]:
        if given["RANK"] not in ("", "0"):
            raise SystemExit(UsageError.exit_code)  # rank 0 says it
        found = f"found {wrong[0]}={given[wrong[0]]!r}" if given[wrong[0]] else f"{wrong[0]} is not set"
        raise UsageError(f"WORLD_SIZE={given['WORLD_SIZE']}: expected what torchrun sets; {found}; start by torchrun")
    world = meet_others()
    with ExitStack() as quiet:
        if not world.leads:
            nowhere = quiet.enter_context(open(os.devnull, "w"))
            quiet.enter_context(redirect_stderr(nowhere))
            quiet.enter_context(redirect_stdout(nowhere))
        try:
            yield world
        except (Exception, KeyboardInterrupt) as error:
            if getattr(error, "told", False) or not world.is_first_to_fail():
                raise SystemExit(explain(error)[0]) from None
            raise
        finally:
            dist.destroy_process_group()


def meet_others() -> Ranks:
    """Connect to them, over gloo, and NCCL for what lies on GPUs, of which each process of a machine has its own."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=START))
        store.set(f"here {rank}", "")
        store.wait([f"here {other}" for other in range(size)], START)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=SILENCE)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        expected = f"expected {os.environ['WORLD_SIZE']} processes to meet at {address}"
        raise UnavailableError(f"{expected}; found {' '.join(str(error).split())[:200]}; start by torchrun") from error
    return Ranks(store, rank, size)
