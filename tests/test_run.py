"""A run that was interrupted, anywhere, ends as one that was not; what cannot go on is refused."""

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import child
import pytest
import torch
from own_tasks import make_own_tasks
from safetensors.torch import load_file
from tiny import make_bert_folder, make_data_folder
from tiny_run import accuracy_by, before_update, contents, leftovers, make_session, outcome, scripted, train

import train_multitask
from data.tasks import LEADERBOARD
from heads.kinds import KINDS
from heads.metrics import accuracy
from optim.weighing import WEIGHINGS
from runtime.errors import CheckpointError
from runtime.settings import built
from tools.soak import SETTINGS
from training import checkpoint
from training.checkpoint import saved

TENSORS = ("model", "heads", "optimizer", "triplets")


def undisturbed(home: Path, name: str, *options: str) -> Path:
    """The folder of a run with these settings, made once."""
    out = home / " ".join([name, *options])
    if not out.exists():
        assert train(home, out, *SETTINGS[name], *options) == 0
    return out


def interrupted(home: Path, out: Path, name: str, at: int, *options: object) -> Path:
    """The folder `out`, of a run that an exception ended inside a step, counted from 1."""
    with before_update(lambda number: fail() if number == at else None):
        assert train(home, out, *SETTINGS[name], *options) == 1
    assert not (out / "metrics.json").exists()
    return out


def fail() -> None:
    raise RuntimeError("the power goes")


def resume(home: Path, out: Path, name: str, *options: object) -> int:
    return train(home, out, *SETTINGS[name], "--resume", "auto", *options)


def ends_undisturbed(home: Path, out: Path, name: str, *options: str) -> bool:
    """Whether, resumed, it has the undisturbed run's weights, moments, log, metrics and predictions, bit for bit."""
    assert resume(home, out, name, *options) == 0
    return outcome(out) == outcome(undisturbed(home, name, *options)) and not leftovers(out)


