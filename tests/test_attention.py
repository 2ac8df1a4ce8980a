"""experiments/attention.py: the heat map of a model's attention, and the command line."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from bert import BertTokenizer
from experiments.attention import heat_map, main
from runtime.errors import run_cli

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")


@needs_matplotlib
def test_rows_look_columns_are_looked_at_and_the_words_set_the_colours():
    tokens, attention = ["[CLS]", "a", "$b$", "[SEP]"], torch.arange(16.0).view(4, 4)
    ax, bar = heat_map(attention, tokens, "head 1").axes
    assert np.array_equal(ax.images[0].get_array(), attention.numpy()) and ax.images[0].get_clim() == (0, 14)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == tokens
    assert (ax.get_title(), bar.get_ylabel()) == ("head 1", "attention")


def test_a_texts_tokens(tiny_bert):
    tokenizer = BertTokenizer.from_pretrained(tiny_bert)
    found = tokenizer.tokens(tokenizer.ids("Dogs walk , zebras")[0])
    assert found == ["[CLS]", "dog", "##s", "walk", ",", "[UNK]", "[SEP]"]


@needs_matplotlib
@pytest.mark.parametrize("words", [["the dog"], ["the dog", "a cat", "--layer", "-2", "--head", "1"], [""]])
def test_a_text_or_a_pair_gives_a_picture(tmp_path, tiny_bert, capsys, words):
    out = tmp_path / "new" / "attention.png"
    assert run_cli(main, [*words, "--checkpoint", str(tiny_bert), "--output", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr() == (f"{out}\n", "")


def test_what_the_model_lacks_and_a_missing_matplotlib(tiny_bert, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for words, message in (
        (["--layer", "-3"], "--layer: expected -2 to -1 (the model has 2 layers); found -3"),
        (["--head", "2"], "--head: expected 0 to 1 (the model has 2 heads); found 2"),
        (["dog " * 126], "text: expected up to 128 tokens, pair included; found 131; shorten it"),
        ([], "pictures: expected matplotlib; found none; pip install -e '.[pictures]'"),
    ):
        assert run_cli(main, ["the dog", *words, "--checkpoint", str(tiny_bert)]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"
