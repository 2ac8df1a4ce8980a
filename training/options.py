"""The options of a run: declared here, in heads/config.py and in heads/losses.py; checked and frozen by `parse`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from data import find_data_dir
from data.task_file import load as load_task_file
from data.tasks import LEADERBOARD, TASKS, Task, by_task, choose_tasks
from heads.config import HeadsConfig
from heads.files import read_heads
from heads.kinds import KINDS
from heads.losses import LossSettings
from optim.surgery import SURGERIES
from runtime.device import DTYPES
from runtime.errors import UsageError, nearest
from runtime.settings import (
    OptionParser,
    by_name,
    names,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    rate,
    setting,
)

DESCRIPTION = """Train one BERT on several tasks at once.

    python train_multitask.py --option finetune --strategy gs                   # gradient surgery
    python train_multitask.py --option finetune --strategy mtl                  # the plain sum of the losses
    python train_multitask.py --option finetune --strategy single --tasks sst   # one task
    python train_multitask.py --task_file my.toml                               # tasks of your own

Data: --data_dir, else the course files where `python -m data.download` has put them, else the embedded synthetic
sample. A run's folder holds config.json, log.jsonl, metrics.json, checkpoints/, best/ and predictions/.
"""


free = partial(setting, may_change=True)  # when a run goes on: the weights do not depend on it
DEVICES, PRECISIONS = ("auto", "cpu", "cuda"), ("auto", "off", *DTYPES)
GROUPS = {  # first option -> heading in the help
    "option": "what to train",
    "data_dir": "data",
    "epochs": "optimisation",
    "device": "machine",
    "output_dir": "the run's folder",
}


@dataclass(frozen=True)
class Options:
    """A run's options, as `parse` gives them: checked, complete, frozen."""

    option: str = setting(
        "finetune",
        "finetune: everything; pretrain: only what stands on a frozen BERT",
        choices=("finetune", "pretrain"),
    )
    strategy: str = setting(
        "gs", "one task, the sum of the tasks' losses, or gradient surgery", choices=("single", "mtl", "gs")
    )
    surgery: str | None = setting(None, "how gs combines the tasks' gradients (default: pcgrad)", metavar="NAME")
    tasks: tuple[Task, ...] = setting((), "their names (default: sst,para,sts, or the file's)", names, metavar="A,B")
    task_file: Path | None = free(None, "tasks of your own: docs/tasks.md", Path, metavar="TOML")
    checkpoint: str = setting("minilm", "minilm, bert-base-uncased, a folder or a Hub id")
    init_from: Path | None = free(None, "start from an earlier run's best weights, heads included", Path, metavar="RUN")

    data_dir: Path | None = free(None, "the course's files (default: the downloaded ones, else the sample)", Path)
    predictions_dir: Path | None = free(None, "for prediction files (default: predictions/ in the run's folder)", Path)

    epochs: int | None = setting(
        None, "passes over the longest task's rows (default: 2, or as many as make 200 steps)", positive_int
    )
    max_steps: int | None = setting(None, "at most so many; the learning rate then falls over these", positive_int)
    batch_size: Mapping[str, int] = setting(
        None, "rows of a task in a batch (default: the task's)", by_name(positive_int), metavar="N|A=N,B=N"
    )
    grad_accum: int = setting(1, "batches of each task a step", positive_int)
    lr: float = setting(1e-4, "peak learning rate", positive_float)
    warmup: float = setting(0.1, "share of the steps that it rises in", rate)
    weight_decay: float = setting(0.01, "of matrices", non_negative_float)
    max_grad_norm: float = setting(1.0, "of all gradients together, after surgery", positive_float)
    loss_scale: Mapping[str, float] = setting(
        None, "what a task's loss is multiplied by (default: the task's)", by_name(positive_float), metavar="X|A=X,B=X"
    )
    patience: int = setting(0, "end after so many evaluations without a better score; 0: never", non_negative_int)

    device: str = setting("auto", "where to compute", choices=DEVICES)
    amp: str = setting("auto", "the encoder's precision; auto: the fastest that the device has", choices=PRECISIONS)
    seed: int = setting(0, "of every random draw", non_negative_int)
    deterministic: bool = setting(False, "refuse the GPU operations whose result may vary", bool)

    output_dir: Path | None = free(None, "default: runs/OPTION-STRATEGY, with the tasks where not the usual", Path)
    resume: str = free(
        "never", "go on from the newest checkpoint, or from that one: those after it then go", metavar="auto|never|PATH"
    )
    allow_change: tuple[str, ...] = free((), "options that may differ on resuming", names, metavar="NAME,NAME")
    overwrite: bool = free(False, "move a run that the folder holds to FOLDER.old", bool)
    save_every: int = free(500, "steps between two checkpoints", positive_int)
    eval_every: int | None = setting(None, "steps between evaluations on dev (default: an epoch)", positive_int)
    log_every: int = free(50, "steps from line to line", positive_int)
    dry_run: bool = free(False, "check everything, take two steps, say how long it takes, leave nothing", bool)
    debug: bool = free(False, "show the traceback of an error", bool)

    heads: HeadsConfig = HeadsConfig()
    losses: LossSettings = LossSettings()
    data_name: str = ""  # of the data, for people

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def as_json(self, all_of_them: bool = True) -> dict[str, Any]:
        """Every option by name as JSON has it; or only those that the weights depend on."""
        values = {}
        for part in (self, self.heads, self.losses):
            for field in fields(part):
                if "word" in field.metadata and (all_of_them or not field.metadata["may_change"]):
                    value = getattr(part, field.name)
                    values[field.name] = str(value) if isinstance(value, Path) else value
        definitions = [task.to_json(files=all_of_them) for task in self.tasks]
        return values | {"tasks": self.task_names, "task_definitions": definitions}