@contextmanager
def when_opened(part: str, action: Callable[[], object]) -> Iterator[None]:
    """Inside, the action is called once: where a path that holds this text is to be synced, so half written."""
    original, left = os.open, [action]

    def watched(path, *rest, **named):
        if left and part in str(path):
            left.pop()()
        return original(path, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", watched)
        yield


def no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(1, 11)
def test_resumed_at_an_epochs_end_and_twice_inside_one(home, tmp_path):
    """Four steps are an epoch of para. First the power goes right after it, then twice before the next save."""
    out = interrupted(home, tmp_path / "run", "gs", 5)
    assert saved(out / "checkpoints")[0].name == "step-000004"
    for _ in range(2):
        interrupted(home, out, "gs", 6, "--resume", "auto")
    assert ends_undisturbed(home, out, "gs")


@pytest.mark.parametrize("weigh", ["equal:beta=0.5", "uncertainty", "dwa:steps=2", "famo", "rlw"])
def test_what_surgeries_and_weighings_remember_survives(home, tmp_path, weigh):
    """Gradient vaccine's targets, and what each weighing keeps, which steps change; bit for bit, each other than with
    fixed factors."""
    words = ("--surgery", "gradvac:beta=0.3", "--weigh", weigh)
    out = interrupted(home, tmp_path / "run", "gs", 6, *words)
    assert ends_undisturbed(home, out, "gs", *words)
    mine, fixed = outcome(out), outcome(undisturbed(home, "gs", *words[:2]))
    assert mine["state"]["surgery"]["targets"]
    assert mine["tensors"]["model.safetensors"] != fixed["tensors"]["model.safetensors"]
    first = json.loads(json.dumps(built("--weigh", WEIGHINGS, weigh, dict.fromkeys(LEADERBOARD, 1.0)).state_dict()))
    assert weigh == "rlw" or mine["state"]["weighing"] != first
    assert weigh != "famo" or any(mine["state"]["weighing"]["x"])  # the losses after a step are not those before it


def test_famo_sees_no_fall_where_nothing_moves(home, tmp_path):
    """The losses after a step have the dropout of those before it."""
    assert train(home, tmp_path, *SETTINGS["gs"], "--weigh", "famo", "--lr", 1e-30) == 0
    assert outcome(tmp_path)["state"]["weighing"]["x"] == [0, 0, 0]


@pytest.mark.fault(2, 19)
@pytest.mark.parametrize(
    "events",
    [
        *([f"open .*/.tmp-step-000006.*/{name}"] for name in (*TENSORS, "state", "MANIFEST")),
        *(["os.rename .*/.tmp-step-000006"], ["os.rename .*/.tmp-step-000006", ""], ["rmtree .*/.trash-step-000002"]),
        *(["os.rename .*/.tmp-best"], ["os.rename .*/.tmp-best", ""], ["os.rename .*/.tmp-config.json"]),
        ["os.rename .*/.tmp-sst-test-output.csv"],
        ["os.rename .*/.tmp-README.md"],
        ["os.rename .*/.tmp-metrics.json"],
    ],
)
def test_killed_while_writing(home, tmp_path, events):
    """As by kill -9: what it leaves half done is neither used nor left behind."""
    killed = child.run(lambda: [child.die_at(*events), train(home, tmp_path, *SETTINGS["single"])])
    assert killed == -signal.SIGKILL
    assert ends_undisturbed(home, tmp_path, "single")


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(17, 18)
@pytest.mark.parametrize(
    ("name", "place", "number", "step"),
    [
        ("gs", 5, signal.SIGINT, 5),  # in a step
        ("single", 3, signal.SIGHUP, 3),  # the terminal is gone
        ("mtl", "binary", signal.SIGTERM, 4),  # in an evaluation, the first
        ("single", ".tmp-step-000004", signal.SIGTERM, 5),  # in a save; seen after the next step, which is saved too
        ("single", ".tmp-step-000009", signal.SIGINT, 9),  # all steps are made, the predictions are not
    ],
)
def test_a_signal_lets_the_step_end_and_be_saved(home, tmp_path, name, place, number, step):
    kill = lambda: os.kill(os.getpid(), number)  # noqa: E731
    if isinstance(place, int):
        disturbance = before_update(lambda update: kill() if update == place else None)
    elif place in KINDS:
        disturbance = accuracy_by(place, lambda *arrays: [kill(), accuracy(*arrays)][1])
    else:
        disturbance = when_opened(place, kill)
    with disturbance:
        assert train(home, tmp_path, *SETTINGS[name]) == 128 + number
    assert saved(tmp_path / "checkpoints")[0].name == f"step-{step:06d}"
    assert not (tmp_path / "metrics.json").exists()
    assert ends_undisturbed(home, tmp_path, name)


@pytest.mark.fault(17)
def test_a_signal_before_or_after_the_steps(home, tmp_path, monkeypatch, capsys):
    """It ends at once; no file is left half made."""
    kill = lambda *args: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", kill)  # which is asked before the model is loaded
        assert train(home, tmp_path, *SETTINGS["single"]) == 143
    with when_opened(".tmp-sst-dev-output.csv", kill):
        assert resume(home, tmp_path, "single") == 143
    assert "--resume auto" in capsys.readouterr().err.splitlines()[-1]
    assert not leftovers(tmp_path) and saved(tmp_path / "checkpoints")[0].name == "step-000009"
    assert ends_undisturbed(home, tmp_path, "single")


def test_a_dry_run_that_is_stopped_leaves_nothing_and_says_so(home, tmp_path, capsys):
    with before_update(lambda number: os.kill(os.getpid(), signal.SIGTERM)):
        assert train(home, tmp_path / "run", *SETTINGS["single"], "--dry_run") == 143
    said = capsys.readouterr().err
    assert "stopped; nothing was left" in said and "saved" not in said and "go on with" not in said
    assert not [*tmp_path.iterdir()]


def test_a_dry_run_where_no_step_is_left(home, tmp_path, capsys):
    """A run that was longer than the new options ask for."""
    out = interrupted(home, tmp_path / "run", "single", 7)
    before = contents(out)
    assert resume(home, out, "single", "--max_steps", 5, "--allow_change", "max_steps", "--dry_run") == 0
    assert "no step is left to take" in capsys.readouterr().err and contents(out) == before


def test_another_weighing_by_allow_change_remembers_nothing(home, tmp_path):
    out = interrupted(home, tmp_path / "run", "gs", 6, "--weigh", "equal")
    assert resume(home, out, "gs", "--weigh", "dwa", "--allow_change", "weigh") == 0
    fresh = built("--weigh", WEIGHINGS, "dwa", dict.fromkeys(LEADERBOARD, 1.0)).state_dict()
    numbers = checkpoint.load(saved(out / "checkpoints")[-1])[1]["weighing"]
    assert numbers.keys() == json.loads(json.dumps(fresh)).keys()


@pytest.mark.fault(17)
def test_a_second_interrupt_stops_at_once(home, tmp_path):
    steps = []

    def interrupt(number: int) -> None:
        steps.append(number)
        for _ in range(2 if number == 3 else 0):
            os.kill(os.getpid(), signal.SIGINT)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with before_update(interrupt):
        assert train(home, tmp_path, *SETTINGS["single"]) == 130
    assert steps == [1, 2, 3] and saved(tmp_path / "checkpoints")[0].name == "step-000002"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.fault(12, 14)
def test_a_finished_run_is_left_alone(home, capsys, monkeypatch):
    """Also on a full disk."""
    out = undisturbed(home, "single")
    capsys.readouterr()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 999, 1))
    before = contents(out)
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    assert resume(home, out, "single") == 0
    streams = capsys.readouterr()
    assert "complete at step 9" in streams.err and streams.out == ""
    assert contents(out) == before and {name: (out / name).stat().st_mtime_ns for name in before} == times


