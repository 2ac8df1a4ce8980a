"""export.py: onnxruntime computes what the model does, from the folder alone; what else loads it; what is refused."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from tiny import TEXTS
from tiny_run import leftovers, train

import export
from evaluate import load_model
from export import SMALL, Encoder, OnnxModel
from heads import MultitaskBert
from heads.config import POOLINGS, HeadsConfig
from heads.inference import outputs
from runtime.errors import run_cli
from runtime.files import read_json

PAGE = (Path(__file__).parent.parent / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with tiny_run.workshop(tmp_path_factory.mktemp("home")) as home:
        assert train(home, home / "run", "--pairs", "sts=both", "--max_steps", 2) == 0
        yield home


@pytest.fixture(scope="module")
def printed(home) -> str:
    """What the command says, which writes home/exported."""
    with redirect_stdout(StringIO()) as out:
        assert run_cli(export.main, [str(home / "run"), "--output_dir", str(home / "exported"), "--int8"]) == 0
    assert not leftovers(home)
    return out.getvalue()


@pytest.fixture(scope="module")
def exported(home, printed) -> Path:
    return home / "exported"


@pytest.fixture(scope="module")
def model(home) -> MultitaskBert:
    return load_model(home / "run")


def test_onnxruntime_computes_the_models_outputs(exported, model):
    """Of texts of all lengths, an empty one and an unknown word among them, and of one alone."""
    ours = OnnxModel(model, exported)
    for texts in (TEXTS, TEXTS[:1]):
        np.testing.assert_allclose(ours.encode(texts), model.encode(texts), atol=1e-5)
        for name, task in model.tasks.items():
            sides = [texts, texts[::-1]][: len(task.texts)]
            expected = outputs(model, [name], sides, "off")[name]
            torch.testing.assert_close(ours.outputs(name, sides), expected, atol=1e-5, rtol=1e-5)


def test_eight_bits_are_near_and_their_cost_is_printed(home, exported, printed, model):
    small = OnnxModel(model, exported, SMALL)
    vectors = torch.as_tensor(model.encode(TEXTS))
    assert 1e-6 < (small.encode(TEXTS) - vectors).norm() / vectors.norm() < 0.03
    assert (exported / SMALL).stat().st_size < (exported / export.ENCODER).stat().st_size
    whole = {line.split()[0]: line.split()[1] for line in printed.splitlines()[1:]}
    expected = read_json(home / "run" / "metrics.json")["dev"]
    assert {name: "-" if value is None else f"{value:.4f}" for name, value in expected.items()} == whole


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", [-1, -2])
def test_every_poolings_vector(tiny_bert, pooling, layer):
    model = MultitaskBert.from_pretrained(tiny_bert, config=HeadsConfig(pooling=pooling, layer=layer))
    batch = model.tokenizer(TEXTS)
    states, vectors = Encoder(model)(*(batch[name].long() for name in export.INPUTS))
    np.testing.assert_allclose(vectors.detach(), model.encode(TEXTS), atol=1e-6)
    torch.testing.assert_close(states, model.bert(**batch).last_hidden_state)


def test_the_folder_is_the_models_own_too(exported, model):
    np.testing.assert_array_equal(MultitaskBert.from_pretrained(exported).encode(TEXTS), model.encode(TEXTS))


def test_the_pages_program_needs_neither_torch_nor_us(exported, model):
    """It runs as it stands in docs/export.md, but for the folder's name and the sentences."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert not {"torch", "heads", "bert"} & {*re.findall(r"^(?:from|import) (\w+)", program, flags=re.MULTILINE)}
    names: dict = {}
    exec(program.replace('"exported"', repr(str(exported))), names)
    expected = outputs(model, ["para"], [[text] for text in names["texts"]], "off")["para"]
    np.testing.assert_allclose(names["y"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("run", "--output_dir", "data"), 2, "--output_dir: expected a folder that is not there; found"),
        (("run", "--output_dir", "new", "--data_dir", "data"), 2, "--data_dir: belongs to --int8"),
        (("run/best", "--output_dir", "new", "--int8"), 2, "--int8: expected a run's folder, whose dev"),
        (
            ("none", "--output_dir", "new"),
            2,
            "none: expected best/heads.json or a checkpoint in it; found no such folder",
        ),
    ],
)
def test_what_is_refused(home, capsys, monkeypatch, words, code, message):
    monkeypatch.chdir(home)
    assert run_cli(export.main, list(words)) == code
    assert message in capsys.readouterr().err and not (home / "new").exists()


def test_without_the_extra_it_says_which(home, capsys, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert run_cli(export.main, [str(home / "run"), "--output_dir", str(home / "new")]) == 2
    assert "expected the package onnx; found none; pip install -e '.[export]'" in capsys.readouterr().err
