"""A task's file -> checked examples. Nothing is repaired or dropped in silence.

A fault in a file raises a DataError that names the line; anything odd but usable gives a warning. A `line` is the
physical line, counted from 1, in which a row starts. Texts stay as they are in the file.
"""

import reprlib
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from data.table import data_error, read_table
from data.tasks import Task
from runtime.errors import DataError, nearest

MAX_UNLABELLED = 1  # percent of the training rows; more is not a slip but the wrong file
FEW = 20  # labelled rows in dev: with fewer, one row is more than 5 points of accuracy
SHOWN = 10  # line numbers in a message


@dataclass(frozen=True, slots=True)
class Example:
    id: str
    texts: tuple[str, ...]  # one, or two
    label: int | float | tuple[int, ...] | tuple[float, ...] | None  # as Task.parse gives it; None: the file has none
    line: int


@dataclass(frozen=True)
class Split:
    """One split, read. In train each example has a label and no empty text; dev and test files keep every row."""

    task: str
    path: Path
    fingerprint: str  # sha256 of the file; with a share of train as dev, of the lines too
    examples: list[Example]  # in file order, at least one
    warnings: list[str]  # one line each, for people
    title: str  # "dev of sst: ids-sst-dev.csv"

    @property
    def sides(self) -> list[list[str]]:
        """The rows' texts, or the first and the second texts of their pairs."""
        return [list(side) for side in zip(*(example.texts for example in self.examples), strict=True)]

    @property
    def contents(self) -> str:
        """Equal for two splits of a name if and only if they have the same rows of files of the same bytes."""
        return f"{len(self.examples)} rows, sha256 {self.fingerprint}"


def folded(example: Example) -> tuple[str, ...]:
    """The texts in lower case with single spaces: equal where two rows say the same."""
    return tuple(" ".join(text.lower().split()) for text in example.texts)


def is_blank(text: str) -> bool:
    """Whether nothing in it can be seen or read: spaces, control and format characters, accents without a letter."""
    return all(unicodedata.category(c)[0] in "CMZ" or c == "\ufffd" for c in text)


def overlaps(trains: Iterable[Split], split: Split) -> str:
    """For people: the titles of the trains that share texts with the split, each with how many; "" for none.

    Counted are different texts (pairs: both, in their order), as `folded`.
    """
    texts = set(map(folded, split.examples))
    counts = {train.title: len(texts.intersection(map(folded, train.examples))) for train in trains}
    return " and in ".join(f"{title} ({count})" for title, count in counts.items() if count)


def token_counts(task: Task, split: Split, tokenizer) -> list[list[int]]:
    """Tokens before the cut, [CLS] and [SEP] included: a list for each of a row's texts, or one for pairs that are
    read as one sequence."""
    return [tokenizer.lengths(*split.sides)] if task.at_once else [tokenizer.lengths(side) for side in split.sides]


def label_counts(task: Task, examples: Iterable[Example]) -> dict[str, int]:
    """Rows of each class, or of each fifth of the range. To soft labels' classes their shares are added, rounded."""
    labels = [example.label for example in examples if example.label is not None]
    if task.range:
        counts, edges = np.histogram(labels, bins=5, range=task.range)
        return {f"{edges[i]:.6g}..{edges[i + 1]:.6g}": count for i, count in enumerate(counts)}
    soft = [label for label in labels if isinstance(label, tuple) and not task.several]
    counts = Counter(number for label in labels for number in (label if task.several else [label]))
    return {
        str(name): counts[number] + round(sum(label[number] for label in soft))
        for number, name in enumerate(task.classes)
    }


def read_splits(tasks: Iterable[Task], names: Sequence[str], data_dir: Path, seed: int) -> dict[str, dict[str, Split]]:
    """The splits with these names, of the tasks that have them, by split and task."""
    return {name: {t.name: read(t, name, data_dir, seed) for t in tasks if name in t.splits} for name in names}


def fingerprints(splits: Iterable[Mapping[str, Split]]) -> dict[str, str]:
    """Rows and sha256 of the file of each task's split, by the split's title."""
    return {split.title: split.contents for by_task in splits for split in by_task.values()}


