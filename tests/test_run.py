"""training/run.py: a run that was interrupted, anywhere, ends as one that was not; what cannot go on is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import child
import pytest
import torch
from soak import SETTINGS
from tiny import make_bert_folder, make_data_folder
from tiny_run import contents, make_run, outcome, train, workshop

import train_multitask
from bert.errors import CheckpointError
from data.reader import read
from training import checkpoint
from training.checkpoint import describe, saved
from training.errors import DiskError
from training.run import Run, TrainingSet, score


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    with workshop(tmp_path_factory.mktemp("home")) as home:
        yield home


@pytest.fixture(scope="module")
def undisturbed(home) -> Callable[[str], Path]:
    """The folder of a run with these settings, made once."""

    def make(name: str) -> Path:
        out = home / name
        if not out.exists():
            assert train(home, out, *SETTINGS[name]) == 0
        return out

    return make


@pytest.fixture
def interrupted(home, undisturbed, tmp_path, monkeypatch) -> Callable[[str, int], Path]:
    """The folder of a run that an exception ended inside a step, counted from 1."""

    def make(name: str, at: int, *options: object) -> Path:
        step = train_multitask.train_step

        def crash(run: Run) -> dict:
            if run.state.step + 1 == at:
                raise RuntimeError("the power goes")
            return step(run)

        with monkeypatch.context() as patch:
            patch.setattr(train_multitask, "train_step", crash)
            assert train(home, tmp_path / "run", *SETTINGS[name], *options) == 1
        assert not (tmp_path / "run" / "metrics.json").exists()
        return tmp_path / "run"

    return make


def resume(home: Path, out: Path, name: str, *options: object) -> int:
    return train(home, out, *SETTINGS[name], "--resume", "auto", *options)


# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["sst", "para", "sts"])
def test_a_batch_holds_its_rows_and_nothing_else(home, task):
    """First sentences before second ones; over an epoch each row once, with its own label and words."""
    split = read(task, "train", home / "data")
    model = make_run(home).model
    rows = TrainingSet(split, model, batch_size=7, seed=0)
    by_id = {example.id: example for example in split.examples}
    seen = []
    for position in range(rows.stream.batches_per_epoch):
        (batch,) = rows.micro_batches(position, 1)
        examples = [by_id[name] for name in batch.ids]
        seen += batch.ids
        texts = [e.texts[side] for side in range(len(examples[0].texts)) for e in examples]
        expected = model.tokenizer(texts)
        assert all(torch.equal(batch.tokens[name], expected[name]) for name in expected)
        assert batch.labels.tolist() == pytest.approx([e.label for e in examples], rel=1e-6)
        assert batch.labels.dtype == (torch.int64 if task == "sst" else torch.float32)
    assert sorted(seen) == sorted(by_id)


def test_every_parameter_is_optimised_once_and_matrices_alone_decay(home):
    run = make_run(home, "--weight_decay", 0.3, "--option", "pretrain", "--pooling", "cnn")
    matrices, others = (group["params"] for group in run.optimizer.param_groups)
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.3, 0.0]
    trained = [p for name, p in run.model.named_parameters() if not name.startswith("bert.")]
    assert {id(p) for p in [*matrices, *others]} == {id(p) for p in trained}
    assert len(matrices) + len(others) == len(trained)
    assert all(p.dim() >= 2 for p in matrices) and all(p.dim() == 1 for p in others)


def test_the_score_is_of_the_trained_tasks():
    metrics = {"sst_acc": 0.5, "para_acc": 0.8, "sts_pearson": None, "average": None}
    assert score(metrics, ["sst"]) == 0.5
    assert score(metrics, ["sst", "para"]) == pytest.approx(0.65, rel=1e-12)
    assert score(metrics, ["sst", "sts"]) is None


@pytest.mark.parametrize("scaled", [False, True])
def test_what_is_saved_comes_back_bit_for_bit(home, tmp_path, scaled):
    """Weights, moments, the triplets' vectors, the numbers and the loss scale, into a run that has gone another way."""
    options = ("--output_dir", tmp_path, "--strategy", "gs", "--max_steps", 9)
    run = make_run(home, *options)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4, enabled=scaled)
    for _ in range(2):
        train_multitask.train_step(run)
    run.state.best_score, run.state.best_step = 1 / 3, 1
    run.save()
    tensors = {f"{stem}/{name}": v.clone() for stem, named in run.tensors().items() for name, v in named.items()}
    assert {name.split("/")[0] for name in tensors} == {"model", "heads", "optimizer", "triplets"}

    other = make_run(home, *options, "--resume", "auto")
    other.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2, enabled=scaled)
    for _ in range(3):
        train_multitask.train_step(other)
    assert other.resume()
    assert other.state == run.state
    assert other.scaler.state_dict() == run.scaler.state_dict() and bool(run.scaler.state_dict()) == scaled
    restored = {f"{stem}/{name}": v for stem, named in other.tensors().items() for name, v in named.items()}
    assert restored.keys() == tensors.keys()
    assert all(torch.equal(restored[name], tensors[name]) for name in tensors)


