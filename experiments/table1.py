"""Table 1 of the paper, the leaderboard: the prediction files of the best row of table 3.

    python -m experiments.table1 --preset laptop --seeds 0,1,2 --output_dir runs/tables

The best row has the highest average on dev, as a mean over the seeds, all of which it has to have. Its run that is best
on dev predicts. The six files, dev's and test's of each task, go to OUTPUT_DIR/table1-PRESET. Only the course has
test's labels, so our results on dev are printed next to the paper's on test.
"""

import sys
from collections.abc import Sequence

from data.tasks import LEADERBOARD
from experiments.runs import measure, plan
from experiments.tables import METRICS, parser_for, summary
from runtime.errors import UsageError, run_cli, say
from runtime.files import check_space, lock

PAPER = {"sst": 52.35, "para": 76.37, "sts": 61.08, "average": 63.27}  # on test


def main(argv: Sequence[str] | None = None) -> None:
    args = parser_for(__doc__).parse_args(argv)
    runs = plan(args, "table3")
    rows = [row for row in summary(runs) if row["mean"]["average"] is not None and len(row["seeds"]) == len(args.seeds)]
    if not rows:
        expected = f"table1: expected results of table 3 in {args.output_dir}; found none for preset {args.preset}"
        raise UsageError(f"{expected}; run experiments.table3 first, with these options")
    best = max(rows, key=lambda row: row["mean"]["average"])
    seed = max(best["seeds"], key=lambda seed: best["seeds"][seed]["average"])
    (run,) = [run for run in runs if (run.row.number, run.seed) == (best["row"], seed)]
    folder = args.output_dir / f"table1-{args.preset}"
    with lock(args.output_dir):
        check_space(folder, 0)
        metrics = measure(run, ("dev", "test"), folder)
    print(f"the best of {len(rows)} rows on dev: {run.title}\n\n{'':<10}{'ours, dev':>10}{'paper, test':>13}")
    ours = {name: 100 * metrics[METRICS[name]] for name in LEADERBOARD} | {"average": 100 * metrics["average"]}
    for name, value in ours.items():
        print(f"{name:<10}{value:>10.1f}{PAPER[name]:>13.1f}")
    say(f"prediction files: {folder}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
