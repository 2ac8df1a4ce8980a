"""training/checkpoint.py: what was saved comes back bit for bit, or an older one does, or nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import time
from pathlib import Path

import child
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from training import checkpoint
from training.checkpoint import (
    DTYPES,
    FILE,
    check_file,
    load,
    load_latest,
    read_manifest,
    save,
    saved,
    write_tensors,
)
from training.errors import CheckpointError, DiskError, UsageError, explain
from training.files import clean

FILES = ["model", "heads", "optimizer", "triplets"]


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """What a killed process has written is there all the same; only a power cut needs fsync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def content(step: int) -> tuple[checkpoint.Tensors, dict]:
    """A run's state at a step: its sizes are distinct primes, its numbers tell the step."""
    draw = torch.Generator().manual_seed(step)
    tensors = {
        "model": {"bert.word.weight": torch.randn(13, 7, generator=draw), "bert.norm.bias": torch.zeros(7) + step},
        "heads": {"sst.weight": torch.randn(5, 7, generator=draw).bfloat16()},
        "optimizer": {"0.m": torch.randn(13, 7, generator=draw), "0.step": torch.tensor(step)},
        "triplets": {"vectors": draw.get_state()},
    }
    return tensors, {"step": step, "best": 0.1 * step, "positions": {"sst": [step, 2]}, "note": None}


def assert_same(found: checkpoint.Tensors, expected: checkpoint.Tensors) -> None:
    """The same files, names, types, shapes and bits (so that NaN equals NaN and -0.0 does not equal 0.0)."""
    assert found.keys() == expected.keys()
    for stem in expected:
        assert found[stem].keys() == expected[stem].keys()
        for name, value in expected[stem].items():
            other = found[stem][name]
            assert (other.dtype, other.shape) == (value.dtype, value.shape)
            assert bits(other) == bits(value)


def bits(value: torch.Tensor) -> list[int]:
    return standard(value.detach()).flatten().view(torch.uint8).tolist()


def assert_is(folder: Path, step: int) -> None:
    """The newest usable checkpoint is that step's, complete."""
    path, tensors, state = load_latest(folder)
    assert path.name == f"step-{step:06d}"
    assert_same(tensors, content(step)[0])
    assert state == content(step)[1]


# ---- there and back --------------------------------------------------------------------------------------------------


def test_layout(tmp_path):
    path = save(tmp_path / "checkpoints", 120, *content(120))
    assert path == tmp_path / "checkpoints" / "step-000120"
    names = sorted([f"{stem}.safetensors" for stem in FILES] + ["state.json"])
    assert sorted(os.listdir(path)) == ["MANIFEST.json", *names]
    manifest = json.loads((path / "MANIFEST.json").read_text())
    assert manifest["format"] == 1
    assert list(manifest["files"]) == names
    for name, entry in manifest["files"].items():
        assert entry["size"] == (path / name).stat().st_size
    assert os.listdir(tmp_path / "checkpoints") == ["step-000120"]
    assert_same(*load(path)[:1], content(120)[0])


def test_everything_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    """And the name before what it replaces goes: or a power cut could leave a checkpoint of empty files, or none."""
    events, rename = [], os.rename
    folder, temporary = tmp_path / "checkpoints", f".tmp-step-000002.{os.getpid()}"
    save(folder, 1, *content(1))
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "rename", lambda old, new: (events.append((str(old), str(new))), rename(old, new)))
    path = save(folder, 2, *content(2))
    renamed = events.index((str(folder / temporary), str(path)))
    names = {str(folder / temporary / name) for name in os.listdir(path)} | {str(folder / temporary)}
    assert names | {str(tmp_path)} <= set(events[:renamed])
    trashed = (str(folder / "step-000001"), str(folder / f".trash-step-000001.{os.getpid()}"))
    assert events[renamed + 1 :] == [str(folder), trashed]


