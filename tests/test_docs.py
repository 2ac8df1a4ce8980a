"""README.md and docs/: the programs in them run as they stand there, and do what the page says."""

import csv
import re
from pathlib import Path

import pytest
import torch
from tiny_run import exit_code, train

import predict
from data import check
from heads import MultitaskBert

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    """The page's blocks of code in this language, "" for those that name none."""
    parts = [part.partition("\n") for part in (ROOT / page).read_text(encoding="utf-8").split("```")[1::2]]
    return [code for name, _, code in parts if name == language]


IMPORTS, PLAIN, BERT, COMPARED = blocks("docs/library.md", "python")


def test_readme_s_program_runs(home, monkeypatch):
    assert train(home, home / "runs" / "finetune-gs", "--max_steps", 1) == 0
    program = blocks("README.md", "python")[0]
    assert program.count('"minilm"') == 2
    monkeypatch.chdir(home)
    names: dict = {}
    exec(program.replace('"minilm"', '"bert"'), names)
    assert isinstance(names["model"], MultitaskBert)
    last = program.splitlines()[-1].partition("#")[0]
    assert [attention.shape[:2] for attention in eval(last, names)] == [(1, 2)] * 2


def test_the_example_of_own_tasks_trains_and_predicts(home, tmp_path, monkeypatch, capsys):
    """mail.csv, mail.toml and the program that follows them."""
    page = "docs/tasks.md"
    rows, (tasks, *_), program = blocks(page, "")[0], blocks(page, "toml"), blocks(page, "python")[0]
    (tmp_path / "mail.csv").write_text(rows, encoding="utf-8")
    (tmp_path / "mail.toml").write_text(tasks, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert exit_code(check.main, "--task_file", "mail.toml", "--checkpoint", home / "bert") == 0
    found = capsys.readouterr().out
    for line in blocks(page, "")[-1].splitlines():  # but for numbers of tokens: the tiny BERT has other words
        assert re.sub(r"(median|longest) +\d+", r"\1", line) in re.sub(r"(median|longest) +\d+", r"\1", found)
    assert train(home, Path("runs/mail"), "--task_file", "mail.toml", "--max_steps", 60, "--eval_every", 20) == 0
    assert exit_code(predict.main, "runs/mail", "--task", "topic", "My parcel is lost") == 0
    names: dict = {}
    exec(program, names)
    assert names["model"].tasks["topic"].classes == ("billing", "delivery", "technical")
    topics = {row["topic"] for row in csv.DictReader(rows.splitlines())}
    assert {*names["model"].predict("topic", ["My parcel is lost", "You charged me twice"])} <= topics
    (urgency,) = names["model"].predict("urgency", ["Nothing works, help!"])
    assert 1 <= urgency <= 7


def test_what_the_library_s_page_imports_is_there():
    exec(IMPORTS, {})


def test_a_plain_model_learns_its_tasks(capsys):
    assert len(PLAIN.splitlines()) <= 40
    names: dict = {}
    with torch.random.fork_rng(devices=[]):
        exec(PLAIN, names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "50", "100", "150"]
    assert names["losses"]["size"] < 0.5 and names["losses"]["sign"] < 0.2

    def forward() -> dict[str, torch.Tensor]:
        v = names["body"](torch.cat([*names["x"].values()])).split([16, 24])
        return {task: names["heads"][task](rows).square().mean() for task, rows in zip(names["x"], v, strict=True)}

    body = names["body"]
    names |= {"tasks": [*names["x"]], "shared": [*body.parameters()], "model": body, "sizes": [16, 24]}
    exec(COMPARED, names | {"forward": forward})


def test_transformers_bert_has_torchjds_gradients(capsys):
    """At a smaller size than on the page, which is minilm's."""
    for library in ("torchjd", "transformers"):
        pytest.importorskip(library)
    small = BERT.replace("384", "36").replace('"num_hidden_layers": 6', '"num_hidden_layers": 2').replace("1536", "60")
    assert small != BERT
    names: dict = {}
    with torch.random.fork_rng(devices=[]):
        exec(small, names)
    assert names["difference"] < 1e-5 and names["found"][names["ours"]].norm() > 0
    assert capsys.readouterr().out.startswith("difference ")
