"""A table, with the paper's numbers if it is one of the paper: rows.py defines its rows, runs.py runs them.

It is started by table2.py, table3.py, surgeries.py and ablation.py. After an interruption the same command goes on.
"""

import json
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from data.tasks import LEADERBOARD, TASKS
from experiments.rows import KEYS, NOTES, PRESETS, TABLES, TITLES
from experiments.runs import Failures, Run, Train, do_all, in_subprocess, plan, rehearse
from runtime.errors import Stopped, explain, say
from runtime.files import lock, write_atomic
from runtime.settings import OptionParser, non_negative_int
from training.log import span

METRICS = {name: TASKS[name].metric_key(TASKS[name].metric) for name in LEADERBOARD}
COLUMNS = [*METRICS, "average"]
HELP = """{title}, on dev{beside}.

    python -m experiments.{table}{data} --preset smoke     # does it work?
    python -m experiments.{table}{data} --seeds 0,1,2      # minilm; {laptop}
    python -m experiments.{table}{data} --preset paper --dry_run

Given again, the same command goes on. The rows of the table (experiments/rows.py) are

{rows}

{key}
"""
LAPTOP = {
    "table2": "50 minutes a seed",
    "table3": "80 minutes a seed",
    "surgeries": "28 runs a seed",
    "ablation": "140 minutes a seed",
}
Rows = Callable[[Sequence[Run]], list[dict]]
WIDTH = 100  # of what is printed
WHICH = "paper: its settings, bert-base-uncased; laptop: minilm, 400 steps (surgeries 200, ablation 354 and more); "
WHICH += "smoke: minilm, 4 (default: laptop)"


def values(runs: Sequence[Run]) -> list[float | None] | None:
    """A row's cells for one seed, in percent, each from its task's run or the last; None if a run is missing."""
    results = {run.tasks: run.result() for run in runs}
    if None in results.values():
        return None
    cells = {}
    for name, key in METRICS.items():
        result = next((result for tasks, result in results.items() if name in tasks), [*results.values()][-1])
        cells[name] = None if result["dev"][key] is None else 100 * result["dev"][key]
    return [*cells.values(), None if None in cells.values() else statistics.mean(cells.values())]


def summary(runs: Sequence[Run]) -> list[dict]:
    """For each row the paper's numbers, and ours by seed, with mean and standard deviation, all in percent."""
    rows = []
    for row in dict.fromkeys(run.row.number for run in runs):
        row_runs = [run for run in runs if run.row.number == row]
        seeds = {
            seed: values([r for r in row_runs if r.seed == seed])
            for seed in dict.fromkeys(run.seed for run in row_runs)
        }
        by_seed = {seed: dict(zip(COLUMNS, cells, strict=True)) for seed, cells in seeds.items() if cells}
        paper = dict(zip(COLUMNS, row_runs[0].row.paper, strict=True))
        rows.append({"row": row, "name": row_runs[0].row.name, "paper": paper, **with_means(by_seed)})
    return rows


def with_means(by_seed: Mapping[int, Mapping[str, float | None]]) -> dict:
    """A row's cells by seed, and each column's mean and standard deviation; None if they are not defined."""
    mean, spread = dict.fromkeys(COLUMNS), dict.fromkeys(COLUMNS)
    for name in COLUMNS:
        column = [cells[name] for cells in by_seed.values()]
        if column and None not in column:
            mean[name] = statistics.mean(column)
            spread[name] = statistics.stdev(column) if len(column) > 1 else None
    return {"seeds": by_seed, "mean": mean, "spread": spread}


def write_results(path: Path, content: Mapping[str, object]) -> None:
    """Write content as JSON, with every object of a list on a line of its own."""
    parts = []
    for name, value in content.items():
        lines = ",\n".join(json.dumps(item) for item in value) if isinstance(value, list) else ""
        parts.append(f"{json.dumps(name)}: " + (f"[\n{lines}\n]" if lines else json.dumps(value)))
    write_atomic(path, "{\n" + ",\n".join(parts) + "\n}\n")


def write_table(path: Path, table: str, preset: str, runs: Sequence[Run], failed: Failures, rows: Rows) -> None:
    """Write what `rows` makes of the runs; each run's command, seed and metrics, or its error; the data's sha256."""
    cells, data, left_out = [], {}, {"data", "settings", "seconds", "start"}  # settings are in the command
    for run in runs:
        if result := run.result():
            data |= {str(Path(run.row.data, title)): contents for title, contents in result["data"].items()}
            cells.append({name: value for name, value in result.items() if name not in left_out})
        elif run.folder in failed:
            code, reason = failed[run.folder]
            failure = {"command": run.command, "failed": reason, "exit": code}
            cells.append({"row": run.row.number, "seed": run.seed, "tasks": run.tasks, **failure})
    content = {"table": table, "preset": preset, "unit of rows": "percent", "data": data, "rows": rows(runs)}
    write_results(path, content | {"cells": cells})