@st.composite
def tensor(draw) -> torch.Tensor:
    """Any bits, of any type and small shape; at times a view, transposed or with steps."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = math.prod(shape) * dtype.itemsize
    raw = torch.tensor(list(draw(st.binary(min_size=count, max_size=count))), dtype=torch.uint8)
    if dtype == torch.bool:
        raw = raw % 2
    value = raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    if draw(st.booleans()):
        value = value.mT if value.ndim >= 2 else value[::2] if value.ndim == 1 else value
    return value


NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=7).filter(lambda name: name != "__metadata__")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=7,
)
STATE = st.dictionaries(st.text(max_size=5), JSON, max_size=3)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(FILES), st.dictionaries(NAME, tensor(), max_size=5)), STATE)
def test_what_was_saved_comes_back(tmp_path_factory, tensors, state):
    path = save(tmp_path_factory.mktemp("run"), 3, tensors, state)
    found, found_state = load(path)
    assert_same(found, tensors)
    assert json.dumps(found_state) == json.dumps(state)  # 1 is not 1.0, -0.0 is not 0.0


def standard(value: torch.Tensor) -> torch.Tensor:
    return value.clone(memory_format=torch.contiguous_format)


@given(st.dictionaries(NAME, tensor(), max_size=5))
def test_the_files_are_safetensors(tmp_path_factory, tensors):
    """Those of the library itself, which takes no views, hold the same."""
    folder = tmp_path_factory.mktemp("run")
    write_tensors(folder / "ours.safetensors", tensors)
    copies = {name: standard(value) for name, value in tensors.items()}
    safetensors.torch.save_file(copies, folder / "theirs.safetensors")
    ours, theirs = (safetensors.torch.load_file(folder / f"{whose}.safetensors") for whose in ("ours", "theirs"))
    assert_same({"x": ours}, {"x": theirs})
    with safetensors.safe_open(folder / "ours.safetensors", "pt") as file:
        assert all(file.get_tensor(name).data_ptr() % value.element_size() == 0 for name, value in tensors.items())


def test_tensors_that_share_memory(tmp_path):
    x = torch.randn(5, 7, requires_grad=True)
    tensors = {"model": {"a": x, "tied": x, "row": x[3], "column": x[:, 2], "t": x.T}}
    found, _ = load(save(tmp_path, 1, tensors, {}))
    assert_same(found, tensors)
    found["model"]["a"].zero_()
    assert torch.equal(found["model"]["tied"], x)


def test_loaded_tensors_outlive_the_file(tmp_path):
    path = save(tmp_path, 3, *content(3))
    found, _ = load(path)
    os.truncate(path / "model.safetensors", 0)
    assert_same(found, content(3)[0])


@pytest.mark.parametrize("state", [{"x": math.nan}, {"x": math.inf}, {"x": (1, 2)}, {1: 2}, {"x": torch.ones(1)}])
def test_a_state_that_json_would_change_is_refused(tmp_path, state):
    with pytest.raises((ValueError, TypeError)):
        save(tmp_path, 1, {}, state)
    assert os.listdir(tmp_path) == []


def test_a_state_that_would_not_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "JSON_LIMIT", 1000)
    save(tmp_path, 1, {}, {"x": "y" * 900})
    with pytest.raises(ValueError, match="in 1000 bytes"):
        save(tmp_path, 2, {}, {"x": "y" * 1000})
    assert load_latest(tmp_path)[0].name == "step-000001"


# ---- rotation --------------------------------------------------------------------------------------------------------


@given(steps=st.lists(st.integers(0, 9), min_size=1, max_size=5), keep=st.sets(st.integers(0, 9), max_size=3))
@settings(max_examples=20)
def test_the_newest_and_the_kept_stay(tmp_path_factory, steps, keep):
    folder, there = tmp_path_factory.mktemp("run"), set()
    for step in steps:
        save(folder, step, *content(step), keep=keep)
        there = {step} | (there & keep)
        assert sorted(os.listdir(folder)) == [f"step-{step:06d}" for step in sorted(there)]
    assert [checkpoint.step_of(path) for path in saved(folder)] == sorted(there, reverse=True)


def test_a_folder_of_a_users_files_is_no_checkpoint(tmp_path):
    """As --overwrite leaves it: neither tried nor removed. One that has lost its files is a checkpoint, a bad one."""
    (tmp_path / "step-000009").mkdir()
    (tmp_path / "step-000009" / "own.txt").write_text("mine")
    assert load_latest(tmp_path) is None
    for step in (1, 2):
        save(tmp_path, step, *content(step), keep=[1])
    assert [path.name for path in saved(tmp_path)] == ["step-000002", "step-000001"]
    assert (tmp_path / "step-000009" / "own.txt").read_text() == "mine"
    (tmp_path / "step-000011").mkdir()
    assert saved(tmp_path)[0].name == "step-000011"


def test_beyond_a_million_steps(tmp_path):
    for step in (999_999, 1_000_000):
        save(tmp_path, step, *content(step), keep=[999_999])
    assert_is(tmp_path, 1_000_000)


def test_a_checkpoint_that_cannot_be_removed_is_told(tmp_path, monkeypatch, capsys):
    def discard(path, names):
        raise OSError(errno.EACCES, "Permission denied")

    save(tmp_path, 1, *content(1))
    monkeypatch.setattr(checkpoint, "discard", discard)
    save(tmp_path, 2, *content(2))
    assert "step-000001: not removed (Permission denied)" in capsys.readouterr().err
    assert_is(tmp_path, 2)


# ---- kill -9 ---------------------------------------------------------------------------------------------------------

BEFORE = [*(f"after-{stem}" for stem in FILES), "after-state", "after-manifest", "before-rename"]
AFTER = ["after-rename", "in-rotation"]


@pytest.mark.fault(2)
@pytest.mark.parametrize("point", BEFORE + AFTER)
def test_killed_inside_a_save(tmp_path, point):
    save(tmp_path, 1, *content(1))
    save(tmp_path, 2, *content(2), keep=[1])

    def dies():
        os.environ["MINBERT_FAULT_POINT"] = point
        save(tmp_path, 3, *content(3), keep=[2])

    assert child.run(dies) == -signal.SIGKILL
    assert_is(tmp_path, 3 if point in AFTER else 2)
    left = set(os.listdir(tmp_path))
    clean(tmp_path)
    cleaned = set(os.listdir(tmp_path))
    assert cleaned == {name for name in left if name.startswith("step-")}
    assert (cleaned < left) == (point != "after-rename")
    save(tmp_path, 3, *content(3), keep=[2])
    assert_is(tmp_path, 3)
    assert sorted(os.listdir(tmp_path)) == ["step-000002", "step-000003"]


@pytest.mark.fault(2)
@pytest.mark.parametrize("point", ["before-rename", "after-old", "after-rename"])
def test_killed_while_the_only_checkpoint_is_replaced(tmp_path, point):
    tensors, state = content(3)
    save(tmp_path, 3, tensors, {**state, "note": "first"})

    def dies():
        os.environ["MINBERT_FAULT_POINT"] = f"{point}@step-000003"
        save(tmp_path, 3, tensors, {**state, "note": "second"})

    assert child.run(dies) == -signal.SIGKILL
    clean(tmp_path)
    _, found, state = load_latest(tmp_path)
    assert state["note"] == ("second" if point == "after-rename" else "first")
    assert_same(found, tensors)
    assert os.listdir(tmp_path) == ["step-000003"]


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize("trial", range(6))
def test_killed_at_any_time(tmp_path, trial):
    """Each save that has returned is there, whenever the kill comes."""
    reader, writer = os.pipe()

    def saves():
        for step in range(10_000):
            save(tmp_path, step, *content(step), keep=[step - 1])
            os.write(writer, bytes([step % 256]))

    number = child.start(saves)
    os.read(reader, 1)  # the first is there
    time.sleep(random.Random(trial).uniform(0, 0.15))
    os.kill(number, signal.SIGKILL)
    assert child.result(number) == -signal.SIGKILL
    os.close(writer)
    done = len(os.read(reader, 10_000))  # steps after step 0 whose save returned
    os.close(reader)
    clean(tmp_path)
    _, tensors, state = load_latest(tmp_path)
    assert state["step"] in (done, done + 1)
    assert_same(tensors, content(state["step"])[0])
    assert all(name.startswith("step-") for name in os.listdir(tmp_path))


# ---- exceptions and full disks ---------------------------------------------------------------------------------------


@pytest.mark.fault(3)
@pytest.mark.parametrize("error", [KeyError("bug"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("file", range(4))
def test_an_exception_inside_a_save(tmp_path, monkeypatch, error, file):
    save(tmp_path, 1, *content(1))
    calls = []

    def fails(path, tensors):
        write_tensors(path, tensors)
        calls.append(path)
        if len(calls) > file:
            raise error

    monkeypatch.setattr(checkpoint, "write_tensors", fails)
    with pytest.raises(type(error)):
        save(tmp_path, 2, *content(2))
    assert os.listdir(tmp_path) == ["step-000001"]
    assert_is(tmp_path, 1)


@pytest.mark.fault(13)
@pytest.mark.parametrize("limit", [0, 100, 1000])
def test_a_full_disk(tmp_path, limit):
    save(tmp_path, 1, *content(1))

    def fails():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(DiskError, match=r"step-000002: not written \(File too large\)"):
            save(tmp_path, 2, *content(2))

    assert child.run(fails) == 0
    assert os.listdir(tmp_path) == ["step-000001"]
    assert_is(tmp_path, 1)


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path) -> Path:
    """A folder with checkpoints of the steps 1 and 2."""
    save(tmp_path, 1, *content(1))
    save(tmp_path, 2, *content(2), keep=[1])
    return tmp_path


def cut(path: Path) -> str:
    size = path.stat().st_size
    os.truncate(path, size - 1)
    return f"expected {size} bytes; found {size - 1}"


def empty(path: Path) -> str:
    size = path.stat().st_size
    os.truncate(path, 0)
    return f"expected {size} bytes; found 0"


def flip(path: Path) -> str:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return "expected sha256 "


def missing(path: Path) -> str:
    path.unlink()
    return "cannot be read (No such file or directory)"


def link(path: Path) -> str:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    return "expected a plain file"


def folder(path: Path) -> str:
    path.unlink()
    path.mkdir()
    return "expected a plain file"


def pipe(path: Path) -> str:
    """Whoever opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)
    return "expected a plain file"


