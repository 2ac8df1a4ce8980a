"""predict.py: the model's own predictions, for people and from files, and what is refused."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from own_tasks import make_own_tasks
from own_tasks import write_rows as write
from tiny_run import leftovers, train

import predict
from heads import MultitaskBert
from runtime.errors import run_cli

TEXTS = ['The dog, "barking", ran.', "a cat", "A man plays\na guitar.", "", "ünïcode 好", "the end", "dog"]
OTHERS = ["a dog", "the cat", "A man sings.", "x", "word", "the start", "dog"]


@pytest.fixture(autouse=True)
def chunks_of_three(monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 3)


@pytest.fixture(scope="module")
def run(home) -> Path:
    """The course's tasks and some of a user's own: classes by name, a score, several labels; pairs read both ways."""
    tasks = ("--tasks", "sst,para,sts,nli,urgency,topics", "--task_file", make_own_tasks(home / "own"))
    assert train(home, home / "run", *tasks, "--pairs", "sts=cross", "--max_steps", 2) == 0
    return home / "run"


@pytest.fixture(scope="module")
def model(run) -> MultitaskBert:
    return MultitaskBert.from_pretrained(run)


def called(*words: object) -> int:
    return run_cli(predict.main, [str(word) for word in (*words, "--amp", "off")])


def read(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ","))


ROWS = [{"id": f"r{n}", "a": a, "b": b} for n, (a, b) in enumerate(zip(TEXTS, OTHERS, strict=True))]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_file_comes_back_with_the_models_predictions(run, model, tmp_path, kind):
    """In the rows' order, their own columns untouched, in chunks of three; all tasks that read pairs."""
    rows = [row for row in ROWS if kind != "tsv" or "\n" not in row["a"]]
    source = write(tmp_path / f"rows.{kind}", rows)
    out = tmp_path / f"out.{kind}"
    assert called(run, "--input", source, "--text_columns", "a,b", "--output", out) == 0
    found, sides = read(out), [[row["a"] for row in rows], [row["b"] for row in rows]]
    assert [{name: row[name] for name in ("id", "a", "b")} for row in found] == rows
    assert [*found[0]] == ["id", "a", "b", "para", "para_probability", "sts", "nli", "nli_probability"]
    assert [int(row["para"]) for row in found] == model.predict("para", *sides).tolist()
    assert [row["nli"] for row in found] == list(model.predict("nli", *sides))
    assert [float(row["sts"]) for row in found] == pytest.approx(model.predict("sts", *sides), rel=1e-4, abs=1e-4)
    sure = model.predict("nli", *sides, probabilities=True).max(axis=1)
    assert [float(row["nli_probability"]) for row in found] == pytest.approx(sure, rel=1e-4)
    assert not leftovers(tmp_path)


def test_the_courses_files_have_tabs(run, model, home, tmp_path):
    out = tmp_path / "out.csv"
    assert called(run, "--input", home / "data" / "ids-sst-test-student.csv", "--task", "sst", "--output", out) == 0
    rows = read(out)
    assert [int(row["sst"]) for row in rows] == model.predict("sst", [row["sentence"] for row in rows]).tolist()


def test_what_json_holds_comes_back_as_it_was(run, tmp_path):
    """In csv true, false and null are texts; so is one as a text to predict. Objects are JSON there."""
    row = {"sentence": None, "n": None, "yes": True, "x": 1.5, "list": ["ä", 1, {"k": None}], "object": {"k": "ä"}}
    cells = {"sentence": "", "n": "", "yes": "true", "x": "1.5", "list": 'ä;1;{"k": null}', "object": '{"k": "ä"}'}
    source = write(tmp_path / "rows.jsonl", [row])
    for kind, expected in (("jsonl", row), ("csv", cells)):
        assert called(run, "--input", source, "--task", "sst", "--output", tmp_path / f"out.{kind}") == 0
        (found,) = read(tmp_path / f"out.{kind}")
        assert {name: found[name] for name in expected} == expected


def test_a_bert_without_heads_has_nothing_to_say(home, capsys):
    assert called(home / "bert", "--task", "sst", "a film") == 2
    assert "found a plain BERT; train it first" in capsys.readouterr().err


def test_columns_that_would_have_one_name_are_refused(home, tmp_path, capsys):
    """Class b_c of task a, and class c of task a_b."""
    rows = [{"t": f"text {n}", "x": ("b_c", "d")[n % 2], "y": ("c", "e")[n % 2]} for n in range(40)]
    write(tmp_path / "rows.csv", rows)
    text = '[tasks.{}]\ntexts = ["t"]\nlabel = "{}"\ntrain = "rows.csv"\ndev = 0.5\n'
    (tmp_path / "own.toml").write_text(text.format("a", "x") + text.format("a_b", "y"))
    assert train(home, tmp_path / "run", "--task_file", tmp_path / "own.toml", "--max_steps", 1) == 0
    words = ("--input", tmp_path / "rows.csv", "--output", tmp_path / "out.csv")
    assert called(tmp_path / "run", *words) == 0 and "a_b_probability" in read(tmp_path / "out.csv")[0]
    assert called(tmp_path / "run", *words, "--probabilities") == 2
    assert "--task: expected columns of different names; found a_b_c twice" in capsys.readouterr().err


