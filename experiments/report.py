"""One page on a run, or on several side by side, made from the files that they wrote. It needs no other file.

    python -m experiments.report runs/x [runs/y ...] --output report.html --open
    python -m experiments.report runs/x --tensorboard tb/x        # and: tensorboard --logdir tb

It shows what differs between the runs, metrics, time, and the pictures of experiments.plot; and for each task's dev
which classes are mixed up, how far the probabilities can be believed, scores against gold, and the worst mistakes with
their texts. For a run that is still training it shows what the log has. The page holds rows of the data: mind who may
read them. For runs that differ in their seeds alone, --card renews the first one's model card with the spread over all.

Needs the extra: pip install -e '.[pictures]'. TensorBoard's files are made from log.jsonl, not while training.
So the loop knows nothing of them, and old runs can have them too. That needs pip install -e '.[tensorboard]'.
"""

import base64
import csv
import io
import os
import re
import sys
import webbrowser
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from data.tasks import NONE, Task
from evaluate import read_run, score
from experiments.pictures import DPI, Figure, file_name, new_figure, png, step_seconds
from experiments.plot import PARTS, Run, picture, read_runs
from heads.kinds import KINDS
from heads.metrics import calibration
from heads.readable import by_class, confusion
from runtime.errors import DataError, UsageError, run_cli, say
from runtime.files import read_json, read_plain, write_atomic
from runtime.settings import OptionParser
from training.card import SYNTHETIC, card, uses_sample
from training.folder import READABLE, is_run
from training.log import span
from training.options import FIXED, option_text

