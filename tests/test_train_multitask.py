"""train_multitask.py: what each option does, what a run leaves, the arithmetic of a step, and what a fault leads to."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import CONFIG, make_bert_folder, make_data_folder
from tiny_run import command, contents, log_lines, make_run, outcome, train, workshop

import train_multitask
from bert import BertModel
from data.reader import read
from data.tasks import TASKS, file_name
from heads.multitask import MultitaskBert, TaskBatch
from optim.schedule import lr_factor
from training.checkpoint import saved
from training.errors import DivergedError, run_cli
from training.files import lock
from training.run import MIN_STEPS, Run
from training.seeds import generator, seeded

METRICS = ["sst_acc", "sst_f1", "para_acc", "para_f1", "sts_pearson", "sts_em", "average", "overall_2024"]
ALL = ("sst", "para", "sts")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    with workshop(tmp_path_factory.mktemp("home")) as home:
        yield home


LOGGED = ("--max_steps", 6, "--eval_every", 3, "--log_every", 2, "--lr", 0.01)


@pytest.fixture(scope="module")
def run(home) -> Path:
    """A finished run of six steps, all three tasks, gradient surgery."""
    assert train(home, home / "run", *LOGGED) == 0
    return home / "run"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors") | load_file(folder / "heads.safetensors")


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The names of the tensors that differ in any bit."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---- what a run leaves -----------------------------------------------------------------------------------------------


def test_the_folder_holds_these_files_and_no_others(run):
    tensors = ["model", "heads", "optimizer", "triplets"]
    checkpoint = ["MANIFEST.json", "state.json", *(f"{name}.safetensors" for name in tensors)]
    steps = {path.name for path in saved(run / "checkpoints")}
    assert contents(run).keys() == {
        *("config.json", "log.jsonl", "metrics.json"),
        *(f"checkpoints/{step}/{name}" for step in steps for name in checkpoint),
        *("best/config.json", "best/model.safetensors", "best/heads.json", "best/heads.safetensors"),
        *("best/tokenizer.json", "best/tokenizer_config.json", "best/vocab.txt"),
        *("best/modules.json", "best/sentence_bert_config.json", "best/1_Pooling/config.json", "best/step.json"),
        *(f"predictions/{task}-{split}-output.csv" for task in TASKS for split in ("dev", "test")),
    }
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    assert steps == {"step-000003", "step-000006"}  # the newest and the one before


def test_config_json_tells_all_that_it_takes(home, run):
    config = json.loads((run / "config.json").read_text())
    options = {action.dest for action in train_multitask.build_parser()._actions} - {"help"}
    assert options <= config.keys()
    assert config["epochs"] * 4 >= MIN_STEPS > (config["epochs"] - 1) * 4  # settled: 4 steps an epoch
    assert config["data_dir"] == str((home / "data").resolve())
    assert config["heads"]["arch"] == "v3a" and config["versions"]["torch"] == torch.__version__
    names = [file_name(task, split) for task in TASKS for split in ("train", "dev")]
    assert config["data"] == {n: hashlib.sha256((home / "data" / n).read_bytes()).hexdigest() for n in names}


def test_the_log(run):
    lines = log_lines(run)
    steps = [line for line in lines if "losses" in line]
    evaluations = [line for line in lines if "dev" in line]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 6]
    assert len(steps) == 3 and len(evaluations) == 2
    for line in steps:
        assert line.keys() == {"step", "losses", "cosine", "lr", "grad_norm"}
        assert list(line["losses"]) == list(ALL) and all(loss > 0 for loss in line["losses"].values())
        assert list(line["cosine"]) == ["sst-para", "sst-sts", "para-sts"]
        assert all(-1 <= cosine <= 1 for cosine in line["cosine"].values())
    assert all(list(line["dev"]) == METRICS for line in evaluations)
    undefined = [{name for name, value in line["dev"].items() if value is None} for line in evaluations]
    assert [line["undefined"].keys() for line in evaluations] == undefined
    seconds = [json.loads(line)["seconds"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)


def test_metrics_are_those_of_the_prediction_files(home, run):
    """By other means: the files' text, arithmetic, NumPy."""
    found = json.loads((run / "metrics.json").read_text())
    pairs = {}
    for task in TASKS:
        lines = (run / "predictions" / f"{task}-dev-output.csv").read_text().splitlines()[1:]
        told = dict(line.removesuffix(" ").split(" , ") for line in lines)
        examples = read(task, "dev", home / "data").examples
        assert list(told) == [example.id for example in examples]
        pairs[task] = np.array([(float(told[e.id]), e.label) for e in examples if e.label is not None]).T
    sst, para = (np.mean(predicted == gold) for predicted, gold in (pairs["sst"], pairs["para"]))
    r = np.corrcoef(*pairs["sts"])[0, 1]
    assert list(found["dev"]) == METRICS
    assert found["dev"]["sst_acc"] == pytest.approx(sst, rel=1e-12)
    assert found["dev"]["para_acc"] == pytest.approx(para, rel=1e-12)
    assert found["dev"]["sts_pearson"] == pytest.approx(r, rel=1e-9)
    assert found["dev"]["average"] == pytest.approx((sst + para + r) / 3, rel=1e-9)
    assert found["dev"]["overall_2024"] == pytest.approx((sst + para + (r + 1) / 2) / 3, rel=1e-9)
    assert found["data"] == str(home / "data")
    assert found["conflicts"].keys() == {"sst-para", "sst-sts", "para-sts"}
    assert all(share * 6 == round(share * 6) and 0 <= share <= 1 for share in found["conflicts"].values())
    assert found["undefined"].keys() == {name for name, value in found["dev"].items() if value is None}


ROWS = {
    "sst": ("id \t Predicted_Sentiment \n", r"sst-(dev|test)-\d+ , [0-4] \n"),
    "para": ("id \t Predicted_Is_Paraphrase \n", r"para-(dev|test)-\d+ , [01]\.0 \n"),
    "sts": ("id \t Predicted_Similiary \n", r"sts-(dev|test)-\d+ , \d\.\d+(e-\d+)? \n"),
}


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("task", ALL)
def test_prediction_files(home, run, task, split):
    """To the byte. Among the rows: one without a label, para-dev-1; one without a sentence, para-dev-2, sst-test-0."""
    text = (run / "predictions" / f"{task}-{split}-output.csv").read_bytes().decode()
    header, row = ROWS[task]
    assert re.fullmatch(re.escape(header) + f"({row})+", text)
    ids = [line.split(" , ")[0] for line in text.split("\n")[1:-1]]
    given = (home / "data" / file_name(task, split)).read_text().splitlines()
    column = given[0].split("\t").index("id")
    assert ids == [line.split("\t")[column] for line in given[1:]]


