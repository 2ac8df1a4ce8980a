"""tools/make_sample.py and the files that it wrote into data/sample/."""

import csv
import re

import pytest

from data import SAMPLE_DIR, check
from data.tasks import LEADERBOARD, TASKS
from runtime.errors import run_cli
from tools.make_sample import SIZES, main

NAMES = sorted(TASKS[task].files[split] for task in LEADERBOARD for split in SIZES)


def rows(task: str, split: str) -> list[dict[str, str]]:
    with open(SAMPLE_DIR / TASKS[task].files[split], encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def test_generator_writes_the_committed_bytes(tmp_path):
    main(["--output_dir", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert sorted(path.name for path in SAMPLE_DIR.glob("*.csv")) == NAMES
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (SAMPLE_DIR / name).read_bytes(), name


def test_nothing_in_it_is_odd(capsys, tiny_bert):
    """A label that its task takes in each row, no row twice, no text of train in another split."""
    assert run_cli(check.main, ["--checkpoint", str(tiny_bert), "--data_dir", str(SAMPLE_DIR)]) == 0
    assert capsys.readouterr().out.endswith("nothing is odd\n")


@pytest.mark.parametrize("task", LEADERBOARD)
def test_sentences_are_well_formed(task):
    for row in (row for split in SIZES for row in rows(task, split)):
        for text in (row[name] for name in TASKS[task].texts):
            assert re.fullmatch(r"[A-Z][^{}|~+<>@]*[.?]", text), text  # no mark of the word lists is left over
            assert not re.search(r"\s\s|\s[.,;:?]|,,|\.\.", text), text
            assert not re.search(r"\b(a ([aeio]|un)|an [^aeiouh]|(\w+) \3\b)", text, re.IGNORECASE), text
