"""training/checkpoint.py: what was saved comes back bit for bit, or an older one does, or nothing."""

import json
import os
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.errors import CheckpointError
from training.checkpoint import Tensors, load, load_latest, save, saved, step_of

STEMS = ["model", "heads", "any_new_state"]


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """What a killed process has written is there all the same; only a power cut needs fsync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def content(step: int) -> tuple[Tensors, dict]:
    """A run's state at a step: its sizes are distinct primes, its numbers tell the step."""
    draw = torch.Generator().manual_seed(step)
    tensors = {
        "model": {"bert.word.weight": torch.randn(13, 7, generator=draw), "bert.norm.bias": torch.zeros(7) + step},
        "heads": {"sst.weight": torch.randn(5, 7, generator=draw).bfloat16()},
        "any_new_state": {"vectors": draw.get_state(), "0.step": torch.tensor(step)},
    }
    return tensors, {"step": step, "best": 0.1 * step, "positions": {"sst": [step, 2]}, "note": None}


def bits(tensors: Tensors) -> dict:
    """So that NaN equals NaN, and -0.0 does not equal 0.0."""
    flat = {(stem, name): value for stem, named in tensors.items() for name, value in named.items()}
    return {
        key: (value.dtype, value.shape, value.clone(memory_format=torch.contiguous_format).untyped_storage().tolist())
        for key, value in flat.items()
    }


def assert_is(folder: Path, step: int) -> None:
    """The newest usable checkpoint is that step's, complete."""
    path, tensors, state = load_latest(folder)
    assert (path.name, bits(tensors), state) == (f"step-{step:06d}", bits(content(step)[0]), content(step)[1])


def test_layout_and_order(tmp_path, monkeypatch):
    """All is on the disk before its name is, and the name before what it replaces goes."""
    events, folder = [], tmp_path / "checkpoints"
    old = save(folder, 119, *content(119))
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    for name in ("rename", "replace"):
        move = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *paths, move=move: (events.append(tuple(map(str, paths))), move(*paths)))
    path = save(folder, 120, *content(120))
    names = sorted([*(f"{stem}.safetensors" for stem in STEMS), "state.json"])
    assert sorted(os.listdir(path)) == ["MANIFEST.json", *names]
    assert sorted(json.loads((path / "MANIFEST.json").read_text())["files"]) == names
    assert (path, os.listdir(folder)) == (folder / "step-000120", ["step-000120"])
    temporary = folder / f".tmp-step-000120.{os.getpid()}"
    renamed = events.index((str(temporary), str(path)))
    written = {str(temporary / name) for name in os.listdir(path)}
    assert written | {str(tmp_path), str(temporary)} <= set(events[:renamed])
    synced, (moved, trash) = events[renamed + 1 :]
    assert (synced, moved) == (str(folder), str(old)) and trash.startswith(str(folder / ".trash-step-000119."))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=7,
)
NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=7).filter(lambda name: name != "__metadata__")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=5), st.sampled_from(DTYPES), NAME, st.dictionaries(st.text(max_size=5), JSON))
def test_what_was_saved_comes_back(tmp_path_factory, data, dtype, name, state):
    """Any bits of any type; transposed, a number, and none at all."""
    raw = torch.tensor(list(data * 16), dtype=torch.uint8)
    x = raw.view(getattr(torch, dtype)).reshape(2, -1)
    tensors = {"model": {"bool": raw > 99, name: x.mT, f"{name}.": x[0, 0].clone()}, "heads": {name: x[:0]}, "none": {}}
    path = save(tmp_path_factory.mktemp("run"), 3, tensors, state)
    by_library = {stem: safetensors.torch.load_file(path / f"{stem}.safetensors") for stem in tensors}
    assert bits(load(path)[0]) == bits(by_library) == bits(tensors)
    assert json.dumps(load(path)[1]) == json.dumps(state)  # 1 is not 1.0, -0.0 is not 0.0


