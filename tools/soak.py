"""The real command, killed at random times again and again, must end as if nobody had disturbed it.

    python -m tools.soak --kills 200            # a line of JSON at the end; exit 1 where anything differs
    python -m tools.soak --kills 60 --ranks 2   # two processes, as torchrun starts them; one is struck

Each run is started on the tiny data, struck by SIGKILL, SIGTERM or SIGINT at a random time after its header, and
resumed, until it ends; each resumed process must go on from the newest checkpoint, and no more than --save_every steps
may be logged after that. At the end every tensor of the run's last checkpoint, its best model, its log, its metrics and
its predictions are compared, byte for byte, with those of an undisturbed run. Then the next run begins.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import train_multitask
from runtime.errors import run_cli
from runtime.settings import OptionParser
from training.checkpoint import saved, step_of

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the tiny BERT and its data
import child
import ranks
from tiny import make_bert_folder, make_data_folder
from tiny_run import command, outcome, train

SAVE_EVERY = 2
EVERY = ("--max_steps", 9, "--eval_every", 4, "--save_every", SAVE_EVERY, "--log_every", 1, "--lr", 0.003)
EVERY += ("--grad_accum", 2)
SETTINGS = {  # dropout is on in all of them, in BERT and in the heads
    "gs": ("--strategy", "gs", "--batch_size", 4, "--para_loss", "full", *EVERY),
    "mtl": ("--strategy", "mtl", "--tasks", "para,sts", "--arch", "v2", "--pooling", "cnn", *EVERY),
    "single": ("--strategy", "single", "--tasks", "sst", *EVERY),
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EXIT = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
HEADER_ENDS, LAST_LINE = "rows a step: ", "; predictions: "
PATIENCE = 300  # seconds for a run of less than one: a busy machine is slow, a hanging run never ends


class Started:
    """The real command in processes of its own; if there are several, they are started as by torchrun."""

    def __init__(self, home: Path, out: Path, *options: object, count: int = 1):
        self._words = [sys.executable, train_multitask.__file__, *command(home, "--output_dir", out, *options)]
        reader, self._writer = os.pipe()
        environments = ranks.environments(count) if count > 1 else [{}]
        self._pids = [self._begin({"OMP_NUM_THREADS": "1", **variables}) for variables in environments]
        os.close(self._writer)
        self.stderr = open(reader, errors="replace")  # noqa: SIM115 - closed by end()
        self._timer = threading.Timer(PATIENCE, self.strike, [signal.SIGKILL])  # ends a hanging run
        self._timer.start()

    def _begin(self, variables: Mapping[str, str]) -> int:
        streams = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, self._writer, 2)]
        return os.posix_spawn(sys.executable, self._words, {**os.environ, **variables}, file_actions=streams)

    def strike(self, number: signal.Signals, rank: int = 0) -> None:
        os.kill(self._pids[rank], number)

    def end(self) -> tuple[list[int], str]:
        """Wait for the end. Returns the exit code of each process, and the rest of stderr."""
        with self.stderr:
            text = self.stderr.read()
        self._timer.cancel()
        return [child.result(pid) for pid in self._pids], text


class Forked(Started):
    """The same, forked from this process, which has imported everything: importing takes longer than a run.

    Set torch to one thread before you make one.
    """

    def _begin(self, variables: Mapping[str, str]) -> int:
        def run() -> int:
            os.environ.update(variables)
            return run_cli(train_multitask.main, self._words[2:])

        return child.start_program(run, self._writer)


def undisturbed(home: Path, name: str, count: int) -> tuple[Path, float]:
    """Do a run without signals. Returns its folder, and the seconds from its header to its last line."""
    out = home / f"undisturbed-{name}"
    process = Started(home, out, *SETTINGS[name], count=count)
    text = wait_for(HEADER_ENDS, process)
    began = time.monotonic()
    text += wait_for(LAST_LINE, process)
    seconds = time.monotonic() - began
    codes, rest = process.end()
    assert not any(codes), text + rest
    return out, seconds


def wait_for(text: str, process: Started) -> str:
    """What the process wrote on stderr up to the line with this text, or up to its end."""
    written = ""
    for line in process.stderr:
        written += line
        if text in line:
            break
    return written


def strike(process: Started, seconds: float, number: signal.Signals, rank: int = 0) -> tuple[bool, str]:
    """Signal one rank, `seconds` after the header. Returns whether that was before the end, and what stderr says.

    The other ranks end like that one, or with 8, the code for what is missing. Raises AssertionError for other ends.
    """
    text = wait_for(HEADER_ENDS, process)
    time.sleep(seconds)
    process.strike(number, rank)
    codes, rest = process.end()
    text += rest
    code = codes.pop(rank)
    # After the last line Python itself is ending: a signal kills it, or it shows where in its own exit the signal came.
    as_expected = code in (0, EXIT[number]) and "Traceback" not in text
    as_expected |= LAST_LINE in text and code in (0, EXIT[number], -number)
    as_expected &= {0, 8, EXIT[number]}.issuperset(codes)
    assert as_expected, f"{number.name} to rank {rank}: {code}, {codes}: {text}"
    return any([code, *codes]), text


def newest(out: Path) -> int:
    """The step of the newest checkpoint; 0 for none."""
    return next(map(step_of, saved(out / "checkpoints")), 0)


def logged(out: Path) -> int:
    """The last step in the log; 0 for none."""
    log = out / "log.jsonl"
    steps = re.findall(r'^{"step": (\d+)', log.read_text(), re.MULTILINE) if log.exists() else []
    return max(map(int, steps), default=0)


def disturbed(
    home: Path, out: Path, name: str, span: float, draw: random.Random, start: type[Started], count: int
) -> Counter[str]:
    """Do one run, struck until it ends by itself. Returns how often each signal struck."""
    struck = Counter()
    while True:
        number, step = draw.choice(SIGNALS), newest(out)
        process = start(home, out, *SETTINGS[name], "--resume", "auto", count=count)
        interrupted, text = strike(process, draw.uniform(0, span), number, draw.randrange(count))
        steps = re.findall(r"^step (\d+)/", text, re.MULTILINE)
        assert not steps or int(steps[0]) == step + 1, f"expected to go on from step {step}; found {text}"
        lost = logged(out) - newest(out)
        assert lost <= SAVE_EVERY, f"expected at most {SAVE_EVERY} steps to make again; found {lost}: {text}"
        if not interrupted:
            return struck
        struck[number.name] += 1


def soak(home: Path, kills: int, seed: int, start: type[Started] = Started, count: int = 1) -> Counter[str]:
    """Strike runs of all settings in turn, with at least `kills` SIGKILLs, and other signals.

    Args:   start: how struck runs are started; undisturbed ones are always the real command's.
            count: processes of each run.
    Raises: AssertionError if a run's result differs from the undisturbed run's.
    """
    make_bert_folder(home / "bert")
    make_data_folder(home / "data")
    if start is Forked:  # so that what a run imports late is imported once
        assert train(home, home / "warm", *SETTINGS["gs"], "--dry_run") == 0
    expected = {name: undisturbed(home, name, count) for name in SETTINGS}
    draw, total = random.Random(seed), Counter()
    for name in cycle(SETTINGS):
        folder, span = expected[name]
        out = home / "disturbed"
        total += disturbed(home, out, name, span, draw, start, count)
        assert outcome(out) == outcome(folder), f"{name}, seed {seed}: not the undisturbed run's result; see {out}"
        leftover = [path for path in out.rglob(".*") if not path.name.startswith(".minbert.")]
        assert not leftover, f"{name}, seed {seed}: left behind: {leftover}"
        shutil.rmtree(out)
        total["runs"] += 1
        print(f"{name}: as undisturbed; so far {dict(total)}", file=sys.stderr)
        if total["SIGKILL"] >= kills and total["runs"] >= len(SETTINGS):
            return total


def main(argv: list[str] | None = None) -> int:
    parser = OptionParser(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at least this many SIGKILLs (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=1, help="processes of each run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the times and signals (default: %(default)s)")
    args = parser.parse_args(argv)
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        total = soak(home, args.kills, args.seed, count=args.ranks)
    except AssertionError as error:
        print(f"{error}\nfiles: {home}", file=sys.stderr)
        return 1
    shutil.rmtree(home)
    print(json.dumps({**total, "differences": 0, "seconds": round(time.monotonic() - began)}))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
