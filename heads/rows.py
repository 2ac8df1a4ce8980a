"""A task's rows as token ids, and the batches that training makes of them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bert.tokenizer import Batch, BertTokenizer
from data.batches import BatchStream
from data.reader import Split
from data.tasks import Task
from heads.kinds import KINDS
from heads.pooling import one_batch


@dataclass(frozen=True)
class TaskBatch:
    """One task's rows in one micro-batch of a step."""

    tokens: Batch  # (B, T); for siamese pairs (2 B, T): the first texts, then the second ones; for `both` (3 B, T)
    labels: Tensor  # of B rows: the `target` of the task's kind
    ids: list[str]  # the rows' names, for error messages
    number: int = 0  # of the rows' batch in the step
    places: Sequence[int] | None = None  # of the rows among all of the task's rows in the step; None: the first B


class TaskRows:
    """A task's rows as token ids, and their endless, seeded stream of batches."""

    def __init__(self, task: Task, split: Split, tokenizer: BertTokenizer, max_length: int, batch_size: int, seed: int):
        self.task, self.examples, self.tokenizer = task, split.examples, tokenizer
        apart = [tokenizer.ids(side, max_length) for side in split.sides] if task.apart else []
        self.sequences = [(ids, [[0] * len(row) for row in ids]) for ids in apart]  # ids and segment ids, by row
        if task.at_once:
            self.sequences.append(tokenizer.pair_ids(*split.sides, max_length))
        lengths = [max(map(len, row)) for row in zip(*(ids for ids, _ in self.sequences), strict=True)]
        self.stream = BatchStream(lengths, batch_size, seed, task.name)

    def row_numbers(self, step: int, grad_accum: int) -> list[list[int]]:
        """Of the rows that a step takes from this task: `grad_accum` batches of the stream."""
        return [self.stream[position] for position in range(step * grad_accum, (step + 1) * grad_accum)]

    def micro_batches(self, step: int, grad_accum: int, parts: int, own: slice = slice(None)) -> list[TaskBatch]:
        """The `own` rows of each of a step's batches, cut into `parts`; on the CPU."""
        micro_batches, offset = [], 0
        for number, rows in enumerate(self.row_numbers(step, grad_accum)):
            own_rows, places = rows[own], range(offset, offset + len(rows))[own]
            size = math.ceil(len(own_rows) / parts) or 1
            starts = range(0, len(own_rows), size)
            micro_batches += [self.batch(own_rows[i : i + size], number, places[i : i + size]) for i in starts]
            offset += len(rows)
        return micro_batches

    def batch(self, rows: list[int], number: int = 0, places: Sequence[int] | None = None) -> TaskBatch:
        """A batch of the examples with these numbers, from 0. number, places: see TaskBatch."""
        ids = [ids_of[row] for ids_of, _ in self.sequences for row in rows]
        types = [types_of[row] for _, types_of in self.sequences for row in rows]
        tokens = self.tokenizer.pad(ids, types)
        examples = [self.examples[row] for row in rows]
        labels = KINDS[self.task.kind](self.task).target([example.label for example in examples])
        return TaskBatch(tokens, labels, [example.id for example in examples], number, places)


def step_batches(
    rows: Mapping[str, TaskRows],
    step: int,
    grad_accum: int,
    parts: int,
    device: torch.device,
    own: slice = slice(None),
) -> Iterator[tuple[dict[str, TaskBatch], dict[str, float]]]:
    """A step's micro-batches: batches by task, on the device, and the share of its task's rows that each has.

    Weighted by their shares, a task's micro-batches of any sizes count as one batch. A task with fewer of them is
    absent from the last ones. own: this rank's rows of each batch, where several ranks divide it.
    """
    cut = {name: task_rows.micro_batches(step, grad_accum, parts, own) for name, task_rows in rows.items()}
    count = {name: sum(map(len, task_rows.row_numbers(step, grad_accum))) for name, task_rows in rows.items()}
    for micro in range(max(map(len, cut.values()))):
        batches = {name: pieces[micro] for name, pieces in cut.items() if micro < len(pieces)}
        yield on_device(batches, device), {name: len(batch.ids) / count[name] for name, batch in batches.items()}


def on_device(batches: Mapping[str, TaskBatch], device: torch.device) -> dict[str, TaskBatch]:
    """Move batches without waiting for a GPU. It gets all tokens padded as one batch, as it computes them."""
    if device.type == "cpu":
        return {**batches}
    whole = one_batch([batch.tokens for batch in batches.values()]).to(device, non_blocking=True)
    moved, end = {}, 0
    for name, batch in batches.items():
        rows = slice(end, end := end + len(batch.tokens.input_ids))
        tokens = Batch({key: value[rows] for key, value in whole.items()})
        tokens.real = batch.tokens.real
        moved[name] = replace(batch, tokens=tokens, labels=batch.labels.to(device, non_blocking=True))
    return moved
