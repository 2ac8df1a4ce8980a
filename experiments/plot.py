"""A picture of a run, or of several on shared axes, from what they logged.

    python -m experiments.plot runs/x [runs/y ...] --output plot.png

Training losses, each task's main metric on dev, the cosines of task gradients and how many are below 0, the learning
rate. A star marks the step of best/, where the mean of the main metrics is best. What no run has is left out, and named
at the bottom. A run that is still training can be drawn too. Needs the extra: pip install -e '.[pictures]'
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.tasks import Task
from evaluate import read_run, score
from experiments.pictures import (
    Axes,
    Figure,
    cosine_limits,
    draw_cosines,
    draw_mean,
    draw_shares,
    file_name,
    names,
    new_panels,
    read_log,
    save,
    series,
)
from runtime.errors import UsageError, run_cli
from runtime.settings import OptionParser

Panel = tuple[str, str | None]  # a part of the log, and a name in it: ("losses", "sst"), ("lr", None)
COLORS = 10  # in matplotlib's cycle
DEV_RANGE = 0.05  # the smallest span of a dev panel's y axis: smaller changes look flat
PARTS = {
    "losses": "losses",
    "dev": "dev metrics",
    "cosine": "cosines of task gradients",
    "lr": "encoder's learning rate",
}
TITLES = {"losses": "training loss: {}", "dev": "on dev: {}", "cosine": "cosine: {}", "lr": "encoder's learning rate"}
KEY = "Losses: each step (faint), and the rolling mean over a twelfth of the longest run."
COSINE_KEY = """
Cosines of two tasks' gradients, in runs with surgery: each step (dots), rolling mean, the middle 80 % (band).
Below 0 they conflict. Dotted line and grey area: what gradients that have nothing to do with each other would give."""


@dataclass(frozen=True)
class Run:
    name: str  # as the user gave it
    color: str
    log: list[dict]
    tasks: list[Task]  # those it trains

    @classmethod
    def read(cls, folder: Path, color: str) -> "Run":
        """Raises DataError, CheckpointError."""
        log = read_log(folder / "log.jsonl")
        trained = names(log, "losses")
        return cls(str(folder), color, log, [task for name, task in read_run(folder)[1].items() if name in trained])

    def best(self) -> tuple[int, float] | None:
        """The step of best/ and its score; None without one."""
        none = {task.metric_key(task.metric): None for task in self.tasks}  # for a damaged line without them
        scores = [(line["step"], score(none | line["dev"], self.tasks)) for line in self.log if "dev" in line]
        return max(((step, s) for step, s in scores if s is not None), key=lambda pair: pair[1], default=None)

    def label(self) -> str:
        """Its line in the legend."""
        best, skipped = self.best(), sum("skipped" in line for line in self.log)
        text = f"{self.name}: best on dev {best[1]:.3f}, at step {best[0]}" if best else f"{self.name}: no score on dev"
        text += f", average of {', '.join(task.name for task in self.tasks)}" * (len(self.tasks) > 1)
        return text + f", steps skipped: {skipped}" * (skipped > 0)


def read_runs(kind: type[Run], folders: Sequence[Path]) -> list[Run]:
    """Read runs, each with its own colour. Raises UsageError for too many, and what `read` raises."""
    if len(folders) > COLORS:
        raise UsageError(f"runs: expected {COLORS} at most, a colour each; found {len(folders)}; give fewer")
    return [kind.read(folder, f"C{i}") for i, folder in enumerate(folders)]


def panels(runs: Sequence[Run]) -> dict[str, list[Panel]]:
    """For each part of the logs the panels that have something to show."""
    log = [line for run in runs for line in run.log]
    metrics = dict.fromkeys(task.metric_key(task.metric) for run in runs for task in run.tasks)
    names_of = {"losses": names(log, "losses"), "dev": metrics, "cosine": names(log, "cosine"), "lr": [None]}
    return {part: [(part, name) for name in names_of[part] if len(series(log, part, name)[0])] for part in PARTS}


def draw_panel(ax: Axes, runs: Sequence[Run], part: str, name: str | None) -> None:
    """Draw one series of numbers for each run that has it."""
    window = max(1, max(len(series(run.log, part, name)[0]) for run in runs) // 12)
    for run in runs:
        steps, values = series(run.log, part, name)
        if not len(steps):
            continue
        if part == "cosine":
            draw_cosines(ax, steps, values, run.color, window)
        elif part == "losses":
            ax.plot(steps, values, color=run.color, linewidth=0.7, alpha=0.25)
            draw_mean(ax, steps, values, run.color, window)
        else:
            ax.plot(steps, values, ".-" if part == "dev" or len(steps) == 1 else "-", color=run.color, alpha=0.8)
        if part == "dev" and (best := run.best()):
            at = steps == best[0]
            ax.plot(steps[at], values[at], "*", color=run.color, markersize=10, zorder=3)
    ax.set_title(TITLES[part].format(name))
    ax.set_xlim(0, 1.06 * max(run.log[-1]["step"] for run in runs))  # room for half a star, as below
    if part == "lr":
        ax.ticklabel_format(axis="y", scilimits=(0, 0))
    if part == "dev":
        middle, half = ax.dataLim.intervaly.mean(), 0.6 * max(ax.dataLim.height, DEV_RANGE)
        ax.set_ylim(middle - half, middle + half)
    if part == "cosine":
        ax.set_ylim(cosine_limits([line for run in runs for line in run.log], "cosine"))


def draw_conflicts(ax: Axes, runs: Sequence[Run], pairs: Sequence[str]) -> None:
    """Draw how often each pair conflicted, a bar for each run that has it. The first bar has the pair's name."""
    bars: list[tuple] = []
    for pair in pairs:
        by_run = [(series(run.log, "cosine", pair)[1], run.color) for run in runs]
        with_pair = [(cosines, color) for cosines, color in by_run if len(cosines)]
        bars += [("" if i else pair, *bar) for i, bar in enumerate(with_pair)]
    draw_shares(ax, bars)
    ax.set_title("% of cosines below 0")


