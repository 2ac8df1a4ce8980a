"""data/download.py against a server on this machine: the nine names with made contents, and every way to fail."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.download import BASE_URL, BLOB_IDS, blob_id, main
from data.tasks import SPLITS, TASKS, file_name
from training.errors import run_cli

ROOT = Path(__file__).parents[1]
COURSE = ROOT.parent / "shared" / "data" / "cs224n"
MADE = {name: f"\tid\tsentence\n0\t{name}\té\n".encode() * 5000 for name in BLOB_IDS}  # several reads long
MADE_IDS = {name: blob_id(content) for name, content in MADE.items()}


class Server(ThreadingHTTPServer):
    """Gives out MADE, but for what a test puts into `bodies`; notes what it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: dict[str, bytes] = dict(MADE)
        self.cut: set[str] = set()  # these end after half their bytes
        self.stalled: set[str] = set()  # these stop after half their bytes, with the connection open
        self.stalling, self.released = threading.Event(), threading.Event()
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/data/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        folder, _, name = self.path.rpartition("/")
        self.server.asked.append(name)
        body = self.server.bodies.get(name)
        if folder != "/data" or body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = name in self.server.cut | self.server.stalled
        self.wfile.write(body[: len(body) // 2] if half else body)
        if name in self.server.stalled:
            self.server.stalling.set()
            self.server.released.wait(30)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def fetch(dest: Path, url: str, *more: str) -> int:
    """The exit code, as of the command, but for the made files."""
    return run_cli(lambda argv: main(argv, blob_ids=MADE_IDS), ["--dest", str(dest), "--base-url", url, *more])


def error_line(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def names(folder: Path) -> list[str]:
    """Every name in the folder, hidden ones too."""
    return sorted(os.listdir(folder))


def test_the_table_holds_the_nine_files_of_the_tasks():
    assert set(BLOB_IDS) == {file_name(task, split) for task in TASKS for split in SPLITS}
    assert all(re.fullmatch("[0-9a-f]{40}", identity) for identity in BLOB_IDS.values())
    assert BASE_URL.startswith("https://")


def test_a_blob_id_is_git_s():
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.skipif(not COURSE.is_dir(), reason=f"the course files are not in {COURSE}")
@pytest.mark.parametrize("name", [name for name in BLOB_IDS if "quora" not in name])  # which are cut down there
def test_the_table_fits_the_course_files(name):
    assert blob_id((COURSE / name).read_bytes()) == BLOB_IDS[name]


def test_all_files_are_fetched_once_with_a_line_for_each(tmp_path, server, capsys):
    dest = tmp_path / "new" / "folder"
    assert fetch(dest, server.url.removesuffix("/")) == 0  # with or without the slash at its end
    assert {name: (dest / name).read_bytes() for name in names(dest)} == MADE
    told = capsys.readouterr()
    assert told.out == ""
    lines = [re.split("[\r]", line)[-1] for line in told.err.splitlines()]
    assert [name for name in MADE if any(line.startswith(f"{name}: 100%") for line in lines)] == list(MADE)

    assert server.asked == list(MADE)
    server.asked.clear()
    assert fetch(dest, server.url) == 0
    assert server.asked == []
    assert capsys.readouterr().err.count("already there, verified") == 9


def test_only_what_is_missing_or_not_the_course_s_is_fetched(tmp_path, server, capsys):
    assert fetch(tmp_path, server.url) == 0
    (tmp_path / "sts-dev.csv").unlink()
    (tmp_path / "quora-dev.csv").write_bytes(b"something else")
    server.asked.clear()
    capsys.readouterr()
    assert fetch(tmp_path, server.url) == 0
    assert server.asked == ["quora-dev.csv", "sts-dev.csv"]
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == MADE
    assert "quora-dev.csv: there, but not the course's file; to be replaced" in capsys.readouterr().err


@pytest.mark.fault(41)
@pytest.mark.parametrize("before", [None, b"an older one"])
def test_a_file_with_a_wrong_hash_is_not_kept(tmp_path, server, capsys, before):
    if before:
        (tmp_path / "quora-dev.csv").write_bytes(before)
    server.bodies["quora-dev.csv"] = MADE["quora-dev.csv"][:-1] + b"!"  # of the right length
    assert fetch(tmp_path, server.url) == 4
    line = error_line(capsys)
    assert MADE_IDS["quora-dev.csv"] in line
    assert blob_id(server.bodies["quora-dev.csv"]) in line
    assert names(tmp_path) == sorted([*list(MADE)[:3], *(["quora-dev.csv"] if before else [])])
    assert not before or (tmp_path / "quora-dev.csv").read_bytes() == before


def test_a_body_cut_short_is_the_network_s_fault(tmp_path, server, capsys):
    server.cut.add("ids-sst-train.csv")
    assert fetch(tmp_path, server.url) == 8
    size = len(MADE["ids-sst-train.csv"])
    assert re.search(rf"{size // 2}.*{size}|IncompleteRead", error_line(capsys))
    assert names(tmp_path) == ["ids-sst-dev.csv", "ids-sst-test-student.csv"]
    server.cut.clear()
    assert fetch(tmp_path, server.url) == 0  # goes on where it stopped
    assert server.asked.count("ids-sst-dev.csv") == 1
    assert server.asked.count("ids-sst-train.csv") == 2


def test_a_file_the_server_lacks_and_what_to_do_by_hand(tmp_path, server, capsys):
    del server.bodies["sts-dev.csv"]
    assert fetch(tmp_path, server.url) == 8
    line = error_line(capsys)
    assert "404" in line
    assert f"fetch sts-dev.csv, sts-test-student.csv, sts-train.csv from {server.url} by hand" in line
    assert str(tmp_path) in line


def test_nobody_listens(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/data/"
        assert fetch(tmp_path, url) == 8
    line = error_line(capsys)
    assert "refused" in line
    assert all(name in line for name in MADE)
    assert names(tmp_path) == []


def test_a_server_that_falls_silent(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setattr("data.download.TIMEOUT", 0.2)
    server.stalled.add("ids-sst-dev.csv")
    assert fetch(tmp_path, server.url) == 8
    assert "timed out" in error_line(capsys)
    assert names(tmp_path) == []


def test_a_server_that_speaks_no_http(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert fetch(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}/") == 8
        thread.join()
    assert "ESMTP" in error_line(capsys)


def test_a_destination_that_is_no_folder(tmp_path, server, capsys):
    (tmp_path / "file").touch()
    assert fetch(tmp_path / "file", server.url) == 7
    assert "--dest" in error_line(capsys)
    assert fetch(tmp_path / "file" / "folder", server.url) == 7
    assert "--dest" in error_line(capsys)
    assert server.asked == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing(tmp_path, server, monkeypatch, capsys, step):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    assert fetch(tmp_path, server.url) == 7
    assert "No space left" in error_line(capsys)
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["network", "disk"])
def test_killed_midway_no_part_of_a_file_has_its_name(tmp_path, server, place):
    """kill -9, once with half a file come, once between the writing and the rename."""
    program = (
        "import os, signal, sys\n"
        "from data import download\n"
        "if sys.argv[3] == 'disk':\n"
        "    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"download.main(['--dest', sys.argv[1], '--base_url', sys.argv[2]], blob_ids={MADE_IDS!r})\n"
    )
    if place == "network":
        server.stalled.add("ids-sst-dev.csv")
    command = [sys.executable, "-c", program, str(tmp_path), server.url, place]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        if place == "network":
            assert server.stalling.wait(30)
            process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert not set(names(tmp_path)) & set(MADE)
    server.stalled.clear()
    assert fetch(tmp_path, server.url) == 0
    assert {name: (tmp_path / name).read_bytes() for name in MADE} == MADE


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_ends_without_a_traceback_and_leaves_nothing(tmp_path, server, number, code):
    server.stalled.add("ids-sst-dev.csv")
    command = [sys.executable, "-m", "data.download", "--dest", str(tmp_path), "--base_url", server.url]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert server.stalling.wait(30)
        process.send_signal(number)
        told = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert "Traceback" not in told
    assert "error: interrupted; give the command again" in told
    assert names(tmp_path) == []


def test_the_command_ends_in_one_line_and_an_exit_code(tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "data.download", "--dest", str(tmp_path / "file")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "")
    assert re.fullmatch(
        r"error: .*file: expected a folder to write to; found: .*; choose another --dest\n", done.stderr
    )


def test_debug_shows_the_traceback(tmp_path, server, capsys):
    del server.bodies["ids-sst-dev.csv"]
    assert fetch(tmp_path, server.url, "--debug") == 8
    assert "Traceback (most recent call last):" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["example.org/data", "file:///tmp/", "ftp://example.org/"])
def test_an_address_of_another_kind_is_a_usage_error(tmp_path, capsys, url):
    with pytest.raises(SystemExit) as caught:
        run_cli(main, ["--dest", str(tmp_path), "--base_url", url])
    assert caught.value.code == 2
    assert repr(url) in capsys.readouterr().err


def test_it_runs_as_a_module_without_a_warning():
    command = [sys.executable, "-W", "error", "-m", "data.download", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--dest" in result.stdout
