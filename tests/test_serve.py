"""serve.py: the real server over HTTP, what it refuses, and its page in a real browser."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import child
import numpy as np
import pytest
import torch
import uvicorn  # noqa: F401 - once, before the servers are forked
from browser import CHROMIUM, browser
from hypothesis import given, settings
from hypothesis import strategies as st
from own_tasks import make_own_tasks
from tiny_run import train

import serve
from heads import MultitaskBert
from runtime.errors import DivergedError, run_cli
from web.app import compute, make_app
from web.batcher import Batcher
from web.limits import Limits

TEXTS = ["the film was very good !", "a dull story , and a bad film", "dog", "zebras walked", "<b>a man</b>"]
OTHERS = ["a man is walking the dog", "the best film", "a cat", "do you play the guitar ?", "what ?"]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # the rounding of float32 depends on who shares a pass


@pytest.fixture(scope="module")
def run(home) -> Path:
    """Tasks of all kinds, and pairs read both ways."""
    tasks = ("--tasks", "sst,para,sts,urgency,topics", "--task_file", make_own_tasks(home / "own"))
    words = (*tasks, "--pairs", "sts=cross", "--pooling", "attention_mean", "--max_steps", 2)
    assert train(home, home / "run", *words) == 0
    return home / "run"


@pytest.fixture(scope="module")
def model(run) -> MultitaskBert:
    return MultitaskBert.from_pretrained(run)


class Server:
    """serve.py in a process of its own."""

    def __init__(self, run: Path, log: Path, *words: object):
        def action() -> None:
            sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115 - as long as the process
            arguments = [run, "--port", 0, "--amp", "off", *words]
            os._exit(run_cli(serve.main, [str(word) for word in arguments]))

        log.touch()
        self.log, self.pid = log, child.start(action)
        while not (found := re.search(r"http://127.0.0.1:(\d+) has ", log.read_text())):
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), log.read_text()
            time.sleep(0.02)
        self.port = int(found[1])

    def send(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"):
        """-> the status, and what the answer's JSON holds"""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, json.loads(content)

    def post(self, path: str, **body: object):
        status, answer = self.send("POST", path, json.dumps(body).encode())
        assert status == 200, answer
        return answer

    def peak_memory(self) -> int:
        """In bytes, so far."""
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[1])

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return child.result(self.pid)


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    server = Server(run, tmp_path_factory.mktemp("server") / "log", "--max_texts", 8, "--max_bytes", 100_000)
    yield server
    assert server.stop() == 0
    assert re.fullmatch(r"http://\S+ has sst, .*\nended; [\d,]+ requests answered\n", server.log.read_text())


def asked(model: MultitaskBert, task: str, rows: list[int]) -> dict[str, list[str]]:
    """The body of a request about some of the texts, as the task reads them."""
    first, second = ([texts[row] for row in rows] for texts in (TEXTS, OTHERS))
    return {"texts": first} if len(model.tasks[task].texts) == 1 else {"texts_a": first, "texts_b": second}


def check(model: MultitaskBert, task: str, body: dict, answer: dict) -> None:
    """It says what `predict` says."""
    sides, definition = [*body.values()], model.tasks[task]
    found = [row["prediction"] for row in answer["predictions"]]
    if definition.range:
        np.testing.assert_allclose(found, model.predict(task, *sides), **CLOSE)
        assert all([*row] == ["prediction"] for row in answer["predictions"])
        return
    assert found == [list(row) if definition.several else row for row in model.predict(task, *sides)]
    shares = model.predict(task, *sides, probabilities=True)
    assert all([*row["probabilities"]] == [*map(str, definition.classes)] for row in answer["predictions"])
    np.testing.assert_allclose([[*row["probabilities"].values()] for row in answer["predictions"]], shares, **CLOSE)


def test_vectors_are_the_models(server, model):
    found = server.post("/encode", texts=TEXTS)["vectors"]
    np.testing.assert_allclose(found, model.encode(TEXTS), **CLOSE)
    found = server.post("/encode", texts=TEXTS, normalize=True)["vectors"]
    np.testing.assert_allclose(found, model.encode(TEXTS, normalize=True), **CLOSE)


