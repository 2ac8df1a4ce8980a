"""The installed package: its command works from any folder, and says when another package hides a part of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import workshop

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder to which the package is installed, as pip makes it, from a copy without a build of before."""
    copy, site = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("site")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in (name for name in listed.split("\0") if name.endswith((".py", ".toml", ".csv", ".html"))):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*pip, "--target", str(site), str(copy)], check=True)
    return site


def command(site: Path, folder: Path, *words: object, first: Path | None = None) -> subprocess.CompletedProcess:
    """minimal-bert in a folder. first: whose packages come before the installed ones."""
    path = os.pathsep.join(str(p) for p in (first, site) if p)
    words = [sys.executable, site / "bin" / "minimal-bert", *words]
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_it_trains_and_predicts_where_other_packages_have_its_names(site, tmp_path):
    """A folder of a user's, with a package data and a module evaluate in it."""
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "data" / "__init__.py", tmp_path / "evaluate.py", tmp_path / "optim.py"):
        path.write_text("raise ImportError('not the user\\'s')\n")
    with workshop(tmp_path / "home") as home:
        words = ("--checkpoint", home / "bert", "--data_dir", home / "data", "--max_steps", 1, "--no_test")
        trained = command(site, tmp_path, "train", "--output_dir", "run", "--amp", "off", *words)
    assert trained.returncode == 0, trained.stderr
    assert "look at it: minimal-bert evaluate run --report\n" in trained.stderr
    predicted = command(site, tmp_path, "predict", "run", "--task", "sst", "a good film")
    assert predicted.returncode == 0 and predicted.stdout.startswith("sst: a good film\n"), predicted.stderr


@pytest.mark.parametrize("beside_ours", [False, True])
def test_a_package_that_hides_one_of_ours_is_named(site, tmp_path, beside_ours):
    """Beside ours it is Hugging Face's evaluate in the same environment: a package comes before a module."""
    folder = (site if beside_ours else tmp_path) / "evaluate"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    found = command(site, tmp_path, "train", "--help", first=None if beside_ours else tmp_path)
    shutil.rmtree(folder)
    assert found.returncode == 2, found.stderr
    assert f"evaluate: expected ours, {site / 'evaluate.py'}; found {folder}" in found.stderr


def test_without_a_command_it_names_them(site, tmp_path):
    assert "expected one of train, evaluate" in command(site, tmp_path).stderr
    assert command(site, tmp_path, "--help").stdout.split()[:3] == ["minimal-bert", "train", "--help"]
    assert command(site, tmp_path, "evaluate", "--help").stdout.startswith("usage: minimal-bert evaluate")
    assert command(site, tmp_path, "serve", "--help").stdout.startswith("usage: minimal-bert serve")
    assert (site / "web" / "page.html").exists()
