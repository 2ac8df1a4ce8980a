"""Labels that give each class a share: from the file to the loss, and experiments/soft_labels.py, which makes them."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from own_tasks import write_rows

from data.reader import label_counts, read
from data.task_file import load
from data.tasks import TASKS, Task
from experiments.soft_labels import main, sentences
from heads import MultitaskBert
from heads.kinds import KINDS
from heads.losses import LossSettings
from runtime.errors import DataError

SST = TASKS["sst"]
SHARES = (0.1, 0.0, 0.2, 0.65, 0.05)


def write(path: Path, rows: list[dict]) -> None:
    """A file of the course: its .csv has tabs."""
    write_rows(path.with_suffix(".tsv"), rows).replace(path)


@pytest.mark.parametrize("cell", ["0.1 0 0.2 0.65 0.05", " 0.1  0.0 0.2 .65 0.05 ", [*SHARES], [*map(str, SHARES)]])
def test_a_cell_of_shares(cell):
    assert SST.parse(cell) == SHARES


@pytest.mark.parametrize("count", range(2, 9))
def test_shares_may_be_rounded_to_two_digits(count):
    cell = " ".join([f"{1 / count:.2f}"] * count)
    task = Task("own", "classes", ("a",), "l", {}, classes=tuple(range(count)))
    assert task.parse(cell) == (round(1 / count, 2),) * count


@pytest.mark.parametrize("task, cell", [
    *(("sst", cell) for cell in ("0.5 0.5", "1 0 0 0 0 0", "1.1 -0.1 0 0 0", "0.5 0 0 0 0.4", "nan 0 0 0 1", "a b")),
    *(("sst", cell) for cell in ("0.2 0.2 0.2 0.2 0.17", "0.2 0.2 0.2 0.2 0.23")), ("para", "0.2 0.8"),
])  # fmt: skip
def test_what_are_no_shares(task, cell):
    with pytest.raises(ValueError):
        TASKS[task].parse(cell)


def test_the_loss_is_the_mean_of_the_classes_losses_by_their_shares():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kind, labels = KINDS["classes"](SST), [2, SHARES, 4]
    loss = kind.loss(logits, kind.target(labels), LossSettings())
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
    assert label_counts(SST, train.examples * 3) == {"0": 0, "1": 3, "2": 1, "3": 2, "4": 3}  # 0.3, 3, 0.6, 1.95, 3.15
    with pytest.raises(DataError, match=re.escape("dev.csv:2: expected one class as a label where rows are dev's")):
        read(SST, "dev", tmp_path)
    share = replace(SST, files=SST.files | {"dev": 0.4})
    for split in ("train", "dev"):
        with pytest.raises(DataError, match=r"train\.csv:2: expected one class as a label"):
            read(share, split, tmp_path)
    write(tmp_path / SST.files["train"], [{**rows[0], "sentiment": "0.5 0.1 0 0 0"}])
    with pytest.raises(DataError, match="expected one of 0, 1, 2, 3, 4 as sentiment, or in train a share for each"):
        read(SST, "train", tmp_path)


@pytest.mark.parametrize("given", ["", 'kind = "classes"\n', 'classes = ["a", "b"]\n'])
def test_a_task_file_says_kind_and_classes_of_soft_labels(tmp_path, given):
    write_rows(tmp_path / "t.csv", [{"text": "x", "mood": "0.5 0.5"}, {"text": "y", "mood": "a"}])
    table = '[tasks.mood]\ntexts = ["text"]\nlabel = "mood"\ntrain = "t.csv"\ndev = "d.csv"\n'
    (tmp_path / "t.toml").write_text(table + given)
    with pytest.raises(DataError, match="expected kind and classes in the task file, for soft labels; found a label"):
        load(tmp_path / "t.toml", KINDS)
    (tmp_path / "t.toml").write_text(table + 'kind = "classes"\nclasses = ["b", "a"]\n')
    task = load(tmp_path / "t.toml", KINDS)["mood"]
    assert [example.label for example in read(task, "train").examples] == [(0.5, 0.5), 1]


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
    review = ' " """" I saw it .  Twice!<br /><BR>Why ? < br /> It< br / >is 7.5 , "" not "" less'
    assert [*sentences(review)] == ["i saw it .", "twice!", "why ?", "it is 7.5 , not less"]


