"""The three tasks as data: their files, columns, label ranges, metrics and prediction files."""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = {"train": "train", "dev": "dev", "test": "test-student"}  # our name of a split -> the course's, in file names


class DataError(ValueError):
    """A data file that cannot be used; `exit_code` is what the scripts leave with."""

    exit_code = 3


@dataclass(frozen=True)
class Task:
    """What tells one task from another. Patterns are filled in by `str.format`."""

    file: str  # input file, with {split} as in SPLITS
    texts: tuple[str, ...]  # columns of the sentence or the two sentences
    label: str  # column of the label, absent from test files
    low: int  # smallest label
    high: int  # largest label
    whole: bool  # labels are the classes low..high; else every real number from low to high
    metric: str  # main metric, as in metrics.json
    prediction_file: str  # with {split} as train, dev, test
    prediction_header: str  # first line of the prediction file, new line included


TASKS = {
    "sst": Task(  # the paper prints its labels as 0, 1, 2, 3, 5; the files have 0 to 4
        file="ids-sst-{split}.csv",
        texts=("sentence",),
        label="sentiment",
        low=0,
        high=4,
        whole=True,
        metric="sst_acc",
        prediction_file="sst-{split}-output.csv",
        prediction_header="id \t Predicted_Sentiment \n",
    ),
    "para": Task(
        file="quora-{split}.csv",
        texts=("sentence1", "sentence2"),
        label="is_duplicate",
        low=0,
        high=1,
        whole=True,
        metric="para_acc",
        prediction_file="para-{split}-output.csv",
        prediction_header="id \t Predicted_Is_Paraphrase \n",
    ),
    "sts": Task(
        file="sts-{split}.csv",
        texts=("sentence1", "sentence2"),
        label="similarity",
        low=0,
        high=5,
        whole=False,
        metric="sts_pearson",
        prediction_file="sts-{split}-output.csv",
        prediction_header="id \t Predicted_Similiary \n",  # the misspelling is official
    ),
}


def file_name(task: str, split: str) -> str:
    """The course's name of a task's file: ("sst", "test") -> "ids-sst-test-student.csv"."""
    return TASKS[task].file.format(split=SPLITS[split])
