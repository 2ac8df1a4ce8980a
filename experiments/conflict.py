"""How often the gradients of a run's tasks conflict while it trains, and what chance and noise alone would give.

    python -m experiments.conflict                 # trains, and measures
    python -m experiments.conflict --every 5       # each 5th step, not 10th

It takes all options of train_multitask.py.

It adds conflict.png, conflict.json and halves.jsonl to the run's files. halves.jsonl has a line for each measured step,
where each task's batch is cut into halves A and B. cos(A_t, B_t) says how far task t agrees with itself at this size;
the rest is noise. The mean of cos(A_s, B_t) and cos(B_s, A_t) says how far two tasks agree at the same size. (A batch's
rows are similar in length, so its halves may be a little more alike than two batches.) Measuring changes no bit of the
run. With --resume auto it goes on, or the picture of a finished run is drawn again.
Needs: pip install -e '.[pictures]'
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import train_multitask
from bert.precision import autocast
from experiments.pictures import cosine_limits, draw_cosines, new_figure, new_panels, read_lines, save, series
from heads.rows import step_batches
from optim import TaskGradients
from optim.surgery.gramian import cosines
from runtime.errors import DataError, UsageError, run_cli
from runtime.files import read_plain, write_atomic
from runtime.ranks import ALONE, World
from runtime.seeds import generator, seeded
from runtime.settings import OptionParser, positive_int
from training.log import RunLog
from training.options import Options, parse
from training.session import Session

FILE = "halves.jsonl"
PARTS = {  # the first: of a line of log.jsonl; the others: of a line of FILE
    "cosine": "two tasks, whole batches",
    "two_tasks": "two tasks, half a batch each",
    "one_task": "one task, the halves of its batch",
}
KEY = """Upper panels: cosine of two tasks' gradients, by step; below 0 they conflict. Lower panels: of the gradients of
two halves of one task's batch: how far the task agrees with itself. Chance alone puts 50 % below 0, give or take
{:.0f} (upper panels) and {:.0f} (lower ones). Dots: steps; line: rolling mean; band: the middle 80 %."""
CHANCE = "chance: unrelated gradients; +-: two standard errors (se), as if steps were independent"
Numbers = dict[str, dict[str, dict[str, float]]]  # by part, by pair or task, by name of the number


class MeasuredSession(Session):
    """A session that measures the gradients of halves of its batches before each `every`-th step."""

    def __init__(self, options: Options, world: World = ALONE, *, every: int):
        super().__init__(options, world)
        self.every, tasks, most = every, self.gradients.tasks, self.total_steps // 2
        if every > most:
            raise UsageError(f"--every: expected {most} at most, half of the run's steps; found {every}; take less")
        if min(options.batch_size.values()) * options.grad_accum < 2:
            raise UsageError("--batch_size: expected 2 or more of each task, to cut into halves; found 1; take more")
        names = [task + half for half in "AB" for task in tasks]  # first all A, then all B
        self.halves = TaskGradients(names, self.gradients.shared, self.gradients.sparse)

    def steps(self) -> Iterator[int]:
        """The session's steps, measured. Lines of FILE for steps that will be taken again are removed first."""
        path = self.out / FILE
        content, lines = (read_plain(path).split(b"\n"), read_lines(path)) if path.exists() else ((), ())
        sizes = [len(text) + 1 for text, line in zip(content, lines, strict=False) if line["step"] <= self.state.step]
        with closing(RunLog(path, sum(sizes))) as log:
            for step in super().steps():
                if (step + 1) % self.every == 0:
                    log.write({"step": step + 1, **self.measure(step)})
                yield step

    def measure(self, step: int) -> dict[str, dict[str, float]]:
        """A step's cosines between halves, by part and pair or task: NaN where a half has no rows. Changes nothing."""
        options, previous, tasks = self.options, deepcopy(self.previous), self.gradients.tasks
        parts = step_batches(self.rows, step, options.grad_accum, 2 * self.state.parts, self.device)
        for micro, (batches, shares) in enumerate(parts):
            counts = {name + "AB"[micro % 2]: count for name, count in self.model.row_counts(batches).items()}
            sizes, draws = self.halves.sizes(counts), generator(options.seed, "halves", step, micro)
            with seeded(options.seed, "halves", step, micro), self.halves.by_rows(self.model, *sizes):
                with autocast(self.device, self.amp):
                    losses = self.model.losses(batches, options.losses, previous, draws)
                self.scaler.scale(sum(loss * shares[name] for name, loss in losses.items())).backward()
        across = cosines(self.halves.gramian())[: len(tasks), len(tasks) :]  # (T, T): A of one task, B of another
        self.halves.forget()
        self.model.zero_grad()  # the heads' gradients
        mean = ((across + across.T) / 2).tolist()
        pairs = {f"{tasks[i]}-{tasks[j]}": mean[i][j] for i, j in combinations(range(len(tasks)), 2)}
        return {"two_tasks": pairs, "one_task": {task: mean[i][i] for i, task in enumerate(tasks)}}


