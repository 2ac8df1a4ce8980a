"""Metrics on dev and prediction files for dev and test, from a trained run.

    python evaluate.py runs/x            # dev's metrics, prediction files
    python evaluate.py runs/x --report   # and a page on each task
    python evaluate.py runs/x --split all --data_dir DIR --predictions_dir DIR

The page shows which classes are mixed up, and how far the probabilities can be
believed. readable/TASK-dev.tsv, next to dev's prediction files, lists dev's
rows with their texts, the worst first.
"""

import json
import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from bert.checkpoint import check_fit
from bert.lora import add_low_rank
from bert.precision import DEVICES, PRECISIONS, peak_memory, resolve_device, resolve_precision
from data import SAMPLE_DIR, find_data_dir
from data.reader import Split, read_splits
from data.table import csv_writer
from data.tasks import LEADERBOARD, TASKS, Task, choose_tasks, names
from heads import MultitaskBert
from heads.config import HeadsConfig
from heads.files import model_folder, read_task
from heads.inference import outputs
from heads.kinds import KINDS
from heads.readable import mistakes, page
from runtime.errors import CheckpointError, DivergedError, UsageError, printable, program, run_cli, say, show
from runtime.files import check_own, check_space, clean, lock, read_json, write_atomic
from runtime.ranks import ALONE, World
from runtime.seeds import seeded
from runtime.settings import LARGE, OptionParser, of_type
from training.card import card
from training.checkpoint import load_latest
from training.folder import READABLE, is_run, prediction_file
from training.session import Session, step_of_best

Splits = Mapping[str, Mapping[str, Split]]  # by name ("dev" and "test"; others are ignored), then by task
NOTES = {"_em": "share that agrees, rounded to integers", "overall_2024": "average with (r + 1) / 2 for Pearson's r"}


def task_metrics(task: Task, predictions: np.ndarray, labels: Sequence) -> dict[str, float | None]:
    """A task's metrics, over the rows whose label is not None; None = not defined on these rows."""
    kind = KINDS[task.kind](task)
    rows, gold = kind.gold(labels)
    return {task.metric_key(name): metric(predictions[rows], gold) for name, metric in kind.metrics.items()}


