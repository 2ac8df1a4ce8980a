"""A run on disk: checkpoints that are whole or absent, verified before they are used, and never unpickled.

checkpoints/step-000120/    NAME.safetensors ...    tensors, bit for bit
                            state.json              numbers, strings, lists and dicts of them
                            MANIFEST.json           written last: the format, and each file's size and sha256
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from bert.checkpoint import read_tensors, write_tensors
from runtime.errors import CheckpointError, say
from runtime.files import discard, new_folder, read_json, sha256

Tensors = dict[str, dict[str, Tensor]]  # file's stem -> tensor's name -> tensor
FORMAT = 1
MANIFEST, STATE = "MANIFEST.json", "state.json"
ADVICE = "take an earlier checkpoint"
FILE = re.compile(r"[a-z_]{1,99}\.safetensors|state\.json")  # so that no name in a manifest points out of its folder


def save(folder: Path, step: int, tensors: Tensors, state: dict, keep: Iterable[int] = ()) -> Path:
    """Write folder/step-NNNNNN, then remove the checkpoints of other steps, except those in `keep`.

    Args: state: equal after a round trip through JSON: str keys, no tuples, finite floats (these come back exactly).
    Raises: DiskError; then every earlier checkpoint is kept.
    """
    text = json.dumps(state, allow_nan=False, indent=1)
    final = path_of(folder, step)
    with new_folder(final) as temporary:
        for stem, named in tensors.items():
            write_tensors(temporary / f"{stem}.safetensors", named)
        (temporary / STATE).write_text(text, encoding="utf-8")
        files = {path.name: describe(path) for path in sorted(temporary.iterdir())}
        assert all(map(FILE.fullmatch, files)), files
        (temporary / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), encoding="utf-8")
    for path in saved(folder):
        if step_of(path) not in {step, *keep} and (path / MANIFEST).exists():
            with suppress(OSError):  # a checkpoint that stays costs space, not the run
                discard(path)
    return final


def saved(folder: Path) -> list[Path]:
    """Paths in the folder with the name of a checkpoint, newest first, not verified."""
    paths = [path for path in folder.glob("step-*") if re.fullmatch(r"step-[0-9]{6,}", path.name)]
    return sorted(paths, key=step_of, reverse=True)


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load_latest(folder: Path) -> tuple[Path, Tensors, dict] | None:
    """(path, tensors, state) of the newest whole checkpoint; None where there is no checkpoint at all.

    Raises: CheckpointError, with the reason for each, where none is whole. Prints a warning for each that is skipped.
    """
    reasons = []
    for path in saved(folder):
        try:
            return path, *load(path)
        except CheckpointError as error:
            say(f"warning: {error}")
            reasons.append(str(error))
    if reasons:
        raise CheckpointError(f"no checkpoint can be used: {'; '.join(reasons)}; copy one back or take --overwrite")
    return None


def load(path: Path) -> tuple[Tensors, dict]:
    """(tensors, state) as they were saved, on the CPU, each file verified first. Raises CheckpointError for what cannot
    be trusted."""
    manifest = read_json(path / MANIFEST)
    files = manifest.get("files")
    listed = isinstance(files, dict) and STATE in files and all(map(FILE.fullmatch, files))
    if manifest.get("format") != FORMAT or not listed:
        expected = f"format {FORMAT} and files named like {STATE} and model.safetensors"
        raise CheckpointError(f"{path / MANIFEST}: expected {expected}; found {manifest!r:.300}; {ADVICE}")
    for name, expected in files.items():
        if (found := describe(path / name)) != expected:
            raise CheckpointError(f"{path / name}: expected {expected!s:.150}; found {found}; {ADVICE}")
    stems = [name.removesuffix(".safetensors") for name in files if name != STATE]
    return {stem: read_tensors(path / f"{stem}.safetensors") for stem in stems}, read_json(path / STATE)


def describe(path: Path) -> dict[str, int | str]:
    """A file's entry in the manifest. Raises CheckpointError for what is not a plain file or cannot be read."""
    try:
        if path.is_symlink():
            raise OSError("a link")
        return {"size": path.stat().st_size, "sha256": sha256(path)}
    except OSError as error:
        raise CheckpointError(f"{path}: expected a file that can be read; found {error}; {ADVICE}") from None
