"""The table of faults: what can go wrong and what then happens, and that each row of it is held up by a test.

A test says which rows it is of by the mark `fault`: `python -m pytest -m fault` runs them all.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.soak import Forked, soak

ROWS = {
    # Saving and resuming. "Same weights": bit for bit those of a run that was never interrupted.
    1: "kill -9 between steps: --resume auto, same weights, at most --save_every steps made again",
    2: "kill -9 inside a save, at each of its points: the checkpoint before counts, leftovers go, same weights",
    3: "an exception inside a save: nothing new is visible, the old checkpoint stands",
    4: "a file cut short, empty, or with one bit flipped: named; the checkpoint before it is taken",
    5: "a manifest that is missing, no JSON, or points elsewhere: that checkpoint does not count",
    6: "every checkpoint bad: exit 4 with the reason for each",
    7: "nothing to resume: --resume auto starts and says so, --resume PATH exits 2 and tells what there is",
    8: "a pickle, a header of 2^60 bytes, an unknown state: exit 4 at once, nothing run",
    9: "shapes or names that do not fit: exit 4, the first five, both shapes; the model is untouched",
    10: "resumed with other options or data: exit 2 or 3 with the difference, unless --allow_change NAME",
    11: "resumed at an epoch's end, or twice inside one: same weights",
    12: "a finished run resumed: complete, exit 0, no file touched",
    13: "disk full: no leftovers, old checkpoints whole; a periodic save is tried again, the last exits 7",
    14: "output folder not writable or too little space: exit 7 before the model is loaded",
    15: "output folder holds a run: exit 2; --overwrite moves it, whole, to NAME.old",
    16: "two processes in one folder: the second exits 2 with the first one's number",
    17: "SIGTERM or SIGINT: the step ends, is saved, exit 143 or 130; a second SIGINT stops at once; same weights",
    18: "terminal gone: saved, resumable; stdout closed by its reader: training goes on, the log file is whole",
    19: "killed while writing predictions or metrics: the old file or the whole new one",
    # Numbers
    20: "a loss that is not finite: no step; task, step and rows named; exit 5",
    21: "an infinite gradient: the step is skipped and counted; 20 in a row: exit 5",
    22: "an infinite gradient of one task under surgery: the whole step is skipped, the task named",
    23: "a gradient of zero: left out of the projection",
    24: "a metric that is not defined: null with the reason, never the best",
    25: "out of memory: the batch is computed in smaller parts, said once; at one row: exit 6",
    26: "a device or precision that is not there: exit 8 or 2, with what to take",
    27: "the same seed twice: the same weights, metrics and predictions",
    # Data
    28: "a file missing, empty, without rows or columns: exit 3 before the model is loaded, with the nearest name",
    29: "a label missing: skipped in training, counted, lines shown; over 1 % of the rows: exit 3",
    30: "a label out of range or no number: exit 3 with the line",
    31: "an empty sentence: skipped in training; predicted in dev and test",
    32: "an id twice: warned of in train, exit 3 in dev and test",
    33: "the same text in train and dev: warned of, with the count",
    34: "too few or many fields, an unclosed quote: exit 3 with the physical line",
    35: "BOM and CRLF are fine; NUL or bad UTF-8: exit 3 with the line",
    36: "a long text: cut, the longer side first, each keeps a token; counted",
    37: "a class that train lacks: warned of; fewer rows than a batch: a short batch",
    38: "emoji, CJK, right-to-left, control characters: the ids of the tokenizers library",
    39: "vocabulary and embedding rows differ: exit 4 with both numbers",
    40: "no network: the cache first, else exit 8 with what to do; offline opens no socket",
    41: "a download with a wrong hash: removed, exit 4 with both hashes",
    42: "options that are unknown, out of range or at odds: exit 2, with the nearest name",
    43: "a locale with decimal commas: the same files",
    # Several processes
    44: "a rank is killed or hangs: the others end within a minute, nothing half is seen, --resume auto: same weights",
    45: "a world that does not fit, ranks of other data, options, versions, weights: exit 2 or 3 before the first step",
    46: "a loss, a gradient, memory or a signal of one rank: all ranks end, skip or halve alike",
    47: "resumed by another number of ranks: the same batches and surgery, weights equal to rounding, and said so",
    # Tasks of one's own
    48: "a task file with a wrong key, kind, name, file, column, class or range: exit 2 or 3 with the nearest name",
    49: "a label that its kind cannot take: exit 3 with file and line",
    50: "a saved model asked for a task that it lacks, or with one text for a pair: ValueError with its tasks",
    # Others' requests
    51: "a web page or program sends texts that are empty, huge, or no text: 4xx in one line, memory bounded",
    # Nobody else's files, nothing bad in silence
    52: "a lock that is a link, a pipe or somebody's file: never written through, --dry_run too",
    53: "files whose names are like a run's temporary ones: stay; a run's own go once it is sure to run",
    54: "best/, checkpoints/, predictions/ or a file of the run is a link: refused by name",
    55: "a source inside what a run would replace or move: exit 2",
    56: "--resume auto where config.json or others are no run's: exit 2",
    57: "evaluate.py of a damaged config.json: exit 4; of other rows than the run's: warned of",
    58: "evaluate.py beside a training run: exit 2 with its number; never half of one model, half of another",
    59: "predictions of another run: exit 2 without --overwrite; lost or wanted elsewhere: made again",
    60: "no step taken: exit 5; steps skipped: counted at the end",
    61: "a text of nothing that can be seen: an empty sentence",
    62: "best/ that cannot be written: its checkpoint is kept, and best/ made of it",
    63: "absurd values in a model's files, a state or a log: exit 2 to 5, one line",
    64: "a model of absurd size: refused at once",
    65: "pipes, devices, files and downloads without an end: refused, not read",
    66: "escape sequences in ids and names: shown as repr",
    67: "an empty value of an option: exit 2",
    68: "a wrong file behind a link in the model cache: the link is named, what is not the cache's stays",
    69: "a killed evaluate.py: the next takes away what it left",
}


def test_every_row_has_a_test():
    marks = re.compile(r"^@pytest\.mark\.fault\(([\d, ]+)\)$", re.MULTILINE)
    files = Path(__file__).parent.glob("test_*.py")
    found = [int(row) for file in files for rows in marks.findall(file.read_text()) for row in rows.split(",")]
    assert set(found) == set(ROWS)


@pytest.mark.fault(1, 2, 17, 19)
def test_twenty_kills_at_random_times(tmp_path):
    """Of forked processes, for speed; `python -m tools.soak --kills N` goes on for longer, with the real command."""
    struck = soak(tmp_path, kills=20, seed=0, start=Forked)
    assert struck["SIGKILL"] >= 20 and struck["SIGTERM"] + struck["SIGINT"] >= 1 and struck["runs"] >= 3
