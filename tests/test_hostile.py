"""Hostile files, options and moments: nobody else's files are touched, nothing bad passes in silence, and what a user
got wrong is one line with its own exit code. `python -m tools.abuse` looks for more."""

import errno
import itertools
import json
import os
import shutil
import signal
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import child
import pytest
import tiny_run
import torch
from tiny import make_bert_folder, make_data_folder
from tiny_run import (
    accuracy_by,
    before_update,
    contents,
    evaluate_run,
    exit_code,
    leftovers,
    make_session,
    scripted,
    train,
)

import evaluate
import train_multitask
from bert import BertTokenizer, hub
from data import download
from data.reader import is_blank
from experiments import attention, figure3, plot
from heads import MultitaskBert, files
from heads.config import HeadsConfig
from runtime.errors import CheckpointError, run_cli
from runtime.files import lock
from tools.soak import SETTINGS
from training import checkpoint
from training.checkpoint import saved

SINGLE = ("--strategy", "single", "--tasks", "sst", "--max_steps", 2)


@pytest.fixture(scope="module")
def finished(home) -> Path:
    assert train(home, home / "run", *SINGLE) == 0
    return home / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A finished run of one's own."""
    out = shutil.copytree(finished, tmp_path / "run")
    change_json(out / "config.json", output_dir=str(out))
    return out


def refusal(capsys, code: int, *parts: object) -> str:
    """The last line on stderr: an error with these parts that is no bug. code: the exit code that was given."""
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and "a bug of this program" not in line and code in (2, 3, 4, 5, 6, 7, 8), line
    assert all(str(part) in line for part in parts), line
    return line


def check_end(capsys, code: int, *refusals: int) -> None:
    """A program has ended well, or has refused something in a line, with one of these exit codes."""
    if code:
        refusal(capsys, code)
        assert code in refusals


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def quickly(action: Callable[[], int]) -> int:
    """The exit code of the action, in a child that is killed where it hangs or takes 2 GB more than it has."""

    def limited() -> None:
        import resource

        signal.alarm(60)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**31, size + 2**31))
        sys.stderr.flush()
        os._exit(action())

    return child.run(limited)


# ---- other people's files --------------------------------------------------------------------------------------------


