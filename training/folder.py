"""A run's folder: what it holds, whether that belongs to this run, and what may be written."""

from contextlib import suppress
from pathlib import Path

import torch

from bert import BertConfig, BertModel
from bert.hub import resolve
from data.tasks import Task
from runtime.errors import CheckpointError, UsageError
from runtime.files import check_own, check_space, clean, read_json
from training.options import Options

# Bytes on disk for each weight, at most: two checkpoints and one that is being written, each with the weight and two
# moments of AdamW; and best/, twice while it is replaced.
DISK = 4 * (3 * 3 + 2)
READABLE = "readable"  # the folder of mistakes, beside the prediction files
MARKS = ("config.json", "log.jsonl", "metrics.json", "best")  # a folder with any of these is in use


def is_run(folder: Path) -> bool:
    """Whether the folder's config.json is a run's: a plain model's folder has one too."""
    with suppress(CheckpointError):
        return "task_definitions" in read_json(folder / "config.json")
    return False


def marks(out: Path) -> list[str]:
    """Those of MARKS that the folder holds. Raises UsageError where a file or folder in it is a link or a pipe."""
    check_own(out, *MARKS, "checkpoints", "predictions", f"predictions/{READABLE}")
    return [name for name in MARKS if (out / name).exists()]


def sweep(out: Path) -> None:
    """Remove what killed processes left. For prediction files this is done when they are written."""
    clean(out, "best", "dry-run", r"(config|metrics)\.json")
    clean(out / "best", r"README\.md")
    clean(out / "checkpoints", r"step-\d+")


def prediction_file(folder: Path, task: Task, split: str) -> Path:
    return folder / f"{task.name}-{split}-output.csv"


def prediction_files(options: Options) -> list[Path]:
    """The prediction files that a run will write. Raises UsageError where one of them exists and is another run's."""
    out, folder, is_own = options.output_dir, options.predictions_dir.resolve(), options.overwrite
    splits = {"dev"} if options.no_test else {"dev", "test"}
    files = [prediction_file(folder, task, name) for task in options.tasks for name in task.splits if name in splits]
    if options.resume != "never":
        stored = read_json(out / "config.json").get("predictions_dir") if is_run(out) else None
        is_own = folder.is_relative_to(out.resolve()) or stored == str(folder)
    if not is_own and (existing := [str(path) for path in files if path.exists()]):
        raise UsageError(f"--predictions_dir: {existing[0]} is of another run; take --overwrite or another folder")
    return files


def check_output_space(options: Options) -> None:
    """Raise DiskError where the disk lacks room for what the run needs, less what its folder holds already."""
    config = BertConfig.from_json(resolve(options.checkpoint) / "config.json")
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in BertModel(config).parameters())
    files = [p for name in ("checkpoints", "best") for p in (options.output_dir / name).rglob("*") if p.is_file()]
    used = 0 if options.overwrite else sum(path.stat().st_size for path in files)
    check_space(options.output_dir, DISK * weights - used)
    check_space(options.predictions_dir, 0, option="--predictions_dir")