def test_the_best_model_makes_the_same_predictions(home, run):
    """best/ is the model of the best evaluation, whole, with its heads."""
    model = MultitaskBert.from_pretrained(run / "best")
    for task in TASKS:
        examples = read(task, "test", home / "data").examples
        predicted = model.predict(task, *(list(side) for side in zip(*(e.texts for e in examples), strict=True)))
        lines = (run / "predictions" / f"{task}-test-output.csv").read_text().splitlines()[1:]
        assert [float(line.split(" , ")[1]) for line in lines] == predicted.tolist()
    metrics = json.loads((run / "metrics.json").read_text())
    dev = {line["step"]: line["dev"] for line in log_lines(run) if "dev" in line}
    mean = {step: m["sst_acc"] + m["para_acc"] + m["sts_pearson"] for step, m in dev.items()}
    assert metrics["step"] == max(mean, key=mean.get)
    assert metrics["dev"] == dev[metrics["step"]]


def test_results_on_stdout_and_the_rest_on_stderr(home, tmp_path):
    """A process of its own, in another folder than the program's; a relative --output_dir is relative to that."""
    program = Path(train_multitask.__file__)
    options = command(home, "--strategy", "single", "--tasks", "sst", "--max_steps", 1)
    result = subprocess.run(
        [sys.executable, program, *options], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    out = tmp_path / "runs" / "finetune-single-sst"
    metrics = json.loads((out / "metrics.json").read_text())
    table = [f"  {name:<14}{value:.4f}" for name, value in metrics["dev"].items() if value is not None]
    assert result.stdout.splitlines()[0] == f"dev of {home / 'data'}, weights of step {metrics['step']}:"
    assert set(table) <= set(result.stdout.splitlines()) and len(result.stdout.splitlines()) == 1 + len(METRICS)
    assert "warning: " in result.stderr and "step 1/1" in result.stderr and "finetune, single on sst" in result.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]


# ---- the same again --------------------------------------------------------------------------------------------------


@pytest.mark.fault(27)
def test_same_seed_same_run_and_no_generator_is_touched(home, run, tmp_path):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert train(home, tmp_path / "again", *LOGGED) == 0
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert outcome(tmp_path / "again") == outcome(run)


def test_another_seed_another_run(home, run, tmp_path):
    assert train(home, tmp_path / "other", *LOGGED, "--seed", 1) == 0
    mine, other = outcome(run), outcome(tmp_path / "other")
    assert mine["tensors"]["model.safetensors"] != other["tensors"]["model.safetensors"]
    assert mine["log"] != other["log"]
    assert mine["predictions"]["sts-dev-output.csv"] != other["predictions"]["sts-dev-output.csv"]


# ---- strategies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "tasks"),
    [("single", ("sst",)), ("single", ("para",)), ("single", ("sts",))]
    + [(strategy, tasks) for strategy in ("mtl", "gs") for tasks in (("para", "sts"), ALL)],
)
def test_strategies(home, tmp_path, capsys, strategy, tasks):
    """Which losses there are, which weights move, and that all six files come whatever was trained."""
    options = ("--strategy", strategy, "--tasks", ",".join(tasks), "--log-every", 1)
    assert train(home, tmp_path / "run", *options, "--max-steps", 2) == 0
    lines = [line for line in log_lines(tmp_path / "run") if "losses" in line]
    assert [list(line["losses"]) for line in lines] == 2 * [list(tasks)]
    pairs = [f"{a}-{b}" for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    assert [list(line.get("cosine", {})) for line in lines] == 2 * [pairs if strategy == "gs" else []]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics["dev"]) == METRICS and list(metrics["conflicts"]) == (pairs if strategy == "gs" else [])
    assert len(contents(tmp_path / "run" / "predictions")) == 6

    newest = load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "heads.safetensors")
    heads = moved(make_run(home, *options).model.head_state(), newest)
    assert {name.split(".")[1] for name in heads} == {"shared_mlp", *(f"{task}_head" for task in tasks)}
    assert ", ".join(tasks) + "; data: " in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--strategy", "gs"), ("--strategy", "mtl", "--arch", "v2", "--pooling", "cnn")])
def test_pretrain_moves_what_stands_on_bert_alone(home, tmp_path, monkeypatch, options):
    modes = []
    step = train_multitask.train_step
    monkeypatch.setattr(train_multitask, "train_step", lambda run: [step(run), modes.append(run.model)][0])
    assert train(home, tmp_path, "--option", "pretrain", *options, "--max_steps", 2, "--lr", 0.1) == 0
    found = load_file(tmp_path / "checkpoints" / "step-000002" / "model.safetensors")
    source = make_run(home).model.bert.state_dict()
    assert moved({f"bert.{name}": value for name, value in source.items()}, found) == set()
    heads = load_file(tmp_path / "checkpoints" / "step-000002" / "heads.safetensors")
    assert len(moved(make_run(home, *options).model.head_state(), heads)) == len(heads)
    assert not modes[0].bert.training and modes[0].heads.training  # BERT's own dropout would only add noise


def test_surgery_on_nothing_is_refused(home, tmp_path, capsys):
    assert train(home, tmp_path / "run", "--option", "pretrain", "--strategy", "gs", "--arch", "v2") == 2
    assert "v2 trains nothing that tasks share; take mtl" in capsys.readouterr().err


# ---- every option does something -------------------------------------------------------------------------------------

BASE = ("--max_steps", 8)
SEEN_IN_TWO_STEPS = [
    *("--option pretrain", "--strategy mtl", "--tasks sst,sts"),
    *("--checkpoint {home}/bert-1", "--data_dir {home}/data-1"),
    *("--init_from {home}/run --pooling mean", "--arch v1", "--arch v2", "--arch v3b", "--layer -2", "--seed 3"),
    *("--pooling cls", "--pooling attention_mean", "--pooling cnn", "--hidden_dropout_prob 0.1", "--max_length 5"),
    *("--epochs 1", "--max_steps 5", "--batch_size 7", "--batch_size sts=5", "--grad_accum 2", "--lr 2e-4"),
    *("--warmup 0.5", "--weight_decay 0.3", "--max_grad_norm 0.1", "--loss_scale sst=1,para=1,sts=4"),
    *("--para_loss bce", "--sts_gamma 0.9", "--cosine_margin 0.7", "--triplet_margin 0.1"),
]
SEEN_BELOW = [
    *("device", "amp", "deterministic", "patience", "eval_every", "save_every", "log_every", "predictions_dir"),
    *("output_dir", "overwrite", "dry_run", "debug"),
    *("resume", "allow_change"),  # in test_run.py
]


