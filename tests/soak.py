"""The real command, killed at random times again and again, must end as if nobody had disturbed it.

    python tests/soak.py --kills 200            # a line of JSON at the end; exit 1 where anything differs

Each run is started on the tiny data, struck by SIGKILL, SIGTERM or SIGINT at a random time after its header, and
resumed, until it ends; then every tensor of its last checkpoint, its best model, its log, its metrics and its
predictions are compared, byte for byte, with those of an undisturbed run. Then the next run begins.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

from tiny import make_bert_folder, make_data_folder
from tiny_run import command, outcome

import train_multitask

EVERY = ("--max_steps", 9, "--eval_every", 4, "--save_every", 2, "--log_every", 1, "--lr", 0.003)
SETTINGS = {  # dropout is on in all of them, in BERT and in the heads
    "gs": ("--strategy", "gs", "--batch_size", 4, "--grad_accum", 2, "--para_loss", "full", *EVERY),
    "mtl": ("--strategy", "mtl", "--tasks", "para,sts", "--arch", "v2", "--pooling", "cnn", *EVERY),
    "single": ("--strategy", "single", "--tasks", "sst", *EVERY),
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EXIT = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
HEADER_ENDS, LAST_LINE = "time: about", "; predictions: "
PATIENCE = 300  # seconds for a run of less than one: a busy machine is slow, a hanging one stays


def start(home: Path, out: Path, *options: object, **environment: str) -> subprocess.Popen:
    """The real command, in a process of its own."""
    words = [sys.executable, train_multitask.__file__, *command(home, "--output_dir", out, *options)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=variables
    )


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Wait: (exit code, what was left to read on stderr)."""
    _, told = process.communicate(timeout=PATIENCE)
    return process.returncode, told


def undisturbed(home: Path, name: str) -> tuple[Path, float]:
    """The folder of such a run, and the seconds from its header to its end."""
    out = home / f"undisturbed-{name}"
    process = start(home, out, *SETTINGS[name])
    wait_for_header(process)
    began = time.monotonic()
    code, told = end(process)
    assert code == 0, told
    return out, time.monotonic() - began


def wait_for_header(process: subprocess.Popen) -> str:
    """What it said until its header was out, or until its end."""
    told = ""
    for line in process.stderr:
        told += line
        if line.startswith(HEADER_ENDS):
            break
    return told


def strike(process: subprocess.Popen, seconds: float, number: signal.Signals) -> bool:
    """The signal, so long after the header; whether it came before the end. Any other end is an AssertionError."""
    told = wait_for_header(process)
    time.sleep(seconds)
    process.send_signal(number)
    code, rest = end(process)
    told += rest
    # Once the last line is out, Python itself is ending, and no longer hears a signal in our way.
    allowed = (0, EXIT[number], -number) if LAST_LINE in told else (0, EXIT[number])
    assert code in allowed and "Traceback" not in told, f"exit {code} after {number.name}: {told}"
    return code != 0


def disturbed(home: Path, out: Path, name: str, span: float, draw: random.Random) -> Counter[str]:
    """One run, struck until it ends by itself. How often by each signal."""
    struck = Counter()
    while True:
        number = draw.choice(SIGNALS)
        process = start(home, out, *SETTINGS[name], "--resume", "auto")
        if not strike(process, draw.uniform(0, span), number):
            return struck
        struck[number.name] += 1


def soak(home: Path, kills: int, seed: int) -> Counter[str]:
    """At least so many kills, over runs of all settings in turn; AssertionError where one ends otherwise."""
    make_bert_folder(home / "bert")
    make_data_folder(home / "data")
    expected = {name: undisturbed(home, name) for name in SETTINGS}
    draw, total = random.Random(seed), Counter()
    for name in cycle(SETTINGS):
        folder, span = expected[name]
        out = home / "disturbed"
        total += disturbed(home, out, name, span, draw)
        assert outcome(out) == outcome(folder), f"{name}, seed {seed}: not the undisturbed run's result; see {out}"
        left = [path for path in out.rglob(".*") if path.name != ".lock"]
        assert not left, f"{name}, seed {seed}: left behind: {left}"
        shutil.rmtree(out)
        total["runs"] += 1
        print(f"{name}: as undisturbed; so far {dict(total)}", file=sys.stderr)
        if total.total() - total["runs"] >= kills:
            return total


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at least so many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the times and signals (default: %(default)s)")
    args = parser.parse_args(argv)
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        total = soak(home, args.kills, args.seed)
    except AssertionError as error:
        print(f"{error}\nfiles: {home}", file=sys.stderr)
        return 1
    shutil.rmtree(home)
    print(json.dumps({**total, "differences": 0, "seconds": round(time.monotonic() - began)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
