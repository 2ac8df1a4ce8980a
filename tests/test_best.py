"""experiments/best.py: a run with its recipe, of which what is given wins."""

import json

import tiny_run

from experiments.best import main
from runtime.errors import run_cli


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
