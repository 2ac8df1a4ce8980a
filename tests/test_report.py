"""experiments/report.py: what stands on the page of real runs of every kind of task, and in TensorBoard's files."""

import csv
import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev

import pytest
from browser import CHROMIUM, browser
from own_tasks import make_own_tasks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import contents, log_lines, train

from experiments.report import main
from runtime.errors import run_cli

TASKS = ("nli", "urgency", "topics", "mood")  # one of each kind


@pytest.fixture(scope="module")
def run(home) -> Path:
    steps = ("--max_steps", 4, "--eval_every", 2, "--log_every", 1, "--lr", 0.01)
    assert train(home, home / "run", "--task_file", make_own_tasks(home / "own"), *steps) == 0
    return home / "run"


class Page(HTMLParser):
    """Its tables, as texts of the cells in their rows, and all its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tables, self.text, self.tags, self.sources, self.inside = [], "", set(), [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True
        elif tag == "br":
            self.handle_data("\n")

    def handle_endtag(self, tag):
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.tables[-1][-1][-1] += data

    def table(self, *head: str) -> list[list[str]]:
        """The rows of the one that has these columns first."""
        (found,) = [rows[1:] for rows in self.tables if rows[0][: len(head)] == [*head]]
        return found


def make(*runs: Path, out: Path) -> Page:
    assert run_cli(main, [*map(str, runs), "--output", str(out)]) == 0
    return Page(out.read_text(encoding="utf-8"))


def predictions(run: Path, task: str) -> list[list[str]]:
    """error, gold, prediction, confidence, id, texts; the worst first."""
    with open(run / "predictions" / "readable" / f"{task}-dev.tsv", encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


def test_a_run_s_page(run, tmp_path, monkeypatch):
    """Its figures by the run's own files; nothing of it lies elsewhere."""
    shown = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    page = make(run, "--open", out=tmp_path / "new" / "a.html")
    metrics = json.loads((run / "metrics.json").read_text())
    dev = metrics["dev"]
    assert shown == [(tmp_path / "new" / "a.html").as_uri()]
    assert page.tags.isdisjoint({"script", "link", "iframe"}) and all(s.startswith("data:") for s in page.sources)
    main_metrics = ["nli_macro_f1", "urgency_pearson", "topics_micro_f1", "mood_acc"]
    (row,) = page.table("run", *main_metrics)
    values = [dev[name] for name in main_metrics]
    assert row[:6] == [str(run), *(f"{value:.3f}" for value in (*values, sum(values) / 4))] and row[7] == "4"
    assert row[-1] == f"{metrics['peak_gb']:.2f} GB"
    assert page.table("dev", "topics_micro_f1", "topics_macro_f1", "rows")[0][1:] == [
        *(f"{dev[name]:.3f}" for name in ("topics_micro_f1", "topics_macro_f1")),
        "20",
    ]
    pairs = [(row[1], row[2]) for row in predictions(run, "nli")]
    classes = ("entailment", "neutral", "contradiction")
    expected = [[gold, *(str(pairs.count((gold, said))) for said in classes)] for gold in classes]
    assert page.table("gold \\ predicted", *classes) == expected
    settings = {row[0]: row[1] for row in page.table("", "") if len(row) == 2}
    assert settings["lr"] == "0.01" and settings["batch_size"] == "nli=8,urgency=8,topics=8,mood=8"
    assert settings["data: dev of mood: mood.tsv"].startswith("20 rows, sha256 ")
    of_tasks = [rows[1:] for rows in page.tables if rows[0] == ["gold", "predicted", "text"]]
    for task, mistakes in zip(TASKS, of_tasks, strict=True):
        wrong = [row for row in predictions(run, task) if row[1] != row[2]][:10]
        shown = [f"{said} ({float(sure):.2f})" if sure else said for _, _, said, sure, *_ in wrong]
        texts = ["\n".join(row[5:]) for row in wrong]
        assert mistakes == [[row[1], *rest] for row, *rest in zip(wrong, shown, texts, strict=True)]
    assert len(page.sources) == 1 + 4  # curves; scores, and three calibrations


def test_a_step_s_time_has_no_evaluation_in_it(run, tmp_path):
    """A step of 1 second, an evaluation of 100 before each second logged step."""
    shutil.copytree(run, tmp_path / "run")
    spent = [(2, "losses", 2), (2, "dev", 102), (4, "losses", 104), (4, "dev", 204)]
    lines = [next(line for line in log_lines(run) if line["step"] == step and part in line) for step, part, _ in spent]
    lines = [line | {"seconds": seconds} for line, (*_, seconds) in zip(lines, spent, strict=True)]
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = make(tmp_path / "run", out=tmp_path / "a.html").table("run")
    assert row[-2] == "1 s"


def test_runs_beside_each_other(run, tmp_path):
    """What differs; of one that goes on what there is; a mistake that both make, with what each says."""
    going, other = tmp_path / "going", tmp_path / "other"
    for copy in (going, other):
        shutil.copytree(run, copy)
    (going / "metrics.json").unlink()
    config = json.loads((run / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"seed": 7}))
    page = make(run, going, other, out=tmp_path / "a.html")
    names = [name for name, *_ in page.table("run")]
    assert len({*names}) == 3
    assert all(str(path).endswith(name) for path, name in zip((run, going, other), names, strict=True))
    assert page.table("", *names) == [["seed", "0", "0", "7"]] and "seed" not in dict(page.table("", ""))
    assert f"{names[1]} has no metrics.json, which a run writes at its end: its figures are" in page.text
    assert page.text.count(f"No predictions of {names[1]}: a run writes them at its end.") == len(TASKS)
    rows = page.table("run")
    assert rows[0][1:] == rows[2][1:]
    assert rows[1][1:] == [*rows[0][1:-1], "-"]  # the last evaluation was the best, so that its figures are the end's
    gold, said, *_ = predictions(run, "urgency")[0][1:]
    assert [gold, said, said] in [rows[1][:3] for rows in page.tables if rows[0][:3] == ["gold", names[0], names[2]]]