def two_steps(home: Path, *options: object) -> tuple[list[dict], dict]:
    run = make_run(home, *BASE, *options)
    losses = [train_multitask.train_step(run)["losses"] for _ in range(2)]
    return losses, {name: value.clone() for name, value in run.model.state_dict().items()}


@pytest.fixture(scope="module")
def usual(home, run):
    make_bert_folder(home / "bert-1", seed=1)
    make_data_folder(home / "data-1", seed=1)
    return two_steps(home)


@pytest.mark.parametrize("option", SEEN_IN_TWO_STEPS)
def test_an_option_shows_in_two_steps(home, usual, option):
    losses, after = two_steps(home, *option.format(home=home).split())
    assert losses != usual[0] or moved(usual[1], after)


def test_no_option_is_forgotten_here():
    options = {action.dest for action in train_multitask.build_parser()._actions} - {"help"}
    assert options == {option.split()[0].lstrip("-") for option in SEEN_IN_TWO_STEPS} | set(SEEN_BELOW)


def test_hyphens_and_underscores_are_alike(home, usual):
    losses, after = two_steps(home, "--hidden-dropout-prob", 0.3, "--grad-accum", "1", "--max-steps=8")
    assert losses == usual[0] and not moved(usual[1], after)
    assert two_steps(home, "--grad-accum", 2)[0] == two_steps(home, "--grad_accum", 2)[0] != losses


@pytest.mark.parametrize("arch", ["v1", "v2", "v3a", "v3b"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "attention_mean", "cnn"])
def test_every_architecture_on_every_pooling(home, capsys, arch, pooling):
    """With layer -2 too, under which nothing above that layer is trained. v1 is defined on cls alone."""
    options = ("--arch", arch, "--pooling", pooling, "--layer", -2)
    if arch == "v1" and pooling != "cls":
        assert run_cli(train_multitask.main, command(home, *options)) == 2
        assert "--pooling: architecture v1 stands on cls" in capsys.readouterr().err
        return
    run = make_run(home, *options)
    assert (run.model.config.arch, run.model.config.pooling, run.model.config.layer) == (arch, pooling, -2)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    train_multitask.train_step(run)
    changed = moved(before, run.model.state_dict())
    assert not [name for name in changed if name.startswith(("bert.layers.1.", "bert.pooler."))]
    assert [name for name in changed if name.startswith("bert.layers.0.")]
    assert ("cnn.conv.weight" in changed) == (pooling == "cnn")
    assert "heads.sst_head.4.weight" in changed


def test_loss_scale_multiplies_the_gradient_and_leaves_the_loss(home):
    single = ("--strategy", "single", "--tasks", "sts")
    plain = train_multitask.train_step(make_run(home, *single))
    scaled = train_multitask.train_step(make_run(home, *single, "--loss_scale", "sts=4"))
    assert scaled["losses"] == plain["losses"]
    assert scaled["grad_norm"] == pytest.approx(4 * plain["grad_norm"], rel=1e-5)


def test_loss_scale_and_batch_size_by_task_or_for_all(home):
    run = make_run(home, "--loss_scale", "sts=4", "--batch_size", "sst=3,para=5")
    assert run.args.loss_scale == {"sst": 1, "para": 1, "sts": 4}
    first = {task: rows.micro_batches(0, 1)[0] for task, rows in run.sets.items()}
    assert (len(first["sst"].ids), len(first["para"].ids)) == (3, 5)
    assert make_run(home, "--loss_scale", 2).args.loss_scale == {"sst": 2, "para": 2, "sts": 2}


def test_an_epoch_is_a_pass_over_the_longest_task(home):
    """31 rows of para are four batches of eight: two steps of two batches."""
    run = make_run(home, "--epochs", 3, "--grad_accum", 2, "--strategy", "mtl")
    assert (run.steps_an_epoch, run.total_steps) == (2, 6)
    asked = []
    for rows in run.sets.values():
        batch = rows.batch
        rows.batch = lambda position, batch=batch: asked.append(batch(position).ids) or batch(position)
    for _ in range(2):
        train_multitask.train_step(run)
    para = sorted(name for ids in asked for name in ids if name.startswith("para"))
    assert para == sorted(f"para-train-{row}" for row in range(31))
    assert make_run(home, "--epochs", 3, "--max_steps", 5).total_steps == 5
    assert make_run(home, "--epochs", 3, "--max_steps", 50).total_steps == 12
    assert MIN_STEPS <= make_run(home).total_steps < MIN_STEPS + 4


def test_the_learning_rate_of_each_step(home):
    run = make_run(home, "--strategy", "single", "--tasks", "sst", "--max_steps", 5, "--warmup", 0.4, "--lr", 0.06)
    found = [train_multitask.train_step(run)["lr"] for _ in range(5)]
    assert found == pytest.approx([0.02, 0.04, 0.06, 0.04, 0.02], rel=1e-12)
    assert run.finished


def test_eval_save_and_log_every(home, tmp_path, monkeypatch):
    saves, save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda run, **named: saves.append(run.state.step) or save(run, **named))
    options = ("--strategy", "single", "--tasks", "sts", "--max_steps", 11)
    assert train(home, tmp_path, *options, "--eval_every", 5, "--save_every", 3, "--log_every", 4) == 0
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines if "dev" in line] == [5, 10, 11]
    assert [line["step"] for line in lines if "losses" in line] == [4, 8, 11]
    assert saves == [3, 5, 6, 9, 10, 11]


SCORES = [0.1, 0.4, 0.4, 0.3, None, 0.5]  # at steps 1, 2, ...


@pytest.mark.parametrize(("patience", "steps", "best"), [(0, 6, 6), (2, 4, 2), (3, 5, 2)])
def test_patience(home, tmp_path, monkeypatch, patience, steps, best):
    """An equal score is no better one; an undefined one is neither better nor ever the best."""
    scores = iter(SCORES)
    monkeypatch.setattr(train_multitask, "score", lambda metrics, tasks: next(scores))
    options = ("--strategy", "single", "--tasks", "sst", "--max_steps", 6, "--eval_every", 1, "--log_every", 1)
    assert train(home, tmp_path, *options, "--patience", patience) == 0
    assert log_lines(tmp_path)[-1]["step"] == steps
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == best
    kept = load_file(tmp_path / "checkpoints" / f"step-{best:06d}" / "heads.safetensors")
    assert not moved(kept, load_file(tmp_path / "best" / "heads.safetensors"))


