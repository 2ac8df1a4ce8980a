"""train_multitask.py: what each option does, what a run leaves, the arithmetic of a step, and what a fault leads to."""

import ast
import hashlib
import inspect
import json
import os
import random
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from own_tasks import make_own_tasks
from safetensors.torch import load_file
from tiny import CONFIG, make_bert_folder, make_data_folder
from tiny_run import (
    STILL,
    before_update,
    command,
    contents,
    copied,
    leftovers,
    log_lines,
    make_session,
    moved,
    outcome,
    recorded,
    take_steps,
    train,
)
from torch import Tensor

import train_multitask
from bert import BertModel, BertTokenizer
from data.reader import read
from data.tasks import LEADERBOARD, TASKS
from heads import MultitaskBert
from heads.kinds import KINDS, Score
from heads.metrics import accuracy
from optim.schedule import lr_factor
from runtime.errors import DivergedError
from runtime.files import lock
from training.checkpoint import saved
from training.options import MIN_STEPS, OPTIONS

ROOT = Path(train_multitask.__file__).parent
METRICS = ["sst_acc", "sst_f1", "para_acc", "para_f1", "sts_pearson", "sts_spearman", "sts_em"]
METRICS += ["average", "overall_2024"]
SINGLE = ("--strategy", "single", "--tasks")
LOGGED = ("--max_steps", 6, "--eval_every", 3, "--log_every", 2, "--lr", 0.01)


@pytest.fixture(scope="module")
def run(home) -> Path:
    """A finished run of six steps, the course's three tasks, gradient surgery."""
    assert train(home, home / "run", *LOGGED) == 0
    return home / "run"


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors") | load_file(folder / "heads.safetensors")


