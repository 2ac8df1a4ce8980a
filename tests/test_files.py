"""training/files.py: whole or absent, whenever the process is killed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import child
import pytest
from safetensors.torch import save_file
from tiny_run import train, workshop

import training.files
from training.errors import DiskError, UsageError, explain
from training.files import STEP_FILES, check_space, claim_output_dir, clean, discard, lock, new_folder, write_atomic


def killed_at(point: str, action) -> None:
    """Do it in a child that dies at the point."""

    def until_then():
        os.environ["MINBERT_FAULT_POINT"] = point
        action()

    assert child.run(until_then) == -signal.SIGKILL, f"{point} was not reached"


def limited(size: int, action) -> None:
    """Do it in a child whose files cannot grow beyond `size` bytes."""

    def inside():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        action()

    assert child.run(inside) == 0


# ---- write_atomic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content, expected", [("é\r\n\n", b"\xc3\xa9\r\n\n"), (b"\0\xff", b"\0\xff"), ("", b"")])
def test_write_atomic(tmp_path, content, expected):
    path = tmp_path / "metrics.json"
    for _ in range(2):
        write_atomic(path, content)
        assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_file_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    events, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append((str(old), str(new))), replace(old, new)))
    write_atomic(tmp_path / "a", "x")
    temporary = str(tmp_path / f".tmp-a.{os.getpid()}")
    assert events == [temporary, (temporary, str(tmp_path / "a")), str(tmp_path)]


@pytest.mark.fault(19)
def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_atomic(path, "old")
    killed_at("before-rename@metrics.json", lambda: write_atomic(path, "new"))
    assert path.read_text() == "old"
    clean(tmp_path)
    assert os.listdir(tmp_path) == ["metrics.json"]


@pytest.mark.fault(13)
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_atomic(path, "old")

    def fails():
        with pytest.raises(DiskError, match=rf"{path}: not written \(File too large\)"):
            write_atomic(path, "x" * 2000)

    limited(1000, fails)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_missing_folder_is_a_disk_error(tmp_path):
    with pytest.raises(DiskError, match="No such file"):
        write_atomic(tmp_path / "absent" / "metrics.json", "x")


# ---- new_folder, discard, clean --------------------------------------------------------------------------------------


def write_best(folder: Path, text: str) -> None:
    with new_folder(folder) as temporary:
        (temporary / "1_Pooling").mkdir()
        (temporary / "1_Pooling" / "config.json").write_text(text)


def best(folder: Path) -> str:
    return (folder / "1_Pooling" / "config.json").read_text()


def test_new_folder(tmp_path):
    final = tmp_path / "runs" / "best"
    fill(tmp_path / "runs" / f".tmp-best.{os.getpid()}", ["left by another process of this number"])
    for text in ("first", "second"):
        write_best(final, text)
        assert best(final) == text
        assert os.listdir(final.parent) == ["best"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_folder(tmp_path, error):
    write_best(tmp_path / "best", "old")
    with pytest.raises(type(error)), new_folder(tmp_path / "best") as temporary:
        (temporary / "half").write_text("x")
        raise error
    assert best(tmp_path / "best") == "old"
    assert os.listdir(tmp_path) == ["best"]


def test_a_failed_exchange_is_undone(tmp_path, monkeypatch):
    write_best(tmp_path / "best", "old")
    rename = Path.rename

    def fails(self, target):
        if self.name.startswith(".tmp-"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(DiskError, match="Input/output error"):
        write_best(tmp_path / "best", "new")
    assert best(tmp_path / "best") == "old"
    assert os.listdir(tmp_path) == ["best"]


@pytest.mark.parametrize(
    "point, expected", [("before-rename@best", "old"), ("after-old", "old"), ("after-rename", "new")]
)
def test_a_kill_leaves_one_of_the_two(tmp_path, point, expected):
    write_best(tmp_path / "best", "old")
    killed_at(point, lambda: write_best(tmp_path / "best", "new"))
    clean(tmp_path)
    assert best(tmp_path / "best") == expected
    assert os.listdir(tmp_path) == ["best"]


def test_a_library_that_meets_a_full_disk(tmp_path):
    """safetensors says so with an error class of its own."""
    import torch

    def fails():
        with pytest.raises(DiskError, match="not written"), new_folder(tmp_path / "best") as temporary:
            save_file({"x": torch.zeros(10_007)}, temporary / "model.safetensors")

    limited(1000, fails)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("point", [None, "after-rename"])
def test_a_new_folder_keeps_what_is_not_ours(tmp_path, point):
    """Of an old folder's files those that the new one lacks move over, also where a kill left that to `clean`."""
    write_best(tmp_path / "best", "old")
    fill(tmp_path / "best", ["mine.json", "1_Pooling/mine.txt", "notes/a/b.txt"])
    if point is None:
        write_best(tmp_path / "best", "new")
    else:
        killed_at(point, lambda: write_best(tmp_path / "best", "new"))
        clean(tmp_path)
    assert best(tmp_path / "best") == "new"
    assert files(tmp_path / "best") == {"1_Pooling/config.json", "mine.json", "1_Pooling/mine.txt", "notes/a/b.txt"}
    assert os.listdir(tmp_path) == ["best"]