@pytest.mark.skipif(not CHROMIUM, reason="needs a Chromium: apt-get install chromium")
def test_on_a_phone_only_what_is_wide_scrolls_sideways(run, tmp_path):
    make(run, out=tmp_path / "a.html")
    with browser() as page:
        page.call("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=True)
        page.call("Page.navigate", url=(tmp_path / "a.html").as_uri())
        page.wait("document.images.length == 5 && [...document.images].every(image => image.naturalWidth > 300)")
        assert page.js("document.documentElement.scrollWidth") == 400


def test_the_card_tells_the_spread_over_runs_that_are_alike(run, tmp_path, capsys):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    config, metrics = (json.loads((run / name).read_text()) for name in ("config.json", "metrics.json"))
    for copy in (first, second, other):
        shutil.copytree(run, copy)
    (second / "config.json").write_text(json.dumps(config | {"seed": 7}))
    (second / "metrics.json").write_text(json.dumps(metrics | {"dev": metrics["dev"] | {"mood_acc": 1.0}}))
    (second / "predictions" / "readable" / "mood-dev.tsv").unlink()  # its metrics are no longer these
    (other / "config.json").write_text(json.dumps(config | {"lr": 7}))
    words = ["--output", str(tmp_path / "a.html"), "--card"]
    card, before = first / "best" / "README.md", (run / "best" / "README.md").read_text()
    assert run_cli(main, [str(first), str(other), *words]) == 2 and card.read_text() == before
    assert f"runs that differ in their seeds alone; {other} has other lr" in capsys.readouterr().err
    assert run_cli(main, [str(first), str(first), *words]) == 2 and card.read_text() == before
    assert "found seed 0 twice" in capsys.readouterr().err
    assert run_cli(main, [str(first), str(second), *words]) == 0
    both = metrics["dev"]["mood_acc"], 1.0
    assert f"| {both[0]:.4f} | 20 | {mean(both):.4f} ± {stdev(both):.4f} |" in card.read_text()
    (second / "metrics.json").unlink()
    assert run_cli(main, [str(first), str(second), *words]) == 2
    assert f"{second} has no metrics.json" in capsys.readouterr().err


def test_what_stands_in_files_is_text(run, tmp_path):
    out = tmp_path / "<i>run"
    shutil.copytree(run, out)
    path, evil = out / "predictions" / "readable" / "mood-dev.tsv", "<script>alert(1)</script>&amp;"
    path.write_text(path.read_text().replace("the ", f"{evil} "))
    page = make(out, out=tmp_path / "a.html")
    assert page.tags.isdisjoint({"script", "i"}) and evil in page.text and "<i>run" in page.text


@pytest.mark.parametrize(
    ("name", "text", "code", "message"),
    [
        ("config.json", None, 2, "run: expected a run's folder; found no config.json of a run; check the path"),
        ("predictions/readable/mood-dev.tsv", "a\tb\n0.5\tmad\tsad\t0.5\t1\tx\n", 3, "expected rows of mood, as a run"),
        ("predictions/readable/mood-dev.tsv", "a\n0.5\n", 3, "expected rows of mood, as a run writes them"),
        ("predictions/readable/mood-dev.tsv", "a\n0\tglad\tglad\t1\t1\tx\n", 3, "as in metrics.json; found 1.0; "),
    ],
)
def test_what_is_no_run_or_damaged(run, tmp_path, capsys, name, text, code, message):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / name).unlink() if text is None else (out / name).write_text(text)
    assert run_cli(main, [str(out), "--output", str(tmp_path / "a.html")]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "a.html").exists()


@pytest.mark.parametrize(("module", "extra"), [("matplotlib", "pictures"), ("tensorboard", "tensorboard")])
def test_what_is_missing_is_named(run, tmp_path, capsys, monkeypatch, module, extra):
    if extra == "tensorboard":
        monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    words = (str(run), "--output", str(tmp_path / "a.html"), "--tensorboard", str(tmp_path / "tb"))
    assert run_cli(main, words) == 2
    assert capsys.readouterr().err.endswith(f"expected {module}; found none; pip install -e '.[{extra}]'\n")


def test_tensorboard_reads_the_log(run, tmp_path, capsys):
    words = [str(run), "--output", str(tmp_path / "a.html"), "--tensorboard", str(tmp_path / "tb")]
    before = contents(run)
    assert run_cli(main, words) == 0
    (folder,) = (tmp_path / "tb").iterdir()
    events, lines = EventAccumulator(str(folder)).Reload(), log_lines(run)
    parts = ("losses", "dev", "cosine")
    expected = {f"{part}/{name}" for line in lines for part in parts for name in line.get(part, ())}
    assert set(events.Tags()["scalars"]) == expected | {"lr"}
    for part, name in (("losses", "mood"), ("dev", "nli_acc")):
        found = [(event.step, event.value) for event in events.Scalars(f"{part}/{name}")]
        assert found == [(line["step"], pytest.approx(line[part][name])) for line in lines if part in line]
    assert run_cli(main, words) == 2 and "--tensorboard: expected a new folder; found one" in capsys.readouterr().err
    assert contents(run) == before
