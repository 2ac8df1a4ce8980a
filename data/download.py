"""Fetch the nine course files, each checked against its git blob id.

    python -m data.download                 # into data/cs224n/, where train_multitask.py looks
    python -m data.download --dest DIR      # elsewhere; then give --data_dir DIR to train_multitask.py

Source: the course's public starter repository, gpoesia/minbert-default-final-project, folder data/.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from tqdm import tqdm

from data import DEFAULT_DIR

# The one import of another room in data/: exit codes are given in one place, and this is a script, which no file of
# its room imports. training/errors.py knows no other room, so that no circle arises.
from training.errors import run_cli

BASE_URL = "https://raw.githubusercontent.com/gpoesia/minbert-default-final-project/main/data/"
BLOB_IDS = {
    "ids-sst-dev.csv": "3171aa629a340809d2db4a50df8f6e5ec9420ab0",
    "ids-sst-test-student.csv": "bbd2313758825f86e24416d6aad64cd93370cf7a",
    "ids-sst-train.csv": "9cb7333cb1dae49c2bd2a4b56a24882a6e8704b5",
    "quora-dev.csv": "de7cfa32428fd470b93f778fccc45a619e01336f",
    "quora-test-student.csv": "f257ef00558555afb50819578a58205732b16354",
    "quora-train.csv": "a3b5546f6a0e65b60a328a5d294d1038f5bed1da",
    "sts-dev.csv": "9392860e584717976b8d817cc40c9e6ceeec27e0",
    "sts-test-student.csv": "25f0cf8fafdd1f82b9e2bb460c708af34341ce60",
    "sts-train.csv": "12b17760e7795fee35aeeabc290d5651de02622a",
}
TIMEOUT = 30  # seconds without a byte


class WrongFileError(ValueError):
    """What came is not the file that was asked for."""

    exit_code = 4


class FolderError(OSError):
    """The destination cannot be written."""

    exit_code = 7


class FetchError(OSError):
    """The network, or the server, does not give the file."""

    exit_code = 8


def blob_id(content: bytes) -> str:
    """The name git gives to a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def download(dest: Path, base_url: str = BASE_URL, blob_ids: Mapping[str, str] = BLOB_IDS) -> list[str]:
    """Bring every file of `blob_ids` (name -> git blob id) into the folder `dest`; returns the names that were fetched.

    A file that is there with its id is left alone, one with another id is replaced. A file appears under its name
    whole and checked, or not at all.
    Raises: WrongFileError, FolderError, FetchError.
    """
    base_url = base_url.rstrip("/") + "/"
    try:
        dest.mkdir(parents=True, exist_ok=True)
        lacking = [name for name in blob_ids if not _is_there(dest / name, blob_ids[name])]
    except OSError as error:
        raise FolderError(f"{dest}: expected a folder to write to; found: {error}; choose another --dest") from None
    for name in blob_ids:
        if name not in lacking:
            print(f"{name}: already there, verified", file=sys.stderr)
        elif (dest / name).exists():
            print(f"{name}: there, but not the course's file; to be replaced", file=sys.stderr)
    for done, name in enumerate(lacking):
        try:
            content = _fetch(base_url + name)
        except (OSError, HTTPException) as error:
            raise FetchError(
                f"{base_url + name}: expected the file; found: {error}; try again later, or fetch "
                f"{', '.join(lacking[done:])} from {base_url} by hand and put them into {dest.resolve()}"
            ) from None
        if blob_id(content) != blob_ids[name]:
            raise WrongFileError(
                f"{base_url + name}: expected git blob {blob_ids[name]}; found {blob_id(content)} "
                f"({len(content)} bytes), not kept; try again, or give another --base_url"
            )
        try:
            _store(dest / name, content)
        except OSError as error:
            raise FolderError(f"{dest / name}: not written: {error}; make room, or choose another --dest") from None
    return lacking


def _is_there(path: Path, expected: str) -> bool:
    return path.exists() and blob_id(path.read_bytes()) == expected


def _fetch(url: str) -> bytes:
    """The whole body, with its progress as a line on stderr; OSError where it ends early."""
    with urlopen(url, timeout=TIMEOUT) as response:
        size = response.length  # None where the server does not say
        content = bytearray()
        with tqdm(desc=url.rpartition("/")[2], total=size, unit="B", unit_scale=True, file=sys.stderr) as progress:
            while chunk := response.read(1 << 16):
                content += chunk
                progress.update(len(chunk))
    if size is not None and len(content) != size:
        raise OSError(f"the connection ended after {len(content)} of {size} bytes")
    return bytes(content)


def _store(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: no reader, and no kill, ever meets a part of a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: list[str] | None = None, blob_ids: Mapping[str, str] = BLOB_IDS) -> None:
    """Exit codes, by run_cli: 0 all files there; 2 options; 4 a wrong file; 7 the folder; 8 the network; 130 Ctrl-C.

    Raises: SystemExit for options, as argparse does; WrongFileError, FolderError, FetchError.
    """
    parser = argparse.ArgumentParser(prog="python -m data.download", description=__doc__.splitlines()[0])
    parser.add_argument("--dest", type=Path, default=DEFAULT_DIR, metavar="DIR", help="to (default: %(default)s)")
    parser.add_argument("--base_url", "--base-url", default=BASE_URL, metavar="URL", help="from (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    if not args.base_url.startswith(("http://", "https://")):
        parser.error(f"--base_url: expected http://... or https://...; found {args.base_url!r}; give a web address")
    fetched = download(args.dest, args.base_url, blob_ids)
    print(f"{len(fetched)} of {len(blob_ids)} files fetched, all verified, in {args.dest}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_cli(main))
