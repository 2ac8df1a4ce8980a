"""What a run tells: log.jsonl for programs, progress on stderr for people."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import say, show
from runtime.files import disk_errors


class RunLog:
    """One JSON object a line, on disk at once, or in the file's buffer while the disk is full; NaN becomes null.

    size: the bytes of the file that are the run's so far; what a killed process wrote after them goes.
    """

    def __init__(self, path: Path, size: int = 0):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", 1 << 20)  # noqa: SIM115 - closed by close()
        self._file.truncate(min(size, path.stat().st_size))

    @property
    def size(self) -> int:
        """Bytes so far, those that wait included."""
        return self._file.tell()

    def write(self, record: Mapping[str, Any]) -> None:
        finite = json.loads(json.dumps(record), parse_constant=lambda _: None)
        try:
            self._file.write(json.dumps(finite).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            say(f"warning: {self.path}: not written ({error.strerror}); the line waits in memory")

    def close(self) -> None:
        """Write what waits. Raises DiskError where that still fails."""
        with disk_errors(self.path):
            self._file.close()


class Progress:
    """Where a run stands, on stderr: on a terminal one line that changes, elsewhere a line every `every` steps."""

    def __init__(self, total: int, start: int = 0, every: int = 50):
        self.total, self.start, self.every, self.began = total, start, every, time.monotonic()  # start: the steps done

    def update(self, step: int, losses: Mapping[str, float]) -> None:
        """After each step: its number, from 1, and the losses to show, by task."""
        minutes = (self.total - step) * (time.monotonic() - self.began) / (step - self.start) / 60
        shown = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        line = f"step {step}/{self.total}  {shown}  {minutes:.1f} minutes left"
        show(line)
        if not sys.stderr.isatty() and (step % self.every == 0 or step == self.total):
            say(line)