@pytest.mark.parametrize("task", ["sst", "para", "sts"])
def test_words_have_the_weights_of_attention_mean(server, model, task):
    """Against the plain model; a pair that is read at once is one sequence, and its words are whole."""
    body = asked(model, task, [0, 3])
    found = server.post(f"/attention/{task}", **body)["words"]
    for row, texts in enumerate(found):
        sides = [side[row] for side in body.values()]
        for words, read in zip(texts, [sides] if task == "sts" else [[side] for side in sides], strict=True):
            batch = model.tokenizer(*read)
            with torch.no_grad():
                attention = model.bert(**batch, output_attentions=True).attentions[-1][0]  # (H, T, T)
            weights, tokens = attention.mean((0, 1))[1:-1], model.tokenizer.tokens(batch.input_ids[0].tolist())[1:-1]
            weights[[token == "[SEP]" for token in tokens]] = 0  # between the two texts of a pair
            starts = [i for i, token in enumerate(tokens) if not token.startswith("##")]
            pieces = list(zip(starts, [*starts[1:], len(tokens)], strict=True))
            assert [word for word, _ in words] == ["".join(tokens[a:b]).replace("##", "") for a, b in pieces]
            expected = [float(weights[a:b].sum() / weights.sum()) for a, b in pieces]
            np.testing.assert_allclose([weight for _, weight in words], expected, **CLOSE)


def test_32_threads_get_their_own_answers(server, model):
    rows = [[0], [1, 3], [2], [3, 4, 0]]
    bodies = 4 * [(task, asked(model, task, each)) for each in rows for task in model.tasks]
    before = server.send("GET", "/health")[1]
    with ThreadPoolExecutor(32) as threads:
        found = list(threads.map(lambda each: server.post(f"/predict/{each[0]}", **each[1]), bodies))
    for (task, body), answer in zip(bodies, found, strict=True):
        check(model, task, body, answer)
    after = server.send("GET", "/health")[1]
    assert after["requests"] - before["requests"] == len(found) >= after["passes"] - before["passes"]


REFUSED = [
    ("/predict/sst", {"texts": []}, 422, "sst: expected texts; found none"),
    ("/predict/sst", {}, 422, "sst: expected texts; found none"),
    ("/predict/sst", {"texts": ["a", " \n"]}, 422, "texts[1]: expected a text; found ' \\n'; leave the row out"),
    ("/predict/sst", {"texts": ["a\ud800"]}, 422, "texts[0]: expected a text; found 'a\\ud800'"),
    ("/predict/sst", {"texts": "dog"}, 422, "texts: expected a valid list; found 'dog'; see /docs"),
    ("/predict/sst", {"texts": ["a", 3]}, 422, "texts.1: expected a valid string; found 3; see /docs"),
    ("/predict/sst", {"texts": ["a"], "text": "b"}, 422, "texts, texts_a, texts_b; found 'text'; did you mean texts"),
    ("/predict/sst", {"texts": ["a"] * 9}, 413, "texts: expected 1 to 8 texts; found 9; send fewer"),
    ("/predict/sst", {"texts": ["dog " * 25_000]}, 413, "expected 100,000 bytes at most; found 100,0"),
    ("/predict/sst", {"texts_a": ["a"], "texts_b": ["b"]}, 422, "sst: expected texts; found texts_a and texts_b"),
    ("/predict/sts", {"texts": ["a"]}, 422, "sts: expected texts_a and texts_b; found texts"),
    ("/predict/sts", {"texts_a": ["a"], "texts_b": ["b"] * 2}, 422, "expected as many of both; found 1 and 2"),
    ("/predict/ssst", {"texts": ["a"]}, 404, "expected one of sst, para, sts, urgency, topics; found 'ssst'; did you"),
    ("/encode", {"texts": [""]}, 422, "texts[0]: expected a text; found ''"),
    ("/encode", {"texts": ["a"], "normalize": "so"}, 422, "normalize: expected a valid boolean"),
    ("/attention/nli", {"texts": ["a"]}, 404, "found 'nli'"),
    ("/nothing", {}, 404, "POST /nothing: Not Found; see /docs"),
    ("/health", {}, 405, "POST /health: Method Not Allowed; see /docs"),
    *(("/predict/sst", body, 422, "expected a JSON object, with content-type") for body in (b"", b"{", b"7")),
    *(("/predict/sst", body, 422, "expected a JSON object") for body in (b"\xff", b"[" * 99_999)),
]


