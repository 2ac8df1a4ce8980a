"""The paper's claims, one by one: our difference and the paper's, with intervals for chance.

    python -m experiments.claims --preset laptop --seeds 0,1,2 --output_dir runs/tables

Each claim says that one row of tables 2 and 3 is better than another. It is checked with the runs of these tables,
which must exist. Each mean difference has two 95 % intervals: over seeds (Student's t, the two rows paired by seed),
and over dev's rows (a bootstrap, both models on the same rows). The verdict follows from both.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from data.tasks import LEADERBOARD, TASKS
from experiments.rows import TABLES, Row
from experiments.runs import Run, plan, split
from experiments.tables import COLUMNS, parser_for, write_results
from heads.kinds import KINDS
from runtime.errors import UsageError, run_cli, say
from training.folder import prediction_file

RESAMPLES = 1000
PAIR = ("para", "sts")


@dataclass(frozen=True)
class Claim:
    """The claim that one row is better than another on these columns. A row: (table of the paper, number)."""

    text: str
    better: tuple[int, int]
    worse: tuple[int, int]
    columns: Sequence[str] = tuple(COLUMNS)


CLAIMS = (
    Claim("attention-weighted mean against [CLS]", (3, 6), (2, 5)),
    Claim("attention-weighted mean against plain mean", (3, 6), (3, 15)),
    Claim("layer before the last against the last", (3, 6), (3, 14)),
    Claim("more MLP for para, more cosine for sts (v3a) against the reverse (v3b), gs", (3, 6), (3, 5)),
    Claim("the same, each task on its own", (2, 3), (2, 6), PAIR),
    Claim("shared MLP and equation (1) (v3a) against v2, each task on its own", (2, 3), (2, 2), LEADERBOARD),
    Claim("plain mean against a CNN on top, gs", (3, 15), (2, 4)),
    Claim("gs against mtl", (3, 6), (3, 4)),
    Claim("gs against each task on its own: sst", (3, 6), (3, 1), ("sst",)),
    Claim("gs against each task on its own: para", (3, 6), (3, 2), ("para",)),
    Claim("gs against each task on its own: sts", (3, 6), (3, 3), ("sts",)),
    Claim("related tasks only (para, sts) against all", (3, 10), (3, 6), PAIR),
    Claim("scaled losses (1:4) against unscaled", (3, 11), (3, 10), PAIR),
    Claim("the same, para's cross-entropy alone", (3, 13), (3, 12), PAIR),
    Claim("triplet and cosine losses against para's cross-entropy alone", (3, 10), (3, 12), PAIR),
    Claim("the same, scaled", (3, 11), (3, 13), PAIR),
    Claim("gs, then sst, against gs", (3, 7), (3, 6)),
    Claim("gs, then para, against gs", (3, 8), (3, 6)),
    Claim("gs, then sts, against gs", (3, 9), (3, 6)),
    Claim("never trained on sts, but on para, against untrained", (3, 2), (3, 16), ("sts",)),
    Claim("never trained on sts, but on sst, against untrained", (3, 1), (3, 16), ("sts",)),
    Claim("never trained on para, but on sts, against untrained", (3, 3), (3, 16), ("para",)),
    Claim("never trained on sst, but on para and sts, against untrained", (3, 10), (3, 16), ("sst",)),
)


def row_of(place: tuple[int, int]) -> Row:
    return next(row for row in TABLES[f"table{place[0]}"] if row.number == place[1])


def predictions(run: Run, task: str) -> np.ndarray:
    """A run's predictions on dev (N,), from its prediction file. Raises UsageError if the run is missing."""
    path = prediction_file(run.folder / "predictions", TASKS[task], "dev")
    if not run.result() or not path.is_file():
        expected = f"claims: expected the results of {run.title}"
        raise UsageError(f"{expected}; found none in {run.folder}; run its table first, with the same options")
    return np.array([float(line.split(" , ")[1]) for line in path.read_text(encoding="utf-8").splitlines()[1:]])


@cache
def scores(predicted: tuple[float, ...], task: str, data_dir: Path) -> np.ndarray:
    """A model's metric on dev's N labelled rows, and on RESAMPLES draws of N of them: (1 + RESAMPLES,), NaN where it is
    not defined. The draws are the same for all models; a model in several claims is resampled once."""
    kind, data = KINDS[TASKS[task].kind](TASKS[task]), split("dev", data_dir)[task]
    labelled, gold = kind.gold([example.label for example in data.examples])
    metric, pred, generator = kind.metrics[TASKS[task].metric], np.array(predicted)[labelled], np.random.default_rng(0)
    draws = (generator.integers(len(gold), size=len(gold)) for _ in range(RESAMPLES))
    values = [metric(pred[rows], gold[rows]) for rows in chain([slice(None)], draws)]
    return np.array([math.nan if value is None else value for value in values])


