"""Metrics on dev and prediction files for dev and test, from a trained run.

python evaluate.py runs/x                       # dev metrics on stdout, prediction files into runs/x/predictions
python evaluate.py runs/x --split all --data_dir DIR --predictions_dir DIR
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import pearsonr

from data import find_data_dir
from data.reader import Split, read
from data.tasks import TASKS
from heads import MultitaskBert
from heads.multitask import UndefinedOutput
from training import precision
from training.errors import DivergedError, UsageError, run_cli
from training.files import check_space, disk_errors, write_atomic
from training.options import OptionParser

# ---- metrics ---------------------------------------------------------------------------------------------------------


def accuracy(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """Share of rows that agree; None for no rows."""
    return float(np.mean(predictions == gold)) if len(gold) else None


def f1(predictions: np.ndarray, gold: np.ndarray, positive: int) -> float | None:
    """2 TP / (2 TP + FP + FN) of one class; None where the class stands neither in gold nor in predictions."""
    hits = np.sum((predictions == positive) & (gold == positive))
    told = np.sum(predictions == positive) + np.sum(gold == positive)
    return float(2 * hits / told) if told else None


def macro_f1(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """The plain mean of the classes' F1, over the classes that stand in gold or predictions; None for no rows."""
    classes = np.union1d(predictions, gold)
    return float(np.mean([f1(predictions, gold, c) for c in classes])) if len(classes) else None