@pytest.mark.fault(51)
@pytest.mark.parametrize(("path", "body", "status", "message"), REFUSED)
def test_bad_requests_are_told_in_one_line(server, path, body, status, message):
    found, answer = server.send("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert (found, [*answer]) == (status, ["error"]) and message in answer["error"] and "\n" not in answer["error"]


@pytest.mark.fault(51)
def test_a_body_of_64_megabytes_is_not_held(server, model):
    before = server.peak_memory()
    body = json.dumps({"texts": ["dog " * 16_000_000]}).encode()
    status, answer = server.send("POST", "/predict/sst", body)
    assert (status, answer["error"]) == (413, "expected 100,000 bytes at most; found 64,000,015; send less at once")
    assert server.peak_memory() - before < 30e6
    assert server.send("POST", "/predict/sst", b'{"texts": ["dog"]}', kind="text/plain")[0] == 422
    check(model, "sst", {"texts": ["dog"]}, server.post("/predict/sst", texts=["dog"]))


def test_the_api_is_documented(server):
    paths = server.send("GET", "/openapi.json")[1]["paths"]
    assert [*paths] == ["/health", "/predict/{task}", "/encode", "/attention/{task}"]


def test_sigterm_lets_requests_end(run, model, tmp_path):
    """The one that has begun is answered, a new one is not let in."""
    server, body = Server(run, tmp_path / "log"), b'{"texts": ["dog"]}'
    slow = HTTPConnection("127.0.0.1", server.port, timeout=600)
    slow.putrequest("POST", "/predict/sst")
    slow.putheader("Content-Type", "application/json")
    slow.putheader("Content-Length", str(len(body)))
    slow.endheaders(body[:5])
    assert server.send("GET", "/health")[0] == 200  # so that the slow one has begun
    os.kill(server.pid, signal.SIGTERM)
    with pytest.raises(ConnectionRefusedError):
        while True:
            socket.create_connection(("127.0.0.1", server.port)).close()
            time.sleep(0.02)
    slow.send(body[5:])
    response = slow.getresponse()
    check(model, "sst", {"texts": ["dog"]}, json.loads(response.read()))
    slow.close()
    assert child.result(server.pid) == 0


def test_an_address_that_is_taken_and_what_is_missing(server, run, capsys, monkeypatch):
    assert run_cli(serve.main, [str(run), "--port", str(server.port)]) == 2
    expected = "expected a free address of this machine; found 127.0.0.1"
    assert f"error: --host, --port: {expected}:{server.port}: " in capsys.readouterr().err
    assert run_cli(serve.main, [str(run), "--port", "65536"]) == 2
    assert run_cli(serve.main, [str(run), "--host", ".."]) == 2
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run_cli(serve.main, [str(run)]) == 2
    assert re.search(r"expected fastapi and uvicorn; .*; pip install -e '.\[serve\]'\n$", capsys.readouterr().err)
    with pytest.raises(SystemExit, match=r"^0$"):  # its help needs no extra
        serve.main(["--help"])


def test_what_arrives_meanwhile_shares_a_pass_and_one_fault_is_one_jobs():
    begun, go, passes = threading.Event(), threading.Event(), []

    def double(key, rows):
        begun.set()
        go.wait()
        passes.append((key, rows))
        return [2 * row for row in rows if row / row]

    with Batcher(double, most=5) as batcher:
        first = batcher.submit("a", [1])
        begun.wait()
        later = [batcher.submit(*job) for job in (("a", [2, 3]), ("b", [4]), ("a", [5]), ("a", [6, 7]), ("a", [8, 9]))]
        assert later[-1].cancel()
        bad = [batcher.submit("c", [n]) for n in (1, 0, 2)]
        go.set()
        assert first.result() == [2] and [job.result() for job in later[:-1]] == [[4, 6], [8], [10], [12, 14]]
        assert [bad[0].result(), bad[2].result()] == [[2], [4]]
        with pytest.raises(ZeroDivisionError):
            bad[1].result()
    assert passes == [
        *[("a", [1]), ("a", [2, 3, 5, 6, 7]), ("b", [4])],
        *[("c", [1, 0, 2]), ("c", [1]), ("c", [0]), ("c", [2])],
    ]
    assert (batcher.jobs, batcher.passes) == (7, 5)


@contextmanager
def application(model: MultitaskBert, limits: Limits):
    """The application without a server: path, body -> status and answer, as a coroutine. None in a body: it stalls."""

    def one(key, rows):
        return compute(model, "off", key, rows)

    with Batcher(one, limits.max_texts) as batcher:
        app = make_app(model, "tiny", batcher, limits)

        async def post(path: str, *parts: bytes | None) -> tuple[int, dict]:
            left, told = [*parts], []

            async def receive() -> dict:
                part = left.pop(0)
                if part is None:
                    await asyncio.Event().wait()
                return {"type": "http.request", "body": part, "more_body": bool(left)}

            async def send(message: dict) -> None:
                told.append(message)

            scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "http_version": "1.1"}
            with suppress(DivergedError):  # for the server's log, after the answer
                await app(scope | {"headers": [(b"content-type", b"application/json")]}, receive, send)
            return told[0]["status"], json.loads(b"".join(message["body"] for message in told[1:]))

        yield post


