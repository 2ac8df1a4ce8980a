"""From the course's csv files to batches of rows, and where those files are."""

from __future__ import annotations

from pathlib import Path

from data.tasks import SPLITS, TASKS, file_name

DEFAULT_DIR = Path(__file__).parent / "cs224n"  # where `python -m data.download` puts the course files
SAMPLE_DIR = Path(__file__).parent / "sample"


def find_data_dir() -> tuple[Path, str]:
    """The course files' folder where all nine are there, else the sample's; and what to call the data in a header."""
    names = [file_name(task, split) for task in TASKS for split in SPLITS]
    if all((DEFAULT_DIR / name).is_file() for name in names):
        return DEFAULT_DIR, "course files"
    return SAMPLE_DIR, "embedded synthetic sample"
