r"""The first checks on a real GPU: is it right, does it repeat itself, how fast is it. Eight minutes, without network.

    python -m tools.on_gpu --pack minilm16                  # where minilm is cached or can be downloaded: 45 MB
    python -m tools.on_gpu [--checkpoint minilm16] [--output_dir on_gpu] [--only parity,speed] [--minutes 8]

Sections, in this order: machine, tests, parity, resume, large, speed. An error in a check does not stop the
others. Each result is written at once, to results.json and, failures first, to results.md: a session that is cut off
loses one check. Exit 1 if a check failed. Peers that are not installed are named and left out. To try it without GPU:

    python -c "import sys; sys.path.insert(0, 'tests'); import gpu_stand_in; gpu_stand_in.load(); \
        import tools.on_gpu; tools.on_gpu.main(['--small'])"
"""

import argparse
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch
from huggingface_hub.constants import HF_ASSETS_CACHE

from bert.checkpoint import read_weights, write_tensors
from bert.hub import SMALL_FILES, WHEEL_CACHE, resolve
from bert.precision import resolve_device
from data.tasks import names
from runtime.errors import UsageError, check_name, run_cli, say
from runtime.files import new_folder, write_atomic
from runtime.settings import OptionParser
from tools import gpu_checks, gpu_speed
from tools.gpu_checks import LeftOut
from training.card import markdown

Checks = Iterator[tuple[str, Callable[[], dict]]]  # a check's name, and a function that returns "ok" and its numbers
ROOT = Path(__file__).parents[1]
TESTS = 180  # seconds for the tests, at most
OUTCOMES = {False: "**failed**", True: "passed", None: ""}  # None: a figure, or left out


class Sizes(NamedTuple):
    """The sizes of the checks."""

    run: int = 60  # steps of a run that is stopped
    columns: int = 90_000_000  # of the Jacobian: more than 65,535 spans
    timed: tuple[int, ...] = (8, 32, 128)  # rows of each task
    layers: int = 12  # of the random bert-base
    sentences: int = 4096  # to encode
    rounds: int = 5  # of each measurement


SMALL = Sizes(run=12, columns=1 << 20, timed=(2,), layers=1, sentences=64, rounds=1)


def machine(args: argparse.Namespace) -> Checks:
    yield "GPU and libraries", describe


def describe() -> dict:
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout if shutil.which(query[0]) else ""
    properties = torch.cuda.get_device_properties(0)
    figures = {"GPU": properties.name, "capability": f"{properties.major}.{properties.minor}"}
    figures |= {"GiB": properties.total_memory / 2**30, "driver, clock, power": driver.strip()}
    figures |= {"torch": torch.__version__, "CUDA": torch.version.cuda, "python": platform.python_version()}
    return {"ok": None, **figures}


def tests(args: argparse.Namespace) -> Checks:
    yield "tests/test_gpu.py", partial(gpu_tests, args)