def test_limits_of_time_and_number(model):
    body, gate = b'{"texts": ["dog"]}', threading.Event()
    handle = model.bert.embeddings.word.register_forward_pre_hook(lambda *_: gate.wait())

    async def requests() -> list:
        waiting = [asyncio.create_task(post("/predict/sst", *parts)) for parts in ([body], [body[:3], None])]
        await asyncio.sleep(0)
        return [await post("/predict/sst", body), *await asyncio.gather(*waiting)]

    with application(model, Limits(max_requests=2, max_seconds=0.1)) as post:
        found = asyncio.run(requests())
        gate.set()
        handle.remove()
    assert found == [
        (503, {"error": "expected 2 requests at once; found one more; try later"}),
        (503, {"error": "expected an answer within 0.1 seconds; found a busy server; send fewer texts or try later"}),
        (408, {"error": "expected the request within 0.1 seconds; found a part of it; send less at once"}),
    ]


def test_a_model_that_computes_no_number(run):
    model = MultitaskBert.from_pretrained(run)
    model.heads["sst"].f[-1].bias.data.fill_(torch.nan)
    with application(model, Limits()) as post:
        status, answer = asyncio.run(post("/predict/sst", b'{"texts": ["dog"]}'))
        assert status == 500 and "found DivergedError: sst: expected finite outputs; found" in answer["error"]
        assert asyncio.run(post("/predict/urgency", b'{"texts": ["dog"]}'))[0] == 200


def test_a_model_without_such_attention_says_so(run):
    with application(MultitaskBert.from_pretrained(run.parent / "bert"), Limits()) as post:
        status, answer = asyncio.run(post("/attention/sst", b'{"texts": ["dog"]}'))
    assert status == 404 and answer["error"].startswith("expected a model that pools by attention_mean; found mean; ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.sampled_from(("texts", "texts_a", "x")), value),
    max_leaves=9,
)


@pytest.mark.fault(51)
def test_whatever_json_comes_the_answer_is_a_result_or_a_line(model):
    with application(model, Limits()) as post:

        @settings(max_examples=50)
        @given(st.sampled_from(("/predict/sst", "/predict/sts", "/encode", "/attention/para")), JSON)
        def send(path: str, value: object) -> None:
            status, answer = asyncio.run(post(path, json.dumps(value).encode()))
            assert status == 200 or (status in (404, 422) and [*answer] == ["error"])

        send()


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")


@pytest.fixture(scope="module")
def page(server):
    with browser() as page:
        page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        page.wait("document.querySelectorAll('form').length === 6")
        yield page


