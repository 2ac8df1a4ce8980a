"""The options of a run: declared here, in heads/config.py and in heads/losses.py; checked and frozen by `parse`."""

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

from bert.precision import DEVICES, PRECISIONS
from data import find_data_dir
from data.task_file import load as load_task_file
from data.tasks import ALL, PAIRS, TASKS, Task, by_name, by_task, choose_tasks, names
from heads.config import HeadsConfig
from heads.files import model_folder, read_heads
from heads.kinds import KINDS
from heads.losses import LossSettings
from optim.surgery import SURGERIES
from optim.weighing import WEIGHINGS
from runtime.errors import UsageError, check_name, program, say
from runtime.settings import OptionParser, built, non_negative, non_negative_int, positive, positive_int, rate, setting

usual = partial(setting, usual=True)  # in the short help
free = partial(setting, may_change=True)  # may differ in a resumed run: the weights do not depend on it
XS = {"metavar": "X|TASK=X,TASK=X"}  # one for all tasks, or by name
N, X, SPEC = {"metavar": "N"}, {"metavar": "X"}, {"metavar": "NAME[:SETTING=X,...]"}
PAIRS_HELP = (
    "siamese: each text of a pair is read by itself; cross: both at once; both: both ways (default: each task's)"
)
LORA_HELP = "train matrices of this rank added to the encoder's, which stay fixed (default: train the encoder's own)"
FRESH_LR = 1e-3  # of weights that start from random ones: heads, LoRA; measured: docs/recipes.md
FROZEN = "with --lora or --option pretrain"  # the encoder's own weights stay
LR_HELP = "the encoder's peak learning rate; the heads have --head_lr_scale times that "
LR_HELP += f"(default: 1e-4; {FROZEN} {FRESH_LR:g} for both)"
HEAD_LR_HELP = f"factor of --lr for all that stands on the encoder (default: 10; {FROZEN} 1)"
DATA_HELP = "folder of the course's files (default: the downloaded ones, else the sample)"
FOLDER_HELP = "the run's folder (default: in runs/, named for what was chosen)"
# First option -> heading in the help
GROUPS = {"option": "training", "data_dir": "data", "epochs": "optimisation", "device": "machine", "output_dir": "run"}
# These may have to change when a run goes on in its default folder, so they are not in that folder's name.
LENGTHS = {"epochs", "max_steps", "patience", "eval_every", "device", "amp", "deterministic"}
# With others a checkpoint's weights do not fit or mean something else, whatever --allow_change says.
NEVER_CHANGE = {"arch", "lora", "tasks", "task_definitions", "pairs", "pooling", "layer", "max_length"}
EPOCHS, MIN_STEPS = 2, 200  # of a run without --epochs: small data get more than two epochs


def strategy(text: str) -> str:
    if text in SURGERIES:
        raise argparse.ArgumentTypeError(f"{text} is a surgery; take --strategy gs --surgery {text}")
    return text