def test_csv_holds_a_lone_carriage_return(run, tmp_path):
    """As any reader of csv has it, this one too."""
    source = write(tmp_path / "rows.jsonl", [{"sentence": "a film", "note": "x\ry"}])
    for name in ("out.csv", "out.tsv"):
        assert called(run, "--input", source, "--task", "sst", "--output", tmp_path / name) == 0
        assert b'"x\ry"' in (tmp_path / name).read_bytes()
    assert called(run, "--input", tmp_path / "out.csv", "--task", "sts", "--text_columns", "sentence,note") == 0


def test_all_probabilities_and_several_labels(run, model, tmp_path):
    source, out = write(tmp_path / "rows.csv", ROWS), tmp_path / "out.jsonl"
    words = ("--input", source, "--text_columns", "a", "--output", out, "--probabilities", "--task", "topics,sst")
    assert called(run, *words) == 0
    found, task = read(out), model.tasks["topics"]
    assert [tuple(row["topics"]) for row in found] == model.predict("topics", TEXTS)
    for name in ("topics", "sst"):
        expected = model.predict(name, TEXTS, probabilities=True)
        values = [[row[f"{name}_{label}"] for label in model.tasks[name].classes] for row in found]
        assert values == [pytest.approx(row, rel=1e-4) for row in expected.tolist()]
    assert called(run, *words[:4], "--output", tmp_path / "out.csv", "--task", "topics") == 0
    cells = [row["topics"] for row in read(tmp_path / "out.csv")]
    assert cells == [";".join(map(str, labels)) or ";" for labels in model.predict("topics", TEXTS)] and task.several


def test_columns_with_spaces_and_a_tasks_own_separator(run, model, tmp_path):
    best = shutil.copytree(run / "best", tmp_path / "best")
    heads = (best / "heads.json").read_text()
    (best / "heads.json").write_text(heads.replace('"separator": ";"', '"separator": "|"'))
    source = write(tmp_path / "rows.jsonl", [{"a text": text, "others": ["x", "y"]} for text in TEXTS])
    words = ("--input", source, "--text_columns", "a text", "--task", "topics", "--output", tmp_path / "out.csv")
    assert called(best, *words) == 0
    expected = ["|".join(labels) for labels in model.predict("topics", TEXTS)]
    assert any("|" in cell for cell in expected)
    assert [(row["topics"], row["others"]) for row in read(tmp_path / "out.csv")] == [(e, "x;y") for e in expected]


