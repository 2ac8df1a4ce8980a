"""From files of rows to batches of rows, and where those files are."""

from collections.abc import Iterable
from pathlib import Path

from data.tasks import Task

DEFAULT_DIR = Path(__file__).parent / "cs224n"  # where `python -m data.download` puts the course files
SAMPLE_DIR = Path(__file__).parent / "sample"


def find_data_dir(tasks: Iterable[Task]) -> tuple[Path, str]:
    """The folder of the course files, and its name: the sample's, unless DEFAULT_DIR has all that these tasks need."""
    names = [task.files[split] for task in tasks if task.folder is None for split in task.splits]
    if all((DEFAULT_DIR / name).is_file() for name in names):
        return DEFAULT_DIR, "course files"
    return SAMPLE_DIR, "embedded synthetic sample"