def metrics_of(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def test_the_loop_is_one_page():
    assert len(inspect.getsource(train_multitask.train).splitlines()) <= 60
    assert len(Path(train_multitask.__file__).read_text().splitlines()) <= 250


TASKS_MAY_STAND_IN = ("data/tasks.py", "heads/pairs.py", "heads/losses.py")
HELP = r"\(default: |python train_multitask\.py|[\w-]+\.csv"  # options' help, and the course's files


def test_no_tasks_name_stands_in_the_code():
    """Outside its table and the paper's architectures and losses; docstrings and comments aside."""
    parts = ("runtime", "bert", "data", "heads", "optim", "training", "train_multitask.py", "evaluate.py")
    for path in (path for part in parts for path in [ROOT / part, *(ROOT / part).rglob("*.py")] if path.is_file()):
        if str(path.relative_to(ROOT)) in TASKS_MAY_STAND_IN:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            words = [getattr(node, field, None) for field in ("id", "attr", "arg", "name")]
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                words += [] if re.search(HELP, node.value) else re.findall(r"\w+", node.value)
            assert TASKS.keys().isdisjoint(map(str, words)), f"{path}:{node.lineno}: {words}"


# ---- what a run leaves -----------------------------------------------------------------------------------------------


def test_the_folder_holds_these_files_and_config_json_all_that_it_takes(home, run):
    tensors = ["model", "heads", "optimizer", "triplets"]
    checkpoint = ["MANIFEST.json", "state.json", *(f"{name}.safetensors" for name in tensors)]
    steps = {path.name for path in saved(run / "checkpoints")}
    assert contents(run).keys() == {
        *("config.json", "log.jsonl", "metrics.json"),
        *(f"checkpoints/{step}/{name}" for step in steps for name in checkpoint),
        *("best/config.json", "best/model.safetensors", "best/heads.json", "best/heads.safetensors"),
        *("best/tokenizer.json", "best/tokenizer_config.json", "best/vocab.txt"),
        *("best/modules.json", "best/sentence_bert_config.json", "best/1_Pooling/config.json", "best/step.json"),
        "best/README.md",
        *(f"predictions/{task}-{split}-output.csv" for task in LEADERBOARD for split in ("dev", "test")),
        *(f"predictions/readable/{task}-dev.tsv" for task in LEADERBOARD),
    }
    assert not leftovers(run) and steps == {"step-000003", "step-000006"}  # the newest and the one before
    config = json.loads((run / "config.json").read_text())
    assert config.keys() == {*OPTIONS} | {"task_definitions", "versions", "machine", "data"}
    assert config["data_dir"] == str((home / "data").resolve()) and config["arch"] == "v3a"
    assert config["versions"]["torch"] == torch.__version__ and config["machine"]["precision"] == "off"
    for split in ("train", "dev"):
        name = TASKS["sst"].files[split]
        digest = hashlib.sha256((home / "data" / name).read_bytes()).hexdigest()
        assert [key for key, value in config["data"].items() if digest in value] == [f"{split} of sst: {name}"]


def test_the_log(run):
    lines = log_lines(run)
    assert [(line["step"], "dev" in line) for line in lines] == [(2, 0), (3, 1), (4, 0), (6, 0), (6, 1)]
    for line in lines:
        if "dev" in line:
            assert list(line["dev"]) == METRICS
            assert line["undefined"].keys() == {name for name, value in line["dev"].items() if value is None}
            continue
        assert line.keys() == {"step", "losses", "cosine", "affinity", "lr", "grad_norm"}
        assert tuple(line["losses"]) == LEADERBOARD and all(loss > 0 for loss in line["losses"].values())
        assert list(line["cosine"]) == ["sst-para", "sst-sts", "para-sts"]
        assert all(-1 <= cosine <= 1 for cosine in line["cosine"].values())
        for pair, cosine in line["cosine"].items():  # lr g_a . g_b, over the loss of the one, and of the other
            a, b = pair.split("-")
            product = line["affinity"][pair] * line["losses"][b]
            assert product == pytest.approx(line["affinity"][f"{b}-{a}"] * line["losses"][a]) and product * cosine > 0


ROWS = {
    "sst": ("id \t Predicted_Sentiment \n", r"(sst-\w+-\d+) , ([0-4]) \n"),
    "para": ("id \t Predicted_Is_Paraphrase \n", r"(para-\w+-\d+) , ([01]\.0) \n"),
    "sts": ("id \t Predicted_Similiary \n", r"(sts-\w+-\d+) , (\d\.\d+(?:e-\d+)?) \n"),
}


@pytest.mark.fault(31)
def test_metrics_are_those_of_the_prediction_files_and_these_the_best_models(home, run):
    """By other means: the files' text, arithmetic, NumPy; and best/, which is the best evaluation's model.

    Among the rows: one without a label, para-dev-1; one without a sentence, para-dev-2, sst-test-0.
    """
    found, pairs, model = metrics_of(run), {}, MultitaskBert.from_pretrained(run / "best")
    for task, split in ((task, split) for task in LEADERBOARD for split in ("test", "dev")):
        text = (run / "predictions" / f"{task}-{split}-output.csv").read_bytes().decode()
        header, row = ROWS[task]
        assert re.fullmatch(re.escape(header) + f"({row})+", text)
        predicted = {name: float(value) for name, value in re.findall(row, text)}
        examples = read(TASKS[task], split, home / "data").examples
        assert list(predicted) == [example.id for example in examples]
        again = model.predict(task, *(list(side) for side in zip(*(e.texts for e in examples), strict=True)))
        assert list(predicted.values()) == again.tolist()
        pairs[task] = np.array([(predicted[e.id], e.label) for e in examples if e.label is not None]).T
    sst, para = (np.mean(predicted == gold) for predicted, gold in (pairs["sst"], pairs["para"]))
    r = np.corrcoef(*pairs["sts"])[0, 1]
    expected = {"sst_acc": sst, "para_acc": para, "sts_pearson": r, "average": (sst + para + r) / 3}
    expected["overall_2024"] = (sst + para + (r + 1) / 2) / 3
    assert {name: found["dev"][name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert list(found["dev"]) == METRICS and found["data"] == str(home / "data")
    assert found["undefined"].keys() == {name for name, value in found["dev"].items() if value is None}
    assert found["conflicts"].keys() == {"sst-para", "sst-sts", "para-sts"}
    assert all(share * 6 == round(share * 6) and 0 <= share <= 1 for share in found["conflicts"].values())
    dev = {line["step"]: line["dev"] for line in log_lines(run) if "dev" in line}
    assert found["step"] == max(dev, key=lambda step: dev[step]["average"]) and found["dev"] == dev[found["step"]]


def test_a_fresh_process_in_a_folder_with_other_letters(home, tmp_path):
    """Where streams take ascii alone. Results on stdout, the rest on stderr; a relative path is relative to the folder
    that one stands in. Then evaluate.py."""
    place = tmp_path / "läufe 日本"
    place.mkdir()
    given = {"cwd": place, "capture_output": True, "check": True, "env": os.environ | {"PYTHONIOENCODING": "ascii"}}
    options = command(home, *SINGLE, "sst", "--max_steps", 1, "--predictions_dir", place / "schätze")
    result = subprocess.run([sys.executable, ROOT / "train_multitask.py", *options], **given)
    (out,), stderr = (place / "runs").glob("finetune-single-sst-*"), result.stderr.decode("ascii")
    lines = [f"  {name:<9}{value:.4f}" for name, value in metrics_of(out)["dev"].items()]
    assert result.stdout.decode("ascii").splitlines() == [f"dev of {home / 'data'}, weights of step 1:", *lines]
    assert all(text in stderr for text in ("warning: ", "step 1/1", "finetune, single on sst", r"sch\xe4tze"))
    assert sorted(place.iterdir()) == [place / "runs", place / "schätze"]
    subprocess.run([sys.executable, ROOT / "evaluate.py", out, "--split", "all"], **given)
    assert contents(out / "predictions") == contents(place / "schätze") and len(contents(out / "predictions")) == 3


@pytest.mark.fault(27)
def test_same_seed_same_run_and_no_generator_is_touched(home, run, tmp_path):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert train(home, tmp_path / "again", *LOGGED) == 0
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert outcome(tmp_path / "again") == outcome(run)
    assert train(home, tmp_path / "other", *LOGGED, "--seed", 1) == 0
    mine, other = outcome(run), outcome(tmp_path / "other")
    assert mine["tensors"]["model.safetensors"] != other["tensors"]["model.safetensors"]
    assert mine["predictions"]["sts-dev-output.csv"] != other["predictions"]["sts-dev-output.csv"]


# ---- strategies and tasks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "tasks"),
    [("single", (name,)) for name in TASKS]
    + [(strategy, tasks) for strategy in ("mtl", "gs") for tasks in (("para", "sts"), LEADERBOARD)],
)
def test_strategies(home, tmp_path, capsys, strategy, tasks):
    """Which losses there are, which weights move, and that only the run's tasks are read and predicted."""
    for name in [name for task in tasks for name in TASKS[task].files.values()]:
        shutil.copy(home / "data" / name, tmp_path)
    options = ("--strategy", strategy, "--tasks", ",".join(tasks), "--log-every", 1, "--data_dir", tmp_path)
    assert train(home, tmp_path / "run", *options, "--max-steps", 2) == 0
    lines = [line for line in log_lines(tmp_path / "run") if "losses" in line]
    assert [list(line["losses"]) for line in lines] == 2 * [list(tasks)]
    pairs = [f"{a}-{b}" for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    assert [list(line.get("cosine", {})) for line in lines] == 2 * [pairs if strategy == "gs" else []]
    assert list(metrics_of(tmp_path / "run")["conflicts"]) == (pairs if strategy == "gs" else [])
    assert {name.split("_")[0] for name in metrics_of(tmp_path / "run")["dev"]} - {"average", "overall"} == {*tasks}
    files = {f"{task}-{split}-output.csv" for task in tasks for split in ("dev", "test")}
    files |= {f"readable/{task}-dev.tsv" for task in tasks}
    assert contents(tmp_path / "run" / "predictions").keys() == files
    newest = load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "heads.safetensors")
    heads = moved(make_session(home, *options).model.head_state(), newest)
    assert {name.split(".")[2].removesuffix("_head") for name in heads if name.startswith("heads.tasks.")} == {*tasks}
    assert ", ".join(tasks) + "; data: " in capsys.readouterr().err


PREDICT = """
import json, sys
from heads import MultitaskBert
model = MultitaskBert.from_pretrained(sys.argv[1])
print(json.dumps({name: [str(p) for p in model.predict(name, *sides)] for name, sides in json.load(sys.stdin).items()}))
"""


def test_tasks_of_ones_own_beside_the_courses(home, tmp_path):
    """Three classes of pairs, a score of single texts, from a TOML file: learnt, and predicted in a fresh process."""
    out, names = tmp_path / "run", ["sst", "para", "nli", "urgency"]
    options = ("--task_file", make_own_tasks(tmp_path / "own"), "--tasks", ",".join(names), "--strategy", "gs")
    assert train(home, out, *options, "--max_steps", 80, "--eval_every", 80, "--log_every", 1, "--lr", 0.003) == 0
    losses = np.array([list(line["losses"].values()) for line in log_lines(out) if "losses" in line])
    assert (losses[-15:].mean(0) < 0.95 * losses[:15].mean(0)).all()
    assert metrics_of(out)["dev"]["nli_acc"] > 0.6 and metrics_of(out)["dev"]["urgency_pearson"] > 0.6
    splits = make_session(home, *options).splits["dev"]
    texts = {name: list(zip(*(example.texts for example in splits[name].examples), strict=True)) for name in names}
    words = [sys.executable, "-c", PREDICT, out / "best"]
    found = json.loads(subprocess.run(words, input=json.dumps(texts).encode(), cwd=ROOT, stdout=-1, check=True).stdout)
    for name in names:
        _, *lines = (out / "predictions" / f"{name}-dev-output.csv").read_text().splitlines()
        expected = [re.split(" , |,", line)[1] for line in lines]
        if name != "nli":  # 1.0 is 1
            expected, found[name] = list(map(float, expected)), list(map(float, found[name]))
        assert found[name] == expected


class Count(Score):
    """Whole numbers from 0: their logarithm is computed, the loss is Poisson's."""

    metrics = {"acc": accuracy}
    output = staticmethod(lambda f: f[:, 0].exp())
    of_cosine = staticmethod(lambda cos: cos.exp())
    loss = staticmethod(lambda y, target, settings: (y - target * y.log()).mean())
    predict = staticmethod(lambda y: y.round().long().numpy())


def test_a_kind_is_added_in_one_place(home, tmp_path, monkeypatch):
    """Of single texts and of pairs, where half is the cosine's: trained, evaluated, saved, predicted."""
    monkeypatch.setitem(KINDS, "count", Count)
    counts = {"the dog": 1, "a cat": 7, "good film !": 2, "the old man": 3}
    rows = [f"{text},{text},{count}" for text, count in counts.items()]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,n", *9 * rows]) + "\n")
    entry = '[tasks.{}]\nkind = "count"\nrange = [0, 99]\ntexts = {}\nlabel = "n"\ntrain = "rows.csv"\ndev = 0.25\n'
    (tmp_path / "my.toml").write_text(entry.format("one", '["a"]') + entry.format("two", '["a", "b"]'))
    options = ("--task_file", tmp_path / "my.toml", "--max_steps", 120, "--hidden_dropout_prob", 0, "--lr", 0.01)
    assert train(home, tmp_path / "run", *options) == 0
    model = MultitaskBert.from_pretrained(tmp_path / "run" / "best")
    assert [model.heads[name].alpha for name in ("one", "two")] == [1, 0.5]  # of pairs half is the cosine's
    assert model.predict("one", [*counts]).tolist() == model.predict("two", [*counts], [*counts]).tolist()
    assert model.predict("one", [*counts]).tolist() == [*counts.values()]


@pytest.mark.parametrize("options", [("--strategy", "gs"), ("--strategy", "mtl", "--arch", "v2", "--pooling", "cnn")])
def test_pretrain_moves_what_stands_on_bert_alone(home, options):
    """Without BERT's own dropout, which would only add noise."""
    session = make_session(home, "--option", "pretrain", *options, "--lr", 0.1)
    before = copied(session)
    take_steps(session, 2)
    assert moved(before, session.model.state_dict()) == {name for name in before if not name.startswith("bert.")}
    assert not session.model.bert.training and session.model.heads.training


# ---- every option does something -------------------------------------------------------------------------------------

BASE = ("--max_steps", 8)
SEEN_IN_TWO_STEPS = [
    *("--option pretrain", "--strategy mtl", "--tasks sst,sts", "--task_file {home}/own/tasks.toml"),
    *("--checkpoint {home}/bert-1", "--data_dir {home}/data-1", "--lora 2", "--bert_dropout_prob 0"),
    *("--init_from {home}/run --pooling mean", "--arch v1", "--arch v2", "--arch v3b", "--layer -2", "--seed 3"),
    *("--pooling cls", "--pooling attention_mean", "--pooling cnn", "--hidden_dropout_prob 0.1", "--max_length 5"),
    *("--epochs 1", "--max_steps 5", "--batch_size 7", "--batch_size sts=5", "--grad_accum 2"),
    *("--lr 2e-4", "--head_lr_scale 3", "--warmup 0.5", "--weight_decay 0.3", "--max_grad_norm 0.1"),
    *("--loss_scale sst=1,para=1,sts=4", "--pairs para=cross", "--weigh rlw", "--surgery mgda"),
    *("--para_loss bce", "--sts_gamma 0.9", "--cosine_margin 0.7", "--triplet_margin 0.1"),
]
SEEN_ELSEWHERE = [
    *("device", "amp", "deterministic", "patience", "eval_every", "save_every", "log_every", "predictions_dir"),
    *("output_dir", "overwrite", "dry_run", "resume", "allow_change", "no_test"),
]


def two_steps(home: Path, *options: object) -> tuple[list[dict], dict]:
    session = make_session(home, *BASE, *options)
    lines = take_steps(session, 2)
    return [line["losses"] for line in lines], session.model.state_dict()


@pytest.fixture(scope="module")
def usual(home, run):
    make_bert_folder(home / "bert-1", seed=1)
    make_data_folder(home / "data-1", seed=1)
    make_own_tasks(home / "own")
    shown = {option.split()[0].lstrip("-") for option in SEEN_IN_TWO_STEPS}
    assert {*OPTIONS} == shown | set(SEEN_ELSEWHERE), "an option is forgotten here"
    return two_steps(home)


@pytest.mark.parametrize("option", SEEN_IN_TWO_STEPS)
def test_an_option_shows_in_two_steps(home, usual, option):
    losses, after = two_steps(home, *option.format(home=home).split())
    assert losses != usual[0] or moved(usual[1], after)


def test_berts_dropout_is_the_checkpoints_or_the_one_given(home, usual, tmp_path, capsys):
    shutil.copytree(home / "bert", tmp_path / "dropping")
    config = tmp_path / "dropping" / "config.json"
    config.write_text(config.read_text().replace('dropout_prob": 0.1', 'dropout_prob": 0.2'))
    dropping = ("--checkpoint", tmp_path / "dropping")
    for expected, *options in (
        (two_steps(home, *dropping), "--bert_dropout_prob", 0.2),
        (usual, *dropping, "--bert_dropout_prob", 0.1),
    ):
        losses, after = two_steps(home, *options)
        assert losses == expected[0] and not moved(expected[1], after)
    make_session(home, "--bert_dropout_prob", 0.2).model.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").read_text() == config.read_text()
    assert train(home, tmp_path / "run", "--option", "pretrain", "--bert_dropout_prob", 0.2) == 2
    assert "--bert_dropout_prob: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "bert_lr", "head_lr"),
    [
        ("--lr 1e-3 --pooling cnn", 1e-3, 1e-2),
        ("--lr 1e-3 --head_lr_scale 3", 1e-3, 3e-3),
        ("--lora 2", 1e-3, 1e-3),
        ("--option pretrain", 0, 1e-3),
    ],
)
def test_the_encoder_and_all_else_have_a_learning_rate_each(home, options, bert_lr, head_lr):
    """Adam's first step moves a weight by its rate, wherever its gradient is not tiny."""
    plain = ("--warmup", 0, "--weight_decay", 0, "--max_grad_norm", 1e30)
    session = make_session(home, "--strategy", "mtl", *options.split(), *plain)
    before = copied(session)
    take_steps(session, 1)
    for part, weights in session.model.named_children():
        moves = [(weight - before[f"{part}.{name}"]).abs().max() for name, weight in weights.state_dict().items()]
        assert max(moves).item() == pytest.approx(bert_lr if part == "bert" else head_lr, rel=1e-3), part


def test_an_epoch_is_a_pass_over_the_longest_task(home):
    """31 rows of para are four batches of eight: two steps of two batches."""
    session = make_session(home, "--epochs", 3, "--grad_accum", 2, "--strategy", "mtl", "--batch_size", "sst=3,para=8")
    assert (session.steps_an_epoch, session.total_steps) == (2, 6)
    batches = [batches for step in range(2) for batches, _ in session.micro_batches(step)]
    seen = sorted(name for by_task in batches for name in by_task["para"].ids)
    assert seen == sorted(f"para-train-{row}" for row in range(31))
    assert max(len(by_task["sst"].ids) for by_task in batches) == 3
    assert [make_session(home, "--epochs", 3, "--max_steps", most).total_steps for most in (5, 50)] == [5, 12]
    assert MIN_STEPS <= make_session(home).total_steps < MIN_STEPS + 4


def test_eval_save_and_log_every(home, tmp_path):
    """A checkpoint after each evaluation too; at each step the newest is seen."""
    seen, options = [], (*SINGLE, "sts", "--max_steps", 11, "--eval_every", 5, "--save_every", 3, "--log_every", 4)
    with before_update(lambda number: seen.extend(path.name for path in saved(tmp_path / "checkpoints")[:1])):
        assert train(home, tmp_path, *options) == 0
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines if "dev" in line] == [5, 10, 11]
    assert [line["step"] for line in lines if "losses" in line] == [4, 8, 11]
    assert list(dict.fromkeys(seen)) == [f"step-{step:06d}" for step in (3, 5, 6, 9, 10)]


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("scores", "patience", "steps", "best"),
    [
        *(((0.1, 0.4, 0.4, 0.3, None, 0.5), *rest) for rest in ((0, 6, 6), (2, 4, 2), (3, 5, 2))),
        ((None,), 0, 6, 6),  # the last weights count, for there is nothing to choose by
    ],
)
def test_patience(home, tmp_path, capsys, scores, patience, steps, best):
    """An equal score is no better one; an undefined one, null with its reason, is neither better nor ever the best."""
    options = ("--max_steps", 6, "--eval_every", 1, "--log_every", 1, "--patience", patience)
    with tiny_run.accuracy_by("classes", tiny_run.scripted(*scores)):
        assert train(home, tmp_path, *SINGLE, "sst", *options) == 0
    ended = f"ended at step {steps} of 6: {patience} evaluations without a better score"
    assert (ended in capsys.readouterr().err) == (steps < 6)
    metrics = metrics_of(tmp_path)
    assert log_lines(tmp_path)[-1]["step"] == steps and metrics["step"] == best
    assert ("sst_acc" in metrics["undefined"]) == (metrics["dev"]["sst_acc"] is None)
    session = make_session(home, *SINGLE, "sst", *options)
    take_steps(session, best)
    assert not moved(session.model.head_state(), load_file(tmp_path / "best" / "heads.safetensors"))


