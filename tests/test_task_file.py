"""data/task_file.py: tasks as their TOML file says, the rest from the labels; every mistake by its place."""

from pathlib import Path

import pytest
from own_tasks import make_own_tasks, write_rows

from data.reader import read
from data.task_file import load
from data.tasks import TASKS, Task
from heads.kinds import KINDS
from runtime.errors import DataError, UsageError

GOOD = {
    "kind": "classes", "texts": ["a", "b"], "label": "gold", "classes": ["x", "y"], "train": "t.csv", "dev": 0.25,
}  # fmt: skip


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)  # of our lists, numbers and strings


def task_file(folder: Path, name: str = "own", **changes) -> Path:
    """GOOD with changes; None takes a key away."""
    lines = [f"{key} = {toml(value)}" for key, value in (GOOD | changes).items() if value is not None]
    path = folder / "my.toml"
    path.write_text("\n".join([f"[tasks.{name}]", *lines]), encoding="utf-8")
    return path


def with_labels(folder: Path, labels: list, **changes) -> Path:
    """A task file with neither kind nor classes, and its train file with these labels: JSON where one is no text."""
    ending = ".csv" if {*map(type, labels)} == {str} else ".jsonl"
    write_rows(folder / f"t{ending}", [{"a": f"text {n}", "b": "B", "gold": label} for n, label in enumerate(labels)])
    return task_file(folder, **({"kind": None, "classes": None, "train": f"t{ending}"} | changes))