def test_what_a_finished_run_has_lost_is_made_again(home, tmp_path, capsys):
    out = shutil.copytree(undisturbed(home, "single"), tmp_path / "run")
    for lost in (out / "best", *saved(out / "checkpoints")[1:]):
        shutil.rmtree(lost)
    assert resume(home, out, "single") == 0
    assert "the end of the run, makes it anew" in capsys.readouterr().err
    assert json.loads((out / "best" / "step.json").read_text()) == {"step": 9}
    (out / "best" / "step.json").write_text("{")
    (out / "metrics.json").unlink()
    assert resume(home, out, "single") == 0 and json.loads((out / "metrics.json").read_text())["step"] == 9


def test_what_is_trained_may_grow_and_not_shrink(home, tmp_path, capsys):
    """A parameter's moments go by its name: those of the heads are kept, those of the encoder begin."""
    heads = ("--strategy", "mtl", "--option", "pretrain", "--max_steps", 2)
    changed = "option,max_steps,lr,head_lr_scale"  # the usual rates of the two options differ
    more = ("--strategy", "mtl", "--max_steps", 4, "--resume", "auto", "--allow_change", changed)
    assert train(home, tmp_path, *heads) == 0 and train(home, tmp_path, *more) == 0
    assert train(home, tmp_path, *more, "--option", "pretrain", "--max_steps", 5) == 2
    assert "--option was finetune, is pretrain; take those" in capsys.readouterr().err


