"""A process of its own for the tests marked `gpu`: a GPU, once seen, and its stand-in, once loaded, stay.

In every other process the GPU is hidden: what --device auto is must not depend on the machine, and a process that has
used a GPU cannot be forked. conftest.py imports this before anything imports torch. To look into a failure there:

    TESTS_ON_GPU=1 python -m pytest tests/test_gpu.py
"""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from functools import cache
from pathlib import Path

import gpu_stand_in
import pytest

ON_GPU = "TESTS_ON_GPU" in os.environ  # this is that process
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
LACKING = gpu_stand_in.missing()  # with a torch for GPUs the real one is taken, or none
STAND_IN = ON_GPU and not LACKING
if STAND_IN:
    gpu_stand_in.load()
elif not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@cache
def outcomes(session: pytest.Session) -> tuple[dict[str, xml.Element], str]:
    """The session's tests marked `gpu` in that process, all at once: pytest's report by test, and what it printed."""
    tests = [item.nodeid for item in session.items if item.get_closest_marker("gpu")]
    env = {**os.environ, "TESTS_ON_GPU": "1", "CUDA_VISIBLE_DEVICES": VISIBLE, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    env = {name: value for name, value in env.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
        root = session.config.rootpath
        done = subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        cases = xml.parse(report).iter("testcase") if report.exists() else ()
        return {case.get("name"): case for case in cases}, done.stdout


def repeat(item: pytest.Item) -> None:
    """End as this test did there."""
    cases, printed = outcomes(item.session)
    if item.name not in cases:
        pytest.fail(f"the process for the GPU did not come to this test:\n{printed}", pytrace=False)
    for outcome in cases[item.name]:
        if outcome.tag == "skipped":
            pytest.skip(outcome.get("message"))
        if outcome.tag in ("failure", "error"):
            pytest.fail(outcome.text, pytrace=False)