@pytest.mark.fault(24)
def test_a_run_without_any_defined_score(home, tmp_path, monkeypatch):
    """null with the reason; the last weights count, for there is nothing to choose by."""
    predict = MultitaskBert.predict
    monkeypatch.setattr(MultitaskBert, "predict", lambda *args, **options: 0 * predict(*args, **options))
    options = ("--strategy", "single", "--tasks", "sts", "--max_steps", 2, "--eval_every", 1)
    assert train(home, tmp_path, *options) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["step"] == 2
    assert metrics["dev"]["sts_pearson"] is metrics["dev"]["average"] is metrics["dev"]["overall_2024"] is None
    assert metrics["undefined"]["sts_pearson"] == "the predictions or the labels are all the same"
    assert [line["undefined"] for line in log_lines(tmp_path) if "dev" in line] == 2 * [metrics["undefined"]]
    last = load_file(tmp_path / "checkpoints" / "step-000002" / "heads.safetensors")
    assert not moved(last, load_file(tmp_path / "best" / "heads.safetensors"))


def test_predictions_dir(home, tmp_path):
    options = ("--strategy", "single", "--tasks", "sst", "--max_steps", 1)
    assert train(home, tmp_path / "run", *options, "--predictions_dir", tmp_path / "a" / "b") == 0
    assert len(contents(tmp_path / "a" / "b")) == 6
    assert not (tmp_path / "run" / "predictions").exists()


def test_init_from_starts_with_that_run_s_weights(home, run, tmp_path, capsys):
    """Its architecture too, without being told; another one is refused."""
    assert not moved(weights(run / "best"), weights_of(make_run(home, "--init_from", run)))
    assert not moved(weights(run / "best"), weights_of(make_run(home, "--init_from", run / "best")))
    options = ("--strategy", "mtl", "--arch", "v2", "--pooling", "cnn", "--layer", -2, "--max_steps", 1)
    assert train(home, tmp_path / "first", *options) == 0
    config = make_run(home, "--init_from", tmp_path / "first", "--hidden_dropout_prob", 0.3).model.config
    assert (config.arch, config.pooling, config.layer, config.hidden_dropout_prob) == ("v2", "cnn", -2, 0.3)
    capsys.readouterr()
    for source, options, told in (
        (run, ("--arch", "v3b"), "--arch: "),
        (run, ("--pooling", "cls"), "--pooling: "),
        (tmp_path / "nowhere", (), "--init_from: expected a run's folder"),
        (home / "bert", (), "holds no best/heads.json"),
    ):
        assert train(home, tmp_path / "run", "--init_from", source, *options) == 2
        assert told in capsys.readouterr().err


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    """By the names of a folder's files."""
    with tempfile.TemporaryDirectory() as folder:
        run.model.save(folder)
        return weights(Path(folder))


def test_amp_auto_takes_what_the_hardware_computes_in(home, monkeypatch):
    assert make_run(home).amp == "off"
    monkeypatch.setattr("training.precision.computes_bf16", lambda device: True)  # slow where emulated, but it computes
    run = make_run(home, "--amp", "auto", "--device", "cpu")
    assert run.amp == "bf16"
    found, exact = (train_multitask.train_step(one)["losses"] for one in (run, make_run(home)))
    assert found != exact and found == pytest.approx(exact, rel=0.05, abs=0.05)  # bfloat16: eight bits
    assert all(value.dtype == torch.float32 for value in run.model.state_dict().values())


@pytest.mark.fault(26)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_or_precision_that_is_not_there(home, run, tmp_path, capsys):
    assert train(home, tmp_path, "--device", "cuda") == 8
    assert "take --device cpu" in capsys.readouterr().err
    assert train(home, tmp_path, "--amp", "fp16") == 2
    assert "take auto" in capsys.readouterr().err


def test_deterministic(home, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    found = []
    note = lambda *args: found.append(torch.are_deterministic_algorithms_enabled())  # noqa: E731
    monkeypatch.setattr(train_multitask, "run_in_folder", note)
    try:
        assert train(home, tmp_path) == train(home, tmp_path, "--deterministic") == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == [False, True]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # without it every product on a GPU would be refused


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as exit:
        run_cli(train_multitask.main, ["--help"])
    assert exit.value.code == 0
    told = capsys.readouterr().out
    assert all(f"--{name}" in told for name in vars(train_multitask.build_parser().parse_args([])))


# ---- the arithmetic of a step ----------------------------------------------------------------------------------------


def gradients(run: Run, step: int) -> tuple[dict[str, torch.Tensor], dict]:
    """Every parameter's gradient at a step, not clipped, and the log's line; no weight moves."""
    found = {}

    def note(run: Run, norm: float | None, infinite: list[str]) -> dict:
        found.update(copied_gradients(run))
        run.optimizer.zero_grad()
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_multitask, "update", note)
        patch.setattr(run.args, "max_grad_norm", math.inf)
        run.state.step = step
        run.previous.vectors = torch.randn(53, CONFIG.hidden_size, generator=torch.Generator().manual_seed(step))
        line = train_multitask.train_step(run)
    return found, line


def copied_gradients(run: Run) -> dict[str, torch.Tensor]:
    return {name: p.grad.to_dense().clone() for name, p in run.model.named_parameters() if p.grad is not None}


def find_step(run: Run, fits) -> int:
    """The first step whose cosines fit."""
    return next(step for step in range(100) if fits(gradients(run, step)[1]["cosine"].values()))


def test_surgery_without_conflict_is_the_plain_sum(home):
    gs = make_run(home, "--strategy", "gs")
    step = find_step(gs, lambda cosines: min(cosines) > 0)
    operated, line = gradients(gs, step)
    plain, other = gradients(make_run(home, "--strategy", "mtl"), step)
    assert line["losses"] == other["losses"]
    assert operated.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(operated[name], plain[name], rtol=1e-5, atol=1e-6)