def test_init_from_starts_with_that_runs_weights(home, run, tmp_path, capsys):
    """Its architecture too, without being asked; another one is refused."""
    for source in (run, run / "best"):
        make_session(home, "--init_from", source).model.save(tmp_path / "model")
        assert not moved(weights(run / "best"), weights(tmp_path / "model"))
    options = ("--strategy", "mtl", "--arch", "v2", "--pooling", "cnn", "--layer", -2, "--max_steps", 1)
    assert train(home, tmp_path / "first", *options) == 0
    config = make_session(home, "--init_from", tmp_path / "first", "--hidden_dropout_prob", 0.2).model.config
    assert (config.arch, config.pooling, config.layer, config.hidden_dropout_prob) == ("v2", "cnn", -2, 0.2)
    for message, *words in (
        ("--arch: ", "--init_from", run, "--arch", "v3b"),
        ("--init_from: expected a run's folder", "--init_from", home / "bert"),
        ("--init_from", "--checkpoint", run / "best"),  # its heads would come along unasked
        ("--init_from", "--checkpoint", run),
    ):
        assert train(home, tmp_path / "run", *words) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_reads_pairs_at_once(home, tmp_path, capsys):
    """Its triplets are left out; what starts from it reads them so, too; another way is refused."""
    words = ("--max_steps", 2, "--pairs", "para=cross")
    assert train(home, tmp_path / "run", *words) == 0
    assert not load_file(next((tmp_path / "run" / "checkpoints").glob("*")) / "triplets.safetensors")
    session = make_session(home, "--init_from", tmp_path / "run", "--tasks", "para,sts")
    assert [task.pairs for task in session.options.tasks] == ["cross", "siamese"]
    ids = session.rows["para"].batch([0]).tokens
    expected = session.model.tokenizer(*session.splits["train"]["para"].examples[0].texts)
    assert ids.keys() == expected.keys() and all(torch.equal(value, ids[key]) for key, value in expected.items())
    assert ids.token_type_ids.any()
    for ways in ("siamese", "para=siamese"):
        assert train(home, tmp_path / "other", "--init_from", tmp_path / "run", "--pairs", ways) == 2
        assert "--pairs: para of " in (error := capsys.readouterr().err) and "; take para=cross, or" in error
    session = make_session(home, "--init_from", tmp_path / "run", "--pairs", "sts=siamese")  # of para nothing is said
    assert [task.pairs for task in session.options.tasks] == ["siamese", "cross", "siamese"]
    assert train(home, tmp_path / "run", *words[:2], "--resume", "auto") == 2
    error = capsys.readouterr().err
    assert "--pairs was sst=siamese,para=cross" in error and "--allow_change" not in error
    own = make_own_tasks(tmp_path / "own")
    words = (*SINGLE, "nli", "--task_file", own, "--max_steps", 1)
    assert train(home, tmp_path / "nli", *words, "--pairs", "both") == 0
    assert [t.pairs for t in make_session(home, *words, "--init_from", tmp_path / "nli").options.tasks] == ["both"]
    own.write_text(own.read_text().replace("[tasks.nli]", '[tasks.nli]\npairs = "cross"'))
    capsys.readouterr()
    assert train(home, tmp_path / "other", *words, "--init_from", tmp_path / "nli") == 2
    assert "--pairs: nli of " in (error := capsys.readouterr().err) and "; take nli=both, or" in error


