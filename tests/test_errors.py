"""runtime/errors.py: exit codes, signals, the one line, and what is printed to nobody."""

import os
import signal
import subprocess
import sys
from errno import EACCES, EFBIG, ENOENT, ENOSPC

import pytest
import torch

from runtime import errors
from runtime.errors import CLEAR, DataError, DiskError, run_cli, say, show, stop_signals

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


def raising(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, told",
    [
        (errors.UsageError("--lr: expected more; found -1"), 2, "--lr: expected more; found -1"),
        (DataError("a\n  b\r\nc"), 3, "error: a b c\n"),
        (errors.CheckpointError("step-000003: gone"), 4, "step-000003: gone"),
        (errors.DivergedError("the loss of sst is nan"), 5, "the loss of sst is nan"),
        (MemoryError(), 6, "--batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory"), 6, "--batch_size"),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), 6, "--batch_size"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), 6, "--batch_size"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 6, "--batch_size"),
        (DiskError("runs/x: full"), 7, "runs/x: full"),
        (OSError(ENOSPC, "No space left on device"), 7, "No space left on device; free some space"),
        (OSError(EFBIG, "File too large", "x.json"), 7, "x.json: File too large; free some space"),
        (PermissionError(EACCES, "Permission denied", "x"), 7, "check the permissions"),
        (errors.UnavailableError("no GPU"), 8, "no GPU"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("x"), 1, "KeyError: 'x'; a bug"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), 1, "a bug"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), 1, "a bug"),
        (FileNotFoundError(ENOENT, "No such file", "x"), 1, "--debug"),
    ],
)
def test_exit_codes(capsys, error, code, told):
    assert run_cli(raising(error), []) == code
    out, err = capsys.readouterr()
    assert err.startswith("error: ") == (code < 128) and told in err
    assert (out, err.count("\n")) == ("", 1)


def test_debug_shows_the_traceback(capsys, monkeypatch):
    assert run_cli(raising(DataError("bad")), ["--debug"]) == 3
    monkeypatch.setattr("sys.argv", ["train", "--debug"])
    assert run_cli(raising(DataError("bad"))) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("Traceback (most recent call last):") == 2
    assert lines[-1] == "error: bad"


@pytest.mark.fault(17, 18)
@SIGNALS
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, DataError])
def test_a_signal_is_an_exit_that_cleans_up(number, error, capsys):
    """Whatever a library in C makes of the KeyboardInterrupt."""
    before, cleaned = signal.getsignal(number), []

    def main(argv):
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            cleaned.append(True)
            raise error("could not determine the shape") from None

    assert (run_cli(main, []), cleaned) == (128 + number, [True])
    assert capsys.readouterr().err == "interrupted; give the command again\n"
    assert signal.getsignal(number) is before
    assert run_cli(raising(DataError("bad")), []) == 3  # it counts for the one call


@pytest.mark.fault(17, 18)
@SIGNALS
def test_the_first_signal_lets_the_step_end_and_a_sigint_after_it_does_not(number, capfd):
    noted = []

    def main(argv):
        with stop_signals(first="the step ends", again=lambda: "it is lost") as stop:
            for sent in (number, signal.SIGHUP, signal.SIGTERM):
                os.kill(os.getpid(), sent)
                noted.append(stop.number)
            if len(argv):
                os.kill(os.getpid(), signal.SIGINT)
            raise SystemExit(128 + stop.number)

    with pytest.raises(SystemExit, match=f"{128 + number}"):
        run_cli(main, [])
    assert noted == [number] * 3 and capfd.readouterr().err == "the step ends\n"
    assert run_cli(main, ["again"]) == 128 + signal.SIGINT
    assert capfd.readouterr().err == "the step ends\ninterrupted; it is lost\n"


@pytest.mark.fault(18)
def test_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_cli(lambda argv: os.kill(os.getpid(), signal.SIGHUP) or 3, []) == 3
    finally:
        signal.signal(signal.SIGHUP, before)


def program(body: str, **streams) -> tuple[int, bytes, bytes]:
    """Exit code, stdout's first line and stderr of a Python that ends by itself, its streams flushed at its end."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    script = f"import sys, time\nfrom runtime.errors import *\ndef main(argv):\n{lines}sys.exit(run_cli(main))"
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    with subprocess.Popen([sys.executable, "-c", script], env=env, **pipes) as process:
        out = process.stdout.readline() if process.stdout else b""
        if process.stdout:
            process.stdout.close()  # as `head -1` does
        err = process.stderr.read() if process.stderr else b""
    return process.returncode, out, err


@pytest.mark.fault(18)
def test_head_behind_a_pipe():
    assert program("for step in range(20_000):\n    print('step', step)") == (0, b"step 0\n", b"")
    body = "print('step', 0, flush=True)\ntime.sleep(0.5)\nprint('step', 1)\nraise DataError('bad')"
    assert program(body) == (3, b"step 0\n", b"error: bad\n")


HUNG_UP = "with stop_signals(first='the step ends'):\n    os.kill(os.getpid(), signal.SIGHUP)\nprint('saved')"


@pytest.mark.fault(18)
def test_nothing_that_cannot_be_printed_is_an_error():
    with open("/dev/full", "w") as full:
        assert program(HUNG_UP, stderr=full) == (0, b"saved\n", b"")
        assert program("say('step 1')\nsay('step 2')\nprint('done')", stderr=full) == (0, b"done\n", b"")
        code, _, err = program("print('result')", stdout=full)  # but a result that is lost is one
        assert (code, err[:34], err.count(b"\n")) == (7, b"error: the disk: No space left on ", 1)


def test_a_live_line_is_cut_until_it_fits_and_the_next_one_replaces_it(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    show("training", 1, 10**9, f"sst 0.5  {'x' * 99}")
    say("dev 0.5")
    expected = f"{CLEAR}training [................] 1/1,000,000,000  sst 0.5\r{CLEAR}dev 0.5\n"
    assert capsys.readouterr().err == expected
