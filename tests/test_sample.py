"""tools/make_sample.py and the files that it wrote into data/sample/."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from data import SAMPLE_DIR
from data.tasks import LEADERBOARD, TASKS
from tools.make_sample import SIZES, main

NAMES = sorted(TASKS[task].files[split] for task in LEADERBOARD for split in SIZES)


def rows(task: str, split: str, folder: Path = SAMPLE_DIR) -> list[dict[str, str]]:
    with open(folder / TASKS[task].files[split], encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def texts(task: str, split: str, folder: Path = SAMPLE_DIR) -> list[tuple[str, ...]]:
    """A row's one or two texts as the models see them: in lower case."""
    return [tuple(row[name].lower() for name in TASKS[task].texts) for row in rows(task, split, folder)]


def test_generator_writes_the_committed_bytes(tmp_path):
    main(["--output_dir", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert sorted(path.name for path in SAMPLE_DIR.glob("*.csv")) == NAMES
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (SAMPLE_DIR / name).read_bytes(), name


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("task", LEADERBOARD)
def test_columns_and_rows(task, split):
    found = rows(task, split)
    label = [] if split == "test" else [TASKS[task].label]
    assert list(found[0]) == ["", "id", *TASKS[task].texts, *label]
    assert len(found) == SIZES[split]
    for index, row in enumerate(found):
        assert row[""] == str(index)
        assert re.fullmatch("[0-9a-f]{25}", row["id"])
        assert None not in row and None not in row.values()  # no field too many, none too few


@pytest.mark.parametrize("split", ["train", "dev"])
def test_labels_in_range_and_balanced(split):
    sst = Counter(row["sentiment"] for row in rows("sst", split))
    assert sst == dict.fromkeys("01234", SIZES[split] // 5)
    para = Counter(row["is_duplicate"] for row in rows("para", split))
    assert set(para) == {"0.0", "1.0"}
    assert para["1.0"] / SIZES[split] == pytest.approx(0.37, abs=0.005)
    sts = [float(row["similarity"]) for row in rows("sts", split)]
    assert all(0 <= label <= 5 for label in sts)
    assert Counter(min(int(label), 4) for label in sts) == dict.fromkeys(range(5), SIZES[split] // 5)
    assert sum(label % 1 != 0 for label in sts) > SIZES[split] / 2


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("task", LEADERBOARD)
def test_no_text_in_two_splits_and_no_row_twice(task, seed, tmp_path):
    main(["--output_dir", str(tmp_path), "--seed", str(seed)])
    owner: dict[str, str] = {}
    for split in SIZES:
        pairs = [frozenset(pair) for pair in texts(task, split, tmp_path)]  # (a, b) and (b, a) are the same pair
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
    assert TASKS[task].texts == ("sentence",) or {pair[1][-1] for pair in texts(task, "train")} <= {".", "?"}
