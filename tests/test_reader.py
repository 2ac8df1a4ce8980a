"""data/reader.py: a Split or a DataError for whatever a file holds, and the line of everything that is wrong."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.reader import normalise, overlap, read
from data.tasks import SPLITS, TASKS, DataError, file_name

COURSE = Path(__file__).parents[2] / "shared" / "data" / "cs224n"
SST = ["\tid\tsentence\tsentiment", *(f"{n}\tid{n}\tA text {n} .\t{n % 5}" for n in range(10))]
PARA = ["\tid\tsentence1\tsentence2\tis_duplicate", *(f"{n}\tid{n}\tWhy {n}?\tHow {n}?\t{n % 2}.0" for n in range(10))]
STS = ["\tid\tsentence1\tsentence2\tsimilarity", *(f"{n}\tid{n}\tOne {n}.\tTwo {n}.\t{n / 2}" for n in range(10))]
GOOD = {"sst": SST, "para": PARA, "sts": STS}
LABELS = {"sst": [n % 5 for n in range(10)], "para": [n % 2 for n in range(10)], "sts": [n / 2 for n in range(10)]}
FOURTH = {"sst": ("a text 3 .",), "para": ("why 3 ?", "how 3 ?"), "sts": ("one 3 .", "two 3 .")}


def write(folder: Path, task: str, split: str, content: list[str] | str | bytes) -> Path:
    path = folder / file_name(task, split)
    if isinstance(content, list):
        content = "".join(line + "\n" for line in content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(folder: Path, task: str, split: str, content: list[str] | str | bytes) -> str:
    """The one-line message that reading the content ends in, its folder cut off."""
    write(folder, task, split, content)
    with pytest.raises(DataError) as caught:
        read(task, split, folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(folder))
    return message.removeprefix(f"{folder}/")


def with_line(lines: list[str], number: int, text: str) -> list[str]:
    """The lines with physical line `number` replaced."""
    return [*lines[: number - 1], text, *lines[number:]]


# ---- what is right ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_every_row_of_a_good_file_is_an_example(tmp_path, task, split):
    path = write(tmp_path, task, split, GOOD[task])
    found = read(task, split, tmp_path)
    assert (found.task, found.path, found.skipped, found.warnings) == (task, path, {}, [])
    assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [example.id for example in found.examples] == [f"id{n}" for n in range(10)]
    assert [example.line for example in found.examples] == list(range(2, 12))
    labels = [example.label for example in found.examples]
    assert labels == ([None] * 10 if split == "test" else LABELS[task])
    assert split == "test" or {type(label) for label in labels} == {float if task == "sts" else int}
    assert found.examples[3].texts == FOURTH[task]


def test_columns_are_found_by_name_and_labels_of_test_rows_are_not_read(tmp_path):
    write(tmp_path, "para", "dev", "is_duplicate\tsentence2\tnote\tid\tsentence1\n1\tB\tx\tone\tA\n")
    (example,) = read("para", "dev", tmp_path).examples
    assert (example.id, example.texts, example.label) == ("one", ("a", "b"), 1)
    write(tmp_path, "sst", "test", "0\t\tid\tsentence\tsentiment\n1\t0.0\tone\tA\tnonsense\n")
    assert read("sst", "test", tmp_path).examples[0].label is None


@pytest.mark.fault(35)
@pytest.mark.parametrize("change", [
    lambda content: b"\xef\xbb\xbf" + content,
    lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content.removesuffix(b"\n"),
    lambda content: content.replace(b"\n", b"\n\n"),
    lambda content: b"\xef\xbb\xbf\r\n" + content.replace(b"\n", b"\r\n"),
])  # fmt: skip
def test_a_bom_and_any_line_end_and_blank_lines_are_accepted(tmp_path, change):
    def rows() -> list[tuple]:
        return [(example.id, example.texts, example.label) for example in read("sts", "train", tmp_path).examples]

    plain = write(tmp_path, "sts", "train", STS).read_bytes()
    expected = rows()
    write(tmp_path, "sts", "train", change(plain))
    assert rows() == expected


def test_lines_are_physical_ones(tmp_path):
    write(tmp_path, "sst", "dev", '\n\tid\tsentence\tsentiment\n\n0\ta\t"over\ntwo lines"\t1\n1\tb\tplain\t2\n')
    found = read("sst", "dev", tmp_path).examples
    assert [(example.line, example.texts[0]) for example in found] == [(4, "over\ntwo lines"), (6, "plain")]


@pytest.mark.parametrize(("task", "cell", "label"), [
    ("sst", "4", 4), ("sst", "3.0", 3), ("sst", " 2 ", 2), ("para", "0", 0), ("para", "1.0", 1),
    ("sts", "0", 0.0), ("sts", "5", 5.0), ("sts", "4.999", 4.999), ("sts", "1e-1", 0.1),
])  # fmt: skip
def test_labels_that_are_numbers_in_the_range(tmp_path, task, cell, label):
    write(tmp_path, task, "dev", [GOOD[task][0], "\t".join(["0", "id"] + ["A"] * len(TASKS[task].texts) + [cell])])
    assert read(task, "dev", tmp_path).examples[0].label == label


def test_texts_are_normalised_as_the_course_does():
    assert normalise("sst", "  It 's A  Film ,\twell. ") == "it 's a  film ,\twell."
    assert normalise("para", " Isn't  it?\tYes,\nno...  ") == "isn 't it ? yes , no . . ."


@given(st.text())
def test_normalising_a_pair_s_text_follows_the_rule_and_twice_is_once(text):
    expected = text.lower()
    for mark in ".?,'":
        expected = expected.replace(mark, " " + mark)
    expected = " ".join(expected.split())
    assert normalise("sts", text) == normalise("para", text) == expected
    assert normalise("sts", expected) == expected
    assert normalise("sst", normalise("sst", text)) == normalise("sst", text) == text.lower().strip()


def test_overlap_counts_the_different_texts_of_both(tmp_path):
    write(tmp_path, "sts", "train", [STS[0], "0\ta\tX\tY\t1", "1\tb\tX\tY\t2", "2\tc\tQ\tR\t3", "3\td\tOnly\tHere\t4"])
    write(tmp_path, "sts", "dev", [STS[0], "0\te\tx \ty\t1", "1\tf\tq\tR\t2", "2\tg\tX\tother\t3"])
    train, dev = (read("sts", split, tmp_path) for split in ("train", "dev"))
    assert overlap(train, dev) == 2
    assert overlap(dev, dev) == 3


# ---- what is incomplete ----------------------------------------------------------------------------------------------


@pytest.mark.fault(29)
def test_rows_without_a_label_are_left_out_of_train_with_their_lines(tmp_path):
    rows = [f"{n}\tid{n}\tA {n}\tB {n}\t{n % 2}.0" for n in range(200)]
    rows[7], rows[60] = "7\tid7\tA\tB\t", "60\tid60\tA\t\t "  # the second lacks a sentence too, as in the real files
    write(tmp_path, "para", "train", [PARA[0], *rows])
    found = read("para", "train", tmp_path)
    assert found.skipped == {9: "no is_duplicate", 62: "no is_duplicate"}
    assert [example.line for example in found.examples] == [line for line in range(2, 202) if line not in (9, 62)]
    (warning,) = found.warnings
    assert warning.endswith("quora-train.csv: 2 of 200 rows have no is_duplicate: left out of training; lines 9, 62")


@pytest.mark.fault(29)
def test_more_than_one_percent_without_a_label_is_an_error_in_train_alone(tmp_path):
    rows = [f"{n}\tid{n}\tA {n}\t{n % 5}" for n in range(100)]
    rows[3] = "3\tid3\tA\t"
    write(tmp_path, "sst", "train", [SST[0], *rows])
    assert list(read("sst", "train", tmp_path).skipped) == [5]  # exactly 1 %
    message = error_of(tmp_path, "sst", "train", [SST[0], *rows[:99]])
    assert "1 of 99 rows have no sentiment; line 5;" in message
    write(tmp_path, "sst", "dev", [SST[0], *rows[:99]])
    assert len(read("sst", "dev", tmp_path).examples) == 99


def test_dev_keeps_every_row(tmp_path):
    write(tmp_path, "para", "dev", with_line(with_line(PARA, 3, "1\tid1\tA\tB\t"), 5, "3\tid3\tA\t \t1"))
    found = read("para", "dev", tmp_path)
    assert [example.id for example in found.examples] == [f"id{n}" for n in range(10)]
    assert [example.label for example in found.examples] == [0, None, 0, 1, 0, 1, 0, 1, 0, 1]
    assert found.examples[3].texts == ("a", "")
    assert found.skipped == {}
    assert [warning.partition(".csv: ")[2] for warning in found.warnings] == [
        "1 of 10 rows have no is_duplicate: predicted, not scored; line 3",
        "1 of 10 rows have an empty sentence: predicted; line 5",
    ]


@pytest.mark.fault(31)
@pytest.mark.parametrize("empty", ["", "  ", '""', "\u00a0"])
def test_empty_sentences_are_left_out_of_train_and_kept_in_test(tmp_path, empty):
    write(tmp_path, "sts", "train", with_line(STS, 4, f"2\tid2\tA\t{empty}\t1"))
    found = read("sts", "train", tmp_path)
    assert found.skipped == {4: "an empty sentence"}
    assert len(found.examples) == 9
    assert found.warnings[0].endswith("1 of 10 rows have an empty sentence: left out of training; line 4")
    write(tmp_path, "sts", "test", ["\tid\tsentence1\tsentence2", f"0\ta\t{empty}\tB", "1\tb\tA\tB"])
    assert [example.texts for example in read("sts", "test", tmp_path).examples] == [("", "b"), ("a", "b")]


def test_long_lists_of_lines_are_cut(tmp_path):
    rows = [f"{n}\tid{n}\t\t{n % 5}" for n in range(30)]
    write(tmp_path, "sst", "dev", [SST[0], *rows])
    (warning,) = read("sst", "dev", tmp_path).warnings
    assert warning.endswith("30 of 30 rows have an empty sentence: predicted; lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 "
                            "and 20 more")  # fmt: skip


def test_nothing_left_to_train_on_is_an_error(tmp_path):
    assert "none with a label and text" in error_of(tmp_path, "sst", "train", [SST[0], "0\ta\t \t1"])


@pytest.mark.fault(37)
def test_a_class_that_train_lacks_is_a_warning(tmp_path):
    write(tmp_path, "sst", "train", [line for line in SST if line[-1] not in "13"])
    assert [warning.partition(".csv: ")[2] for warning in read("sst", "train", tmp_path).warnings] == [
        "no row has sentiment 1, 3: it cannot be learnt"
    ]
    write(tmp_path, "sst", "dev", SST[:2])
    assert read("sst", "dev", tmp_path).warnings == []


@pytest.mark.fault(32)
def test_a_repeated_id_is_a_warning_in_train_and_an_error_elsewhere(tmp_path):
    lines = with_line(PARA, 8, "6\tid2\tA\tB\t1")
    write(tmp_path, "para", "train", lines)
    found = read("para", "train", tmp_path)
    assert len(found.examples) == 10
    assert [warning.partition(".csv: ")[2] for warning in found.warnings] == ["1 rows repeat an id: line 8"]
    for split in ("dev", "test"):
        message = error_of(tmp_path, "para", split, lines)
        assert f"{file_name('para', split)}:8: " in message
        assert "found 'id2', as in line 4" in message


# ---- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.fault(30)
@pytest.mark.parametrize(("task", "cell"), [
    ("sst", "5"), ("sst", "-1"), ("sst", "2.7"), ("sst", "nan"), ("sst", "inf"), ("sst", "good"), ("sst", "0_1"),
    ("para", "0.5"), ("para", "2"), ("para", "yes"), ("para", "NaN"),
    ("sts", "5.1"), ("sts", "-0.1"), ("sts", "3,4"), ("sts", "-inf"), ("sts", "nan"), ("sts", "1 2"),
    ("sts", "9" * 400),
])  # fmt: skip
@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_label_that_is_no_number_of_the_range(tmp_path, task, split, cell):
    row = "\t".join(["2", "id2"] + ["A"] * len(TASKS[task].texts) + [cell])
    message = error_of(tmp_path, task, split, with_line(GOOD[task], 4, row))
    assert message.startswith(f"{file_name(task, split)}:4: ")
    assert cell[:5] in message
    assert f"from 0 to {TASKS[task].high}" in message


@pytest.mark.parametrize("cell", ["", " ", '"a\nb"', '"a\n"', "a , b", "a ,"])
@pytest.mark.parametrize("split", SPLITS)
def test_an_id_that_no_prediction_file_could_hold(tmp_path, split, cell):
    message = error_of(tmp_path, "sst", split, with_line(SST, 3, f"1\t{cell}\tA text\t1"))
    assert message.startswith(f"{file_name('sst', split)}:3: expected an id")


@pytest.mark.fault(34)
@pytest.mark.parametrize(("row", "number"), [
    ("3\tid3\tA\tB", 5),  # a field too few
    ("3\tid3\tA\tB\t1\t", 5),  # a field too many
    (" ", 5),
    ('3\tid3\t"A\tB\t1', 5),  # unclosed to the end of the file
    ('3\tid3\t"A" and\tB\t1', 5),
    ('3\tid3\tA\t"B\t1\n4\tid4\tC\tD"\t1', 5),  # unclosed, and closed by chance in the next row
    ('3\tid3\tA\tB\t"1\n4"\tid4\tC\tD\t1', 5),
    ('3\tid3\t"A\nwent on"\tB\t1\n4\tid4\tA\t1', 7),  # two lines of one row, and then a short row
    ("3\tid3\tA\rB\tC\t1", 5),
    ("3\tid3\t" + "A" * 200_000 + "\tB\t1", 5),  # over csv's limit of a field
])  # fmt: skip
def test_rows_that_are_no_rows_are_named_by_their_first_line(tmp_path, row, number):
    limit = csv.field_size_limit()
    message = error_of(tmp_path, "para", "dev", with_line(PARA, 5, row))
    assert message.startswith(f"quora-dev.csv:{number}: ")
    assert csv.field_size_limit() == limit  # other programs' as well


@pytest.mark.fault(34)
def test_no_row_vanishes_in_an_unclosed_quote(tmp_path):
    """Every pair of places for two stray quotes at the start or end of fields: an error, or all ten rows."""
    cells = [line.split("\t") for line in PARA]
    places = [(line, field, end) for line in (3, 5) for field in range(5) for end in (False, True)]
    for first in places:
        for second in places:
            rows = [list(row) for row in cells]
            for line, field, end in {first, second}:
                rows[line][field] = rows[line][field] + '"' if end else '"' + rows[line][field]
            write(tmp_path, "para", "train", ["\t".join(row) for row in rows])
            try:
                assert len(read("para", "train", tmp_path).examples) == 10
            except DataError as error:
                assert re.search(r"csv:[46]: ", str(error))


@pytest.mark.fault(35)
@pytest.mark.parametrize(("bad", "found"), [
    (b"\0", "NUL"), (b"\xff", "0xff"), (b"\xc3", "0xc3"), (b"\xed\xa0\x80", "0xed"),
])  # fmt: skip
def test_nul_and_bad_utf8_are_named_by_their_line(tmp_path, bad, found):
    content = "\n".join(SST).encode().replace(b"text 4", b"text " + bad)
    message = error_of(tmp_path, "sst", "train", content)
    assert message.startswith("ids-sst-train.csv:6: ")
    assert found in message


def test_utf16_is_told_from_utf8(tmp_path):
    message = error_of(tmp_path, "sst", "train", "\n".join(SST).encode("utf-16"))
    assert message.startswith("ids-sst-train.csv:1: expected UTF-8")


@pytest.mark.fault(28)
@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf", b"\r\n\r\n"])
def test_an_empty_file(tmp_path, content):
    assert "empty file" in error_of(tmp_path, "sts", "dev", content)


@pytest.mark.fault(28)
def test_only_a_header(tmp_path):
    assert "only a header" in error_of(tmp_path, "sts", "train", STS[:1])


@pytest.mark.fault(28)
@pytest.mark.parametrize(("header", "needed", "nearest"), [
    ("\tid\tSentence\tsentiment", "sentence", "'Sentence'"),
    ("\tid\tsentence\tsentimant", "sentiment", "'sentimant'"),
    ("\tidx\tsentence\tsentiment", "id", "'idx'"),
    ("\tid\tsentence\tid", "id", "'id'"),  # twice
    ('"\tid\tsentence\tsentiment"', "id", ""),
])  # fmt: skip
def test_a_column_that_is_missing_or_doubled(tmp_path, header, needed, nearest):
    message = error_of(tmp_path, "sst", "train", with_line(SST, 1, header))
    assert message.startswith(f"ids-sst-train.csv:1: expected one column '{needed}'")
    assert nearest in message


def test_a_header_without_end_makes_a_short_message(tmp_path):
    assert len(error_of(tmp_path, "sst", "dev", "x" * 100_000 + "\ty" * 10_000 + "\n")) < 300


@pytest.mark.fault(28)
def test_a_missing_file_is_named_with_the_nearest(tmp_path):
    (tmp_path / "ids-sst-trian.csv").touch()
    with pytest.raises(DataError, match=r"ids-sst-train\.csv: .* nearest name is 'ids-sst-trian\.csv'.*data\.download"):
        read("sst", "train", tmp_path)


def test_a_missing_folder_is_named_with_the_nearest(tmp_path):
    (tmp_path / "cs224n").mkdir()
    with pytest.raises(DataError, match=r"no .*/cs224, the nearest name is 'cs224n'"):
        read("sst", "train", tmp_path / "cs224")


def test_a_folder_where_the_file_should_be(tmp_path):
    (tmp_path / "sts-dev.csv").mkdir()
    with pytest.raises(DataError, match=r"sts-dev\.csv: expected a readable file"):
        read("sts", "dev", tmp_path)


# ---- whatever it is --------------------------------------------------------------------------------------------------


def read_or_refuse(folder: Path, task: str, split: str, content: bytes) -> None:
    """What holds for every file: a DataError on one line, or a Split that keeps its promises."""
    write(folder, task, split, content)
    try:
        found = read(task, split, folder)
    except DataError as error:
        assert len(str(error).splitlines()) == 1
        return
    spec = TASKS[task]
    assert found.examples
    for example in found.examples:
        assert len(example.texts) == len(spec.texts)
        assert example.label is None or spec.low <= example.label <= spec.high
        if split == "train":
            assert example.label is not None and all(example.texts)
        else:
            assert not found.skipped
    if split != "train":
        assert len({example.id for example in found.examples}) == len(found.examples)


@given(content=st.binary(max_size=300), split=st.sampled_from(list(SPLITS)))
def test_any_bytes_are_a_split_or_a_data_error(tmp_path_factory, content, split):
    folder = tmp_path_factory.getbasetemp()
    read_or_refuse(folder, "sst", split, content)
    read_or_refuse(folder, "sst", split, SST[0].encode() + b"\n" + content)


PIECES = st.sampled_from([b"\t", b"\n", b"\r", b'"', b'""', b"\0", b"\xff", b" ", b"", b"9", b".", b"nan", b"id1"])


@given(
    task=st.sampled_from(list(TASKS)),
    split=st.sampled_from(list(SPLITS)),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9), PIECES), min_size=1, max_size=4),
)
def test_a_damaged_file_is_a_split_or_a_data_error(tmp_path_factory, task, split, changes):
    content = "\n".join(GOOD[task]).encode()
    for start, removed, piece in changes:
        content = content[:start] + piece + content[start + removed :]
    read_or_refuse(tmp_path_factory.getbasetemp(), task, split, content)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(rows=st.lists(st.tuples(TEXT, TEXT, st.floats(0, 5)), min_size=1, max_size=11))
def test_what_csv_writes_is_read_as_csv_reads_it(tmp_path_factory, rows):
    """The reference is csv.DictReader, as in the course's own code."""
    if any("\t" in cell and "\n" in cell for first, second, _ in rows for cell in (first, second)):
        rows = [(first.replace("\n", " "), second.replace("\n", " "), label) for first, second, label in rows]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t")
    writer.writerow(["", "id", "sentence1", "sentence2", "similarity"])
    writer.writerows([n, f"id{n}", first, second, repr(label)] for n, (first, second, label) in enumerate(rows))
    folder = tmp_path_factory.getbasetemp()
    path = write(folder, "sts", "dev", file.getvalue())
    with open(path, encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file, delimiter="\t"))
    found = read("sts", "dev", folder).examples
    assert [example.id for example in found] == [row["id"] for row in expected]
    assert [example.label for example in found] == [row[2] for row in rows]
    for column, name in enumerate(("sentence1", "sentence2")):
        assert [e.texts[column] for e in found] == [normalise("sts", row[name]) for row in expected]