@pytest.mark.fault(52)
@pytest.mark.parametrize("name", [".minbert.lock", ".minbert.pid"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_the_lock_is_never_written_through(home, tmp_path, capfd, name, kind):
    out, target = tmp_path / "out", tmp_path / "mine.txt"
    out.mkdir()
    (out / ".lock").write_text("mine")
    os.mkfifo(out / name) if kind == "pipe" else (out / name).symlink_to(target)
    if kind == "link":
        target.write_text("mine")
    for options in ((), ("--dry_run",)):
        assert quickly(lambda options=options: train(home, out, *SINGLE, *options)) == 2
        refusal(capfd, 2, name)
    assert target.exists() == (kind == "link") and (not target.exists() or target.read_text() == "mine")
    assert {path.name for path in out.iterdir()} <= {".lock", ".minbert.lock", ".minbert.pid"}
    assert (out / ".lock").read_text() == "mine"


@pytest.mark.fault(53)
def test_names_that_are_not_a_run_s_stay(home, tmp_path):
    out, there = tmp_path / "out", tmp_path / "predictions"
    mine = {out / ".tmp-notes.2024", out / ".old-thesis.2023", out / ".trash-best.2024-draft", there / ".tmp-x.1"}
    mine |= {there / ".tmp-my-output.csv.2024", out / ".tmp-config.json.bak", out / "checkpoints" / ".tmp-step-2.1a"}
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    options = (*SINGLE, "--predictions_dir", there)
    assert train(home, out, *options, "--dry_run") == 0
    assert train(home, out, *options) == 0
    assert train(home, out, *options, "--resume", "auto", "--max_steps", 3, "--allow_change", "max_steps") == 0
    assert all(path.read_text() == "mine" for path in mine)
    ours = [out / ".tmp-best.71", there / ".tmp-sst-dev-output.csv.71", out / "checkpoints" / ".tmp-step-000003.71"]
    ours += [out / ".tmp-dry-run.71"]
    for path in ours:
        path.mkdir()
    assert train(home, out, *SINGLE, "--dry_run") == 2  # holds a run: nothing is touched
    assert all(path.is_dir() for path in ours)
    longer = ("--resume", "auto", "--max_steps", 4, "--allow_change", "max_steps")
    assert train(home, out, *options, *longer) == 0
    assert not any(path.exists() for path in ours) and all(path.read_text() == "mine" for path in mine)


@pytest.mark.fault(54)
@pytest.mark.parametrize("name", ["best", "checkpoints", "predictions", "predictions/readable", "log.jsonl"])
def test_a_link_in_the_run_s_folder_is_refused_by_name(home, run, tmp_path, capsys, name):
    target = tmp_path / "theirs"
    (run / name).rename(target)
    (run / name).symlink_to(target)
    new = tmp_path / "new"
    (new / name).parent.mkdir(parents=True)
    (new / name).symlink_to(target)
    before = contents(tmp_path)
    for out, options in ((run, ("--overwrite",)), (run, ("--resume", "auto")), (new, ()), (new, ("--resume", "auto"))):
        assert train(home, out, *SINGLE, *options) == 2
        refusal(capsys, 2, out / name)
    if name.startswith("predictions"):
        assert evaluate_run(run) == 2
        refusal(capsys, 2, run / name)
    assert contents(tmp_path) == before and not (tmp_path / "run.old").exists()


@pytest.mark.fault(55)
def test_what_a_run_starts_from_is_never_replaced(home, run, tmp_path, capsys):
    shutil.copytree(home / "bert", run / "best" / "plain")
    shutil.copytree(home / "data", run / "data")
    (tmp_path / "link").symlink_to(run)
    before = contents(run)
    sources = [("--init_from", run), ("--init_from", run / "best"), ("--init_from", tmp_path / "link")]
    sources += [("--checkpoint", run / "best" / "plain"), ("--data_dir", run / "data")]
    for source in sources:
        assert train(home, run, *SINGLE, *source, "--overwrite") == 2
        refusal(capsys, 2, "--overwrite")
    assert train(home, run, *SINGLE, "--checkpoint", run / "best" / "plain") == 2
    refusal(capsys, 2, f"--output_dir: expected all that the run starts from outside {run / 'best'}, which it replaces")
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.json").unlink()
    before = contents(run)
    assert train(home, run, *SINGLE, "--init_from", run / "best", "--resume", "auto") == 2
    assert contents(run) == before and not (tmp_path / "run.old").exists()


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "metrics.json", "best"])
def test_resuming_where_no_run_is(home, tmp_path, capsys, name):
    """A plain model's folder, say."""
    out = tmp_path / "out"
    shutil.copytree(home / "bert", out / name if name == "best" else out)
    if name != "best":
        (out / name).write_text((out / "config.json").read_text())
    before = contents(out)
    assert train(home, out, *SINGLE, "--resume", "auto") == 2
    refusal(capsys, 2, out, "without a checkpoint")
    assert contents(out) == before


@pytest.mark.fault(56)
def test_a_run_that_ended_before_its_first_checkpoint_begins_again(home, tmp_path):
    with before_update(lambda number: 1 / 0):
        assert train(home, tmp_path / "killed", *SINGLE) == 1
    assert train(home, tmp_path / "killed", *SINGLE, "--resume", "auto") == 0


