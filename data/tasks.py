"""A task is data: where its rows lie, what its labels are, how much it counts, and how its predictions are written.

The course's tasks are below; a user's own come from a file (data/task_file.py). heads/kinds.py says what each kind of
task means.
"""

import argparse
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from runtime.errors import check_name

SPLITS = ("train", "dev", "test")
NAME = re.compile("[A-Za-z0-9_-]{1,99}")  # of a task: in options, metrics and file names
PAIRS = ("siamese", "cross", "both")  # each text read by itself, then compared; both as one sequence; in both ways
NONE = "(none)"  # in texts for people: none of several possible classes
ALL = ""  # a key in the results of `by_name`: the value for all tasks


@dataclass(frozen=True)
class Course:
    """The leaderboard's format of a task, where it differs from the format of a user's task."""

    header: str  # first line of a prediction file, new line included
    as_float: bool = False  # numbers are written as 1.0, not as 1
    metric_names: dict[str, str] = field(default_factory=dict)  # our name of a metric -> the leaderboard's


@dataclass(frozen=True)
class Task:
    """One task. A label is one of `classes`, or in train a share for each, several of them, or a number in `range`."""

    name: str  # matches NAME
    kind: str  # a name in heads.kinds.KINDS
    texts: tuple[str, ...]  # the column of the text, or the two columns of a pair
    label: str  # the column of the label
    files: dict[str, str | float]  # split -> file; dev may be a share of train instead, test may be left out
    folder: str | None = None  # of the files; None: the course files' folder (--data_dir)
    id: str | None = None  # the column of the ids; None: the row's number, from 1
    classes: tuple[str | int, ...] = ()  # in the order of the head's outputs
    several: bool = False  # a label is any number of classes, not one
    separator: str = ";"  # between several labels in one cell
    range: tuple[float, float] | None = None  # smallest and largest number
    pairs: str = "siamese"  # how the two texts of a pair meet: one of PAIRS
    meaning: str = ""  # of the classes or of the range's ends, in words
    contrastive: bool = False  # siamese binary pairs: the paper's cosine-embedding and triplet losses are added
    batch_size: int = 16
    loss_scale: float = 1.0
    metric: str = ""  # the one that chooses the best model; one of the kind's
    course: Course | None = None

    @property
    def apart(self) -> bool:
        """Whether each text is read by itself: single texts, and those of all pairs but cross ones."""
        return len(self.texts) == 1 or self.pairs != "cross"

    @property
    def at_once(self) -> bool:
        """Whether the two texts of a pair are read as one sequence."""
        return len(self.texts) == 2 and self.pairs != "siamese"

    @property
    def sequences(self) -> int:
        """How many sequences the encoder reads for a row: 1, or 2 for a siamese pair, 3 for one read in both ways."""
        return len(self.texts) * self.apart + self.at_once

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the task has, in the order train, dev, test."""
        return tuple(split for split in SPLITS if split in self.files)

    @property
    def dev_share(self) -> float:
        """The share of train's rows that dev has; 0 where dev has a file of its own."""
        dev = self.files.get("dev", "")
        return 0.0 if isinstance(dev, str) else dev

    def path(self, split: str, data_dir: Path | str) -> Path:
        """The file that a split is read from: train's, where dev is a share of it."""
        file = self.files[split]
        return Path(self.folder or data_dir) / (file if isinstance(file, str) else self.files.get("train", ""))

    def metric_key(self, metric: str) -> str:
        """A metric's name in metrics.json: NAME_metric, or as the leaderboard calls it."""
        course_names = self.course.metric_names if self.course else {}
        return f"{self.name}_{course_names.get(metric, metric)}"

    def parse(self, cell: object) -> int | float | tuple[int, ...] | tuple[float, ...]:
        """A file's label -> its class's number, a share for each class where it is soft ("0.1 0.7 0.2"), the numbers of
        several classes, or the number itself. Raises ValueError."""
        if self.range is not None:
            value = number(cell)
            if not self.range[0] <= value <= self.range[1]:
                raise ValueError(f"{value} is not in {self.range}")
            return value
        if self.several:
            parts = cell if isinstance(cell, list) else str(cell).split(self.separator)
            numbers = sorted(self._class(part) for part in parts if str(part).strip())
            if len({*numbers}) < len(numbers):  # 0 or 1 for each class, say, instead of names
                raise ValueError(f"a class twice in {cell!r}")
            return tuple(numbers)
        try:
            return self._class(cell)
        except ValueError:
            if self.kind == "classes" and len(parts := shares(cell)) == len(self.classes):
                return parts
            raise

    def cell(self, names: Sequence[str | int]) -> str:
        """Several classes as the cell that `parse` reads: none of them is the separator alone, for an empty cell has no
        label."""
        return self.separator.join(map(str, names)) or self.separator

    def _class(self, cell: object) -> int:
        """The number of the class that a cell names: "2", "2.0" and 2 are the class 2."""
        names, text = [str(name) for name in self.classes], str(cell).strip()
        return names.index(text if text in names else str(number(text) + 0.0).removesuffix(".0"))  # -0.0 + 0.0 is 0.0

    @property
    def expected(self) -> str:
        """What a label must be, for messages."""
        if self.range is not None:
            return f"a number from {self.range[0]:g} to {self.range[1]:g}"
        classes = shorten(", ".join(map(str, self.classes)), 190, placeholder=" ...")
        return f"some of {classes}, each once" if self.several else f"one of {classes}"

    @property
    def explained(self) -> str:
        """What a label is, for people."""
        return self.expected + f" ({self.meaning})" * bool(self.meaning)

    def to_json(self, files: bool = True) -> dict:
        """The task for JSON, as `read_task` (heads/files.py) takes it.

        files: False leaves out its files and folder, for a model that may go to other people.
        """
        content = asdict(self)
        return content if files else content | {"files": {}, "folder": None}


