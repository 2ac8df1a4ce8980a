"""The table of faults: what can go wrong and what then happens, and that each row of it is held up by a test.

A test says which rows it is of by the mark `fault`: `python -m pytest -m fault` runs them all.
"""

import re
from pathlib import Path

import pytest

from tools.soak import Forked, soak

TABLE = (Path(__file__).parents[1] / "docs" / "faults.md").read_text(encoding="utf-8").partition("## What is tested")[2]


def test_every_row_has_a_test():
    marks = re.compile(r"^@pytest\.mark\.fault\(([\d, ]+)\)$", re.MULTILINE)
    files = Path(__file__).parent.glob("test_*.py")
    found = [int(row) for file in files for rows in marks.findall(file.read_text()) for row in rows.split(",")]
    assert set(found) == {*map(int, re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE))} == {*range(1, 70)}


@pytest.mark.fault(1, 2, 17, 19)
def test_twenty_kills_at_random_times(tmp_path):
    """Of forked processes, for speed; `python -m tools.soak --kills N` goes on for longer, with the real command."""
    struck = soak(tmp_path, kills=20, seed=0, start=Forked)
    assert struck["SIGKILL"] >= 20 and struck["SIGTERM"] + struck["SIGINT"] >= 1 and struck["runs"] >= 3
