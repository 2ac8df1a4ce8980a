"""The parts of the recipe of experiments.best: each left out of the whole, and each added to nothing.

`python -m experiments.ablation --help`. The work is in tables.py. This file adds the paired differences from the
whole (row 1) or from nothing (row 2) over the same seeds, and the minutes of a run.
"""

import statistics
import sys
from collections.abc import Sequence
from functools import partial

from experiments import tables
from experiments.runs import Failures, Run
from experiments.surgeries import as_words, difference
from experiments.tables import COLUMNS, METRICS, footnotes, heading, summary, with_spread
from runtime.errors import run_cli

WHOLE, NOTHING = 1, 2  # numbers of rows


def compared(runs: Sequence[Run]) -> list[dict]:
    """The rows; each with its average's difference from the whole's or from nothing's, paired by seed."""
    rows = summary(runs)
    cells = {row["row"]: row["seeds"] for row in rows}
    for row in rows:
        row.pop("paper")
        base = {"-": WHOLE, "+": NOTHING}.get(row["name"][0])
        row["difference"] = difference(row["seeds"], cells.get(base, {}))
        seconds = [run.result()["seconds"] for run in runs if run.row.number == row["row"] and run.result()]
        row["minutes"] = statistics.mean(seconds) / 60 if seconds else None
    return rows


def text(table: str, preset: str, runs: Sequence[Run], failed: Failures) -> str:
    """The table as text."""
    head = "".join(f"{METRICS.get(name, name):>13}" for name in COLUMNS)
    lines = [heading(table, preset, runs), "", f"{'':<16}{head}  difference, 95 %    minutes"]
    for row in compared(runs):
        cells = "".join(f"{with_spread(row['mean'][name], row['spread'][name]):>13}" for name in COLUMNS)
        minutes = f"{row['minutes']:.1f}" if row["minutes"] else ""
        lines.append(f"{row['row']:>2} {row['name']:<13}{cells}  {as_words(row):<20}{minutes:>7}")
    lines += [f"   {run.title}, failed: {failed[run.folder][1]}" for run in runs if run.folder in failed]
    after = "difference: of the averages, of - from the whole, of + from nothing, paired by seed."
    return "\n".join([*lines, *footnotes(table, runs, after=after)])


main = partial(tables.main, table="ablation", rows=compared, text=text)

if __name__ == "__main__":
    sys.exit(run_cli(main))