def test_the_newest_and_the_kept_stay(tmp_path):
    """And what has no manifest: nobody knows what it is. What has another name is no checkpoint."""
    others = (".tmp-step-000003.71", ".trash-step-000002.71", "step-3", "step-000004.bak")
    for name in others:
        (tmp_path / name).mkdir()
    assert load_latest(tmp_path) is load_latest(tmp_path / "absent") is None
    (tmp_path / "step-000031").mkdir()
    for step, keep in ((2, []), (999_999, [2, 7]), (3, [2, 999_999]), (1_000_000, [999_999]), (5, [999_999])):
        save(tmp_path, step, {}, {}, keep)
        assert [step_of(path) for path in saved(tmp_path)] == sorted({step, *keep, 31} - {7}, reverse=True)
    assert all((tmp_path / name).is_dir() for name in others)


@pytest.mark.fault(3)
@pytest.mark.parametrize("error", [KeyError("bug"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("calls", range(6))
def test_an_exception_inside_a_save(tmp_path, monkeypatch, error, calls):
    save(tmp_path, 1, *content(1))
    left = iter(range(calls))

    def fails(descriptor):
        if next(left, None) is None:
            raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(type(error)):
        save(tmp_path, 2, *content(2))
    assert os.listdir(tmp_path) == ["step-000001"]
    assert_is(tmp_path, 1)


@pytest.fixture
def two(tmp_path) -> Path:
    """A folder with checkpoints of the steps 1 and 2."""
    save(tmp_path, 1, *content(1))
    save(tmp_path, 2, *content(2), keep=[1])
    return tmp_path


DAMAGE = {
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "removed": Path.unlink,
    "a link": lambda path: path.symlink_to(path.rename(path.with_name("elsewhere"))),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),  # whoever opens it waits for ever
}


@pytest.mark.fault(4, 5)
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_a_damaged_file(two, capsys, name, kind):
    path = two / "step-000002"
    size = (path / name).stat().st_size
    DAMAGE[kind](path / name)
    if (name, kind) == ("MANIFEST.json", "a link"):  # it vouches for nothing, and may lie elsewhere
        return assert_is(two, 2)
    with pytest.raises(CheckpointError, match=r"; (take an earlier|copy it anew or take another)") as caught:
        load(path)
    assert f"{path / name}: expected " in str(caught.value)
    if kind == "cut" and name != "MANIFEST.json":
        assert f"'size': {size}, " in str(caught.value) and f"'size': {size - 1}, " in str(caught.value)
    assert_is(two, 1)
    told = capsys.readouterr().err
    assert f"warning: {path / name}: expected " in told
    assert path.is_dir()


@pytest.mark.fault(5)
def test_a_file_with_a_checkpoint_s_name_does_not_count(two, capsys):
    (two / "step-000003").write_text("")
    assert_is(two, 2)
    assert "step-000003/MANIFEST.json: expected " in capsys.readouterr().err


DIGEST = {"size": 3, "sha256": "0" * 64}
LISTED = st.dictionaries(
    st.sampled_from(["state.json", "model.safetensors", "../x.safetensors", "/x.safetensors", "..", "heads\n"]),
    st.just(DIGEST) | st.fixed_dictionaries({"size": JSON, "sha256": JSON}) | JSON,
    max_size=4,
)
MANIFEST = st.fixed_dictionaries({"format": st.just(1) | JSON, "files": LISTED | JSON}) | JSON


@pytest.mark.fault(5, 8)
@settings(max_examples=200)
@example(json.dumps({"format": 1, "files": {"state.json": DIGEST, "../x.safetensors": DIGEST}}))
@example(json.dumps({"format": 2, "files": {"state.json": DIGEST}}))
@example("[" * 100_000)
@example('{"format": ' + "9" * 5000 + "}")
@given(MANIFEST.map(json.dumps) | st.text())
def test_any_other_manifest_is_refused(tmp_path_factory, text):
    """In a moment, and on a line of bounded length; no name points out of the folder."""
    path = tmp_path_factory.getbasetemp() / "step-000003"
    path.mkdir(exist_ok=True)
    (path / "MANIFEST.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    for file in (path / "state.json", path / "model.safetensors", path.parent / "x.safetensors"):
        file.write_bytes(b"abc")
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert time.monotonic() - started < 1
    assert len(str(caught.value)) < 1000 and "x.safetensors: expected" not in str(caught.value)