def test_a_new_folder_in_a_link_s_place_leaves_what_it_points_to(tmp_path):
    fill(tmp_path / "elsewhere", ["mine.json"])
    (tmp_path / "best").symlink_to(tmp_path / "elsewhere")
    write_best(tmp_path / "best", "new")
    assert files(tmp_path) == {"elsewhere/mine.json", "best/1_Pooling/config.json"}


def test_discard_may_be_killed(tmp_path):
    step = tmp_path / "step-000003"
    fill(step, STEP_FILES)
    killed_at("in-rotation@step-000003", lambda: discard(step, STEP_FILES))
    assert not step.exists()
    clean(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("point", [None, "in-rotation"])
def test_discard_leaves_what_is_not_ours(tmp_path, point):
    step = tmp_path / "step-000003"
    fill(step, (*STEP_FILES, "own.txt", "plots/a.png"))
    if point is None:
        discard(step, STEP_FILES)
    else:
        killed_at(point, lambda: discard(step, STEP_FILES))
        clean(tmp_path)
    assert files(tmp_path) == {"step-000003/own.txt", "step-000003/plots/a.png"}
    assert os.listdir(tmp_path) == ["step-000003"]


def test_clean_takes_only_what_is_ours(tmp_path):
    kept = {".tmp-notes", ".trash", ".hidden", "step-000003", ".tmp-x.12a", "notes.tmp-1.2"}
    for name in (*kept, ".tmp-step-000005.71", ".trash-step-000002.71", ".tmp-metrics.json.3"):
        (tmp_path / name).mkdir()
    (tmp_path / ".tmp-link.3").symlink_to(tmp_path / "step-000003")
    clean(tmp_path)
    assert set(os.listdir(tmp_path)) == kept
    clean(tmp_path / "absent")


def test_a_folder_that_cannot_be_synced_is_written_all_the_same(tmp_path, monkeypatch):
    """As on some mounted drives; a true failure still counts."""
    number = errno.EINVAL

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"
    number = errno.EIO
    with pytest.raises(DiskError):
        write_atomic(tmp_path / "a", "y")
    assert (tmp_path / "a").read_text() == "x"


# ---- a run's folder --------------------------------------------------------------------------------------------------


@pytest.mark.fault(16)
def test_a_second_process_is_refused_with_the_first_one_s_number(tmp_path):
    folder = tmp_path / "runs" / "x"

    def second():
        with pytest.raises(UsageError, match=f"in use by process {os.getppid()};") as caught, lock(folder):
            pass
        assert caught.value.exit_code == 2

    with lock(folder):
        assert child.run(second) == 0
    (folder / ".lock").write_text("1234567890")
    with lock(folder):  # and again when the first is done
        assert (folder / ".lock").read_text() == str(os.getpid())


def test_a_lock_dies_with_its_process(tmp_path):
    def dies():
        with lock(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert child.run(dies) == -signal.SIGKILL
    with lock(tmp_path):
        pass


def test_a_folder_that_may_not_be_written():
    """Root may write anywhere, so a child becomes nobody."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def refused():
            if os.geteuid() == 0:
                os.setuid(65534)
            for path in (folder, folder / "new"):
                with pytest.raises(DiskError) as caught, lock(path):
                    pass
                assert explain(caught.value)[0] == 7
                assert str(path) in str(caught.value)
            with pytest.raises(DiskError, match=f"{folder}: may not be written; .*another --predictions_dir$"):
                check_space(folder / "new", 0, option="--predictions_dir")

        (folder / ".lock").touch()
        (folder / ".lock").chmod(0o666)
        folder.chmod(0o555)
        try:
            assert child.run(refused) == 0
        finally:
            folder.chmod(0o755)


def test_a_file_in_the_folder_s_place(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(DiskError, match="File exists"), lock(tmp_path / "x"):
        pass


def test_a_disk_without_locks(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(training.files.fcntl, "flock", flock)
    with pytest.raises(DiskError, match="No locks available"), lock(tmp_path):
        pass


WRITTEN = (
    "config.json",
    "log.jsonl",
    "metrics.json",
    "checkpoints/step-000003/state.json",
    *(f"checkpoints/step-000120/{name}" for name in STEP_FILES),
    "checkpoints/.tmp-step-000130.71/model.safetensors",
    "best/config.json",
    "best/model.safetensors",
    "best/vocab.txt",
    "best/1_Pooling/config.json",
    "predictions/sst-dev-output.csv",
    ".tmp-metrics.json.71",
)
FOREIGN = (
    *("notes.txt", "mine.json", "1_Pooling/config.json"),
    *("best/README.md", "best/mine.json", "best/mine.safetensors", "best/1_Pooling/mine.json", "best/onnx/model.onnx"),
    *("predictions/mine.csv", "predictions/mine-output.csv", "predictions/sst-train-output.csv"),
    *("checkpoints/step-notes.txt", "checkpoints/step-3/state.json", "checkpoints/step-000120-copy/state.json"),
    *("checkpoints/step-000003/own.txt", "checkpoints/step-000003/own.safetensors", "checkpoints/config.json"),
)


def fill(folder: Path, names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_not_written_over(tmp_path):
    fill(tmp_path, WRITTEN + FOREIGN)
    with pytest.raises(UsageError, match=r"holds a run \(config.json\); take --resume auto or --overwrite"):
        claim_output_dir(tmp_path, resume=False, overwrite=False)
    claim_output_dir(tmp_path, resume=True, overwrite=False)
    assert files(tmp_path) == {name for name in WRITTEN + FOREIGN if ".tmp-" not in name}


@pytest.mark.fault(15)
def test_overwrite_removes_what_a_run_writes(tmp_path):
    fill(tmp_path, WRITTEN + FOREIGN)
    claim_output_dir(tmp_path, resume=False, overwrite=True)
    assert files(tmp_path) == set(FOREIGN)
    claim_output_dir(tmp_path, resume=False, overwrite=False)  # what is left is no run
    fill(tmp_path / "run", WRITTEN)
    claim_output_dir(tmp_path / "run", resume=False, overwrite=True)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.fault(15)
def test_overwriting_a_real_run(tmp_path):
    """Its own files go, all of them; a user's files among them outlive the new run too, its saves and rotations."""
    mine = {"best/mine.json", "predictions/mine-output.csv", "checkpoints/step-000002/own.txt"}
    options = ("--strategy", "single", "--tasks", "sst", "--max_steps", 6, "--save_every", 2, "--eval_every", 6)
    with workshop(tmp_path) as home:
        assert train(home, home / "run", *options) == 0
        written = files(home / "run")
        fill(home / "run", mine)
        assert train(home, home / "run", *options, "--overwrite") == 0
    assert files(tmp_path / "run") == written | mine
    claim_output_dir(tmp_path / "run", resume=False, overwrite=True)
    assert files(tmp_path / "run") == mine | {".lock"}


def test_overwrite_follows_no_link(tmp_path):
    """Neither to a checkpoint; and a linked folder is emptied of the run, but stays."""
    fill(tmp_path / "elsewhere", ["model.safetensors"])
    fill(tmp_path / "disk", ["sst-dev-output.csv"])
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-000003").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / "predictions").symlink_to(tmp_path / "disk")
    claim_output_dir(tmp_path / "run", resume=False, overwrite=True)
    assert files(tmp_path) == {"elsewhere/model.safetensors"}
    assert (tmp_path / "run" / "predictions").is_dir()


@pytest.mark.parametrize("resume", [True, False])
def test_an_unused_folder_is_claimed(tmp_path, resume):
    fill(tmp_path, ["notes.txt", "predictions/mine.csv"])
    claim_output_dir(tmp_path, resume=resume, overwrite=False)
    assert files(tmp_path) == {"notes.txt", "predictions/mine.csv"}


@pytest.mark.fault(14)
def test_space(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 0, 5_000_000))
    check_space(tmp_path / "not" / "yet", 5_000_000)
    with pytest.raises(DiskError, match=r"expected 5\.1 MB of free space.* found 5\.0 MB") as caught:
        check_space(tmp_path, 5_100_000)
    assert explain(caught.value)[0] == 7
    assert ", for checkpoints and the best model" in str(caught.value)
    assert str(caught.value).endswith("another --output_dir")
    with pytest.raises(DiskError, match=r"expected 5\.1 MB of free space; found 5\.0 MB.*another --predictions_dir$"):
        check_space(tmp_path, 5_100_000, option="--predictions_dir")


@pytest.mark.fault(14)
def test_a_file_where_a_folder_should_be_made(tmp_path):
    (tmp_path / "x").write_text("")
    for path in (tmp_path / "x", tmp_path / "x" / "deep" / "er"):
        with pytest.raises(DiskError, match=f"--predictions_dir: expected a folder at {tmp_path / 'x'}; found a file"):
            check_space(path, 0, option="--predictions_dir")