@pytest.mark.fault(26)
def test_device_and_precision(home, tmp_path, monkeypatch, capsys):
    """auto is what the hardware computes in; what is not there is refused, with what to take."""
    assert train(home, tmp_path, "--device", "cuda") == 8 and "take --device cpu" in capsys.readouterr().err
    assert train(home, tmp_path, "--amp", "fp16") == 2 and "take one of auto" in capsys.readouterr().err
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)  # slow where emulated, but it computes
    session = make_session(home, "--amp", "auto", "--device", "cpu")
    assert session.amp == "bf16"
    (found,), (exact,) = (take_steps(one, 1) for one in (session, make_session(home)))
    assert found["losses"] != exact["losses"]
    assert found["losses"] == pytest.approx(exact["losses"], rel=0.05, abs=0.05)  # bfloat16: eight bits
    assert all(value.dtype == torch.float32 for value in session.model.state_dict().values())


def test_deterministic(home, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    found = []
    with before_update(lambda number: found.append(torch.are_deterministic_algorithms_enabled())):
        for out, options in (("a", ()), ("b", ["--deterministic"]), ("c", ())):
            assert train(home, tmp_path / out, "--max_steps", 1, *options) == 0
    assert found == [False, True, False]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # without it every product on a GPU would be refused


# ---- the arithmetic of a step ----------------------------------------------------------------------------------------


def test_surgery_with_conflict_is_pcgrad_on_what_is_shared(home):
    """Two tasks, the closed form from each one's own gradient: g - (g . h) / |h|^2 h on either side. No dropout."""
    names = ("para", "sts")
    sessions = [make_session(home, "--strategy", "gs", "--tasks", ",".join(names), *STILL)]
    sessions += [make_session(home, *SINGLE, name, *STILL) for name in names]
    for session in sessions:  # the same heads in all of them
        own = session.model.state_dict()
        session.model.eval().load_state_dict({name: sessions[0].model.state_dict()[name] for name in own})
    gs, *alone = (recorded(session, 15) for session in sessions)
    step = next(step for step, (_, line) in enumerate(gs) if step and line["cosine"]["para-sts"] < -0.1)
    (found, line), by_task = gs[step], [lines[step][0] for lines in alone]
    shared = sorted(by_task[0].keys() & by_task[1].keys())
    assert {name.split(".")[1] for name in shared if name.startswith("heads.")} == {"shared"}
    g, h = (torch.cat([own[name].flatten().double() for name in shared]) for own in by_task)
    expected = g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g
    combined = torch.cat([found[name].flatten().double() for name in shared])
    torch.testing.assert_close(combined, expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())  # float32 inside
    assert line["cosine"]["para-sts"] == pytest.approx((g @ h / g.norm() / h.norm()).item(), rel=1e-5)
    affinity = line["lr"] * (g @ h).item() / line["losses"]["sts"]
    assert line["affinity"]["para-sts"] == pytest.approx(affinity, rel=1e-4, abs=0)
    for own, task in zip(by_task, names, strict=True):
        heads = [name for name in own if name.startswith(f"heads.tasks.{task}_head.")]
        assert len(heads) == 4
        for name in heads:
            torch.testing.assert_close(found[name], own[name], rtol=1e-4, atol=1e-6)


def test_every_step_and_micro_batch_has_a_dropout_of_its_own(home):
    """The same rows in each batch, and no weight moves: without dropout all losses are alike."""
    one, two, still = (make_session(home, *SINGLE, "sst", "--grad_accum", count, *STILL) for count in (1, 2, 1))
    still.model.eval()
    for session in (one, two, still):
        session.rows["sst"].stream = 6 * [[2, 3, 5, 7]]
    one, two, still = ([line["losses"]["sst"] for line in take_steps(s, 3)] for s in (one, two, still))
    assert len({*still}) == 1 and len({*one, *two}) == 6


# ---- faults in the numbers -------------------------------------------------------------------------------------------


def infinite_gradient(steps):
    """At these steps: the loss as it is, with an infinite gradient in the outputs, the slope of a root at 0."""
    return lambda number, loss, y: loss + (y - y.detach()).sqrt().sum() if number in steps else loss


@pytest.mark.fault(20)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(home, tmp_path, capsys, value):
    updates, spoiled = [], tiny_run.loss_by("score", lambda number, loss, y: loss * value if number == 3 else loss)
    with spoiled, before_update(updates.append):
        assert train(home, tmp_path, "--max_steps", 5, "--save_every", 1) == 5
    error = capsys.readouterr().err.splitlines()[-1]
    rows = make_session(home).rows["sts"].micro_batches(2, 1, 1)[0].ids
    assert f"found {value} for sts at step 3, rows {', '.join(rows)}" in error
    assert [path.name for path in saved(tmp_path / "checkpoints")] == ["step-000002", "step-000001"]
    assert updates == [1, 2] and not (tmp_path / "metrics.json").exists()


@pytest.mark.fault(20)
@pytest.mark.parametrize("arch", ["v1", "v2", "v3a", "v3b"])
@pytest.mark.parametrize("task", TASKS)
def test_training_that_diverges(home, tmp_path, capsys, arch, task):
    """A rate so large that weights leave the numbers: of binary cross-entropy too, on probabilities."""
    options = (*SINGLE, task, "--arch", arch, "--lr", 1e6, "--warmup", 0, "--max_steps", 20)
    assert train(home, tmp_path, *options) == 5
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"found (nan|inf) for {task} at step \d+, rows {task}-train-\d+, ", error)