@pytest.mark.fault(68)
@pytest.mark.parametrize("inside", [True, False])
def test_a_wrong_file_behind_a_link_in_the_model_cache(tmp_path, monkeypatch, inside):
    """huggingface_hub's own links lead into the cache, where what was fetched goes. Others are told by their name."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    target = tmp_path / ("cache/blobs/x" if inside else "mine/model.safetensors")
    target.parent.mkdir(parents=True)
    target.write_text("wrong")
    link = tmp_path / "cache" / "snapshots" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(CheckpointError, match=f"{link}: expected sha256 00; found"):
        hub.check_sha256(link, "00")
    assert target.exists() != inside and (inside or link.is_symlink())


@pytest.mark.fault(69)
def test_a_killed_evaluation_leaves_nothing_for_good(run, tmp_path):
    for folder in (run / "predictions", tmp_path / "elsewhere"):
        evaluation = partial(evaluate_run, run, "--predictions_dir", folder)
        for name in ("sst-dev-output.csv", "sst-dev.tsv"):
            events = rf"os.rename .*/\.tmp-{name}"
            assert child.run(lambda at=events, go=evaluation: [child.die_at(at), go()]) == -signal.SIGKILL
        assert len(leftovers(folder)) >= 1
        assert evaluation() == 0 and not leftovers(folder)


# ---- nothing bad in silence ------------------------------------------------------------------------------------------


@pytest.mark.fault(57)
def test_evaluating_other_rows_than_the_runs_is_told(run, tmp_path, capsys):
    """And their predictions do not replace the run's."""
    assert evaluate_run(run, "--split", "all") == 0 and "not the rows" not in capsys.readouterr().err
    other, before = make_data_folder(tmp_path / "other", seed=1), contents(run)
    for folder, split in itertools.product((run, run / "best"), ("dev", "test")):
        words, found = (folder, "--split", split, "--data_dir", other), other / f"ids-sst-{split}.csv"
        found = found if split == "dev" else found.with_name("ids-sst-test-student.csv")
        for more in ((), ("--predictions_dir", run / "predictions")):
            assert evaluate_run(*words, *more) == 2
            refusal(capsys, 2, f"{found}: not the rows that the run had; its own predictions in")
        assert evaluate_run(*words, "--predictions_dir", tmp_path / "p") == 0
        assert f"warning: {found}: not the rows that the run had" in capsys.readouterr().err
    assert contents(run) == before


@pytest.mark.fault(58)
def test_nobody_evaluates_beside_a_training_run(run, tmp_path, capsys):
    before = contents(run)
    with lock(run):
        for words in ((run,), (run / "best", "--predictions_dir", tmp_path / "p")):
            assert evaluate_run(*words) == 2
            refusal(capsys, 2, f"in use by process {os.getpid()}")
    assert contents(run) == before and not (tmp_path / "p").exists()
    plain = shutil.copytree(run / "best", tmp_path / "plain")  # nobody trains there
    with lock(plain):
        assert evaluate_run(plain, "--data_dir", tmp_path / "nowhere") == 3


@pytest.mark.fault(58)
def test_a_model_that_is_replaced_while_it_is_read(run, monkeypatch):
    """Never the encoder of one and the heads of another."""
    original = files.read_tensors

    def replaced(path):
        shutil.move(run / "best", run / "was")
        shutil.copytree(run / "was", run / "best")
        return original(path)

    monkeypatch.setattr(files, "read_tensors", replaced)
    with pytest.raises(CheckpointError, match="replaced while it was read; try again"):
        MultitaskBert.from_pretrained(run)


@pytest.mark.fault(59)
def test_predictions_of_another_run_stay_and_lost_ones_are_made_again(home, run, tmp_path, capsys):
    theirs = tmp_path / "theirs"
    assert train(home, theirs, *SINGLE, "--seed", 3) == 0
    before, resumed = contents(theirs), ("--resume", "auto")
    for out, options in ((tmp_path / "new", ()), (tmp_path / "new", resumed), (run, resumed)):
        assert train(home, out, *SINGLE, *options, "--predictions_dir", theirs / "predictions") == 2
        refusal(capsys, 2, "--predictions_dir", theirs / "predictions")
    assert evaluate_run(run, "--predictions_dir", theirs / "predictions") == 2
    refusal(capsys, 2, "--predictions_dir", theirs)
    assert contents(theirs) == before
    elsewhere = ("--predictions_dir", tmp_path / "elsewhere")
    assert train(home, run, *SINGLE, *resumed, *elsewhere) == 0
    mine = contents(run / "predictions")
    assert contents(tmp_path / "elsewhere") == mine and len(mine) == 3
    assert train(home, run, *SINGLE, *resumed, *elsewhere) == 0
    assert "complete at step 2" in capsys.readouterr().err
    shutil.rmtree(run / "predictions")
    shutil.rmtree(run / "best")
    assert train(home, run, *SINGLE, *resumed) == 0
    assert contents(run / "predictions").keys() == mine.keys() and (run / "best").is_dir()
    new = ("--predictions_dir", theirs / "predictions", "--overwrite")
    assert train(home, tmp_path / "new", *SINGLE, *new) == 0
    assert contents(theirs / "predictions").keys() == mine.keys()


