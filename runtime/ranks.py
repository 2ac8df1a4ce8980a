"""The processes of a run under torchrun, its ranks: how they exchange data, and how all end when one fails.

    with join() as world: ...     # torchrun --nproc_per_node=2 PROGRAM; started without torchrun, a world of one

In a world of one the methods change nothing. In a larger one all ranks call every method, in the same order.
Letters: N ranks.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Imported before there is a process group. Its functions have the group of that moment as a default argument: imported
# later, as by torch.optim, they would keep the group's threads alive after its end, which now and then abort the exit.
import torch.distributed.nn.functional
from torch import Tensor

from runtime.errors import EXIT_CODES, UnavailableError, UsageError, explain

SILENCE = timedelta(seconds=50)  # a rank that does not answer for longer counts as dead
START = timedelta(minutes=5)  # for all ranks to start: imports take their time
PATIENCE = timedelta(days=1)  # for a rank that reads files, predicts or writes; that one has died is noticed sooner
NUMBERS = ("RANK", "WORLD_SIZE", "MASTER_PORT")  # torchrun sets these and MASTER_ADDR


class LostError(RuntimeError):
    """Another rank has ended or does not answer. Not an OSError: a run goes on after some of those."""

    exit_code = UnavailableError.exit_code

    def __init__(self, found: str):
        expected = f"expected {os.environ['WORLD_SIZE']} processes at work; one has ended, or is silent ({found})"
        super().__init__(f"{expected}; give the same command with --resume auto")


@contextmanager
def answered_within(limit: timedelta) -> Iterator[None]:
    """End this process where the block takes longer: where the store's keeper is stopped, a call to it never ends."""

    def leave() -> None:
        error = LostError("the process that keeps the store does not answer")
        print(f"error: {error}", file=sys.__stderr__, flush=True)
        os._exit(error.exit_code)

    timer = threading.Timer(limit.total_seconds(), leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class World:
    """One process alone. `Ranks` has the same methods for several."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone writes files and messages."""
        return self.rank == 0

    @property
    def own(self) -> slice:
        """This rank's items of a sequence that is dealt out in turn: r, r + N, r + 2 N, ..."""
        return slice(self.rank, None, self.size)

    def gather(self, value: Any, slow: bool = False) -> list[Any]:
        """The values of all ranks, in their order. They are pickled, so keep them small. slow: as in `together`."""
        return [value]

    def total(self, *numbers: Mapping[str, float]) -> list[dict[str, float]]:
        """For each mapping, the sum of each key's numbers over the ranks."""
        mappings = zip(*self.gather(numbers), strict=True)  # for each mapping, all ranks' versions of it
        return [{key: sum(version[key] for version in versions) for key in versions[0]} for versions in mappings]

    @contextmanager
    def together(self, slow: bool = False) -> Iterator[None]:
        """An error inside, on any rank, is raised on all. slow: some ranks may need longer than SILENCE inside."""
        yield

    def on_rank_0(self, make: Callable[[], Any]) -> Any:
        """Rank 0 alone calls `make`, for as long as that takes; all get its value, or raise its error."""
        return make()

    def check_same(self, make: Callable[[], Mapping[str, Any]], kind: type[Exception] = UsageError) -> None:
        """Raise `kind` on all ranks where their values of `make()` differ."""

    def gather_rows(self, x: Tensor | None) -> Tensor | None:
        """(n, ...), n may differ by rank, or None -> all ranks' rows, rank after rank; None where all have None"""
        return x

    def interleave(self, x: Tensor) -> Tensor:
        """The whole sequence, in order, from each rank's `own` rows x."""
        return x

    def reduce_scatter(self, x: Tensor) -> Tensor:
        """(T, N S) -> this rank's columns of the sum over the ranks, (T, S), in their place in x"""
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """(N S,) of which each rank has filled its own S elements -> all of it, in place"""
        return x


ALONE = World()


class Ranks(World):
    """One of several processes."""

    def __init__(self, store: dist.Store, rank: int, size: int):
        self.store, self.rank, self.size = store, rank, size
        self._patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._room = torch.empty(0)  # for what is received; kept, since on a CPU new memory costs as much as sending

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Raise LostError for the error that a lost rank causes in the others."""
        try:
            yield
        except RuntimeError as error:  # of gloo and NCCL, where a connection is closed or silent
            raise LostError(" ".join(str(error).split())[:200]) from error

    def gather(self, value: Any, slow: bool = False) -> list[Any]:
        values = [None] * self.size
        with self._heard():
            dist.all_gather_object(values, value, self._patient if slow else None)
        return values

    @contextmanager
    def together(self, slow: bool = False) -> Iterator[None]:
        own_error = None
        try:
            yield
        except LostError:
            raise
        except Exception as error:
            own_error = error
        explained = self.gather(own_error and explain(own_error), slow)
        failures = [(rank, failure) for rank, failure in enumerate(explained) if failure]
        if failures:
            rank, (code, text) = failures[0]
            if rank == self.rank:
                raise own_error
            error = EXIT_CODES.get(code, RuntimeError)(text)
            error.exit_code, error.of_other_rank = code, True
            raise error

    def on_rank_0(self, make: Callable[[], Any]) -> Any:
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

    def gather_rows(self, x: Tensor | None) -> Tensor | None:
        gathered = self.gather(None if x is None else (len(x), x.shape[1:], x.dtype, x.device.type))
        if not any(gathered):
            return None
        _, shape, dtype, device = next(filter(None, gathered))
        counts = [each[0] if each else 0 for each in gathered]
        joined = torch.empty(sum(counts), *shape, dtype=dtype, device=device)
        parts = joined.split(counts)
        if x is not None:
            parts[self.rank].copy_(x)
        self._send_own(parts)
        return joined

    def interleave(self, x: Tensor) -> Tensor:
        counts, joined = self.gather(len(x)), self.gather_rows(x)
        whole = torch.empty_like(joined)
        for rank, part in enumerate(joined.split(counts)):
            whole[rank :: self.size] = part
        return whole

    def reduce_scatter(self, x: Tensor) -> Tensor:
        """Row after row, each rank sends every other rank that one's columns, straight from where they lie: (N - 1) / N
        of the bytes. gloo's own reduce-scatter is an all-reduce, which sends twice as many."""
        columns = x.view(len(x), self.size, -1)
        for row in columns:
            received = self._room_for(row)
            self._exchange([row[other] for other in self.others], received)
            for part in received:
                row[self.rank].add_(part)
        return columns[:, self.rank]

    def all_gather(self, x: Tensor) -> Tensor:
        """Sent as in `reduce_scatter`, and received in place: gloo's all-gather copies everything twice."""
        self._send_own(x.view(self.size, -1))
        return x

    def _send_own(self, parts: Sequence[Tensor]) -> None:
        """Send this rank's part to all others, and receive theirs in their places. parts: one of each rank."""
        self._exchange([parts[self.rank]] * len(self.others), [parts[other] for other in self.others])

    @property
    def others(self) -> list[int]:
        """The other ranks' numbers."""
        return [rank for rank in range(self.size) if rank != self.rank]

    def _exchange(self, sent: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        """Send a tensor to each of the others, and fill one by what each sends; both in the order of `others`."""
        operations = [dist.P2POp(dist.isend, x, rank) for rank, x in zip(self.others, sent, strict=True) if len(x)]
        operations += [dist.P2POp(dist.irecv, x, rank) for rank, x in zip(self.others, received, strict=True) if len(x)]
        with self._heard():
            for work in dist.batch_isend_irecv(operations) if operations else ():
                work.wait()

    def _room_for(self, row: Tensor) -> Tensor:
        """A buffer for the others' parts of a row, (N, S) -> (N - 1, S), with anything in it."""
        if self._room.numel() < row[1:].numel() or (self._room.dtype, self._room.device) != (row.dtype, row.device):
            self._room = torch.empty_like(row[1:])
        return self._room.view(-1)[: row[1:].numel()].view_as(row[1:])

    def is_first_to_fail(self) -> bool:
        """Whether no other rank has printed an error yet."""
        try:
            with answered_within(SILENCE):
                return self.store.add("failed", 1) == 1
        except RuntimeError:  # the rank that kept the store is gone
            return True


@contextmanager
def join() -> Iterator[World]:
    """The world that torchrun's variables describe. Rank 0 alone prints; after an error, the first rank that failed.

    Raises: UsageError for variables that are missing or no numbers; UnavailableError where the others do not come.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    env = {name: os.environ.get(name, "") for name in ("MASTER_ADDR", *NUMBERS)}
    if wrong := [name for name, value in env.items() if not (value.isdecimal() if name in NUMBERS else value)]:
        if env["RANK"] not in ("", "0"):
            raise SystemExit(UsageError.exit_code)  # rank 0 prints the error
        found = f"found {wrong[0]}={env[wrong[0]]!r}" if env[wrong[0]] else f"{wrong[0]} is not set"
        raise UsageError(f"WORLD_SIZE={env['WORLD_SIZE']}: expected what torchrun sets; {found}; start by torchrun")
    with answered_within(START + SILENCE):
        world = meet_others()
    with ExitStack() as quiet:
        if not world.leads:
            nowhere = quiet.enter_context(open(os.devnull, "w"))
            quiet.enter_context(redirect_stderr(nowhere))
            quiet.enter_context(redirect_stdout(nowhere))
        try:
            yield world
        except (Exception, KeyboardInterrupt) as error:
            if getattr(error, "of_other_rank", False) or not world.is_first_to_fail():
                raise SystemExit(explain(error)[0]) from None
            raise
        finally:
            dist.destroy_process_group()


def meet_others() -> Ranks:
    """Connect to the other processes: over gloo, and over NCCL for tensors on GPUs, one GPU a process."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=START))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store keeps the keys of earlier ones
        store = dist.PrefixStore(attempt, store)
        store.set(f"started {rank}", "")
        store.wait([f"started {other}" for other in range(size)], START)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=SILENCE)
        return Ranks(store, rank, size)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        expected = f"expected {os.environ['WORLD_SIZE']} processes to meet at {address}"
        raise UnavailableError(f"{expected}; found {' '.join(str(error).split())[:200]}; start by torchrun") from error