# ---- interrupted and resumed -----------------------------------------------------------------------------------------


@pytest.mark.fault(1)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_resumed_run_ends_as_an_undisturbed_one(home, undisturbed, interrupted, name):
    """Weights, moments, log, metrics, predictions: bit for bit, wherever between two saves the power went."""
    out = interrupted(name, random.Random(name).choice([4, 6, 8]))
    assert resume(home, out, name) == 0
    assert outcome(out) == outcome(undisturbed(name))


@pytest.mark.fault(11)
def test_resumed_at_an_epochs_end_and_twice_inside_one(home, undisturbed, interrupted):
    """Four steps are an epoch of para. First the power goes right after it, then twice before the next save."""
    out = interrupted("gs", 5)
    assert saved(out / "checkpoints")[0].name == "step-000004"
    for _ in range(2):
        assert interrupted("gs", 6, "--resume", "auto") == out
    assert resume(home, out, "gs") == 0
    assert outcome(out) == outcome(undisturbed("gs"))


@pytest.mark.fault(2, 19)
@pytest.mark.parametrize(
    "point",
    [
        *(f"after-{file}@step-000006" for file in ("model", "heads", "optimizer", "triplets", "state", "manifest")),
        "before-rename@step-000006",
        "after-rename@step-000006",
        "in-rotation@step-000002",
        "before-rename@config.json",
        "before-rename@best",
        "after-rename@best",
        "before-rename@sst-test-output.csv",
        "before-rename@metrics.json",
    ],
)
def test_killed_while_writing(home, undisturbed, tmp_path, monkeypatch, point):
    """As by kill -9: what it leaves half done is neither used nor left behind."""
    with monkeypatch.context() as patch:
        patch.setenv("MINBERT_FAULT_POINT", point)
        killed = child.run(lambda: train(home, tmp_path, *SETTINGS["single"]))
    assert killed == -signal.SIGKILL
    assert resume(home, tmp_path, "single") == 0
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    assert outcome(tmp_path) == outcome(undisturbed("single"))


def stopped(home: Path, out: Path, name: str, place: str, at: int, number: int) -> int:
    """The exit code of a child process that gets a signal at this place of a step, counted from 1."""
    owner = Run if place == "save" else train_multitask
    original, before = getattr(owner, place), at - 1 if place == "train_step" else at

    def note(run: Run, *rest, **named):
        if run.state.step == before:
            os.kill(os.getpid(), number)
        return original(run, *rest, **named)

    def action() -> None:
        setattr(owner, place, note)  # in the child alone
        try:
            code = train(home, out, *SETTINGS[name])
        except SystemExit as exit:
            code = exit.code
        os._exit(code)

    return child.run(action)


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("name", "place", "at", "number", "step"),
    [
        ("gs", "train_step", 5, signal.SIGTERM, 5),
        ("single", "train_step", 3, signal.SIGINT, 3),
        ("single", "evaluate", 4, signal.SIGTERM, 4),
        ("mtl", "evaluate", 4, signal.SIGINT, 4),
        ("single", "save", 4, signal.SIGTERM, 5),  # seen after the next step, which is saved too
        ("single", "save", 9, signal.SIGINT, 9),  # the last one: all steps are made, the predictions are not
    ],
)
def test_a_signal_lets_the_step_end_and_be_saved(home, undisturbed, tmp_path, name, place, at, number, step):
    out = tmp_path / "run"
    assert stopped(home, out, name, place, at, number) == 128 + number
    assert saved(out / "checkpoints")[0].name == f"step-{step:06d}"
    assert not (out / "metrics.json").exists()
    assert resume(home, out, name) == 0
    assert outcome(out) == outcome(undisturbed(name))


