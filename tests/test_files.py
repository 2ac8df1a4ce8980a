"""runtime/files.py: whole or absent, whenever the process is killed."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import child
import pytest
import torch
from tiny_run import contents

from bert.checkpoint import write_tensors
from runtime.errors import DiskError, UsageError
from runtime.files import check_space, clean, lock, move_aside, new_folder, write_atomic

NAMES = ("best", r"step-\d+", r"metrics\.json", r"sst-dev-output\.csv")


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def write_best(folder: Path, text: str) -> None:
    with new_folder(folder / "best") as temporary:
        (temporary / "1_Pooling").mkdir()
        (temporary / "1_Pooling" / "config.json").write_text(text)


def write_metrics(folder: Path, text: str) -> None:
    write_atomic(folder / "metrics.json", text)


WRITERS = {write_best: "best/1_Pooling/config.json", write_metrics: "metrics.json"}  # and what they write
writers = pytest.mark.parametrize("write", WRITERS)


@pytest.mark.fault(13)
@writers
def test_a_full_disk_leaves_the_old_one(tmp_path, write):
    write(tmp_path, "old")

    def fails():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DiskError, match=rf"{tmp_path}/\S+: not written \(File too large\)"):
            write(tmp_path, "x" * 2000)

    assert child.run(fails) == 0
    assert contents(tmp_path) == {WRITERS[write]: b"old"}


def test_a_disk_that_cannot_sync_is_written_all_the_same(tmp_path, monkeypatch):
    """A true failure still counts."""

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    for number in (errno.EACCES, errno.EINVAL):  # noqa: B007 - fsync reads it: Windows, of a folder; a mounted drive
        write_metrics(tmp_path, "x")
    number = errno.EIO
    with pytest.raises(DiskError, match="Input/output error"):
        write_metrics(tmp_path, "y")
    assert contents(tmp_path) == {"metrics.json": b"x"}


def test_a_former_folder_that_cannot_be_removed_does_not_cost_the_new_one(tmp_path):
    """A file of it is open on a network drive, say."""

    def busy(folder):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        for text in ("first", "second", "third"):
            write_best(tmp_path, text)
    assert (tmp_path / WRITERS[write_best]).read_text() == "third"
    clean(tmp_path, *NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_move_aside(tmp_path, monkeypatch):
    """The whole folder, locked or not."""
    for folder, expected in ((tmp_path / "run", "run.old"), (Path("."), "run.old.2"), (tmp_path / "run", "run.old.3")):
        fill(tmp_path / "run", "config.json", "mine/notes.txt")
        monkeypatch.chdir(tmp_path / "run")
        with lock(tmp_path / "run"):
            assert move_aside(folder) == tmp_path / expected
            assert contents(tmp_path / expected).keys() >= {"config.json", "mine/notes.txt"}
            with lock(tmp_path / "run"), pytest.raises(UsageError), lock(tmp_path / "run"):
                pass


def test_a_file_of_tensors_may_be_read_by_whoever_may_read_others(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(2)})
    fill(tmp_path, "plain")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.fault(16)
def test_a_second_process_is_refused_with_the_first_one_s_number(tmp_path):
    def second():
        with pytest.raises(UsageError, match=f"in use by process {os.getppid()};"), lock(tmp_path / "x"):
            pass

    def dies():
        with lock(tmp_path / "x"):
            os.kill(os.getpid(), signal.SIGKILL)

    fill(tmp_path, "x/.minbert.pid")
    for _ in range(2):  # and again when the first has gone, or died
        with lock(tmp_path / "x"):
            assert child.run(second) == 0
        assert child.run(dies) == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "x").iterdir()} == {".minbert.lock", ".minbert.pid"}


def test_folders_made_for_nothing_go_and_others_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for folder in (tmp_path / "a" / "b" / "c", tmp_path / "link"):
        with pytest.raises(ValueError), lock(folder):
            raise ValueError
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "link"} and (tmp_path / "link").is_symlink()
    with lock(tmp_path / "a" / "b"):
        fill(tmp_path / "a" / "b", "kept")
    assert (tmp_path / "a" / "b" / "kept").is_file()


@pytest.mark.fault(14)
def test_a_folder_that_may_not_be_written():
    """Root may write anywhere, so a child becomes nobody."""
    with tempfile.TemporaryDirectory() as folder:

        def refused():
            if os.geteuid() == 0:
                os.setuid(65534)
            for path in (Path(folder), Path(folder, "new")):
                with pytest.raises(DiskError, match=f"{path}.*Permission denied"), lock(path):
                    pass
                with pytest.raises(DiskError, match=f"--x: expected a folder that can .* {folder}; choose another"):
                    check_space(path, 0, option="--x")

        os.chmod(folder, 0o555)
        assert child.run(refused) == 0


@pytest.mark.fault(14)
def test_space(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 0, 5_000_000))
    check_space(tmp_path / "not" / "yet", 5_000_000)
    with pytest.raises(DiskError, match=r"--output_dir: expected 5\.1 MB of free space; found 5\.0 MB at"):
        check_space(tmp_path, 5_100_000)
    fill(tmp_path, "x")
    for path in (tmp_path / "x", tmp_path / "x" / "deep" / "er"):
        with pytest.raises(DiskError, match=f"--output_dir: expected a folder .* {tmp_path / 'x'};"):
            check_space(path, 0)


def test_without_what_posix_alone_has(tmp_path):
    """As on Windows: no fcntl, no SIGHUP, no fork, folders that cannot be opened; the program's help among the rest."""
    code = f"""
import os, signal, sys
sys.modules["fcntl"] = None
del signal.SIGHUP, os.fork, os.O_NOFOLLOW
opened = os.open
def open_files_alone(path, *args, **kwargs):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, *args, **kwargs)
os.open = open_files_alone
from pathlib import Path
from runtime.files import lock, new_folder, write_atomic
out = Path({str(tmp_path)!r}, "run")
with lock(out):
    write_atomic(out / "a", "text")
    for _ in range(2):
        with new_folder(out / "best") as folder:
            (folder / "b").write_text("b")
assert (out / "a").read_text() == "text" and (out / "best" / "b").is_file()
import train_multitask
train_multitask.main(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--strategy" in done.stdout, done.stderr
