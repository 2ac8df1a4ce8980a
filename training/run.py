"""A run put together, saved and resumed: model, rows, optimiser and the numbers that change while training.

The one file of this room that knows the others: bert, heads, optim and data stand below it, train_multitask.py above.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bert.checkpoint import check_fit
from bert.errors import CheckpointError
from data.batches import BatchStream
from data.reader import Split
from data.tasks import TASKS, DataError
from heads.losses import LossSettings, PreviousBatch
from heads.multitask import HeadsConfig, MultitaskBert, TaskBatch
from optim import AdamW
from optim.task_gradients import TaskGradients
from training import checkpoint, precision
from training.errors import CheckpointError as RunCheckpointError
from training.errors import DivergedError, UsageError
from training.files import new_folder
from training.seeds import seeded

Splits = dict[str, dict[str, Split]]  # "train" | "dev" | "test" -> task -> the file's rows

MOMENTS = ("exp_avg", "exp_avg_sq", "touched")  # AdamW's tensors
STORED = ("progress", "scaler", "options", "data")  # the keys of a checkpoint's state.json

EPOCHS, MIN_STEPS = 2, 200  # of a run without --epochs: small data are gone through more often than twice

# Options that change neither the weights nor which of them are the best; they may differ when a run goes on.
FREE = {"output_dir", "predictions_dir", "data_dir", "data_name", "init_from", "resume", "allow_change", "overwrite"}
FREE |= {"save_every", "log_every", "dry_run", "debug"}


class TrainingSet:
    """A task's rows as token ids, and their endless, seeded stream of batches."""

    def __init__(self, split: Split, model: MultitaskBert, batch_size: int, seed: int):
        self.task, self.examples, self.tokenizer = split.task, split.examples, model.tokenizer
        sides = zip(*(example.texts for example in split.examples), strict=True)
        self.sides = [self.tokenizer.ids(list(side), max_length=model.max_length) for side in sides]
        lengths = [max(map(len, row)) for row in zip(*self.sides, strict=True)]
        self.stream = BatchStream(lengths, batch_size, seed, self.task)
        self.tokens_a_batch = sum(len(ids) for side in self.sides for ids in side) / self.stream.batches_per_epoch

    def micro_batches(self, step: int, grad_accum: int, parts: int = 1) -> list[TaskBatch]:
        """What a step takes of this task: `grad_accum` batches of the stream, each cut into `parts`; on the CPU."""
        batches = [self.stream[position] for position in range(step * grad_accum, (step + 1) * grad_accum)]
        cut = [(rows, math.ceil(len(rows) / parts)) for rows in batches]
        return [self.batch(rows[i : i + size]) for rows, size in cut for i in range(0, len(rows), size)]

    def batch(self, rows: list[int]) -> TaskBatch:
        """These rows, by their numbers in the file."""
        tokens = self.tokenizer.pad([side[row] for side in self.sides for row in rows])
        examples = [self.examples[row] for row in rows]
        dtype = torch.int64 if self.task == "sst" else torch.float32
        labels = torch.tensor([example.label for example in examples], dtype=dtype)
        return TaskBatch(tokens, labels, [example.id for example in examples])


@dataclass
class State:
    """What changes while training, besides tensors."""

    step: int = 0  # steps taken
    updates: int = 0  # of the optimiser: steps less those skipped for an infinite gradient
    skipped_in_a_row: int = 0
    best_score: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    seconds: float = 0.0  # of steps and evaluations
    parts: int = 1  # that each batch is cut into, once memory has run out
    surgeries: int = 0
    conflicts: dict[str, int] = field(default_factory=dict)  # "sst-para" -> surgeries where their cosine was negative

    @classmethod
    def from_stored(cls, stored: dict, path: Path) -> State:
        """From a checkpoint's JSON. Raises CheckpointError where a name or a kind of value is another."""
        if stored.keys() != asdict(cls()).keys():
            raise CheckpointError(f"{path}: another version's state; resume with the version that wrote it")
        kinds = {"best_score": (float, type(None)), "seconds": (float,), "conflicts": (dict,)}
        conflicts = stored["conflicts"] if isinstance(stored["conflicts"], dict) else {}
        for name, value in (*stored.items(), *conflicts.items()):
            if type(value) not in kinds.get(name, (int,)):  # not isinstance, which takes true for a number
                raise CheckpointError(f"{path}: expected another kind of value as {name}; found {value!r:.100}")
        return cls(**stored)


