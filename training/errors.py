"""From exceptions to exit codes, in one place; and a program that outlives its terminal.

0 done, 1 our own bug, 2 usage, 3 data, 4 checkpoint, 5 diverged, 6 out of memory, 7 disk, 8 network or device missing,
130 SIGINT, 143 SIGTERM. An exception class says its code itself, in the attribute `exit_code`, so that every room can
have its own.

    sys.exit(run_cli(main))
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TextIO

import torch


class UsageError(ValueError):
    """An option, or a combination of them, that cannot be met."""

    exit_code = 2


class CheckpointError(ValueError):
    """A run's checkpoint that cannot be trusted or does not fit."""

    exit_code = 4


class DivergedError(RuntimeError):
    """Training that has left the numbers."""

    exit_code = 5


class DiskError(OSError):
    """A disk that is full or may not be written."""

    exit_code = 7


class DeviceError(RuntimeError):
    """A device that was asked for and is not there."""

    exit_code = 8


DISK_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose a folder that can be written",
}


def run_cli(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Call main(argv) and return the exit code: main's own (None is 0), or that of the exception it raised.

    An exception becomes one line on stderr, `error: WHAT at WHERE; DO THIS`, after its traceback where argv holds
    --debug. SystemExit, as argparse raises it after --help, goes through.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    with outliving_the_terminal():
        try:
            with ended_by_signals():
                try:
                    return main(argv) or 0
                finally:
                    sys.stdout.flush()  # here, where a failure is still told
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exc()
            code, text = explain(error)
            print(f"error: {text}", file=sys.stderr)
            return code


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code of an exception, and what the user is told: one line."""
    text = " ".join(str(error).split())
    if STOP.raised or isinstance(error, KeyboardInterrupt):
        return 128 + (STOP.signal or signal.SIGINT), "interrupted; give the command again"
    if hasattr(error, "exit_code"):
        return error.exit_code, text
    if is_out_of_memory(error):
        return 6, f"out of memory ({text or 'no details'}); take a smaller --batch_size or --max_length"
    if isinstance(error, OSError) and error.errno in DISK_ADVICE:
        place = f" at {error.filename}" if error.filename else ""
        return 7, f"{error.strerror}{place}; {DISK_ADVICE[error.errno]}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return 1, f"{type(error).__name__}: {text}{place}; a bug of this program: --debug shows the traceback to report"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch might have gone through. The CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


@contextmanager
def outliving_the_terminal() -> Iterator[None]:
    """Neither a closed stdout (`| head`) nor a terminal that goes away ends what runs inside. Main thread only."""
    with (
        handling({signal.SIGHUP: signal.SIG_IGN}),
        redirect_stdout(LastingStream(sys.stdout)),
        redirect_stderr(LastingStream(sys.stderr, any_error=True)),
    ):
        yield


@contextmanager
def handling(handlers: Mapping[int, Callable | signal.Handlers]) -> Iterator[None]:
    """Handlers by signal, until the end of the block."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Stop:
    """The signal that asked the process to end, if any, and whether an exception was raised for it."""

    signal: int = 0
    raised: bool = False


STOP = Stop()  # one, as a process has one handler for each signal


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end what runs by a KeyboardInterrupt, so that temporary files are removed.

    They are noted in STOP too: where a library in C was calling Python, it may make its own exception of ours
    (torch.tensor a ValueError). And Python drops what is raised in a destructor: then the signal is sent again.
    """
    STOP.signal, STOP.raised = 0, False
    hook = sys.unraisablehook

    def send_again(unraisable) -> None:
        if STOP.raised and unraisable.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0.01)  # a SIGALRM, when the destructor is over
        else:
            hook(unraisable)

    handlers = {
        signal.SIGINT: interrupt,
        signal.SIGTERM: interrupt,
        signal.SIGALRM: lambda *_: signal.raise_signal(STOP.signal),
    }
    with handling(handlers):
        sys.unraisablehook = send_again
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook = hook


def interrupt(number: int, _frame) -> None:
    STOP.signal, STOP.raised = number, True
    raise KeyboardInterrupt


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM lets the step end and be saved; a second SIGINT stops at once."""

    def note(number: int, _frame) -> None:
        STOP.signal = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, interrupt)

    with handling({signal.SIGINT: note, signal.SIGTERM: note}):
        yield STOP


class LastingStream:
    """A text stream whose reader may go away: what is written from then on is dropped.

    Any other error, such as a full disk behind it, is raised, once; with any_error it is forgiven too: nobody's
    training ends because a warning could not be written.
    """

    def __init__(self, stream: TextIO | None, any_error: bool = False):  # None: closed before the program began
        self._any_error = any_error
        self._stream = stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._forgive(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._forgive(self._stream.flush)

    def _forgive(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # below Python, so that its own flush at exit passes too
            os.close(nowhere)
            if not self._any_error and error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal is gone
                raise