@dataclass(frozen=True)
class Options:
    """A run's options, as `parse` gives them: checked, complete, frozen."""

    option: str = usual("finetune", "what to train; pretrain: only the heads", choices=("finetune", "pretrain"))
    strategy: str = usual("gs", "one task; sum of losses; gradient surgery", strategy, choices=("single", "mtl", "gs"))
    surgery: str | None = setting(None, f"how gs combines gradients: {', '.join(SURGERIES)} (default: pcgrad)", **SPEC)
    weigh: str = setting("fixed", f"how losses are weighed, beside --loss_scale: {', '.join(WEIGHINGS)}", **SPEC)
    tasks: tuple[Task, ...] = usual((), "which tasks (default: sst,para,sts, or the file's)", names, metavar="A,B")
    task_file: Path | None = free(None, "tasks of your own: docs/tasks.md", Path, usual=True, metavar="TOML")
    pairs: Mapping[str, str] = usual(None, PAIRS_HELP, by_name(str), metavar="WAY|TASK=WAY,TASK=WAY")
    lora: int | None = setting(None, LORA_HELP, positive_int, **N)
    bert_dropout_prob: float | None = setting(None, "dropout of BERT (default: its checkpoint's)", rate, **X)
    checkpoint: str = usual("minilm", "minilm, bert-base-uncased, a folder or a Hub id", metavar="SOURCE")
    init_from: Path | None = free(None, "start from a run's best model, heads too", Path, usual=True, metavar="RUN")

    data_dir: Path | None = free(None, DATA_HELP, Path, usual=True, metavar="DIR")
    predictions_dir: Path | None = free(None, "for predictions (default: in the run's folder)", Path, metavar="DIR")
    no_test: bool = free(False, "leave the test files alone: predict dev only", bool)

    epochs: int | None = usual(None, "passes over the longest task (default: 2, at least 200 steps)", positive_int, **N)
    max_steps: int | None = usual(None, "steps at most; the learning rate falls to 0 over these", positive_int, **N)
    batch_size: Mapping[str, int] = usual(None, "rows in a batch (default: each task's)", by_name(positive_int), **XS)
    grad_accum: int = setting(1, "batches of each task that make a step", positive_int, **N)
    lr: float = usual(1e-4, LR_HELP, positive, **X)
    head_lr_scale: float = setting(10, HEAD_LR_HELP, positive, **X)
    warmup: float = setting(0.1, "share of the steps in which the learning rate rises", rate, **X)
    weight_decay: float = setting(0.01, "weight decay of matrices, per unit of learning rate", non_negative, **X)
    max_grad_norm: float = setting(1.0, "most that the norm of all gradients together may be", positive, **X)
    loss_scale: Mapping[str, float] = setting(None, "factor of losses (default: each task's)", by_name(positive), **XS)
    patience: int = setting(0, "end after N evaluations without a better score; 0: never", non_negative_int, **N)

    device: str = usual("auto", "where to compute", choices=DEVICES)
    amp: str = setting("auto", "the encoder's precision; auto: the fastest that the device has", choices=PRECISIONS)
    seed: int = usual(0, "seed of every random draw: order, dropout, fresh heads", non_negative_int, **N)
    deterministic: bool = setting(False, "refuse the GPU operations whose result may vary", bool)

    output_dir: Path | None = free(None, FOLDER_HELP, Path, usual=True, metavar="DIR")
    resume: str = free("never", "go on; auto: from the newest checkpoint", usual=True, metavar="auto|never|PATH")
    allow_change: tuple[str, ...] = free((), "options that may differ on resuming", names, metavar="NAME,NAME")
    overwrite: bool = free(False, "move a run that the folder holds to FOLDER.old", bool, usual=True)
    save_every: int = free(500, "steps between two checkpoints", positive_int, **N)
    eval_every: int | None = usual(None, "steps between evaluations (default: 1 to 4 an epoch)", positive_int, **N)
    log_every: int = free(1, "steps between two lines of log.jsonl", positive_int, **N)
    dry_run: bool = free(False, "check all, take two steps, tell time and disk, leave nothing", bool, usual=True)

    heads: HeadsConfig = HeadsConfig()
    losses: LossSettings = LossSettings()
    data_name: str = ""  # the data's name, for people
    command: str = ""  # the command that resumes the run

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def steps(self, rows: Mapping[str, int]) -> tuple[int, int]:
        """Steps in an epoch (a pass over the longest task), and in the run. rows: how many each task trains on"""
        longest = max(rows, key=rows.get)
        an_epoch = math.ceil(math.ceil(rows[longest] / self.batch_size[longest]) / self.grad_accum)
        epochs = self.epochs or max(EPOCHS, math.ceil(MIN_STEPS / an_epoch))
        return an_epoch, min(an_epoch * epochs, self.max_steps or math.inf)

    def as_json(self, all_of_them: bool = True) -> dict[str, Any]:
        """Options by name, as JSON values: all of them, or only those that the weights depend on."""
        values = vars(self) | vars(self.heads) | vars(self.losses)
        values = {name: values[name] for name in (OPTIONS if all_of_them else FIXED)}
        values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        tasks = [task.to_json(files=all_of_them) for task in self.tasks]
        if not all_of_them:
            tasks = [{key: value for key, value in task.items() if key != "meaning"} for task in tasks]  # for people
        return values | {"tasks": self.task_names, "task_definitions": tasks}

    def shared_by_ranks(self) -> dict[str, Any]:
        """The options that all processes of a run must share: all but paths, which may differ between machines."""
        values = self.as_json() | self.as_json(all_of_them=False)
        if os.path.isdir(self.checkpoint):
            del values["checkpoint"]
        return {name: value for name, value in values.items() if not isinstance(getattr(self, name, None), Path)}


FIELDS = [field for part in (Options, HeadsConfig, LossSettings) for field in fields(part) if field.metadata]
OPTIONS = [field.name for field in FIELDS]
FIXED = [field.name for field in FIELDS if not field.metadata["may_change"]]  # the weights depend on these


