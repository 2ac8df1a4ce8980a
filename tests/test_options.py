"""runtime/settings.py and training/options.py: what is accepted, what it comes to, and what the refusals say."""

import argparse
import json
import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_tasks import make_own_tasks

import train_multitask
from data.tasks import TASKS
from runtime import settings
from runtime.errors import UsageError, run_cli
from training.options import OPTIONS, parse


def test_underscores_and_hyphens_and_values_as_they_are(monkeypatch):
    for words in (["--sts_gamma", "0.25"], ["--sts-gamma", "0.25"], ["--sts_gamma=0.25"], ["--sts-gamma=0.25"]):
        assert parse(words).losses.sts_gamma == 0.25
        monkeypatch.setattr("sys.argv", ["train_multitask.py", *words])
        assert parse().losses.sts_gamma == 0.25
    options = parse(["--layer", "-2", "--checkpoint=--a-b_c", "--overwrite", "--debug"])
    assert (options.heads.layer, options.checkpoint, options.overwrite) == (-2, "--a-b_c", True)
    with pytest.raises(UsageError, match=r"^expected an option; found '5'; .* --help lists them"):
        parse(["5", "--layer", "-2"])


def test_paths_may_differ_between_the_processes_of_a_run(tmp_path):
    one, other = (parse(["--checkpoint", str(tmp_path / name), "--data_dir", str(tmp_path)]) for name in ("a", "b"))
    assert one.shared_by_ranks() != other.shared_by_ranks()  # names on the Hub, as far as they can be
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert one.shared_by_ranks() == other.shared_by_ranks()


def test_help_names_every_option_with_its_default(capsys):
    shown = []
    for words in (["--help"], ["--help", "all"]):
        with pytest.raises(SystemExit) as exit:
            run_cli(train_multitask.main, words)
        text = capsys.readouterr().out
        shown.append({name for name in OPTIONS if f"--{name}" in text})
        assert exit.value.code == 0 and all(len(line) <= 120 for line in text.splitlines())
        text = " ".join(text.split())
        assert "fresh heads (default: 0)" in text
        assert ("more options: --help all" in text) == ("all" not in words)
    assert {"seed", "lr", "tasks", "resume"} < shown[0] < shown[1] == {*OPTIONS}
    usual, frozen = parse([]), parse(["--option", "pretrain"])  # the defaults that the help has in words
    found = (usual.surgery, usual.lr, usual.head_lr_scale, frozen.lr, frozen.head_lr_scale)
    assert found == ("pcgrad", 1e-4, 10, 1e-3, 1)
    assert usual.steps({"sst": 8544, "para": 22646, "sts": 6040}) == (944, 1888)
    words = ("default: pcgrad)", "default: 1e-4; with", "0.001 for both)", "default: 10; with", "default: 2, at")
    assert all(part in text for part in words)


@pytest.mark.parametrize(
    ("check", "kind", "fits"),
    [
        (settings.positive_int, int, lambda n: n >= 1),
        (settings.non_negative_int, int, lambda n: n >= 0),
        (settings.negative_int, int, lambda n: n <= -1),
        (settings.positive, float, lambda x: 0 < x < float("inf")),
        (settings.non_negative, float, lambda x: 0 <= x < float("inf")),
        (settings.probability, float, lambda x: 0 <= x <= 1),
        (settings.rate, float, lambda x: 0 <= x < 1),
    ],
)
@given(number=st.floats() | st.integers() | st.sampled_from([-1, 0, 1, 1e-300, "", "1e", "ten"]))
def test_ranges(check, kind, fits, number):
    text = str(number)
    try:
        expected = kind(text)
    except ValueError:
        expected = None
    if expected is not None and fits(expected) and (kind is float or abs(expected) < 10**18):
        value = check(text)
        assert value == expected and type(value) is kind
    else:
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected .*; found"):
            check(text)


# ---- the options of a run --------------------------------------------------------------------------------------------


def test_options_are_complete_and_frozen():
    options = parse(["--batch_size", "sst=3,para=5", "--loss-scale", "2", "--arch", "v1", "--sts_gamma", "0.25"])
    assert options.task_names == ["sst", "para", "sts"]
    assert options.batch_size == {"sst": 3, "para": 5, "sts": TASKS["sts"].batch_size}
    assert options.loss_scale == {"sst": 2.0, "para": 2.0, "sts": 2.0}
    folder = "finetune-gs-batch_size=sst=3,para=5-loss_scale=2.0-arch=v1-sts_gamma=0.25"
    assert (options.surgery, options.output_dir) == ("pcgrad", Path("runs") / folder)
    assert options.predictions_dir == options.output_dir / "predictions"
    assert (options.heads.arch, options.heads.pooling, options.losses.sts_gamma) == ("v1", "cls", 0.25)
    assert (options.data_dir / "sts-train.csv").is_file() and options.data_name.endswith(f" in {options.data_dir}")
    content = json.loads(json.dumps(options.as_json()))
    assert content.keys() == {*OPTIONS} | {"task_definitions"} and content["tasks"] == ["sst", "para", "sts"]
    for part, name in ((options, "lr"), (options.heads, "layer"), (options.losses, "para_loss")):
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, 0)


