"""Load on serve.py: requests a second, and the time within which 99 of 100 are answered, at 1, 8 and 64 clients.

    python -m benchmarks.serve RUN [--requests N] [--device cuda] [--data_dir DIR]

A client has one connection, and asks for one text or pair at a time, of the model's tasks in turn. Every answer is
compared with the model's own. The ratio is to one client's requests a second: what sharing a pass gains.
Needs the extra: pip install -e '.[serve]'
"""

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch

from benchmarks.common import Report, parser
from benchmarks.encode import questions
from bert.precision import resolve_precision
from data.tasks import Task
from heads import MultitaskBert
from heads.inference import answers, outputs
from runtime.errors import run_cli

CLIENTS = (1, 8, 64)
CLOSE = 0.05  # of a probability, or of a score's range: rounding in bfloat16 depends on the rows of a pass
Request = tuple[str, dict[str, list[str]], np.ndarray]  # a task, the body, the `numbers` of the answer


def numbers(task: Task, answer: dict) -> np.ndarray:
    """An answer as numbers in [0, 1]: probabilities, or the score's place in its range."""
    if not task.range:
        return np.array([*answer["probabilities"].values()])
    low, high = task.range
    return np.array([(answer["prediction"] - low) / (high - low)])


def requests_of(model: MultitaskBert, texts: list[str], count: int, amp: str) -> list[Request]:
    requests, pairs = [], cycle(zip(texts, texts[1:] + texts[:1], strict=True))
    for task, (a, b) in islice(zip(cycle(model.tasks.values()), pairs, strict=False), count):
        body = {"texts": [a]} if len(task.texts) == 1 else {"texts_a": [a], "texts_b": [b]}
        y = outputs(model, [task.name], [*body.values()], amp)[task.name]
        requests.append((task.name, body, numbers(task, answers(model, task.name, y)[0])))
    return requests


def ask(port: int, requests: list[Request]) -> list[tuple[float, dict]]:
    """Be one client: returns the seconds and the answer of each request. Raises AssertionError for a refused one."""
    connection, results = HTTPConnection("127.0.0.1", port), []
    for task, body, _ in requests:
        content, began = json.dumps(body), time.perf_counter()
        connection.request("POST", f"/predict/{task}", content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        results.append((time.perf_counter() - began, json.loads(content)))
        assert response.status == 200, content
    connection.close()
    return results


def passes(port: int) -> int:
    """The number of passes over the model so far."""
    with urlopen(f"http://127.0.0.1:{port}/health") as response:
        return json.load(response)["passes"]


def measure(model: MultitaskBert, port: int, requests: list[Request], clients: int) -> tuple[float, dict[str, float]]:
    """Requests a second, and more figures. Raises AssertionError for a wrong answer."""
    shares = [requests[first::clients] for first in range(clients)]
    before, began = passes(port), time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        parts = list(threads.map(lambda share: ask(port, share), shares))
    took = time.perf_counter() - began
    pairs = [pair for share, part in zip(shares, parts, strict=True) for pair in zip(share, part, strict=True)]
    error = max(
        np.abs(numbers(model.tasks[task], answer["predictions"][0]) - expected).max()
        for (task, _, expected), (_, answer) in pairs
    )
    assert error < CLOSE, f"{clients} clients: an answer is off by {error}"
    p50, p99 = (1000 * np.percentile([seconds for _, (seconds, _) in pairs], q) for q in (50, 99))
    more = {"p50_ms": p50, "p99_ms": p99, "a_pass": len(pairs) / (passes(port) - before), "largest_error": error}
    return len(pairs) / took, {"requests": len(pairs), **more}


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("run", type=Path, help="a run's folder, or a model's")
    options.add_argument("--requests", type=int, default=1920, help="at each number of clients (default: %(default)s)")
    options.add_argument("--data_dir", type=Path, help="the course's files (default: the downloaded, else the sample)")
    args = options.parse_args(argv)
    model = MultitaskBert.from_pretrained(args.run).to(args.device)
    amp = resolve_precision("auto", torch.device(args.device))
    requests = requests_of(model, questions(args.data_dir, args.requests), args.requests, amp)
    script, report, alone = Path(__file__).parent.parent / "serve.py", Report(), None
    words = [sys.executable, script, args.run, "--port", "0", "--device", args.device]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = server.stderr.readline()
            assert line.startswith("http"), line
            port = int(re.search(r":(\d+) ", line)[1])
            ask(port, requests[:8])  # the first passes are slow
            for clients in CLIENTS:
                rate, more = measure(model, port, requests, clients)
                alone = alone or rate
                report.figure(f"serve / {clients} clients", rate, None, rate / alone, unit="requests/s", **more)
        finally:
            server.terminate()
    return report.exit_code(args.check)


if __name__ == "__main__":
    sys.exit(run_cli(main))