def test_surgery_with_conflict_is_pcgrad_on_what_is_shared(home):
    """Two tasks, the closed form from each one's own gradient: g - (g . h) / |h|^2 h on either side. No dropout."""
    tasks = ("para", "sts")
    gs = make_run(home, "--strategy", "gs", "--tasks", ",".join(tasks))
    alone = [make_run(home, "--strategy", "single", "--tasks", task) for task in tasks]
    for run in (gs, *alone):
        run.model.eval()
    step = find_step(gs, lambda cosines: min(cosines) < -0.1)
    operated, line = gradients(gs, step)
    by_task = [gradients(run, step)[0] for run in alone]
    shared = sorted(by_task[0].keys() & by_task[1].keys())
    assert {name.split(".")[1] for name in shared if name.startswith("heads.")} == {"shared_mlp"}
    g, h = (torch.cat([own[name].flatten().double() for name in shared]) for own in by_task)
    expected = g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g
    found = torch.cat([operated[name].flatten().double() for name in shared])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())  # float32 inside
    assert line["cosine"]["para-sts"] == pytest.approx((g @ h / g.norm() / h.norm()).item(), rel=1e-5)
    for own, head in zip(by_task, ("heads.para_head", "heads.sts_head"), strict=True):
        names = [name for name in own if name.startswith(head)]
        assert len(names) == 4
        for name in names:
            torch.testing.assert_close(operated[name], own[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--arch", "v2", "--pooling", "cnn", "--grad_accum", 2),
        ("--pooling", "attention_mean", "--layer", -2, "--loss_scale", "sts=3"),
        ("--option", "pretrain"),
    ],
)
def test_one_backward_pass_is_each_tasks_own(home, options):
    """float64, with dropout and triplets, batches cut in three: against autograd on each task alone, same pass."""
    run = make_run(home, *options)
    run.model.double()
    run.state.parts = 3
    for rows in run.sets.values():
        rows.batch = lambda numbers, batch=rows.batch: in_float64(batch(numbers))
    vectors = torch.randn(53, CONFIG.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    run.previous.vectors = vectors
    train_multitask.backward(run)
    found = run.gradients
    heads = copied_gradients(run)
    run.optimizer.zero_grad()
    run.previous.forget_step()

    shared, head = found.shared, [p for name, p in run.model.named_parameters() if name in heads]
    expected = {task: [torch.zeros(p.shape, dtype=torch.float64) for p in shared] for task in run.sets}
    plain = [torch.zeros_like(p) for p in head]
    negatives = generator(0, "negatives", 0)
    for micro, (batches, shares) in enumerate(run.micro_batches(0)):
        with seeded(0, "dropout", 0, micro):
            losses = run.model.losses(batches, run.settings, run.previous, negatives)
        for task, loss in losses.items():
            loss = loss * (shares[task] * run.args.loss_scale[task])
            own = torch.autograd.grad(loss, [*shared, *head], retain_graph=True, allow_unused=True)
            for total, gradient in zip([*expected[task], *plain], own, strict=True):
                if gradient is not None:
                    total += gradient.to_dense()
    for task, gradients in expected.items():
        for gradient, row in zip(gradients, found.rows[task], strict=True):
            row = torch.zeros_like(gradient) if row is None else row.to_dense()
            torch.testing.assert_close(row, gradient, rtol=1e-12, atol=1e-12)
    for gradient, total in zip(heads.values(), plain, strict=True):
        torch.testing.assert_close(gradient, total, rtol=1e-12, atol=1e-12)
    assert micro == 3 * run.args.grad_accum - 1 and sum(p.abs().sum() for p in plain) > 0


def in_float64(batch: TaskBatch) -> TaskBatch:
    return batch if batch.labels.dtype == torch.int64 else replace(batch, labels=batch.labels.double())


@pytest.mark.parametrize("strategy", ["mtl", "gs"])
def test_four_small_batches_make_one_large(home, strategy):
    """The same rows in one batch, with triplets; sst's and para's have seven rows among eights. No dropout."""
    small = make_run(home, "--strategy", strategy, "--grad_accum", 4, "--batch_size", 8)
    large = make_run(home, "--strategy", strategy, "--batch_size", 32)
    for run in (small, large):
        run.model.eval()
    for task, rows in large.sets.items():
        rows.stream = [[row for position in range(4) for row in small.sets[task].stream[position]]]
    (found, line), (expected, other) = gradients(small, 0), gradients(large, 0)
    assert found.keys() == expected.keys()
    assert line["losses"] == pytest.approx(other["losses"], rel=1e-5)
    for name in expected:  # other sums of float32, whose rounding shows in what cancels out, as for the keys' biases
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
    stores = [run.previous.vectors[run.previous.vectors[:, 0].argsort()] for run in (small, large)]
    assert len(stores[0]) == 2 * 31  # both sentences of every row, for the next step's triplets
    torch.testing.assert_close(*stores, rtol=1e-4, atol=1e-5)


def test_every_draw_has_a_seed_of_its_own(home, monkeypatch):
    """Dropout for each step and micro-batch; the order of surgery and the triplets' negatives for each step."""
    asked = []
    for name in ("seeded", "generator"):
        original = getattr(train_multitask, name)
        note = lambda *args, original=original: asked.append(args) or original(*args)  # noqa: E731
        monkeypatch.setattr(train_multitask, name, note)
    run = make_run(home, "--grad_accum", 3, "--seed", 7)
    for _ in range(2):
        train_multitask.train_step(run)
    assert len(asked) == len(set(asked)) and {seed for seed, *_ in asked} == {7}
    purposes = [purpose for _, purpose, *_ in asked]
    assert {purpose: purposes.count(purpose) for purpose in purposes} == {"dropout": 6, "surgery": 2, "negatives": 2}


def test_clipping_comes_after_surgery(home, monkeypatch):
    options = ("--strategy", "gs", "--max_grad_norm", 0.01)
    run = make_run(home, *options)
    whole, _ = gradients(run, 0)
    norm = torch.stack([g.norm() for g in whole.values()]).norm().item()
    run = make_run(home, *options)
    run.previous.vectors = torch.randn(53, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    clipped = {}
    monkeypatch.setattr(run.optimizer, "step", lambda: clipped.update(copied_gradients(run)))
    line = train_multitask.train_step(run)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert torch.stack([g.norm() for g in clipped.values()]).norm().item() == pytest.approx(0.01, rel=1e-4)
    for name in whole:
        torch.testing.assert_close(clipped[name] * norm / 0.01, whole[name], rtol=1e-3, atol=1e-5)  # torch adds 1e-6


# ---- faults in the numbers -------------------------------------------------------------------------------------------


def spoil(monkeypatch, task: str, steps, how) -> None:
    """At these steps, counted from 1, the task's loss is `how(model, loss)`."""
    step, losses, now = train_multitask.train_step, MultitaskBert.losses, []

    def train_step(run: Run) -> dict:
        now[:] = [run.state.step + 1]
        return step(run)

    def spoiled(model: MultitaskBert, *rest) -> dict[str, torch.Tensor]:
        found = losses(model, *rest)
        return found | {task: how(model, found[task])} if now and now[0] in steps else found

    monkeypatch.setattr(train_multitask, "train_step", train_step)
    monkeypatch.setattr(MultitaskBert, "losses", spoiled)


def infinite_in(pick):
    """The loss as it is, with an infinite gradient in one element: the root's slope at 0."""

    def how(model: MultitaskBert, loss: torch.Tensor) -> torch.Tensor:
        x = pick(model, loss).flatten()[0]
        return loss + (x - x.detach()).sqrt()

    return how


def in_all(model: MultitaskBert, loss: torch.Tensor) -> torch.Tensor:
    return loss


@pytest.mark.fault(20)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(home, tmp_path, capsys, monkeypatch, value):
    spoil(monkeypatch, "sts", {3}, lambda model, loss: loss * value)
    assert train(home, tmp_path, "--max_steps", 5, "--save_every", 1) == 5
    error = capsys.readouterr().err.splitlines()[-1]
    rows = make_run(home).sets["sts"].micro_batches(2, 1)[0].ids
    assert f"found {value} for sts at step 3, rows {', '.join(rows)}" in error
    assert [path.name for path in saved(tmp_path / "checkpoints")] == ["step-000002", "step-000001"]
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.fault(20)
def test_a_loss_that_is_no_number_moves_no_weight(home, monkeypatch):
    run = make_run(home)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    spoil(monkeypatch, "sts", {1}, lambda model, loss: loss * float("nan"))
    with pytest.raises(DivergedError):
        train_multitask.train_step(run)
    assert not moved(before, run.model.state_dict()) and run.state.updates == 0


@pytest.mark.fault(21, 22)
@pytest.mark.parametrize(
    ("strategy", "pick", "told"),
    [
        ("gs", in_all, "infinite gradient of para"),
        ("mtl", in_all, "infinite gradient"),
        ("gs", lambda model, _: model.heads.para_head[1].bias, "infinite gradient"),  # not shared: surgery is well
    ],
)
def test_an_infinite_gradient_skips_the_step(home, monkeypatch, strategy, pick, told):
    """Neither a weight nor a moment moves, nor the schedule, which goes on where it was."""
    run = make_run(home, "--strategy", strategy, "--max_steps", 10)
    spoil(monkeypatch, "para", {2}, infinite_in(pick))
    first = train_multitask.train_step(run)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    moments = {name: value.clone() for name, value in run.tensors()["optimizer"].items()}
    line = train_multitask.train_step(run)
    assert line["skipped"] == told and "lr" not in line
    assert not moved(before, run.model.state_dict()) and not moved(moments, run.tensors()["optimizer"])
    assert (run.state.step, run.state.updates, run.state.skipped_in_a_row) == (2, 1, 1)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    third = train_multitask.train_step(run)
    assert (run.state.updates, run.state.skipped_in_a_row) == (2, 0) and "skipped" not in third
    factors = [lr_factor(update, 10, run.warmup_steps) for update in range(2)]
    assert [first["lr"], third["lr"]] == [run.args.lr * factor for factor in factors]
    assert moved(before, run.model.state_dict())


@pytest.mark.fault(21)
@pytest.mark.parametrize(("strategy", "exponent"), [("gs", 70), ("mtl", 127)])  # surgery squares the gradients
def test_a_loss_scaled_too_high_skips_steps_and_is_halved(home, strategy, exponent):
    """torch's own GradScaler, on the CPU in float32. It changes no step that is made: powers of two cost no digit."""
    options = ("--strategy", strategy, "--max_steps", 10, "--para_loss", "bce")  # no triplets: nothing else is carried
    run, plain = (make_run(home, *options) for _ in range(2))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**exponent)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    skipped = 0
    while "skipped" in train_multitask.train_step(run):
        skipped += 1
        assert not moved(before, run.model.state_dict()) and run.tensors()["optimizer"] == {}
        assert run.scaler.get_scale() == 2.0 ** (exponent - skipped)
    assert 0 < skipped < 20 and (run.state.step, run.state.updates) == (skipped + 1, 1)
    plain.state.step = skipped
    train_multitask.train_step(plain)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_a_skipped_step_is_in_the_log_whatever_log_every(home, tmp_path, monkeypatch):
    spoil(monkeypatch, "para", {2}, infinite_in(in_all))
    assert train(home, tmp_path, "--max_steps", 3, "--tasks", "para,sts") == 0
    first = log_lines(tmp_path)[0]
    assert (first["step"], first["skipped"], first["infinite"]) == (2, "infinite gradient of para", ["para"])
    newest = saved(tmp_path / "checkpoints")[0]
    progress = json.loads((newest / "state.json").read_text())["progress"]
    assert (progress["step"], progress["updates"]) == (3, 2)


@pytest.mark.fault(21)
def test_twenty_infinite_gradients_in_a_row_end_the_run(home, tmp_path, capsys, monkeypatch):
    spoil(monkeypatch, "sst", {*range(1, 20), *range(21, 60)}, infinite_in(in_all))
    assert train(home, tmp_path, "--strategy", "single", "--tasks", "sst", "--eval_every", 100, "--lr", 0.01) == 5
    assert "found 20 steps in a row with an infinite gradient, up to step 40" in capsys.readouterr().err
    assert [line["step"] for line in log_lines(tmp_path) if "skipped" in line] == [*range(1, 20), *range(21, 40)]


@pytest.mark.fault(25)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("faked"), MemoryError(), RuntimeError("DefaultCPUAllocator")])
def test_out_of_memory_computes_the_same_batch_in_smaller_parts(home, monkeypatch, capsys, error):
    """In the middle of a step, with another task's gradients and the triplets' vectors already there. No dropout."""
    small, large = make_run(home), make_run(home)
    for run in (small, large):
        run.model.eval()
        run.previous.vectors = torch.randn(1, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    expected, line = gradients(large, 0)
    losses = MultitaskBert.losses
    capsys.readouterr()  # the warnings about the data

    def in_little_memory(model: MultitaskBert, batches, *rest) -> dict[str, torch.Tensor]:
        found = losses(model, batches, *rest)
        if len(batches["para"].ids) > 2:
            raise error
        return found

    monkeypatch.setattr(MultitaskBert, "losses", in_little_memory)
    found, other = gradients(small, 0)
    assert small.state.parts == 4  # of 8 rows
    told = capsys.readouterr().err.splitlines()
    assert [re.search(r"in (\d) parts", line)[1] for line in told] == ["2", "4"]
    assert other["losses"] == pytest.approx(line["losses"], rel=1e-5)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(small.previous.vectors.sum(0), large.previous.vectors.sum(0), rtol=1e-4, atol=1e-4)
    train_multitask.train_step(small)
    assert capsys.readouterr().err == ""  # said once


def out_of_memory(model: MultitaskBert, loss: torch.Tensor) -> torch.Tensor:
    raise MemoryError


@pytest.mark.fault(25)
def test_out_of_memory_with_one_row(home, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, "sts", {3}, out_of_memory)
    assert train(home, tmp_path, "--max_steps", 5, "--save_every", 1) == 6
    assert "out of memory" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in saved(tmp_path / "checkpoints")] == ["step-000002", "step-000001"]


