"""training/log.py: a log that is whole whatever happens, and progress that stops nothing."""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import struct
import sys
import termios

import child
import pytest
from hypothesis import given
from hypothesis import strategies as st
from soak import HEADER_ENDS, SETTINGS, words
from tiny_run import log_lines, train, workshop

from training.errors import DiskError
from training.log import Progress, RunLog, finite, truncate


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_there_at_once(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write({"step": 1, "losses": {"sst": 0.1 + 0.2}})
    assert records(log.path) == [{"step": 1, "losses": {"sst": 0.1 + 0.2}}]
    log.write({"step": 2, "name": "é"})
    assert [record["step"] for record in records(log.path)] == [1, 2]
    log.close()


def test_nan_and_infinity_become_null(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write({"step": 1, "loss": math.nan, "cosine": {"sst-sts": -math.inf}, "list": [1.5, math.inf]})
    log.close()
    assert records(log.path) == [{"step": 1, "loss": None, "cosine": {"sst-sts": None}, "list": [1.5, None]}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=7,
)


@given(JSON)
def test_finite_makes_anything_json(value):
    text = json.dumps(finite(value), allow_nan=False)
    assert finite(json.loads(text)) == finite(value)


def test_a_run_that_begins_begins_its_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n')
    RunLog(path).close()
    assert path.read_bytes() == b""


@given(steps=st.lists(st.integers(0, 9), max_size=7), resumed=st.integers(0, 9), torn=st.integers(0, 20))
def test_resuming_keeps_what_belongs(tmp_path_factory, steps, resumed, torn):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    lines = [json.dumps({"step": step, "seconds": 0.5}) + "\n" for step in steps]
    path.write_text("".join(lines) + json.dumps({"step": resumed, "note": "torn"})[:torn])
    log = RunLog(path, resumed_step=resumed)
    log.write({"step": resumed + 1})
    log.close()
    assert [record["step"] for record in records(path)] == [step for step in steps if step <= resumed] + [resumed + 1]


def test_truncating(tmp_path):
    path = tmp_path / "log.jsonl"
    kept = '{"event": "start"}\n{"step": 3, "dev": {"step": 9}}\n'
    path.write_text(kept + '{"step": 4}\nnot json\n[3]\n{"step": "x"}\n{"step": 2}')  # whole but for its newline
    truncate(path, 3)
    assert path.read_text() == kept + '{"step": 2}\n'
    inode = path.stat().st_ino
    truncate(path, 3)
    assert path.stat().st_ino == inode  # nothing to drop, nothing written
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_resuming_without_a_log(tmp_path):
    log = RunLog(tmp_path / "log.jsonl", resumed_step=7)
    log.write({"step": 8})
    log.close()
    assert records(log.path) == [{"step": 8}]


HARD_LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)[1]


def limit(size: int) -> None:
    """No file of this process grows beyond. For a child only: it would hit the test runner's own output."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, HARD_LIMIT))


def test_a_full_disk_delays_the_lines(tmp_path, capsys):
    path = tmp_path / "log.jsonl"

    def writes():
        log = RunLog(path)
        limit(25)
        for step in range(5):
            log.write({"step": step})  # 12 bytes each: the third goes in part
        assert path.stat().st_size == 25
        assert capsys.readouterr().err.count("warning") == 1
        limit(HARD_LIMIT)
        log.write({"step": 5})
        log.close()

    assert child.run(writes) == 0
    assert [record["step"] for record in records(path)] == list(range(6))


def test_a_disk_full_to_the_end_is_an_error(tmp_path, capsys):
    def writes():
        log = RunLog(tmp_path / "log.jsonl")
        limit(5)
        log.write({"step": 0})
        with pytest.raises(DiskError, match=r"log\.jsonl: the end is not written"):
            log.close()

    assert child.run(writes) == 0


def test_plain_progress(capsys):
    progress = Progress(total=7, start=2, every=3)
    for step in range(3, 8):
        progress.update(step, {"sst": 0.5, "sts": math.nan})
    progress.say("dev 0.5")
    progress.close()
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 3/7", "step 6/7", "step 7/7", "dev 0.5"]
    assert "sst 0.5000  sts nan" in lines[0]
    assert lines[2].endswith("00:00 left")


def test_live_progress(monkeypatch):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 25, 80, 0, 0))  # rows, columns
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        progress = Progress(total=7, start=2)
        progress.bar.mininterval = 0
        progress.update(3, {"sst": 0.5})
        progress.say("dev 0.5")
        progress.close()
        terminal.flush()
        shown = os.read(master, 100_000).decode()
    os.close(master)
    assert "3/7" in shown
    assert "sst 0.5000" in shown
    assert "dev 0.5\r\n" in shown


# ---- a run whose readers go away -------------------------------------------------------------------------------------


@pytest.mark.fault(18)
def test_a_run_that_outlives_its_terminal_and_the_reader_of_its_stdout(tmp_path):
    """The real command, as in `python train_multitask.py ... | head -0` in a window that is then closed."""
    master, slave = os.openpty()
    reader, writer = os.pipe()
    os.close(reader)

    def command():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)  # the terminal is this process's own, and hangs it up when it goes
        for descriptor, place in ((slave, 0), (writer, 1), (slave, 2)):
            os.dup2(descriptor, place)
        os.execv(sys.executable, words(tmp_path, tmp_path / "run", *SETTINGS["gs"]))

    with workshop(tmp_path):
        number = child.start(command)
        os.close(slave)
        os.close(writer)
        shown = b""
        while HEADER_ENDS.encode() not in shown:
            shown += os.read(master, 1000)
        os.close(master)
        assert child.result(number) == 0
        assert train(tmp_path, tmp_path / "other", *SETTINGS["gs"]) == 0
    assert log_lines(tmp_path / "run") == log_lines(tmp_path / "other")
    assert {line["step"] for line in log_lines(tmp_path / "run")} == set(range(1, 10))
    assert (tmp_path / "run" / "metrics.json").exists()