def error_of(path: Path, kind: type[Exception] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        load(path, KINDS)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_the_tasks_of_a_file_are_resolved_and_can_be_read(tmp_path, monkeypatch):
    path = make_own_tasks(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    tasks = load(path.relative_to(tmp_path.parent), KINDS)
    assert tasks["nli"] == Task(
        name="nli", kind="classes", texts=("premise", "hypothesis"), label="gold",
        files={split: f"nli-{split}.jsonl" for split in ("train", "dev", "test")}, folder=str(tmp_path), id="uid",
        classes=("entailment", "neutral", "contradiction"), metric="macro_f1",
    )  # fmt: skip
    urgency, topics, mood = (tasks[name] for name in ("urgency", "topics", "mood"))
    assert (urgency.kind, urgency.range, urgency.metric, urgency.batch_size) == ("score", (1.0, 7.0), "pearson", 7)
    assert (topics.kind, topics.classes, topics.several) == ("labels", ("animals", "music", "people"), True)
    assert (topics.metric, topics.batch_size, topics.loss_scale) == ("micro_f1", 16, 0.5)
    assert (mood.kind, mood.classes, mood.several, mood.metric) == ("binary", ("glad", "sad"), False, "acc")
    rows = {name: [len(read(task, split).examples) for split in task.splits] for name, task in tasks.items()}
    assert rows == {"nli": [140, 40, 20], "urgency": [63, 7], "topics": [60, 20], "mood": [60, 20]}


@pytest.mark.parametrize(("labels", "changes", "kind", "classes", "bounds"), [
    (["b", "a", "b"], {}, "binary", ("a", "b"), None),
    (["0.0", "1.0", "1"], {}, "binary", (0, 1), None),
    (["10", "9", "9.0", " 1 "], {}, "classes", (1, 9, 10), None),
    (["1", "2", "x"], {}, "classes", ("1", "2", "x"), None),
    (["1", "2.5", "3", ""], {}, "score", (), (1.0, 3.0)),
    (["1", "2", "x", "2.5"], {}, "classes", ("1", "2", "2.5", "x"), None),
    (["3", "1"], {"kind": "score"}, "score", (), (1.0, 3.0)),
    (["3", "1"], {"range": [0, 5]}, "score", (), (0.0, 5.0)),
    (["3", "1"], {"classes": [3, 2, 1]}, "classes", (3, 2, 1), None),
    (["1.5", "0.5"], {"kind": "classes"}, "classes", ("0.5", "1.5"), None),
    (["b; a", "c"], {"separator": ";"}, "labels", ("a", "b", "c"), None),
    (["b;a", "c"], {"kind": "labels"}, "labels", ("a", "b", "c"), None),
    (["b  a", "c"], {"separator": " "}, "labels", ("a", "b", "c"), None),
    (["01", "1", "007"], {}, "classes", ("007", "01", "1"), None),
    (["b;a", "c;d"], {}, "binary", ("b;a", "c;d"), None),
    (["x", "z", "y"], {"kind": "binary"}, "binary", ("x", "y"), None),  # z is refused where it is read
    (["1", "2", "high"], {"kind": "score"}, "score", (), (1.0, 2.0)),
    ([*"123456789", "2.5", "high"], {}, "score", (), (1.0, 9.0)),  # one bad cell of many makes no class of each number
    (["-0", "1"], {}, "binary", (0, 1), None),
    ([["b", "a"], [], ["c"]], {}, "labels", ("a", "b", "c"), None),
    ([[True, "b"], [False]], {}, "labels", ("b", "false", "true"), None),
    ([True, False, None], {}, "binary", ("false", "true"), None),
    ([0, 2, 1], {}, "classes", (0, 1, 2), None),
    ([1, 1.0, "1.00", "none", "2.0"], {}, "classes", ("1", "2.0", "none"), None),  # 1.0 is the class 1
    (["1", "1.5", "1.5.0", "1.0.0"], {}, "classes", ("1", "1.0.0", "1.5", "1.5.0"), None),  # versions
])  # fmt: skip
def test_what_the_file_leaves_out_is_seen_from_the_labels(tmp_path, labels, changes, kind, classes, bounds):
    task = load(with_labels(tmp_path, labels, **changes), KINDS)["own"]
    assert (task.kind, task.classes, task.range, task.several) == (kind, classes, bounds, kind == "labels")
    readable = not any(label in ("", None, "z", "high") for label in labels)
    for example in read(task, "train").examples + read(task, "dev").examples if readable else []:
        assert example.label is not None  # every label in train is one of the task's


@pytest.mark.fault(49)
@pytest.mark.parametrize("labels", [
    [["x", None], ["y"]], [["x", {}], ["y"]], ["x", "y", float("nan")], [1.5, 2.5, float("nan")],
    ["x", "y", {"name": "x"}],
])  # fmt: skip
@pytest.mark.parametrize("separator", [None, ";"])
def test_what_names_no_class_in_json_makes_none(tmp_path, labels, separator):
    """It is refused with its line, as where the task file lists the classes."""
    task = load(with_labels(tmp_path, labels, separator=separator), KINDS)["own"]
    assert not {"None", "nan", "{}"} & {*map(str, task.classes)} and len(task.classes) == 2
    with pytest.raises(DataError, match=r"t.jsonl:\d: expected .* as gold; found "):
        read(task, "train")


def test_labels_too_large_to_be_read_back(tmp_path):
    """As nanoseconds since 1970 are: heads.json could be written with them, but not read."""
    for labels in (["1.5e18", "1e18"], ["1e18", "0"]):
        assert " range: expected ends of at most" in error_of(with_labels(tmp_path, labels, kind="score"))


def test_a_task_that_says_everything_is_not_read(tmp_path):
    assert load(task_file(tmp_path), KINDS)["own"].classes == ("x", "y")  # there is no t.csv
    assert "t.csv: expected a file; found none" in error_of(task_file(tmp_path, kind=None), DataError)


@pytest.mark.fault(48)
@pytest.mark.parametrize(("changes", "place", "expected", "found"), [
    ({"lable": "x"}, "", "one of kind, label, id", "'lable'; did you mean label?"),
    ({"kind": "clases"}, " kind", "one of classes, binary, score, labels", "'clases'; did you mean classes?"),
    ({"kind": 3}, " kind", "a text", "3"),
    ({"texts": "a"}, " texts", "a list of one column or two", "'a'"),
    ({"texts": ["a", "b", "c"]}, " texts", "a list of one column or two", "['a', 'b', 'c']"),
    ({"texts": ["a", "a"]}, " texts", "a list of one column or two", "['a', 'a']"),
    ({"texts": None}, " texts", "a list of one column or two", "none"),
    ({"label": " "}, " label", "a text", "' '"),
    ({"classes": ["x"]}, " classes", "a list of names, or of whole numbers", "['x']"),
    ({"classes": ["x", 1]}, " classes", "a list of names, or of whole numbers", "['x', 1]"),
    ({"classes": ["x", "x"]}, " classes", "a list of names, or of whole numbers", "['x', 'x']"),
    ({"kind": "binary", "classes": ["x", "y", "z"]}, " classes", "two, for the kind is binary", "['x', 'y', 'z']"),
    ({"range": [1, 7]}, " range", "none, for the kind is classes", "[1, 7]"),
    ({"kind": "score"}, " classes", "none, for the kind is score", "['x', 'y']"),
    *(({"kind": "score", "classes": None, "range": bounds}, " range", "two numbers, low and high", str(bounds))
      for bounds in ([7, 1], [1, 1], [1], [1, 2, 3], ["1", "2"], [1, float("inf")], [float("nan"), 1])),
    ({"kind": "score", "classes": None, "range": [100_000, 100_009]}, " range", "ends of at most 10,000 times",
     "100000 to 100009"),
    ({"kind": "score", "classes": None, "range": [0, 10**18]}, " range", "two numbers", "[0, 1000000000000000000]"),
    ({"classes": [1, 10**18]}, " classes", "a list of names, or of whole numbers", "[1, 1000000000000000000]"),
    ({"separator": ""}, " separator", "a text, or a space", "''"),
    ({"separator": ";"}, " separator", "none, for the kind is classes", "';'"),
    ({"texts": ["a"], "pairs": "cross"}, " pairs", "none, for the texts are single", "'cross'"),
    ({"label": "a"}, " label", "a column other than the texts", "'a'"),
    ({"kind": "labels", "classes": ["x", "(none)"]}, " classes", "names other than (none)", "['x', '(none)']"),
    ({"train": "t.xlsx"}, " train", "a .csv, .tsv or .jsonl file", "'t.xlsx'"),
    *(({"dev": dev}, " dev", "a .csv, .tsv or .jsonl file, or a share", toml(dev)) for dev in (0.0, 1.0, 1, -0.1, "d")),
    ({"dev": None}, " dev", "a .csv, .tsv or .jsonl file, or a share", "none"),
    ({"kind": "labels", "classes": ["a;b", "c"]}, " separator", "one that none of ['a;b', 'c'] holds", "';'"),
    *(({"meaning": text}, " meaning", "a line of 99 letters at most", repr(text)) for text in ("x" * 100, 3, "")),
    ({"pairs": "crossed"}, " pairs", "siamese or cross or both", "'crossed'"),
    *(({"batch_size": size}, " batch_size", "a whole number, 1 or more", repr(size)) for size in (0, 2.0, True, "8")),
    *(({"loss_scale": scale}, " loss_scale", "a number above 0", repr(scale)) for scale in (0, -1.5, "1")),
    ({"metric": "pearson"}, " metric", "one of acc, macro_f1", "'pearson'"),
    ({"metric": "macro"}, " metric", "one of acc, macro_f1", "'macro'; did you mean macro_f1?"),
])  # fmt: skip
def test_a_mistake_is_told_with_key_expected_found_and_nearest(tmp_path, changes, place, expected, found):
    message = error_of(task_file(tmp_path, **changes))
    assert message.startswith(f"{tmp_path}/my.toml: [tasks.own]{place}: expected {expected}")
    assert f"; found {found}" in message


def test_a_meaning_is_one_line_without_what_moves_a_cursor(tmp_path):
    path = task_file(tmp_path, meaning="1: yes")
    assert load(path, KINDS)["own"].explained == "one of x, y (1: yes)"
    text = path.read_text()
    for escaped in ("\\n", "\\u001b"):
        path.write_text(text.replace("'1: yes'", f'"1{escaped}"'))
        assert "meaning: expected a line of 99 letters at most" in error_of(path)


@pytest.mark.fault(48)
@pytest.mark.parametrize(("text", "found"), [
    ("[tasks.a]\nx = 1\n[tasks.a]\n", "line 3"), ("[tasks.a]\nx = 1\nx = 2\n", "line 3"), ("[tasks.a\n", "line 1"),
    ("\xff", "utf-8"), ("", "found nothing"), ("kind = 'classes'", "found kind"), ("[tasks]", "found tasks"),
    ("tasks = 3", "found tasks"), ("[task.a]", "found task"), ("[tasks.a]\n[other]\n", "found tasks, other"),
    ("[tasks]\na = 3", "found tasks"),
    *((f"[tasks.{name}]", "a name of letters, digits, _ and -, other than all, sst, para, sts, cfimdb; found")
      for name in ("all", '"a b"', "'\xe4'", '""', "'a.b'", *TASKS)),
])  # fmt: skip
def test_what_is_no_task_file(tmp_path, text, found):
    (tmp_path / "my.toml").write_bytes(text.encode("latin-1" if text == "\xff" else "utf-8"))
    message = error_of(tmp_path / "my.toml")
    assert message.startswith(f"{tmp_path}/my.toml: ")
    assert found in message
    assert str(tmp_path / "none.toml") in error_of(tmp_path / "none.toml")


@pytest.mark.fault(48)
def test_files_and_columns_that_are_not_there(tmp_path):
    path = with_labels(tmp_path, ["x", "y", "x"])
    message = error_of(task_file(tmp_path, kind=None, label="glod"), DataError)
    assert "t.csv:1: expected one column 'glod'; found 0" in message
    assert "did you mean gold?" in message
    (tmp_path / "t.csv").rename(tmp_path / "tt.csv")
    assert "t.csv: expected a file; found none" in error_of(path, DataError)
    assert "did you mean tt.csv?" in error_of(path, DataError)


@pytest.mark.fault(49)
@pytest.mark.parametrize(("labels", "kind"), [("xx", None), ([""], None), ("22", "score"), ("x", "score")])
def test_labels_that_are_all_alike(tmp_path, labels, kind):
    message = error_of(with_labels(tmp_path, labels, kind=kind), DataError)
    assert "t.csv: expected two different labels or more in 'gold'" in message