def test_standard_input_and_output(run, model, tmp_path, capsys, monkeypatch):
    source = write(tmp_path / "rows.csv", ROWS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    assert called(run, "--input", "-", "--text_columns", "a", "--task", "sst") == 0
    told = capsys.readouterr()
    assert "warning: stdin: rows with an empty text: 1 of 7" in told.err
    found = list(csv.DictReader(io.StringIO(told.out)))
    assert [int(row["sst"]) for row in found] == model.predict("sst", TEXTS).tolist()


def test_texts_on_the_command_line_are_answered_for_people(run, model, capsys):
    assert called(run, "--task", "nli", "A dog barks.", "A dog.") == 0
    lines = capsys.readouterr().out.splitlines()
    (probabilities,) = model.predict("nli", ["A dog barks."], ["A dog."], probabilities=True)
    shares = dict(zip(model.tasks["nli"].classes, probabilities, strict=True))
    assert lines[0] == "nli: A dog barks. | A dog." and len(lines) == 1 + len(shares)
    for line, (label, share) in zip(lines[1:], sorted(shares.items(), key=lambda pair: -pair[1]), strict=True):
        assert line.split()[:2] == [label, f"{share:.3f}"]
    assert called(run, "--task", "sst", *TEXTS[:3]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3 * 6
    assert called(run, "--task", "sst", "--", "--a film", "-b") == 0
    assert "sst: --a film" in capsys.readouterr().out
    assert called(run, "--task", "urgency", "dog") == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("from 1 to 7")
    assert called(run, "one text") == 0
    streams = capsys.readouterr()
    assert "left out, for they read another number of texts: para, sts, nli" in streams.err
    answered = [line.partition(":")[0] for line in streams.out.splitlines() if ": one text" in line]
    assert answered == ["sst", "urgency", "topics"]


def test_two_texts_are_no_pair_for_a_model_that_reads_single_ones(home, capsys):
    assert train(home, home / "single", "--strategy", "single", "--tasks", "sst", "--max_steps", 1) == 0
    capsys.readouterr()
    assert called(home / "single", "a dog", "a cat") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != " "] == ["sst: a dog", "sst: a cat"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "expected texts, or --input; found none"),
        (("x", "--input", "rows.csv"), 2, "expected texts, or --input; found both"),
        (("x", " ", "--task", "sst"), 2, "expected texts; found ' '"),
        (("x", "--task", "stt"), 2, "--task: expected one of sst, para"),
        (("x", "--task", "para"), 2, "para: expected pairs; found single texts"),
        (("x", "y", "z", "--task", "para"), 2, "para: expected pairs; found single texts"),
        (("x", "y", "--task", "sst,para"), 2, "para: expected pairs; found single texts"),
        (("x", "--output", "out.csv"), 2, "--output: belongs to --input; found texts"),
        (("x", "--probabilities"), 2, "--probabilities: belongs to --input; found texts"),
        (("--input", "rows.csv"), 2, "--text_columns: expected names, for the tasks' own columns differ"),
        (("--input", "rows.csv", "--text_columns", "a,b,c"), 2, "--text_columns: expected A or A,B, the column of the"),
        (("--input", "rows.csv", "--text_columns", "a,a"), 2, "--text_columns: expected names with commas"),
        (("--input", "semi.csv", "--task", "sst"), 3, "semi.csv:1: expected commas between the columns; found semico"),
        (("--input", "empty.csv", "--task", "sst"), 3, "empty.csv: expected rows; found an empty file"),
        (("--input", "rows.csv", "--text_columns", "a", "--task", "nli"), 2, "nli: expected pairs; found single texts"),
        (("--input", "rows.xlsx", "--text_columns", "a"), 2, "--input: expected a .csv, .tsv or .jsonl file, or -"),
        (("--input", "rows.csv", "--text_columns", "a", "--output", "out.txt"), 2, "--output: expected a .csv"),
        (("--input", "rows.csv", "--text_columns", "a", "--output", "rows.csv"), 2, "another file than --input"),
        (("--input", "none.csv", "--text_columns", "a"), 3, "none.csv: expected a plain file; found No such file"),
        (("--input", "pipe.csv", "--text_columns", "a"), 3, "pipe.csv: expected a plain file; found none"),
        (("--input", "twice.csv", "--text_columns", "a"), 3, "twice.csv:1: expected one column 'b'; found 2 among"),
        (("--input", "-", "--text_columns", "a"), 3, "stdin: expected rows; found none"),
        (("-x", "--task", "sst"), 2, "a text that begins with - comes after --"),
        (
            ("--input", "rows.csv", "--text_columns", "c"),
            3,
            "rows.csv:1: expected one column 'c'; found 0 among ['id', 'a', 'b']; name the texts' columns by --text",
        ),
        (("--input", "header.csv", "--text_columns", "a"), 3, "header.csv: expected rows; found none"),
        (("--input", "short.csv", "--text_columns", "a"), 3, "short.csv:4: expected 3 fields, as in the header, with"),
        (("--input", "latin.csv", "--text_columns", "a"), 3, "latin.csv:3: expected text in UTF-8; found byte 0xfc"),
        (("--input", "zero.csv", "--text_columns", "a"), 3, "zero.csv:2: expected text in UTF-8; found byte 0x00"),
        (("--input", "sst.csv", "--text_columns", "a"), 3, "sst.csv:1: expected no column sst, a prediction's name"),
        (
            ("--input", "null.jsonl", "--text_columns", "b"),
            3,
            "null.jsonl:1: expected one column 'b'; found 0 among ['a']; name the texts' columns by --text_columns",
        ),
        (("--input", "null.jsonl", "--text_columns", "a"), 3, "null.jsonl:2: expected texts in a; found [3]"),
        (
            ("--input", "more.jsonl", "--text_columns", "a"),
            3,
            "more.jsonl:2: expected the first row's columns; found c",
        ),
    ],
)
def test_what_is_refused_leaves_the_output_as_it_was(run, tmp_path, capsys, monkeypatch, words, code, message):
    """Also where the fault is in the last row: a file is read through before anything is predicted."""
    monkeypatch.chdir(tmp_path)
    write(Path("rows.csv"), ROWS)
    Path("header.csv").write_text("a,b\n")
    Path("twice.csv").write_text("a,b,b\nx,1,2\n")
    os.mkfifo("pipe.csv")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n")))
    Path("semi.csv").write_text('id;sentence\n1;"x, ""y"""\n')
    Path("empty.csv").write_text("")
    Path("short.csv").write_text("id,a,b\n1,x,y\n2,x,y\n3,x\n")
    Path("latin.csv").write_bytes("a\nx\nü\n".encode("latin-1"))
    Path("zero.csv").write_bytes(b"a\nx\0y\n")
    Path("sst.csv").write_text("a,sst\nx,1\n")
    Path("null.jsonl").write_text('{"a": "x"}\n{"a": 3}\n')
    Path("more.jsonl").write_text('{"a": "x"}\n{"a": "y", "c": 1}\n')
    Path("out.csv").write_text("before")
    given = () if "--output" in words or "--input" not in words else ("--output", "out.csv")
    assert called(run, *words, *given) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert Path("out.csv").read_text() == "before" and not leftovers(tmp_path)
