"""Every surgery and weighing, the plain sum with other scales, and each task alone, all at one small budget.

`python -m experiments.surgeries --help`. The work is in tables.py. This file adds the paired differences from
the plain sum (row 2) over the same seeds, and the time of a step.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from experiments import tables
from experiments.claims import over_seeds
from experiments.pictures import read_lines, step_seconds
from experiments.runs import Failures, Run
from experiments.tables import COLUMNS, METRICS, footnotes, heading, summary, with_spread
from runtime.errors import run_cli

MTL, SCALED = 2, range(3, 8)  # numbers of rows: the plain sum; with other scales
TUNED = {"row": 0, "name": "mtl, tuned"}
Cells = Mapping[int, Mapping[str, float | None]]  # seed -> column -> percent


def tuned(rows: Sequence[Mapping], seeds: Sequence[int]) -> dict:
    """For each seed the metrics of the scales that are best on average over the others: tuned, without its own luck.

    Such tuning costs a run for each of the scales.
    """
    candidates = {
        row["row"]: {seed: cells for seed, cells in row["seeds"].items() if None not in cells.values()}
        for row in rows
        if row["row"] == MTL or row["row"] in SCALED
    }
    chosen = {}
    for seed in seeds:
        others = [other for other in seeds if other != seed]
        usable = {row: cells for row, cells in candidates.items() if seed in cells and all(o in cells for o in others)}
        if usable and others:
            best = max(usable, key=lambda row: statistics.mean(usable[row][o]["average"] for o in others))
            chosen[seed] = usable[best][seed]
    return chosen


def compared(runs: Sequence[Run]) -> list[dict]:
    """The rows, and one for tuned scales; each with its average's difference from the plain sum's, paired by seed."""
    rows = summary(runs)
    tuned_seeds = tuned(rows, sorted({run.seed for run in runs}))
    if len(tuned_seeds) > 1:
        rows.append(TUNED | tables.with_means(tuned_seeds))
    for row in with_differences(rows, runs):
        row["seconds a step"] = seconds_a_step([run for run in runs if run.row.number == row["row"] and run.result()])
    return rows


def with_differences(rows: list[dict], runs: Sequence[Run]) -> list[dict]:
    """The rows of `summary`, with the difference of their averages from their base's instead of the paper's numbers."""
    bases = {TUNED["row"]: MTL} | {run.row.number: run.row.base for run in runs}
    seeds = {row["row"]: row["seeds"] for row in rows}
    for row in rows:
        row.pop("paper", None)
        row["difference"] = difference(row["seeds"], seeds.get(bases[row["row"]], {}))
    return rows


def difference(seeds: Cells, others: Cells) -> dict | None:
    """By how much the average is better than the other row's, paired by seed: mean and 95 % interval."""
    pairs = [(cells["average"], others[seed]["average"]) for seed, cells in seeds.items() if seed in others]
    pairs = [pair for pair in pairs if None not in pair]
    if len(pairs) < 2:
        return None
    mean, _, interval = over_seeds(np.subtract(*zip(*pairs, strict=True)))
    return {"mean": mean, "interval": interval}


def seconds_a_step(runs: Sequence[Run]) -> float | None:
    """The median over the steps of all runs of several tasks."""
    logs = [read_lines(run.folder / "log.jsonl") for run in runs if len(run.tasks) > 1]
    times = [seconds for log in logs for seconds in step_seconds(log)]
    return float(np.median(times)) if times else None


def text(table: str, preset: str, runs: Sequence[Run], failed: Failures) -> str:
    """The table as text, the best average first."""
    rows = compared(runs)
    plain = next((row["seconds a step"] for row in rows if row["row"] == MTL), None)
    rows.sort(key=lambda row: -(row["mean"]["average"] or 0))
    return with_last_column(table, preset, runs, failed, rows, "step", [times(row, plain) for row in rows])


def with_last_column(
    table: str,
    preset: str,
    runs: Sequence[Run],
    failed: Failures,
    rows: Sequence[Mapping],
    title: str,
    cells: Sequence[str],
) -> str:
    """A table of averages and differences as text. title, cells: of its last column."""
    head = "".join(f"{METRICS.get(name, name):>13}" for name in COLUMNS)
    lines = [heading(table, preset, runs), "", f"{'':<16}{head}  difference, 95 %  {title:>7}"]
    for row, last in zip(rows, cells, strict=True):
        numbers = "".join(f"{with_spread(row['mean'][name], row['spread'][name]):>13}" for name in COLUMNS)
        lines.append(f"{row['row'] or '':>2} {row['name']:<13}{numbers}  {as_words(row):<19}{last:>6}")
    lines += [f"   {run.title}, failed: {failed[run.folder][1]}" for run in runs if run.folder in failed]
    return "\n".join([*lines, *footnotes(table, runs)])


def as_words(row: Mapping) -> str:
    """A row's difference and its interval, as text."""
    if row["difference"] is None:
        return ""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(row["difference"]["mean"], *row["difference"]["interval"])


def times(row: Mapping, plain: float | None) -> str:
    """A step's time, as a multiple of the plain sum's."""
    seconds = row["seconds a step"]
    return f"{seconds / plain:.2f}" if seconds and plain else ""


main = partial(tables.main, table="surgeries", rows=compared, text=text)

if __name__ == "__main__":
    sys.exit(run_cli(main))
