"""data/tasks.py against the formats that others fix: file names, columns, headers, to the byte."""

from __future__ import annotations

import pytest

import data
from data import find_data_dir
from data.tasks import SPLITS, TASKS, DataError, file_name

COURSE_FILES = {
    "sst": ["ids-sst-train.csv", "ids-sst-dev.csv", "ids-sst-test-student.csv"],
    "para": ["quora-train.csv", "quora-dev.csv", "quora-test-student.csv"],
    "sts": ["sts-train.csv", "sts-dev.csv", "sts-test-student.csv"],
}


def test_file_names_are_the_course_s():
    assert {task: [file_name(task, split) for split in ("train", "dev", "test")] for task in TASKS} == COURSE_FILES


@pytest.mark.parametrize(
    ("task", "file", "header"),
    [
        ("sst", "sst-test-output.csv", "id \t Predicted_Sentiment \n"),
        ("para", "para-test-output.csv", "id \t Predicted_Is_Paraphrase \n"),
        ("sts", "sts-test-output.csv", "id \t Predicted_Similiary \n"),
    ],
)
def test_prediction_files_are_the_leaderboard_s(task, file, header):
    assert TASKS[task].prediction_file.format(split="test") == file
    assert TASKS[task].prediction_header == header


def test_a_data_error_is_a_value_error_that_exits_with_3():
    assert issubclass(DataError, ValueError)
    assert DataError.exit_code == 3


def test_the_course_files_are_taken_where_all_nine_are_there_and_the_sample_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DEFAULT_DIR", tmp_path)
    names = [file_name(task, split) for task in TASKS for split in SPLITS]
    for name in names:
        assert find_data_dir() == (data.SAMPLE_DIR, "embedded synthetic sample")
        (tmp_path / name).touch()
    assert find_data_dir() == (tmp_path, "course files")