def averages(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """The leaderboards' averages; {} unless the metrics of all their tasks are given.

    `average` (2023): the mean of their main metrics. `overall_2024`: the same with a correlation r as (r + 1) / 2.
    """
    tasks = [TASKS[name] for name in LEADERBOARD]
    keys = [task.metric_key(task.metric) for task in tasks]
    if not metrics.keys() >= {*keys}:
        return {}
    average = score(metrics, tasks)
    if average is None:
        return {"average": None, "overall_2024": None}
    shares = [(metrics[key] + 1) / 2 if task.range else metrics[key] for task, key in zip(tasks, keys, strict=True)]
    return {"average": average, "overall_2024": sum(shares) / len(shares)}


def score(metrics: Mapping[str, float | None], tasks: Sequence[Task]) -> float | None:
    """The mean of the tasks' main metrics, None if one is undefined. The best model and early stopping go by it."""
    values = [metrics[task.metric_key(task.metric)] for task in tasks]
    return None if None in values else sum(values) / len(values)


def undefined(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """The reason for each metric that is None."""
    reason = "no labels, or predictions or labels all the same, or none positive; for an average: a part is undefined"
    return {name: reason for name, value in metrics.items() if value is None}


def report(metrics: Mapping[str, float | None]) -> str:
    """The metrics as lines of text for people, with a note where the name ends in a key of NOTES."""
    notes = {name: f"  {note}" for name in metrics for end, note in NOTES.items() if name.endswith(end)}
    texts = {name: f"{value:.4f}{notes.get(name, '')}" for name, value in metrics.items() if value is not None}
    texts |= {name: f"not defined: {reason}" for name, reason in undefined(metrics).items()}
    width = max(map(len, metrics), default=0) + 2
    return "\n".join(f"  {name:<{width}}{texts[name]}" for name in metrics)


def prediction_text(task: Task, ids: Sequence[str], y: Tensor) -> str:
    """The text of a prediction file. The course's tasks: their header, then `ID , VALUE \\n`, numbers unrounded. Other
    tasks: csv with the columns id, prediction, and the probability of each class, several classes as `Task.cell`
    has them; the column of a class named id or prediction has the task's name before it."""
    kind = KINDS[task.kind](task)
    values = list(kind.names(kind.predict(y)))
    if task.course:
        words = [repr(float(value)) if task.course.as_float else str(value) for value in values]
        return task.course.header + "".join(f"{i} , {word} \n" for i, word in zip(ids, words, strict=True))
    if task.several:
        values = map(task.cell, values)
    elif task.range:
        values = map(float, values)
    shares = kind.probabilities(y).tolist() if task.classes else [[] for _ in ids]
    lines: list[str] = []
    table = csv_writer(lines.append, ",")
    columns = ["id", "prediction"]
    table.writerow(columns + [f"{task.name}_{name}" if name in columns else name for name in task.classes])
    table.writerows([i, value, *row] for i, value, row in zip(ids, values, shares, strict=True))
    return "".join(lines)


def predict_and_score(
    model: MultitaskBert,
    splits: Splits,
    amp: str,
    folder: Path | None = None,
    pages: list[str] | None = None,
    world: World = ALONE,
) -> dict[str, float | None]:
    """Predict every row, also those without a label or with an empty text.

    Args:    folder: where to write a prediction file for each split, and dev's mistakes.
             pages: a list, to which a page on each task's dev is added.
             world: the ranks, each of which predicts its share of the rows.
    Returns: dev's metrics, with the leaderboards' averages; {} without dev.
    Raises:  DivergedError for an output that is not a finite number; DiskError.
    """
    metrics: dict[str, float | None] = {}
    for name in ("dev", "test"):
        for split in splits.get(name, {}).values():
            bar = partial(show, f"{'predicting' if folder else 'evaluating'} {split.task} {name}, texts:")
            task = model.tasks[split.task]
            with world.together(slow=True):
                y = outputs(model, [split.task], [side[world.own] for side in split.sides], amp, bar)[split.task]
            y = world.interleave(y)
            if folder:
                write_predictions(folder, name, task, split, y)
            if name == "dev":
                labels = [example.label for example in split.examples]
                metrics |= task_metrics(task, KINDS[task.kind](task).predict(y), labels)
                if pages is not None:
                    pages.append(page(task, labels, y))
    return metrics | averages(metrics)


def write_predictions(folder: Path, name: str, task: Task, split: Split, y: Tensor) -> None:
    """Write the prediction file of a split, and for dev its mistakes too."""
    files = {prediction_file(folder, task, name): prediction_text(task, [e.id for e in split.examples], y)}
    if name == "dev":
        files[folder / READABLE / f"{task.name}-dev.tsv"] = mistakes(task, split.examples, y)
    for path, text in files.items():
        clean(path.parent, re.escape(path.name))
        write_atomic(path, text)


def finish(session: Session) -> None:
    """End a run: load best/ as any program would, and write prediction files, model card and metrics.json."""
    options, state, best = session.options, session.state, session.out / "best"
    if skipped := state.step - state.updates:
        found = f"{skipped} of {state.step}"
        if not state.updates:
            advice = "lower --loss_scale or --lr, or take --amp off"
            raise DivergedError(f"expected a trained model; found no step taken, {found} skipped; {advice}")
        say(f"steps skipped for an infinite gradient: {found}")
    if state.best_score is None or not session.best_stands:
        session.complete_best()
    with seeded(options.seed, "finish"):  # heads are made before they are loaded
        model = MultitaskBert.from_pretrained(best).to(session.device)
    metrics = predict_and_score(model, session.splits, session.amp, options.predictions_dir)
    result = {
        "dev": metrics,
        "undefined": undefined(metrics),
        "step": state.best_step,
        "steps": state.step,
        "data": options.data_name,
        "seconds": round(state.seconds, 1),
        "peak_gb": peak_memory(session.device),
        "conflicts": {pair: count / max(1, state.surgeries) for pair, count in state.conflicts.items()},
    }
    write_atomic(best / "README.md", card(*read_run(session.out), [result]))
    write_atomic(session.out / "metrics.json", json.dumps(result, indent=2) + "\n")
    say(f"model: {best}; predictions: {options.predictions_dir}")
    say(f"look at it: {shlex.join([*program('evaluate'), str(session.out), '--report'])}")
    print(printable(f"dev of {options.data_name}, weights of step {state.best_step}:\n{report(metrics)}"))


def read_run(run: Path) -> tuple[dict, Mapping[str, Task]]:
    """A run's checked config.json, with the heads' settings as "heads", and its tasks. For a model's folder, whose
    config.json is BERT's: defaults, and the built-in tasks. Raises CheckpointError."""
    if (run / "heads.json").is_file():
        return {"seed": 0, "data_dir": None, "machine": {"precision": "auto"}, "data": {}}, TASKS
    path = run / "config.json"
    config = read_json(path)
    try:
        tasks = {task["name"]: read_task(task) for task in config["task_definitions"]}
        config["heads"] = of_type(config, HeadsConfig)
        values = config["seed"], config["data_dir"], config["checkpoint"], config["machine"]["precision"]
        if [*map(type, values)] != [int, str, str, str] or not 0 <= values[0] < LARGE or values[-1] not in PRECISIONS:
            raise ValueError(f"{values!r:.300} as seed, data_dir, checkpoint and machine.precision")
        of_type(config.setdefault("data", {}), dict[str, str])
        of_type(config.setdefault("lora", None), int | None)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: expected all that a run writes; found {error!r}; copy it back") from None
    return config, tasks


def read_run_with_data(run: Path, model: MultitaskBert) -> tuple[dict, dict[str, Task]]:
    """The config of `read_run`, and those of its tasks that its model has. Prints which of the model's tasks are left
    out. Raises UsageError where none is left."""
    config, tasks = read_run(run)
    with_data = {name: task for name, task in tasks.items() if name in model.tasks}
    if not with_data:
        found = ", ".join(model.tasks)
        raise UsageError(f"{run}: does not say where the data of {found} are; give the run's folder")
    if left_out := [name for name in model.tasks if name not in with_data]:
        advice = "to have them too, give the run's folder, which says where their data are"
        reason = "the run did not train them" if "task_definitions" in config else advice
        say(f"left out: {', '.join(left_out)}; {reason}")
    return config, with_data


def load_model(run: Path) -> MultitaskBert:
    """The best model of a run; if it has none yet, the model of its newest checkpoint.

    Raises: UsageError if there is neither; CheckpointError for files that cannot be used.
    """
    folder = model_folder(run)
    if (folder / "heads.json").is_file():
        return MultitaskBert.from_pretrained(folder)
    if not (newest := load_latest(run / "checkpoints")):
        found, advice = "none" if run.is_dir() else "no such folder", "check the path"
        if is_run(run):
            found, advice = "none yet", "wait for its first checkpoint"
        elif (run / "config.json").is_file():
            found, advice = "a plain BERT", "train it first"
        raise UsageError(f"{run}: expected best/heads.json or a checkpoint in it; found {found}; {advice}")
    (path, tensors, _), (config, tasks) = newest, read_run(run)
    say(f"no best model yet: taking checkpoint {path.name}")
    model = MultitaskBert.from_pretrained(config["checkpoint"], list(tasks.values()), config["heads"])
    if config["lora"]:
        add_low_rank(model.bert, config["lora"])
    weights = tensors.get("model", {}) | tensors.get("heads", {})
    check_fit(model.state_dict(), weights, path, advice="copy the run's config.json back")
    model.load_state_dict(weights)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("run", type=Path, help="a run's folder, or a model's (built-in tasks alone)")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="the course's csv files (default: the run's own)")
    parser.add_argument("--tasks", type=names, metavar="A,B", help="which of the run's tasks (default: all)")
    parser.add_argument("--split", choices=("dev", "test", "all"), default="dev", help="what to predict (default: dev)")
    parser.add_argument("--report", action="store_true", help="a page on each task's dev: mix-ups, calibration")
    parser.add_argument(
        "--predictions_dir", type=Path, metavar="DIR", help="for the files (default: RUN/predictions; none for a model)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: %(default)s)")
    parser.add_argument("--amp", choices=PRECISIONS, help="the precision (default: the run's)")
    args = parser.parse_args(argv)
    if args.report and args.split == "test":
        raise UsageError("--report: expected --split dev or all; found test, whose labels are never read; take one")
    folder = args.run.resolve()
    if folder.name == "best" and (folder / "heads.json").is_file() and is_run(folder.parent):
        args.run = folder.parent  # it says which tasks and data the model is of
    lockable = any((args.run / name).is_dir() for name in ("best", "checkpoints")) and os.access(args.run, os.W_OK)
    with lock(args.run) if lockable else nullcontext():  # a run that is training there replaces its model
        evaluate(args)


def evaluate(args: Namespace) -> None:
    """Call it with args.run locked, if possible."""
    model = load_model(args.run)
    config, with_data = read_run_with_data(args.run, model)
    tasks = choose_tasks(args.tasks or list(with_data), with_data, task_file=False)
    data_dir = Path(args.data_dir or config["data_dir"] or find_data_dir(tasks)[0])
    split_names = ("dev", "test") if args.split == "all" else (args.split,)
    splits = read_splits(tasks, split_names, data_dir, config["seed"])
    if not any(splits.values()):
        found = ", ".join(task.name for task in tasks)
        raise UsageError(f"--split {args.split}: expected a task with a file for it; found none for {found}")
    out = predictions_folder(args, is_model="task_definitions" not in config)
    all_splits = [split for by_task in splits.values() for split in by_task.values()]
    warnings = [line for split in all_splits for line in split.warnings]
    for split in all_splits:
        if config["data"].get(split.title, split.contents) != split.contents:
            warnings.append(f"{split.path}: not the rows that the run had")
            if out.resolve() == (args.run / "predictions").resolve():
                lost = f"its own predictions in {out} would be lost"
                raise UsageError(f"{warnings[-1]}; {lost}; give another folder as --predictions_dir")
    for line in dict.fromkeys(warnings):
        say(f"warning: {line}")
    device = resolve_device(args.device)
    amp = resolve_precision(args.amp or config["machine"]["precision"], device)
    pages: list[str] = []
    metrics = predict_and_score(model.to(device), splits, amp, out, pages if args.report else None)
    say(f"predictions: {out}")
    if metrics:
        folders = dict.fromkeys(split.path.parent for split in splits["dev"].values())
        places = [f"{'embedded synthetic sample in ' * (folder == SAMPLE_DIR)}{folder}" for folder in folders]
        step = step_of_best(model_folder(args.run))
        weights = "" if step is None else f", weights of step {step}"
        texts = [f"dev of {', '.join(places)}{weights}:\n{report(metrics)}", *pages]
        print(printable("\n\n".join(texts)))


def predictions_folder(args: Namespace, is_model: bool) -> Path:
    """--predictions_dir, else predictions/ of the run. Raises UsageError or DiskError where nothing may be written."""
    if is_model and not args.predictions_dir:
        reason = f"{args.run} is a model, which may be shared, and readable/ has rows of the data"
        raise UsageError(f"--predictions_dir: expected a folder, for {reason}; found none; give one")
    out = args.predictions_dir or args.run / "predictions"
    for folder in (out.resolve(), out.resolve().parent):
        if folder != args.run.resolve() and is_run(folder):
            raise UsageError(f"--predictions_dir: {out} is of another run, {folder}; choose another folder")
    check_own(out, READABLE)
    if not args.predictions_dir:
        check_own(args.run, out.name)
    check_space(out, 0, option="--predictions_dir")
    return out


if __name__ == "__main__":
    sys.exit(run_cli(main))
