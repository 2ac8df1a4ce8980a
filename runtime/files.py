"""Files and folders that are whole or absent, whenever the process is killed; and one process a folder.

What is new is written as `.tmp-NAME.PID`, synced and renamed; what goes is first renamed to `.trash-NAME.PID`.
"""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from runtime.errors import CheckpointError, DiskError, UsageError

MOST, MOST_TENSORS = 2**31, 2**36  # bytes of a file that is read: of any kind, of tensors


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace the file: after a crash, or the DiskError raised, it is the old one or the whole new one. Text: UTF-8."""
    if not path.name or path.is_dir():
        raise DiskError(f"{path}: expected a file's name; found a folder; choose another")
    with exchange(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill: it takes the place of `final` when the block ends, and vanishes where that raises."""
    with exchange(final) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def exchange(final: Path) -> Iterator[Path]:
    """A path for the file or folder that is to stand at `final`."""
    temporary = final.with_name(f".tmp-{final.name}.{os.getpid()}")
    with disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        sync(final.parent.parent)
        try:
            remove(temporary)  # where a failing disk let one stay
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            if temporary.is_dir() and final.is_dir():
                discard(final)  # killed right after this there is none, until the run goes on and writes it again
            temporary.replace(final)
            sync(final.parent)
        finally:
            remove(temporary)


def discard(folder: Path) -> None:
    """Remove a folder with all it holds, so that nobody sees half of it."""
    trash = folder.rename(folder.with_name(f".trash-{folder.name}.{os.getpid()}"))
    remove(trash)


def clean(folder: Path, *names: str) -> None:
    """Remove what killed processes left of files and folders of these names (regular expressions). Inside `lock`."""
    left = re.compile(rf"\.(tmp|trash)-({'|'.join(names)})\.\d+")
    for path in [path for path in folder.glob(".*") if left.fullmatch(path.name)]:
        remove(path)


def move_aside(folder: Path) -> Path:
    """Rename a folder to NAME.old, or NAME.old.2 and so on where that is there already; returns the new path."""
    folder = Path(os.path.abspath(folder))  # so that it has a name: "." has none
    names = (f"{folder.name}.old" + (f".{n}" if n > 1 else "") for n in itertools.count(1))
    with disk_errors(folder):
        return folder.rename(next(path for path in map(folder.with_name, names) if not os.path.lexists(path)))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all it holds; fine where there is none."""
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
    except OSError as error:  # Windows opens no folder (EACCES); a mounted drive may know no fsync
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An OSError inside becomes a DiskError that names the path: a failed write does not say where it was."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(f"{path}: not written ({error.strerror}); free some space or choose another folder") from error


def read_plain(path: Path, most: int = MOST) -> bytes:
    """A file's bytes, as many as it has. Raises OSError, also for what is no plain file, where reading may never end,
    for one of more than `most`, and for a path that no file can have."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            large = f"{status.st_size:,} bytes, more than {most:,}" if stat.S_ISREG(status.st_mode) else "no plain file"
            raise OSError(errno.EFBIG, large, str(path))
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except (ValueError, MemoryError) as error:
        raise OSError(errno.EINVAL, f"{error!r:.99}", repr(path)) from None


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises CheckpointError, also for half a character in it, as "\\ud800"."""
    check_plain(path)
    try:
        content = json.loads(read_plain(path))
        json.dumps(content, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        content = error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object; found {content!r:.200}; copy it anew or take another")
    return content


def check_plain(path: Path, links: bool = True) -> None:
    """Raise CheckpointError for what is no file: from a pipe, say, reading never ends. links: whether those pass."""
    if not path.is_file() or (path.is_symlink() and not links):
        raise CheckpointError(f"{path}: expected a plain file; found none; copy it anew or take another")


def check_own(folder: Path, *names: str) -> None:
    """Raise UsageError for a name in the folder that is a link, a pipe or a device: it leads to what is another's."""
    for path in map(folder.joinpath, names):
        if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
            advice = "take it away or choose another folder"
            raise UsageError(f"{path}: expected a file or folder of the run's own; found a link or a pipe; {advice}")


def sha256(path: Path) -> str:
    """Of the file's content, in hex digits."""
    return hashlib.sha256(read_plain(path, MOST_TENSORS)).hexdigest()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Be the only process in the folder, made if need be; else UsageError with the other's number.

    Its files stay; but folders that were made here, and in which nothing else is then, go.
    """
    holder, path = folder / ".minbert.pid", folder / ".minbert.lock"  # two: filelock empties the lock's
    made = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]  # from within
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        check_own(folder, holder.name, path.name)
        try:
            held = FileLock(path, timeout=0).acquire()
        except Timeout:
            number = holder.read_text() if holder.is_file() else "of unknown number"
            raise UsageError(f"{folder}: in use by process {number}; wait for it or choose another folder") from None
        holder.write_text(str(os.getpid()))
    try:
        with held:
            yield
    finally:
        with suppress(OSError):
            if made and {*folder.iterdir()} <= {holder, path}:
                remove(folder)
                for parent in made[1:]:
                    parent.rmdir()


def check_space(folder: Path, needed: int, option: str = "--output_dir") -> Path:
    """The folder, or the first above it that is there: on whose disk it will be.

    Raises: DiskError where that cannot be written, or has not `needed` bytes free.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise DiskError(f"{option}: expected a folder that can be written; found another at {there}; choose another")
    if (free := shutil.disk_usage(there).free) < needed:
        numbers = f"expected {needed / 1e6:.1f} MB of free space; found {free / 1e6:.1f} MB"
        raise DiskError(f"{option}: {numbers} at {there}; free some or choose another folder")
    return there
