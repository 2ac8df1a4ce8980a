"""How a program ends, and what it says: exit codes, signals, lines on stderr.

0 done, 1 our own bug, 2 to 8 as below (6: out of memory), 128 + a signal's number: 130 SIGINT, 143 SIGTERM, 129 SIGHUP.
"""

import difflib
import errno
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import TextIO

DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS}
DISK_ERRNOS |= {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR}
OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory")  # the second: outside torch's own allocator
OUT_OF_MEMORY += tuple(f"{library}_STATUS_ALLOC_FAILED" for library in ("CUBLAS", "CUDNN", "CUSPARSE", "CUSOLVER"))
CLEAR = "\x1b[K"  # erases a terminal's line from the cursor on
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # two on Windows


class UsageError(ValueError):
    exit_code = 2  # an option, or a combination of them, that cannot be met


class DataError(ValueError):
    exit_code = 3  # a data file that is missing or wrong


class CheckpointError(ValueError):
    exit_code = 4  # a checkpoint or model file that cannot be trusted or does not fit


class DivergedError(RuntimeError):
    exit_code = 5  # losses, gradients, weights or outputs that are not finite


class DiskError(OSError):
    exit_code = 7  # a disk that is full or may not be written


class UnavailableError(OSError):
    exit_code = 8  # a network or a device that is missing


EXIT_CODES = {kind.exit_code: kind for kind in (UsageError, DataError, CheckpointError, DivergedError, DiskError)}
EXIT_CODES[UnavailableError.exit_code] = UnavailableError


class Stopped(KeyboardInterrupt):
    """Raised by a signal that ends the program at once; its text is for the user."""


def run_cli(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Call main(argv); return its exit code, or that of its exception, printed in one line. SystemExit passes."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # no error for a character outside its encoding
    with stop_signals(at_once=True) as stop:
        try:
            try:
                return main(argv) or 0
            finally:  # flush here, where a failure can still be reported
                say("", end="", stream=sys.stdout, forgiven=BrokenPipeError)
        except BrokenPipeError:  # stdout's reader has left; the work is done: programs print last
            return 0
        except (Exception, KeyboardInterrupt) as error:
            if "--debug" in (sys.argv[1:] if argv is None else argv):
                say(traceback.format_exc().rstrip())
            code, text = explain(error, stop.number)
            say(text if code > 128 else f"error: {text}")
            return code


@contextmanager
def stop_signals(at_once: bool = False, first: str = "", again: Callable[[], str] = str) -> Iterator[SimpleNamespace]:
    """Yield an object whose `number` is that of the first signal inside the block, 0 for none. A later SIGINT, or with
    `at_once` any signal, raises Stopped, so that temporary files are removed on the way out.

    Args: texts for the user: `first` is printed at the first signal, `again()` is the text of Stopped.
    """
    stop = SimpleNamespace(number=0)

    def handle(number: int, _frame: object) -> None:
        before, stop.number = stop.number, stop.number or number
        if at_once or (before and number == signal.SIGINT):
            raise Stopped(again())
        if not before and first:
            with suppress(OSError):  # not by print, which the signal may have interrupted
                os.write(sys.stderr.fileno(), f"{CLEAR * sys.stderr.isatty()}{first}\n".encode())

    caught = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN or n == signal.SIGINT]  # nohup ignores SIGHUP
    old_handlers = {number: signal.signal(number, handle) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def program(module: str) -> list[str]:
    """The words of a command that runs one of our programs: from its folder or installed, as this one was started."""
    if sys.argv[0].startswith("minimal-bert "):  # see minimal_bert.py
        return ["minimal-bert", module.partition("_")[0]]
    return ["python", f"{module}.py"]


def printable(text: str) -> str:
    """The text, with repr's escapes for characters that are invisible or move a terminal's cursor; new lines stay."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def say(text: str, end: str = "\n", stream: TextIO | None = None, forgiven: type[OSError] = OSError) -> None:
    """Print a line on stderr, or on `stream`. Where that fails, later output is thrown away, and the error is raised
    unless it is of the type `forgiven`."""
    stream = stream or sys.stderr
    try:
        text = printable(text)
        print(CLEAR + text if stream.isatty() else text, end=end, file=stream, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # so that Python's flush at exit does not fail
        if not isinstance(error, forgiven):
            raise


def show(what: str, done: int, total: int, rest: str = "") -> None:
    """On a terminal, print a bar that the next line replaces; `rest` is cut at double spaces until the line fits."""
    if sys.stderr.isatty():
        filled = 16 * done // max(1, total)
        line = f"{what} [{'#' * filled}{'.' * (16 - filled)}] {done:,}/{total:,}  {rest}".rstrip()
        while len(line) >= shutil.get_terminal_size().columns and "  " in line:  # a longer one would not be replaced
            line = line.rpartition("  ")[0]
        say(line, end="\r")


def explain(error: BaseException, number: int = 0) -> tuple[int, str]:
    """The exit code of an exception, and the text for the user. number: that of an earlier signal, 0 for none"""
    text = " ".join(str(error).split())
    if number or isinstance(error, KeyboardInterrupt):  # a C library may turn KeyboardInterrupt into its own error
        advice = text if isinstance(error, Stopped) else ""
        return 128 + (number or signal.SIGINT), f"interrupted; {advice or 'give the command again'}"
    if hasattr(error, "exit_code"):
        return error.exit_code, text
    if is_out_of_memory(error):
        advice = "give it more; in training take a smaller --batch_size or --max_length"
        return 6, f"out of memory ({text or 'no details'}); {advice}"
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        place = error.filename or "the disk"
        return 7, f"{place}: {error.strerror}; free some space, check the permissions or choose another folder"
    return 1, f"{type(error).__name__}: {text}; a bug of this program: --debug shows the traceback to report"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, so that a smaller batch may pass. By the class's name (torch is not imported) or text."""
    names, text = {kind.__name__ for kind in type(error).__mro__}, str(error)
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(words in text for words in OUT_OF_MEMORY)


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean X or Y?`: names that begin with it, else contain it, else are spelled alike; "" for none."""
    names, word = list(dict.fromkeys(names)), name.strip("-")
    begins = [other for other in names if other.strip("-").startswith(word)] if word else []
    holds = [other for other in names if word in other] if len(word) > 2 else []
    near = begins or holds or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {' or '.join(near[:2])}?" if near else ""


def check_name(place: str, names: Iterable[str], name: str) -> None:
    """Raise UsageError, with the place and the nearest names, where `name` is none of `names`."""
    if name not in names:
        raise UsageError(f"{place}: expected one of {', '.join(names)}; found {name!r}{nearest(name, names)}")
