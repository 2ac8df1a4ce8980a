"""Odd options and damaged files, at random: the programs must refuse them or do their work, and spare other files.

    python -m tools.abuse --minutes 5 [--seed 0]      # a line of JSON at the end; exit 1 where anything failed
    python -m tools.abuse --seed 0 --only 17          # one of these tries again; its files are kept

A failure: exit 1 or another undocumented code, a traceback, a hang, another program's file changed or gone, a file left
behind. Each try is a forked process in a folder of its own, bounded in time, memory and disk.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

import evaluate
import train_multitask
from data import check
from experiments import attention, figure3, plot
from heads.config import HeadsConfig
from runtime.errors import run_cli
from runtime.settings import OptionParser
from tools.damage import ABSURD, THEIRS, damage, make_home
from tools.soak import child
from training.options import Options

PROGRAMS = {"train": train_multitask, "evaluate": evaluate, "check": check}
PROGRAMS |= {"plot": plot, "attention": attention, "figure3": figure3}
RUN = "train --checkpoint bert --data_dir data --batch_size 8 --amp off --max_steps"
COMMANDS = f"""\
{RUN} 2 --output_dir new
{RUN} 2 --output_dir new --predictions_dir p --resume auto
{RUN} 3 --output_dir run --resume auto --allow_change max_steps
{RUN} 2 --output_dir run --overwrite
{RUN} 2 --output_dir run --resume auto
{RUN} 2 --output_dir new --task_file own.toml --tasks mine,sst
train --data_dir data --init_from run --max_steps 2 --output_dir new
{RUN} 2 --output_dir new --dry_run
evaluate run --split all
evaluate run --report --data_dir data
evaluate run/best --data_dir data
evaluate run
evaluate run --predictions_dir p
check --data_dir data --checkpoint bert --task_file own.toml
plot run --output a.png
attention dog --checkpoint run --output a.png
figure3 run --output a.png
plot run other --output a.png""".splitlines()
PLACES = ["new", "run", "run/best", "run/checkpoints", "bert", "data", "theirs", "theirs/notes.txt", "other", "link"]
PLACES += ["other/predictions", ".", "/", "..", "/dev/null", "/proc/self", "pipe", "p"]
PLACES += ["a\nb", "\udc80", "x" * 300, " "]
VALUES = {  # of options; of others any of ABSURD
    "tasks": ["sst", "para,sts", "sst,sst"],
    "resume": ["auto", "never", "run/checkpoints/step-000002"],
    "amp": ["off", "bf16", "fp16"],
    "device": ["cuda"],
    "strategy": ["single", "mtl", "gs"],
    "max_steps": ["3", "0", "x"],
    "grad_accum": ["2", "0", "-1"],
    "layer": ["-2", "-3"],
    "pooling": ["cls", "cnn", "attention_mean"],
    "option": ["pretrain"],
    "arch": ["v1", "v2"],
    "surgery": ["pcgrad", "cagrad", "x"],
    "patience": ["1"],
    "allow_change": ["max_steps", "lr,seed,tasks,arch,data_dir,batch_size,checkpoint"],
}
VALUES |= dict.fromkeys(("checkpoint", "init_from", "data_dir", "predictions_dir", "output_dir", "task_file"), PLACES)
VALUES |= {name: [] for name in ("overwrite", "dry_run", "no_test", "deterministic", "debug")}
OURS = r"(new|run|{})/((config|metrics)\.json|log\.jsonl|(best|checkpoints|predictions)(/.*)?)|p/.*|.*\.minbert\.\w+"
SECONDS, MEMORY, DISK = 100, 2**31, 2**26  # of a try, which mostly takes two seconds; bytes, beyond the parent's
CODES = {0, 2, 3, 4, 5, 7, 8}  # 6, out of memory, would mean a file that was read without a bound


def odd_words(draw: random.Random) -> list[str]:
    """A program's name and its arguments: usual ones, sometimes with another path in them, and with more options."""
    words = draw.choice(COMMANDS).split(" ")
    places = [n for n, word in enumerate(words) if n and (word in PLACES or word == "a.png")]
    if draw.random() < 0.3:
        words[draw.choice(places)] = draw.choice(PLACES)
    option_names = [
        name for part in (Options, HeadsConfig) for name, field in part.__dataclass_fields__.items() if field.metadata
    ]
    for name in draw.choices(option_names, k=draw.choice([0, 0, 1, 2, 3])) if words[0] == "train" else ():
        values = VALUES.get(name, [str(value).replace("\0", "?") for value in ABSURD])  # no system passes on a NUL
        words += [f"--{name}", *([draw.choice(values)] if values else [])]
    return words


