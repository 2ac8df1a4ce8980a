"""What a run tells: log.jsonl for programs, progress on stderr for people."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import say, show
from runtime.files import disk_errors
from training.session import Session


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


def progress(session: Session, losses: Mapping[str, float]) -> None:
    """Where a run stands after a step: a bar on a terminal, elsewhere a line for each twentieth of the run."""
    step, total = session.state.step, session.total_steps
    rest = "  ".join([f"{time_left(session)} left", *(f"{name} {loss:.3f}" for name, loss in losses.items())])
    show("training", step, total, rest)
    if not sys.stderr.isatty() and (step % max(1, total // 20) == 0 or step == total):
        say(f"step {step}/{total}  {rest}")


def time_left(session: Session) -> str:
    """For people: that steps, evaluations and final predictions still take, by what those so far have taken."""
    state, last, every = session.state, session.last_step, session.eval_every
    step = (state.seconds - state.evaluation_seconds) / max(1, state.step)
    rows = [sum(len(split.examples) for split in session.splits[name].values()) for name in ("dev", "test")]
    evaluations = last // every - state.step // every + (last % every > 0) + sum(rows) / rows[0]
    seconds = (last - state.step) * step + evaluations * state.evaluation_seconds / max(1, state.evaluations)
    return f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
