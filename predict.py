"""Predictions of a trained model for your texts.

    python predict.py runs/x --task sst "A quiet, wonderful film."
    python predict.py runs/x --task sts "A man is eating." "Someone has a meal."
    python predict.py runs/x --task all --input rows.csv --text_columns a,b --output out.csv

Files are .csv, .tsv or .jsonl, of any length; - is csv on stdin or stdout. A row keeps its columns and gets one for
each task. A task with classes also gets TASK_probability, the probability of the prediction, or with --probabilities
one column TASK_CLASS for each class; one with several labels has these columns always.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

from bert.precision import DEVICES, PRECISIONS, resolve_device, resolve_precision
from data.reader import is_blank
from data.table import DELIMITERS, check_columns, csv_writer, data_error, plain, rows_of, text_lines
from data.tasks import Task, names
from evaluate import load_model
from heads import MultitaskBert
from heads.inference import answers, outputs
from runtime.errors import UsageError, check_name, printable, run_cli, say, show
from runtime.files import exchange
from runtime.settings import OptionParser

CHUNK = 8192  # rows in memory: enough to read texts of similar length together
ALL = ("all",)
FILE = "a .csv, .tsv or .jsonl file, or -"
Row = dict[str, object]


def cells_of(model: MultitaskBert, tasks: Sequence[str], sides: list[list[str]], amp: str, every: bool) -> list[Row]:
    """The new cells of each of N rows, by column. every: all classes' probabilities, not the prediction's alone."""
    cells: list[Row] = [{} for _ in sides[0]]
    for name, y in outputs(model, tasks, sides, amp).items():
        for cell, answer in zip(cells, answers(model, name, y), strict=True):
            cell[name], shares = answer["prediction"], answer.get("probabilities", {})
            if every or model.tasks[name].several:
                cell |= {f"{name}_{label}": share for label, share in shares.items()}
            elif shares:
                cell[f"{name}_probability"] = max(shares.values())
    return cells


def in_words(model: MultitaskBert, tasks: Sequence[str], sides: list[list[str]], amp: str) -> str:
    """Predictions as text for people: for each task its number, or its classes and their probabilities, best first."""
    lines = []
    for name, y in outputs(model, tasks, sides, amp).items():
        task = model.tasks[name]
        for texts, answer in zip(zip(*sides, strict=True), answers(model, name, y), strict=True):
            lines.append(f"{name}: {' | '.join(texts)}")
            if task.range:
                lines.append(f"  {answer['prediction']:.5g}, {task.explained}")
                continue
            lines += [f"  {task.meaning}"] * bool(task.meaning)
            for label, share in sorted(answer["probabilities"].items(), key=lambda pair: -pair[1]):
                lines.append(f"  {label:<12} {share:.3f} {'#' * round(40 * share)}".rstrip())
    return printable("\n".join(lines))


@contextmanager
def lines_of(path: Path | None) -> Iterator[Iterator[str]]:
    """The physical lines of a file, or of stdin, as `text_lines` gives them."""
    if path and path.exists() and not path.is_file():  # a pipe, say, which cannot be read twice
        raise data_error(path, "a plain file", "none", "take - for stdin")
    try:
        file = open(path, "rb") if path else sys.stdin.buffer  # noqa: SIM115 - closed below
    except OSError as error:
        raise data_error(path, "a plain file", error.strerror, "check the path") from None
    with file:
        yield text_lines(file, path or "stdin")


def rows_in(lines: Iterable[str], args: Namespace, new_columns: Sequence[str]) -> Iterator[Row]:
    """The input's rows. Raises DataError for a row without a text, and for a column that is missing, occurs twice or
    has the name of a new one."""
    place, columns = args.input or "stdin", args.text_columns
    header, rows = rows_of(lines, place, DELIMITERS[args.input.suffix] if args.input else ",")

    def check(line: int, names: list[str]) -> None:
        check_columns(f"{place}:{line}", names, columns, "name the texts' columns by --text_columns")
        if clash := {*names} & {*new_columns}:
            raise data_error(f"{place}:{line}", f"no column {min(clash)}, a prediction's name", "one", "rename it")

    if header:
        check(*header)
        check_columns(f"{place}:{header[0]}", header[1], header[1])
    to_jsonl = args.output and not DELIMITERS[args.output.suffix]
    first_columns: list[str] = []
    for line, row in rows:
        if not header:  # JSON: each row has columns of its own, and cells that may be no texts
            check(line, [*row])
            if not all(isinstance(plain(row[name]), str) for name in columns):
                found = f"{[row[name] for name in columns]!r:.60}"
                raise data_error(f"{place}:{line}", f"texts in {' and '.join(columns)}", found, "correct the row")
            first_columns = first_columns or [*row]
            if not to_jsonl and (extra := [name for name in row if name not in first_columns]):
                raise data_error(f"{place}:{line}", "the first row's columns", extra[0], "take --output FILE.jsonl")
        yield row


def table_cell(value: object) -> object:
    """A value of JSON for a table: a list's items joined; objects, and items that are no text, as JSON."""
    if isinstance(value, list):
        return ";".join(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else plain(value)


class Writer:
    """Writes rows as a table with the columns of the first row; without a delimiter as JSON, an object a line.

    several: the tasks whose predictions, in the column of a task's name, are lists of classes.
    """

    def __init__(self, file: TextIO, delimiter: str, several: Mapping[str, Task]):
        self.file, self.columns, self.several = file, None, several
        self.table = csv_writer(file.write, delimiter) if delimiter else None

    def write(self, row: Row) -> None:
        if not self.table:
            self.file.write(json.dumps(row, ensure_ascii=False) + "\n")
            return
        if self.columns is None:
            self.columns = [*row]
            self.table.writerow(self.columns)
        cells = row | {name: task.cell(row[name]) for name, task in self.several.items()}
        self.table.writerow(table_cell(cells.get(name)) for name in self.columns)


@contextmanager
def writing(path: Path | None, several: Mapping[str, Task]) -> Iterator[Writer]:
    """A Writer to a file, which appears only when it is complete, or to stdout."""
    if path is None:
        yield Writer(sys.stdout, ",", several)
        return
    with exchange(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield Writer(file, DELIMITERS[path.suffix], several)


def predict_file(model: MultitaskBert, tasks: Sequence[str], args: Namespace, amp: str) -> int:
    """Predict every row of --input into --output, CHUNK rows at a time; return their number. Before that, read
    a file once to check every row."""
    sides = [["a"]] * len(args.text_columns)
    by_task = [cells_of(model, [task], sides, amp, args.probabilities)[0] for task in tasks]
    new_columns = [column for cells in by_task for column in cells]
    if repeated := [column for column in new_columns if new_columns.count(column) > 1]:
        found = f"found {repeated[0]} twice; predict these tasks one by one"
        raise UsageError(f"--task: expected columns of different names; {found}")
    done = blank = total = 0
    if args.input:
        with lines_of(args.input) as lines:
            total = sum(1 for _ in rows_in(lines, args, new_columns))
    several = {name: model.tasks[name] for name in tasks if model.tasks[name].several}
    with lines_of(args.input) as lines, writing(args.output, several) as out:
        rows = rows_in(lines, args, new_columns)
        while chunk := list(islice(rows, CHUNK)):
            sides = [[plain(row[name]) for row in chunk] for name in args.text_columns]
            for row, cells in zip(chunk, cells_of(model, tasks, sides, amp, args.probabilities), strict=True):
                out.write({**row, **cells})
            done += len(chunk)
            blank += sum(any(map(is_blank, texts)) for texts in zip(*sides, strict=True))
            show("rows", done, total or done)
        if not done:
            raise data_error(args.input or "stdin", "rows", "none", "add some")
    if blank:
        say(f"warning: {args.input or 'stdin'}: rows with an empty text: {blank} of {done}, predicted all the same")
    return done


def check_options(args: Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    if bool(args.texts) == args.from_file:
        raise UsageError(f"expected texts, or --input; found {'both' if args.texts else 'none'}")
    for option in ("output", "text_columns", "probabilities"):
        if args.texts and getattr(args, option):
            raise UsageError(f"--{option}: belongs to --input; found texts; leave it out, or give them in a file")
    for option, path in (("input", args.input), ("output", args.output)):
        if path is not None and path.suffix not in DELIMITERS:
            advice = "save it as one of these, the columns' names first" if option == "input" else "name one of these"
            raise UsageError(f"--{option}: expected {FILE}; found {path}; {advice}")
    if args.output and args.input and args.output.resolve() == args.input.resolve():
        raise UsageError(f"--output: expected another file than --input; found {args.output}")
    if blank := [text for text in args.texts if is_blank(text)]:
        raise UsageError(f"expected texts; found {blank[0]!r}; give one with a word in it")
    if len(args.text_columns) > 2:
        expected = "expected A or A,B, the column of the text or the two of a pair"
        raise UsageError(f"--text_columns: {expected}; found {len(args.text_columns)} names; name one or two")


def tasks_to_predict(args: Namespace, model: MultitaskBert) -> tuple[list[str], tuple[str, ...]]:
    """The tasks to predict, and a file's columns of their texts. Raises UsageError for unknown tasks or columns."""
    task_names = [*model.tasks] if args.task == ALL else args.task
    for name in task_names:
        check_name("--task", model.tasks, name)
    columns = args.text_columns
    if args.from_file and not columns:
        text_columns = {model.tasks[name].texts for name in task_names}
        if len(text_columns) > 1:
            found_columns = " and ".join(sorted(map(",".join, text_columns)))
            expected = f"expected names, for the tasks' own columns differ ({found_columns})"
            raise UsageError(f"--text_columns: {expected}; found none; give them, or one --task")
        (columns,) = text_columns
    if args.task != ALL:
        return task_names, columns
    text_count = len(columns) or 1 + (len(args.texts) == 2)
    fitting = [name for name, task in model.tasks.items() if len(task.texts) == text_count]
    left_out = [name for name in model.tasks if name not in fitting]
    if fitting and left_out:
        say(f"left out, for they read another number of texts: {', '.join(left_out)}")
    return fitting or [*model.tasks], columns  # if none fits, `outputs` says what they expect


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("run", type=Path, help="a run's folder, or a model's")
    parser.add_argument("texts", nargs="*", help="texts, or the two texts of a pair")
    help_of_task = "which of the model's (default: all that fit)"
    parser.add_argument("--task", type=names, default=ALL, metavar="NAME,NAME", help=help_of_task)
    parser.add_argument("--input", metavar="FILE", help=f"rows to predict: {FILE}")
    parser.add_argument("--output", metavar="FILE", help="where to (default: -, csv)")
    help_of_columns = "of the texts or the pairs (default: the task's)"
    parser.add_argument("--text_columns", type=names, default=(), metavar="A,B", help=help_of_columns)
    parser.add_argument("--probabilities", action="store_true", help="those of all classes, a column each")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: auto)")
    parser.add_argument("--amp", choices=PRECISIONS, default="auto", help="precision (default: auto, the fastest)")
    args = parser.parse_args(argv)
    args.from_file = args.input is not None
    args.input, args.output = (None if name in (None, "-") else Path(name) for name in (args.input, args.output))
    check_options(args)
    device = resolve_device(args.device)
    model, amp = load_model(args.run).to(device), resolve_precision(args.amp, device)
    tasks, args.text_columns = tasks_to_predict(args, model)
    if args.from_file:
        done = predict_file(model, tasks, args, amp)
        say(f"{', '.join(tasks)}: {done:,} rows" + (f", in {args.output}" if args.output else ""))
    else:
        pair = len(args.texts) == 2 and len(model.tasks[tasks[0]].texts) == 2
        print(in_words(model, tasks, [[text] for text in args.texts] if pair else [args.texts], amp))


if __name__ == "__main__":
    sys.exit(run_cli(main))