def test_a_finished_run_can_be_made_longer(home, tmp_path, capsys, monkeypatch):
    """Steps 10 to 12 follow the log's first nine lines; until they are made, and predicted from, it is not complete."""
    out = shutil.copytree(undisturbed(home, "single"), tmp_path / "run")
    longer = ("--max_steps", 12, "--allow_change", "max_steps")
    assert resume(home, out, "single", *longer[:2]) == 2
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 999, 1))
        assert resume(home, out, "single", *longer) == 7 and (out / "metrics.json").is_file()
    with when_opened(".tmp-sst-test-output.csv", fail):
        assert resume(home, out, "single", *longer) == 1
    assert not (out / "metrics.json").exists()
    capsys.readouterr()
    assert resume(home, out, "single", *longer) == 0
    assert "complete" not in capsys.readouterr().err
    assert outcome(out)["step"] == "step-000012"
    assert outcome(out)["log"][:12] == outcome(undisturbed(home, "single"))["log"]
    assert [line["step"] for line in outcome(out)["log"] if "losses" in line] == list(range(1, 13))


def test_a_run_that_stopped_early_goes_on_with_more_patience(home, tmp_path, capsys):
    options = ("--eval_every", 1, "--patience")
    with accuracy_by("classes", scripted(0.5)):
        assert train(home, tmp_path, *SETTINGS["single"], *options, 2) == 0
        assert resume(home, tmp_path, "single", *options, 2) == 0
        assert "complete at step 3 by --patience; for more steps give" in capsys.readouterr().err
        assert resume(home, tmp_path, "single", *options, 4, "--allow_change", "patience") == 0
    assert outcome(tmp_path)["step"] == "step-000005"


# ---- what is resumed from --------------------------------------------------------------------------------------------


@pytest.mark.fault(7)
def test_nothing_to_resume_from(home, tmp_path, capsys):
    """It starts. But another run's checkpoint is refused, for its best model is not in this folder; and a finished run
    that has lost its checkpoints is not begun anew, by --resume auto in a script, say."""
    path = saved(undisturbed(home, "single") / "checkpoints")[0]
    assert train(home, tmp_path / "run", *SETTINGS["single"], "--resume", path) == 2
    assert "--init_from" in capsys.readouterr().err
    assert resume(home, tmp_path / "run", "single") == 0
    assert "no checkpoint in" in capsys.readouterr().err
    assert outcome(tmp_path / "run") == outcome(undisturbed(home, "single"))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = contents(tmp_path / "run")
    assert resume(home, tmp_path / "run", "single") == 2
    assert "holds a finished run without a checkpoint" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before


@pytest.mark.fault(7)
def test_an_earlier_checkpoint_by_its_path(home, tmp_path, capsys):
    """What lay after it goes when there is a new one: --resume auto would take it for the newest."""
    out = interrupted(home, tmp_path / "run", "single", 7)
    there = [path.name for path in saved(out / "checkpoints")]
    assert there == ["step-000006", "step-000004"]
    nowhere, earlier = (("--resume", out / "checkpoints" / name) for name in ("step-000123", "step-000004"))
    assert train(home, out, *SETTINGS["single"], *nowhere) == 2
    assert ", ".join(there) in capsys.readouterr().err
    shutil.copytree(out, tmp_path / "copy")
    again = [*earlier[:1], tmp_path / "copy" / "checkpoints" / "step-000004"]
    interrupted(home, tmp_path / "copy", "single", 5, *again)  # before it has saved anything
    assert [path.name for path in saved(tmp_path / "copy" / "checkpoints")] == ["step-000004"]
    assert ends_undisturbed(home, tmp_path / "copy", "single")
    interrupted(home, out, "single", 6, *earlier, "--save_every", 1)
    assert [path.name for path in saved(out / "checkpoints")] == ["step-000005", "step-000004"]
    assert train(home, out, *SETTINGS["single"], *earlier) == 0
    assert outcome(out) == outcome(undisturbed(home, "single"))
    shorter = ("--max_steps", 8, "--allow_change", "max_steps", "--resume", out / "checkpoints" / "step-000008")
    assert train(home, out, *SETTINGS["single"], *shorter) == 0  # complete only without what followed
    assert json.loads((out / "metrics.json").read_text())["steps"] == 8
    assert saved(out / "checkpoints")[0].name == "step-000008"


