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
from experiments.surgeries import with_differences, with_last_column
from experiments.tables import summary
from runtime.errors import run_cli


def compared(runs: Sequence[Run]) -> list[dict]:
    """The rows; each with its average's difference from the row that it is compared with, and a run's mean minutes."""
    rows = with_differences(summary(runs), runs)
    for row in rows:
        seconds = [run.result()["seconds"] for run in runs if run.row.number == row["row"] and run.result()]
        row["minutes"] = statistics.mean(seconds) / 60 if seconds else None
    return rows


def text(table: str, preset: str, runs: Sequence[Run], failed: Failures) -> str:
    """The table as text."""
    rows = compared(runs)
    minutes = [f"{row['minutes']:.1f}" if row["minutes"] else "" for row in rows]
    return with_last_column(table, preset, runs, failed, rows, "minutes", minutes)


main = partial(tables.main, table="ablation", rows=compared, text=text)

if __name__ == "__main__":
    sys.exit(run_cli(main))