@pytest.mark.fault(60)
def test_a_run_that_took_no_step_is_not_done(home, tmp_path, capsys):
    assert train(home, tmp_path / "none", *SINGLE, "--loss_scale", 1e300) == 5
    refusal(capsys, 5, "no step", "2 of 2")
    assert not (tmp_path / "none" / "metrics.json").exists()
    assert train(home, tmp_path / "some", *SINGLE) == 0
    assert "skipped" not in capsys.readouterr().err


@pytest.mark.fault(61)
def test_what_is_blank_has_no_tokens_and_the_other_way_round(home):
    """Every character, by the tokenizer's own word; but those that this Python's Unicode does not know yet."""
    tokenizer, letters = BertTokenizer.from_pretrained(home / "bert"), [chr(n) for n in range(0x30000)]
    letters = [letter for letter in letters if unicodedata.category(letter) not in ("Cs", "Cn")]
    gone = {letter for letter, ids in zip(letters, tokenizer.ids(letters), strict=True) if len(ids) == 2}
    blank = {letter for letter in letters if is_blank(letter)}
    kinds = {unicodedata.category(letter) for letter in blank - gone}  # of a token at most that stands for anything
    assert gone <= blank and kinds <= {"Cf", "Mc", "Me", "Mn"}
    assert not any(map(is_blank, ("a\u200b", "\u4e2d", "\U0001f600", "!", "e\u0301"))) and is_blank("")


@pytest.mark.fault(62)
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_best_checkpoint_is_kept_until_best_stands(home, tmp_path, capsys, interrupted):
    """best/ cannot be written at step 4, the best; those of 8 and 9 are worse."""
    options, expected = SETTINGS["single"], tmp_path / "expected"
    with accuracy_by("classes", scripted(0.9, 0.3, 0.1)):
        assert train(home, expected, *options) == 0
    out, original = tmp_path / "out", MultitaskBert.save

    def watched(model, folder):
        if "step-000009" not in [path.name for path in saved(out / "checkpoints")]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(model, folder)

    with accuracy_by("classes", scripted(0.9, 0.3, 0.1)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultitaskBert, "save", watched)
        if interrupted:
            with before_update(lambda number: 1 / 0 if number == 7 else None):
                assert train(home, out, *options) == 1
            assert "step-000004" in [path.name for path in saved(out / "checkpoints")]
        assert train(home, out, *options, "--resume", "auto") == 0
    assert "warning: no best model at step 4" in capsys.readouterr().err
    assert json.loads((out / "metrics.json").read_text())["step"] == 4
    assert contents(out / "best") == contents(expected / "best")
    assert contents(out / "predictions") == contents(expected / "predictions")


# ---- a user's mistake is no bug of the program -----------------------------------------------------------------------

DEEP = "[" * 100_000
ABSURD = (10**400, 2**40, -99, None, [], {}, True, 1e300, "\ud800", "../../up", float("nan"))
READ = {"task_definitions", "seed", "data_dir", "checkpoint", "machine", "data", "lora"}  # by evaluate.py, of a run's
READ |= {field.name for field in fields(HeadsConfig)}


@pytest.mark.fault(63)
@pytest.mark.parametrize("name", ["best/heads.json", "best/config.json", "config.json"])
def test_absurd_values_in_a_model_s_files(home, run, tmp_path, capsys, name):
    path = run / name
    whole, before = json.loads(path.read_text()), contents(tmp_path)
    texts = [DEEP, "[]", ""]
    for key in [key for key in whole if name != "config.json" or key in READ]:
        texts += [json.dumps(whole | {key: value}) for value in ABSURD]
    tasks = "tasks" if "heads" in name else "task_definitions"
    for key in whole.get(tasks, [{}])[0]:
        texts += [json.dumps(whole | {tasks: [whole[tasks][0] | {key: value}]}) for value in ABSURD]

    def read(words: list[str]) -> None:
        evaluate.read_run(run)

    for text in texts:
        path.write_text(text)
        refused = name == "config.json" and exit_code(read)  # without a model, which takes most of the time
        check_end(capsys, refused or evaluate_run(run, "--predictions_dir", tmp_path / "p"), 2, 3, 4)
    (tmp_path / "p").is_dir() and shutil.rmtree(tmp_path / "p")
    path.write_bytes(before[str(path.relative_to(tmp_path))])
    assert contents(tmp_path) == before


