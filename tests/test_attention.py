"""experiments/attention.py: the heat map of a model's attention, and the command line."""

import sys

import numpy as np
import pytest
import torch

from bert import BertModel, BertTokenizer
from experiments import attention
from experiments.attention import heat_map, main
from runtime.errors import run_cli


def test_rows_look_columns_are_looked_at_and_the_words_set_the_colours():
    tokens, attention = ["[CLS]", "a", "$b$", "[SEP]"], torch.arange(16.0).view(4, 4)
    ax, bar = heat_map(attention, tokens, "head 1").axes
    assert np.array_equal(ax.images[0].get_array(), attention.numpy()) and ax.images[0].get_clim() == (0, 14)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == tokens
    assert (ax.get_title(), bar.get_ylabel()) == ("head 1", "attention")


@pytest.mark.parametrize("texts", [["Dogs walk"], ["the dog", "a zebra"], [""]])
@pytest.mark.parametrize("layer, head", [(-1, None), (-2, 1)])
def test_a_picture_of_a_layer_and_a_head(tmp_path, tiny_bert, capsys, monkeypatch, texts, layer, head):
    shown, out = [], tmp_path / "new" / "attention.png"
    monkeypatch.setattr(attention, "heat_map", lambda *given: shown.append(given) or heat_map(*given))
    options = ["--layer", layer, "--checkpoint", tiny_bert, "--output", out, *(["--head", head] if head else [])]
    assert run_cli(main, [*texts, *map(str, options)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr() == (f"{out}\n", "")
    model, tokenizer = BertModel.from_pretrained(tiny_bert), BertTokenizer.from_pretrained(tiny_bert)
    expected = model(**tokenizer(*texts), output_attentions=True).attentions[layer][0]
    assert torch.equal(shown[0][0], expected[head] if head else expected.mean(0))
    words = {"Dogs walk": "dog ##s walk [SEP]", "the dog": "the dog [SEP] a [UNK] [SEP]", "": "[SEP]"}[texts[0]]
    assert shown[0][1] == f"[CLS] {words}".split()


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