def test_time_grows_with_the_rows(tmp_path):
    def seconds(rows: int) -> float:
        write(tmp_path, "para", "dev", [PARA[0], *(f"{n}\tid{n}\tWhy {n}?\tHow?\t1.0" for n in range(rows))])
        started = time.process_time()
        read("para", "dev", tmp_path)
        return time.process_time() - started

    assert seconds(40_000) < 40 * max(seconds(4_000), 0.01)  # 10 where linear, 100 where quadratic


# ---- the course's files ----------------------------------------------------------------------------------------------

ROWS = {
    "sst": {"train": 8544, "dev": 1101, "test": 2210},
    "para": {"train": 22646, "dev": 6214, "test": 14000},
    "sts": {"train": 6040, "dev": 863, "test": 1725},
}


@pytest.mark.skipif(not COURSE.is_dir(), reason=f"the course files are not in {COURSE}")
@pytest.mark.parametrize("task", TASKS)
def test_the_course_files(task):
    """The Quora ones are cut down; each one with labels has two rows without, as the whole ones do."""
    for split, rows in ROWS[task].items():
        found = read(task, split, COURSE)
        assert len(found.examples) + len(found.skipped) == rows
        unlabelled = 2 if task == "para" and split != "test" else 0
        assert len(found.skipped) == (unlabelled if split == "train" else 0)
        if split == "dev":
            assert sum(example.label is None for example in found.examples) == unlabelled
        assert len(found.warnings) == (1 if unlabelled else 0)