def cosine_numbers(lines: Sequence[dict], part: str, name: str) -> dict[str, float]:
    """Count, mean, standard deviation, share below 0; standard errors (se), as if steps were independent."""
    values = series(lines, part, name)[1]  # (N,)
    if (count := len(values)) < 2:
        advice = "take more steps, a larger --batch_size, or a smaller --every or --log_every"
        raise DataError(f"{name}, {PARTS[part]}: expected cosines of 2 steps or more; found {count}; {advice}")
    mean, sd, below = values.mean().item(), values.std(ddof=1).item(), (values < 0).mean().item()
    errors = {"mean_se": sd / math.sqrt(count), "below_zero_se": math.sqrt(below * (1 - below) / count)}
    return {"steps": count, "mean": mean, "sd": sd, "below_zero": below} | errors


def chance(numbers: dict[str, float]) -> float:
    """Two standard errors, in percent, of the share below 0 of the cosines of unrelated gradients."""
    return 100 / math.sqrt(numbers["steps"])


def draw(path: Path, lines: Sequence[dict], numbers: Numbers) -> None:
    """Panels for the pairs of tasks, below them panels for the tasks, all with the same axes."""
    shown = {part: [(part, name) for name in numbers[part]] for part in ("cosine", "one_task")}
    figure, grid, rows = new_panels(shown.values(), more=0.8)
    places = [(grid[row, column], *panel) for row, group in enumerate(rows) for column, panel in enumerate(group)]
    for number, (place, part, name) in enumerate(places):
        ax = figure.add_subplot(place)
        steps, values = series(lines, part, name)
        draw_cosines(ax, steps, values, f"C{number}", max(1, len(steps) // 12))
        title = f"{'within ' * (part == 'one_task')}{name}: {100 * numbers[part][name]['below_zero']:.0f} % below 0"
        ax.set(title=title, xlim=(0, None), ylim=cosine_limits(lines, *shown), xlabel="step", ylabel="cosine")
        ax.label_outer()
    figure.supxlabel(KEY.format(*(max(map(chance, numbers[part].values())) for part in shown)), fontsize="medium")
    save(figure, path)


def table(numbers: Numbers) -> str:
    lines = [f"{'cosines of gradients':<34} steps    mean     se     sd  below 0     se"]
    for part, text in PARTS.items():
        lines.append(text)
        for name, n in numbers[part].items():
            share = f"{100 * n['below_zero']:7.0f} %{100 * n['below_zero_se']:5.0f} %"
            lines.append(f"  {name:<32}{n['steps']:6}{n['mean']:+8.3f}{n['mean_se']:7.3f}{n['sd']:7.3f}{share}")
    return "\n".join(lines)


def verdict(pair: str, tasks: Sequence[str], numbers: Numbers) -> str:
    """What the numbers say of a pair of tasks, in two lines."""
    n, between, one_task = numbers["cosine"][pair], numbers["two_tasks"][pair], numbers["one_task"]
    share, spread = 100 * n["below_zero"], chance(n)
    often = "about as often as" if abs(share - 50) <= spread else "more often than" if share > 50 else "less often than"
    within = ", ".join(f"{with_error(one_task[task])} within {task}" for task in tasks)
    return (
        f"{pair}: below 0 in {share:.0f} % of {n['steps']} steps, {often} by chance (50 +- {spread:.0f} %); "
        f"mean {with_error(n)}\n  half batches: mean {with_error(between)} between the two, {within}"
    )


def with_error(numbers: dict[str, float]) -> str:
    return f"{numbers['mean']:+.3f} +- {2 * numbers['mean_se']:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    extra_options = OptionParser("", add_help=False)
    extra_options.add_argument("--every", type=positive_int, default=10)
    args, words = extra_options.parse_known_args(argv)
    options = parse(words, __doc__)
    if options.strategy != "gs":
        raise UsageError(f"--strategy: expected gs, which logs the cosines; found {options.strategy}; leave it out")
    new_figure(1, 1)  # where matplotlib is missing, say so before the run
    command = options.command.replace("train_multitask.py", f"-m experiments.conflict --every {args.every}", 1)
    train_multitask.run(replace(options, command=command), partial(MeasuredSession, every=args.every))
    if options.dry_run:
        return
    out, pairs = options.output_dir, ["-".join(pair) for pair in combinations(options.task_names, 2)]
    lines = read_lines(out / "log.jsonl") + read_lines(out / FILE)
    wanted = dict.fromkeys(PARTS, pairs) | {"one_task": options.task_names}
    numbers = {part: {name: cosine_numbers(lines, part, name) for name in wanted[part]} for part in PARTS}
    content = {"batch_size": options.batch_size, "grad_accum": options.grad_accum, "cosines of": PARTS, **numbers}
    write_atomic(out / "conflict.json", json.dumps(content, indent=2) + "\n")
    draw(out / "conflict.png", lines, numbers)
    print(f"\n{table(numbers)}\n\n{CHANCE}")
    for pair, tasks in zip(pairs, combinations(options.task_names, 2), strict=True):
        print(verdict(pair, tasks, numbers))
    print(out / "conflict.png")


if __name__ == "__main__":
    sys.exit(run_cli(main))
