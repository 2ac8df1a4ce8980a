"""What pictures share: figures, a run's log as numbers, and how cosines of task gradients are drawn.

Needs the extra: pip install -e '.[pictures]'
"""

from __future__ import annotations

import argparse
import io
import json
import reprlib
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import DataError, UsageError
from runtime.files import read_plain, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec
else:
    Axes = Figure = GridSpec = object  # matplotlib is an extra

DPI = 200  # of a PNG
COLUMNS, MOST_ROWS = 4, 99  # most panels in a row, and rows: a PNG has 65,536 pixels at most


def file_name(text: str) -> Path:
    """A type of option: a file to write."""
    if not Path(text).name or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a file's name; found {text!r}")
    return Path(text)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches. Raises UsageError where matplotlib is missing."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("pictures: expected matplotlib; found none; pip install -e '.[pictures]'") from None
    matplotlib.rcParams.update({"font.size": 9, "axes.titlesize": 10, "text.parse_math": False})  # a $ is a $
    return Figure((width, height), layout="constrained")


def new_panels(groups: Collection[Sequence], more: float) -> tuple[Figure, GridSpec, list[Sequence]]:
    """A figure, its grid, and the panels of each row of the grid: a group, or COLUMNS of a group at a time.

    more: inches for all that is around the panels. Raises DataError for too many panels.
    """
    columns = min(COLUMNS, max(map(len, groups)))
    rows = [group[i : i + columns] for group in groups for i in range(0, len(group), columns)]
    if len(rows) > MOST_ROWS:
        raise DataError(f"pictures: expected {MOST_ROWS} rows of panels at most; found {len(rows)}; see the log")
    figure = new_figure(9, more + 1.8 * len(rows))
    return figure, figure.add_gridspec(len(rows), columns), rows


def png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.05)
    return content.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Save as PNG, whatever the name. An old file stays if that fails. Raises DiskError."""
    write_atomic(path, png(figure))


def read_lines(path: Path) -> list[dict]:
    """The lines of a run's JSON lines file, without a last one that is still being written. Raises DataError."""
    log, place = [], str(path)
    try:
        for number, text in enumerate(read_plain(path).decode().split("\n")[:-1], start=1):
            place = f"{path}:{number}"
            log.append(json.loads(text))
            json.dumps(log[-1], ensure_ascii=False).encode()  # "\ud800" is JSON, but no character
            if not is_line(log[-1]):
                raise ValueError(reprlib.repr(text))
    except (OSError, ValueError, RecursionError) as error:
        found = "none" if isinstance(error, FileNotFoundError) else error
        raise DataError(f"{place}: expected a run's log; found {found}; give a run that wrote one") from None
    return log


def read_log(path: Path) -> list[dict]:
    """The lines of a log.jsonl. Raises DataError, also without a loss."""
    log = read_lines(path)
    if all(value is None for line in log for value in line.get("losses", {}).values()):
        raise DataError(f"{path}: expected a step's losses; found none yet; wait")
    if without := [number for number, line in enumerate(log, start=1) if "seconds" not in line]:
        raise DataError(f"{path}:{without[0]}: expected a run's log; found no seconds; give a run that wrote one")
    return log


def is_line(line: object) -> bool:
    """Whether a run may have written this: an object with a step, and numbers or null in the parts that are drawn."""
    parts = [line.get(part, {}) for part in ("losses", "dev", "cosine")] if type(line) is dict else [None]
    if {*map(type, parts)} != {dict} or type(line.get("step")) is not int:
        return False
    values = [line["step"], line.get("seconds", 0), line.get("lr", 0)]
    values += [value for part in parts for value in part.values() if value is not None]
    if any(len(name) > 199 for part in parts for name in part):  # two tasks' names at most
        return False
    finite = all(type(value) in (int, float) and abs(value) < 1e99 for value in values)  # beyond any float32; not NaN
    return finite and line["step"] > 0


def names(log: Sequence[dict], part: str) -> list[str]:
    """The names in a part of a log, in its order: for `cosine` the pairs of tasks."""
    return list(dict.fromkeys(name for line in log for name in line.get(part, ())))


def series(log: Sequence[dict], part: str, name: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Steps (N,) and values (N,) of a part of the log, or of one name in it, where there is a number."""
    points = [(line["step"], line[part] if name is None else line[part].get(name)) for line in log if part in line]
    steps, values = np.array([pair for pair in points if pair[1] is not None], dtype=float).reshape(-1, 2).T
    return steps, values


def step_seconds(log: Sequence[dict]) -> list[float]:
    """Seconds a step between two lines, the second a step's: an evaluation ends with a line of its own."""
    pairs = [(before, line) for before, line in pairwise(log) if "losses" in line and line["step"] > before["step"]]
    return [(line["seconds"] - before["seconds"]) / (line["step"] - before["step"]) for before, line in pairs]


def rolling(values: np.ndarray, window: int) -> np.ndarray:
    """(N,) -> (windows, at most `window`): each window of consecutive values"""
    return np.lib.stride_tricks.sliding_window_view(values, min(window, len(values)))


def draw_mean(ax: Axes, steps: np.ndarray, values: np.ndarray, color: str, window: int) -> None:
    """Draw the rolling mean; a dot if it is one point."""
    x, y = rolling(steps, window).mean(1), rolling(values, window).mean(1)
    ax.plot(x, y, "-" if len(x) > 1 else "o", color=color, linewidth=1.6)


def draw_cosines(ax: Axes, steps: np.ndarray, cosines: np.ndarray, color: str, window: int) -> None:
    """Draw cosines in [-1, 1] by step: a dot for each, the rolling mean, and a band that 8 of 10 are in."""
    ax.plot(steps, cosines, ".", color=color, markersize=max(1.5, 25 / len(steps) ** 0.5), alpha=0.35)
    band = np.quantile(rolling(cosines, window), (0.1, 0.9), axis=1)
    ax.fill_between(rolling(steps, window).mean(1), *band, color=color, alpha=0.2, linewidth=0)
    draw_mean(ax, steps, cosines, color, window)
    ax.axhline(0, color="black", linestyle=":", linewidth=1)


def cosine_limits(log: Sequence[dict], *parts: str) -> tuple[float, float]:
    """Axis limits for the cosines of these parts: symmetric, and wide enough for all but a few outliers of each."""
    cosines = [np.concatenate([series(log, part, name)[1] for name in names(log, part)]) for part in parts]
    limit = 1.1 * max(float(np.quantile(np.abs(part_cosines), 0.995)) for part_cosines in cosines) or 1.0
    return -limit, limit


def draw_shares(ax: Axes, bars: Sequence[tuple[str, np.ndarray, str]]) -> None:
    """Draw how many of the cosines are below 0, in percent, and what chance gives.

    bars: name, cosines and colour of each, from the top.
    Chance: half of the cosines of unrelated gradients are below 0, give or take two standard errors.
    """
    for row, (_, cosines, color) in enumerate(bars):
        share, chance = 100 * (cosines < 0).mean(), 100 / len(cosines) ** 0.5
        ax.barh(row, 2 * chance, left=50 - chance, color="#ccc", height=0.8, linewidth=0)
        ax.barh(row, share, color=color, height=0.4)
        ax.text(102, row, f"{share:.0f} %", va="center", color=color)
    ax.axvline(50, color="black", linestyle=":", linewidth=1)
    ax.set(xlim=(0, 100), ylim=(len(bars) - 0.5, -0.5), yticks=range(len(bars)), yticklabels=[bar[0] for bar in bars])