@pytest.mark.fault(21, 22)
@pytest.mark.parametrize(
    ("strategy", "where", "message"),
    [
        ("gs", "output", "infinite gradient of para"),
        ("mtl", "output", "infinite gradient"),
        ("gs", "head", "infinite gradient"),  # in what is not shared: surgery is well
    ],
)
def test_an_infinite_gradient_skips_the_step(home, strategy, where, message):
    """Neither a weight nor a moment moves, nor the schedule, which goes on where it was."""
    with tiny_run.loss_by("binary", infinite_gradient({2} if where == "output" else ())):
        session = make_session(home, "--strategy", strategy, "--max_steps", 10, "--log_every", 5)
    bias = session.model.heads["para"].f[1].bias
    bias.register_hook(lambda g: g / 0 if where == "head" and session.state.step == 1 else None)
    (first,) = take_steps(session, 1)
    before, moments = copied(session), {name: v.clone() for name, v in session.tensors()["optimizer"].items()}
    (line,) = take_steps(session, 1)
    assert line["skipped"] == message and not {"lr", "cosine"} & line.keys()
    assert session.state.surgeries == (strategy == "gs")
    assert not moved(before, session.model.state_dict()) and not moved(moments, session.tensors()["optimizer"])
    assert (session.state.step, session.state.updates, session.state.skipped_in_a_row) == (2, 1, 1)
    assert all(parameter.grad is None for parameter in session.model.parameters())
    (third,) = take_steps(session, 1)
    assert (session.state.updates, session.state.skipped_in_a_row) == (2, 0) and "skipped" not in third
    factors = [lr_factor(update, 10, session.warmup_steps) for update in range(2)]
    assert [first["lr"], third["lr"]] == [session.options.lr * factor for factor in factors]
    assert moved(before, session.model.state_dict())


