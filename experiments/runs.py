"""The runs of a table: which they are, how long they take, and running those that are missing. See tables.py.

Each run is a train_multitask.py of its own in OUTPUT_DIR/PRESET/seed-S/TABLE-row-N. Next to that folder are its output
(.log) and its result (.json). Finished runs are skipped, and stopped ones go on. Once a run has a result, its
checkpoints are deleted; best/ stays. A row that fails is tried again next time.
"""

import argparse
import io
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import train_multitask
from bert.precision import peak_memory, resolve_device
from data import find_data_dir
from data.reader import Split, fingerprints, read
from data.tasks import LEADERBOARD, TASKS
from evaluate import predict_and_score
from experiments.rows import DATA, TABLES, Row, Settings
from heads import MultitaskBert
from runtime.errors import UsageError, explain, say
from runtime.files import lock, read_json, remove, sha256, write_atomic
from runtime.seeds import seeded
from training.log import seconds_left, span
from training.options import parse
from training.session import Session

SOME = 100  # rows of a task's dev that a rehearsal reads
START = 15  # seconds before a run's first step and after its last

Train = Callable[[Sequence[str], Path], int]  # the words after train_multitask.py, a file for output -> exit code
Failures = dict[Path, tuple[int, str]]  # folder of a run -> exit code and reason


