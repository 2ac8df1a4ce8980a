"""experiments/phrases.py: a tree's phrases, and which of them become rows of SST's train file."""

from pathlib import Path

import pytest

from data import SAMPLE_DIR
from data.reader import read
from data.tasks import TASKS
from experiments.phrases import main, phrases
from runtime.errors import run_cli

TREE = "(3 (2 a) (4 (1 (3 fine)) (2 gem)))"


def test_the_phrases_of_a_tree():
    expected = [("a", 2), ("fine", 3), ("fine", 1), ("gem", 2), ("fine gem", 4), ("a fine gem", 3)]
    assert [*phrases(TREE)] == expected


@pytest.mark.parametrize(
    "tree", [TREE[:-1], TREE + ")", "a" + TREE, "(3 (a) (2 b))", "(5 a)", "(3 a) b", "(3", "", "(3 )", TREE * 2]
)
def test_no_tree(tree):
    with pytest.raises(ValueError):
        [*phrases(tree)]


def tree_of(sentence: str, *labels: int) -> str:
    """A tree that branches to the right, with these labels from its first word on, and 2 for all others."""
    *words, last = sentence.split()
    labels = iter([*labels, *[2] * 2 * len(words)])
    nodes = [f"(2 ({next(labels)} {word})" for word in words]
    return f"{' '.join(nodes)} ({next(labels)} {last}){')' * len(words)}"


def sentences(split: str) -> list[str]:
    return [example.texts[0] for example in read(TASKS["sst"], split, SAMPLE_DIR).examples]


def run(folder: Path, *trees: str, data: Path = SAMPLE_DIR, dest: str = "dest", min_words: int = 1) -> int:
    """The exit code of a run with a file of these trees, or without a file."""
    (folder / "train.txt").unlink(missing_ok=True)
    if trees:
        (folder / "train.txt").write_text("\n".join(trees) + "\n")
    words = ["--trees", folder / "train.txt", "--data_dir", data, "--dest", folder / dest]
    words += ["--min_words", min_words]
    return run_cli(main, [str(word) for word in words])


def test_phrases_of_train_become_rows(tmp_path, capsys):
    first, second, dev = *sentences("train")[:2], sentences("dev")[0]
    assert first.startswith("The waiters are") and second.startswith("The second act")
    seconds = [tree_of(second, 2, *labels) for labels in ((0, 3), (1, 4), (1, 0))]  # of "second" and "act"
    assert run(tmp_path, tree_of(first, 2, 4), *seconds, tree_of(dev, 0)) == 0
    before = read(TASKS["sst"], "train", SAMPLE_DIR).examples
    after = read(TASKS["sst"], "train", tmp_path / "dest").examples
    assert [(e.id, e.texts, e.label) for e in after[: len(before)]] == [(e.id, e.texts, e.label) for e in before]
    added = {example.texts[0]: example.label for example in after[len(before) :]}
    assert (added["waiters"], added["second"], added["act"]) == (4, 1, 3)
    words = {word for sentence in (first, second) for word in sentence.lower().split()}
    ends = {sentence.lower().split(" ", n)[n] for sentence in (first, second) for n in range(1, len(sentence.split()))}
    assert added.keys() == words | ends  # nothing of dev, no whole sentence
    assert f"{len(added)} phrases of 4 trees" in capsys.readouterr().err
    copied = {path.name for path in (tmp_path / "dest").iterdir()}
    assert copied == {path.name for path in SAMPLE_DIR.glob("*.csv")}
    assert run(tmp_path, tree_of(first)) == 2  # dest exists
    assert "choose another --dest" in capsys.readouterr().err
    assert run(tmp_path, tree_of(first), data=tmp_path / "dest", dest="again") == 2
    assert "expected the course's rows; found phrases in" in capsys.readouterr().err


def test_nothing_of_dev_comes_back_as_a_phrase(tmp_path):
    """Neither the trees of a sentence that is in dev too, nor a phrase that is a whole sentence of dev."""
    for split, texts in {"train": ["A dud .", "Not a bore at all"], "dev": ["A dud .", "a bore"]}.items():
        rows = "".join(f"{number}\t{text}\t0\n" for number, text in enumerate(texts))
        (tmp_path / f"ids-sst-{split}.csv").write_text(f"id\tsentence\tsentiment\n{rows}")
    (tmp_path / "ids-sst-test-student.csv").write_text("id\tsentence\n0\tx\n")
    trees = "(0 (2 A) (0 (0 dud) (2 .)))", "(3 (2 Not) (3 (0 (2 a) (0 bore)) (2 (2 at) (2 all))))"
    assert run(tmp_path, *trees, data=tmp_path) == 0
    examples = read(TASKS["sst"], "train", tmp_path / "dest").examples
    added = {example.texts[0] for example in examples if example.id.startswith("phrase")}
    assert added == {"not", "a", "bore", "at", "all", "at all", "a bore at all"}


def test_the_columns_of_the_file(tmp_path, capsys):
    """Phrases have their cells under the header's names, whatever stands before it and in whichever order."""
    data = tmp_path / "data"
    data.mkdir()
    text = "\ufeff\nsentiment\tid\tsentence\n4\tx1\tA gem ."  # without an end of line
    (data / "ids-sst-train.csv").write_text(text, encoding="utf-8")
    for split in ("dev", "test-student"):
        (data / f"ids-sst-{split}.csv").write_text("id\tsentence\tsentiment\nx2\tA bore .\t0\n")
    assert run(tmp_path, "(4 (2 A) (4 (4 gem) (2 .)))", "", "(0 (2 A) (0 (0 bore) (2 .)))", data=data) == 0
    rows = read(TASKS["sst"], "train", tmp_path / "dest").examples
    assert [(row.id, row.texts[0], row.label) for row in rows] == [
        ("x1", "A gem .", 4),
        ("phrase-1", "a", 2),
        ("phrase-2", "gem", 4),
        ("phrase-3", ".", 2),
        ("phrase-4", "gem .", 4),
    ]
    assert run(tmp_path, "(4 (2 A) (4 (4 gem) (2 .)))", data=data, dest="longer", min_words=2) == 0
    rows = read(TASKS["sst"], "train", tmp_path / "longer").examples
    assert [(row.id, row.texts[0], row.label) for row in rows] == [("x1", "A gem .", 4), ("phrase-1", "gem .", 4)]
    assert run(tmp_path, "(4 (2 A) (4 (4 gem) (2 .)))", data=data, dest="none", min_words=3) == 2
    assert "expected a phrase of 3 words or more; found none; lower it" in capsys.readouterr().err


def test_trees_of_no_sentence_and_lines_without_a_tree(tmp_path, capsys):
    assert run(tmp_path, TREE) == 3
    assert "expected trees of sentences in" in capsys.readouterr().err
    assert run(tmp_path, TREE, "(3 (2 a)") == 3
    assert "train.txt:2: expected a tree, as (3 (2 a) (4 gem)); found '(3 (2 a)'; copy" in capsys.readouterr().err
    assert run(tmp_path) == 3
    assert "expected a file; found No such file or directory; give the treebank's" in capsys.readouterr().err
    assert not (tmp_path / "dest").exists()