def parse(argv: Sequence[str] | None = None, description: str = "") -> Options:
    """The command line's words -> options. Raises UsageError or DataError, before anything large is read."""
    parser = OptionParser(description)
    parser.add_settings(Options, GROUPS)
    parser.add_settings(HeadsConfig, {"arch": "model"})
    parser.add_settings(LossSettings, {"para_loss": "losses"})
    given = vars(parser.parse_args(argv))  # the options on the command line, by name
    del given["debug"]
    name = folder_name(given)
    heads, losses = (
        {field.name: given.pop(field.name) for field in fields(part) if field.name in given}
        for part in (HeadsConfig, LossSettings)
    )
    all_tasks = TASKS | (load_task_file(given["task_file"], KINDS) if "task_file" in given else {})
    tasks = choose_tasks(given.get("tasks"), all_tasks)
    source, source_tasks = model_source(given, heads)
    unsaid = [task.name for task in all_tasks.values() if len(task.texts) == 2 and task.pairs == Task.pairs]
    source_pairs = {task.name: task.pairs for task in source_tasks if task.name in unsaid}
    pairs = given.get("pairs", {})
    tasks = paired(tasks, pairs if ALL in pairs else source_pairs | pairs, all_tasks)
    given |= source
    given |= {"tasks": tasks, "losses": LossSettings(**losses), "pairs": {task.name: task.pairs for task in tasks}}
    given |= {name: by_task(name, given.get(name), tasks, all_tasks) for name in ("batch_size", "loss_scale")}
    if given.get("strategy", Options.strategy) == "gs":
        given.setdefault("surgery", "pcgrad")
    if "lora" in given or given.get("option") == "pretrain":  # the encoder's own weights stay as they are
        given = {"lr": FRESH_LR, "head_lr_scale": 1.0} | given
    if "output_dir" not in given:
        given["output_dir"] = default_folder(name, given)
    given.setdefault("predictions_dir", given["output_dir"] / "predictions")
    folder, data = find_data_dir(tasks)
    data = str(given["data_dir"]) if "data_dir" in given else f"{data} in {folder}"
    sources = {data if task.folder is None else str(given["task_file"]): None for task in tasks}
    command = resume_command(sys.argv[1:] if argv is None else argv)
    options = Options(**{"data_dir": folder, **given}, data_name=" and ".join(sources), command=command)
    check_options(options)
    return options


def paired(tasks: Sequence[Task], pairs: Mapping[str, str], all_tasks: Mapping[str, Task]) -> tuple[Task, ...]:
    """The tasks, with their pairs read in the ways that `pairs` gives by task.

    Raises UsageError where it names a task whose texts are single.
    """
    ways = by_task("pairs", pairs, tasks, all_tasks)
    for name, way in pairs.items():
        check_name("--pairs", PAIRS, way)
        if name in all_tasks and len(all_tasks[name].texts) == 1:
            raise UsageError(f"--pairs: expected tasks of pairs; found {name}, whose texts are single; leave it out")
    return tuple(replace(task, pairs=ways[task.name]) if len(task.texts) == 2 else task for task in tasks)


def folder_name(given: Mapping[str, Any]) -> str:
    """The default folder's name: option, strategy, tasks, and the other options given that the weights depend on,
    without LENGTHS and those of --allow_change."""
    heading = [given.get(name, getattr(Options, name)) for name in ("option", "strategy")]
    left_out = {"option", "strategy", "tasks", *LENGTHS, *given.get("allow_change", ())}
    words = []
    for name in [name for name in FIXED if name in given and name not in left_out]:
        value = Path(given[name]).name if name == "checkpoint" else given[name]
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        words.append(f"{name}={','.join(f'{key}={item}'.lstrip('=') for key, item in pairs)}")
    return re.sub("[^A-Za-z0-9_.,=-]+", "_", "-".join([*heading, *given.get("tasks", ()), *words]))[:200]


def default_folder(name: str, given: Mapping[str, Any]) -> Path:
    """The path runs/NAME. Where a run to resume is not there, print the folders of similar runs.

    Raises: UsageError where several could be meant: the options that --allow_change names are in no folder's name.
    """
    folder, kind = Path("runs", name), "-".join(name.split("-")[:2])
    others = sorted(str(path.parent) for path in Path("runs").glob(f"{kind}*/checkpoints"))
    if given.get("resume") != "auto" or not others:
        return folder
    if given.keys() & {*given.get("allow_change", ())} - LENGTHS and len(others) > 1:
        raise UsageError(f"--resume auto: expected one run; found {', '.join(others)}; name one by --output_dir")
    if not (folder / "checkpoints").is_dir():
        say(f"no run in {folder}; to go on with {' or '.join(others)}, give it as --output_dir")
    return folder