def pearson(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """Pearson's r; None where either side is constant."""
    if len(gold) < 2 or np.ptp(predictions) == 0 or np.ptp(gold) == 0:
        return None
    return float(pearsonr(predictions.astype(np.float64), gold.astype(np.float64)).statistic)


def exact_match(predictions: np.ndarray, gold: np.ndarray) -> float | None:
    """EM: share of rows where prediction and gold, each rounded to the nearest integer (halves up), agree."""
    predictions = predictions.astype(np.float64)  # in float32, 0.49999997 + 0.5 would be 1
    return accuracy(np.floor(predictions + 0.5), np.floor(gold + 0.5))


def task_metrics(task: str, predictions: Sequence[float], gold: Sequence[float]) -> dict[str, float | None]:
    """One task's metrics, each a share in [0, 1] or r in [-1, 1]; None = not defined on these rows."""
    predictions, gold = np.asarray(predictions), np.asarray(gold)
    if task == "sst":
        return {"sst_acc": accuracy(predictions, gold), "sst_f1": macro_f1(predictions, gold)}
    if task == "para":
        return {"para_acc": accuracy(predictions, gold), "para_f1": f1(predictions, gold, positive=1)}
    return {"sts_pearson": pearson(predictions, gold), "sts_em": exact_match(predictions, gold)}


def leaderboards(metrics: dict[str, float | None]) -> dict[str, float | None]:
    """`average` (2023): the mean of sst_acc, para_acc, sts_pearson. `overall_2024`: the same with (r + 1) / 2 for r."""
    sst, para, r = metrics["sst_acc"], metrics["para_acc"], metrics["sts_pearson"]
    if None in (sst, para, r):
        return {"average": None, "overall_2024": None}
    return {"average": (sst + para + r) / 3, "overall_2024": (sst + para + (r + 1) / 2) / 3}


UNDEFINED = {  # why a metric is None
    "para_f1": "neither a label nor a prediction is 1",
    "sts_pearson": "the predictions or the labels are all the same",
    "average": "a metric in it is not defined",
    "overall_2024": "a metric in it is not defined",
}


def undefined(metrics: dict[str, float | None]) -> dict[str, str]:
    """The reason for each metric that is None."""
    return {name: UNDEFINED.get(name, "no row has a label") for name, value in metrics.items() if value is None}


# ---- predictions -----------------------------------------------------------------------------------------------------


def predict_split(model: MultitaskBert, split: Split, amp: str = "off") -> np.ndarray:
    """Every row's prediction, in file order, rows without a label or with an empty sentence among them: (N,)

    Raises DivergedError for one that is no finite number.
    """
    sides = zip(*(example.texts for example in split.examples), strict=True)
    try:
        return model.predict(split.task, *(list(side) for side in sides), amp=amp)
    except UndefinedOutput as error:
        raise DivergedError(
            f"{error}: {split.examples[error.row].id} of {split.path}; "
            "train with a lower --lr, take --amp off or an earlier model"
        ) from None


def evaluate_dev(model: MultitaskBert, dev: dict[str, Split], amp: str = "off") -> tuple[dict, dict[str, np.ndarray]]:
    """All metrics over the rows that have a label, with both leaderboards' averages; and the predictions by task."""
    predictions = {task: predict_split(model, split, amp) for task, split in dev.items()}
    metrics: dict[str, float | None] = {}
    for task, split in dev.items():
        rows = [row for row, example in enumerate(split.examples) if example.label is not None]
        gold = [split.examples[row].label for row in rows]
        metrics |= task_metrics(task, predictions[task][rows], gold)
    return metrics | leaderboards(metrics), predictions


def prediction_text(task: str, ids: Sequence[str], predictions: np.ndarray) -> str:
    """The text of a leaderboard file: `id \\t HEADER \\n`, then `ID , VALUE \\n`, numbers unrounded, `.` decimal."""
    values = [repr(float(p)) if task != "sst" else str(int(p)) for p in predictions]
    return TASKS[task].prediction_header + "".join(f"{i} , {v} \n" for i, v in zip(ids, values, strict=True))


def write_predictions(folder: Path, task: str, name: str, split: Split, predictions: np.ndarray) -> Path:
    """Write one leaderboard file; its text is checked as a grader would read it, before it replaces an old one."""
    ids = [example.id for example in split.examples]
    text = prediction_text(task, ids, predictions)
    check_predictions(text, task, ids)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / TASKS[task].prediction_file.format(split=name)
    write_atomic(path, text)
    return path


def check_predictions(text: str, task: str, ids: Sequence[str]) -> None:
    """Read a prediction file's text as a strict grader would. Raises ValueError, with the line, for anything else than
    the header and each id once, in order, with a value in the task's range."""
    header, *rows = text.splitlines(keepends=True)
    if header != TASKS[task].prediction_header:
        raise ValueError(f"{task}: expected the header {TASKS[task].prediction_header!r}; found {header!r}")
    if len(rows) != len(ids):
        raise ValueError(f"{task}: expected {len(ids)} rows; found {len(rows)}")
    for line, (row, name) in enumerate(zip(rows, ids, strict=True), start=2):
        value = row.removeprefix(f"{name} , ").removesuffix(" \n")
        if row != f"{name} , {value} \n" or not is_prediction(task, value):
            raise ValueError(f"{task}:{line}: expected '{name} , VALUE ' with a value of this task; found {row!r}")


def is_prediction(task: str, value: str) -> bool:
    """Whether a file's value is one of the task's: 0 to 4; 0.0 or 1.0; a number in [0, 5]."""
    if task == "sts":
        return re.fullmatch(r"\d(\.\d+)?(e-\d+)?", value, re.ASCII) is not None and float(value) <= 5
    return value in (("0", "1", "2", "3", "4") if task == "sst" else ("0.0", "1.0"))


# ---- command line ----------------------------------------------------------------------------------------------------


def report(metrics: dict[str, float | None]) -> str:
    """The metrics as lines of text, for people."""
    reasons = {name: f"not defined: {why}" for name, why in undefined(metrics).items()}
    return "\n".join(f"  {name:<14}{reasons.get(name) or f'{value:.4f}'}" for name, value in metrics.items())


def build_parser() -> OptionParser:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder, or a folder with a saved model")
    parser.add_argument("--data_dir", type=Path, help="folder with the course's csv files (default: the run's own)")
    parser.add_argument("--split", choices=("dev", "test", "all"), default="dev", help="what to predict (default: dev)")
    parser.add_argument("--predictions_dir", type=Path, help="where the files go (default: RUN/predictions)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--amp", choices=("auto", "off", "bf16", "fp16"), help="the encoder's precision (default: the run's, else auto)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    folder = args.run / "best" if (args.run / "best").is_dir() else args.run
    if not (folder / "heads.json").is_file():
        raise UsageError(f"{args.run}: expected a run's folder with best/heads.json; found none; train one first")
    config = run_config(args.run)
    data_dir = args.data_dir or (Path(config["data_dir"]) if "data_dir" in config else find_data_dir()[0])
    names = ("dev", "test") if args.split == "all" else (args.split,)
    splits = {name: {task: read(task, name, data_dir) for task in TASKS} for name in names}
    for warning in [warning for by_task in splits.values() for split in by_task.values() for warning in split.warnings]:
        print(f"warning: {warning}", file=sys.stderr)
    device = precision.resolve_device(args.device)
    amp = precision.resolve(args.amp or usual_precision(config, device), device)
    out = args.predictions_dir or args.run / "predictions"
    check_space(out, 0, option="--predictions_dir")
    model = MultitaskBert.from_pretrained(folder).to(device)
    for name, by_task in splits.items():
        if name == "dev":
            metrics, predictions = evaluate_dev(model, by_task, amp)
            print(f"dev of {data_dir}\n{report(metrics)}")
        else:
            predictions = {task: predict_split(model, split, amp) for task, split in by_task.items()}
        for task, split in by_task.items():
            path = write_predictions(out, task, name, split, predictions[task])
            print(f"wrote {path}", file=sys.stderr)
    longest, cut = model.tokenizer.longest, model.tokenizer.truncated
    print(f"texts: up to {longest} tokens, {cut} cut to {model.max_length}", file=sys.stderr)
    return 0


def run_config(run: Path) -> dict:
    """What the run's config.json tells; nothing where there is none that can be read."""
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) and isinstance(config.get("data_dir"), str) else {}


def usual_precision(config: dict, device: torch.device) -> str:
    """The precision that the run was trained in, where this device has it: the same predictions come again."""
    try:
        name = config["machine"]["precision"]
        return precision.resolve(name if name in ("off", *precision.DTYPES) else "auto", device)
    except (KeyError, TypeError, UsageError):
        return "auto"


if __name__ == "__main__":
    sys.exit(run_cli(main))
