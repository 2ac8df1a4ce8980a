"""What a run reports: log.jsonl for programs; on stderr, for people, what it is made of and how far it is."""

import json
import sys
from collections.abc import Mapping
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import torch

from data.reader import Split, label_counts, overlaps, token_counts
from data.tasks import Task
from optim.surgery.gramian import cosines
from optim.task_gradients import Conflict
from runtime.errors import say, show
from runtime.files import disk_errors
from training.folder import DISK
from training.session import Session


class RunLog:
    """One JSON object a line, in the file at once, or in its buffer while the disk is full; NaN becomes null.

    size: how many bytes of the file are the run's so far; what a killed process wrote after them is cut off.
    kept: whether anything is written; no other rank than 0 needs the disk for it.
    """

    def __init__(self, path: Path, size: int = 0, kept: bool = True):
        self.path, self.kept = path, kept
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", 1 << 20)  # noqa: SIM115 - closed by close()
        present = path.stat().st_size
        if 0 < present < size:  # a computer that lost its power, say
            present = path.read_bytes().rfind(b"\n") + 1
            say(f"warning: {path}: its last lines before this checkpoint are missing; training does not need them")
        self._file.seek(self._file.truncate(min(size, present)))

    @property
    def size(self) -> int:
        """Bytes so far, including those that wait in memory."""
        return self._file.tell()

    def write(self, record: Mapping[str, Any]) -> None:
        if not self.kept:
            return
        finite = json.loads(json.dumps(record), parse_constant=lambda _: None)
        try:
            self._file.write(json.dumps(finite).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            say(f"warning: {self.path}: not written ({error.strerror}); the line waits in memory")

    def close(self) -> None:
        """Write what waits in memory. Raises DiskError where that still fails."""
        with disk_errors(self.path):
            self._file.close()


def count_conflicts(session: Session, conflict: Conflict, losses: dict[str, float], lr: float) -> dict:
    """Count in session.state how often two tasks conflict, and return what the log says of them.

    That is the cosine of each pair of task gradients, and how much a step on one task helps another. The latter is
    TAG's affinity (Fifty et al. 2021), to first order: a plain step of lr on task i's weighed loss alone lowers task
    j's loss by the share  lr g_i . g_j / l_j.
    """
    if conflict.gramian is None or conflict.problem:
        return {}
    cosine, tasks, state = cosines(conflict.gramian), session.gradients.tasks, session.state
    pairs = {f"{tasks[i]}-{tasks[j]}": cosine[i, j].item() for i, j in combinations(range(len(tasks)), 2)}
    state.surgeries += 1
    for pair, value in pairs.items():
        state.conflicts[pair] = state.conflicts.get(pair, 0) + (value < 0)
    gains = lr * conflict.gramian / torch.tensor([losses[task] for task in tasks])  # (T, T), of i on j
    affinity = {f"{tasks[i]}-{tasks[j]}": gains[i, j].item() for i, j in permutations(range(len(tasks)), 2)}
    return {"cosine": pairs, "affinity": affinity}


def header(session: Session) -> str:
    """Text for people: warnings about the data; then the tasks, the model, the device and the steps of the run."""
    options, by_name, model, config = session.options, session.splits, session.model, session.model.config
    splits = [split for by_task in by_name.values() for split in by_task.values()]
    warnings = [line for split in splits for line in split.warnings]
    for dev in by_name["dev"].values():  # in its own train or another task's: they share an encoder
        if shared := overlaps(by_name["train"].values(), dev):
            warnings.append(f"{dev.title}: texts that are in {shared} too; its scores flatter")
    lines = [f"warning: {line}" for line in dict.fromkeys(warnings)]  # once for tasks that share a file
    lines.append(f"{options.option}, {options.strategy} on {', '.join(session.rows)}; data: {options.data_name}")
    for task in options.tasks:
        counts = [f"{len(by_name[name][task.name].examples)} {name}" for name in task.splits if by_name[name]]
        common = most_frequent(task, by_name["dev"][task.name])
        lines.append(f"  {task.name:<{max(map(len, session.rows)) + 1}}{', '.join(counts)} rows{common}")
    counts = [token_counts(model.tasks[split.task], split, model.tokenizer) for split in splits]
    lengths = [length for of_split in counts for column in of_split for length in column]
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(weight.numel() for weight in session.trained.values())
    idle = [name for name in model.tasks if name not in session.rows]
    sizes, accum = ",".join(f"{name}={size}" for name, size in options.batch_size.items()), options.grad_accum
    lines.append(
        f"model: {options.checkpoint}, {config.arch}, {config.pooling} of layer {config.layer}; "
        f"{trained / 1e6:.1f} million parameters, trained"
    )
    if idle:
        lines.append(f"heads that this run does not train, and may make worse: {', '.join(idle)}")
    lines += [
        f"texts: up to {max(lengths)} tokens, {sum(n > model.max_length for n in lengths)} cut to {model.max_length}"
        + ", the most that this BERT takes" * (model.max_length < config.max_length),
        f"device: {session.device}, processes: {session.world.size}, threads: {torch.get_num_threads()}, "
        f"precision: {session.amp}, seed: {options.seed}",
        f"steps: {session.total_steps}, {session.steps_an_epoch} an epoch, dev every {session.eval_every}; "
        f"rows a step: {f'{accum} x ' * (accum > 1)}{sizes}; "
        f"learning rate: up to {options.lr:g}, of the heads {options.lr * options.head_lr_scale:g}",
        f"disk: up to {DISK * weights / 1e6:.0f} MB in {session.out}",
    ]
    return "\n".join(lines)


def most_frequent(task: Task, split: Split) -> str:
    """The accuracy of always predicting one class: "; always no: 0.633 of dev"; "" where there is none: scores, several
    labels, dev without labels."""
    counts = label_counts(task, split.examples) if task.classes and not task.several else {}
    if not any(counts.values()):
        return ""
    name = max(counts, key=counts.get)
    return f"; always {name}: {counts[name] / sum(counts.values()):.3f} of dev"


def progress(session: Session, losses: Mapping[str, float]) -> None:
    """Print how far the run is after a step: a bar on a terminal, elsewhere a line for each twentieth of the run."""
    step, total = session.state.step, session.total_steps
    named = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    rest = f"{span(seconds_left(session))} left  losses: {named}"
    show("training", step, total, rest)
    if not sys.stderr.isatty() and (step % max(1, total // 20) == 0 or step == total):
        say(f"step {step}/{total}  {rest}")


def seconds_left(session: Session) -> float:
    """Estimate of what the remaining steps, evaluations and final predictions take, from the times so far."""
    state, last, every = session.state, session.last_step, session.eval_every
    step = (state.seconds - state.evaluation_seconds) / max(1, state.step)
    if state.evaluations:
        evaluation = state.evaluation_seconds / state.evaluations
    else:
        evaluation = session.evaluation_in_steps * step
    rows = [sum(len(split.examples) for split in session.splits[name].values()) for name in ("dev", "test")]
    evaluations = last // every - state.step // every + (last % every > 0) + sum(rows) / rows[0]
    return (last - state.step) * step + evaluations * evaluation


def span(seconds: float) -> str:
    """Seconds as a text for people: "1.7 minutes"."""
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