@pytest.mark.fault(24)
def test_weights_that_leave_the_numbers_are_never_the_best(home, tmp_path, capsys):
    """So large a rate that one step ends in infinite weights, which the loss of no further step would show."""
    assert train(home, tmp_path, "--lr", 1e30, "--max_steps", 1) == 5
    assert "sst: expected finite outputs" in capsys.readouterr().err
    assert contents(tmp_path).keys() == {"config.json", "log.jsonl"}


@pytest.mark.fault(24)
def test_heads_that_leave_the_numbers_are_never_the_best(home, tmp_path, capsys, monkeypatch):
    """Of a task that no score is taken of, say: the score is defined, and the weights are looked at all the same."""

    def spoiled(run: Run) -> dict:
        line = step(run)
        run.model.heads.para_head[4].bias.data.fill_(torch.inf)
        return line

    step = train_multitask.train_step
    monkeypatch.setattr(train_multitask, "train_step", spoiled)
    monkeypatch.setattr(train_multitask, "evaluate_dev", lambda *args: ({"sst_acc": 0.5}, {}))
    assert train(home, tmp_path, "--strategy", "single", "--tasks", "sst", "--max_steps", 1) == 5
    assert "found others in heads.para_head.4.bias at step 1" in capsys.readouterr().err
    assert contents(tmp_path).keys() == {"config.json", "log.jsonl"}