def picture(runs: Sequence[Run]) -> Figure:
    """Rows of panels for each part of the logs; how often pairs conflicted is next to the learning rate."""
    parts = panels(runs)
    pairs, missing = [pair for _, pair in parts["cosine"]], [text for part, text in PARTS.items() if not parts[part]]
    parts["lr"] += [("conflicts", None)] * bool(pairs)
    figure, grid, rows = new_panels(parts.values(), more=1 + 0.2 * len(runs))
    lowest = {}  # column -> its lowest panel with steps on the x axis
    for row, group in enumerate(rows):
        for column, (part, name) in enumerate(group):
            if part == "conflicts":  # over the rest of the row; in a grid of its own, so that names push no columns
                draw_conflicts(figure.add_subplot(grid[row, column:].subgridspec(1, 1)[0]), runs, pairs)
            else:
                lowest[column] = figure.add_subplot(grid[row, column])
                draw_panel(lowest[column], runs, part, name)
    for ax in lowest.values():
        ax.set_xlabel("step")
    kinds = [("*-" if run.best() else "-", {"color": run.color, "label": run.label()}) for run in runs]
    handles = [ax.plot([], [], kind, markersize=10, **words)[0] for kind, words in kinds]
    figure.legend(handles=handles, loc="outside upper left", frameon=False)
    key = KEY + COSINE_KEY * bool(pairs) + f"\nNot in these logs: {', '.join(missing)}." * bool(missing)
    figure.supxlabel(key, fontsize="medium")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="a run's folder, of train_multitask.py")
    parser.add_argument("--output", type=file_name, default=Path("plot.png"), help="the PNG (default: plot.png)")
    args = parser.parse_args(argv)
    save(picture(read_runs(Run, args.runs)), args.output)
    print(args.output)


if __name__ == "__main__":
    sys.exit(run_cli(main))