@pytest.mark.fault(21)
def test_twenty_infinite_gradients_in_a_row_end_the_run(home, tmp_path, capsys):
    """Each is in the log, whatever --log_every."""
    with tiny_run.loss_by("classes", infinite_gradient({*range(1, 20), *range(21, 60)})):
        assert train(home, tmp_path, *SINGLE, "sst", "--eval_every", 100, "--lr", 0.01) == 5
    assert "found 20 steps in a row with an infinite gradient, up to step 40" in capsys.readouterr().err
    assert [line["step"] for line in log_lines(tmp_path) if "skipped" in line] == [*range(1, 20), *range(21, 40)]


@pytest.mark.fault(25)
@pytest.mark.parametrize("strategy", ["gs", "mtl"])
def test_out_of_memory_on_the_way_back_lets_go_of_the_graph(home, strategy):
    """So that the next try has its memory, and two parts are enough."""
    first, is_gone = [], []

    def fail(gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("faked")

    def on_the_way_back(number: int, loss: Tensor, y: Tensor) -> Tensor:
        if number == 1:
            first.append(weakref.ref(y))
            loss.register_hook(fail)
        is_gone.append(first[0]() is None)
        return loss

    with tiny_run.loss_by("classes", on_the_way_back):
        session = make_session(home, "--strategy", strategy)
        take_steps(session, 1)
    assert is_gone == [False, True, True] and session.state.parts == 2


@pytest.mark.fault(25)
def test_out_of_memory_with_one_row(home, tmp_path, capsys):
    with tiny_run.loss_by("score", lambda number, loss, y: loss if number < 3 else torch.empty(1 << 60)):
        assert train(home, tmp_path, "--max_steps", 5, "--save_every", 1) == 6
    assert "out of memory" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in saved(tmp_path / "checkpoints")] == ["step-000002", "step-000001"]


