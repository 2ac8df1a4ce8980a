"""Build and save a run: model, rows, optimiser and the numbers that change while training.

Every random draw is a function of (seed, purpose, position), so a checkpoint stores no generator.
"""

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from bert import precision
from bert.lora import add_low_rank
from data.reader import fingerprints, read_splits
from data.tasks import SPLITS
from heads import MultitaskBert
from heads.losses import PreviousStep
from heads.rows import TaskBatch, TaskRows, step_batches
from optim import AdamW, TaskGradients
from optim.adamw import decayed_matrices, packed
from optim.shards import Shards
from optim.surgery import SURGERIES
from optim.weighing import WEIGHINGS
from runtime.errors import CheckpointError, DataError, DivergedError, UsageError, say, stop_signals
from runtime.files import new_folder, read_json
from runtime.ranks import ALONE, World
from runtime.seeds import generator, seeded
from runtime.settings import built
from training import checkpoint
from training.options import Options


@dataclass
class State:
    """What changes while training, besides tensors."""

    step: int = 0  # steps taken
    updates: int = 0  # of the optimiser: steps without those skipped for an infinite gradient
    skipped_in_a_row: int = 0
    best_score: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    seconds: float = 0.0  # of steps and evaluations
    evaluations: int = 0
    evaluation_seconds: float = 0.0
    log_size: int = 0  # bytes of the log
    parts: int = 1  # how many each batch is cut into, after memory ran out
    processes: int = 1  # how many took the last step
    surgeries: int = 0
    conflicts: dict[str, int] = field(default_factory=dict)  # "a-b" -> surgeries where their cosine was negative