def gpu_tests(args: argparse.Namespace) -> dict:
    """Run the tests in a process of their own, in which minilm is the given checkpoint."""
    path, result, cache = ROOT / "tests" / "test_gpu.py", args.home / "tests.xml", args.home / "assets"
    if missing := [name for name in ("pytest", "xdist", "hypothesis") if find_spec(name) is None]:
        raise LeftOut(f"there is no {' and no '.join(missing)}")
    minilm = cache / WHEEL_CACHE.relative_to(HF_ASSETS_CACHE)
    minilm.parent.mkdir(parents=True)
    minilm.symlink_to(args.checkpoint)
    variables = {"TESTS_ON_GPU": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "HF_ASSETS_CACHE": str(cache)}
    env = {**os.environ, **variables, "HF_HUB_OFFLINE": "1"}  # tests/gpu_process.py
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", f"--junitxml={result}", str(path)]
    output = args.home / "tests.txt"
    try:
        with open(output, "w") as file:
            done = subprocess.run(command, cwd=ROOT, env=env, stdout=file, stderr=file, timeout=TESTS)
    except subprocess.TimeoutExpired:
        return {"ok": False, "error": f"not done after {TESTS} s", "tail": last_lines(output)}
    if not result.is_file():
        return {"ok": False, "error": f"pytest ends with {done.returncode}", "tail": last_lines(output)}
    suites = [*ElementTree.parse(result).iter("testsuite")]
    count = {key: sum(int(suite.get(key)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    ran = count["tests"] > count["skipped"]
    return {"ok": done.returncode == 0 if ran else None, **count, "tail": last_lines(output)}


def last_lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-12:]


SECTIONS: dict[str, Callable[[argparse.Namespace], Checks]] = {
    "machine": machine,
    "tests": tests,
    "parity": gpu_checks.parity,
    "resume": gpu_checks.resume,
    "large": gpu_checks.large,
    "speed": gpu_speed.speed,
}


class Book:
    """The results of the checks so far, also on disk."""

    def __init__(self, folder: Path, command: str, minutes: float):
        self.folder, self.command, self.checks, self.began = folder, command, [], time.monotonic()
        self.deadline = self.began + 60 * minutes

    def fill(self, section: str, checks: Checks) -> None:
        """Make a section's checks, up to the deadline."""
        while time.monotonic() < self.deadline:
            name, action = next(checks, (None, None))
            if name is None:
                return
            self.make(section, name, action)
            gc.collect()
            torch.cuda.empty_cache()
        checks.close()
        self.add({"section": section, "name": "the rest", "ok": None, "left out": "no time"})

    def make(self, section: str, name: str, action: Callable[[], dict]) -> None:
        """Make one check, and add its numbers or its error."""
        began = time.monotonic()
        try:
            result = action()
        except LeftOut as reason:
            result = {"ok": None, "left out": str(reason)}
        except Exception as error:
            places = [f"{at.filename}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)[-4:]]
            result = {"ok": False, "error": f"{error!r:.600}", "at": places}
        self.add({"section": section, "name": name, **result, "seconds": round(time.monotonic() - began, 1)})

    def add(self, check: dict) -> None:
        self.checks.append({key: float(f"{x:.4g}") if isinstance(x, float) else x for key, x in check.items()})
        say(f"{OUTCOMES[check['ok']]:10} {check['section']}: {check['name']}: {numbers(self.checks[-1])}")
        self.write("cut off, or not at its end yet")

    def write(self, state: str) -> None:
        seconds = round(time.monotonic() - self.began)
        content = {"command": self.command, "state": state, "seconds": seconds, "checks": self.checks}
        write_atomic(self.folder / "results.json", json.dumps(content, indent=1) + "\n")
        write_atomic(self.folder / "results.md", page(content))


def numbers(check: Mapping) -> str:
    """All that a check has besides its name and outcome, as text."""
    values = {key: x for key, x in check.items() if key not in ("section", "name", "ok") and x not in (None, "", [])}
    texts = [f"{key} {' / '.join(map(str, x)) if isinstance(x, list) else x}" for key, x in values.items()]
    return " ".join(", ".join(texts).split())


def page(content: Mapping) -> str:
    """The results as a Markdown table, failures first."""
    checks = sorted(content["checks"], key=lambda check: [*OUTCOMES].index(check["ok"]))
    words = {False: "failed", True: "passed", None: "figures or left out"}
    counts = ", ".join(f"{sum(check['ok'] is ok for check in checks)} {word}" for ok, word in words.items())
    lines = ["# On a GPU", "", f"`{content['command']}`: {counts}; {content['seconds']} s; {content['state']}.", ""]
    rows = [(OUTCOMES[check["ok"]], check["section"], check["name"], numbers(check)) for check in checks]
    table = markdown(["", "section", "check", "numbers"], [[cell.replace("|", "\\|") for cell in row] for row in rows])
    return "\n".join([*lines, table, ""])


def pack(source: str, folder: Path) -> None:
    """Write a model's folder with its weights in float16: half the bytes. They are read as float32.

    Raises: UsageError, for a folder that is there already: it would be replaced.
    """
    if folder.exists():
        raise UsageError(f"--pack: expected a new folder; found one, {folder}; choose another")
    origin = resolve(source)
    with new_folder(folder) as new:
        for path in (origin / name for name in SMALL_FILES):
            if path.is_file():
                shutil.copy(path, new)
        weights = {name: x.half() if x.is_floating_point() else x for name, x in read_weights(origin).items()}
        write_tensors(new / "model.safetensors", weights)


def main(argv: list[str] | None = None) -> int:
    parser = OptionParser(__doc__)
    parser.add_argument("--pack", type=Path, metavar="DIR", help="write the model in float16 there, and end")
    parser.add_argument("--checkpoint", metavar="SOURCE", help="the model (default: minilm16 if it is here, or minilm)")
    parser.add_argument("--output_dir", type=Path, default=Path("on_gpu"), help="of the results (default: %(default)s)")
    parser.add_argument("--only", type=names, default=tuple(SECTIONS), metavar="A,B", help="some sections alone")
    parser.add_argument("--minutes", type=float, default=8, help="after these no check begins (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="little of everything, to try this program itself")
    parser.set_defaults(device="cuda", data_dir=None)  # what the benchmarks' functions look for
    args = parser.parse_args(argv)
    if args.pack:
        pack(args.checkpoint or "minilm", args.pack)
        return 0
    for name in args.only:
        check_name("--only", SECTIONS, name)
    resolve_device("cuda")
    args.checkpoint = str(resolve(args.checkpoint or ("minilm16" if Path("minilm16").is_dir() else "minilm")).resolve())
    args.sizes = SMALL if args.small else Sizes()
    command = " ".join(["python -m tools.on_gpu", *(sys.argv[1:] if argv is None else argv)])
    book = Book(args.output_dir, command, args.minutes)
    with tempfile.TemporaryDirectory(prefix="on-gpu-") as home:
        args.home = Path(home)
        for section, checks in SECTIONS.items():
            if section in args.only:
                book.fill(section, checks(args))
    book.write("complete")
    return int(any(check["ok"] is False for check in book.checks))


if __name__ == "__main__":
    sys.exit(run_cli(main))