@pytest.mark.fault(63)
def test_absurd_values_in_a_checkpoint(home, run, capsys):
    """What the checkpoint's reader lets through, a run must be able to go on from."""
    tensors, state = checkpoint.load(saved(run / "checkpoints")[0])
    longer = (*SINGLE, "--resume", "auto", "--max_steps", 3, "--allow_change", "max_steps", "--dry_run")
    assert train(home, run, *longer) == 0
    session = make_session(home, *longer, "--output_dir", run)

    def check() -> None:
        refused = exit_code(lambda words: train_multitask.resume(session))  # without data and model to be read first
        check_end(capsys, refused or train(home, run, *longer), 2, 3, 4, 5)

    changes = [{key: value} for key in state for value in ABSURD]
    changes += [{"progress": state["progress"] | {key: value}} for key in state["progress"] for value in ABSURD]
    changes += [{"progress": {**state["progress"], "conflicts": {"a": value}}} for value in ABSURD]
    for change in changes:
        path = checkpoint.save(run / "checkpoints", 2, tensors, state)
        (path / "state.json").write_text(json.dumps(state | change))
        manifest = json.loads((path / "MANIFEST.json").read_text())
        manifest["files"]["state.json"] = checkpoint.describe(path / "state.json")
        (path / "MANIFEST.json").write_text(json.dumps(manifest))
        check()
    for stem, named in tensors.items():
        for name in [*named][:3]:
            for value in (torch.zeros(3), torch.zeros(2, 3, 5), torch.full_like(named[name], -1), None):
                others = {key: x for key, x in named.items() if key != name} | ({} if value is None else {name: value})
                checkpoint.save(run / "checkpoints", 2, tensors | {stem: others}, state)
                check()
        checkpoint.save(run / "checkpoints", 2, {s: x for s, x in tensors.items() if s != stem}, state)
        assert train(home, run, *longer) == 4


@pytest.mark.fault(63)
def test_absurd_values_in_the_step_of_the_best(home, run, capsys):
    for text in (DEEP, "\ufeff{}\n", "{}\n", *(json.dumps({"step": value}) for value in ABSURD)):
        (run / "best" / "step.json").write_text(text)
        check_end(capsys, train(home, run, *SINGLE, "--resume", "auto"), 2, 3, 4)


@pytest.mark.fault(64)
@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size"])
def test_a_model_of_absurd_size_is_refused_at_once(home, tmp_path, capfd, key):
    bert = make_bert_folder(tmp_path / "bert")
    for value in (10**6, 2**40, 10**400):
        change_json(bert / "config.json", **{key: value})
        options = (*SINGLE, "--checkpoint", bert)
        code = quickly(lambda options=options: train(home, tmp_path / "out", *options))
        refusal(capfd, code)
        assert code in (4, 7)  # the disk has no room for it


