"""Labels that give each class a share: from the file to the loss, and experiments/soft_labels.py, which makes them."""

import re
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch

from data.reader import label_counts, read
from data.tasks import TASKS
from experiments.soft_labels import main, sentences
from heads import MultitaskBert
from heads.kinds import KINDS
from heads.losses import LossSettings
from runtime.errors import DataError, run_cli

SST = TASKS["sst"]
SHARES = (0.1, 0.0, 0.2, 0.65, 0.05)


def write(path: Path, rows: list[dict]) -> None:
    """A file of the course, of cells without quotes."""
    lines = ["\t".join(map(str, cells)) for cells in (rows[0], *(row.values() for row in rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("cell", ["0.1 0 0.2 0.65 0.05", " 0.1  0.0 0.2 .65 0.05 ", [*SHARES], [*map(str, SHARES)]])
def test_a_cell_of_shares(cell):
    assert SST.parse(cell) == SHARES


@pytest.mark.parametrize("task, cell", [
    *(("sst", cell) for cell in ("0.5 0.5", "1 0 0 0 0 0", "1.1 -0.1 0 0 0", "0.5 0 0 0 0.4", "nan 0 0 0 1", "a b")),
    ("para", "0.2 0.8"), ("sts", "0.5 0.5"),
])  # fmt: skip
def test_what_are_no_shares(task, cell):
    with pytest.raises(ValueError):
        TASKS[task].parse(cell)


def test_the_loss_is_the_mean_of_the_classes_losses_by_their_shares():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kind, labels = KINDS["classes"], [2, SHARES, 4]
    loss = kind.loss(SST, logits, kind.target(SST, labels), LossSettings())
    expected = 0.0
    for row, label in zip(logits.numpy(), labels, strict=True):
        log_p = row - np.log(np.exp(row).sum())
        expected -= np.dot(SHARES, log_p) / 3 if label is SHARES else log_p[label] / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_rows_with_soft_labels_are_trains_alone(tmp_path):
    cells = ["0.1 0 0.2 0.65 0.05", "4", "0 1 0 0 0"]
    rows = [{"id": n, "sentence": f"text {n}", "sentiment": cell} for n, cell in enumerate(cells)]
    for split in ("train", "dev"):
        write(tmp_path / SST.files[split], rows)
    train = read(SST, "train", tmp_path)
    assert [example.label for example in train.examples] == [SHARES, 4, (0, 1, 0, 0, 0)]
    assert label_counts(SST, train.examples) == {"0": 0, "1": 1, "2": 0, "3": 1, "4": 1}
    with pytest.raises(DataError, match=re.escape("dev.csv:2: expected one class as a label where rows are dev's")):
        read(SST, "dev", tmp_path)


def test_a_run_on_certain_shares_is_a_run_on_classes(tmp_path):
    with tiny_run.workshop(tmp_path) as home:
        options = ("--strategy", "single", "--tasks", "sst", "--max_steps", 3)
        hard = tiny_run.make_session(home, *options)
        lines = tiny_run.take_steps(hard, 3)
        path = home / "data" / SST.files["train"]
        examples = read(SST, "train", home / "data").examples
        shares = [" ".join("01"[n == example.label] for n in range(5)) for example in examples]
        rows = [
            {"id": e.id, "sentence": e.texts[0], "sentiment": cell} for e, cell in zip(examples, shares, strict=True)
        ]
        write(path, rows)
        soft = tiny_run.make_session(home, *options, "--overwrite")
        assert {type(example.label) for example in soft.rows["sst"].examples} == {tuple}
        for before, after in zip(lines, tiny_run.take_steps(soft, 3), strict=True):
            assert after["losses"]["sst"] == pytest.approx(before["losses"]["sst"], rel=1e-6)


def test_sentences_of_a_review():
    review = ' " """" I saw it .  Twice!<br /><br />Why ? It is 7.5 , "" not "" less'
    assert [*sentences(review)] == ["i saw it .", "twice!", "why ?", "it is 7.5 , not less"]


def test_teachers_soften_the_labels_and_label_new_sentences(tmp_path, capsys):
    with tiny_run.workshop(tmp_path) as home:
        for seed in (0, 1):
            options = ("--strategy", "single", "--tasks", "sst", "--max_steps", 2, "--lr", 0.01, "--seed", seed)
            assert tiny_run.train(home, home / f"teacher-{seed}", *options) == 0
        write(home / "data" / SST.files["dev"], [{"id": "d", "sentence": "I knew that film .", "sentiment": 1}])
        review = "A film of light . Too short . I knew  that film . What a wonderful story this is ! A film  of light ."
        write(home / "data" / "ids-cfimdb-train.csv", [{"id": "r", "sentence": review, "sentiment": 1}])

        def run(data: str, dest: str) -> int:
            words = ["--teachers", home / "teacher-0", home / "teacher-1", "--data_dir", home / data]
            return run_cli(main, [str(word) for word in (*words, "--dest", home / dest)])

        assert run("data", "soft") == 0
        before, after = (read(SST, "train", home / folder).examples for folder in ("data", "soft"))
        new = [example.texts[0] for example in after[len(before) :]]
        assert new == ["a film of light .", "what a wonderful story this is !"]
        texts = [example.texts[0] for example in before] + new
        teachers = [MultitaskBert.from_pretrained(home / f"teacher-{seed}") for seed in (0, 1)]
        answers = [teacher.predict("sst", texts, probabilities=True) for teacher in teachers]
        assert np.abs(answers[0] - answers[1]).max() > 0.01
        for row, example in enumerate(after):
            expected = (answers[0][row] + answers[1][row]) / 2
            if row < len(before):
                assert (example.id, example.texts) == (before[row].id, before[row].texts)
                expected = 0.7 * expected + 0.3 * np.eye(5)[before[row].label]
            assert np.abs(np.array(example.label) - expected).max() < 0.01  # the program predicts in bfloat16
        files = {path.name for path in (home / "data").glob("*.csv")}
        assert {path.name for path in (home / "soft").iterdir()} == files
        for name in files - {SST.files["train"]}:
            assert (home / "soft" / name).read_bytes() == (home / "data" / name).read_bytes()
        assert run("data", "soft") == 2
        assert "choose another --dest" in capsys.readouterr().err
        assert run("soft", "again") == 2
        assert "expected labels of one class; found soft labels in" in capsys.readouterr().err
        assert tiny_run.train(home, home / "student", "--data_dir", home / "soft", "--max_steps", 2) == 0