@pytest.mark.fault(10)
def test_other_options_are_refused(home, tmp_path, capsys):
    """With the name, what it was and what it is; options that change no weight are free."""
    make_bert_folder(tmp_path / "bert", seed=1)
    out = interrupted(home, tmp_path / "run", "single", 4)
    before = contents(out)
    other = {"batch_size": "7", "seed": "1", "lr": "0.1", "eval_every": "3", "hidden_dropout_prob": "0.2"}
    other |= {"sts_gamma": "0.25", "checkpoint": str(tmp_path / "bert"), "arch": "v2", "option": "pretrain"}
    other |= {"pooling": "cls", "layer": "-2", "max_length": "9"}
    never = ("arch", "option", "pooling", "layer", "max_length")
    for option, value in other.items():
        assert resume(home, out, "single", f"--{option}", value) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.search(rf"--{option}( \(or --init_from\))? was ", error) and value in error
        assert ("--allow_change" in error) == (option not in never)
    allowed = "option,lr,head_lr_scale"
    assert resume(home, out, "single", "--option", "pretrain", "--allow_change", allowed) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("is pretrain; take those")
    assert resume(home, out, "single", "--tasks", "sts") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--tasks was sst, is sts" in error and error.endswith("take those") and "task_definitions" not in error
    assert resume(home, out, "single", "--lr", 0.1, "--seed", 1, "--allow_change", "lr") == 2
    error = capsys.readouterr().err
    assert "--seed was 0, is 1" in error and "--lr was" not in error
    assert {name: part for name, part in contents(out).items() if name in before} == before
    free = ("--log_every", 2, "--save_every", 7, "--device", "cpu")  # which "auto" has come to
    assert resume(home, out, "single", "--lr", 0.1, "--allow_change", "lr", *free) == 0


@pytest.mark.fault(10)
def test_other_data_are_refused(home, tmp_path, capsys):
    """Other rows under the same names, unless they are wanted; the same rows in another folder are fine, and so are
    other test files."""
    out = interrupted(home, tmp_path / "run", "single", 6)
    data = ("--data_dir", make_data_folder(tmp_path / "data", seed=1))
    shutil.copytree(out, tmp_path / "copy")
    assert resume(home, tmp_path / "copy", "single", *data, "--allow_change", "data_dir") == 0
    assert "dev has other rows than before" in capsys.readouterr().err
    assert json.loads((tmp_path / "copy" / "metrics.json").read_text())["step"] > 4  # not the best on the old dev
    assert resume(home, out, "single", *data) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "ids-sst-train.csv" in error and "ids-sst-dev.csv" in error
    assert "test-student" not in error and "quora-train" not in error  # which is not this run's
    for path in (home / "data").glob("*[nv].csv"):
        shutil.copy(path, tmp_path / "data")
    assert resume(home, out, "single", *data) == 0


@pytest.mark.fault(10)
def test_own_tasks_that_have_changed_are_refused(home, tmp_path, capsys):
    """Their file and their rows may lie elsewhere; what it says of them, and which rows are dev's, must be the same."""
    own, out = make_own_tasks(tmp_path / "own"), tmp_path / "run"
    options = ("--strategy", "single", "--tasks", "urgency", "--max_steps", 4, "--resume", "auto", "--task_file")
    with before_update(lambda number: fail() if number == 4 else None):
        assert train(home, out, *options, own, "--save_every", 1) == 1
    text = own.read_text()
    for old, new, code, message in (
        ("dev = 0.1", "dev = 0.2", 3, "mail.csv"),
        ("range = [1, 7]", "range = [1, 8]", 2, "urgency's range was [1, 7], is [1, 8]; take those"),
        ('label = "urgency"', 'label = "urgency"\nmetric = "em"', 2, "'em'"),
    ):
        own.write_text(text.replace(old, new))
        assert train(home, out, *options, own) == code
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error and "--allow_change task_definitions" not in error
    own.write_text(text)
    assert train(home, out, *options, own, "--seed", 1, "--allow_change", "seed") == 3  # dev would be trained rows
    own.write_text(text.replace('label = "urgency"', 'label = "urgency"\nmeaning = "1 can wait"'))  # for people alone
    (tmp_path / "own").rename(tmp_path / "moved")
    assert train(home, out, *options, tmp_path / "moved" / own.name) == 0