def words(count: int) -> str:
    return f"{' '.join(['film'] * (count - 1))} ."


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Path]:
    """A folder with two teachers of sst, one of para, and data: with phrases, a blank row, quotes and a column more."""
    with tiny_run.workshop(tmp_path_factory.mktemp("shop")) as home:
        for seed, task in ((0, "sst"), (1, "sst"), (2, "para")):
            options = ("--strategy", "single", "--tasks", task, "--max_steps", 2, "--lr", 0.01, "--seed", seed)
            assert tiny_run.train(home, home / f"teacher-{seed}", *options) == 0
        texts = ["I knew that film .", " ", 'A film , "very" good !', "the dog"]
        rows = [{"": n, "id": f"phrase-{n + 1}", "sentence": text, "sentiment": n} for n, text in enumerate(texts)]
        write(home / "data" / SST.files["train"], rows)
        write(home / "data" / SST.files["dev"], [{"id": "d", "sentence": "It was A dog .", "sentiment": 1}])
        write(home / "data" / SST.files["test"], [{"id": "t", "sentence": "The cat was old ."}])
        review = "Film of light . I knew  that film . It was a dog . The cat was old . What a story ! Film  of light ."
        review = f"{review} {words(3)} {words(50)} {words(51)}"
        write(home / "data" / "ids-cfimdb-train.csv", [{"id": "r", "sentence": review, "sentiment": 1}])
        yield home


def run(home: Path, teachers: list[str], data: str = "data", dest: str = "dest") -> int:
    paths = [home / name for name in (data, dest, *teachers)]
    return tiny_run.exit_code(main, "--data_dir", paths[0], "--dest", paths[1], "--teachers", *paths[2:])


def test_teachers_soften_the_labels_and_label_new_sentences(shop):
    names, dest = ["teacher-0", "teacher-1"], "soft"
    assert run(shop, names, dest=dest) == 0
    before, after = (read(SST, "train", shop / folder).examples for folder in ("data", dest))
    assert [example.label for example in before] == [0, 2, 3]
    assert [(e.id, e.texts) for e in after[:3]] == [(e.id, e.texts) for e in before]
    assert [example.texts[0] for example in after[3:]] == ["film of light .", "what a story !", words(50)]
    assert [example.id for example in after[3:]] == ["cfimdb-1", "cfimdb-2", "cfimdb-3"]
    texts = [example.texts[0] for example in after]
    models = [MultitaskBert.from_pretrained(shop / name) for name in names]
    answers = [model.predict("sst", texts, amp="auto", probabilities=True) for model in models]
    assert np.abs(answers[0] - answers[1]).max() > 0.01
    expected = np.mean(answers, axis=0)
    expected[:3] = 0.7 * expected[:3] + 0.3 * np.eye(5)[[0, 2, 3]]
    assert np.abs(np.array([example.label for example in after]) - expected).max() < 1e-4
    lines = [(shop / folder / SST.files["train"]).read_text().splitlines() for folder in ("data", dest)]
    assert lines[0][:1] + lines[0][2:3] == lines[1][:1] + lines[1][2:3]  # the header, and the blank row
    files = {path.name for path in (shop / "data").glob("*.csv")}
    assert {path.name for path in (shop / dest).iterdir()} == files
    for name in files - {SST.files["train"]}:
        assert (shop / dest / name).read_bytes() == (shop / "data" / name).read_bytes()


def test_a_student_learns_from_soft_labels(shop):
    assert run(shop, ["teacher-0"], dest="lesson") == 0
    assert tiny_run.train(shop, shop / "student", "--data_dir", shop / "lesson", "--max_steps", 2) == 0


def test_what_soft_labels_refuses(shop, capsys):
    assert run(shop, ["teacher-0"], dest="done") == 0
    plain = shop / "plain"
    shutil.copytree(shop / "data", plain)
    write(plain / SST.files["train"], [{"id": "x", "sentence": "A gem", "sentiment": 4}])
    junk = shop / "junk"
    shutil.copytree(shop / "data", junk)
    (junk / SST.files["train"]).write_text("x\tx\tid\tsentence\tsentiment\n1\t2\tphrase-1\tA gem\t4\n")
    no_phrases, refused = "expected what experiments.phrases writes; found no phrases in", shop / "refused"
    for code, message, teachers, changes in [
        (2, "done: expected a new folder; found one; choose another --dest", ["teacher-0"], {"dest": "done"}),
        (2, "found soft labels in", ["teacher-0"], {"data": "done"}),
        (2, no_phrases, ["teacher-0"], {"data": "plain"}),
        (3, "expected one column 'x'; found 2 among", ["teacher-0"], {"data": "junk"}),
        (2, "teacher-2: expected one of para; found 'sst'", ["teacher-0", "teacher-2"], {}),
        (2, "bert: expected best/heads.json or a checkpoint in it; found a plain BERT; train it", ["bert"], {}),
    ]:
        assert run(shop, teachers, **{"dest": "refused", **changes}) == code
        assert message in capsys.readouterr().err
        assert not refused.exists()