@pytest.mark.fault(17)
@pytest.mark.parametrize(("place", "number"), [("read_data", signal.SIGTERM), ("write_predictions", signal.SIGINT)])
def test_a_signal_before_or_after_the_steps(home, undisturbed, tmp_path, place, number):
    """It ends at once; no file is left half made."""
    original = getattr(train_multitask, place)

    def note(*args):
        os.kill(os.getpid(), number)
        return original(*args)

    def action() -> None:
        setattr(train_multitask, place, note)  # in the child alone
        try:
            code = train(home, tmp_path, *SETTINGS["single"])
        except SystemExit as exit:
            code = exit.code
        os._exit(code)

    assert child.run(action) == 128 + number
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    assert resume(home, tmp_path, "single") == 0
    assert outcome(tmp_path) == outcome(undisturbed("single"))


@pytest.mark.fault(17)
def test_a_signal_whose_exception_a_library_drops(home, undisturbed, tmp_path, monkeypatch):
    """It ends the run at the first step's place at the latest."""
    original = train_multitask.read_data

    def note(*args):
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(train_multitask, "read_data", note)
    with pytest.raises(SystemExit) as caught:
        train(home, tmp_path, *SETTINGS["single"])
    assert caught.value.code == 143
    assert not saved(tmp_path / "checkpoints")
    monkeypatch.undo()
    assert resume(home, tmp_path, "single") == 0
    assert outcome(tmp_path) == outcome(undisturbed("single"))


@pytest.mark.fault(17)
def test_a_second_interrupt_stops_at_once(home, tmp_path, monkeypatch):
    step, steps = train_multitask.train_step, []

    def interrupt(run: Run) -> dict:
        steps.append(run.state.step)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return step(run)

    monkeypatch.setattr(train_multitask, "train_step", interrupt)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert train(home, tmp_path, *SETTINGS["single"]) == 130
    assert len(steps) == 3 and saved(tmp_path / "checkpoints")[0].name == "step-000002"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# ---- finished --------------------------------------------------------------------------------------------------------


@pytest.mark.fault(12)
def test_a_finished_run_is_left_alone(home, undisturbed, capsys):
    out = undisturbed("single")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    before = contents(out)
    assert resume(home, out, "single") == 0
    told = capsys.readouterr()
    assert "complete at step 9" in told.err and told.out == ""
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_finished_run_can_be_made_longer(home, undisturbed, tmp_path):
    """Steps 10 to 12 follow the log's first nine lines, and the metrics are of the longer run."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed("single"), out)
    longer = ("--max_steps", 12)
    assert resume(home, out, "single", *longer) == 2
    assert resume(home, out, "single", *longer, "--allow_change", "max_steps") == 0
    assert outcome(out)["step"] == "step-000012"
    assert outcome(out)["log"][:12] == outcome(undisturbed("single"))["log"]
    assert [line["step"] for line in outcome(out)["log"] if "losses" in line] == list(range(1, 13))


def test_a_longer_run_without_its_metrics_is_not_complete(home, undisturbed, tmp_path, monkeypatch, capsys):
    """Although the shorter run's stood in the folder."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed("single"), out)
    longer = ("--max_steps", 10, "--allow_change", "max_steps")
    with monkeypatch.context() as patch:
        patch.setattr(train_multitask, "finish", lambda run: (_ for _ in ()).throw(RuntimeError("the power goes")))
        assert resume(home, out, "single", *longer) == 1
    assert not (out / "metrics.json").exists()
    capsys.readouterr()
    assert resume(home, out, "single", *longer) == 0
    assert "complete" not in capsys.readouterr().err
    assert outcome(out)["step"] == "step-000010"


def test_a_run_that_stopped_early_goes_on_with_more_patience(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_multitask, "score", lambda metrics, tasks: 0.5)
    options = ("--eval_every", 1, "--patience")
    assert train(home, tmp_path, *SETTINGS["single"], *options, 2) == 0
    assert outcome(tmp_path)["step"] == "step-000003"
    assert resume(home, tmp_path, "single", *options, 2) == 0
    assert "complete at step 3" in capsys.readouterr().err
    assert resume(home, tmp_path, "single", *options, 4, "--allow_change", "patience") == 0
    assert outcome(tmp_path)["step"] == "step-000005"