def build_parser() -> OptionParser:
    parser = OptionParser(DESCRIPTION)
    parser.add_settings(Options, GROUPS)
    parser.add_settings(HeadsConfig, {"arch": "model"})
    parser.add_settings(LossSettings, {"para_loss": "losses"})
    return parser


def parse(argv: Sequence[str] | None = None) -> Options:
    """The command line's words -> options. Raises UsageError or DataError, before anything large is read."""
    given = vars(build_parser().parse_args(argv))
    of_heads = {field.name: given.pop(field.name) for field in fields(HeadsConfig) if field.name in given}
    of_losses = {field.name: given.pop(field.name) for field in fields(LossSettings) if field.name in given}
    known = TASKS | (load_task_file(given["task_file"], KINDS) if "task_file" in given else {})
    tasks = choose_tasks(given.pop("tasks", None), known)
    options = Options(**given, losses=LossSettings(**of_losses))
    out = options.output_dir or default_output_dir(options, tasks)
    options = replace(
        options,
        tasks=tasks,
        surgery=options.surgery or ("pcgrad" if options.strategy == "gs" else None),
        allow_change=tuple(name.replace("-", "_") for name in options.allow_change),
        batch_size=by_task("batch_size", options.batch_size, tasks, known),
        loss_scale=by_task("loss_scale", options.loss_scale, tasks, known),
        output_dir=out,
        predictions_dir=options.predictions_dir or out / "predictions",
        **data_place(options, tasks),
    )
    check_options(options)
    return with_source(options, of_heads, "checkpoint" in given)


def default_output_dir(options: Options, tasks: Sequence[Task]) -> Path:
    chosen = [task.name for task in tasks]
    return Path("runs") / "-".join([options.option, options.strategy, *(chosen if chosen != list(LEADERBOARD) else [])])


def data_place(options: Options, tasks: Sequence[Task]) -> dict[str, Any]:
    """Where the course's files are, and what to call the data in a header."""
    folder, name = find_data_dir(tasks)
    name = f"{name} in {folder}" if options.data_dir is None else str(options.data_dir)
    names = [str(options.task_file)] if any(task.folder for task in tasks) else []
    names += [name] if any(task.folder is None for task in tasks) else []
    return {"data_dir": options.data_dir or folder, "data_name": " and ".join(names)}


def check_options(options: Options) -> None:
    """What options mean together."""
    strategy, chosen = options.strategy, ",".join(options.task_names)
    if strategy == "single" and len(options.tasks) != 1:
        raise UsageError(f"--strategy single: expected one task; found {chosen}; name it with --tasks")
    if strategy != "single" and len(options.tasks) == 1:
        raise UsageError(f"--strategy {strategy}: expected two tasks or more; found {chosen}; or --strategy single")
    if options.surgery and strategy != "gs":
        raise UsageError(f"--surgery {options.surgery}: belongs to --strategy gs; found --strategy {strategy}")
    if options.surgery not in (None, *SURGERIES):
        near = nearest(options.surgery, SURGERIES)
        raise UsageError(f"--surgery: expected one of {', '.join(SURGERIES)}; found {options.surgery!r}{near}")
    if options.overwrite and options.resume != "never":
        raise UsageError(
            f"--overwrite: moves what --resume {options.resume} would go on from; take one of the two"
        )
    keys = [task.metric_key(metric) for task in options.tasks for metric in KINDS[task.kind].metrics]
    keys += [f"{a}-{b}" for a, b in combinations(options.task_names, 2)]  # in the log
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(f"--tasks: expected names that stay apart in the metrics; found {key} twice; rename one")
    known = options.as_json()
    for name in options.allow_change:
        if name not in known:
            raise UsageError(f"--allow_change: expected the name of an option; found {name!r}{nearest(name, known)}")


def with_source(options: Options, asked: dict[str, Any], names_checkpoint: bool) -> Options:
    """The options with what training starts from, and the heads' settings as asked for, as there, or the defaults."""
    source, usual = Path(options.checkpoint), HeadsConfig()
    if options.init_from is not None:
        if names_checkpoint:
            raise UsageError("--checkpoint: --init_from names the weights; take one of the two")
        source = options.init_from / "best" if (options.init_from / "best").is_dir() else options.init_from
        stored = read_heads(source)
        if stored is None:
            raise UsageError(f"--init_from: expected a run's folder; {options.init_from} holds no best/heads.json")
        usual, options = stored[0], replace(options, checkpoint=str(source))
    elif (source / "heads.json").is_file():
        raise UsageError(f"--checkpoint: {source} holds trained heads; take --init_from, or a plain BERT")
    if options.overwrite and source.exists() and source.resolve().is_relative_to(options.output_dir.resolve()):
        raise UsageError(f"--overwrite: {source} lies in what it moves away; choose another --output_dir")
    if asked.get("arch") == "v1":
        asked.setdefault("pooling", "cls")
    return replace(options, heads=replace(usual, **asked))
