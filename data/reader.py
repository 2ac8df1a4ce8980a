"""One csv file of the course -> checked examples. Nothing is repaired or dropped in silence.

What is wrong with a file is a DataError, which names the line; what is odd but usable is a warning. A `line` is a
physical line, counted from 1, the one where the row starts.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import math
import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.tasks import TASKS, DataError, Task, file_name

MAX_UNLABELLED = 1  # percent of the training rows; more is no slip but the wrong file
SHOWN = 10  # line numbers in a message
EMPTY = "an empty sentence"


@dataclass(frozen=True, slots=True)
class Example:
    id: str
    texts: tuple[str, ...]  # normalised: one sentence, or two
    label: int | float | None  # None: the file has none
    line: int


@dataclass(frozen=True)
class Split:
    """One file, read. In train each example has a label and no empty text; in dev and test every row is here."""

    task: str
    path: Path
    fingerprint: str  # sha256 of the file
    examples: list[Example]  # in file order, at least one
    skipped: dict[int, str]  # line -> what the row lacks ("no sentiment", "an empty sentence"); in train alone
    warnings: list[str]  # one line each, for people


def normalise(task: str, text: str) -> str:
    """The course's form of a text. sst: lower case, stripped. Pairs: lower case, a space before each of . ? , ' and
    every run of white space one space."""
    if task == "sst":
        return text.lower().strip()
    return " ".join(re.sub(r"([.?,'])", r" \1", text.lower()).split())


def overlap(train: Split, dev: Split) -> int:
    """How many different texts (pairs: both sentences, in their order) stand in train as well as in dev."""
    return len({example.texts for example in train.examples} & {example.texts for example in dev.examples})


def read(task: str, split: str, data_dir: str | Path) -> Split:
    """Read the file of a task ("sst", "para", "sts") and a split ("train", "dev", "test").

    A row without a label, or with an empty sentence, is left out of train; dev and test keep every row, for each id
    gets a prediction. Columns are found by name, others are ignored, and the label of a test row is never read.
    Raises: DataError, with path and line: the file or a column missing; no rows; too few or too many fields; an
            unclosed quote; NUL; not UTF-8; a label that is no number or out of range; an id that is empty or would
            break the prediction file; a repeated id in dev or test; over 1 % of the training rows without a label.
    """
    path = Path(data_dir) / file_name(task, split)
    content = _load(path)
    examples = list(_examples(content, path, task, split))
    if not examples:
        raise DataError(f"{path}: expected rows; found only a header; copy the file anew")
    warnings = _repeated_ids(examples, split, path)
    incomplete = _incomplete(examples, split, f"no {TASKS[task].label}")
    for what in dict.fromkeys(incomplete.values()):
        lines = [line for line, why in incomplete.items() if why == what]
        share = f"{len(lines)} of {len(examples)} rows have {what}"
        if split == "train" and what != EMPTY and 100 * len(lines) > MAX_UNLABELLED * len(examples):
            raise DataError(
                f"{path}: expected a label in all but {MAX_UNLABELLED} % of the rows; found: {share}; {_shown(lines)}; "
                "complete them, or copy the file anew"
            )
        fate = "left out of training" if split == "train" else "predicted" if what == EMPTY else "predicted, not scored"
        warnings.append(f"{path}: {share}: {fate}; {_shown(lines)}")
    if split == "train":
        examples = [example for example in examples if example.line not in incomplete]
        if not examples:
            raise DataError(f"{path}: expected rows to train on; found none with a label and text; copy the file anew")
        warnings += _absent_classes(examples, TASKS[task], path)
    skipped = incomplete if split == "train" else {}
    return Split(task, path, hashlib.sha256(content).hexdigest(), examples, skipped, warnings)


# ---- the file --------------------------------------------------------------------------------------------------------


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        missing = path if path.parent.is_dir() else path.parent
        beside = [found.name for found in missing.parent.glob("*")]
        raise DataError(
            f"{path}: expected a file; found no {missing}{_nearest(missing.name, beside)}; "
            "give the folder with --data_dir, or fetch the course files with: python -m data.download"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: expected a readable file; found: {error.strerror}; correct the path") from None


def _lines(content: bytes, path: Path) -> Iterator[str]:
    """Physical lines, with their ends, as csv.reader wants them."""
    for line, raw in enumerate(io.BytesIO(content.removeprefix(codecs.BOM_UTF8)), start=1):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{line}: expected UTF-8; found byte 0x{raw[error.start]:02x} at {error.start + 1} of the line; "
                "save the file as UTF-8"
            ) from None
        if "\0" in text:
            raise DataError(f"{path}:{line}: expected text; found a NUL character; copy the file anew")
        yield text


def _rows(content: bytes, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of each row, the header among them; blank lines are passed over, as csv.DictReader does.

    A new line inside quotes is legal. An unclosed quote swallows lines too, until another quote closes it. The two
    differ in this: what is swallowed from one row into the next holds a tab, or else leaves the row with too many
    fields. So a field with both a tab and a new line is refused here, and `_examples` counts the fields.
    """
    reader = csv.reader(_lines(content, path), delimiter="\t", strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            reason = str(error).partition(" - ")[0].replace("\t", "\\t")  # without csv's advice to programmers
            raise DataError(
                f"{path}:{line}: expected a row of tab-separated fields; found: {reason}; "
                "see whether a quote of the row that starts here is not closed"
            ) from None
        if row is None:
            return
        if any("\n" in cell and "\t" in cell for cell in row):
            raise DataError(
                f"{path}:{line}: expected a quote at the end of a quoted field; found tabs and new lines up to line "
                f"{reader.line_num}; close the quote"
            )
        if row:
            yield line, row


# ---- rows ------------------------------------------------------------------------------------------------------------


def _examples(content: bytes, path: Path, task: str, split: str) -> Iterator[Example]:
    """Every row as an example, incomplete ones too."""
    spec, rows = TASKS[task], _rows(content, path)
    line, header = next(rows, (1, None))
    if header is None:
        raise DataError(f"{path}: expected a header and rows; found an empty file; copy it anew")
    id_column, *text_columns = (_column(name, header, path, line) for name in ("id", *spec.texts))
    label_column = None if split == "test" else _column(spec.label, header, path, line)
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path}:{line}: expected {len(header)} tab-separated fields, as in the header; found {len(row)}; "
                "correct the tabs or quotes of the row that starts here"
            )
        texts = tuple(normalise(task, row[column]) for column in text_columns)
        label = None if label_column is None else _label(row[label_column], spec, path, line)
        yield Example(_id(row[id_column], path, line), texts, label, line)


