"""What a run tells: log.jsonl for programs, progress on stderr for people."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.errors import DiskError
from training.files import write_atomic


class RunLog:
    """One JSON object a line, on disk as soon as it is written; NaN and infinity become null.

    A disk that is full does not end training: the lines wait, and go out with a later one or with close().
    Args: resumed_step: None for a run that begins; else lines of later steps, and a torn last one, are removed first.
    """

    def __init__(self, path: Path, resumed_step: int | None = None):
        self.path = path
        if resumed_step is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            truncate(path, resumed_step)
        self._waiting = b""
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append the record: strings, numbers, None, and lists and dicts of them."""
        told = bool(self._waiting)
        self._waiting += json.dumps(finite(record), allow_nan=False).encode() + b"\n"
        try:
            self._flush()
        except OSError as error:
            if not told:
                print(f"warning: {self.path}: not written ({error.strerror}); lines wait in memory", file=sys.stderr)

    def close(self) -> None:
        """Write what waits. Raises DiskError where that still fails."""
        try:
            self._flush()
        except OSError as error:
            raise DiskError(f"{self.path}: the end is not written ({error.strerror}); free some space") from error
        finally:
            self._file.close()

    def _flush(self) -> None:
        while self._waiting:  # an unbuffered write may take a part: the rest follows it, whenever that is
            self._waiting = self._waiting[self._file.write(self._waiting) :]


def truncate(path: Path, step: int) -> None:
    """Drop the lines of a greater `step`, and whatever is no JSON object: a line torn by a crash."""
    content = path.read_bytes()
    kept = b"".join(line + b"\n" for line in content.split(b"\n") if _step_of(line) <= step)
    if kept != content:
        write_atomic(path, kept)


def _step_of(line: bytes) -> float:
    """The line's `step`; before all others where it has none, after all others where it is no JSON object."""
    try:
        return float(json.loads(line).get("step", -math.inf))
    except (ValueError, AttributeError, TypeError):
        return math.inf


def finite(value: Any) -> Any:
    """The value with None for each NaN and infinity in it: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


class Progress:
    """Where a run stands, on stderr: a live bar on a terminal, elsewhere a plain line every `every` steps.

    Args: total: steps of the whole run; start: steps done before (a resumed run); every: steps between plain lines.
    """

    def __init__(self, total: int, start: int = 0, every: int = 50):
        self.total, self.start, self.every = total, start, every
        self.began = time.monotonic()
        live = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr) if live else None

    def update(self, step: int, losses: Mapping[str, float]) -> None:
        """After each step: its number, from 1, and the losses to show, by task."""
        shown = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        if self.bar is not None:
            self.bar.set_postfix_str(shown, refresh=False)
            self.bar.update(step - self.bar.n)
        elif step % self.every == 0 or step == self.total:
            left = (self.total - step) * (time.monotonic() - self.began) / (step - self.start)  # seconds
            self.say(f"step {step}/{self.total}  {shown}  {tqdm.format_interval(left)} left")

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
