"""A file of rows (.csv, .tsv, .jsonl) -> the cells of the columns asked for, each row with its physical line."""

import csv
import hashlib
import io
import json
import reprlib
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import DataError, nearest

DELIMITERS = {".csv": ",", ".tsv": "\t", ".jsonl": ""}  # of a user's files; the course's .csv have tabs

csv.field_size_limit(2**31 - 1)  # csv's own limit of 131,072 characters is less than some texts have


def data_error(place: object, expected: str, found: object, advice: str, kind: type = DataError) -> ValueError:
    return kind(f"{place}: expected {expected}; found {found}; {advice}")


def read_table(path: Path, columns: Sequence[str | None], course: bool = False) -> tuple[str, list[tuple[int, list]]]:
    """Read a file, of the course or a user's: its sha256, and of each row (line, cells of the columns).

    A cell of csv is a text; one of JSON may be anything but null, which is "" as in csv. So is a column's that is None.
    Raises: DataError.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        near = nearest(path.name, {file.name for file in path.parent.glob("*")} - {path.name})
        fetch = "give --data_dir, or fetch the course files with: python -m data.download"
        advice = fetch if course and path.parent.is_dir() else "check the path"
        missing = "none" if path.parent.is_dir() else f"no folder {path.parent}"
        found = missing if isinstance(error, FileNotFoundError) else error.strerror
        raise data_error(path, "a file", f"{found}{near}", advice) from None
    delimiter = "\t" if course else DELIMITERS[path.suffix]
    line, names, rows = _csv_rows(content, path, delimiter) if delimiter else _json_rows(content, path)
    if not rows:
        raise data_error(path, "rows", "only a header" if names else "an empty file", "copy it anew")
    for name in columns:
        if name is not None and names.count(name) != 1:
            found = f"{names.count(name)} among {reprlib.repr(names)}{nearest(name, names)}"
            raise data_error(f"{path}:{line}", f"one column {name!r}", found, "correct the name")
    return hashlib.sha256(content).hexdigest(), [(line, [row.get(name, "") for name in columns]) for line, row in rows]


def _lines(content: bytes, path: Path) -> io.StringIO:
    """The text, to be read by physical lines with their ends, as csv.reader wants them."""
    try:
        if b"\0" in content:
            raise UnicodeDecodeError("utf-8", content, content.index(b"\0"), len(content), "no character of a text")
        return io.StringIO(content.decode("utf-8-sig"), newline="\n")
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise data_error(f"{path}:{line}", "text in UTF-8", f"byte 0x{byte:02x}", "save the file as UTF-8") from None


def _csv_rows(content: bytes, path: Path, delimiter: str) -> tuple[int, list[str], list[tuple[int, dict]]]:
    """The header's line, the columns, and (line, cells by column) of each row; blank lines are passed over.

    A new line inside quotes is legal. An unclosed quote swallows lines, too, until another one closes it; mostly the
    row has then too many fields. Between tabs the other cases are seen as well, for what was swallowed holds a tab.
    """
    reader, line = csv.reader(_lines(content, path), delimiter=delimiter, strict=True), 1
    names, rows = [], []  # the header is the first of the rows, too
    try:
        for row in reader:
            names = names or row
            swallowed = delimiter == "\t" and any("\n" in cell and "\t" in cell for cell in row)
            if swallowed or len(row) not in (0, len(names)):
                raise csv.Error(f"{len(row)} fields up to line {reader.line_num}")
            if row:
                rows.append((line, dict(zip(names, row, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        expected = f"{len(names)} fields with {'commas' if delimiter == ',' else 'tabs'} between, as in the header"
        advice = "correct the row that starts here; see whether a quote is not closed"
        raise data_error(f"{path}:{line}", expected, error, advice) from None
    return rows[0][0] if rows else 1, names, rows[1:]


def _json_rows(content: bytes, path: Path) -> tuple[int, list[str], list[tuple[int, dict]]]:
    """The same of a JSON object a line; the columns are the keys of all of them. true, false and null become texts."""
    rows, words = [], {True: "true", False: "false", None: ""}
    for line, text in enumerate(_lines(content, path), start=1):
        try:
            row = json.loads(text) if text.strip() else {}
            if not isinstance(row, dict):
                raise ValueError(text[:30].strip())
            json.dumps(row, ensure_ascii=False).encode()  # "\ud800" is JSON, but no character
        except (ValueError, RecursionError) as error:
            raise data_error(f"{path}:{line}", "a JSON object", error, "correct the line") from None
        if row:
            rows.append((line, {key: words[v] if v is None or isinstance(v, bool) else v for key, v in row.items()}))
    return 1, list(dict.fromkeys(name for _, row in rows for name in row)), rows