@pytest.mark.fault(24)
def test_weights_that_leave_the_numbers_are_never_the_best(home, tmp_path, capsys):
    """In one step, which no further loss shows; or where no score depends on them: nothing is saved of either."""
    assert train(home, tmp_path, "--lr", 1e30, "--max_steps", 1) == 5
    assert "sst: expected finite outputs" in capsys.readouterr().err
    assert contents(tmp_path).keys() == {"config.json", "log.jsonl"}
    assert train(home, tmp_path / "famo", "--strategy", "mtl", "--weigh", "famo", "--lr", 1e30, "--save_every", 1) == 5
    assert "expected a finite loss; found nan for sst after step 1" in capsys.readouterr().err
    session = make_session(home, "--output_dir", tmp_path / "other")
    with (
        before_update(lambda number: session.model.bert.pooler.bias.data.fill_(torch.inf)),
        pytest.raises(DivergedError, match=r"found others in bert\.pooler\.bias at step 1"),
    ):
        take_steps(session, 1)
    assert contents(tmp_path / "other").keys() == {"log.jsonl"}


# ---- faults in data, files and folders -------------------------------------------------------------------------------


@pytest.mark.fault(8, 28)
def test_bad_data_and_models(home, tmp_path, capsys):
    """Data are looked at before the model is loaded, and both before the folder is written to."""
    bert, data = shutil.copytree(home / "bert", tmp_path / "bert"), shutil.copytree(home / "data", tmp_path / "data")
    (bert / "model.safetensors").write_bytes(b"")
    (data / "quora-test-student.csv").unlink()
    assert train(home, tmp_path / "run", "--checkpoint", bert, "--data_dir", data) == 3
    assert "quora-test-student.csv: expected a file" in capsys.readouterr().err
    assert train(home, tmp_path / "run", "--checkpoint", bert) == 4
    assert str(bert) in capsys.readouterr().err.splitlines()[-1] and contents(tmp_path / "run") == {}