@dataclass(frozen=True)
class Run:
    """One training run of a row."""

    row: Row
    seed: int
    tasks: tuple[str, ...]
    folder: Path
    start: Path | None  # folder of the run that it starts from
    data_dir: Path
    settings: Settings

    @property
    def title(self) -> str:
        part = f" ({self.tasks[0]})" if len(self.row.parts()) > 1 else ""
        return f"row {self.row.number}, {self.row.name}{part}, seed {self.seed}"

    @property
    def trains_all_its_cells(self) -> bool:
        """Whether it trains all tasks that the table takes from it."""
        return self.tasks == LEADERBOARD or len(self.row.parts()) > 1

    def words(self, checkpoint: bool = False) -> list[str]:
        """The options for train_multitask.py. checkpoint: start from BERT instead, for `start` may not exist yet."""
        values = self.settings | {"seed": self.seed, "data_dir": self.data_dir, "output_dir": self.folder}
        if self.start and not checkpoint:
            del values["checkpoint"]
            values["init_from"] = self.start
        return [word for name, value in values.items() for word in (f"--{name}", str(value))[: 1 + (value is not True)]]

    @property
    def command(self) -> str:
        """The command line, ready to paste."""
        return shlex.join(["python", "train_multitask.py", *self.words()])

    def file(self, kind: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{kind}")

    def result(self) -> dict | None:
        """The saved result; None if there is none yet. Raises UsageError if it is of other options or data."""
        if not self.file("json").is_file():
            return None
        saved, settings = read_json(self.file("json")), self.settings
        before, advice = saved.get("settings", {}), "take another --output_dir"
        if other := [name for name in {**before, **settings} if before.get(name) != settings.get(name)]:
            was, now = before.get(other[0]), settings.get(other[0])
            raise UsageError(f"{self.file('json')}: --{other[0]} was {was!r} there, is {now!r}; {advice}")
        measured = self.tasks if self.trains_all_its_cells else LEADERBOARD
        files = [split("train", self.data_dir)[task] for task in self.tasks]
        files += [split("dev", self.data_dir)[task] for task in measured]
        if other := [file.title for file in files if saved.get("data", {}).get(file.title) != file.contents]:
            advice = f"bring the old file back, remove this and {self.folder} to run it again, or {advice}"
            raise UsageError(f"{self.file('json')}: does not say that it is of this {other[0]}; {advice}")
        if saved.get("start") != self.start_result:
            found = f"does not say that it started from this {self.start}"
            raise UsageError(f"{self.file('json')}: {found}; remove this and {self.folder} to run it again")
        return saved

    @property
    def start_result(self) -> str | None:
        """The sha256 of the result of the run that it starts from; None where there is none."""
        result = self.start and self.start.with_name(f"{self.start.name}.json")
        return sha256(result) if result and result.is_file() else None


def plan(args: argparse.Namespace, table: str) -> list[Run]:
    """Every run of the chosen rows, and of those that these start from or are compared with, in order."""
    rows, runs = {row.number: row for row in TABLES[table]}, []
    if unknown := [number for number in args.rows or () if number not in rows]:
        raise UsageError(f"--rows: expected some of {', '.join(map(str, rows))}; found {unknown[0]}")
    wanted = {*(args.rows or rows)}
    wanted |= {other for number in wanted for other in (rows[number].after, rows[number].base)} - {None}
    data_dir = args.data_dir or DATA.get(args.preset) or find_data_dir([TASKS[name] for name in LEADERBOARD])[0]
    for name in sorted({rows[number].data for number in wanted} - {""}):
        if not (data_dir / name).is_dir():
            advice = "make it by experiments.phrases, or experiments.soft_labels: docs/recipes.md"
            raise UsageError(f"--data_dir: expected a folder {name} in {data_dir}; found none; {advice}")
        for part, task in product(("train", "dev"), LEADERBOARD):
            made, own = (split(part, folder)[task] for folder in (data_dir / name, data_dir))
            if made.contents != own.contents and (part, task) != ("train", "sst"):
                raise UsageError(f"--data_dir: expected {own.title} in {data_dir / name}; found another; make it anew")
    for seed in args.seeds:
        seed_folder = args.output_dir / args.preset / f"seed-{seed}"
        for row in [row for number, row in rows.items() if number in wanted]:
            for tasks in row.parts():
                part = f"-{tasks[0]}" if len(row.parts()) > 1 else ""
                start = seed_folder / f"{table}-row-{row.after}" if row.after else None
                folder, settings = seed_folder / f"{table}-row-{row.number}{part}", row.settings(args.preset, tasks)
                settings |= {"checkpoint": args.checkpoint} if args.checkpoint else {}
                runs.append(Run(row, seed, tasks, folder, start, data_dir / row.data, settings))
    return runs


@lru_cache
def split(name: str, data_dir: Path) -> dict[str, Split]:
    """The split of this name of each task."""
    return {task: read(TASKS[task], name, data_dir) for task in LEADERBOARD}


def rehearse(words: Sequence[str]) -> tuple[int, float, float]:
    """A run's steps, seconds and peak GB of memory, from two steps and an evaluation of SOME rows. Leaves no file."""
    with redirect_stderr(io.StringIO()):
        session = Session(parse(words))
        whole = {name: split.examples for name, split in session.splits["dev"].items()}
        some = {name: examples[:: max(1, len(examples) // SOME)] for name, examples in whole.items()}  # of all lengths
        session.splits["dev"] = {n: replace(split, examples=some[n]) for n, split in session.splits["dev"].items()}
        with lock(session.out):
            train_multitask.dry_run(session)
    more = sum(map(len, whole.values())) / sum(map(len, some.values())) - 1
    session.state.seconds += more * session.state.evaluation_seconds
    session.state.evaluation_seconds *= 1 + more
    return session.total_steps, START + seconds_left(session), peak_memory(session.device)


def in_subprocess(words: Sequence[str], log: Path) -> int:
    """Run train_multitask.py in its own process. A signal to this one makes it save and end, a second end at once."""
    with open(log, "ab") as file:
        command = [sys.executable, train_multitask.__file__, *words]  # its own session: Ctrl-C comes once
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, start_new_session=True, **streams)
        try:
            return process.wait()
        except BaseException:
            say("the run finishes its step and saves it; Ctrl-C again stops it at once")
            process.terminate()
            try:
                process.wait()
            except BaseException:
                process.kill()
                process.wait()
            raise


def failure_text(log: Path, code: int) -> str:
    """The last error in a log, in its program's words."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines or ["no message"]
    return f"killed by signal {-code}" if code < 0 else f"{errors[-1].removeprefix('error: ')} (exit {code})"


def measure(run: Run, names: Sequence[str], folder: Path) -> dict[str, float | None]:
    """Predict all three tasks with the run's best weights, and return dev's metrics. The seed makes untrained heads.

    names: of the splits. folder: for the prediction files.
    """
    with seeded(run.seed, "fresh heads"):
        model = MultitaskBert.from_pretrained(run.folder / "best", [TASKS[name] for name in LEADERBOARD])
    precision = read_json(run.folder / "config.json")["machine"]["precision"]
    splits = {name: split(name, run.data_dir) for name in names}
    return predict_and_score(model.to(resolve_device("auto")), splits, precision, folder)


def do(run: Run, train: Train) -> tuple[int, str] | None:
    """Train, measure, write the result. Returns None, or a failure: exit code and reason."""
    began = time.monotonic()
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    remove(run.file("log"))
    if code := train([*run.words(), "--resume", "auto"], run.file("log")):
        return code, failure_text(run.file("log"), code)
    try:
        config, run_metrics = (read_json(run.folder / name) for name in ("config.json", "metrics.json"))
        complete = run.trains_all_its_cells
        metrics = run_metrics["dev"] if complete else measure(run, ["dev"], run.folder / "predictions")
    except Exception as error:
        return explain(error)
    result = {
        "row": run.row.number,
        "seed": run.seed,
        "tasks": run.tasks,
        "command": run.command,
        "dev": metrics,
        "step": run_metrics["step"],
        "settings": run.settings,
        "start": run.start_result,
        "data": config["data"] | fingerprints([split("dev", run.data_dir)]),
        "versions": config["versions"],
        "machine": config["machine"],
        "seconds": round(max(time.monotonic() - began, run_metrics["seconds"]), 1),  # the latter if it was resumed
    }
    write_atomic(run.file("json"), json.dumps(result, indent=2) + "\n")
    return None


def do_all(runs: Sequence[Run], train: Train, write: Callable[[Failures], object]) -> Failures:
    """Do the missing runs one after the other, and write the table after each. Returns the failures."""
    failed = {}
    if finished := sum(run.result() is not None for run in runs):
        say(f"done already: {finished} of {len(runs)} runs")
    for number, run in enumerate(runs, start=1):
        if not run.result():
            done = [other.result()["seconds"] for other in runs if other.result()]
            missing = sum(other.result() is None for other in runs[number - 1 :])
            left = f"; about {span(statistics.mean(done) * missing)} left" if done else ""
            say(f"[{number}/{len(runs)}] {run.title}{left}; log: {run.file('log')}")
            failure = (failed[run.start][0], f"row {run.row.after} failed") if run.start in failed else do(run, train)
            if failure:
                failed[run.folder] = failure
                say(f"{run.title} failed: {failure[1]}")
            write(failed)
        if run.result():
            remove(run.folder / "checkpoints")
    return failed
