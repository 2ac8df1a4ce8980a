"""Tasks of a user's own, from a TOML file; what it leaves out is taken from the labels in train."""

import math
import re
import reprlib
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from data.table import DELIMITERS, data_error, read_table
from data.tasks import NAME, NONE, PAIRS, SPLITS, TASKS, Task, number, shares
from runtime.errors import UsageError, check_name
from runtime.files import read_plain
from runtime.settings import LARGE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def is_list(value: object, types: set[type], least: int, most: float = math.inf) -> bool:
    fits = isinstance(value, list) and {*map(type, value)} <= types and least <= len({*value}) == len(value) <= most
    return fits and all(type(item) is str or abs(item) < LARGE for item in value)


usage_error = partial(data_error, advice="docs/tasks.md has examples", kind=UsageError)
TEXT = ("a text", lambda v: isinstance(v, str) and v.strip() != "")
FILE = ("a .csv, .tsv or .jsonl file", lambda v: isinstance(v, str) and Path(v).suffix in DELIMITERS)
KEYS = {  # of a task: what the value must be, in words, and a function that checks it
    **dict.fromkeys(("kind", "label", "id", "metric"), TEXT),
    "separator": ("a text, or a space", lambda v: isinstance(v, str) and v != ""),
    "meaning": ("a line of 99 letters at most", lambda v: TEXT[1](v) and v.isprintable() and len(v) < 100),
    **dict.fromkeys(("train", "test"), FILE),
    "dev": (f"{FILE[0]}, or a share of train like 0.1", lambda v: FILE[1](v) or (type(v) is float and 0 < v < 1)),
    "texts": ('a list of one column or two, as ["text"]', lambda v: is_list(v, {str}, 1, 2)),
    "classes": ("a list of names, or of whole numbers", lambda v: is_list(v, {str}, 2) or is_list(v, {int}, 2)),
    "range": ("two numbers, low and high", lambda v: is_list(v, {int, float}, 2, 2) and 0 < v[1] - v[0] < math.inf),
    "pairs": (" or ".join(PAIRS), lambda v: v in PAIRS),
    "batch_size": ("a whole number, 1 or more", lambda v: type(v) is int and 1 <= v < LARGE),
    "loss_scale": ("a number above 0", lambda v: type(v) in (int, float) and 0 < v < LARGE),
}
WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,14}))(?:\.0+)?")  # 1.0 is the class 1, as for Task.parse; 007 is a name
REQUIRED = ("texts", "label", "train", "dev")


