"""Files and folders that are whole or absent, whenever the process is killed; and one process in a folder.

A new file or folder is written as `.tmp-NAME.PID`, synced and renamed. An old folder is first renamed to
`.trash-NAME.TIME`, then removed.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from runtime.errors import CheckpointError, DiskError, UsageError

MAX_BYTES, MAX_TENSOR_BYTES = 2**31, 2**36  # the largest file that is read, in bytes: of any kind, of tensors


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file: after a crash or a DiskError it is the old one or the whole new one. Text is written as UTF-8."""
    if not path.name or path.is_dir():
        raise DiskError(f"{path}: expected a file's name; found a folder; choose another")
    with exchange(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield a new folder to fill. It replaces `final` when the block ends, and is removed where the block raises."""
    with exchange(final) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def exchange(final: Path) -> Iterator[Path]:
    """Yield a temporary path. The file or folder that the block makes there replaces `final` when the block ends."""
    temporary = final.with_name(f".tmp-{final.name}.{os.getpid()}")
    with disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        sync(final.parent.parent)
        try:
            remove(temporary)  # a failing disk may have left one
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            old = into_trash(final) if temporary.is_dir() and final.is_dir() else None
            temporary.replace(final)  # after a kill just before there is none until a resumed run writes it again
            sync(final.parent)
            if old:
                with suppress(OSError):  # another program still reads it, say: `clean` comes back to it
                    remove(old)
        finally:
            remove(temporary)


def discard(folder: Path) -> None:
    """Remove a folder and its content, so that nobody sees half of it."""
    remove(into_trash(folder))


def into_trash(folder: Path) -> Path:
    """Rename a folder to what `clean` removes, and return its new path."""
    return folder.rename(folder.with_name(f".trash-{folder.name}.{time.time_ns()}"))


def clean(folder: Path, *names: str) -> None:
    """Remove the temporary files and folders of killed processes. names: regular expressions. Call it inside `lock`."""
    leftover = re.compile(rf"\.(tmp|trash)-({'|'.join(names)})\.\d+")
    for path in [path for path in folder.glob(".*") if leftover.fullmatch(path.name)]:
        remove(path)


def move_aside(folder: Path) -> Path:
    """Rename a folder to NAME.old, or NAME.old.2 and so on where that exists; return the new path."""
    folder = Path(os.path.abspath(folder))  # so that it has a name: "." has none
    aside, number = folder.with_name(f"{folder.name}.old"), 1
    while os.path.lexists(aside):
        number += 1
        aside = folder.with_name(f"{folder.name}.old.{number}")
    with disk_errors(folder):
        return folder.rename(aside)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # Windows cannot open a folder (EACCES); some mounted drives lack fsync
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a DiskError that names the path: a failed write does not name it."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(f"{path}: not written ({error.strerror}); free some space or choose another folder") from error


def read_plain(path: Path, most: int = MAX_BYTES) -> bytes:
    """A file's bytes. Raises OSError, also for a path that is no plain file (reading a pipe may never end), for a file
    of more than `most` bytes, and for a path that no file can have."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EFBIG, "no plain file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, more than {most:,}", str(path))
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except (ValueError, MemoryError) as error:
        raise OSError(errno.EINVAL, f"{error!r:.99}", repr(path)) from None


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises CheckpointError, also for half a surrogate pair in a text, as "\\ud800"."""
    try:
        content = json.loads(read_plain(path))
        json.dumps(content, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        content = error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object; found {content!r:.200}; copy it anew or take another")
    return content


def check_own(folder: Path, *names: str) -> None:
    """Raise UsageError where a name in the folder is a link, a pipe or a device, which leads out of the folder."""
    for path in map(folder.joinpath, names):
        if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
            advice = "take it away or choose another folder"
            raise UsageError(f"{path}: expected a file or folder of the run's own; found a link or a pipe; {advice}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex digits."""
    return hashlib.sha256(read_plain(path, MAX_TENSOR_BYTES)).hexdigest()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Be the only process in the folder, which is created if missing; else UsageError with the other's number.

    The lock's files stay. But where the folder was created here and holds nothing else at the end, it is removed, with
    the parents that were created.
    """
    holder, path = folder / ".minbert.pid", folder / ".minbert.lock"  # two files: filelock empties its own
    created = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]  # innermost first
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        check_own(folder, holder.name, path.name)
        try:
            acquired = FileLock(path, timeout=0).acquire()
        except Timeout:
            number = holder.read_text() if holder.is_file() else "of unknown number"
            raise UsageError(f"{folder}: in use by process {number}; wait for it or choose another folder") from None
        holder.write_text(str(os.getpid()))
    try:
        with acquired:
            yield
    finally:
        with suppress(OSError):
            if created and {*folder.iterdir()} <= {holder, path}:
                remove(folder)
                for parent in created[1:]:
                    parent.rmdir()


def check_space(folder: Path, needed: int, option: str = "--output_dir") -> None:
    """Raise DiskError where the folder, or the nearest one above it that exists, cannot be written or has fewer than
    `needed` bytes free."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise DiskError(f"{option}: expected a folder that can be written; found another at {existing}; choose another")
    if (free := shutil.disk_usage(existing).free) < needed:
        numbers = f"expected {needed / 1e6:.1f} MB of free space; found {free / 1e6:.1f} MB"
        raise DiskError(f"{option}: {numbers} at {existing}; free some or choose another folder")