class Session:
    """Everything that training needs, made from the options. Nothing is written before the first step is taken."""

    def __init__(self, options: Options, world: World = ALONE):
        self.options, self.world, self.state = options, world, State(processes=world.size)
        self.out, seed = options.output_dir, options.seed
        names = SPLITS[:2] if options.no_test else SPLITS
        self.splits = {"test": {}} | read_splits(options.tasks, names, options.data_dir, seed)  # by split and task
        self.device = precision.resolve_device(options.device)
        self.amp = precision.resolve_precision(options.amp, self.device)
        self.scaler = precision.make_scaler(self.amp)
        with seeded(seed, "heads"):
            model = MultitaskBert.from_pretrained(options.checkpoint, options.tasks, options.heads)
        if options.bert_dropout_prob is not None:
            model.bert.set_dropout(options.bert_dropout_prob)
        if options.lora:
            with seeded(seed, "lora"):
                add_low_rank(model.bert, options.lora)
        self.model = model.to(self.device).train()
        if options.option == "pretrain":
            self.model.bert.requires_grad_(False).eval()  # a frozen encoder gives its plain features, without dropout
        self.surgery = built("--surgery", SURGERIES, options.surgery) if options.surgery else None
        for name in self.model.tasks.keys() - {*options.task_names}:
            self.model.heads[name].requires_grad_(False)
        self.weigh = built("--weigh", WEIGHINGS, options.weigh, options.loss_scale)
        self.make_optimizer()
        self.previous = PreviousStep()
        train, tokenizer, max_length = self.splits["train"], self.model.tokenizer, self.model.max_length
        self.rows = {
            task.name: TaskRows(task, train[task.name], tokenizer, max_length, options.batch_size[task.name], seed)
            for task in options.tasks
        }
        rows = {name: len(task_rows.examples) for name, task_rows in self.rows.items()}
        self.steps_an_epoch, self.total_steps = options.steps(rows)
        self.eval_every = options.eval_every or self.usual_eval_every()
        self.warmup_steps = min(int(self.total_steps * options.warmup), self.total_steps - 1)
        self.last_step = self.total_steps  # the last one that this process takes
        self.last_good = 0  # step of the last checkpoint that was read or written; 0: none yet
        self.damaged: set[int] = set()  # steps of unreadable checkpoints, which stay for people to look at

    def make_optimizer(self) -> None:
        """Make the task gradients, the shards and AdamW, for the model's weights as they are now."""
        options, model, world = self.options, self.model, self.world
        self.trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        shared = [p for p in model.shared_parameters() if p.requires_grad and self.surgery]
        if self.surgery and not shared:
            arch = model.config.arch
            raise UsageError(f"--strategy gs: with --option pretrain, {arch} trains nothing that tasks share; take mtl")
        words = model.bert.embeddings.word  # half of minilm's weights, of which a step touches a few hundred rows:
        words.sparse = self.device.type == "cpu"  # sparse gradients leave out the zeros; a GPU is faster with them
        sparse = [words.weight] * words.sparse
        self.gradients = TaskGradients(options.task_names, shared, sparse, world)
        others = [p for p in self.trained.values() if p not in self.gradients.rows]
        self.unshared = Shards(others, sparse, world)  # the parameters whose gradients are plain sums over tasks
        self.shards = [self.gradients.shards, self.unshared]
        pieces = {parameter: piece for shards in self.shards for parameter, piece in shards.pieces.items()}
        self.pieces = [pieces[p] for p in self.trained.values() if p in pieces]  # the pieces that this process updates
        groups = [
            group | {"lr_scale": 1 if part is model.bert else options.head_lr_scale}
            for part in model.children()
            for group in decayed_matrices(part, options.weight_decay)
        ]
        for group in groups:
            group["params"] = [pieces[p] for p in group["params"] if p in pieces]
        self.optimizer = AdamW(groups, lr=options.lr)

    @property
    def evaluation_in_steps(self) -> float:
        """An evaluation's time in training steps, if training on a text takes as long as predicting eight."""
        options, dev = self.options, self.splits["dev"]
        read = sum(len(task.texts) * len(dev[task.name].examples) for task in options.tasks)
        trained = sum(len(task.texts) * options.batch_size[task.name] for task in options.tasks) * options.grad_accum
        return read / trained / 8

    def usual_eval_every(self) -> int:
        """The default of --eval_every: evaluations take a tenth of the time, but are 1 to 4 an epoch."""
        times = min(4, max(1, int(0.1 * self.steps_an_epoch / self.evaluation_in_steps)))
        return max(math.ceil(self.steps_an_epoch / times), min(self.steps_an_epoch, 100))

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the steps to take, from 0. A signal lets the step end and be saved; then SystemExit."""
        dry_run, go_on = self.options.dry_run, f"go on with: {self.options.command}"
        with stop_signals(
            first="finishing this step or evaluation, then saving it; Ctrl-C again stops at once" * (not dry_run),
            again=lambda: f"the steps after {self.last_good} are lost; {go_on}" * (not dry_run),
        ) as self.stop:
            self.stopping = self.signal()
            while not self.finished and not self.stopping:
                yield self.state.step
            if number := self.signal():  # also one that came while the last step was saved
                saved = f"stopped and saved at step {self.state.step} of {self.total_steps}; {go_on}"
                say("stopped; nothing was left" if dry_run else saved)
                raise SystemExit(128 + number)
            if self.state.step < self.last_step:
                count = self.state.evaluations_since_best
                say(f"ended at step {self.state.step} of {self.last_step}: {count} evaluations without a better score")

    def signal(self) -> int:
        """The number of a rank's first signal; 0 where no rank has had one."""
        return next(filter(None, self.world.gather(self.stop.number)), 0)

    @property
    def finished(self) -> bool:
        return self.state.step >= self.last_step or 0 < self.options.patience <= self.state.evaluations_since_best

    def is_due(self, every: int) -> bool:
        """Whether the number of steps taken is a multiple of `every`, or the last."""
        return self.state.step % every == 0 or self.state.step == self.last_step

    def micro_batches(self, step: int) -> Iterator[tuple[dict[str, TaskBatch], dict[str, float]]]:
        """This process's micro-batches of a step: see step_batches in heads/rows.py."""
        return step_batches(self.rows, step, self.options.grad_accum, self.state.parts, self.device, self.world.own)

    def dropout(self, step: int, micro: int) -> AbstractContextManager:
        """A context for a micro-batch: its dropout has draws of its own, different on each rank."""
        return seeded(self.options.seed, "dropout", step, micro * self.world.size + self.world.rank)

    def losses_of(self, step: int) -> dict[str, float]:
        """The losses of a step's rows, not weighed, with the model as it is now and the dropout of that step.

        Not under no_grad: without gradients rows are packed in another way, and so dropout would draw others.
        Raises: DivergedError where one is not finite.
        """
        losses, previous = dict.fromkeys(self.rows, 0.0), PreviousStep()
        previous.vectors = self.previous.vectors
        for micro, (batches, shares) in enumerate(self.micro_batches(step)):
            draws = generator(self.options.seed, "negatives", step)
            with self.dropout(step, micro), precision.autocast(self.device, self.amp):
                batch_losses = self.model.losses(batches, self.options.losses, previous, draws)
            for name, loss in batch_losses.items():
                losses[name] += loss.item() * shares[name]
        (losses,) = self.world.total(losses)
        for name, loss in losses.items():
            if not math.isfinite(loss):
                found = f"expected a finite loss; found {loss} for {name} after step {step + 1}"
                raise DivergedError(f"{found}; lower --lr; the last checkpoint stands")
        return losses

    def gather_weights(self) -> None:
        """Give every rank the weights that the others have moved."""
        for shards in self.shards:
            shards.gather_weights()

    def forget_step(self) -> None:
        """Drop what a step has computed so far, before it is tried again."""
        self.model.zero_grad()
        self.gradients.forget()
        self.previous.pending.clear()

    def save_best(self, score: float) -> None:
        """Write best/, in the layout of heads/files.py: the model as it is now, the best so far.

        Where that fails the step's checkpoint is kept, and best/ is made from it at the run's end.
        """
        self.best_before = self.state.best_score, self.state.best_step
        self.state.best_score, self.state.best_step = score, self.state.step
        with self.saving("best model"):
            self.world.on_rank_0(self.write_best)

    def write_best(self) -> None:
        with new_folder(self.out / "best") as folder:
            self.model.save(folder)
            (folder / "step.json").write_text(json.dumps({"step": self.state.best_step}) + "\n", encoding="utf-8")

    def complete_best(self) -> None:
        """Write a missing best/ at the run's end: from the best step's checkpoint, else from the last weights."""
        score, step, path = None, self.state.step, self.checkpoint_of(self.state.best_step)
        if path.is_dir():
            try:
                tensors, _ = checkpoint.load(path)
                self.model.load_state_dict(tensors["model"] | tensors["heads"])
                score, step = self.state.best_score, self.state.best_step
            except CheckpointError as error:
                say(f"warning: {error}; best/ is made of the last weights")
        self.state.best_score, self.state.best_step = score, step
        self.write_best()

    def checkpoint_of(self, step: int) -> Path:
        return checkpoint.path_of(self.out / "checkpoints", step)

    def save_if_due(self, evaluated: bool) -> None:
        """Write a checkpoint after an evaluation, each --save_every steps, and where a signal asks the run to end."""
        step = self.state.step
        self.stopping = self.signal()  # read once: a signal after this line allows one more step
        if evaluated or self.stopping or self.is_due(self.options.save_every):
            # The last good checkpoint stays to fall back to; the newest in the folder may be damaged.
            in_place_of_best = set() if self.best_stands else {self.state.best_step}
            keep = self.damaged | in_place_of_best | {self.last_good}
            tensors, folder = self.tensors(), self.out / "checkpoints"
            with self.saving("checkpoint", must=self.stopping or self.finished):
                self.world.on_rank_0(lambda: checkpoint.save(folder, step, tensors, self.numbers(), keep))
                self.last_good = step
            if step in in_place_of_best and self.last_good != step:  # neither was written: the best before still stands
                self.state.best_score, self.state.best_step = self.best_before

    @contextmanager
    def saving(self, what: str, must: bool = False) -> Iterator[None]:
        """A context for writing: where the disk is full the run goes on with a warning, and the next write is tried.

        Raises: DivergedError, with nothing written, where a weight is not finite; with `must`, DiskError.
        """
        step = self.state.step
        if infinite := [name for name, weight in self.model.named_parameters() if not weight.isfinite().all()]:
            found = f"expected finite weights; found others in {infinite[0]} at step {step}"
            raise DivergedError(f"{found}; lower --lr; the last checkpoint stands")
        try:
            yield
        except OSError as error:
            if must:
                raise
            say(f"warning: no {what} at step {step}: {error}")

    def tensors(self) -> checkpoint.Tensors:
        """The tensors of a checkpoint, by file and name; each whole, even where several processes hold its parts."""
        states = {p: state for shards in self.shards for p, state in shards.whole_state(self.optimizer.state).items()}
        moments = {name: packed(states[p]) for name, p in self.trained.items() if p in states}
        return {
            "model": {f"bert.{name}": value for name, value in self.model.bert.state_dict().items()},
            "heads": self.model.head_state(),
            "optimizer": {f"{weight}:{kind}": x for weight, state in moments.items() for kind, x in state.items()},
            "triplets": self.previous.vectors,
        }

    def numbers(self) -> dict:
        """The rest of a checkpoint, as JSON gives it back: numbers, and the options and data of the run."""
        numbers = {
            "progress": asdict(self.state),
            "scaler": self.scaler.state_dict(),
            "surgery": self.surgery.state_dict() if self.surgery else {},
            "weighing": self.weigh.state_dict(),
            "options": self.options.as_json(all_of_them=False) | {"amp": self.amp, "device": self.device.type},
            "data": self.fingerprints(),
        }
        return json.loads(json.dumps(numbers))

    def check_ranks(self) -> None:
        """Raise, on all ranks, where their data, versions or first weights differ, or two of them share a GPU."""
        if self.world.size > 1 and self.device.type == "cuda":
            gpus = self.world.gather(str(torch.cuda.get_device_properties(self.device).uuid))
            if len({*gpus}) < len(gpus):  # NCCL refuses that only at the first exchange
                found = f"found {len({*gpus})} for {len(gpus)} processes; take fewer, or --device cpu"
                raise UsageError(f"--device: expected a GPU for each process; {found}")
        self.world.check_same(self.fingerprints, DataError)
        weights = self.model.state_dict().items()
        self.world.check_same(lambda: versions() | {name: sha256_of(weight) for name, weight in weights})

    def fingerprints(self, names: Iterable[str] = ("train", "dev")) -> dict[str, str]:
        """Rows and sha256 of these splits' files: the weights and the choice of the best depend on train and dev."""
        return fingerprints(self.splits[name] for name in names)

    @property
    def best_stands(self) -> bool:
        """Whether best/ names the best step as its own."""
        return step_of_best(self.out / "best") == self.state.best_step


def versions() -> dict[str, str]:
    """Versions of Python and the libraries that a run's numbers depend on."""
    names = ("torch", "numpy", "scipy", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def sha256_of(weight: Tensor) -> str:
    return hashlib.sha256(weight.detach().cpu().numpy().tobytes()).hexdigest()


def step_of_best(folder: Path) -> int | None:
    """The step that a run's best/ names, or None."""
    with suppress(CheckpointError):
        return read_json(folder / "step.json").get("step")