# ---- faults in options, files and folders ----------------------------------------------------------------------------


@pytest.mark.fault(42)
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--tasks foo", ["--tasks", "sst,para,sts", "'foo'"]),
        ("--tasks sst,stz", ["--tasks", "'stz'; did you mean sts?"]),
        ("--tasks sst,sst", ["each name once"]),
        ("--strategy single", ["--strategy single: expected one task; found sst,para,sts"]),
        ("--strategy single --tasks sst,sts", ["expected one task; found sst,sts"]),
        ("--strategy gs --tasks sst", ["--strategy gs: expected two or three tasks; found sst"]),
        ("--strategy mtl --tasks sst", ["--strategy mtl: expected two or three tasks; found sst"]),
        ("--strategy pcgrad", ["invalid choice: 'pcgrad'", "gs"]),
        ("--lr -1", ["--lr", "expected a number above 0; found '-1'"]),
        ("--lr nan", ["--lr", "found 'nan'"]),
        ("--epochs 0", ["--epochs", "expected a whole number, 1 or more; found '0'"]),
        ("--max_steps 2.5", ["--max_steps", "found '2.5'"]),
        ("--batch_size 0", ["--batch_size", "found '0'"]),
        ("--layer 0", ["--layer", "-1 or less"]),
        ("--layer -7", ["--layer: expected -2 to -1; found -7"]),
        ("--max_length 2", ["--max_length: expected at least 3"]),
        ("--hidden_dropout_prob 1", ["[0, 1)"]),
        ("--loss_scale sst=0", ["above 0"]),
        ("--learning_rate 1", ["--learning_rate: no such option"]),
        ("--leraning-rate 1", ["no such option"]),
        ("--batchsize 8", ["did you mean --batch_size?"]),
        ("--epoch 8", ["did you mean --epochs?"]),
        ("--resume auto --overwrite", ["--overwrite", "take one of the two"]),
    ],
)
def test_bad_options(home, tmp_path, capsys, options, told):
    assert train(home, tmp_path / "run", *options.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and all(part in error for part in told), error
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.fault(28)
def test_missing_data_is_told_before_the_model_is_loaded(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(MultitaskBert, "from_pretrained", lambda *args: pytest.fail("the model was loaded"))
    shutil.copytree(home / "data", tmp_path / "data")
    (tmp_path / "data" / "quora-test-student.csv").unlink()
    assert train(home, tmp_path / "run", "--data_dir", tmp_path / "data") == 3
    assert "quora-test-student.csv: expected a file" in capsys.readouterr().err
    assert train(home, tmp_path / "run", "--data_dir", tmp_path / "nowhere") == 3
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(37)
@pytest.mark.parametrize("strategy", ["gs", "mtl"])
def test_fewer_rows_than_a_batch_and_a_class_that_is_absent(home, tmp_path, capsys, strategy):
    """Short batches, no 0 / 0, and heads as wide as the task, not as its rows."""
    shutil.copytree(home / "data", tmp_path / "data")
    kept = {"sst": {0, 2, 4}, "para": {0}}
    for task, labels in kept.items():
        path = tmp_path / "data" / file_name(task, "train")
        header, *rows = path.read_text().splitlines()
        column = header.split("\t").index(TASKS[task].label)
        rows = [row for row in rows if float(row.split("\t")[column]) in labels]
        path.write_text("\n".join([header, *rows[:3]]) + "\n")
    options = ("--data_dir", tmp_path / "data", "--strategy", strategy, "--max_steps", 3, "--log_every", 1)
    assert train(home, tmp_path / "run", *options) == 0
    assert "it cannot be learnt" in capsys.readouterr().err
    losses = [loss for line in log_lines(tmp_path / "run") for loss in line.get("losses", {}).values()]
    assert len(losses) == 9 and all(loss is not None for loss in losses)
    best = weights(tmp_path / "run" / "best")
    assert best["heads.sst_head.4.bias"].shape == (5,)
    assert all(value.isfinite().all() for value in best.values())


@pytest.mark.fault(36)
def test_texts_that_are_cut_are_counted(home, tmp_path, capsys):
    """Over train, dev and test together, and the longest."""
    assert train(home, tmp_path / "run", "--max_length", 9, "--dry_run") == 0
    splits = [read(task, name, home / "data") for task in TASKS for name in ("train", "dev", "test")]
    texts = [text for split in splits for example in split.examples for text in example.texts]
    tokenizer = MultitaskBert.from_pretrained(home / "bert").tokenizer
    lengths = [len(tokenizer.ids([text], max_length=100)[0]) for text in texts]
    cut = sum(length > 9 for length in lengths)
    assert 0 < cut < len(lengths)
    assert f"texts: up to {max(lengths)} tokens, {cut} cut to 9\n" in capsys.readouterr().err


@pytest.mark.fault(33)
def test_texts_in_train_and_dev_are_told(home, tmp_path, capsys):
    shutil.copytree(home / "data", tmp_path / "data")
    shutil.copy(tmp_path / "data" / "sts-train.csv", tmp_path / "data" / "sts-dev.csv")
    assert train(home, tmp_path / "run", "--data_dir", tmp_path / "data", "--dry_run") == 0
    assert "sts-dev.csv: 17 texts stand in sts-train.csv too" in capsys.readouterr().err


def test_a_run_is_no_plain_checkpoint(home, run, tmp_path, capsys):
    """Its heads would come along unasked."""
    assert train(home, tmp_path / "run", "--checkpoint", run / "best") == 2
    assert "--init_from" in capsys.readouterr().err


def test_a_bad_checkpoint(home, tmp_path, capsys):
    (tmp_path / "bert").mkdir()
    assert train(home, tmp_path / "run", "--checkpoint", tmp_path / "bert") == 4
    assert str(tmp_path / "bert") in capsys.readouterr().err


@pytest.mark.fault(15)
def test_a_folder_that_holds_a_run_is_refused(home, run, capsys):
    before = contents(run)
    assert train(home, run, *LOGGED) == 2
    error = capsys.readouterr().err
    assert f"{run} holds a run" in error and "--resume auto or --overwrite" in error
    assert contents(run) == before


@pytest.mark.fault(15)
def test_overwrite_removes_the_old_run_and_nothing_else(home, run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "notes.txt").write_text("mine")
    assert train(home, out, "--strategy", "single", "--tasks", "sst", "--max_steps", 1, "--overwrite") == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in saved(out / "checkpoints")] == ["step-000001"]
    assert {line["step"] for line in log_lines(out)} == {1}


def test_overwrite_removes_nothing_before_the_new_run_can_start(home, run, tmp_path):
    """And never the very model that it starts from: a run killed before its first evaluation would leave none."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    before = contents(out)
    for options in (("--layer", -7), ("--checkpoint", home / "data"), ("--amp", "fp16", "--device", "cpu")):
        assert train(home, out, "--overwrite", *options) in (2, 4)
        assert contents(out) == before
    assert train(home, out, "--overwrite", "--init_from", out, "--max_steps", 1) == 2
    assert contents(out) == before


@pytest.mark.fault(16)
def test_one_run_at_a_time_in_a_folder(home, tmp_path, capsys):
    with lock(tmp_path / "run"):
        assert train(home, tmp_path / "run", "--max_steps", 1) == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.fault(14)
def test_folders_that_cannot_be_written_are_told_before_training(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(MultitaskBert, "from_pretrained", lambda *args: pytest.fail("the model was loaded"))
    (tmp_path / "file").write_text("")
    assert train(home, tmp_path / "file" / "run") == 7
    assert train(home, tmp_path / "run", "--predictions_dir", tmp_path / "file") == 7
    assert str(tmp_path / "file") in capsys.readouterr().err
    weights = 4 * sum(weight.numel() for weight in BertModel(CONFIG).parameters())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 14 * weights - 1))
    assert train(home, tmp_path / "other") == 7
    assert "free space" in capsys.readouterr().err


def test_dry_run_leaves_nothing(home, tmp_path, capsys, monkeypatch):
    """Yet it makes a step, and writes a checkpoint and reads it back, on the disk of the run's folder."""
    done = []

    def spy(owner: object, name: str, told=lambda *args: None) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: [original(*args), done.append((name, told(*args)))][0])

    spy(train_multitask, "train_step", lambda run: list(run.sets))
    spy(train_multitask.checkpoint, "save", lambda folder, step, *rest: (folder.parent, step))
    spy(train_multitask.checkpoint, "load")
    spy(Run, "restore")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert train(home, tmp_path / "runs" / "run", "--dry_run") == 0
    assert done == [("train_step", [*ALL]), ("save", (tmp_path / "runs", 1)), ("load", None), ("restore", None)]
    assert run_cli(train_multitask.main, command(home, "--dry_run")) == 0
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]
    told = capsys.readouterr()
    assert told.out == "" and "dry run: " in told.err and "rows a step" in told.err
    assert re.search(r"time: about [0-9.]+ minutes", told.err)