WORST, MOST_LETTERS = 10, 500  # mistakes of a task; letters of a text
MOST_CLASSES = 16  # of a matrix
CLOSE = 0.01  # a model's metrics on the same rows differ less, on another device say
NO_SETTINGS = ("output_dir", "predictions_dir", "resume", "overwrite", "task_definitions", "heads")
RESULTS = "Metrics on dev, by the weights in best/: the best step's. A step's time is the median, memory the peak."
CALIBRATION = "Accuracy by confidence, which are equal on the dotted line<br>ECE: the expected calibration error"
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">"""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid #ccc; }
p { color: #555; margin: .4rem 0; }
img { max-width: 100%; }
pre { font-size: .85rem; margin: 0; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee; }
.number, .figures td { white-space: nowrap; }
.number { text-align: right; }
.texts td:not(:first-child) { overflow-wrap: anywhere; min-width: 4rem; }
.texts td:last-child { min-width: 9rem; }
.row { display: flex; flex-wrap: wrap; gap: .5rem 3rem; align-items: flex-start; }
.row > div { max-width: 100%; }
.matrix td, .matrix th { text-align: right; vertical-align: middle; padding: 0 .6rem 0 0; border: 0; }
.matrix span { display: block; min-width: 1.6em; padding: .2rem .6rem; margin-right: -.6rem; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
@media screen { .wide, pre { overflow-x: auto; } .wide img { max-width: none; } }
@media print { body { font-size: 11px; margin: 0; max-width: none; } tr, pre, .row > div { break-inside: avoid; }
  h2, p { break-after: avoid; } }
"""


class Html(str):
    """Text that is already HTML. Other text is escaped."""


class Predicted(NamedTuple):
    """N rows of a task's dev, those with a label, the worst first."""

    task: Task
    errors: np.ndarray  # (N,), as the kind measures them
    words: list[tuple[str, ...]]  # gold, prediction, confidence, id, texts
    gold: np.ndarray  # in the form of the kind's target, like predictions
    predictions: np.ndarray
    confidence: np.ndarray  # (N,), NaN for a score


@dataclass(frozen=True)
class FullRun(Run):
    """A run with all its files."""

    config: dict
    metrics: dict | None  # metrics.json; None while it is training
    predicted: dict[str, Predicted]  # by task; empty while it is training

    @classmethod
    def read(cls, folder: Path, color: str) -> "FullRun":
        """Read a run's folder. Raises UsageError for another folder, DataError, CheckpointError."""
        if not is_run(folder):
            raise UsageError(f"{folder}: expected a run's folder; found no config.json of a run; check the path")
        run, config, predicted, metrics = Run.read(folder, color), read_run(folder)[0], {}, None
        if (folder / "metrics.json").is_file():
            metrics, place = read_json(folder / "metrics.json"), folder / "predictions" / READABLE
            if not place.is_dir():  # the run wrote them elsewhere
                place = Path(config["predictions_dir"], READABLE)
            for task in run.tasks:
                path = place / f"{task.name}-dev.tsv"
                if path.is_file():
                    predicted[task.name] = read_predicted(path, task, metrics["dev"])
        return cls(**vars(run), config=config, metrics=metrics, predicted=predicted)

    @property
    def end(self) -> Mapping:
        """metrics.json; while there is none, step and metrics of the best evaluation so far, or of the last."""
        if self.metrics:
            return self.metrics
        evaluations = [{"step": None, "dev": {}}, *(line for line in self.log if "dev" in line)]
        best = self.best()
        return next((line for line in evaluations if best and line["step"] == best[0]), evaluations[-1])

    @property
    def seconds_a_step(self) -> float | None:
        times = step_seconds(self.log)
        return float(np.median(times)) if times else None

    def settings(self) -> dict[str, str]:
        """Options, machine, versions and data by name, as text."""
        parts = ("machine", "versions", "data")
        flat = {name: value for name, value in self.config.items() if name not in (*NO_SETTINGS, *parts)}
        flat |= {f"{part}: {name}": value for part in parts for name, value in self.config.get(part, {}).items()}
        return {name: re.sub("(?<=sha256 .{12})[0-9a-f]+", "...", option_text(value)) for name, value in flat.items()}


def read_predicted(path: Path, task: Task, dev: Mapping[str, float | None]) -> Predicted:
    """Read what heads.readable.mistakes wrote. dev: the run's metrics, which the file must have. Raises DataError."""
    try:
        text = io.StringIO(read_plain(path).decode(), newline="")
        rows = list(csv.reader(text, delimiter="\t", strict=True))[1:]
        errors = [float(row[0]) for row in rows if row[0]]
        words = [tuple(row[1:]) for row in rows[: len(errors)]]
        gold, predictions = (targets(task, [row[side] for row in words]) for side in (0, 1))
        confidence = np.array([float(row[2] or "nan") for row in words])
    except (OSError, ValueError, IndexError, csv.Error) as error:
        advice = "write it anew: python evaluate.py and the run's folder"
        raise DataError(
            f"{path}: expected rows of {task.name}, as a run writes them; found {error!r}; {advice}"
        ) from None
    for name, metric in KINDS[task.kind].metrics.items() if task.classes else ():  # the file's scores are rounded
        key, found = task.metric_key(name), metric(predictions, gold)
        own = dev.get(key)
        if found != own and (None in (found, own) or abs(found - own) > CLOSE):
            advice = "python evaluate.py and the run's folder alone writes the run's own; or take the file away"
            raise DataError(f"{path}: expected {key} {own}, as in metrics.json; found {found}; {advice}")
    return Predicted(task, np.array(errors), words, gold, predictions, confidence)


def targets(task: Task, words: Sequence[str]) -> np.ndarray:
    """Labels as text -> in the form of the kind's target"""
    if task.range:
        return np.array(words, dtype=float)
    labels = [task.parse("" if task.several and word == NONE else word) for word in words]
    return KINDS[task.kind](task).target(labels).numpy()


def cell(value: object, tag: str = "td") -> str:
    """A cell of a table."""
    if not isinstance(value, str):
        text = "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
        return f'<{tag} class="number">{text}</{tag}>'
    return f"<{tag}>{value if isinstance(value, Html) else escape(value)}</{tag}>"


def table(head: Sequence[str], rows: Iterable[Sequence], kind: str) -> Html:
    lines = ["".join(cell(name, "th") for name in head), *("".join(map(cell, row)) for row in rows)]
    rows = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return Html(f'<div class="wide"><table class="{kind}">{rows}</table></div>\n')


def name_of(run: Run) -> Html:
    """A run's name, with a dot in its colour."""
    from matplotlib.colors import to_hex

    return Html(f'<span class="dot" style="background: {to_hex(run.color)}"></span>{escape(run.name)}')


def image(figure: Figure, text: str) -> Html:
    """A figure as HTML. text: what people read who cannot see it."""
    content = png(figure)
    width = 96 * int.from_bytes(content[16:20], "big") // DPI  # from the PNG's header; HTML has 96 pixels an inch
    data = base64.b64encode(content).decode()
    tag = f'<img width="{width}" alt="{escape(text)}" src="data:image/png;base64,{data}">'
    return Html(f'<div class="wide">{tag}</div>')


def results(runs: Sequence[FullRun]) -> Html:
    """A line for each run."""
    tasks = {task.name: task for run in runs for task in run.tasks}
    keys = [task.metric_key(task.metric) for task in tasks.values()]
    with_average = len(keys) > 1 and all([task.name for task in run.tasks] == [*tasks] for run in runs)
    head = ["run", *keys, *["average"] * with_average, "best step", "steps", "time", "a step", "memory"]
    rows = []
    for run in runs:
        run_keys = [task.metric_key(task.metric) for task in run.tasks]
        mean = [score(dict.fromkeys(run_keys) | run.end["dev"], run.tasks)] * with_average
        last, step, peak = run.log[-1], run.seconds_a_step, run.end.get("peak_gb")
        spent = [f"{step:.3g} s" if step else None, f"{peak:.2f} GB" if peak else None]
        cells = [*map(run.end["dev"].get, keys), *mean, run.end["step"], last["step"], span(last["seconds"]), *spent]
        rows.append([name_of(run), *cells])
    return table(head, rows, "figures")


def settings(runs: Sequence[FullRun]) -> tuple[Html, Html]:
    """What differs between the runs, and what does not."""
    by_run = [run.settings() for run in runs]
    names = dict.fromkeys(name for run_settings in by_run for name in run_settings)
    rows = [[name, *(run_settings.get(name, "") for run_settings in by_run)] for name in names]
    differ = table(["", *map(name_of, runs)], [row for row in rows if len({*row[1:]}) > 1], "texts")
    return differ, table(["", ""], [row[:2] for row in rows if len({*row[1:]}) == 1], "texts")


def matrix(predicted: Predicted) -> Html:
    """Which classes are taken for which: a row for each gold label, darker where more of its rows are predicted so."""
    task, gold, predictions = predicted.task, predicted.gold, predicted.predictions
    if task.several or len(task.classes) > MOST_CLASSES:
        lines = (by_class if task.several else confusion)(task, predictions, gold)
        return Html(f"<pre>{escape(chr(10).join(lines))}</pre>")
    counts = np.zeros((len(task.classes),) * 2, dtype=int)
    np.add.at(counts, (gold, predictions), 1)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    shade = '<span style="background: rgb(31 119 180 / {:.2f})">{}</span>'.format
    shaded = [map(Html, map(shade, 0.75 * row_shares, row)) for row_shares, row in zip(shares, counts, strict=True)]
    names = [*map(str, task.classes)]
    return table(["gold \\ predicted", *names], [[n, *row] for n, row in zip(names, shaded, strict=True)], "matrix")


def scores(run: FullRun, predicted: Predicted) -> Html:
    """A picture of the predicted score for each gold score."""
    figure = new_figure(3.2, 2.8)
    ax = figure.add_subplot(xlabel="gold", ylabel="predicted")
    ax.plot(predicted.gold, predicted.predictions, ".", color=run.color, alpha=0.4)
    ax.plot(predicted.task.range, predicted.task.range, ":", color="black", linewidth=1)
    return image(figure, f"{run.name}: predicted scores of {predicted.task.name} against gold")


def calibrations(runs: Sequence[tuple[FullRun, Predicted]]) -> Html:
    """A picture of accuracy by confidence: a dot for each fifth of the scale, larger where it has more rows.

    With several labels a row is right if all are, as in the file that is read; evaluate.py --report counts each label.
    """
    figure = new_figure(3.2, 2.8)
    ax = figure.add_subplot(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(-0.05, 1.05))
    for run, predicted in runs:
        right = predicted.predictions == predicted.gold
        error, bins = calibration(predicted.confidence, right.all(axis=1) if predicted.task.several else right)
        _, _, shares, confidence, accuracy = np.array(bins).T
        ax.plot(confidence, accuracy, color=run.color, linewidth=1, label=f"ECE {error:.3f}")
        ax.scatter(confidence, accuracy, 150 * shares, color=run.color, alpha=0.6)
    ax.plot([0, 1], [0, 1], ":", color="black", linewidth=1)
    ax.legend(frameon=False)
    return image(figure, f"{runs[0][1].task.name}: accuracy by confidence")


def mistakes(runs: Sequence[tuple[FullRun, Predicted]]) -> Html:
    """The rows that any run has wrong, by their mean error over the runs: gold, and what each run predicts."""
    by_row = defaultdict(dict)  # gold, id and texts -> a run's number -> error, prediction, confidence
    for number, (_, predicted) in enumerate(runs):
        for error, (gold, prediction, confidence, *row) in zip(predicted.errors, predicted.words, strict=True):
            by_row[(gold, *row)][number] = error, prediction, f" ({float(confidence):.2f})" if confidence else ""
    wrong = [key for key, by_run in by_row.items() if any(words[1] != key[0] for words in by_run.values())]
    rows = []
    for key in sorted(wrong, key=lambda key: -fmean(words[0] for words in by_row[key].values()))[:WORST]:
        (gold, _, *texts), by_run = key, by_row[key]
        cut = [escape(text[:MOST_LETTERS] + "..." * (len(text) > MOST_LETTERS)) for text in texts]
        columns = ["".join(by_run[number][1:]) if number in by_run else "-" for number in range(len(runs))]
        rows.append([gold, *columns, Html("<br>".join(cut))])
    columns = [name_of(run) for run, _ in runs] if len(runs) > 1 else ["predicted"]
    return table(["gold", *columns, "text"], rows, "texts")


def section(name: str, runs: Sequence[FullRun]) -> str:
    """The section of a task, on its dev."""
    task = next(task for run in runs for task in run.tasks if task.name == name)
    with_task = [run for run in runs if name in [task.name for task in run.tasks]]
    keys = [task.metric_key(metric) for metric in KINDS[task.kind].metrics]
    counts = [len(run.predicted[name].words) if name in run.predicted else None for run in with_task]
    rows = [[name_of(run), *map(run.end["dev"].get, keys), n] for run, n in zip(with_task, counts, strict=True)]
    parts = [f"<h2>{name}</h2>", paragraph(f"{task.kind}: {task.explained}")]
    parts.append(table(["dev", *keys, "rows"], rows, "figures"))
    if unpredicted := [run.name for run in with_task if name not in run.predicted]:
        parts.append(paragraph(f"No predictions of {', '.join(unpredicted)}: a run writes them at its end."))
    if predicted := [(run, run.predicted[name]) for run, n in zip(with_task, counts, strict=True) if n]:
        blocks = []
        for run, of in predicted:
            shown = scores(run, of) if of.task.range else matrix(of)
            blocks.append(f"{name_of(run)}<br>{shown}")
        if with_classes := [(run, of) for run, of in predicted if of.task.classes]:
            blocks.append(f"{CALIBRATION}<br>{calibrations(with_classes)}")
        parts.append('<div class="row">' + "".join(f"<div>{block}</div>\n" for block in blocks) + "</div>")
        order = "most wrong labels" if task.several else "least probable right classes"
        by = f": the {order} first; in brackets the confidence" * bool(task.classes)
        parts.append(paragraph(f"The worst mistakes{by}."))
        parts.append(mistakes(predicted))
    return "\n".join(parts)


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def page(runs: Sequence[FullRun]) -> str:
    if len(runs) > 1:  # names without the folders that they share
        place = os.path.commonpath([os.path.abspath(Path(run.name).parent) for run in runs])
        runs = [replace(run, name=os.path.relpath(run.name, place)) for run in runs]
    (differ, same), title = settings(runs), ", ".join(run.name for run in runs)
    parts = [f"<h1>{escape(title)}</h1>", results(runs), paragraph(RESULTS)]
    if any(uses_sample(run.config, run.tasks) for run in runs):
        parts.append(paragraph(SYNTHETIC))
    for run in runs:
        if not run.metrics:
            has = f"{run.name} has no metrics.json, which a run writes at its end"
            text = f"{has}: its figures are those so far, at step {run.log[-1]['step']}."
            parts.append(paragraph(text))
    if len(runs) > 1:
        parts += ["<h2>What differs</h2>", differ]
    parts += ["<h2>Training</h2>", image(picture(runs), "curves of losses, dev metrics, cosines, learning rate")]
    parts += [section(name, runs) for name in dict.fromkeys(task.name for run in runs for task in run.tasks)]
    parts += ["<h2>Settings</h2>" if len(runs) == 1 else "<h2>The same in all</h2>", same]
    head = f"{HEAD}<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
    return "\n".join([head, *parts, "</body></html>\n"])


def write_events(run: Run, folder: Path) -> None:
    """Write a run's log for TensorBoard, with the run's own seconds. Raises UsageError where the extra is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("--tensorboard: expected tensorboard; found none; pip install -e '.[tensorboard]'") from None
    with SummaryWriter(folder / re.sub(r"[^\w.=-]+", "_", run.name).strip("_")) as writer:
        for line in run.log:
            for part in (part for part in PARTS if part in line):
                values = line[part] if isinstance(line[part], dict) else {"": line[part]}
                for name, value in values.items():
                    if value is not None:
                        writer.add_scalar(f"{part}/{name}".rstrip("/"), value, line["step"], line["seconds"])


def write_card(runs: Sequence[FullRun]) -> Path:
    """Renew the first run's model card, with the spread over all. Raises UsageError for runs that are not alike, or of
    one seed: their spread would be 0."""
    first, path = runs[0], Path(runs[0].name) / "best" / "README.md"
    for run in runs:
        differ = [
            name for name in (*FIXED, "data") if name != "seed" and run.config.get(name) != first.config.get(name)
        ]
        if not run.metrics or differ:
            found = f"other {', '.join(differ)}" if differ else "no metrics.json"
            raise UsageError(f"--card: expected ended runs that differ in their seeds alone; {run.name} has {found}")
    seeds = [run.config["seed"] for run in runs]
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UsageError(f"--card: expected runs of different seeds; found seed {twice[0]} twice; leave one out")
    write_atomic(path, card(first.config, {task.name: task for task in first.tasks}, [run.metrics for run in runs]))
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="a run's folder, of train_multitask.py")
    parser.add_argument("--output", type=file_name, default=Path("report.html"), help="the page (default: report.html)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="a new folder, for TensorBoard's files too")
    parser.add_argument("--card", action="store_true", help="put the spread over the runs on the first's model card")
    args = parser.parse_args(argv)
    if args.tensorboard and args.tensorboard.exists():
        raise UsageError(f"--tensorboard: expected a new folder; found one, {args.tensorboard}; choose another")
    new_figure(1, 1)  # where matplotlib is missing, say so
    runs = read_runs(FullRun, args.runs)
    write_atomic(args.output, page(runs))
    print(args.output)
    if args.card:
        print(write_card(runs))
    if args.tensorboard:
        for run in runs:
            write_events(run, args.tensorboard)
        print(args.tensorboard)
    if args.open and not webbrowser.open(args.output.resolve().as_uri()):
        say("no browser here: open the page yourself, on this machine or another")


if __name__ == "__main__":
    sys.exit(run_cli(main))