def test_which_tasks(tmp_path):
    """In their tables' order, each once; a task file's alone, unless others are named."""
    own = ["--task_file", str(make_own_tasks(tmp_path)), "--strategy", "mtl"]
    assert parse(["--tasks", "sts,sst"]).task_names == ["sst", "sts"]
    assert parse(own).task_names == ["nli", "urgency", "topics", "mood"]
    mixed = parse([*own, "--tasks", "urgency,cfimdb,nli", "--batch_size", "nli=5", "--loss_scale", "cfimdb=2"])
    assert mixed.task_names == ["cfimdb", "nli", "urgency"]
    assert mixed.batch_size == {"cfimdb": 8, "nli": 5, "urgency": 7}
    assert mixed.loss_scale == {"cfimdb": 2.0, "nli": 1.0, "urgency": 1.0}
    single = parse([*own, "--tasks", "nli", "--strategy", "single", "--data_dir", "elsewhere"])
    assert (single.output_dir, single.data_name) == (Path("runs/finetune-single-nli"), own[1])


def test_how_pairs_meet():
    assert parse([]).pairs == {"sst": "siamese", "para": "siamese", "sts": "siamese"}
    for words, ways in (("cross", ["siamese", "cross", "cross"]), ("sts=both", ["siamese", "siamese", "both"])):
        options = parse(["--pairs", words])
        assert [task.pairs for task in options.tasks] == [*options.pairs.values()] == ways


def test_the_default_folder_and_the_command_that_goes_on_with_it(tmp_path, monkeypatch):
    """The folder is the same where a run is made longer, or goes on with what is allowed to change."""
    monkeypatch.chdir(tmp_path)
    for words, folder in (
        ([], "finetune-gs"),
        (["--seed", "3", "--log_every", "2"], "finetune-gs-seed=3"),
        (["--seed", "3", "--max_steps", "9", "--resume", "auto", "--allow_change", "seed"], "finetune-gs"),
        (["--strategy", "single", "--tasks", "sts"], "finetune-single-sts"),
        (["--checkpoint", "a folder/x"], "finetune-gs-checkpoint=x"),
    ):
        assert parse(words).output_dir == Path("runs", folder)
    words = ["--overwrite", "--seed", "3", "--output-dir", "my runs/x"]
    command = "python train_multitask.py --seed 3 --output-dir 'my runs/x' --resume auto"
    assert parse(words).command == command
    assert parse([*words[1:], "--resume=auto", "--resume", "never"]).command == command


def test_a_run_to_resume_that_is_not_there(tmp_path, monkeypatch, capsys):
    """Those that could be meant are named. An option that --allow_change names is in no folder's name."""
    monkeypatch.chdir(tmp_path)
    for lr in (1, 2):
        Path("runs", f"finetune-gs-lr={lr}", "checkpoints").mkdir(parents=True)
    words = ["--lr", "3", "--resume", "auto"]
    assert parse(words).output_dir == Path("runs/finetune-gs-lr=3.0")
    others = "runs/finetune-gs-lr=1{}runs/finetune-gs-lr=2"
    assert f"no run in runs/finetune-gs-lr=3.0; to go on with {others.format(' or ')}, " in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"expected one run; found {others.format(', ')}; name one by --output_dir"):
        parse([*words, "--allow_change", "lr"])