def table_text(table: str, preset: str, runs: Sequence[Run], failed: Failures) -> str:
    """The table as aligned text, at most WIDTH columns wide."""
    lines = [
        heading(table, preset, runs),
        "",
        " " * 16 + "".join(f"{METRICS.get(name, name):>21}" for name in COLUMNS),
        f"{'row':<16}" + f"{'ours':>6}{'sd':>4}{'paper':>6}{'diff':>5}" * len(COLUMNS),
    ]
    for row in summary(runs):
        name = f"{row['row']:>2} {row['name']:<13}"
        row_runs = [run for run in runs if run.row.number == row["row"]]
        cells = [cell(*(row[part][name] for part in ("mean", "spread", "paper"))) for name in COLUMNS]
        lines += [name + "".join(cells)] if row["seeds"] else [f"{name}  failed"]
        for run in [run for run in row_runs if run.folder in failed]:
            lines += wrapped(f"{run.title}, failed: {failed[run.folder][1]}", " " * 5)
    before = "ours: mean over seeds; sd: their standard deviation; diff: ours less the paper's."
    return "\n".join([*lines, *footnotes(table, runs, before)])


def heading(table: str, preset: str, runs: Sequence[Run]) -> str:
    seeds = ", ".join(map(str, dict.fromkeys(run.seed for run in runs)))
    return f"{TITLES[table]}: dev in percent, preset {preset}, seeds {seeds}"


def footnotes(table: str, runs: Sequence[Run], before: str = "") -> list[str]:
    """Notes: `before`, what the table's rows are, and what the checkpoints have seen."""
    notes = [before, KEYS[table]]
    notes += [NOTES[name] for name in dict.fromkeys(run.settings["checkpoint"] for run in runs) if name in NOTES]
    return ["", *(line for note in notes for line in wrapped(note))]


def with_spread(mean: float | None, spread: float | None) -> str:
    return "-" if mean is None else f"{mean:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


def cell(mean: float | None, spread: float | None, paper: float | None) -> str:
    """A cell of 21 columns: ours, its standard deviation, the paper's, the difference."""
    ours = f"{mean:6.1f}" if mean is not None else f"{'-':>6}"
    sd = "" if spread is None else f"{spread:.1f}" if spread < 9.95 else f"{spread:.0f}"
    theirs = f"{paper:5.1f}" if paper is not None else f"{'-':>5}"
    return f"{ours}{sd:>4}{theirs}" + (f"{mean - paper:+6.1f}" if None not in (mean, paper) else " " * 6)


def wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def dry_run(runs: Sequence[Run]) -> int:
    """Rehearse each run in a process of its own: whether it is accepted, its steps, time and memory."""
    code, total, width = 0, 0.0, max(len(run.title) for run in runs)
    for run in runs:
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                steps, seconds, memory = pool.submit(rehearse, run.words(checkpoint=True)).result()
            total += seconds
            found = f"{steps:>9,} steps  {span(seconds):>12}  {memory:4.1f} GB"
        except BrokenProcessPool:
            code, found = 1, "failed: killed, as the system does where memory runs out"
        except Exception as error:
            code, reason = explain(error)
            found = f"failed: {reason}"
        print(f"{run.title:<{width}}  {found}", flush=True)
    print(f"all: {span(total)} on this machine, by two steps and an evaluation of each; less where one stops early")
    return code


def numbers(text: str) -> list[int]:
    """A type of option: "0,1,2" -> its numbers, each once."""
    return [*dict.fromkeys(non_negative_int(part) for part in text.split(","))]


def parser_for(description: str) -> OptionParser:
    """A parser with the options that choose the runs of a table."""
    parser = OptionParser(description)
    parser.add_argument(
        "--data_dir", type=Path, help="the course's files (default: the downloaded, else the sample; smoke: the sample)"
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), default="laptop", help=WHICH, metavar="NAME")
    parser.add_argument("--checkpoint", metavar="SOURCE", help="what to start from (default: the preset's)")
    parser.add_argument("--seeds", type=numbers, default=[0], help="of the runs, 0,1,2 say (default: 0)", metavar="N,N")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/tables"), help="(default: %(default)s)")
    parser.set_defaults(rows=None)
    return parser


def main(
    argv: Sequence[str] | None = None,
    *,
    table: str,
    train: Train = in_subprocess,
    rows: Rows = summary,
    text: Callable[[str, str, Sequence[Run], Failures], str] = table_text,
) -> int:
    """Run a table's command. rows: makes the rows that are written; text: makes the text that is printed."""
    names = "; ".join(f"{row.number} {row.name}".replace(" ", "\0") for row in TABLES[table])  # keeps a row on a line
    names = textwrap.fill(names, 79, initial_indent="    ", subsequent_indent="    ").replace("\0", " ")
    beside = ": ours beside the paper's" if text == table_text else ""
    help = {"table": table, "title": TITLES[table], "beside": beside, "laptop": LAPTOP[table], "rows": names}
    data = " --data_dir DATA" * any(row.data for row in TABLES[table])  # with folders that neither default has
    parser = parser_for(HELP.format(key=KEYS[table], data=data, **help))
    parser.add_argument("--rows", type=numbers, help="which of the table (default: all)", metavar="N,N")
    parser.add_argument("--dry_run", action="store_true", help="take two steps of each row, and print time and memory")
    args = parser.parse_args(argv)
    runs = plan(args, table)
    if args.dry_run:
        return dry_run([run for run in runs if run.seed == args.seeds[0]])
    with lock(args.output_dir):
        path = args.output_dir / f"{table}-{args.preset}.json"
        write = partial(write_table, path, table, args.preset, runs, rows=rows)
        try:
            failed = do_all(runs, train, write)
            write(failed)
        except KeyboardInterrupt:
            raise Stopped("what is done is kept; the same command goes on") from None
    print(text(table, args.preset, runs, failed))
    say(f"all of it: {path}")
    return next((code if code > 0 else 128 - code for code, _ in failed.values()), 0)