def state_of(folder: Path) -> dict[str, tuple]:
    """The kind, content and link target of every path below a folder. Links are not followed."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    plain = {name for name, path in paths.items() if path.is_file() and not path.is_symlink()}
    read = {name: path.read_bytes() for name, path in paths.items() if name in plain and path.stat().st_size < DISK}
    links = {name: os.readlink(path) for name, path in paths.items() if path.is_symlink()}
    return {name: (path.lstat().st_mode >> 12, read.get(name), links.get(name)) for name, path in paths.items()}


def attempt(home: Path, folder: Path, draw: random.Random) -> tuple[int, str, list[str]]:
    """Make one try. Returns its exit code, a description, and what is wrong."""
    shutil.copytree(home, folder, symlinks=True)
    os.chdir(folder)
    os.mkfifo("pipe")
    words, files = odd_words(draw), [p for place in ("run", "bert", "data") for p in Path(place).rglob("*.*")]
    files = sorted(path for path in [Path("own.toml"), *files] if path.is_file() and str(path) not in THEIRS.split())
    damages = [damage(path, draw) for path in draw.sample(files, draw.choice([0, 1, 1, 1, 2]))]
    before, log = state_of(folder), folder.with_suffix(".log")
    code = child.result(child.start(lambda: run_limited(PROGRAMS[words[0]].main, words[1:], log)))
    after, output = state_of(folder), log.read_text(errors="replace")
    kept = {(re.sub(r"\.old(\.\d+)?(?=/|$)", "", path), value) for path, value in after.items()}  # moved whole
    allowed = OURS.format("other" if "other" in words else "new") + "|other/predictions/.*" * ("--overwrite" in words)
    lost = [path for path, value in before.items() if (path, value) not in kept and path not in words]
    changed = [path for path in lost if path in THEIRS.split() or not re.fullmatch(allowed, path)]
    left_behind = [path for path, _ in kept if path not in before and re.search(r"(^|/)\.(tmp|trash)-", path)]
    faults = {"exit code": code not in CODES, "hang": code == -signal.SIGALRM, f"changed {changed}": changed}
    faults |= {"traceback": "Traceback" in output and "--debug" not in words, f"left {left_behind}": left_behind}
    faults |= {"no line": code > 0 and "error: " not in output and words[0] != "check"}  # check prints errors on stdout
    wrong = [fault for fault, present in faults.items() if present]
    return code, f"{words!r}; {damages}: exit {code}: {output[-400:]!r}", wrong


def run_limited(main, words: list[str], log: Path) -> None:
    """Run a program's main in the child process, within the limits."""
    signal.alarm(SECONDS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, DISK))
    sys.stdout, sys.stderr = open(os.devnull, "w"), open(log, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    try:
        code = run_cli(main, words)
    except SystemExit as error:
        code = error.code or 0
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    parser = OptionParser(__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--only", type=int, help="the number of the one try to make")
    args = parser.parse_args(argv)
    top, end = Path(tempfile.mkdtemp(prefix="abuse-")), time.monotonic() + 60 * args.minutes
    codes, failures, number = Counter(), 0, args.only or 0
    make_home(top / "home")
    while time.monotonic() < end and (args.only is None or number == args.only):
        code, text, wrong = attempt(top / "home", top / f"try-{number}", random.Random(f"{args.seed}-{number}"))
        codes[str(code)] += 1
        failures += bool(wrong)
        if wrong or args.only is not None:
            print(f"seed {args.seed}, try {number}: {'; '.join(wrong) or 'fine'}: {text}", flush=True)
        os.chdir(top)
        shutil.rmtree(top / f"try-{number}") if args.only is None else print(f"files: {top}")
        number += 1
    shutil.rmtree(top) if args.only is None else None
    print(json.dumps({"tries": codes.total(), "failures": failures, "codes": dict(sorted(codes.items()))}))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(run_cli(main))
