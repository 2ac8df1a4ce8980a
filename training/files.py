"""Files and folders that are whole or absent, whenever the process is killed; and the claim on a run's folder.

What is new is written aside as `.tmp-NAME.PID`, synced, and renamed into place. What goes is first renamed to
`.trash-NAME.PID`, or to `.old-NAME.PID` where it may come back. A killed process may leave such names behind; `clean`
takes them away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from training.errors import DiskError, UsageError

LEFTOVER = re.compile(r"\.(tmp|trash|old)-(.+)\.\d+")

# Everything that a run writes into its folder, and so everything that --overwrite may remove: by folder, the names.
RUN_FILES = {
    ".": ("config.json", "log.jsonl", "metrics.json"),
    "best": (
        *("config.json", "model.safetensors", "heads.json", "heads.safetensors", "vocab.txt", "tokenizer.json"),
        *("tokenizer_config.json", "modules.json", "sentence_bert_config.json", "step.json"),
    ),
    "best/1_Pooling": ("config.json",),
    "predictions": tuple(f"{task}-{split}-output.csv" for task in ("sst", "para", "sts") for split in ("dev", "test")),
}
STEP_FOLDER = re.compile(r"step-([0-9]{6,})")  # in checkpoints/
STEP_FILES = (
    *("MANIFEST.json", "state.json"),
    *(f"{stem}.safetensors" for stem in ("model", "heads", "optimizer", "triplets")),
)
RUN_FOLDERS = ("checkpoints", "best/1_Pooling", "best", "predictions")  # inner before outer


def fault(point: str, name: str) -> None:
    """For tests: die as by kill -9 where MINBERT_FAULT_POINT is `point`, or `point@name`: of that file or folder."""
    if os.environ.get("MINBERT_FAULT_POINT") in (point, f"{point}@{name}"):
        os.kill(os.getpid(), signal.SIGKILL)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace the file: after a crash it is the old one or the whole new one. Text as UTF-8, newlines as they are.

    Raises: DiskError; the old file stands then.
    """
    temporary = _aside("tmp", path)
    with disk_errors(path):
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            sync(temporary)
            fault("before-rename", path.name)
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            remove(temporary)
            raise


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `final` when the block ends and vanishes where the block raises.

    A `final` that is there already steps aside until the new one stands, so that `clean` finds one of the two. What it
    holds under other names than the new one is not ours, and moves over.
    Raises: DiskError for an OSError inside; the old folder stands then.
    """
    temporary, old = _aside("tmp", final), _aside("old", final)
    with disk_errors(final):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            sync(final.parent.parent)
            remove(temporary)
            temporary.mkdir()
            yield temporary
            for path in temporary.rglob("*"):
                sync(path)
            sync(temporary)
            fault("before-rename", final.name)
            if final.exists():
                final.rename(old)
                fault("after-old", final.name)
            temporary.rename(final)
            fault("after-rename", final.name)
            sync(final.parent)
            move_over(old, final)
        except BaseException:
            remove(temporary)
            if old.exists() and not final.exists():
                old.rename(final)
            raise


def move_over(old: Path, new: Path) -> None:
    """Move what the old folder holds and the new one lacks, then remove the old one; fine where there is none."""
    for path in list(old.iterdir()) if old.is_dir() and not old.is_symlink() else []:
        if not os.path.lexists(new / path.name):
            path.rename(new / path.name)
        elif (new / path.name).is_dir():
            move_over(path, new / path.name)
    remove(old)


def discard(path: Path, names: Collection[str]) -> None:
    """Remove a folder's files of these names so that nobody sees half of them; without others, the folder too."""
    others, trash = _aside("old", path), _aside("trash", path)
    foreign = [other for other in path.iterdir() if other.name not in names]
    if foreign:
        others.mkdir()
        for other in foreign:
            other.rename(others / other.name)
    path.rename(trash)
    fault("in-rotation", path.name)
    if foreign:
        others.rename(path)
    remove(trash)


def clean(folder: Path) -> None:
    """Finish or undo what a killed process left in the folder. Only where no other process writes: inside `lock`."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        leftover = LEFTOVER.fullmatch(path.name)
        if leftover and leftover[1] == "old" and not (folder / leftover[2]).exists():
            path.rename(folder / leftover[2])
        elif leftover and leftover[1] == "old":
            move_over(path, folder / leftover[2])
        elif leftover:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all it holds; fine where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a mounted drive that cannot: nothing to wait for
            raise
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An OSError inside becomes a DiskError that names the path: a failed write does not say where it was."""
    try:
        yield
    except DiskError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DiskError(f"{path}: not written ({reason}); free some space or choose another folder") from error


def _aside(kind: str, path: Path) -> Path:
    return path.with_name(f".{kind}-{path.name}.{os.getpid()}")


# ---- a run's folder --------------------------------------------------------------------------------------------------


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make the folder if need be, and be the only process in it. The lock is the kernel's: it dies with the process.

    Raises: UsageError with the other process's number; DiskError where the folder cannot be made or locked.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DiskError(f"{folder}: may not be written; check the permissions or choose another --output_dir")
    with open(folder / ".lock", "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read() or "of unknown number"
            raise UsageError(
                f"--output_dir: {folder} is in use by process {holder}; wait for it or choose another folder"
            ) from None
        except OSError as error:
            raise DiskError(f"{folder}: cannot be locked ({error.strerror}); choose one on a local disk") from error
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def claim_output_dir(folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds a run already, unless it is to go on or to be replaced; clean it. Inside `lock`.

    With overwrite, files of the names that a run gives are removed, and no others, then the folders left empty.
    Raises: UsageError.
    """
    for path in (folder, *(folder / name for name in RUN_FOLDERS)):
        clean(path)
    steps = step_folders(folder / "checkpoints")
    names = [folder / part / name for part, names in RUN_FILES.items() for name in names]
    found = [path for path in (*names, *(step / name for step in steps for name in STEP_FILES)) if path.is_file()]
    if overwrite:
        for path in found:
            path.unlink()
        for path in (*steps, *(folder / name for name in RUN_FOLDERS)):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
    elif found and not resume:
        raise UsageError(
            f"--output_dir: {folder} holds a run ({found[0].relative_to(folder)}); take --resume auto or --overwrite"
        )


def step_folders(folder: Path) -> list[Path]:
    """The folders there with the name of a checkpoint, newest first; a link is none."""
    named = [path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name)] if folder.is_dir() else []
    found = [path for path in named if path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: int(STEP_FOLDER.fullmatch(path.name)[1]), reverse=True)


def nearest_folder(folder: Path) -> Path:
    """The folder, or the first above it that is there (or a file in its place): on whose disk it will be."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def check_space(folder: Path, needed: int, option: str = "--output_dir") -> None:
    """See whether a folder can be made and written, with `needed` bytes free; it may be absent.

    Args:   option: what names the folder.
    Raises: DiskError with both numbers.
    """
    there = nearest_folder(folder)
    if not there.is_dir():
        raise DiskError(f"{option}: expected a folder at {there}; found a file; choose another {option}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DiskError(f"{there}: may not be written; check the permissions or choose another {option}")
    free = shutil.disk_usage(there).free
    if free < needed:
        purpose = ", for checkpoints and the best model" if option == "--output_dir" else ""
        raise DiskError(
            f"{folder}: expected {needed / 1e6:.1f} MB of free space{purpose}; found {free / 1e6:.1f} MB; "
            f"free some or choose another {option}"
        )