def resume_command(argv: Sequence[str]) -> str:
    """The command that resumes a run which these words started."""
    words, skip = program("train_multitask"), False
    for word in argv:
        name = word.partition("=")[0].replace("-", "_")
        if not skip and name not in ("__resume", "__overwrite"):
            words.append(word)
        skip = name == "__resume" and "=" not in word
    return shlex.join([*words, "--resume", "auto"])


def model_source(given: Mapping[str, Any], heads: dict[str, Any]) -> tuple[dict[str, Any], list[Task]]:
    """The options checkpoint and heads, and the tasks of the model that training starts from.

    heads: the heads' settings that are given; the others are the model's own, or else the defaults.
    """
    stored, source, run = HeadsConfig(), given.get("checkpoint", Options.checkpoint), given.get("init_from")
    tasks: list[Task] = []
    if run and "checkpoint" in given:
        raise UsageError("--checkpoint: --init_from names the weights; take one of the two")
    if run:
        folder = model_folder(run)
        source, stored_heads = str(folder), read_heads(folder)
        if stored_heads is None:
            found = "no best/heads.json in it" if run.is_dir() else "no such folder"
            advice = "check the path, or take --checkpoint for a plain BERT"
            raise UsageError(f"--init_from: expected a run's folder; found {found}: {run}; {advice}")
        stored, tasks = stored_heads
    elif (model_folder(Path(source)) / "heads.json").is_file():
        raise UsageError(f"--checkpoint: {source} holds trained heads; take --init_from, or a plain BERT")
    if heads.get("arch") == "v1":
        heads.setdefault("pooling", "cls")
    return {"checkpoint": source, "heads": replace(stored, **heads)}, tasks


def check_options(options: Options) -> None:
    """Raise UsageError for options that do not go together."""
    for name in ("data_dir", "predictions_dir", "checkpoint"):  # config.json has where they are
        try:
            os.path.realpath(getattr(options, name)).encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"--{name}: expected a path in UTF-8; found {error.object!r}; rename the folder") from None
    strategy, chosen = options.strategy, ",".join(options.task_names)
    if (strategy == "single") != (len(options.tasks) == 1):
        expected, advice = "two tasks or more", "take --strategy single, or name more with --tasks"
        if strategy == "single":
            expected, advice = "one task", "name one of them with --tasks"
        raise UsageError(f"--strategy {strategy}: expected {expected}; found {chosen}; {advice}")
    if options.surgery and strategy != "gs":
        raise UsageError(f"--surgery {options.surgery}: belongs to --strategy gs; found {strategy}; take one")
    for name in ("lora", "bert_dropout_prob"):
        if getattr(options, name) and options.option == "pretrain":  # a dropout of 0 it has anyway
            raise UsageError(f"--{name}: --option pretrain leaves the encoder as it is; take one of the two")
    if options.surgery:
        built("--surgery", SURGERIES, options.surgery)
    built("--weigh", WEIGHINGS, options.weigh, options.loss_scale)
    if options.overwrite and options.resume != "never":
        raise UsageError(f"--overwrite: moves what --resume {options.resume} would go on from; take one of the two")
    replaced = options.output_dir if options.overwrite else options.output_dir / "best"
    sources = [Path(options.checkpoint), *([options.data_dir, options.task_file] if options.overwrite else [])]
    for source in [source for source in sources if source and source.exists()]:
        if source.resolve().is_relative_to(replaced.resolve()):
            option, does = ("--overwrite", "moves away") if options.overwrite else ("--output_dir", "replaces")
            expected = f"expected all that the run starts from outside {replaced}, which it {does}"
            raise UsageError(f"{option}: {expected}; found {source}; take another --output_dir")
    keys = [task.metric_key(metric) for task in options.tasks for metric in KINDS[task.kind].metrics]
    keys += [f"{a}-{b}" for a, b in permutations(options.task_names, 2)]  # in the log
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UsageError(f"--tasks: expected names that stay apart in the metrics; found {twice[0]} twice; rename one")
    for name in options.allow_change:
        check_name("--allow_change", [other for other in options.as_json() if other not in NEVER_CHANGE], name)


def option_text(value: object) -> str:
    """An option's value as text, as on the command line."""
    if isinstance(value, dict):
        return ",".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)