def test_dry_run_refuses_what_the_run_would_refuse(home, run, tmp_path, capsys, monkeypatch):
    assert train(home, tmp_path / "run", "--dry_run", "--arch", "v1", "--pooling", "mean") == 2
    (tmp_path / "file").write_text("")
    assert train(home, tmp_path / "file" / "run", "--dry_run") == 7
    before = contents(run)
    assert train(home, run, *LOGGED, "--dry_run") == 2
    assert train(home, run, *LOGGED, "--dry_run", "--resume", "auto", "--seed", 3) == 2
    assert "--seed was 0, is 3" in capsys.readouterr().err
    assert train(home, run, *LOGGED, "--dry_run", "--overwrite") == 0
    assert contents(run) == before
    (run / "metrics.json").rename(run / "away")  # as if killed after the last step
    assert train(home, run, *LOGGED, "--dry_run", "--resume", "auto") == 0
    (run / "away").rename(run / "metrics.json")
    longer = ("--max_steps", 9, "--allow_change", "max_steps")
    assert train(home, run, *LOGGED, *longer, "--dry_run", "--resume", "auto") == 0
    assert contents(run) == before and not [path for path in run.rglob(".*") if path.name != ".lock"]
    with lock(run):
        assert train(home, run, *LOGGED, "--dry_run", "--overwrite") == 2
    assert "in use by process" in capsys.readouterr().err
    monkeypatch.setattr(train_multitask.checkpoint, "save", full_disk)
    assert train(home, tmp_path / "run", "--dry_run") == 7
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_debug_shows_the_traceback(home, tmp_path, capsys):
    assert train(home, tmp_path / "run", "--layer", -7, "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_data_that_a_run_takes_by_itself(tmp_path):
    """Without --data_dir: the embedded sample, unless the course files were downloaded; the header says which."""
    args = train_multitask.build_parser().parse_args([])
    train_multitask.settle(args)
    assert re.fullmatch(r"(embedded synthetic sample|course files) in .*", args.data_name)
    assert (args.data_dir / "sts-train.csv").is_file()
    assert args.output_dir == Path("runs/finetune-gs")
