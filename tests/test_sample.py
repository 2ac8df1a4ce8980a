"""tools/make_sample.py and the files that it wrote into data/sample/."""

import csv
import re

import pytest

from data import SAMPLE_DIR
from data.reader import read
from data.tasks import LEADERBOARD, TASKS
from tools.make_sample import SIZES, main

NAMES = sorted(TASKS[task].files[split] for task in LEADERBOARD for split in SIZES)


def rows(task: str, split: str) -> list[dict[str, str]]:
    with open(SAMPLE_DIR / TASKS[task].files[split], encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def texts(task: str, split: str) -> list[tuple[str, ...]]:
    """A row's one or two texts as the models see them: in lower case."""
    return [tuple(row[name].lower() for name in TASKS[task].texts) for row in rows(task, split)]


def test_generator_writes_the_committed_bytes(tmp_path):
    main(["--output_dir", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert sorted(path.name for path in SAMPLE_DIR.glob("*.csv")) == NAMES
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (SAMPLE_DIR / name).read_bytes(), name


@pytest.mark.parametrize("task", LEADERBOARD)
def test_it_is_read_without_a_warning(task):
    """Every row, with a label that its task takes, in test with none."""
    for split, size in SIZES.items():
        found = read(TASKS[task], split, SAMPLE_DIR)
        assert len(found.examples) == size and not found.warnings
        assert all((example.label is None) == (split == "test") for example in found.examples)


@pytest.mark.parametrize("task", LEADERBOARD)
def test_no_text_in_two_splits_and_no_row_twice(task):
    owner: dict[str, str] = {}
    for split in SIZES:
        pairs = [frozenset(pair) for pair in texts(task, split)]  # (a, b) and (b, a) are the same pair
        assert len(set(pairs)) == len(pairs)
        assert all(len(pair) == len(TASKS[task].texts) for pair in pairs)  # a text is never paired with itself
        assert [text for pair in pairs for text in pair if owner.setdefault(text, split) != split] == []


@pytest.mark.parametrize("task", LEADERBOARD)
def test_sentences_are_well_formed(task):
    for row in (row for split in SIZES for row in rows(task, split)):
        for text in (row[name] for name in TASKS[task].texts):
            assert re.fullmatch(r"[A-Z][^{}|~+<>@]*[.?]", text), text  # no mark of the word lists is left over
            assert not re.search(r"\s\s|\s[.,;:?]|,,|\.\.", text), text
            assert not re.search(r"\b(a ([aeio]|un)|an [^aeiouh]|(\w+) \3\b)", text, re.IGNORECASE), text