def fill(page, form: int, *texts: str, press: str = "") -> list[str]:
    """Type texts into a form by keyboard alone, send it, and wait for the answer: the lines of the result."""
    page.js(f"document.querySelectorAll('form')[{form}].querySelectorAll('textarea').forEach(a => a.value = '')")
    page.js(f"document.querySelectorAll('.result')[{form}].replaceChildren()")
    page.js(f"document.querySelectorAll('form')[{form}].querySelector('textarea').focus()")
    for text in texts:
        page.type(text)
        page.press("Tab")
    page.press("Enter")
    result = f"document.querySelectorAll('.result')[{form}]"
    page.wait(f"{result}.children.length && !{result}.hasAttribute('aria-busy')")
    return page.js(f"{result}.innerText").splitlines()


@needs_chromium
def test_the_page_by_keyboard(page, model):
    """Bars, a scale, several classes, words, a matrix; of hostile texts the letters alone."""
    names = page.js("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert names == [*model.tasks, "Sentences against each other"]
    hostile = "<img src=x onerror=hacked=1> film"
    lines = fill(page, 0, hostile)
    shares = model.predict("sst", [hostile], probabilities=True)[0]
    assert lines[0] == str(model.predict("sst", [hostile])[0])
    bars = page.js("[...document.querySelectorAll('.bars li')].map(li => li.innerText.split(/\\s+/))")
    assert bars == [[str(n), f"{100 * share:.1f}%"] for n, share in enumerate(shares)]
    widths = page.js("[...document.querySelectorAll('.fill')].map(f => f.clientWidth / f.parentNode.clientWidth)")
    np.testing.assert_allclose(widths, shares, atol=0.01)
    assert "film" in lines and "Words by the attention they receive" in lines
    assert page.js("typeof hacked") == "undefined" and page.js("document.querySelectorAll('main img').length") == 0

    assert fill(page, 2, "a dog", "the cat")[0] == f"{model.predict('sts', ['a dog'], ['the cat'])[0]:.2f}"
    assert fill(page, 4, "the dog")[0] == (", ".join(model.predict("topics", ["the dog"])[0]) or "none of them")

    fill(page, 5, "\n".join(TEXTS))
    x = model.encode(TEXTS, normalize=True)
    cells = page.js("[...document.querySelectorAll('tbody td')].map(cell => +cell.innerText)")
    np.testing.assert_allclose(cells, (x @ x.T).ravel(), atol=0.0051)
    assert page.js("[...document.querySelectorAll('tbody th')].map(h => h.innerText)")[4] == "5 <b>a man</b>"
    assert not [event for event in page.events if event[0] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert "texts: expected 1 to 8 texts; found 9" in fill(page, 5, "\n".join("abcdefghi"))[0]
    asked = [event["request"]["url"] for name, event in page.events if name == "Network.requestWillBeSent"]
    assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {page.js("location.host")}


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_on_a_phone_and_for_all_eyes(page, dark):
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.call("Emulation.setEmulatedMedia", features=[scheme])
    fill(page, 0, "the film")
    fill(page, 5, "\n".join(TEXTS))
    assert page.js("document.scrollingElement.scrollWidth") == 360
    areas = "[...document.querySelectorAll('textarea')]"
    assert page.js(f"{areas}.every(a => a.labels.length === 1 && parseFloat(getComputedStyle(a).fontSize) >= 16)")
    assert page.js("[...document.querySelectorAll('.result')].every(r => r.getAttribute('aria-live') === 'polite')")
    assert page.js("[...document.querySelectorAll('button')].every(b => b.offsetHeight >= 44)")
    page.js(f"{areas}[0].focus()")
    page.press("Tab")
    assert page.js("document.activeElement.tagName") == "BUTTON"
    assert page.js("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    colours = "getComputedStyle(document.querySelector('{}')).{}"
    behind_text = {"h2": "section", ".muted": "section", "h3": "section", "header p": "body"}
    for text, behind in (behind_text | {"button": "button", "textarea": "textarea"}).items():
        found = [page.js(colours.format(*where)) for where in ((text, "color"), (behind, "backgroundColor"))]
        light, shade = sorted(map(luminance, found), reverse=True)
        assert (light + 0.05) / (shade + 0.05) >= 4.5, (text, found)
    assert (luminance(page.js(colours.format("body", "backgroundColor"))) < 0.1) == dark


def luminance(colour: str) -> float:
    """WCAG 2's, of rgb(...)"""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