def load(path: Path, kinds: Mapping[str, Any]) -> dict[str, Task]:
    """Read a task file, and the labels in train of each task that leaves out its kind, classes or range.

    kinds: heads.kinds.KINDS. Raises UsageError for the file itself, DataError for the labels.
    """
    try:
        content = tomllib.loads(read_plain(path).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # a repeated name is not TOML either
        found = "no such file" if isinstance(error, FileNotFoundError) else error
        raise usage_error(path, "a task file in TOML, its texts in quotes", found) from None
    tables = content.get("tasks")
    if list(content) != ["tasks"] or type(tables) is not dict or {*map(type, tables.values())} != {dict}:
        raise usage_error(path, "[tasks.NAME], once or more, and nothing else", ", ".join(content) or "nothing")
    return {name: _task(path, name, table, kinds) for name, table in tables.items()}


def _task(path: Path, name: str, table: dict[str, Any], kinds: Mapping[str, Any]) -> Task:
    place, folder = f"{path}: [tasks.{name}]", path.resolve().parent
    if not NAME.fullmatch(name) or name in (*TASKS, "all"):  # --task all has a meaning of its own
        raise usage_error(place, f"a name of letters, digits, _ and -, other than all, {', '.join(TASKS)}", repr(name))
    for key in [*table, *REQUIRED]:
        check_name(place, KEYS, key)
        expected, fits = KEYS[key]
        if key not in table or not fits(table[key]):
            raise usage_error(f"{place} {key}", expected, repr(table[key]) if key in table else "none")
    check_name(f"{place} kind", kinds, table.get("kind", next(iter(kinds))))
    if table["label"] in table["texts"]:
        raise usage_error(f"{place} label", f"a column other than the texts {table['texts']}", repr(table["label"]))
    if "pairs" in table and len(table["texts"]) == 1:
        raise usage_error(f"{place} pairs", "none, for the texts are single", repr(table["pairs"]))
    if "kind" not in table or not table.keys() & {"classes", "range"}:
        table = _from_labels(folder / table["train"], kinds, table) | table
    kind, classes = kinds[table["kind"]], table.get("classes", [])
    several, separator = kind.label_form == "several", table.get("separator", Task.separator)
    needless = ["classes" if kind.label_form == "number" else "range", *["separator"] * (not several)]
    if given := [key for key in needless if key in table]:
        raise usage_error(f"{place} {given[0]}", f"none, for the kind is {table['kind']}", repr(table[given[0]]))
    low, high = table.get("range", (0, 1))
    if max(abs(low), abs(high)) > min(10_000 * (high - low), LARGE - 1):  # float32 has 7 digits
        expected = f"ends of at most 10,000 times its width, below {LARGE:g}; shift or divide the labels"
        raise usage_error(f"{place} range", expected, f"{low:g} to {high:g}")
    if table["kind"] == "binary" and len(classes) != 2:
        raise usage_error(f"{place} classes", "two, for the kind is binary", classes)
    if several and any(separator in str(label) for label in classes):
        raise usage_error(f"{place} separator", f"one that none of {classes} holds", repr(separator))
    if several and NONE in classes:
        raise usage_error(f"{place} classes", f"names other than {NONE}, which stands for none of them", classes)
    check_name(f"{place} metric", kind.metrics, table.setdefault("metric", next(iter(kind.metrics))))
    files = {split: table.pop(split) for split in SPLITS if split in table}
    tuples = {key: tuple(table.pop(key)) for key in ("texts", "classes", "range") if key in table}
    return Task(name, files=files, folder=str(folder), several=several, **tuples, **table)


def _from_labels(train: Path, kinds: Mapping[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """A task's kind, and its range or classes, from the labels in train, where the task's table leaves them out."""
    labels = [cell for _, (cell,) in read_table(train, [table["label"]])[1] if str(cell).strip()]
    if soft := [label for label in labels if _is_soft(label)]:
        expected, advice = "kind and classes in the task file, for soft labels", "add both, classes in their order"
        raise data_error(train, expected, f"a label such as {reprlib.repr(soft[0])} without them", advice)
    numbers = []
    for label in labels:  # among scores the reader refuses one that is no number, and names its line
        with suppress(ValueError):
            numbers.append(number(label))
    numbers = sorted(filter(math.isfinite, numbers))
    if "separator" in table or any(isinstance(label, list) for label in labels):
        kind = "labels"
    elif "range" in table or (len(numbers) >= 0.9 * len(labels) and any(n % 1 for n in numbers)):
        kind = "score"
    else:
        kind = "binary" if len(table.get("classes", _classes_of(labels, None))) == 2 else "classes"
    kind = table.get("kind", kind)
    if kinds[kind].label_form == "number":
        key, values = "range", [*numbers[:1], *numbers[-1:]]
    else:
        separator = table.get("separator", Task.separator) if kinds[kind].label_form == "several" else None
        classes = _classes_of(labels, separator)
        key, values = "classes", classes[:2] if kind == "binary" else classes  # the reader refuses a third one, too
    if key not in table and len(set(values)) < 2:
        raise data_error(train, f"two different labels or more in {table['label']!r}", values, "add some")
    return {"kind": kind, key: values}


def _is_soft(label: object) -> bool:
    try:
        return any(share % 1 for share in shares(label))
    except ValueError:
        return False


def _classes_of(labels: list, separator: str | None) -> list[int] | list[str]:
    """The classes in the labels, sorted: whole numbers if all of them are ("2.0" is 2), else names."""
    names = set()
    for label in labels:
        parts = label.split(separator) if separator and isinstance(label, str) else label
        for part in parts if isinstance(parts, list) else [parts]:
            # A number that is not finite, null or an object names no class: the reader refuses it with its line.
            if isinstance(part, str) or (isinstance(part, (int, float)) and abs(part) < math.inf):
                names.add(str(part).strip())
    names.discard("")
    whole = {name: match[1] for name in names if (match := WHOLE.fullmatch(name))}
    if len(whole) == len(names):
        return sorted({*map(int, whole.values())})
    return sorted(name for name in names if whole.get(name, name) == name or whole[name] not in names)
