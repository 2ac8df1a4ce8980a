"""training/errors.py: exit codes, the one line, and a program whose terminal goes away."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from training.errors import (
    CheckpointError,
    DeviceError,
    DiskError,
    DivergedError,
    LastingStream,
    UsageError,
    is_out_of_memory,
    run_cli,
)


class DataError(ValueError):
    exit_code = 3  # another room's own


def raising(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, told",
    [
        (UsageError("--lr: expected more; found -1"), 2, "--lr: expected more; found -1"),
        (DataError("a.csv:3: no label"), 3, "a.csv:3: no label"),
        (CheckpointError("step-000003: gone"), 4, "step-000003: gone"),
        (DivergedError("the loss of sst is nan"), 5, "the loss of sst is nan"),
        (MemoryError(), 6, "--batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory"), 6, "--batch_size"),
        (DiskError("runs/x: full"), 7, "runs/x: full"),
        (OSError(errno.ENOSPC, "No space left on device"), 7, "No space left on device; free some space"),
        (OSError(errno.EFBIG, "File too large", "x.json"), 7, "File too large at x.json; raise the limit"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 7, "Permission denied at x; check the permissions"),
        (DeviceError("no GPU"), 8, "no GPU"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("x"), 1, "KeyError: 'x' at test_errors.py:"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "--debug"),
    ],
)
def test_exit_codes(capsys, error, code, told):
    assert run_cli(raising(error), []) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_an_error_is_one_line(capsys):
    assert run_cli(raising(DataError("a\n  b\r\nc")), []) == 3
    assert capsys.readouterr().err == "error: a b c\n"


def test_debug_shows_the_traceback(capsys, monkeypatch):
    assert run_cli(raising(DataError("bad")), ["--debug"]) == 3
    monkeypatch.setattr("sys.argv", ["train", "--debug"])
    assert run_cli(raising(DataError("bad"))) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("Traceback (most recent call last):") == 2
    assert lines[-1] == "error: bad"


def test_the_cpu_allocator_s_error_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**56, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_main_s_own_code_and_system_exit():
    assert run_cli(lambda argv: None, []) == 0
    assert run_cli(lambda argv: 3, []) == 3
    with pytest.raises(SystemExit) as caught:
        run_cli(raising(SystemExit(143)), [])
    assert caught.value.code == 143


@pytest.mark.fault(18)
def test_hanging_up_does_not_end_it():
    before = signal.getsignal(signal.SIGHUP)
    reached = []

    def main(argv):
        os.kill(os.getpid(), signal.SIGHUP)
        reached.append(True)

    assert run_cli(main, []) == 0
    assert reached == [True]
    assert signal.getsignal(signal.SIGHUP) is before


@pytest.mark.fault(17)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_an_exit_that_cleans_up(number, capsys):
    before, cleaned = signal.getsignal(number), []

    def main(argv):
        try:
            os.kill(os.getpid(), number)
        finally:
            cleaned.append(True)

    assert run_cli(main, []) == 128 + number
    assert cleaned == [True]
    assert capsys.readouterr().err == "error: interrupted; give the command again\n"
    assert signal.getsignal(number) is before
    assert run_cli(raising(DataError("bad")), []) == 3  # it counts for the one call


class Interrupted:
    """A sequence in whose length a signal arrives."""

    def __init__(self, number: int):
        self._number = number

    def __len__(self) -> int:
        os.kill(os.getpid(), self._number)
        return 0

    def __getitem__(self, index: int):
        raise IndexError


@pytest.mark.fault(17)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("error", [ValueError, DataError])
def test_a_signal_whose_exception_a_library_replaces(number, error, capsys):
    def main(argv):
        try:
            torch.tensor(Interrupted(number))
        except ValueError as replaced:
            raise error(str(replaced)) from None

    assert run_cli(main, []) == 128 + number
    assert capsys.readouterr().err == "error: interrupted; give the command again\n"


class Dropping:
    """Something in whose destructor a signal arrives."""

    def __init__(self, number: int):
        self._number = number

    def __del__(self):
        os.kill(os.getpid(), self._number)


@pytest.mark.fault(17)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_whose_exception_python_drops(number, capsys):
    hook = sys.unraisablehook

    def main(argv):
        Dropping(number)
        time.sleep(30)

    began = time.monotonic()
    assert run_cli(main, []) == 128 + number
    assert time.monotonic() - began < 10
    assert capsys.readouterr().err == "error: interrupted; give the command again\n"
    assert (sys.unraisablehook, signal.getitimer(signal.ITIMER_REAL)) == (hook, (0, 0))


@pytest.mark.fault(18)
def test_a_terminal_that_is_gone():
    master, slave = os.openpty()
    stream = LastingStream(os.fdopen(slave, "w", buffering=1))
    assert stream.isatty()
    os.close(master)
    for _ in range(3):
        print("step 1", file=stream)
    stream.close()


def test_a_stream_closed_from_the_beginning():
    stream = LastingStream(None)
    assert stream.write("step 1") == 6
    stream.close()


def test_a_full_disk_behind_stdout_is_told(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run_cli(lambda argv: print("result"), []) == 7
    assert "No space left" in capsys.readouterr().err


def test_a_full_disk_behind_stderr_ends_nothing(monkeypatch):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        assert run_cli(lambda argv: print("warning: x", file=sys.stderr), []) == 0


def test_what_is_written_arrives():
    text = io.StringIO()
    print("sst", 0.5, file=LastingStream(text), flush=True)
    assert text.getvalue() == "sst 0.5\n"


SCRIPT = """
import sys
from pathlib import Path
from training.errors import run_cli

def main(argv):
    for step in range(20_000):
        print("step", step)
    Path(sys.argv[1]).write_text("done")

sys.exit(run_cli(main))
"""


@pytest.mark.fault(18)
def test_head_behind_a_pipe(tmp_path):
    """As in `python program.py | head -1`: the program goes on, and nothing is said about it."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "mark")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"step 0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert (tmp_path / "mark").read_text() == "done"