@pytest.mark.fault(4)
@pytest.mark.parametrize("name", [*(f"{stem}.safetensors" for stem in FILES), "state.json"])
@pytest.mark.parametrize("damage", [cut, empty, flip, missing, link, folder, pipe])
def test_a_damaged_file(two, capsys, name, damage):
    path = two / "step-000002"
    reason = damage(path / name)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert f"{path / name}: {reason}" in str(caught.value)
    assert str(caught.value).endswith("; take --resume auto or another checkpoint")
    assert caught.value.exit_code == 4
    assert_is(two, 1)
    told = capsys.readouterr().err
    assert f"{path / name}: {reason}" in told and "; trying the checkpoint before, step-000001" in told
    assert path.is_dir()


@pytest.mark.fault(5)
@pytest.mark.parametrize("damage", [empty, cut, missing, link, folder, pipe])
def test_a_damaged_manifest(two, capsys, damage):
    path = two / "step-000002"
    damage(path / "MANIFEST.json")
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json: "):
        load(path)
    assert_is(two, 1)
    assert "MANIFEST.json" in capsys.readouterr().err
    assert path.is_dir()


DIGEST = {"size": 3, "sha256": "0" * 64}


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    "text, told",
    [
        ("not json", "expected JSON"),
        ("\xff", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "expected format 1; found None"),
        ('{"format": 2, "files": {}}', "expected format 1; found 2"),
        ('{"format": 1}', "expected a list of files"),
        ('{"format": 1, "files": {"state.json": 3}}', "expected size and sha256"),
        *(
            (json.dumps({"format": 1, "files": {"state.json": DIGEST, name: DIGEST}}), "expected names like")
            for name in ("../x.safetensors", "/x.safetensors", "a/b.safetensors", "..", "", ".safetensors", "x.bin")
        ),
    ],
)
def test_a_manifest_that_says_something_else(two, text, told):
    (two / "x.safetensors").write_bytes(b"abc")
    (two / "step-000002" / "MANIFEST.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=told):
        load(two / "step-000002")
    assert_is(two, 1)


NAMES = ("state.json", "model.safetensors", "../x.safetensors", "/x.safetensors", "a/b.safetensors", "..", "heads\n")
ENTRY = st.just(DIGEST) | st.fixed_dictionaries({"size": JSON, "sha256": JSON}) | JSON
LISTED = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=9), ENTRY, max_size=4)
MANIFESTS = st.fixed_dictionaries({"format": st.just(1) | JSON, "files": LISTED | JSON}) | JSON