@pytest.mark.fault(42)
@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ("--tasks sst,stz", ["--tasks", "sst, para, sts", "'stz'; did you mean sts?"]),
        ("--strategy single", ["--strategy single: expected one task; found sst,para,sts"]),
        ("--strategy gs --tasks sst", ["--strategy gs: expected two tasks or more; found sst"]),
        ("--strategy mtl --tasks sst", ["--strategy mtl: expected two tasks or more; found sst"]),
        ("--strategy gs --option pretrain --arch v2", ["v2 trains nothing that tasks share; take mtl"]),
        ("--strategy pcgrad", ["pcgrad is a surgery; take --strategy gs --surgery pcgrad"]),
        ("--tasks sst sts", ["found 'sts'; several values have commas between: --tasks sst,sts"]),
        ("--tasks sst,sst", ["--tasks: expected", "each once"]),
        ("--loss_scale sst=1,sst=2", ["--loss_scale: expected"]),
        ("--loss_scale =1", ["--loss_scale: expected"]),
        ("--batch_size sst:8", ["--batch_size: expected sst=8; found 'sst:8'"]),
        ("--output_dir o\udcff", ["expected text in UTF-8; found 'o\\udcff'"]),
        ("--dir x", ["--dir: no such option; ", "did you mean --data_dir or --predictions_dir?"]),
        ("--batch 8", ["--batch: no such option; ", "--help all lists every one; did you mean --batch_size?"]),
        ("--data_name x", ["--data_name: no such option"]),  # a field of the options, but none of them
        ("--seed", ["--seed: expected one argument"]),
        ("--pooling atention_mean", ["--pooling: expected one of cls, mean, ", "; did you mean attention_mean?"]),
        ("--surgery pcgard", ["--surgery: expected one of pcgrad", "found 'pcgard'; did you mean pcgrad?"]),
        ("--surgery cagrad:c=2", ["--surgery cagrad: c: expected a number in [0, 1); found 2.0"]),
        ("--surgery cagrad:d=2", ["--surgery cagrad: expected settings among c=0.5; found 'd'"]),
        ("--surgery mgda:c=2", ["--surgery mgda: expected no settings; found 'c'"]),
        ("--surgery fairgrad:p=x", ["--surgery fairgrad: p: expected a number; found 'x'"]),
        ("--weigh dwa:steps=2.5", ["--weigh dwa: steps: expected a whole number; found '2.5'"]),
        (
            "--pairs para=crossed",
            ["--pairs: expected one of siamese, cross, both; found 'crossed'; did you mean cross?"],
        ),
        ("--pairs sst=cross", ["--pairs: expected tasks of pairs; found sst, whose texts are single"]),
        ("--pairs pra=cross", ["--pairs: expected one of sst, para", "did you mean para?"]),
        ("--weigh famoo", ["--weigh: expected one of fixed, equal", "found 'famoo'; did you mean famo?"]),
        ("--weigh dwa:steps=0", ["--weigh dwa: expected temperature > 0 and steps >= 1; found 2.0, 0"]),
        ("--surgery pcgrad --strategy mtl", ["--surgery pcgrad: belongs to --strategy gs; found mtl; take one"]),
        ("--lr -1", ["--lr", "expected a number above 0; found '-1'"]),
        ("--epochs 0", ["--epochs", "expected a whole number, 1 or more; found '0'"]),
        ("--batch_size ssst=8", ["--batch_size", "sst, para, sts", "'ssst'; did you mean sst?"]),
        ("--layer 0", ["--layer", "-1 or less"]),
        ("--layer -7", ["--layer: expected -2 to -1; found -7"]),
        ("--max_length 2", ["--max_length: expected at least 3"]),
        ("--arch v1 --pooling mean", ["--pooling: ", "v1 stands on cls"]),
        ("--resume auto --overwrite", ["--overwrite", "take one of the two"]),
        ("--resume auto --allow_change lrr", ["--allow_change", "'lrr'; did you mean lr?"]),
        ("--lora 2 --resume auto --allow_change lora", ["--allow_change: expected one of option", "found 'lora'"]),
        ("--init_from nowhere", ["--checkpoint: --init_from names the weights"]),
        ("--task_file nowhere.toml --epochz 1", ["--epochz: no such option; ", "; did you mean --epochs?"]),
    ],
)
def test_options_that_are_refused(tiny_bert, tmp_path, capsys, monkeypatch, options, messages):
    monkeypatch.chdir(tmp_path)
    words = ["--checkpoint", str(tiny_bert), "--output_dir", "run", *options.split()]
    assert run_cli(train_multitask.main, words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and all(message in error for message in messages), error
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_folder_whose_name_is_no_utf_8_is_refused_before_the_training(tiny_bert, tmp_path, capsys, monkeypatch):
    """Though no word of the command has it."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert run_cli(train_multitask.main, ["--checkpoint", str(tiny_bert), "--output_dir", "run"]) == 2
    assert "error: --predictions_dir: expected a path in UTF-8; found '" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_tasks_whose_metrics_or_pairs_would_share_a_name_are_refused(tmp_path):
    entry = 'texts = ["a"]\nlabel = "l"\nclasses = ["x", "y"]\ntrain = "t.csv"\ndev = 0.5\n'
    for tasks, twice in (
        ({"m": "classes", "m_macro": "binary"}, "m_macro_f1"),
        (dict.fromkeys(("a-b", "c", "a", "b-c"), "binary"), "a-b-c"),
        (dict.fromkeys(("en", "en-de", "de-en"), "binary"), "en-de-en"),
    ):
        text = "".join(f'[tasks.{name}]\nkind = "{kind}"\n{entry}' for name, kind in tasks.items())
        (tmp_path / "my.toml").write_text(text)
        with pytest.raises(UsageError, match=f"--tasks: expected names that stay apart .* {twice} twice"):
            parse(["--task_file", str(tmp_path / "my.toml")])