class Run:
    """Everything that training needs. Every random draw is a function of (seed, purpose, position): none is stored."""

    def __init__(self, args: Namespace, config: HeadsConfig, splits: Splits):
        self.args, self.splits, self.state = args, splits, State()
        self.device = precision.resolve_device(args.device)
        self.amp = precision.resolve(args.amp, self.device)
        self.scaler = precision.make_scaler(self.amp)
        try:
            with seeded(args.seed, "heads"):
                self.model = MultitaskBert.from_pretrained(args.checkpoint, config).to(self.device)
        except CheckpointError:
            raise
        except ValueError as error:  # a setting of the heads that this encoder, or --init_from, does not fit
            raise UsageError(f"--{error}") from None
        self.model.train()
        if args.option == "pretrain":
            self.model.bert.requires_grad_(False).eval()  # a frozen encoder gives its plain features, without dropout
        self.shared = [parameter for parameter in self.model.shared_parameters() if parameter.requires_grad]
        if args.strategy == "gs" and not self.shared:
            raise UsageError(
                f"--strategy gs: with --option pretrain, {config.arch} trains nothing that tasks share; take mtl"
            )
        words = self.model.bert.embeddings.word  # half of minilm's weights, of which a step touches a few hundred rows:
        words.sparse = True  # gradients without the zeros
        surgical = self.shared if args.strategy == "gs" else []
        self.gradients = TaskGradients(list(splits["train"]), surgical, sparse=[words.weight])
        self.optimizer = AdamW(self._groups(), lr=args.lr, weight_decay=args.weight_decay)
        self.settings = LossSettings(args.para_loss, args.sts_gamma, args.cosine_margin, args.triplet_margin)
        self.previous = PreviousBatch()
        self.best_on_dev: tuple[dict, dict] | None = None  # metrics and predictions, where this process found the best
        self.last_good: int | None = None  # the step of the checkpoint that was written or read last
        self.damaged: set[int] = set()  # the steps of those that could not be read: they stay, for people to look at
        self.sets = {
            task: TrainingSet(split, self.model, args.batch_size[task], args.seed)
            for task, split in splits["train"].items()
        }
        longest = max(self.sets.values(), key=lambda rows: len(rows.examples))
        self.steps_an_epoch = math.ceil(longest.stream.batches_per_epoch / args.grad_accum)
        if args.epochs is None:
            args.epochs = max(EPOCHS, math.ceil(MIN_STEPS / self.steps_an_epoch))
        self.total_steps = min(self.steps_an_epoch * args.epochs, args.max_steps or math.inf)
        self.warmup_steps = min(int(self.total_steps * args.warmup), self.total_steps - 1)

    def _groups(self) -> list[dict]:
        """Matrices are decayed; biases and LayerNorm's gains are not."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return [
            {"params": [parameter for parameter in trained if parameter.dim() > 1]},
            {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
        ]

    def micro_batches(self, step: int) -> Iterator[tuple[dict[str, TaskBatch], dict[str, float]]]:
        """What a step goes through: batches by task, on the device, and the share that each has in its task's rows.

        Shares make one batch of a task's micro-batches, whatever their sizes; a task with fewer is absent in the last.
        """
        accum, parts = self.args.grad_accum, self.state.parts
        cut = {task: rows.micro_batches(step, accum, parts) for task, rows in self.sets.items()}
        rows = {task: sum(len(batch.ids) for batch in batches) for task, batches in cut.items()}
        for micro in range(max(map(len, cut.values()))):
            batches = {task: found[micro].to(self.device) for task, found in cut.items() if micro < len(found)}
            yield batches, {task: len(batch.ids) / rows[task] for task, batch in batches.items()}

    @property
    def finished(self) -> bool:
        stopped_early = 0 < self.args.patience <= self.state.evaluations_since_best
        return self.state.step >= self.total_steps or stopped_early

    # ---- saving ------------------------------------------------------------------------------------------------------

    def tensors(self) -> checkpoint.Tensors:
        """The tensors of a checkpoint, by file and name."""
        moments = {}
        for name, parameter in self.model.named_parameters():
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                moments[f"{name}.{kind}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return {
            "model": {f"bert.{name}": value for name, value in self.model.bert.state_dict().items()},
            "heads": self.model.head_state(),
            "optimizer": moments,
            "triplets": {} if self.previous.vectors is None else {"vectors": self.previous.vectors},
        }

    def stored_state(self) -> dict:
        """The numbers of a checkpoint, with what a resumed run must agree with."""
        return {
            "progress": asdict(self.state),
            "scaler": self.scaler.state_dict(),
            "options": self.options(),
            "data": self.fingerprints(),
        }

    def options(self) -> dict:
        """The options that the weights depend on, as JSON gives them back; of "auto", what it came to."""
        named = {**vars(self.args), "amp": self.amp, "device": self.device.type}
        return json.loads(json.dumps({name: value for name, value in named.items() if name not in FREE}))

    def fingerprints(self) -> dict[str, str]:
        """sha256 of the train and dev files: what the weights and the choice of the best depend on."""
        splits = [*self.splits["train"].values(), *self.splits["dev"].values()]
        return {split.path.name: split.fingerprint for split in splits}

    def save(self, stopping: bool = False) -> None:
        """Write a checkpoint. One that is not the last may fail for want of space: the next will be tried.

        Raises: DivergedError, and nothing is written, where a weight is not finite; DiskError for the last.
        """
        self._check_weights()
        folder = self.args.output_dir / "checkpoints"
        # The one before stays, for a fault to fall back to: not the newest there, which may be a damaged one.
        keep = {self.state.best_step, *self.damaged} | ({self.last_good} - {None})
        try:
            checkpoint.save(folder, self.state.step, self.tensors(), self.stored_state(), keep)
            self.last_good = self.state.step
        except OSError as error:
            if stopping or self.finished:
                raise
            print(f"warning: no checkpoint at step {self.state.step}: {error}", file=sys.stderr)

    def export_best(self, step: int | None = None) -> None:
        """best/: the model as it is now, for this program, transformers and sentence-transformers; and of which step.

        Args:   step: None for this one.
        Raises: DivergedError, and nothing is written, where a weight is not finite; DiskError.
        """
        self._check_weights()
        with new_folder(self.args.output_dir / "best") as folder:
            self.model.save(folder)
            (folder / "step.json").write_text(json.dumps({"step": step or self.state.step}) + "\n", encoding="utf-8")

    def _check_weights(self) -> None:
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                raise DivergedError(
                    f"expected finite weights; found others in {name} at step {self.state.step}; "
                    "lower --lr; the last checkpoint stands"
                )

    # ---- resuming ----------------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Put the newest checkpoint in place, or the one that --resume names; False where there is none to resume."""
        args, folder = self.args, self.args.output_dir / "checkpoints"
        if args.resume == "never":
            return False
        if args.resume == "auto":
            found = checkpoint.load_latest(folder, STORED)
            if found is None and (args.output_dir / "metrics.json").is_file():
                raise UsageError(
                    f"--resume auto: {args.output_dir} holds a finished run without a checkpoint; "
                    "take --overwrite or another --output_dir"
                )
            if found is None:
                print(f"--resume auto: no checkpoint in {folder}; starting from the beginning", file=sys.stderr)
                return False
            path, tensors, stored = found
        else:
            path = Path(args.resume)
            if path.resolve().parent != folder.resolve():
                there = ", ".join(other.name for other in checkpoint.saved(folder)) or "none"
                raise UsageError(
                    f"--resume: expected auto, never or a checkpoint in {folder}, where there are: {there}; "
                    f"found {path}; to start from another run take --init_from"
                )
            tensors, stored = checkpoint.load(path, STORED)
        self._check_same(stored)
        self.restore(path, tensors, stored)
        if args.resume == "auto":
            steps = map(checkpoint.step_of, checkpoint.saved(folder))
            self.damaged = {step for step in steps if step > self.state.step}
        return True

    def _check_same(self, stored: dict) -> None:
        """Raise where the run was started with other options or other data."""
        allowed = self.args.allow_change
        before, now = stored["options"], self.options()
        changed = [name for name in now if before.get(name) != now[name] and name not in allowed]
        if changed:
            told = "; ".join(f"--{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed)
            raise UsageError(f"--resume: the run was started with other options: {told}; or --allow_change NAME")
        files, there = stored["data"], self.fingerprints()
        other = sorted(name for name in {*files, *there} if files.get(name) != there.get(name))
        if other and "data_dir" not in allowed:
            raise DataError(
                f"--resume: {', '.join(other)} in {self.args.data_dir}: not the files that the run was started with; "
                "bring those back, or --allow_change data_dir"
            )

    def rebuild_best(self) -> None:
        """best/ anew, from the best step's checkpoint: what lies there may be of a later step, to be made again.

        Where that checkpoint cannot be read, best/ stands if it is of the best step, or else is to be found anew.
        """
        state, best = self.state, self.args.output_dir / "best"
        if state.best_step == 0:
            return
        path = checkpoint.path_of(best.parent / "checkpoints", state.best_step)
        try:
            tensors, _ = checkpoint.read(path, STORED)
        except RunCheckpointError as error:
            with suppress(OSError, ValueError, AttributeError):
                if json.loads((best / "step.json").read_text(encoding="utf-8")).get("step") == state.best_step:
                    return
            print(f"warning: {error}; the best model so far is lost, the next evaluation counts", file=sys.stderr)
            state.best_score, state.best_step = None, 0
            return
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(tensors["model"] | tensors["heads"])
        self.export_best(state.best_step)
        self.model.load_state_dict(weights)

    def restore(self, path: Path, tensors: checkpoint.Tensors, stored: dict) -> None:
        """Tensors and numbers of a checkpoint, bit for bit. Raises CheckpointError, with nothing changed."""
        if tensors.keys() != self.tensors().keys():
            raise CheckpointError(f"{path}: another version's files; resume with the version that wrote it")
        state = State.from_stored(stored["progress"], path)
        scaler = self.scaler.state_dict()  # empty where it is not in use; one that now is begins anew
        if stored["scaler"] and scaler and stored["scaler"].keys() != scaler.keys():
            raise CheckpointError(f"{path}: expected {', '.join(scaler)} as scaler; found {stored['scaler']!r:.100}")
        weights = tensors["model"] | tensors["heads"]
        advice = "take the checkpoint of a run with these options"
        check_fit(self.model.state_dict(), weights, path, advice=advice)
        moments = tensors["optimizer"]
        steps = {name: value for name, value in moments.items() if name.endswith(".step")}
        values = {name: value for name, value in moments.items() if name not in steps}
        expected = self._moments_like(values)
        check_fit(expected, values, path, advice=advice)
        if steps.keys() != {name.replace(".exp_avg", ".step") for name in expected if name.endswith(".exp_avg")}:
            raise CheckpointError(f"{path}: expected a count of steps for each of AdamW's moments; {advice}")
        self.model.load_state_dict(weights)
        for name, parameter in self.model.named_parameters():
            if f"{name}.step" in moments:
                kinds = [kind for kind in MOMENTS if f"{name}.{kind}" in moments]
                self.optimizer.state[parameter] = {
                    "step": int(moments[f"{name}.step"]),
                    **{kind: moments[f"{name}.{kind}"].to(self.device) for kind in kinds},
                }
        vectors = tensors["triplets"].get("vectors")
        self.previous.vectors = None if vectors is None else vectors.to(self.device)
        if stored["scaler"]:
            self.scaler.load_state_dict(stored["scaler"])
        self.state = state
        self.last_good = self.state.step

    def _moments_like(self, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the shapes that the moments of each parameter must have, where it has any."""
        expected = {}
        for name, parameter in self.model.named_parameters():
            if any(f"{name}.{kind}" in moments for kind in MOMENTS):
                expected |= {f"{name}.exp_avg": parameter, f"{name}.exp_avg_sq": parameter}
            if f"{name}.touched" in moments:
                expected[f"{name}.touched"] = parameter.reshape(len(parameter), -1)[:, 0]
        return expected


def score(metrics: dict[str, float | None], tasks: list[str]) -> float | None:
    """What early stopping and the best model go by: the mean of the trained tasks' main metrics; None if undefined."""
    values = [metrics[TASKS[task].metric] for task in tasks]
    return None if None in values else sum(values) / len(values)
