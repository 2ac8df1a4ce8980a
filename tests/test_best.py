"""experiments/best.py: a run with its recipe, of which what is given wins."""

import json
import shutil

import pytest
import tiny_run

import train_multitask
from data import SAMPLE_DIR
from experiments.best import main
from runtime.errors import run_cli
from training.options import parse


def test_a_run_by_the_recipe_with_all_prediction_files(tmp_path, capsys):
    with tiny_run.workshop(tmp_path) as home:
        words = ["--checkpoint", "--data_dir", "--amp", "--max_steps", "--sts_gamma", "--seed"]
        values = [home / "bert", home / "data", "off", 2, 0.25, 3]
        given = [str(word) for pair in zip(words, values, strict=True) for word in pair]
        assert run_cli(main, [*given, "--pairs", "para=cross", "--output_dir", str(home / "run")]) == 0
    config = json.loads((home / "run" / "config.json").read_text())
    assert config["batch_size"] == {"sst": 8, "para": 32, "sts": 16} and config["epochs"] == 3  # of the recipe
    assert (config["sts_gamma"], config["seed"]) == (0.25, 3)
    assert config["pairs"] == {"sst": "siamese", "para": "cross", "sts": "siamese"}  # in place of the recipe's
    files = {path.name for path in (home / "run" / "predictions").glob("*.csv")}
    assert files == {f"{task}-{split}-output.csv" for task in ("sst", "para", "sts") for split in ("dev", "test")}
    assert "para_acc" in capsys.readouterr().out


@pytest.mark.parametrize("phrases, rows, dropout", [(True, 64, 0), (False, 8, None)])
def test_with_ssts_phrases_the_recipe_is_another(tmp_path, monkeypatch, phrases, rows, dropout):
    given = []
    monkeypatch.setattr(train_multitask, "main", lambda words, description: given.append(parse(words)))
    data = shutil.copytree(SAMPLE_DIR, tmp_path / "data")
    with open(data / "ids-sst-train.csv", "a") as file:
        file.write("0\tphrase-1\ta gem of a film\t4\n" * phrases)
    words = ["--data_dir", str(data)]
    main(words)
    assert given[0].batch_size == {"sst": rows, "para": 32, "sts": 16}
    assert given[0].bert_dropout_prob == dropout
    main([*words, "--option", "pretrain"])  # not refused for an option that nobody gave
