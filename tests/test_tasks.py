"""data/tasks.py against the formats that others fix, and labels as files hold them against numbers."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data
from data import find_data_dir
from data.tasks import LEADERBOARD, SPLITS, TASKS, Task, choose_tasks
from heads.files import read_task
from runtime.errors import UsageError

COURSE_FILES = {
    "sst": ["ids-sst-train.csv", "ids-sst-dev.csv", "ids-sst-test-student.csv"],
    "para": ["quora-train.csv", "quora-dev.csv", "quora-test-student.csv"],
    "sts": ["sts-train.csv", "sts-dev.csv", "sts-test-student.csv"],
    "cfimdb": ["ids-cfimdb-train.csv", "ids-cfimdb-dev.csv", "ids-cfimdb-test-student.csv"],
}
FILES = {"train": "t.csv", "dev": 0.1}
NAMES = Task("own", "labels", ("a",), "l", FILES, "/own", classes=("x", "y", "2"), several=True)


def test_files_are_the_course_s():
    assert {name: [task.files[split] for split in SPLITS] for name, task in TASKS.items()} == COURSE_FILES


@pytest.mark.parametrize("task", [*TASKS.values(), NAMES])
def test_a_task_goes_through_json_unchanged(task):
    assert read_task(json.loads(json.dumps(task.to_json()))) == task
    nowhere = read_task(json.loads(json.dumps(task.to_json(files=False))))
    assert (nowhere.files, nowhere.folder, nowhere.kind, nowhere.classes) == ({}, None, task.kind, task.classes)


@pytest.mark.fault(57)
@pytest.mark.parametrize("files", [{"dev": share} for share in (1, 0, 0.0, -0.5, 3.0)] + [{"train": 0.5}])
def test_damaged_files_of_a_task_are_refused(files):
    with pytest.raises(ValueError, match=re.escape(str(files)[1:-1])):
        read_task(json.loads(json.dumps(NAMES.to_json() | {"files": FILES | files})))


@given(st.integers(0, 4), st.floats(0, 5), st.lists(st.sampled_from([0, 1, 2]), unique=True))
def test_labels_are_numbers_of_classes_or_numbers(whole, number, several):
    for cell in (whole, str(whole), f" {whole}.0 ", float(whole)):
        assert TASKS["sst"].parse(cell) == whole
    assert TASKS["sts"].parse(number) == TASKS["sts"].parse(repr(number)) == number
    names = [NAMES.classes[n] for n in several]
    assert NAMES.parse(names) == NAMES.parse(" ; ".join(names)) == tuple(sorted(several))


@pytest.mark.parametrize(("task", "cell"), [
    *(("sst", cell) for cell in ("5", "-1", "2.7", "nan", "inf", "good", "0_1", "1e400", [1], {}, True)),
    *(("para", cell) for cell in ("0.5", "2", "yes")),
    *(("sts", cell) for cell in ("5.1", "-0.1", "3,4", "nan", "-inf", "1_0", "9" * 400, [1.0], True, 10**400)),
    ("own", "x;z"), ("own", ["x", None]), ("own", 3), ("own", ["x", "y", "x"]), ("own", "2;2.0"),
])  # fmt: skip
def test_what_is_no_label_is_a_value_error(task, cell):
    with pytest.raises(ValueError):
        {**TASKS, "own": NAMES}[task].parse(cell)


def test_the_course_files_are_taken_where_all_of_these_tasks_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DEFAULT_DIR", tmp_path)
    tasks = [TASKS[name] for name in LEADERBOARD]
    for name in (name for task in LEADERBOARD for name in COURSE_FILES[task]):
        assert find_data_dir([*tasks, NAMES]) == (data.SAMPLE_DIR, "embedded synthetic sample")
        (tmp_path / name).touch()
    assert find_data_dir([*tasks, NAMES]) == (tmp_path, "course files")
    assert find_data_dir([TASKS["cfimdb"]])[0] == data.SAMPLE_DIR


def test_a_message_names_no_option_of_another_program():
    with pytest.raises(UsageError, match=r"^--tasks: expected one of sst, para, sts, cfimdb; found 'nli'"):
        choose_tasks(["nli"], TASKS, task_file=False)
