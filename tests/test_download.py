"""data/download.py against a server on this machine: the names of the course with made contents, and ways to fail."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.download import BASE_URL, BLOB_IDS, blob_id, main
from data.tasks import SPLITS, TASKS
from runtime.errors import run_cli

COURSE = Path(__file__).parents[2] / "shared" / "data" / "cs224n"
MADE = {name: f"\tid\tsentence\n0\t{name}\té\n".encode() * 5000 for name in BLOB_IDS}
MADE_IDS = {name: blob_id(content) for name, content in MADE.items()}


class Server(ThreadingHTTPServer):
    """Gives out MADE, but for what a test puts into `bodies`; notes what it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: dict[str, bytes] = dict(MADE)
        self.cut: set[str] = set()  # these end after half their bytes
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
        self.wfile.write(body[: len(body) // 2] if name in self.server.cut else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
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


def test_the_table_holds_the_files_of_the_built_in_tasks():
    assert set(BLOB_IDS) == {TASKS[task].files[split] for task in TASKS for split in SPLITS}
    assert BASE_URL.startswith("https://")


def test_a_blob_id_is_git_s():
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.skipif(not COURSE.is_dir(), reason=f"the course files are not in {COURSE}")
@pytest.mark.parametrize("name", [name for name in BLOB_IDS if "quora" not in name])  # which are cut down there
def test_the_table_fits_the_course_files(name):
    assert blob_id((COURSE / name).read_bytes()) == BLOB_IDS[name]


def test_only_what_is_missing_or_not_the_course_s_is_fetched(tmp_path, server, capsys):
    dest = tmp_path / "new" / "folder"
    assert fetch(dest, server.url.removesuffix("/")) == 0  # with or without the slash at its end
    assert {name: (dest / name).read_bytes() for name in names(dest)} == MADE
    assert server.asked == list(MADE)
    (dest / "sts-dev.csv").unlink()
    (dest / "quora-dev.csv").write_bytes(b"something else")
    server.asked.clear()
    assert fetch(dest, server.url) == 0
    assert server.asked == ["quora-dev.csv", "sts-dev.csv"]
    assert {name: (dest / name).read_bytes() for name in names(dest)} == MADE
    assert fetch(dest, server.url) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line[:8] for line in printed.err.splitlines() if "verified" in line] == ["12 of 12", "2 of 12 ", "0 of 12 "]


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
    assert names(tmp_path) == sorted([*list(MADE)[:6], *(["quora-dev.csv"] if before else [])])
    assert not before or (tmp_path / "quora-dev.csv").read_bytes() == before


def test_what_the_network_does_not_give_and_how_to_go_on(tmp_path, server, capsys):
    server.cut.add("ids-sst-train.csv")
    assert fetch(tmp_path, server.url) == 8
    assert "IncompleteRead" in error_line(capsys)
    server.cut.clear()
    del server.bodies["sts-dev.csv"]
    assert fetch(tmp_path, server.url) == 8
    line = error_line(capsys)
    assert "404" in line
    assert f"fetch sts-dev.csv, sts-test-student.csv, sts-train.csv by hand into {tmp_path}" in line
    server.bodies["sts-dev.csv"] = MADE["sts-dev.csv"]
    assert names(tmp_path) == sorted(list(MADE)[:9])
    assert fetch(tmp_path, server.url) == 0  # goes on where it stopped
    assert server.asked.count("ids-sst-dev.csv") == 1


def test_a_destination_that_cannot_be_written(tmp_path, server, capsys):
    (tmp_path / "file").touch()
    for dest in (tmp_path / "file", tmp_path / "file" / "folder"):
        assert fetch(dest, server.url) == 7
        assert str(dest) in error_line(capsys)
    assert server.asked == []


@pytest.mark.fault(63)
@pytest.mark.parametrize("url", ["example.org/data", "file:///none/", "http://[::1"])
def test_an_address_that_is_none_is_an_error_of_the_network(tmp_path, capsys, url):
    assert run_cli(main, ["--dest", str(tmp_path), "--base_url", url]) == 8
    assert url in error_line(capsys)