def number(cell: object) -> float:
    """The number in a cell. Raises ValueError for anything else, also for 0_1, which Python reads as 1."""
    return float(str(cell).replace("_", "x"))


def shares(cell: object) -> tuple[float, ...]:
    """The share of each class in a soft label: two numbers or more, together 1 but for rounding to two digits.

    Raises ValueError for anything else.
    """
    parts = tuple(number(part) for part in (cell if isinstance(cell, list) else str(cell).split()))
    if len(parts) < 2 or min(parts) < 0 or not abs(sum(parts) - 1) < 0.0051 * len(parts):
        raise ValueError(f"{cell} are not shares")
    return parts


def course_task(name: str, kind: str, texts: tuple[str, ...], label: str, files: str, **settings: Any) -> Task:
    """A task of the course. files: their name, with {} for the split."""
    paths = {split: files.format("test-student" if split == "test" else split) for split in SPLITS}
    return Task(name, kind, texts, label, paths, id="id", **settings)


# Batch sizes: with a sixth of Quora's rows (docs/results.md) each file is read about as often as the others.
COURSE_TASKS = (
    course_task(
        "sst", "classes", ("sentence",), "sentiment", "ids-sst-{}.csv", batch_size=8, metric="acc",
        classes=(0, 1, 2, 3, 4),  # the paper prints 0, 1, 2, 3, 5
        meaning="0 very negative, 2 neutral, 4 very positive",
        course=Course("id \t Predicted_Sentiment \n", metric_names={"macro_f1": "f1"}),
    ),
    course_task(
        "para", "binary", ("sentence1", "sentence2"), "is_duplicate", "quora-{}.csv", batch_size=24, metric="acc",
        classes=(0, 1), meaning="1: both ask the same", contrastive=True,
        course=Course("id \t Predicted_Is_Paraphrase \n", as_float=True),
    ),
    course_task(
        "sts", "score", ("sentence1", "sentence2"), "similarity", "sts-{}.csv", batch_size=8, metric="pearson",
        range=(0.0, 5.0), meaning="0 unrelated, 5 equivalent",
        course=Course("id \t Predicted_Similiary \n", as_float=True),  # misspelt officially
    ),
    course_task(
        "cfimdb", "binary", ("sentence",), "sentiment", "ids-cfimdb-{}.csv", batch_size=8, metric="acc",
        classes=(0, 1), meaning="0 negative, 1 positive", course=Course("id \t Predicted_Sentiment \n"),
    ),
)  # fmt: skip
TASKS = {task.name: task for task in COURSE_TASKS}
LEADERBOARD = ("sst", "para", "sts")  # the default --tasks, and those in the leaderboards' averages


def names(text: str) -> tuple[str, ...]:
    """An option's type: `para,sts` -> ("para", "sts"), each once."""
    chosen = tuple(text.split(","))
    if len(chosen) > len(set(chosen)) or not all(chosen):
        raise argparse.ArgumentTypeError(f"expected names with commas between, each once; found {text!r}")
    return chosen


def by_name(value: Callable[[str], Any]) -> Callable[[str], dict[str, Any]]:
    """An option's type: `4` for all tasks -> {ALL: value("4")}, or by name, `sst=1,sts=4` -> {"sst": ...}."""

    def check(text: str) -> dict[str, Any]:
        if ":" in text:
            raise argparse.ArgumentTypeError(f"expected {text.replace(':', '=')}; found {text!r}")
        if "=" not in text:
            return {ALL: value(text)}
        pairs = [part.partition("=") for part in text.split(",")]
        names(",".join(name for name, _, _ in pairs))
        return {name: value(number) for name, _, number in pairs}

    return check


def choose_tasks(chosen: Sequence[str] | None, known: Mapping[str, Task], task_file: bool = True) -> tuple[Task, ...]:
    """The run's tasks, in the order of `known`: the built-in ones, then the task file's. Raises UsageError.

    task_file: whether the program has the option --task_file, which the error then names.
    """
    place = "--tasks (of your own: with --task_file)" if task_file and known == TASKS else "--tasks"
    for name in chosen or ():
        check_name(place, known, name)
    chosen = chosen or [name for name in known if name not in TASKS] or LEADERBOARD
    return tuple(task for name, task in known.items() if name in chosen)


def by_task(option: str, given: Mapping[str, Any] | None, tasks: Sequence[Task], known: Collection[str]) -> dict:
    """An option's value for each task: the one given for it, else the one given for all, else the task's own."""
    given = given or {}
    for name in given.keys() - {ALL}:
        check_name(f"--{option}", known, name)
    return {task.name: given.get(task.name, given.get(ALL, getattr(task, option))) for task in tasks}
