"""A run on disk: checkpoints that are whole or absent, verified before they are used, and never unpickled.

    checkpoints/step-000120/    NAME.safetensors ...    tensors, bit for bit
                                state.json              numbers, strings, lists and dicts of them
                                MANIFEST.json           written last: the format, and each file's size and sha256

A folder of that name is whole, because it was renamed into place (training/files.py); the manifest tells whether it
still is what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import sys
from collections.abc import Collection, Iterable
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.errors import CheckpointError, UsageError
from training.files import STEP_FILES, STEP_FOLDER, discard, fault, new_folder, step_folders

Tensors = dict[str, dict[str, Tensor]]  # file's stem -> tensor's name -> tensor

FORMAT = 1
MANIFEST, STATE = "MANIFEST.json", "state.json"
FILE = re.compile(r"[A-Za-z0-9_-]{1,100}\.safetensors|state\.json")
JSON_LIMIT = 16 << 20  # bytes
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


# ---- writing ---------------------------------------------------------------------------------------------------------


def save(folder: Path, step: int, tensors: Tensors, state: dict, keep: Iterable[int] = ()) -> Path:
    """Write folder/step-NNNNNN, then remove the checkpoints of all other steps but those in `keep`.

    Keep the best one, and the one before: what load_latest can fall back to.
    Args:   state: what JSON gives back equal: str keys, no tuples, finite floats (which come back bit for bit).
    Raises: ValueError or TypeError for another state; DiskError; every earlier checkpoint stands then.
    """
    text = json.dumps(state, allow_nan=False, indent=1)
    if json.loads(text) != state or len(text) > JSON_LIMIT:
        raise ValueError(f"state: expected what JSON gives back equal (no tuples), in {JSON_LIMIT} bytes; found other")
    assert {f"{stem}.safetensors" for stem in tensors} <= set(STEP_FILES), list(tensors)
    final = path_of(folder, step)
    with new_folder(final) as temporary:
        for stem, named in tensors.items():
            write_tensors(temporary / f"{stem}.safetensors", named)
            fault(f"after-{stem}", final.name)
        (temporary / STATE).write_text(text, encoding="utf-8")
        fault("after-state", final.name)
        files = {path.name: describe(path) for path in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), encoding="utf-8")
        fault("after-manifest", final.name)
    rotate(folder, {step, *keep})
    return final


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file. By hand: the library refuses tensors that share memory, and hides why a write failed."""
    # Wide elements first, as the library does it: then each tensor lies at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header, end = {}, 0
    for name, value in ordered:
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, value in ordered:
            # clone, not contiguous(), which leaves the odd strides of a tensor of one element as they are
            value = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            file.write(value.flatten().view(torch.uint8).numpy())


def rotate(folder: Path, keep: set[int]) -> None:
    """Remove the checkpoints of other steps. One that cannot be removed costs space, not the run."""
    for path in saved(folder):
        if step_of(path) not in keep:
            try:
                discard(path, STEP_FILES)
            except OSError as error:
                print(f"warning: {path}: not removed ({error.strerror}); remove it by hand", file=sys.stderr)


def saved(folder: Path) -> list[Path]:
    """The checkpoints there, newest first, not verified. A folder with a user's files alone is none."""
    return [path for path in step_folders(folder) if not (names := set(os.listdir(path))) or names & set(STEP_FILES)]


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def step_of(path: Path) -> int:
    return int(STEP_FOLDER.fullmatch(path.name)[1])


def describe(path: Path) -> dict[str, int | str]:
    """What the manifest says of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


# ---- reading ---------------------------------------------------------------------------------------------------------


def load_latest(folder: Path, keys: Collection[str] | None = None) -> tuple[Path, Tensors, dict] | None:
    """The newest checkpoint that is whole: (its path, tensors, state). None where there is no checkpoint at all.

    One that is not is passed over, and the reason said on stderr. Call training.files.clean before.
    Raises: CheckpointError with the reason for each where none is whole.
    """
    reasons, paths = [], saved(folder)
    for path, before in zip_longest(paths, paths[1:]):
        try:
            return path, *read(path, keys)
        except CheckpointError as error:
            reasons.append(str(error))
            if before:
                print(f"warning: {error}; trying the checkpoint before, {before.name}", file=sys.stderr)
    if reasons:
        raise CheckpointError(f"no checkpoint can be used: {'; '.join(reasons)}; copy one back or take --overwrite")
    return None


def load(path: Path, keys: Collection[str] | None = None) -> tuple[Tensors, dict]:
    """What `read` gives of a checkpoint that the user has named.

    Raises: UsageError where there is no such folder; CheckpointError for anything wrong inside, with what to do.
    """
    if not path.is_dir():
        there = ", ".join(other.name for other in saved(path.parent)) or "none"
        raise UsageError(f"--resume: no checkpoint at {path}; there are: {there}; take one of them or auto")
    try:
        return read(path, keys)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; take --resume auto or another checkpoint") from None


def read(path: Path, keys: Collection[str] | None = None) -> tuple[Tensors, dict]:
    """(tensors, state) as they were saved, on the CPU, in memory of their own; everything is verified first.

    Args:   keys: what the state must hold, neither more nor less, each a JSON object.
    Raises: CheckpointError with what is wrong; what to do depends on who asked.
    """
    try:
        files = read_manifest(path / MANIFEST)
        for name, entry in files.items():
            check_file(path / name, entry)
        state = read_json(path / STATE)
        tensors = {name.removesuffix(".safetensors"): read_tensors(path / name) for name in files if name != STATE}
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from None
    if keys is not None:
        check_state(path / STATE, state, keys)
    return tensors, state


def read_manifest(path: Path) -> dict[str, dict]:
    """File name -> {"size": bytes, "sha256": hex digits}."""
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT}; found {manifest.get('format')!r:.100}")
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files:
        raise CheckpointError(f"{path}: expected a list of files with {STATE} in it")
    for name, entry in files.items():
        if not FILE.fullmatch(name):  # so that it cannot point out of its folder
            raise CheckpointError(f"{path}: expected names like model.safetensors; found {name!r:.100}")
        if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
            raise CheckpointError(f"{path}: expected size and sha256 of {name}; found {entry!r:.100}")
    return files


def check_file(path: Path, entry: dict) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise CheckpointError(f"{path}: expected a plain file; found a link, folder or device")
    if path.stat().st_size != entry["size"]:  # before reading a file that may be endless
        raise CheckpointError(f"{path}: expected {entry['size']!s:.100} bytes; found {path.stat().st_size}")
    found = describe(path)["sha256"]
    if found != entry["sha256"]:
        raise CheckpointError(f"{path}: expected sha256 {entry['sha256']!s:.100}; found {found}")


def read_json(path: Path) -> dict:
    """A JSON object of a plain file of bounded size."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > JSON_LIMIT:
        raise CheckpointError(f"{path}: expected a plain file of at most {JSON_LIMIT} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON; found something else ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object; found {type(content).__name__}")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. The library bounds the header and every offset by the file's size."""
    try:
        # Copies: the library maps the file, and its pages would be read during training, when it may be gone.
        return {name: value.clone() for name, value in load_file(path).items()}
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from None


def check_state(path: Path, state: dict, keys: Collection[str]) -> None:
    unknown, missing = sorted(state.keys() - set(keys)), sorted(set(keys) - state.keys())
    if unknown or missing:
        raise CheckpointError(
            f"{path}: expected the state of this version, or the version that wrote it; "
            f"unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'}"
        )
    for key in keys:
        if not isinstance(state[key], dict):
            raise CheckpointError(f"{path}: expected a JSON object as {key}; found {type(state[key]).__name__}")
