"""training/card.py: the card beside a run's best model; huggingface_hub reads it, and what it says to type runs."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from own_tasks import make_own_tasks
from tiny_run import train

from data import SAMPLE_DIR
from data.tasks import TASKS
from training.card import card
from training.options import parse


@pytest.fixture(scope="module")
def best(home) -> Path:
    """Of every kind of task; topics and nli in pairs of texts."""
    words = ("--task_file", make_own_tasks(home / "own"), "--max_steps", 2, "--lr", 0.01)
    assert train(home, home / "run", *words) == 0
    return home / "run" / "best"


def test_the_hub_s_library_reads_the_metrics_and_the_card_is_for_others(best, home):
    text, run = (best / "README.md").read_text(encoding="utf-8"), best.parent
    data = ModelCard.load(best / "README.md").data
    dev = json.loads((run / "metrics.json").read_text())["dev"]
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found == {name: round(value, 4) for name, value in dev.items()}
    assert {(r.task_type, r.metric_type) for r in data.eval_results if r.dataset_type == "urgency"} == {
        ("text-classification", name) for name in ("pearsonr", "spearmanr", "exact_match")
    }
    assert data.library_name == "sentence-transformers" and data.base_model is None
    assert f"| topics_micro_f1 | {dev['topics_micro_f1']:.4f} | 20 |" in text
    for title, contents in json.loads((run / "config.json").read_text())["data"].items():
        assert f"| {title} | {contents} |" in text
    assert "| lr | 0.01 |" in text and f"{home.name}/bert" in text and str(home) not in text


def test_what_it_says_to_type_runs(best, tmp_path, monkeypatch):
    shutil.copytree(best, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    blocks, names = re.findall("```python\n(.*?)```", (best / "README.md").read_text(), re.DOTALL), {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 4 and list(names["model"].tasks) == ["nli", "urgency", "topics", "mood"]
    assert names["weights"]["embeddings.word_embeddings.weight"].shape == (61, 16) and names["ids"][1:-1]


def made(*words: object, f1: Sequence[float | None] = (0.5,)) -> str:
    options = parse([*map(str, words), "--strategy", "single", "--tasks", "sst"])
    data = {"data": {"dev of sst: a.csv": "3 rows, sha256 5"}, "data_dir": str(options.data_dir.resolve())}
    results = [{"dev": {"sst_acc": None, "sst_f1": value}, "step": 7} for value in f1]
    return card(options.as_json() | data, {"sst": TASKS["sst"]}, results)


def test_what_is_known_of_checkpoint_and_data_is_said(home):
    """And a metric that is not defined is left out of the Hub's."""
    text = made("--data_dir", SAMPLE_DIR)
    data = ModelCard(text).data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2" and "Quora" in text and "synthetic" in text
    (result,) = data.eval_results
    assert (result.metric_name, result.metric_value) == ("sst_f1", 0.5)
    assert result.dataset_name == "synthetic sample, dev of sst: a.csv"
    assert "| sst_acc | - | 3 |" in text
    other = made("--data_dir", home / "data", "--checkpoint", "some/bert", f1=[None])
    assert ModelCard(other).data.base_model == "some/bert" and "Quora" not in other and "synthetic" not in other


def test_of_several_runs_the_spread_is_told_and_the_hub_s_metric_is_of_this_model():
    text = made("--data_dir", SAMPLE_DIR, f1=(0.5, 0.7, 0.9))
    assert "| sst_f1 | 0.5000 | 3 | 0.7000 ± 0.2000 |" in text and "| sst_acc | - | 3 | - |" in text
    assert "of 3 runs that differ in their seeds alone" in text
    assert [result.metric_value for result in ModelCard(text).data.eval_results] == [0.5]


def test_a_run_that_starts_from_another_names_what_that_began_with(best, home, tmp_path):
    """And says what it had read."""
    shutil.copytree(best, tmp_path / "run" / "best")
    (tmp_path / "run" / "best" / "README.md").write_text(made("--data_dir", SAMPLE_DIR))
    text = made("--data_dir", home / "data", "--init_from", tmp_path / "run")
    assert ModelCard(text).data.base_model == "sentence-transformers/all-MiniLM-L6-v2" and "Quora" in text
    assert str(tmp_path) not in text and "| checkpoint | run/best |" in text


def test_a_class_s_name_stays_in_its_cell(monkeypatch):
    monkeypatch.setitem(TASKS, "sst", replace(TASKS["sst"], classes=("a|b", "<i>\n"), meaning="|"))
    assert "| one of a\\|b, &lt;i&gt; (\\|) |" in made("--data_dir", SAMPLE_DIR)