@pytest.mark.fault(5)
@settings(max_examples=300)
@example(b"[" * 100_000)
@example(b"[" * 900 + b"]" * 900)
@example(b'{"format": 1, "files": {"state.json": ' + b"[" * 900 + b"]" * 900 + b"}}")
@example(b'{"format": 1, "files": ' + b'{"state.json": ' * 400 + b"1" + b"}" * 401)
@example(b'{"format": ' + b"9" * 5000 + b"}")
@example(json.dumps({"format": 1, "files": {"state.json": DIGEST, "heads.safetensors": DIGEST}}).encode())
@given(st.binary(max_size=99) | MANIFESTS.map(lambda manifest: json.dumps(manifest).encode()))
def test_any_manifest_is_refused_or_stays_in_its_folder(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "MANIFEST.json"
    path.write_bytes(data)
    started = time.monotonic()
    try:
        files = read_manifest(path)
    except CheckpointError as error:
        assert len(str(error)) < 1000  # it is shown on one line
    else:
        assert "state.json" in files
        for name, entry in files.items():
            assert FILE.fullmatch(name) and (path.parent / name).resolve().parent == path.parent.resolve()
            assert entry.keys() == {"size", "sha256"}
            with pytest.raises((CheckpointError, FileNotFoundError)):
                check_file(path.parent / name, entry)
    assert time.monotonic() - started < 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("run"), 5, *content(5))