def read(task: Task, split: str, data_dir: str | Path = "", seed: int = 0) -> Split:
    """Read the rows of a split ("train", "dev", "test").

    Files of dev and test keep every row, because each id gets a prediction. Labels in test are never read. Where dev
    is a share of train, the task's name and the seed decide which rows are dev's; train is the rest.
    Args:   data_dir: of the course files, for tasks without a folder of their own.
    Raises: DataError, with path and line: a missing file or column, no rows; a malformed row, text that is not UTF-8, a
            label that is not the task's, or soft where rows are dev's; an id that a prediction file cannot hold, or a
            repeated one where each gets a prediction; over 1 % of train without a label.
    """
    path = task.path(split, data_dir)
    from_train = split == "train" or (split == "dev" and task.dev_share > 0)
    columns = [task.id, *task.texts, None if split == "test" else task.label]
    fingerprint, rows = read_table(path, columns, course=task.folder is None, needed=task.texts)
    examples, faults = [], {}
    for number, (line, cells) in enumerate(rows, start=1):
        try:
            examples.append(_example(task, path, number, line, cells))
        except DataError as error:
            faults[line] = error
            if len(faults) == SHOWN:
                break
    if faults:
        others = f"; the first lines with a fault: {', '.join(map(str, faults))}" * (len(faults) > 1)
        raise DataError(f"{next(iter(faults.values()))}{others}")
    soft = [e.line for e in examples if isinstance(e.label, tuple) and not task.several]
    if soft and (split == "dev" or task.dev_share):
        expected, advice = "one class as a label where rows are dev's", "give dev a file with one class for each row"
        raise data_error(f"{path}:{soft[0]}", expected, "a share for each class", advice)
    incomplete, warnings = _check_rows(task, split, path, examples, from_train)
    if from_train:
        examples = [example for example in examples if example.line not in incomplete]
        if task.dev_share:
            dev_rows = _dev_rows(task, examples, seed)
            examples = [example for row, example in enumerate(examples) if (row in dev_rows) == (split == "dev")]
            lines = ",".join(str(example.line) for example in examples)
            fingerprint += f", of lines {sha256(lines.encode()).hexdigest()[:16]}"
        if not examples:
            raise data_error(path, f"rows with a label and text for {split}", "none", "add some")
        if split == "dev":
            warnings = []  # train has the same ones
        elif absent := [name for name, count in label_counts(task, examples).items() if task.classes and not count]:
            warnings.append(f"{path}: no row has {task.label} {listed(absent)}: it cannot be learnt")
    if split == "dev" and (labelled := sum(example.label is not None for example in examples)) < FEW:
        warnings.append(f"{path}: few rows with a label for dev: {labelled}; the best model would be chosen by chance")
    return Split(task.name, path, fingerprint, examples, warnings, f"{split} of {task.name}: {path.name}")


def _example(task: Task, path: Path, number: int, line: int, cells: list) -> Example:
    """The Example of a row; texts may be empty and the label missing. Raises DataError for anything else."""
    place = f"{path}:{line}"
    row_id, *texts, label = cells
    row_id = str(number if task.id is None else row_id)
    if not row_id.strip() or row_id.splitlines() != [row_id] or (task.course and " , " in f"{row_id} "):
        raise data_error(place, "an id on one line, without ' , '", reprlib.repr(row_id), "correct the row")
    if not all(isinstance(text, str) for text in texts):
        raise data_error(place, "texts", reprlib.repr(texts), "correct the row")
    try:
        has_label = str(label).strip() or (task.several and label == task.separator)  # which may be a space
        return Example(row_id, tuple(texts), task.parse(label) if has_label else None, line)
    except ValueError:
        found = f"{reprlib.repr(label)}{nearest(str(label), map(str, task.classes))}"
        expected = f"{task.expected} as {task.label}"
        if task.kind == "classes" and (isinstance(label, list) or len(str(label).split()) > 1):
            expected += ", or in train a share for each, together 1"
        advice = "correct the row" + f", or the task's {'range' if task.range else 'classes'}" * (not task.course)
        raise data_error(place, expected, found, advice) from None


def _check_rows(task: Task, split: str, path: Path, examples: list[Example], from_train: bool) -> tuple[set, list[str]]:
    """The lines of incomplete rows, and a warning for each kind of odd row. Raises DataError for worse faults."""
    first_lines = {}
    repeated = {e.line: e.id for e in examples if first_lines.setdefault(e.id, e.line) != e.line}
    if repeated and (not from_train or task.dev_share):  # each id gets one prediction
        line, row_id = next(iter(repeated.items()))
        found = f"{reprlib.repr(row_id)}, as in line {first_lines[row_id]}"
        raise data_error(f"{path}:{line}", "each id once", found, "remove or rename one of the two")
    unlabelled = {e.line for e in examples if e.label is None and split != "test"}
    empty = {e.line for e in examples if any(map(is_blank, e.texts))} - unlabelled
    if from_train and 100 * len(unlabelled) > MAX_UNLABELLED * len(examples):
        found = _rows(unlabelled, len(examples), f"no {task.label}")
        raise data_error(path, f"a label in all rows but {MAX_UNLABELLED} %", found, "complete them, or take them out")
    fate = ": left out of training" if from_train else ": predicted"
    odd = (repeated, "a repeated id"), (unlabelled, f"no {task.label}{fate}"), (empty, f"an empty sentence{fate}")
    return unlabelled | empty, [f"{path}: {_rows(lines, len(examples), what)}" for lines, what in odd if lines]


def _dev_rows(task: Task, examples: Sequence[Example], seed: int) -> set[int]:
    """The numbers of the examples of train that are dev's: its share of every label, give or take a row, drawn among
    the rows of one label."""
    generator = np.random.default_rng([seed, zlib.crc32(f"dev of {task.name}".encode())])
    by_label = sorted(generator.permutation(len(examples)).tolist(), key=lambda row: examples[row].label)
    count = min(len(examples), max(1, round(task.dev_share * len(examples))))
    return {by_label[int((n + 0.5) * len(examples) / count)] for n in range(count)}


def _rows(lines: Collection[int], rows: int, what: str) -> str:
    have, line = ("have", "lines") if len(lines) > 1 else ("has", "line")
    return f"{len(lines)} of {rows} rows {have} {what}; {line} {listed(sorted(lines))}"


def listed(items: Sequence[object], joint: str = ", ") -> str:
    """The first items as a text, and how many more there are."""
    return joint.join(map(str, items[:SHOWN])) + f" and {len(items) - SHOWN} more" * (len(items) > SHOWN)
