"""What several tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import gpu_process  # the first: it hides the GPU from torch, or brings it
import pytest
import torch
from hypothesis import settings
from tiny import make_bert_folder
from tiny_run import workshop

from bert.hub import resolve
from runtime.errors import UnavailableError

# One thread, in child processes too: the models are tiny, and threads that wait for each other on a busy machine take
# many times as long as one alone.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Under nohup a SIGHUP is ignored, by the processes that tests start, too; some of them are sent one.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No limit of time for a single example: it would fail by chance on a busy machine.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real minilm: from the cache, else fetched; where neither works the test is skipped."""
    try:
        return resolve("minilm")
    except UnavailableError as error:
        pytest.skip(f"minilm is neither cached nor within reach: {error}")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    return make_bert_folder(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    with workshop(tmp_path_factory.mktemp("home")) as home:
        yield home


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Tests marked `gpu` run in a process of their own; here each ends as it did there."""
    if gpu_process.ON_GPU or not pyfuncitem.get_closest_marker("gpu"):
        return None
    gpu_process.repeat(pyfuncitem)
    return True
