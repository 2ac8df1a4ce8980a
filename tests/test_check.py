"""data/check.py: a page with every split, label and oddity, and exit code 3 where training would refuse."""

from pathlib import Path

import pytest
from own_tasks import make_own_tasks, write_rows

from data.check import main
from runtime.errors import run_cli

ODD = """
[tasks.odd]
texts = ["a", "b"]
label = "l"
classes = ["x", "y", "z"]
train = "train.csv"
dev = "dev.csv"
"""


def page(capsys, bert: Path, *options: object, code: int = 0) -> list[str]:
    """What the command prints, each run of spaces one space."""
    assert run_cli(main, ["--checkpoint", str(bert), *map(str, options)]) == code
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_line_for_each_split(tmp_path, capsys, tiny_bert):
    lines = page(capsys, tiny_bert, "--task_file", make_own_tasks(tmp_path), "--max_length", 12)
    start = lines.index("nli: classes, premise + hypothesis -> gold")
    tokens = "median 9 tokens, longest 11 0.0% cut at 12"
    assert lines[start + 1 : start + 4] == [
        f"train 140 rows {tokens} entailment 33.6%, neutral 33.6%, contradiction 32.9%",
        f"dev 40 rows {tokens} entailment 32.5%, neutral 32.5%, contradiction 35.0%",
        f"test 20 rows {tokens}",
    ]
    start = lines.index("urgency: score, body -> urgency")
    assert "longest 13 100.0% cut at 12 1..2.2 " in lines[start + 1]
    lines = page(capsys, tiny_bert, "--task_file", tmp_path / "tasks.toml", "--tasks", "mood")
    assert lines[:2] == [f"data: {tmp_path}", "mood: binary, body -> mood"]


def test_what_is_odd_is_told_with_what_to_do(tmp_path, capsys, tiny_bert):
    train = [{"a": f"a man {n}", "b": f"a dog {n}", "l": "xy"[n % 2]} for n in range(200)]
    train[3]["l"] = ""
    train[4] = train[6] = {"a": "Same  text", "b": "as this", "l": "x"}
    train[9] = {"a": "same text", "b": "as THIS", "l": "y"}
    train[11] = {"a": "the cat", "b": "The cat", "l": "z"}
    write_rows(tmp_path / "train.csv", train)
    write_rows(
        tmp_path / "dev.csv", [train[6], train[20], *[{"a": "new", "b": "one", "l": label} for label in ("y", "x", "")]]
    )
    (tmp_path / "my.toml").write_text(ODD)
    lines = page(capsys, tiny_bert, "--task-file", tmp_path / "my.toml")
    assert lines[lines.index("Look at this") + 1 : -1] == [
        f"odd: {tmp_path}/train.csv: 1 of 200 rows has no l: left out of training; line 5",
        "odd: train: labels with few rows: z (1); add some, or take these labels out",
        "odd: train: pairs with equal sides: 1; see whether they should be there",
        "odd: train: repeated texts: 1; keep one row of each",
        "odd: train: repeated texts whose labels disagree: 1; correct them, such as lines 6 and 8 and 11",
        f"odd: {tmp_path}/dev.csv: 1 of 5 rows has no l: predicted; line 6",
        f"odd: {tmp_path}/dev.csv: few rows with a label for dev: 4; the best model would be chosen by chance",
        "odd: dev: labels with few rows: z (0); add some",
        "odd: dev: repeated texts: 1; keep one row of each",
        "odd: dev: repeated texts whose labels disagree: 1; correct them, such as lines 4 and 5 and 6",
        "odd: dev: texts that are also in train of odd: train.csv (2); take them out there, or scores are too good",
    ]
    assert lines[2].startswith("train 199 rows ")


@pytest.mark.parametrize(("rows", "few", "out"), [
    ({"x": 30, "y": 3}, "y (3)", ""),  # a task has two labels, or more
    ({"x": 30, "y": 3, "z": 3}, "y (3), z (3)", ""),
    ({"x": 30, "y": 30, "z": 3}, "z (3)", ", or take these labels out"),
    ({"billing": 30, "y": 30, "biling": 3}, "biling (3; did you mean billing?)", ", or take these labels out"),
])  # fmt: skip
def test_no_label_is_to_be_taken_out_that_a_task_needs(tmp_path, capsys, tiny_bert, rows, few, out):
    labels = [label for label, count in rows.items() for _ in range(count)]
    for split in ("train", "dev"):
        write_rows(tmp_path / f"{split}.csv", [{"a": f"{split} {n}", "b": "", "l": la} for n, la in enumerate(labels)])
    (tmp_path / "my.toml").write_text(ODD.replace('["a", "b"]', '["a"]').replace('classes = ["x", "y", "z"]\n', ""))
    lines = page(capsys, tiny_bert, "--task-file", tmp_path / "my.toml")
    assert lines[lines.index("Look at this") + 1 : -1] == [f"odd: train: labels with few rows: {few}; add some{out}"]


def test_of_many_labels_a_few_are_shown(tmp_path, capsys, tiny_bert):
    rows = [{"a": f"text {n // 2}", "b": "", "l": n} for n in range(3000)]  # prices, say
    write_rows(tmp_path / "train.csv", rows)
    (tmp_path / "my.toml").write_text('[tasks.odd]\ntexts = ["a"]\nlabel = "l"\ntrain = "train.csv"\ndev = 0.1\n')
    lines = page(capsys, tiny_bert, "--task-file", tmp_path / "my.toml")
    assert max(map(len, lines)) < 600
    assert "9 0.0% and 2990 more" in lines[lines.index("odd: classes, a -> l") + 1]
    assert 'odd: train: most labels have few rows, and all are numbers; for amounts give kind = "score"' in lines


def test_labels_that_no_row_has_several_of(tmp_path, capsys, tiny_bert):
    """With another separator than the file's, each combination is a class of its own."""
    labels = ["money, angry" if n % 2 else "money" for n in range(60)]
    write_rows(tmp_path / "train.csv", [{"a": f"text {n}", "l": label} for n, label in enumerate(labels)])
    table = '[tasks.odd]\nkind = "labels"\ntexts = ["a"]\nlabel = "l"\ntrain = "train.csv"\ndev = 0.5\n'
    odd = "odd: train: no row has several labels, with ';' between; see whether separator is right"
    for separator, lines in (("", [odd]), ('separator = ","\n', [])):
        (tmp_path / "my.toml").write_text(table + separator)
        found = page(capsys, tiny_bert, "--task-file", tmp_path / "my.toml")
        assert [line for line in found if "several" in line] == lines


@pytest.mark.fault(48, 49)
def test_where_training_would_refuse_the_rest_is_shown_and_the_exit_code_is_3(tmp_path, capsys, tiny_bert):
    path = make_own_tasks(tmp_path)
    with open(tmp_path / "nli-dev.jsonl", "a") as file:
        file.write('{"uid": "x", "premise": "A", "hypothesis": "B", "gold": "maybe"}\n')
    (tmp_path / "mail.csv").unlink()
    lines = page(capsys, tiny_bert, "--task_file", path, code=3)
    start = lines.index("Training refuses this")
    assert lines[start + 1].startswith(f"nli: {tmp_path}/nli-dev.jsonl:41: expected one of entailment")
    assert " as gold; found 'maybe'" in lines[start + 1]
    assert lines[start + 2].startswith(f"urgency: {tmp_path}/mail.csv: expected a file; found none")
    assert sum(line.startswith("train ") for line in lines) == 3
    assert sum(line.startswith("test 20 ") for line in lines) == 1