def differences(better: Sequence[Run], worse: Sequence[Run], task: str) -> tuple[np.ndarray, np.ndarray]:
    """How much better a task's metric is, in percent: by seed (S,), and by resample (RESAMPLES,).

    better, worse: a run for each seed, in the same order. A resample's difference is the mean over the seeds, so that
    what a row has in common over all seeds is kept.
    """
    better_scores, worse_scores = (
        np.array([scores(tuple(predictions(run, task).tolist()), task, run.data_dir) for run in runs])
        for runs in (better, worse)
    )
    by_seed = 100 * (better_scores - worse_scores)  # (S, 1 + RESAMPLES)
    return by_seed[:, 0], by_seed[:, 1:].mean(axis=0)


def verdict(intervals: Sequence[Sequence[float] | None]) -> str:
    """The verdict that follows from the two intervals of a difference, in points."""
    if None in intervals:
        return "cannot be told"
    lowest, highest = min(low for low, _ in intervals), max(high for _, high in intervals)
    if lowest > 0:
        return "holds"
    if highest < 0:
        return "does not hold: the reverse"
    return "does not hold: no gain of a point" if highest < 1 else "cannot be told"


def over_seeds(differences: np.ndarray) -> tuple[float, float, list[float]]:
    """Mean, standard deviation, and the mean's 95 % interval by Student's t of paired differences (S,), S >= 2."""
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    half = student.ppf(0.975, len(differences) - 1) * spread / math.sqrt(len(differences))
    return mean, spread, [mean - half, mean + half]


def measured(seeds: np.ndarray, resampled: np.ndarray, paper: Sequence[float | None]) -> dict:
    """Mean, spread, intervals and verdict of one column; None for what is not defined."""
    mean = spread = interval = rows = None
    if np.isfinite(seeds).all():
        mean = float(np.mean(seeds))
        rows = np.quantile(resampled, (0.025, 0.975)).tolist() if np.isfinite(resampled).all() else None
        if len(seeds) > 1:
            mean, spread, interval = over_seeds(seeds)
    paper_difference = None if None in paper else paper[0] - paper[1]
    result = {"difference": mean, "spread": spread, "interval over seeds": interval, "interval over rows": rows}
    return result | {"paper": paper_difference, "verdict": verdict([interval, rows])}


def check_claim(claim: Claim, runs: Sequence[Run]) -> dict:
    """A claim with its numbers and verdicts, by column."""

    def runs_of(place: tuple[int, int], task: str) -> list[Run]:
        row = row_of(place)
        chosen = [run for run in runs if run.row == row and (task in run.tasks or len(row.parts()) == 1)]
        return sorted(chosen, key=lambda run: run.seed)

    tasks = [name for name in LEADERBOARD if name in claim.columns or "average" in claim.columns]
    by_task = {task: differences(runs_of(claim.better, task), runs_of(claim.worse, task), task) for task in tasks}
    if "average" in claim.columns:
        by_task["average"] = tuple(np.mean(both, axis=0) for both in zip(*by_task.values(), strict=True))
    paper = [dict(zip(COLUMNS, row_of(place).paper, strict=True)) for place in (claim.better, claim.worse)]
    columns = {name: measured(*by_task[name], [cells[name] for cells in paper]) for name in claim.columns}
    return {"claim": claim.text, "better": list(claim.better), "worse": list(claim.worse), "columns": columns}


def as_words(column: dict) -> list[str]:
    """A column as text: our difference, its intervals over seeds and rows, the paper's difference, the verdict."""
    ours, paper = (f"{column[key]:+.1f}" if column[key] is not None else "-" for key in ("difference", "paper"))
    intervals = [column["interval over seeds"], column["interval over rows"]]
    return [ours, *("{:+.1f} to {:+.1f}".format(*i) if i else "-" for i in intervals), paper, column["verdict"]]


def main(argv: Sequence[str] | None = None) -> None:
    args = parser_for(__doc__).parse_args(argv)
    runs = [run for table in ("table2", "table3") for run in plan(args, table)]
    claims = [check_claim(claim, runs) for claim in CLAIMS]
    path = args.output_dir / f"claims-{args.preset}.json"
    write_results(path, {"preset": args.preset, "seeds": args.seeds, "unit": "points", "claims": claims})
    print("in points: ours, 95 % intervals over seeds and over dev's rows, the paper's, verdict\n")
    for claim in claims:
        print(claim["claim"])
        for name, column in claim["columns"].items():
            print("  {:<8}{:>6}  {:<15} {:<15}{:>6}  {}".format(name, *as_words(column)))
    say(f"all of it: {path}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