def damage(path: Path) -> None:
    """One bit."""
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


@pytest.mark.fault(4, 5, 6)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(home, tmp_path, capsys):
    """It stays, through the saves that follow, until one of the same step takes its place. With none before: exit 4."""
    out = interrupted(home, tmp_path / "run", "single", 9)
    newest, *before = saved(out / "checkpoints")
    assert (newest.name, before[0].name) == ("step-000008", "step-000006")
    damage(newest / "model.safetensors")
    assert train(home, out, *SETTINGS["single"], "--resume", newest) == 4
    shutil.copytree(out, tmp_path / "copy")
    for path in before:
        damage(tmp_path / "copy" / "checkpoints" / path.name / "state.json")
    assert resume(home, tmp_path / "copy", "single") == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(path.name in error for path in (newest, *before))
    damaged = contents(newest)
    with before_update(lambda number: fail() if number == 8 else None):
        assert resume(home, out, "single", "--save_every", 1) == 1
    assert f"{newest / 'model.safetensors'}: expected " in capsys.readouterr().err
    assert contents(newest) == damaged and saved(out / "checkpoints")[1].name == "step-000007"
    assert ends_undisturbed(home, out, "single")


@pytest.mark.parametrize("removed", [True, False])
def test_a_best_model_that_is_not_this_line_s_is_replaced(home, tmp_path, removed):
    """best/ is of step 8, or gone; the run goes on from step 4, with another learning rate, and gets no better: of the
    steps that it has made the fourth is the best, whose checkpoint stays until best/ can be made of it."""
    options = ("--lr", 0.1, "--allow_change", "lr", "--resume", tmp_path / "checkpoints" / "step-000004")
    with accuracy_by("classes", scripted(0.5, 0.9, 0.1)):
        interrupted(home, tmp_path, "single", 9, "--save_every", 4)
        assert json.loads((tmp_path / "best" / "step.json").read_text()) == {"step": 8}
        shutil.copytree(tmp_path / "checkpoints" / "step-000004", tmp_path / "4")
        if removed:
            shutil.rmtree(tmp_path / "best")
        assert train(home, tmp_path, *SETTINGS["single"], *options) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 4
    best, kept = (load_file(tmp_path / name) for name in ("best/heads.safetensors", "4/heads.safetensors"))
    assert best.keys() == kept.keys() and all(torch.equal(best[name], kept[name]) for name in best)


HEAD = "heads.tasks.sst_head.f.4.bias"


