"""A run put together, saved and resumed: model, rows, optimiser and the numbers that change while training.

Every random draw is a function of (seed, purpose, position), so a checkpoint stores no generator.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bert.checkpoint import check_fit
from data.reader import Split, read
from data.tasks import SPLITS
from heads import MultitaskBert
from heads.losses import PreviousBatch
from heads.rows import TaskBatch, TaskRows
from optim import AdamW, TaskGradients
from optim.surgery import SURGERIES
from optim.weighing import Fixed
from runtime import device as devices
from runtime.errors import CheckpointError, DataError, DivergedError, UsageError, say, stop_signals
from runtime.files import new_folder
from runtime.seeds import seeded
from training import checkpoint
from training.options import Options

STORED = ("progress", "optimizer", "scaler", "surgery", "weighing", "options", "data")  # the keys of state.json
EPOCHS, MIN_STEPS = 2, 200  # of a run without --epochs: small data are gone through more often than twice


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
    conflicts: dict[str, int] = field(default_factory=dict)  # "a-b" -> surgeries where their cosine was negative


class Session:
    """Everything that training needs, made from the options; nothing is written before the first step is taken."""

    def __init__(self, options: Options):
        self.options, self.state, seed = options, State(), options.seed
        self.splits: dict[str, dict[str, Split]] = {  # "train" | "dev" | "test" -> task -> its rows
            name: {t.name: read(t, name, options.data_dir, seed) for t in options.tasks if name in t.splits}
            for name in SPLITS
        }
        self.device = devices.resolve_device(options.device)
        self.amp = devices.resolve_precision(options.amp, self.device)
        self.scaler = devices.make_scaler(self.amp)
        with seeded(seed, "heads"):
            model = MultitaskBert.from_pretrained(options.checkpoint, options.tasks, options.heads)
        self.model = model.to(self.device).train()
        if options.option == "pretrain":
            self.model.bert.requires_grad_(False).eval()  # a frozen encoder gives its plain features, without dropout
        self.surgery = SURGERIES[options.surgery]() if options.surgery else None
        shared = [p for p in self.model.shared_parameters() if p.requires_grad and self.surgery]
        if self.surgery and not shared:
            arch = self.model.config.arch
            raise UsageError(f"--strategy gs: with --option pretrain, {arch} trains nothing that tasks share; take mtl")
        words = self.model.bert.embeddings.word  # half of minilm's weights, of which a step touches a few hundred rows:
        words.sparse = True  # gradients without the zeros
        self.gradients = TaskGradients(options.task_names, shared, sparse=[words.weight])
        self.weigh = Fixed(options.loss_scale)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        matrices = {"params": [parameter for parameter in trained if parameter.dim() > 1]}
        vectors = {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0}
        self.optimizer = AdamW([matrices, vectors], lr=options.lr, weight_decay=options.weight_decay)
        self.previous = {task.name: PreviousBatch() for task in options.tasks if task.contrastive}
        self.rows = {
            task.name: TaskRows(
                task,
                self.splits["train"][task.name],
                self.model.tokenizer,
                self.model.max_length,
                options.batch_size[task.name],
                seed,
            )
            for task in options.tasks
        }
        longest = max(self.rows.values(), key=lambda rows: len(rows.examples))
        self.steps_an_epoch = math.ceil(longest.stream.batches_per_epoch / options.grad_accum)
        epochs = options.epochs or max(EPOCHS, math.ceil(MIN_STEPS / self.steps_an_epoch))
        self.total_steps = min(self.steps_an_epoch * epochs, options.max_steps or math.inf)
        self.warmup_steps = min(int(self.total_steps * options.warmup), self.total_steps - 1)
        self.last_step = self.total_steps  # that this process takes
        self.resumed = False
        self.last_good: int | None = None  # the step of the checkpoint that was written or read last
        self.best_saved: tuple[float | None, int] = (None, 0)  # the best that has a checkpoint: its score and step
        self.damaged: set[int] = set()  # the steps of those that could not be read: they stay, for people to look at

    # ---- going through the steps -------------------------------------------------------------------------------------

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to take, from 0. A signal lets the step end and be saved; then SystemExit."""
        with stop_signals() as self.stop:
            self.stopping = self.stop.number
            while not self.finished and not self.stopping:
                yield self.state.step
            if self.stop.number:  # also one that came while the last step was saved
                if self.state.best_step:  # the run can go on, and its best model so far can be used
                    self.export_best()
                say(f"stopped; step {self.state.step} is saved; go on with the same command and --resume auto")
                raise SystemExit(128 + self.stop.number)

    @property
    def folder(self) -> Path:
        """Of the checkpoints."""
        return self.options.output_dir / "checkpoints"

    @property
    def finished(self) -> bool:
        stopped_early = 0 < self.options.patience <= self.state.evaluations_since_best
        return self.state.step >= self.last_step or stopped_early

    def is_due(self, every: int | None) -> bool:
        """Whether the step just taken is one of each `every` (None: an epoch's steps), or the last."""
        return self.state.step % (every or self.steps_an_epoch) == 0 or self.state.step == self.last_step

    def micro_batches(self, step: int) -> Iterator[tuple[dict[str, TaskBatch], dict[str, float]]]:
        """What a step goes through: batches by task, on the device, and the share that each has in its task's rows.

        Shares make one batch of a task's micro-batches, whatever their sizes; a task with fewer is absent in the last.
        """
        accum, parts = self.options.grad_accum, self.state.parts
        cut = {name: rows.micro_batches(step, accum, parts) for name, rows in self.rows.items()}
        rows = {name: sum(len(batch.ids) for batch in batches) for name, batches in cut.items()}
        for micro in range(max(map(len, cut.values()))):
            batches = {name: parts[micro].to(self.device) for name, parts in cut.items() if micro < len(parts)}
            yield batches, {name: len(batch.ids) / rows[name] for name, batch in batches.items()}

    def end_step(self) -> None:
        """The step's sentence vectors are the next one's negatives."""
        for previous in self.previous.values():
            previous.end_step()

    def forget_step(self) -> None:
        """Drop what a step has computed so far: it is made anew."""
        self.optimizer.zero_grad()
        self.gradients.forget()
        for previous in self.previous.values():
            previous.pending.clear()

    # ---- saving ------------------------------------------------------------------------------------------------------

    def save_if_due(self, evaluated: bool) -> None:
        """Write a checkpoint after an evaluation, each --save_every steps, and where a signal asks the run to end.

        One that is not the last may fail for want of space: the next will be tried.
        Raises: DivergedError, and nothing is written, where a weight is not finite; DiskError for the last.
        """
        state = self.state
        self.stopping = self.stop.number  # read once: a signal that comes after this line lets one more step be made
        if not (evaluated or self.stopping or self.is_due(self.options.save_every)):
            return
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                raise DivergedError(
                    f"expected finite weights; found others in {name} at step {state.step}; "
                    "lower --lr; the last checkpoint stands"
                )
        # The one before stays, for a fault to fall back to: not the newest there, which may be a damaged one.
        keep = {state.best_step, *self.damaged} | ({self.last_good} - {None})
        try:
            checkpoint.save(self.folder, state.step, self.tensors(), self.stored_state(), keep)
            self.last_good, self.best_saved = state.step, (state.best_score, state.best_step)
        except OSError as error:
            if self.stopping or self.finished:
                raise
            state.best_score, state.best_step = self.best_saved
            say(f"warning: no checkpoint at step {state.step}: {error}")

    def tensors(self) -> checkpoint.Tensors:
        """The tensors of a checkpoint, by file and name."""
        moments = self.optimizer.state_dict()["state"]
        return {
            "model": {f"bert.{name}": value for name, value in self.model.bert.state_dict().items()},
            "heads": self.model.head_state(),
            "optimizer": {f"{i}.{k}": v for i, state in moments.items() for k, v in state.items() if k != "step"},
            "triplets": {name: store.vectors for name, store in self.previous.items() if store.vectors is not None},
        }

    def stored_state(self) -> dict:
        """The numbers of a checkpoint, with what a resumed run must agree with."""
        return {
            "progress": asdict(self.state),
            "optimizer": {str(i): state["step"] for i, state in self.optimizer.state_dict()["state"].items()},
            "scaler": self.scaler.state_dict(),
            "surgery": self.surgery.state_dict() if self.surgery else {},
            "weighing": self.weigh.state_dict(),
            "options": self.fixed_options(),
            "data": self.fingerprints(),
        }

    def fixed_options(self) -> dict:
        """The options that the weights depend on, as JSON gives them back; of "auto", what it came to."""
        fixed = self.options.as_json(all_of_them=False) | {"amp": self.amp, "device": self.device.type}
        return json.loads(json.dumps(fixed))

    def fingerprints(self) -> dict[str, str]:
        """Rows and sha256 of the train and dev files: what the weights and the choice of the best depend on."""
        return {
            f"{name} of {split.task}: {split.path.name}": f"{len(split.examples)} rows, sha256 {split.fingerprint}"
            for name in ("train", "dev")
            for split in self.splits[name].values()
        }

    def export_best(self) -> None:
        """Put the best step's weights into the model, and write them to best/, in the layout of heads/files.py.

        Where no evaluation had a defined score, or the best step's checkpoint is damaged, these are the last ones.
        """
        step = self.state.best_step or self.state.step
        if step != self.state.step:
            with stop_signals() as stop:  # a library in C may turn our exception into one of a damaged file
                try:
                    tensors, _ = checkpoint.read(checkpoint.path_of(self.folder, step))
                    self.model.load_state_dict(tensors["model"] | tensors["heads"])
                except CheckpointError as error:
                    say(f"warning: {error}; the best model is lost, the last one takes its place")
                    self.state.best_step = step = self.state.step
            if stop.number:
                raise SystemExit(128 + stop.number)
        with new_folder(self.options.output_dir / "best") as folder:
            self.model.save(folder)
            (folder / "step.json").write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")

    # ---- resuming ----------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Put the newest checkpoint in place, or the one that --resume names; `resumed` says whether there was one."""
        options, folder = self.options, self.folder
        if options.resume == "never":
            return
        if options.resume == "auto":
            newest = checkpoint.load_latest(folder)
            if newest is None and (options.output_dir / "metrics.json").is_file():
                raise UsageError(
                    f"--resume auto: {options.output_dir} holds a finished run without a checkpoint; "
                    "take --overwrite or another --output_dir"
                )
            if newest is None:
                return say(f"--resume auto: no checkpoint in {folder}; starting from the beginning")
            path, tensors, stored = newest
        else:
            path = Path(options.resume)
            if path.resolve().parent != folder.resolve():
                raise UsageError(
                    f"--resume: expected auto, never or a checkpoint in {folder}; found {path}; "
                    "to start from another run take --init_from"
                )
            tensors, stored = checkpoint.load(path)
        self.restore(path, tensors, stored)
        say(f"resumed from {path}: step {self.state.step} of {self.total_steps}")
        if options.resume == "auto":
            steps = map(checkpoint.step_of, checkpoint.saved(folder))
            self.damaged = {step for step in steps if step > self.state.step}

    def restore(self, path: Path, tensors: checkpoint.Tensors, stored: dict) -> None:
        """Tensors and numbers of a checkpoint, bit for bit.

        Raises: UsageError or DataError for another run's; CheckpointError where they do not fit; nothing is changed.
        """
        advice = "take the checkpoint of a run with these options, or the version that wrote it"
        if stored.keys() != set(STORED):
            raise CheckpointError(f"{path}: expected {', '.join(STORED)}; found {', '.join(stored)}; {advice}")
        self.check_same(stored)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        try:
            state, weights = State(**stored["progress"]), tensors["model"] | tensors["heads"]
            moments: dict[int, dict] = {int(index): {"step": step} for index, step in stored["optimizer"].items()}
            expected = {}
            for name, value in tensors["optimizer"].items():
                index, _, kind = name.partition(".")
                moments[int(index)][kind] = value
                weight = trained[int(index)]
                expected[name] = weight.new_empty(weight.shape[: value.dim()])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: a state that does not fit this run ({error!r}); {advice}") from None
        check_fit(self.model.state_dict(), weights, path, advice=advice)
        check_fit(expected, tensors["optimizer"], path, advice=advice)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        for name, previous in self.previous.items():
            vectors = tensors["triplets"].get(name)
            previous.vectors = None if vectors is None else vectors.to(self.device)
        for part, saved in ((self.surgery, "surgery"), (self.weigh, "weighing"), (self.scaler, "scaler")):
            if part and stored[saved]:
                part.load_state_dict(stored[saved])
        self.state, self.last_good, self.best_saved = state, state.step, (state.best_score, state.best_step)
        self.resumed = True

    def check_same(self, stored: dict) -> None:
        """Raise where the run was started with other options or other data."""
        before, now, allowed = stored["options"], self.fixed_options(), self.options.allow_change
        changed = [name for name in now if before.get(name) != now[name] and name not in allowed]
        if changed:
            differences = "; ".join(f"--{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed)
            raise UsageError(
                f"--resume: the run was started with other options: {differences}; "
                f"take those, or --allow_change {','.join(changed)}"
            )
        files, there = stored["data"], self.fingerprints()
        other = sorted(name for name in {*files, *there} if files.get(name) != there.get(name))
        if other and "data_dir" not in allowed:
            raise DataError(
                f"--resume: {', '.join(other)}: not the files that the run was started with; "
                "bring those back, or --allow_change data_dir"
            )