def test_a_finished_run_without_checkpoints_is_not_begun_anew(home, undisturbed, tmp_path, capsys):
    """Somebody made room; --resume auto, in a script, must not take that for a run that never began."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed("single"), out)
    shutil.rmtree(out / "checkpoints")
    before = contents(out)
    assert resume(home, out, "single") == 2
    assert "holds a finished run without a checkpoint" in capsys.readouterr().err
    assert contents(out) == before


# ---- what is resumed from --------------------------------------------------------------------------------------------


@pytest.mark.fault(7)
def test_nothing_to_resume_from(home, undisturbed, tmp_path, capsys):
    assert resume(home, tmp_path / "run", "single") == 0
    assert "no checkpoint in" in capsys.readouterr().err
    assert outcome(tmp_path / "run") == outcome(undisturbed("single"))


@pytest.mark.fault(7)
def test_an_earlier_checkpoint_by_its_path(home, interrupted, capsys):
    """What lay after it goes when there is a new one: --resume auto would take it for the newest."""
    out = interrupted("single", 7)
    there = [path.name for path in saved(out / "checkpoints")]
    assert there == ["step-000006", "step-000004"]
    capsys.readouterr()
    assert train(home, out, *SETTINGS["single"], "--resume", out / "checkpoints" / "step-000123") == 2
    assert ", ".join(there) in capsys.readouterr().err
    interrupted("single", 6, "--resume", out / "checkpoints" / "step-000004", "--save_every", 1)
    assert [path.name for path in saved(out / "checkpoints")] == ["step-000005", "step-000004"]


def test_a_checkpoint_by_its_path_gives_the_same_weights(home, undisturbed, interrupted):
    out = interrupted("gs", 7)
    assert train(home, out, *SETTINGS["gs"], "--resume", out / "checkpoints" / "step-000004") == 0
    assert outcome(out) == outcome(undisturbed("gs"))


def test_another_runs_checkpoint_is_refused(home, undisturbed, tmp_path, capsys):
    """Its best model is not in this folder; --init_from is for that."""
    path = saved(undisturbed("single") / "checkpoints")[0]
    assert train(home, tmp_path / "run", *SETTINGS["single"], "--resume", path) == 2
    assert "--init_from" in capsys.readouterr().err


@pytest.mark.fault(10)
def test_other_options_are_refused(home, interrupted, tmp_path, capsys):
    """With the name, what it was and what it is; options that change no weight are free."""
    make_bert_folder(tmp_path / "bert", seed=1)
    out = interrupted("single", 4)
    before = contents(out)
    for option, value in (
        ("batch_size", "7"),
        ("seed", "1"),
        ("lr", "0.1"),
        ("eval_every", "3"),
        ("hidden_dropout_prob", "0.2"),
        ("sts_gamma", "0.25"),
        ("checkpoint", str(tmp_path / "bert")),
        ("tasks", "para"),
    ):
        capsys.readouterr()
        assert resume(home, out, "single", f"--{option}", value) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"--{option} was " in error and value in error and "--allow_change" in error
    capsys.readouterr()
    assert resume(home, out, "single", "--lr", 0.1, "--seed", 1, "--allow_change", "lr") == 2
    error = capsys.readouterr().err
    assert "--seed was 0, is 1" in error and "--lr was" not in error
    assert {name: part for name, part in contents(out).items() if name in before} == before
    free = ("--log_every", 2, "--save_every", 7, "--device", "cpu")  # which "auto" has come to
    assert resume(home, out, "single", "--lr", 0.1, "--allow_change", "lr", *free) == 0


@pytest.mark.fault(10)
def test_other_data_are_refused(home, interrupted, tmp_path, capsys):
    """Other rows under the same names; the same rows in another folder are fine, and so are other test files."""
    out = interrupted("single", 4)
    make_data_folder(tmp_path / "data", seed=1)
    capsys.readouterr()
    assert resume(home, out, "single", "--data_dir", tmp_path / "data") == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "ids-sst-train.csv" in error and "sts-dev.csv" in error and "test-student" not in error
    assert "quora-train" not in error  # not this run's
    for path in (home / "data").glob("*[nv].csv"):
        shutil.copy(path, tmp_path / "data")
    assert resume(home, out, "single", "--data_dir", tmp_path / "data") == 0


@pytest.mark.fault(10)
def test_other_data_that_are_wanted(home, interrupted, tmp_path):
    out = interrupted("single", 4)
    make_data_folder(tmp_path / "data", seed=1)
    assert resume(home, out, "single", "--data_dir", tmp_path / "data", "--allow_change", "data_dir") == 0


def damage(path: Path) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.fault(4)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(home, undisturbed, interrupted, capsys):
    out = interrupted("single", 9)
    newest, before = saved(out / "checkpoints")[:2]
    assert (newest.name, before.name) == ("step-000008", "step-000006")
    damage(newest / "model.safetensors")
    assert train(home, out, *SETTINGS["single"], "--resume", newest) == 4
    capsys.readouterr()
    assert resume(home, out, "single") == 0
    assert "model.safetensors: expected sha256" in capsys.readouterr().err
    assert outcome(out) == outcome(undisturbed("single"))


@pytest.mark.fault(5)
def test_a_damaged_checkpoint_stays(home, interrupted):
    """Through the saves that follow, unless one of the same step takes its place."""
    out = interrupted("single", 8)
    newest = saved(out / "checkpoints")[0]
    damage(newest / "model.safetensors")
    before = contents(newest)
    assert resume(home, out, "single", "--save_every", 9) == 0
    assert newest.name == "step-000006" and contents(newest) == before
    assert outcome(out)["step"] == "step-000009"


@pytest.mark.fault(6)
def test_no_checkpoint_that_can_be_used(home, interrupted, capsys):
    out = interrupted("single", 8)
    for path in saved(out / "checkpoints"):
        damage(path / "heads.safetensors")
    before = contents(out)
    assert resume(home, out, "single") == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(str(path) in error for path in saved(out / "checkpoints"))
    assert contents(out) == before


def rewrite_state(path: Path, change: Callable[[dict], object]) -> None:
    """Another state, with a manifest that says so: what another version may have written."""
    state = json.loads((path / "state.json").read_text())
    change(state)
    (path / "state.json").write_text(json.dumps(state))
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"]["state.json"] = describe(path / "state.json")
    (path / "MANIFEST.json").write_text(json.dumps(manifest))


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["progress"].update(momentum=1),
        lambda state: state["progress"].pop("updates"),
        lambda state: state.update(extra=1),
        lambda state: state["progress"].update(step="two"),
        lambda state: state["progress"].update(updates=True),
        lambda state: state["progress"].update(best_score=[0.5]),
        lambda state: state["progress"].update(conflicts={"sst-para": "often"}),
        lambda state: state["progress"].update(conflicts=3),
    ],
)
def test_the_state_of_another_version_is_refused(home, interrupted, capsys, change):
    out = interrupted("single", 3)
    rewrite_state(saved(out / "checkpoints")[0], change)
    assert resume(home, out, "single") == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(out) in error and ("version" in error or "another kind of value" in error)


@pytest.mark.fault(9)
def test_weights_of_another_shape_are_refused(home, interrupted, tmp_path, capsys):
    """Both shapes are named, and the model is untouched."""
    out = interrupted("single", 3)
    path = saved(out / "checkpoints")[0]
    tensors, stored = checkpoint.load(path)
    tensors["heads"]["heads.sst_head.4.bias"] = torch.zeros(7)
    run = make_run(home, *SETTINGS["single"], "--output_dir", out, "--resume", "auto")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    checkpoint.save(out / "checkpoints", 3, tensors, stored)
    with pytest.raises(ValueError, match=r"heads.sst_head.4.bias \(expected \(5,\), found \(7,\)\)") as caught:
        run.resume()
    assert caught.value.exit_code == 4
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert run.state.step == 0


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.fault(13)
def test_a_save_that_fails_is_tried_again_but_for_the_last(home, undisturbed, tmp_path, monkeypatch, capsys):
    save = checkpoint.save

    def full(at: int) -> Callable:
        def fail(folder: Path, step: int, *rest) -> Path:
            if step == at:
                raise DiskError("no room")
            return save(folder, step, *rest)

        return fail

    monkeypatch.setattr(checkpoint, "save", full(6))
    assert train(home, tmp_path / "a", *SETTINGS["single"]) == 0
    assert "warning: no checkpoint at step 6: no room" in capsys.readouterr().err
    assert outcome(tmp_path / "a")["tensors"] == outcome(undisturbed("single"))["tensors"]
    monkeypatch.setattr(checkpoint, "save", full(9))
    assert train(home, tmp_path / "b", *SETTINGS["single"]) == 7
    assert "no room" in capsys.readouterr().err
    assert saved(tmp_path / "b" / "checkpoints")[0].name == "step-000008"


@pytest.mark.fault(13)
def test_a_best_model_that_finds_the_disk_full_is_tried_again_but_for_the_last(home, tmp_path, monkeypatch, capsys):
    """The score that it would have had is not taken for the best."""
    export = Run.export_best

    def full(run: Run) -> None:
        if run.state.step == at:
            raise DiskError("no room")
        export(run)

    scores = iter([0.9, 0.5, 0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(Run, "export_best", full)
    monkeypatch.setattr(train_multitask, "score", lambda *rest: next(scores))
    at, options = 1, (*SETTINGS["single"], "--eval_every", 1, "--max_steps", 3)
    assert train(home, tmp_path / "a", *options) == 0
    assert "warning: the best model so far is not written: no room" in capsys.readouterr().err
    assert outcome(tmp_path / "a")["progress"]["best_step"] == 2
    at = 3
    assert train(home, tmp_path / "b", *options) == 7
    assert "no room" in capsys.readouterr().err
    assert saved(tmp_path / "b" / "checkpoints")[0].name == "step-000002"


@pytest.mark.fault(12, 14)
def test_a_finished_run_is_complete_also_on_a_full_disk(home, undisturbed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 999, 1))
    assert resume(home, undisturbed("single"), "single") == 0
    assert "complete at step 9" in capsys.readouterr().err
    shutil.copytree(undisturbed("single"), tmp_path / "run")
    assert resume(home, tmp_path / "run", "single", "--max_steps", 12, "--allow_change", "max_steps") == 7
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.fault(4, 10)
def test_resuming_makes_the_best_model_anew(home, tmp_path):
    """best/ may be of a later step, of a run that went back behind it: the checkpoint of the best step counts."""
    run = make_run(home, "--output_dir", tmp_path, "--strategy", "gs", "--max_steps", 9)
    for step in (1, 2):
        train_multitask.train_step(run)
        run.state.best_score, run.state.best_step = 0.5, 1
        run.save()
        if step == 1:
            run.export_best()
            expected = contents(tmp_path / "best")
    run.export_best()  # step 2's, as a later evaluation would have it
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    assert contents(tmp_path / "best") != expected
    run.rebuild_best()
    assert contents(tmp_path / "best") == expected
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_without_its_checkpoint_the_best_model_stands_or_is_sought_anew(home, tmp_path, capsys):
    """It stands where best/ is of that very step."""
    run = make_run(home, "--output_dir", tmp_path, "--max_steps", 9)
    run.state.step = 4
    run.export_best()
    before = contents(tmp_path)
    run.state.step, run.state.best_score, run.state.best_step = 6, 0.5, 4
    run.rebuild_best()
    assert (run.state.best_score, run.state.best_step) == (0.5, 4) and contents(tmp_path) == before
    (tmp_path / "best" / "step.json").write_text('{"step": 5}')
    run.rebuild_best()
    assert (run.state.best_score, run.state.best_step) == (None, 0)
    assert "step-000004" in capsys.readouterr().err


@pytest.mark.fault(9)
@pytest.mark.parametrize("change", ["shape", "missing", "no step", "unknown"])
def test_moments_that_do_not_fit_change_nothing(home, tmp_path, change):
    run = make_run(home, "--output_dir", tmp_path, "--strategy", "gs", "--max_steps", 9)
    train_multitask.train_step(run)
    tensors, stored = run.tensors(), run.stored_state()
    moments, name = tensors["optimizer"], "bert.embeddings.norm.weight"
    if change == "shape":
        moments[f"{name}.exp_avg"] = torch.zeros(3)
    elif change == "unknown":
        moments["bert.nothing.exp_avg"] = torch.zeros(3)
    else:
        del moments[f"{name}.{'step' if change == 'no step' else 'exp_avg'}"]
    other = make_run(home, "--output_dir", tmp_path, "--strategy", "gs", "--max_steps", 9)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(CheckpointError):
        other.restore(tmp_path, tensors, stored)
    assert all(torch.equal(value, before[name]) for name, value in other.model.state_dict().items())
    assert not other.optimizer.state and other.state.step == 0
