"""data/reader.py: a Split or a DataError for whatever a file holds, and the line of everything that is wrong."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_tasks import write_rows

from data.reader import Example, label_counts, overlaps, read
from data.table import read_table
from data.tasks import SPLITS, TASKS, Task
from runtime.errors import DataError

COURSE = Path(__file__).parents[2] / "shared" / "data" / "cs224n"
SST = ["\tid\tsentence\tsentiment", *(f"{n}\tid{n}\tA text {n} .\t{n % 5}" for n in range(10))]
PARA = ["\tid\tsentence1\tsentence2\tis_duplicate", *(f"{n}\tid{n}\tWhy {n}?\tHow {n}?\t{n % 2}.0" for n in range(10))]
STS = ["\tid\tsentence1\tsentence2\tsimilarity", *(f"{n}\tid{n}\tOne {n}.\tTwo {n}.\t{n / 2}" for n in range(10))]
GOOD = {"sst": SST, "para": PARA, "sts": STS}


def write(folder: Path, task: str, split: str, content: list[str] | str | bytes) -> Path:
    path = folder / TASKS[task].files[split]
    if isinstance(content, list):
        content = "".join(line + "\n" for line in content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(folder: Path, task: str, split: str, content: list[str] | str | bytes) -> str:
    """The one-line message that reading the content ends in, its folder cut off."""
    write(folder, task, split, content)
    return error_in(folder, TASKS[task], split)


def error_in(folder: Path, task: Task, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        read(task, split, folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(folder))
    return message.removeprefix(f"{folder}/")


def with_line(lines: list[str], number: int, text: str) -> list[str]:
    """The lines with physical line `number` replaced."""
    return [*lines[: number - 1], text, *lines[number:]]


def test_columns_are_found_by_name_and_labels_of_test_rows_are_not_read(tmp_path):
    write(tmp_path, "para", "dev", "is_duplicate\tsentence2\tnote\tid\tsentence1\n1\tB\tx\tone\tA\n")
    (example,) = read(TASKS["para"], "dev", tmp_path).examples
    assert (example.id, example.texts, example.label) == ("one", ("A", "B"), 1)
    write(tmp_path, "sst", "test", "0\t\tid\tsentence\tsentiment\n1\t0.0\tone\tA\tnonsense\n")
    assert read(TASKS["sst"], "test", tmp_path).examples[0].label is None


@pytest.mark.fault(35)
@pytest.mark.parametrize("change", [
    lambda content: b"\xef\xbb\xbf" + content,
    lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content.removesuffix(b"\n"),
    lambda content: content.replace(b"\n", b"\n\n"),
    lambda content: b"\xef\xbb\xbf\r\n" + content.replace(b"\n", b"\r\n"),
])  # fmt: skip
def test_a_bom_and_any_line_end_and_blank_lines_are_accepted(tmp_path, change):
    plain = write(tmp_path, "sts", "train", STS)
    expected = read(TASKS["sts"], "train", tmp_path).examples
    plain.write_bytes(change(plain.read_bytes()))
    found = read(TASKS["sts"], "train", tmp_path).examples
    assert [replace(example, line=0) for example in found] == [replace(example, line=0) for example in expected]


@pytest.mark.fault(31)
def test_a_blank_line_between_rows_of_one_column_is_an_empty_text(tmp_path):
    (tmp_path / "t.csv").write_text("text\n\na dog\n\n\na cat\n\n\n")
    _, rows = read_table(tmp_path / "t.csv", ["text"])
    assert rows == [(2, [""]), (3, ["a dog"]), (4, [""]), (5, [""]), (6, ["a cat"])]


@pytest.mark.fault(36)
def test_a_text_of_any_length_is_read(tmp_path):
    text = "a " * 2_000_000
    write(tmp_path, "sst", "dev", [SST[0], f"0\tid\t{text}\t1"])
    assert read(TASKS["sst"], "dev", tmp_path).examples[0].texts == (text,)


def test_overlaps_count_the_different_texts_of_both_whatever_their_case(tmp_path):
    write(tmp_path, "sts", "train", [STS[0], "0\ta\tX\tY\t1", "1\tb\tX\tY\t2", "2\tc\tQ\tR\t3", "3\td\tOnly\tHere\t4"])
    write(tmp_path, "sts", "dev", [STS[0], "0\te\tx \ty\t1", "1\tf\tq\tR\t2", "2\tg\tX\tother\t3"])
    train, dev = (read(TASKS["sts"], split, tmp_path) for split in ("train", "dev"))
    assert overlaps([train, dev], dev) == "train of sts: sts-train.csv (2) and in dev of sts: sts-dev.csv (3)"


@pytest.mark.fault(29)
def test_rows_without_a_label_are_left_out_of_train_with_their_lines(tmp_path):
    rows = [f"{n}\tid{n}\tA {n}\tB {n}\t{n % 2}.0" for n in range(200)]
    rows[7], rows[60] = "7\tid7\tA\tB\t", "60\tid60\tA\t\t "  # the second lacks a sentence too, as in the real files
    write(tmp_path, "para", "train", [PARA[0], *rows])
    found = read(TASKS["para"], "train", tmp_path)
    assert [example.line for example in found.examples] == [line for line in range(2, 202) if line not in (9, 62)]
    (warning,) = found.warnings
    assert warning.endswith("quora-train.csv: 2 of 200 rows have no is_duplicate: left out of training; lines 9, 62")


@pytest.mark.fault(29)
def test_more_than_one_percent_without_a_label_is_an_error_in_train_alone(tmp_path):
    rows = [f"{n}\tid{n}\tA {n}\t{n % 5}" for n in range(100)]
    rows[3] = "3\tid3\tA\t"
    write(tmp_path, "sst", "train", [SST[0], *rows])
    assert len(read(TASKS["sst"], "train", tmp_path).examples) == 99  # exactly 1 %
    assert "1 of 99 rows has no sentiment; line 5;" in error_of(tmp_path, "sst", "train", [SST[0], *rows[:99]])
    write(tmp_path, "sst", "dev", [SST[0], *rows[:99]])
    assert len(read(TASKS["sst"], "dev", tmp_path).examples) == 99
    write(tmp_path, "sst", "dev", [SST[0], *(f"{n}\tid{n}\tA\t" for n in range(30))])
    assert read(TASKS["sst"], "dev", tmp_path).warnings[0].endswith(" 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 20 more")


def test_dev_keeps_every_row(tmp_path):
    write(tmp_path, "para", "dev", with_line(with_line(PARA, 3, "1\tid1\tA\tB\t"), 5, "3\tid3\tA\t \t1"))
    found = read(TASKS["para"], "dev", tmp_path)
    assert [example.id for example in found.examples] == [f"id{n}" for n in range(10)]
    assert [example.label for example in found.examples] == [0, None, 0, 1, 0, 1, 0, 1, 0, 1]
    assert found.examples[3].texts == ("A", " ")
    assert [warning.partition(".csv: ")[2] for warning in found.warnings] == [
        "1 of 10 rows has no is_duplicate: predicted; line 3",
        "1 of 10 rows has an empty sentence: predicted; line 5",
        "few rows with a label for dev: 9; the best model would be chosen by chance",
    ]


def test_few_labelled_rows_in_dev_are_a_warning(tmp_path):
    rows = [f"{n}\tid{n}\tA {n}\t{n % 5}" for n in range(20)]
    for changed, few in ((rows[5], 0), ("5\tid5\tA\t", 1)):
        write(tmp_path, "sst", "dev", [SST[0], *with_line(rows, 6, changed)])
        told = read(TASKS["sst"], "dev", tmp_path).warnings
        assert sum("csv: few rows with a label for dev: 19; " in line for line in told) == few
    write_rows(tmp_path / "t.csv", [{"t": f"text {n}", "l": n % 3} for n in range(80)])
    for share, count in ((0.25, 0), (0.2, 1)):  # of 20 rows, and 16
        task = Task("own", "classes", ("t",), "l", {"train": "t.csv", "dev": share}, str(tmp_path), classes=(0, 1, 2))
        assert [len(read(task, split).warnings) for split in ("train", "dev")] == [0, count]


@pytest.mark.fault(31, 61)
@pytest.mark.parametrize("empty", [
    "", "  ", '""', "\u00a0",
    "\u200b", "\u00ad", "\ufe0f", "\x07\x1b", "\u202e\u2066", "\u0301\u0300", "\ufeff", "\ufffd", " \u2003 ",
])  # fmt: skip
def test_empty_sentences_are_left_out_of_train_and_kept_in_test(tmp_path, empty):
    write(tmp_path, "sts", "train", with_line(STS, 4, f"2\tid2\tA\t{empty}\t1"))
    found = read(TASKS["sts"], "train", tmp_path)
    assert [example.line for example in found.examples] == [2, 3, *range(5, 12)]
    assert found.warnings[0].endswith("1 of 10 rows has an empty sentence: left out of training; line 4")
    write(tmp_path, "sts", "test", ["\tid\tsentence1\tsentence2", f"0\ta\t{empty}\tB", "1\tb\tA\tB"])
    assert [example.texts[1] for example in read(TASKS["sts"], "test", tmp_path).examples] == ["B", "B"]


@pytest.mark.fault(37)
def test_a_class_that_train_lacks_is_a_warning(tmp_path):
    write(tmp_path, "sst", "train", [line for line in SST if line[-1] not in "13"])
    assert [warning.partition(".csv: ")[2] for warning in read(TASKS["sst"], "train", tmp_path).warnings] == [
        "no row has sentiment 1, 3: it cannot be learnt"
    ]
    write(tmp_path, "sst", "dev", SST[:2])
    assert not any("learnt" in line for line in read(TASKS["sst"], "dev", tmp_path).warnings)


@pytest.mark.fault(32)
def test_a_repeated_id_is_a_warning_in_train_and_an_error_elsewhere(tmp_path):
    lines = with_line(PARA, 8, "6\tid2\tA\tB\t1")
    write(tmp_path, "para", "train", lines)
    found = read(TASKS["para"], "train", tmp_path)
    assert len(found.examples) == 10
    assert [warning.partition(".csv: ")[2] for warning in found.warnings] == ["1 of 10 rows has a repeated id; line 8"]
    for split in ("dev", "test"):
        message = error_of(tmp_path, "para", split, lines)
        assert message.startswith(f"{TASKS['para'].files[split]}:8: ")
        assert "found 'id2', as in line 4" in message


@pytest.mark.fault(30)
def test_all_rows_with_a_fault_are_named_at_once(tmp_path):
    lines = with_line(with_line(with_line(SST, 4, "2\tid2\tA\t7"), 6, "4\tid4\tA\tgood"), 9, "7\tid7\tA\t-1")
    message = error_of(tmp_path, "sst", "train", lines)
    assert ".csv:4: expected one of 0, 1, 2, 3, 4 as sentiment; found '7'; correct the row; " in message
    assert message.endswith("; the first lines with a fault: 4, 6, 9")


@pytest.mark.fault(30)
@pytest.mark.parametrize(("task", "cell"), [
    ("sst", "5"), ("para", "0.5"), ("sts", "5.1"), ("sts", "9" * 400),  # others: tests/test_tasks.py
])  # fmt: skip
def test_a_label_that_is_none_of_the_task_s(tmp_path, task, cell):
    row = "\t".join(["2", "id2"] + ["A"] * len(TASKS[task].texts) + [cell])
    message = error_of(tmp_path, task, "dev", with_line(GOOD[task], 4, row))
    label = {"sst": "one of 0, 1, 2, 3, 4 as sentiment", "para": "one of 0, 1 as is_duplicate"}
    expected = label.get(task, "a number from 0 to 5 as similarity")
    assert message.startswith(f"{TASKS[task].files['dev']}:4: expected {expected}; found '{cell[:5]}")


@pytest.mark.parametrize("cell", ["", " ", '"a\nb"', '"a\n"', "a , b", "a ,"])
@pytest.mark.parametrize("split", SPLITS)
def test_an_id_that_no_prediction_file_could_hold(tmp_path, split, cell):
    message = error_of(tmp_path, "sst", split, with_line(SST, 3, f"1\t{cell}\tA text\t1"))
    assert message.startswith(f"{TASKS['sst'].files[split]}:3: expected an id")


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
])  # fmt: skip
def test_rows_that_are_no_rows_are_named_by_their_first_line(tmp_path, row, number):
    message = error_of(tmp_path, "para", "dev", with_line(PARA, 5, row))
    assert message.startswith(f"quora-dev.csv:{number}: expected 5 fields")


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
                assert len(read(TASKS["para"], "train", tmp_path).examples) == 10
            except DataError as error:
                assert re.search(r"csv:[46]: ", str(error))


@pytest.mark.fault(35)
@pytest.mark.parametrize("bad", [b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_nul_and_bad_utf8_are_named_by_their_line(tmp_path, bad):
    content = b"\xef\xbb\xbf" + "\n".join(SST).encode().replace(b"text 4", b"text " + bad)
    message = error_of(tmp_path, "sst", "train", content)
    assert message.startswith(f"ids-sst-train.csv:6: expected text in UTF-8; found byte 0x{bad[0]:02x}")
    assert error_of(tmp_path, "sst", "train", "\n".join(SST).encode("utf-16")).startswith("ids-sst-train.csv:1: ")


@pytest.mark.fault(28)
@pytest.mark.parametrize("content", ["", "\n", "\ufeff", "\r\n\r\n"])
def test_an_empty_file_or_only_a_header(tmp_path, content):
    assert "empty file" in error_of(tmp_path, "sts", "dev", content)
    assert "only a header" in error_of(tmp_path, "sts", "train", content + STS[0])


@pytest.mark.fault(28)
@pytest.mark.parametrize(("header", "needed", "nearest"), [
    ("\tid\tSentence\tsentiment", "sentence", "did you mean Sentence?"),
    ("\tid\tsentence\tsentimant", "sentiment", "did you mean sentimant?"),
    ("\tid\tsentence\tid", "id", "found 2 among"),
    ('"\tid\tsentence\tsentiment"', "id", "found 0 among"),
])  # fmt: skip
def test_a_column_that_is_missing_or_doubled(tmp_path, header, needed, nearest):
    message = error_of(tmp_path, "sst", "train", [header, header])
    assert message.startswith(f"ids-sst-train.csv:1: expected one column '{needed}'")
    assert nearest in message


@pytest.mark.fault(28)
def test_a_file_that_is_missing_or_no_file(tmp_path):
    (tmp_path / "ids-sst-trian.csv").touch()
    message = error_in(tmp_path, TASKS["sst"])
    assert re.match(r"ids-sst-train\.csv: expected a file.* did you mean ids-sst-trian\.csv\?.*data\.download", message)
    (tmp_path / "sts-train.csv").mkdir()
    assert error_in(tmp_path, TASKS["sts"]).startswith("sts-train.csv: expected a file")


ROWS = [
    {"uid": "a, b", "one": "He said: \"no\".", "two": "Line\nbreak, 😀", "gold": "yes"},
    {"uid": "é", "one": " kept  ", "two": "x;y", "gold": "no"},
    {"uid": "3 , 4", "one": "\ttab", "two": "z", "gold": "yes"},
]  # fmt: skip


def own_task(folder: Path, ending: str, **changes) -> Task:
    files = {split: f"{split}{ending}" for split in SPLITS}
    task = Task("own", "binary", ("one", "two"), "gold", files, str(folder), "uid", classes=("no", "yes"))
    return replace(task, **changes)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_all_formats_give_the_same_examples(tmp_path, ending):
    for split in SPLITS:
        write_rows(tmp_path / f"{split}{ending}", ROWS)
        found = read(own_task(tmp_path, ending), split).examples
        assert [(e.id, *e.texts) for e in found] == [tuple(row.values())[:3] for row in ROWS]
        assert [e.label for e in found] == ([None] * 3 if split == "test" else [1, 0, 1])
        assert [e.line for e in found] == ([1, 2, 3] if ending == ".jsonl" else [2, 4, 5])
        assert [e.id for e in read(own_task(tmp_path, ending, id=None), split).examples] == ["1", "2", "3"]


def test_json_may_hold_numbers_booleans_lists_and_null(tmp_path):
    lines = '{"uid": 7, "a": "A", "l": 3, "b": true, "n": ["x", "y"]}\n\n{"uid": 8.5, "a": null, "n": [], "b": false}'
    (tmp_path / "dev.jsonl").write_text(lines)
    task = own_task(tmp_path, ".jsonl", texts=("a",))
    for changes, labels in [
        ({"label": "l", "range": (1.0, 7.0)}, [3.0, None]),
        ({"label": "b", "classes": ("false", "true")}, [1, 0]),
        ({"label": "n", "classes": ("x", "z", "y"), "several": True}, [(0, 2), ()]),
    ]:
        found = read(replace(task, **changes), "dev").examples
        assert [(e.id, e.texts, e.label, e.line) for e in found] == [
            ("7", ("A",), labels[0], 1), ("8.5", ("",), labels[1], 3)
        ]  # fmt: skip


def test_several_labels_in_a_cell(tmp_path):
    (tmp_path / "dev.csv").write_text("t,l\nA,x | y\nB,z\nC,|\nD,\n")
    task = own_task(tmp_path, ".csv", texts=("t",), label="l", id=None, classes=("x", "y", "z"), several=True)
    labels = [example.label for example in read(replace(task, separator="|"), "dev").examples]
    assert labels == [(0, 1), (2,), (), None]  # the separator alone: none of them
    (tmp_path / "dev.csv").write_text('t,l\nA,x y\nB," "\nC,\n')
    labels = [example.label for example in read(replace(task, separator=" "), "dev").examples]
    assert labels == [(0, 1), (), None]


@pytest.mark.fault(49)
@pytest.mark.parametrize(("cell", "kind", "expected"), [
    ('"high"', {"range": (1.0, 7.0)}, "a number from 1 to 7"), ("true", {"range": (0.0, 1.0)}, "a number from 0 to 1"),
    ('"maybe"', {}, "one of no, yes"), ("[]", {}, "one of no, yes"), ('"yess"', {}, "did you mean yes?"),
    ('["no", "yess"]', {"several": True}, "some of no, yes"), ("{}", {"several": True}, "some of no, yes"),
    ('["no", "yes", "no"]', {"several": True}, "some of no, yes, each once as gold"),
    ('"z"', {"range": (1.0, 7.0)}, "correct the row, or the task's range"), ('"z"', {}, "row, or the task's classes"),
    ('"a"', {"classes": tuple(f"class {n}" for n in range(900))}, "class 1, class 2, class 3,"),
    ("NaN", {"range": (1.0, 7.0)}, "a number from 1 to 7"), ("1" * 4000, {"range": (1.0, 7.0)}, "a number from 1 to 7"),
])  # fmt: skip
def test_a_label_that_no_kind_takes_is_named_by_its_line(tmp_path, cell, kind, expected):
    (tmp_path / "train.jsonl").write_text(f'\n\n{{"uid": "a", "one": "A", "two": "B", "gold": {cell}}}\n')
    message = error_in(tmp_path, own_task(tmp_path, ".jsonl", **kind))
    assert message.startswith("train.jsonl:3: expected ") and " as gold; found " in message
    assert expected in message and len(message) < 400


@pytest.mark.fault(34)
@pytest.mark.parametrize(("ending", "row"), [
    (".csv", "1,A,B"), (".csv", '1,"A,B,no'), (".csv", '1,"A" x,B,no'), (".tsv", "1\tA\tB\tno\t"),
    (".jsonl", '{"uid": 1'), (".jsonl", "[1, 2]"), (".jsonl", '"' + "[" * 9), (".jsonl", "[" * 99_999),
    (".jsonl", '{"uid": "\\ud800"}'), (".jsonl", '{"uid": 1, "one": 2, "two": "B", "gold": "no"}'),
    (".jsonl", '{"one": "A", "two": "B", "gold": "no"}'), (".jsonl", '{"uid": 1, "one": "A", "gold": "no"}'),
    (".jsonl", '{"uid": 1, "one": "A", "one": "C", "two": "B", "gold": "no"}'),
])  # fmt: skip
def test_rows_that_are_none_are_named_by_their_line(tmp_path, ending, row):
    write_rows(tmp_path / f"train{ending}", [{"uid": "a", "one": "A", "two": "B", "gold": "no"}])
    with open(tmp_path / f"train{ending}", "a") as file:
        file.write(row + "\n")
    lines = (tmp_path / f"train{ending}").read_text().count("\n")
    assert error_in(tmp_path, own_task(tmp_path, ending)).startswith(f"train{ending}:{lines}: expected ")


@given(
    labels=st.lists(st.integers(0, 2), min_size=2, max_size=83),
    share=st.sampled_from([0.1, 0.25, 0.5, 0.9]),
    seed=st.integers(0, 5),
)
def test_a_share_of_train_is_drawn_by_the_seed_and_keeps_every_class_s_share(tmp_path_factory, labels, share, seed):
    folder = tmp_path_factory.getbasetemp()
    write_rows(folder / "share.csv", [{"t": f"text {n}", "l": label} for n, label in enumerate(labels)])
    files = {"train": "share.csv", "dev": share}
    task = Task("own", "classes", ("t",), "l", files, str(folder), classes=(0, 1, 2))
    if round(share * len(labels)) == len(labels):
        return
    train, dev = (read(task, split, seed=seed) for split in ("train", "dev"))
    ids = [[int(example.id) for example in split.examples] for split in (train, dev)]
    assert sorted(ids[0] + ids[1]) == list(range(1, len(labels) + 1))
    assert ids == [sorted(part) for part in ids]
    assert len(ids[1]) == max(1, round(share * len(labels)))
    other = read(task, "dev", seed=seed + 1)
    assert (other.contents == dev.contents) == (other.examples == dev.examples)
    whole, drawn = Counter(labels), Counter(example.label for example in dev.examples)
    assert all(abs(drawn[label] - len(ids[1]) * whole[label] / len(labels)) <= 1 for label in whole)
    assert [e.id for e in read(task, "dev", seed=seed).examples] == [e.id for e in dev.examples]


def test_the_share_depends_on_seed_and_name_alone(tmp_path):
    write_rows(tmp_path / "t.csv", [{"id": n, "t": f"text {n}", "l": n % 3} for n in range(60)])
    task = Task("own", "classes", ("t",), "l", {"train": "t.csv", "dev": 0.1}, str(tmp_path), "id", classes=(0, 1, 2))
    drawn = [[int(e.id) for e in read(t, "dev", seed=s).examples] for t, s in
             ((task, 0), (task, 1), (replace(task, name="other"), 0))]  # fmt: skip
    assert drawn[0] != drawn[1] and drawn[0] != drawn[2]
    assert drawn[0] == [0, 2, 10, 23, 49, 51]  # as first written: runs must be resumable with later versions
    write_rows(tmp_path / "t.csv", [{"id": n % 59, "t": f"text {n}", "l": n % 3} for n in range(60)])
    for split in ("train", "dev"):
        assert error_in(tmp_path, task, split).startswith("t.csv:61: expected each id once")


PIECES = st.sampled_from([b"\t", b"\n", b"\r", b'"', b'""', b"\0", b"\xff", b" ", b"", b"9", b",", b"nan", b"]"])


@given(
    ending=st.sampled_from(["", ".csv", ".tsv", ".jsonl"]),
    split=st.sampled_from(SPLITS),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), PIECES | st.binary(max_size=9)), max_size=4),
)
def test_a_damaged_file_is_a_split_or_a_data_error(tmp_path_factory, ending, split, changes):
    folder = tmp_path_factory.getbasetemp()
    task = own_task(folder, ending) if ending else TASKS["para"]
    path = task.path(split, folder)
    if ending:
        write_rows(path, ROWS)
    else:
        write(folder, "para", split, PARA)
    content = path.read_bytes()
    for start, removed, piece in changes:
        content = content[:start] + piece + content[start + removed :]
    path.write_bytes(content)
    try:
        found = read(task, split, folder)
    except DataError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert found.examples
    assert all(len(example.texts) == 2 for example in found.examples)
    if split == "train":
        assert all(example.label is not None and all(map(str.strip, example.texts)) for example in found.examples)
    else:
        assert len({example.id for example in found.examples}) == len(found.examples)


COUNTS = {"sst": (8544, 1101, 2210), "para": (22646, 6214, 14000), "sts": (6040, 863, 1725), "cfimdb": (1707, 245, 488)}


@pytest.mark.skipif(not COURSE.is_dir(), reason=f"the course files are not in {COURSE}")
@pytest.mark.parametrize("task", TASKS)
def test_the_course_files(task):
    """The Quora ones are cut down; each one with labels has two rows without, as the whole ones do."""
    for split, rows in zip(SPLITS, COUNTS[task], strict=True):
        found = read(TASKS[task], split, COURSE)
        unlabelled = 2 if task == "para" and split != "test" else 0
        assert len(found.examples) == rows - (unlabelled if split == "train" else 0)
        if split == "dev":
            assert sum(example.label is None for example in found.examples) == unlabelled
        assert len(found.warnings) == (1 if unlabelled else 0)


def test_fifths_of_a_narrow_range_stay_apart():
    years = Task("year", "score", ("a",), "y", {"train": "t.csv", "dev": 0.1}, range=(2015.0, 2024.0))
    counts = label_counts(years, [Example("x", ("a",), label, 1) for label in (2015, 2016, 2020, 2024)])
    assert counts == {
        "2015..2016.8": 2,
        "2016.8..2018.6": 0,
        "2018.6..2020.4": 1,
        "2020.4..2022.2": 0,
        "2022.2..2024": 1,
    }