@pytest.mark.fault(33, 36, 37)
def test_few_rows_long_texts_and_a_class_that_is_absent(home, tmp_path, capsys):
    """Short batches, no 0 / 0, and heads as wide as the task, not as its rows. Cut and repeated texts are counted."""
    data = shutil.copytree(home / "data", tmp_path / "data")
    for task, labels in {"sst": {0, 2, 4}, "para": {0}}.items():
        path = data / TASKS[task].files["train"]
        header, *rows = path.read_text().splitlines()
        column = header.split("\t").index(TASKS[task].label)
        rows = [row for row in rows if float(row.split("\t")[column]) in labels]
        path.write_text("\n".join([header, *rows[:3]]) + "\n")
    shutil.copy(data / "sts-train.csv", data / "sts-dev.csv")
    for strategy, length in (("gs", 9), ("mtl", 999)):
        out = tmp_path / strategy
        options = ("--data_dir", data, "--strategy", strategy, "--max_steps", 3, "--max_length", length)
        assert train(home, out, *options, "--log_every", 1) == 0
        losses = [loss for line in log_lines(out) for loss in line.get("losses", {}).values()]
        assert len(losses) == 9 and all(loss is not None for loss in losses)
        assert weights(out / "best")["heads.tasks.sst_head.f.4.bias"].shape == (5,)
    splits = [read(TASKS[task], name, data) for task in LEADERBOARD for name in ("train", "dev", "test")]
    texts = [text for split in splits for example in split.examples for text in example.texts]
    lengths = list(map(len, BertTokenizer.from_pretrained(home / "bert").ids(texts, max_length=99)))
    cut, error = sum(length > 9 for length in lengths), capsys.readouterr().err
    assert 0 < cut < len(lengths) and f"texts: up to {max(lengths)} tokens, {cut} cut to 9\n" in error
    assert "0 cut to 131, the most that this BERT takes\n" in error
    assert "dev of sts: sts-dev.csv: texts that are in train of sts: sts-train.csv (17) too;" in error
    assert "it cannot be learnt" in error


@pytest.mark.fault(15)
def test_a_folder_that_holds_a_run(home, run, tmp_path, capsys):
    """Refused; with --overwrite it is moved aside, whole, and whatever else lies in it, once the new run can start."""
    out = shutil.copytree(run, tmp_path / "run")
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    assert train(home, out, *LOGGED) == 2
    assert f"{out} holds a run; take --resume auto" in capsys.readouterr().err and contents(out) == before
    (tmp_path / "other" / "best").mkdir(parents=True)  # of a run, or anybody's
    assert train(home, tmp_path / "other", *LOGGED) == 2
    for code, *words in (
        (2, "--layer", -7),
        (4, "--checkpoint", home / "data"),
        (2, "--amp", "fp16", "--device", "cpu"),
    ):
        assert train(home, out, "--overwrite", "--max_steps", 1, *words) == code
        assert contents(out) == before and not (tmp_path / "run.old").exists()
    for old in ("run.old", "run.old.2"):
        assert train(home, out, *SINGLE, "sts", "--max_steps", 1, "--overwrite") == 0
        assert contents(tmp_path / old) == before and not leftovers(out)
        assert str(tmp_path / old) in capsys.readouterr().err
        before = contents(out)
        assert {line["step"] for line in log_lines(out)} == {1} and "notes.txt" not in before


@pytest.mark.fault(14)
def test_folders_that_cannot_be_written_are_named_before_training(home, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert train(home, tmp_path / "file" / "run") == 7
    assert train(home, tmp_path / "run", "--predictions_dir", tmp_path / "file") == 7
    assert str(tmp_path / "file") in capsys.readouterr().err
    weights = 4 * sum(weight.numel() for weight in BertModel(CONFIG).parameters())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 11 * weights - 1))
    assert train(home, tmp_path / "other") == 7
    assert "MB of free space; found" in capsys.readouterr().err


@pytest.mark.fault(16)
def test_dry_run(home, run, tmp_path, capsys, monkeypatch):
    """It leaves nothing, yet takes two steps and writes a checkpoint, on the disk of the run's folder; and it refuses
    what the run would refuse."""
    done = []
    with before_update(done.append):
        assert train(home, tmp_path / "runs" / "run", "--dry_run") == 0
    streams = capsys.readouterr()
    assert done == [1, 2] and not list(tmp_path.iterdir()) and streams.out == ""
    assert "rows a step" in streams.err and re.search(r"time: about [0-9.]+ (seconds|minutes)", streams.err)
    assert "not of step" not in streams.err
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save", lambda *args, **named: os.open(tmp_path / "nowhere", os.O_RDONLY))
        assert train(home, tmp_path / "runs" / "run", "--dry_run") == 7
    before = contents(run)
    assert train(home, run, *LOGGED, "--dry_run") == 2
    assert train(home, run, *LOGGED, "--dry_run", "--resume", "auto", "--seed", 3) == 2
    assert "--seed was 0, is 3" in capsys.readouterr().err
    assert train(home, run, *LOGGED, "--dry_run", "--overwrite") == 0
    longer = ("--max_steps", 9, "--allow_change", "max_steps")
    assert train(home, run, *LOGGED, *longer, "--dry_run", "--resume", "auto") == 0
    assert contents(run) == before and not leftovers(run) and not list(tmp_path.iterdir())
    with lock(run):
        assert train(home, run, *LOGGED, "--overwrite", "--debug") == 2
    streams = capsys.readouterr()
    assert f"in use by process {os.getpid()}" in streams.err and "Traceback" in streams.err and contents(run) == before