@pytest.mark.fault(4)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(file=0, place=0.0, bit=0)
@given(file=st.integers(0, 5), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_bit_anywhere(whole, tmp_path, file, place, bit):
    """It is noticed, or it changed nothing that counts (a space of the manifest)."""
    path = tmp_path / "step-000005"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    flipped = sorted(path.iterdir())[file]
    data = bytearray(flipped.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    flipped.write_bytes(data)
    try:
        tensors, state = load(path)
    except CheckpointError:
        return
    assert flipped.name == "MANIFEST.json"
    assert_same(tensors, content(5)[0])
    assert state == content(5)[1]


@pytest.mark.fault(6)
def test_all_bad(two, capsys):
    cut(two / "step-000001" / "heads.safetensors")
    missing(two / "step-000002" / "MANIFEST.json")
    with pytest.raises(CheckpointError) as caught:
        load_latest(two)
    assert "step-000001/heads.safetensors: expected" in str(caught.value)
    assert "step-000002/MANIFEST.json: cannot be read" in str(caught.value)
    assert str(caught.value).endswith("; copy one back or take --overwrite")
    assert "another checkpoint" not in str(caught.value)  # there is none
    assert len(os.listdir(two)) == 2
    told = capsys.readouterr().err
    assert told.count("trying the checkpoint before") == 1 and "before, step-000001" in told


@pytest.mark.fault(6)
def test_the_only_one_is_bad(tmp_path, capsys):
    """Then no other is tried, and none is said to be."""
    cut(save(tmp_path, 1, *content(1)) / "heads.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint can be used: "):
        load_latest(tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.fault(7)
def test_none_there(tmp_path):
    assert load_latest(tmp_path / "absent") is None
    for name in (".tmp-step-000003.71", ".trash-step-000002.71", "step-3", "step-000004.bak"):
        shutil.copytree(save(tmp_path / "other", 3, *content(3)), tmp_path / "checkpoints" / name)
    (tmp_path / "checkpoints" / "step-000009").write_text("a file")
    (tmp_path / "checkpoints" / "step-000010").symlink_to(tmp_path / "other" / "step-000003")
    assert load_latest(tmp_path / "checkpoints") is None


@pytest.mark.fault(7)
def test_a_named_checkpoint_that_is_absent(two):
    with pytest.raises(UsageError, match="there are: step-000002, step-000001"):
        load(two / "step-000009")
    with pytest.raises(UsageError, match="there are: none"):
        load(two / "elsewhere" / "step-000009")


def test_a_checkpoint_may_be_copied_elsewhere(two, tmp_path):
    shutil.copytree(two / "step-000002", tmp_path / "the good one")
    assert_same(load(tmp_path / "the good one")[0], content(2)[0])


@pytest.mark.fault(8)
def test_keys_of_the_state(tmp_path):
    path = save(tmp_path, 2, {}, {"progress": {"step": 2}, "scaler": {}})
    assert load(path, ["progress", "scaler"])[1]["progress"] == {"step": 2}
    with pytest.raises(CheckpointError, match=r"state\.json: .*unknown: progress; missing: data, options;"):
        load_latest(tmp_path, ["options", "scaler", "data"])


@pytest.mark.fault(8)
@pytest.mark.parametrize("value", [None, True, 3, 0.5, "3", [], [["step", 3]]])
def test_a_part_of_the_state_of_another_type(tmp_path, value):
    path = save(tmp_path, 2, {}, {"progress": value, "scaler": {}})
    expected = rf"state\.json: expected a JSON object as progress; found {type(value).__name__}"
    for reader in (lambda: load(path, ["progress", "scaler"]), lambda: load_latest(tmp_path, ["progress", "scaler"])):
        with pytest.raises(CheckpointError, match=expected) as caught:
            reader()
        assert explain(caught.value)[0] == 4


# ---- malice ----------------------------------------------------------------------------------------------------------


class Trap:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def header(text: bytes, claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text


def one_tensor(dtype: str, count: int, end: int) -> bytes:
    return header(json.dumps({"x": {"dtype": dtype, "shape": [count], "data_offsets": [0, end]}}).encode())


HOSTILE = {
    "nothing": lambda mark: b"",
    "pickle": lambda mark: pickle.dumps(Trap(mark)),
    "2^60 bytes": lambda mark: header(b"{}", 2**60),
    "2^63 bytes": lambda mark: header(b"{}", 2**63 + 5),
    "header longer than the file": lambda mark: header(b"{}", 99),
    "no json": lambda mark: header(b"[[[["),
    "2^60 numbers": lambda mark: one_tensor("F32", 2**60, 4) + b"1234",
    "beyond the end": lambda mark: one_tensor("F32", 2, 8) + b"1234",
    "unknown type": lambda mark: one_tensor("Q32", 1, 4) + b"1234",
}


@pytest.mark.fault(8)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file(two, kind):
    """One that its manifest vouches for: only the reader itself is left to refuse it."""
    path, mark = two / "step-000002", two / "trap"
    (path / "heads.safetensors").write_bytes(HOSTILE[kind](mark))
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"]["heads.safetensors"] = checkpoint.describe(path / "heads.safetensors")
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: not a safetensors file"):
        load(path)
    assert time.monotonic() - started < 1
    assert not mark.exists()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()


@pytest.mark.fault(5, 8)
def test_a_manifest_of_any_length(two):
    with open(two / "step-000002" / "MANIFEST.json", "r+b") as file:
        file.truncate(2**40)  # a hole: takes no space
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="of at most"):
        load(two / "step-000002")
    assert time.monotonic() - started < 1
