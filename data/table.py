"""A file of rows (.csv, .tsv, .jsonl) -> the cells of the columns asked for, each row with its physical line."""

import csv
import hashlib
import io
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runtime.errors import DataError, nearest
from runtime.files import read_plain

DELIMITERS = {".csv": ",", ".tsv": "\t", ".jsonl": ""}  # a .csv may have tabs, too: the course's have

csv.field_size_limit(2**31 - 1)  # some texts are longer than csv's own limit of 131,072 characters


def data_error(place: object, expected: str, found: object, advice: str, kind: type = DataError) -> ValueError:
    return kind(f"{place}: expected {expected}; found {found}; {advice}")


def read_table(
    path: Path, columns: Sequence[str | None], course: bool = False, needed: Sequence[str] = ()
) -> tuple[str, list[tuple[int, list]]]:
    """Read a file of the course or a user: its sha256, and for each row (line, cells of the columns).

    A cell of csv is a text, a cell of JSON a result of `plain`. For a column that is None, and for a key that a row of
    JSON lacks, it is "". needed: the columns that no row may lack. Raises: DataError.
    """
    try:
        content = read_plain(path)
    except OSError as error:
        near = nearest(path.name, {file.name for file in path.parent.glob("*")} - {path.name})
        fetch = "give --data_dir, or fetch the course files with: python -m data.download"
        advice = fetch if course and path.parent.is_dir() else "check the path"
        missing = "none" if path.parent.is_dir() else f"no folder {path.parent}"
        found = missing if isinstance(error, FileNotFoundError) else error.strerror
        raise data_error(path, "a file", f"{found}{near}", advice) from None
    if not course and path.suffix not in DELIMITERS:
        raise data_error(path, "a .csv, .tsv or .jsonl file", path.suffix or "no ending", "correct it")
    delimiter = "\t" if course else DELIMITERS[path.suffix]
    header, rows = rows_of(text_lines(io.BytesIO(content), path), path, delimiter)
    rows = list(rows)
    line, names = header or (1, list(dict.fromkeys(name for _, row in rows for name in row)))
    if not rows:
        raise data_error(path, "rows", "only a header" if names else "an empty file", "copy it anew")
    check_columns(f"{path}:{line}", names, columns)
    for line, row in rows if header is None else ():
        check_columns(f"{path}:{line}", [*row], needed, "correct the row")
    cells = [(line, [plain(row.get(name)) for name in columns]) for line, row in rows]
    return hashlib.sha256(content).hexdigest(), cells


def check_columns(
    place: str, names: Sequence[str], columns: Sequence[str | None], advice: str = "correct it, or the task file"
) -> None:
    """Raise DataError, with the place, unless `names` has each of these columns, except None, once."""
    for name in columns:
        if name is not None and names.count(name) != 1:
            found = f"{names.count(name)} among {reprlib.repr(names)}{nearest(name, names)}"
            raise data_error(place, f"one column {name!r}", found, advice)


def rows_of(
    lines: Iterable[str], path: object, delimiter: str
) -> tuple[tuple[int, list[str]] | None, Iterator[tuple[int, dict]]]:
    """The header (its line, the columns), and (line, cells by column) of each row, read only when it is asked for.

    lines: physical ones, with their ends. delimiter: "" for one JSON object per line; then the header is None.
    """
    if not delimiter:
        return None, _json_rows(lines, path)
    lines = iter(lines)
    first = next(lines, "")
    if delimiter == "," and "," not in first:
        if ";" in first:
            raise data_error(f"{path}:1", "commas between the columns", "semicolons", "save it with commas")
        delimiter = "\t" if "\t" in first else ","  # as in the course's .csv files
    rows = _csv_rows(chain([first], lines), path, delimiter)
    if not (header := next(rows, None)):
        raise data_error(path, "rows", "an empty file", "copy it anew")
    line, names = header
    return (line, names), ((line, dict(zip(names, row, strict=True))) for line, row in rows)


def text_lines(file: Iterable[bytes], place: object) -> Iterator[str]:
    """Physical lines with their ends, as csv.reader needs them. Raises DataError at a line that is not UTF-8 text."""
    for number, line in enumerate(file, start=1):
        try:
            if b"\0" in line:
                raise UnicodeDecodeError("utf-8", line, line.index(b"\0"), len(line), "no character of a text")
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            found = f"byte 0x{error.object[error.start]:02x}"
            raise data_error(f"{place}:{number}", "text in UTF-8", found, "save the file as UTF-8") from None
        yield text


def _csv_rows(lines: Iterable[str], path: object, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of the header and of each row; blank lines are skipped, but for those between the rows of a single
    column, which are empty texts.

    A new line inside quotes is legal. A quote that is not closed takes in the following lines as well; mostly the row
    then has too many fields. In files with tabs, a cell with both a new line and a tab is taken for such a case, too,
    and refused.
    """
    reader, line, fields, blank = csv.reader(lines, delimiter=delimiter, strict=True), 1, 0, []
    try:
        for row in reader:
            fields = fields or len(row)
            swallowed = delimiter == "\t" and any("\n" in cell and "\t" in cell for cell in row)
            if swallowed or len(row) not in (0, fields):
                raise csv.Error(f"{len(row)} fields up to line {reader.line_num}")
            if row:
                yield from ((number, [""]) for number in blank)
                blank = []
                yield line, row
            elif fields == 1:
                blank.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        fields = f"{fields} fields, as in the header," if fields else "a header of columns"
        expected = f"{fields} with {'commas' if delimiter == ',' else 'tabs'} between"
        advice = "correct the row that starts here; see whether a quote is not closed, or a cell has a lone \\r"
        raise data_error(f"{path}:{line}", expected, error, advice) from None


def _json_rows(lines: Iterable[str], path: object) -> Iterator[tuple[int, dict]]:
    """(line, cells by key) of each row: one JSON object per line; blank lines and {} are skipped."""
    for line, text in enumerate(lines, start=1):
        try:
            row = json.loads(text, object_pairs_hook=_once) if text.strip() else {}
            if not isinstance(row, dict):
                raise ValueError(text[:30].strip())
            json.dumps(row, ensure_ascii=False).encode()  # "\ud800" is JSON, but no character
        except (ValueError, RecursionError) as error:
            raise data_error(f"{path}:{line}", "a JSON object", error, "correct the line") from None
        if row:
            yield line, row


def _once(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object from its keys and values. Raises ValueError for a repeated key: json would take the last."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key twice")
    return row


def csv_writer(write: Callable[[str], Any], delimiter: str) -> Any:
    """A csv writer whose lines end in \\n. It is made with \\r\\n, because csv quotes a lone \\r only then."""
    file = SimpleNamespace(write=lambda line: write(line.removesuffix("\r\n") + "\n"))  # csv calls it once per line
    return csv.writer(file, delimiter=delimiter, lineterminator="\r\n")


def plain(cell: object) -> object:
    """JSON's true, false and null as texts, the last one "", as in csv; a list's true and false; all else as it is."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, list):
        return [plain(part) if isinstance(part, bool) else part for part in cell]
    return cell