@pytest.mark.fault(8, 9)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, stored: stored["progress"].update(momentum=1), "momentum"),
        (lambda tensors, stored: stored.update(extra=1), "extra"),
        (lambda tensors, stored: stored.pop("scaler"), "expected .*scaler.*; found"),
        (lambda tensors, stored: tensors["heads"].update({HEAD: torch.zeros(7)}), r"\(expected \(5,\), found \(7,\)\)"),
        (lambda tensors, stored: tensors["heads"].pop(HEAD), f"missing: {HEAD}"),
        (lambda tensors, stored: tensors["model"].update(new=torch.zeros(3)), "unexpected: new"),
        (lambda tensors, stored: tensors["heads"][HEAD].fill_(torch.nan), f"NaN or infinite: {HEAD}"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(home, tmp_path, change, message):
    """Another version's state, or other tensors: what does not fit is named, with both shapes."""
    out = shutil.copytree(undisturbed(home, "single"), tmp_path / "run")
    tensors, stored = checkpoint.load(saved(out / "checkpoints")[0])
    change(tensors, stored)
    path = checkpoint.save(out / "checkpoints", 9, tensors, stored)
    session = make_session(home, *SETTINGS["single"], "--output_dir", out, "--resume", "auto")
    before = {key: weight.clone() for key, weight in session.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"{path}.*{message}"):
        train_multitask.resume(session)
    assert all(torch.equal(weight, before[key]) for key, weight in session.model.state_dict().items())
    assert session.state.step == 0 and not session.optimizer.state and session.last_good == 0


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.fault(3, 13)
def test_a_save_that_fails_is_tried_again_but_for_the_last(home, tmp_path, capsys):
    """After a step, or after an evaluation; and the best model."""
    for name, step, best in (("step-000006", 6, 8), ("step-000008", 8, 8), ("best", 4, 8)):
        out, scores = tmp_path / name, accuracy_by("classes", scripted(0.2, 0.3, 0.1))
        with when_opened(f".tmp-{name}", no_room), scores:
            assert train(home, out, *SETTINGS["single"]) == 0
        what = "best model" if name == "best" else "checkpoint"
        assert f"warning: no {what} at step {step}: " in capsys.readouterr().err and not leftovers(out)
        assert outcome(out)["tensors"] == outcome(undisturbed(home, "single"))["tensors"]
        assert outcome(out)["metrics"]["step"] == best
    out = tmp_path / "last"
    with when_opened(".tmp-step-000009", no_room):
        assert train(home, out, *SETTINGS["single"]) == 7
    assert "step-000009: not written" in capsys.readouterr().err and not leftovers(out)
    assert saved(out / "checkpoints")[0].name == "step-000008" and ends_undisturbed(home, out, "single")


@pytest.mark.fault(13)
def test_where_neither_best_nor_checkpoint_could_be_written_the_best_before_stands(home, tmp_path):
    """Evaluations after 4, 8 and 9 steps: the disk is full for all of the second, which was the best."""

    def full(number: int) -> None:
        if number == 8:  # before the step's update, so before its evaluation
            for part in (".tmp-best", ".tmp-step-000008"):
                stack.enter_context(when_opened(part, no_room))

    with ExitStack() as stack, accuracy_by("classes", scripted(0.2, 0.3, 0.1)), before_update(full):
        assert train(home, tmp_path, *SETTINGS["single"]) == 0
    assert outcome(tmp_path)["metrics"]["step"] == 4
    assert json.loads((tmp_path / "best" / "step.json").read_text()) == {"step": 4}


@pytest.mark.fault(62)
def test_a_best_model_that_fails_after_the_last_step_is_made_of_that_step_s_checkpoint(home, tmp_path, capsys):
    def full(number: int) -> None:
        if number == 9:
            stack.enter_context(when_opened(".tmp-best", no_room))

    with ExitStack() as stack, accuracy_by("classes", scripted(0.1, 0.2, 0.3)), before_update(full):
        assert train(home, tmp_path, *SETTINGS["single"]) == 0
    assert "warning: no best model at step 9: " in capsys.readouterr().err
    assert outcome(tmp_path)["metrics"]["step"] == 9
    assert json.loads((tmp_path / "best" / "step.json").read_text()) == {"step": 9}


@pytest.mark.fault(13)
@pytest.mark.parametrize("name", ["sst-dev-output.csv", "metrics.json"])
def test_a_disk_that_is_full_at_the_end(home, tmp_path, capsys, name):
    with when_opened(f".tmp-{name}", no_room):
        assert train(home, tmp_path, *SETTINGS["single"]) == 7
    assert f"{name}: not written" in capsys.readouterr().err and not leftovers(tmp_path)
    assert ends_undisturbed(home, tmp_path, "single")