@pytest.mark.fault(65)
@pytest.mark.parametrize("kind", ["pipe", "endless", "huge"])
def test_only_plain_files_of_bounded_size_are_read(home, run, tmp_path, capfd, kind):
    def put(path: Path) -> None:
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "endless":
            path.symlink_to("/dev/zero")
        else:
            path.touch()
            os.truncate(path, 2**42)

    tries = {}
    for name in ("ids-sst-train.csv", "ids-sst-dev.csv"):
        data = shutil.copytree(home / "data", tmp_path / name)
        put(data / name)
        tries[name] = (3, lambda data=data: train(home, tmp_path / "out", *SINGLE, "--data_dir", data))
    for name in ("config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        bert = shutil.copytree(home / "bert", tmp_path / f"bert-{name}")
        if name == "vocab.txt":
            (bert / "tokenizer.json").unlink()
        put(bert / name)
        tries[name] = (4, lambda bert=bert: train(home, tmp_path / "out", *SINGLE, "--checkpoint", bert))
    weights = shutil.copytree(home / "bert", tmp_path / "weights")
    (weights / "model.safetensors").rename(weights / "pytorch_model.bin")
    put(weights / "pytorch_model.bin")
    tries["pytorch_model.bin"] = (4, lambda: train(home, tmp_path / "out", *SINGLE, "--checkpoint", weights))
    (tmp_path / "tasks.toml").touch()
    put(tmp_path / "tasks.toml")
    tries["tasks.toml"] = (2, lambda: train(home, tmp_path / "out", "--task_file", tmp_path / "tasks.toml"))
    put(run / "log.jsonl")
    tries["log.jsonl"] = (3, lambda: run_cli(plot.main, [str(run), "--output", str(tmp_path / "plot.png")]))
    put(saved(run / "checkpoints")[0] / "model.safetensors")
    longer = ("--resume", "auto", "--max_steps", 3, "--allow_change", "max_steps")
    tries["checkpoint"] = (2 if kind != "huge" else 4, lambda: train(home, run, *SINGLE, *longer))
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "ids-sst-train.csv").touch()
    put(tmp_path / "dest" / "ids-sst-train.csv")
    words = ["--dest", str(tmp_path / "dest"), "--base_url", "http://127.0.0.1:1"]
    tries["downloaded"] = (8, lambda: run_cli(download.main, words))
    for name, (code, action) in tries.items():
        assert quickly(action) == code, name
        assert "--batch_size" not in refusal(capfd, code), name


@pytest.mark.fault(65)
def test_a_download_without_an_end_is_ended(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(download, "urlopen", lambda url, timeout: open("/dev/zero", "rb"))  # noqa: SIM115 - closed there
    assert quickly(lambda: run_cli(download.main, ["--dest", str(tmp_path)])) == 4
    refusal(capfd, 4)


@pytest.mark.fault(66)
def test_nothing_that_moves_a_terminal_s_cursor_is_printed_raw(home, tmp_path, capsys):
    """Not of ids, nor of the names of columns, files and classes."""
    data, nasty = shutil.copytree(home / "data", tmp_path / "data\x1b[31m"), "\x1b]0;x\x07\u202e\u200b\u2028"
    path = data / "ids-sst-train.csv"
    path.write_text(path.read_text().replace("sst-train-", nasty[:-1] + "sst-train-"))
    with tiny_run.loss_by("classes", lambda number, loss, y: loss * torch.nan):
        assert train(home, tmp_path / "run", *SINGLE, "--data_dir", data) == 5
    rows = "".join(f"{n % 2}\ta{n}\tgood{nasty}{n % 2}\n" for n in range(40))
    (tmp_path / "rows.tsv").write_text(f"x\ttext{nasty[:3]}\tlabel\n{rows}")
    (tmp_path / "my.toml").write_text(
        '[tasks.mine]\ntexts = ["text\\u001b]0"]\nlabel = "label"\ntrain = "rows.tsv"\ndev = 0.3\n'
    )
    own = ("--strategy", "single", "--max_steps", 1, "--task_file", tmp_path / "my.toml")
    assert train(home, tmp_path / "own", *own) == 0
    assert evaluate_run(tmp_path / "own", "--report") == 0
    streams = capsys.readouterr()
    for text in streams:
        assert {c for c in text if not c.isprintable()} <= {"\n"}
    assert r"\x1b]0;x\x07\u202e\u200bsst-train-" in streams.err


@pytest.mark.fault(67)
def test_an_empty_value_is_none(home, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for name in ("checkpoint", "output_dir", "init_from", "data_dir", "task_file", "predictions_dir", "resume"):
        for words in ((f"--{name}", ""), (f"--{name}=",)):
            assert train(home, tmp_path / "out", *SINGLE, *words) == 2
            refusal(capsys, 2, f"--{name}")
    assert evaluate_run("") == 2 and evaluate_run(run, "--predictions_dir", "") == 2
    for main, words in ((plot.main, [str(run)]), (attention.main, ["a dog"]), (figure3.main, [str(run)])):
        for output in ("", ".", "/", str(run)):
            assert run_cli(main, [*words, "--output", output]) == 2
            refusal(capsys, 2, "--output")
    assert sorted(tmp_path.rglob("*")) == before