def _column(name: str, header: list[str], path: Path, line: int) -> int:
    if header.count(name) != 1:
        raise DataError(
            f"{path}:{line}: expected one column {name!r}; found {header.count(name)} "
            f"among {reprlib.repr(header)}{_nearest(name, header)}; correct the header"
        )
    return header.index(name)


def _id(cell: str, path: Path, line: int) -> str:
    """Any text, as long as `ID , PREDICTION` can be a line of the prediction file."""
    if not cell.strip() or cell.splitlines() != [cell] or f"{cell} , ".split(" , ")[0] != cell:
        raise DataError(
            f"{path}:{line}: expected an id on one line, without ' , '; found {reprlib.repr(cell)}; correct the row"
        )
    return cell


def _label(cell: str, spec: Task, path: Path, line: int) -> int | float | None:
    """A number in the task's range, None for an empty cell."""
    if not cell.strip():
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    in_range = spec.low <= value <= spec.high and "_" not in cell  # Python reads 0_1 as 1
    if not in_range or (spec.whole and value != int(value)):
        kind = "a whole number" if spec.whole else "a number"
        raise DataError(
            f"{path}:{line}: expected a {spec.label} that is {kind} from {spec.low} to {spec.high}; "
            f"found {reprlib.repr(cell)}; correct the row"
        )
    return int(value) if spec.whole else value


# ---- what is odd -----------------------------------------------------------------------------------------------------


def _incomplete(examples: Sequence[Example], split: str, no_label: str) -> dict[int, str]:
    """line -> what its row lacks, in file order; a row that lacks both counts as one without a label."""
    lacks = {}
    for example in examples:
        if example.label is None and split != "test":
            lacks[example.line] = no_label
        elif not all(example.texts):
            lacks[example.line] = EMPTY
    return lacks


def _repeated_ids(examples: Sequence[Example], split: str, path: Path) -> list[str]:
    """A warning in train; in dev and test, where each id gets one prediction, a DataError."""
    first: dict[str, int] = {}
    repeated = []
    for example in examples:
        if first.setdefault(example.id, example.line) == example.line:
            continue
        if split != "train":
            raise DataError(
                f"{path}:{example.line}: expected each id once; found {reprlib.repr(example.id)}, "
                f"as in line {first[example.id]}; remove or rename one of the two"
            )
        repeated.append(example.line)
    return [f"{path}: {len(repeated)} rows repeat an id: {_shown(repeated)}"] if repeated else []


def _absent_classes(examples: Sequence[Example], spec: Task, path: Path) -> list[str]:
    if not spec.whole:
        return []
    absent = sorted(set(range(spec.low, spec.high + 1)) - {example.label for example in examples})
    return [f"{path}: no row has {spec.label} {', '.join(map(str, absent))}: it cannot be learnt"] if absent else []


def _shown(lines: Sequence[int]) -> str:
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:SHOWN]))}{more}"


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f", the nearest name is {close[0]!r}" if close else ""
