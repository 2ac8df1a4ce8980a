"""A second process for a test: forked, so that it has everything imported, and can die as it likes."""

import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable


def start(action: Callable[[], object]) -> int:
    """Begin `action` in a child process; returns the child's number."""
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside other threads, here torch's; the children's tensors are too small for them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def start_program(action: Callable[[], int], stderr: int) -> int:
    """Begin a program in a child process, which exits with the action's code; stdout goes nowhere, stderr to there."""

    def begin() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(stderr, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        try:
            code = action()
        except SystemExit as error:
            code = error.code
        except KeyboardInterrupt:  # after the end of main
            code = 128 + signal.SIGINT
        os._exit(code)

    return start(begin)


def result(child: int) -> int:
    """Wait for the child: 0 where its action ended well, 1 where it raised, -N where signal N killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(action: Callable[[], object]) -> int:
    return result(start(action))


def die_at(*events: str) -> None:
    """In a child: be killed, as by kill -9, at the last of these, each looked for once those before it have come.

    They are patterns of what the process asks of the system: "open PATH", "os.rename FROM TO", "shutil.rmtree PATH".
    """
    left = [*events]

    def watch(event: str, args: tuple) -> None:
        if event in ("open", "os.rename", "shutil.rmtree") and re.search(left[0], f"{event} {args[0]} {args[1]}"):
            if len(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            left.pop(0)

    sys.addaudithook(watch)
