"""bert/config.py: what is refused, and that transformers reads what we write, and we what it writes."""

import json
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest
import transformers

from bert import BertConfig
from runtime.errors import CheckpointError

SIZES = {"vocab_size": 61, "hidden_size": 21, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37}
REQUIRED = {"model_type": "bert", **SIZES}  # the least that a config.json holds
OTHERS = {"max_position_embeddings": 131, "type_vocab_size": 5, "pad_token_id": 13, "initializer_range": 0.11}
RATES = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.7, "layer_norm_eps": 1e-7}
CONFIG = BertConfig(**SIZES, **OTHERS, **RATES)  # nothing is the default
SOME = [BertConfig(), CONFIG, BertConfig(hidden_dropout_prob=0, attention_probs_dropout_prob=0, initializer_range=0)]


def write(folder: Path, content) -> Path:
    """A config.json that holds `content`: bytes as they are, all else as JSON."""
    path = folder / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def fields_of(theirs: transformers.BertConfig) -> dict:
    """transformers' values of our fields."""
    return {name: getattr(theirs, name) for name in asdict(CONFIG)}


def test_the_defaults_are_bert_base_uncaseds():
    assert asdict(BertConfig()) == fields_of(transformers.BertConfig())
    with pytest.raises(FrozenInstanceError):
        CONFIG.hidden_size = 2


@pytest.mark.parametrize("name", [*SIZES, *OTHERS, *RATES])
@pytest.mark.parametrize("value", [-1e-9, -1, 1.5, "1", None, True, float("nan"), float("inf"), [7]])
def test_a_value_that_is_no_number_in_range_is_refused(name, value):
    with pytest.raises(
        ValueError, match=rf"^{name}: expected a (whole number from [01] to [0-9,]+|number from 0, below 1); found "
    ):
        replace(CONFIG, **{name: value})


def test_what_a_file_leaves_out_is_bert_bases_and_what_it_adds_is_passed_over(tmp_path):
    path = write(tmp_path, {**REQUIRED, "id2label": {"0": "x"}, "torch_dtype": "float16", "use_cache": True})
    assert BertConfig.from_json(path) == BertConfig(**SIZES)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model_type", "roberta", "'bert', which is all"),
        ("model_type", None, "'bert', which is all"),
        ("hidden_act", "relu", "'gelu', which is all"),
        ("hidden_act", "gelu_new", "'gelu', which is all"),  # the tanh form
        ("position_embedding_type", "relative_key", "'absolute', which is all"),
        ("is_decoder", True, "False, which is all"),
        ("add_cross_attention", True, "False, which is all"),
        ("num_attention_heads", 2, "a multiple of num_attention_heads"),
        ("hidden_size", 21.0, "a whole number from 1"),
        ("type_vocab_size", 0, "a whole number from 1"),
        ("layer_norm_eps", float("nan"), "a number from 0"),  # Python's JSON has NaN and Infinity
        ("attention_probs_dropout_prob", 1.0, "a number from 0, below 1;"),
        ("vocab_size", 10**7 + 1, "a whole number from 1 to 10,000,000; found 10000001"),
        *((name, ..., "a whole number from 1 to .*; found None") for name in SIZES),  # left out
    ],
)
def test_a_wrong_value_in_a_file_is_refused_with_its_place(tmp_path, name, value, expected):
    content = {key: value for key, value in {**REQUIRED, name: value}.items() if value is not ...}
    with pytest.raises(CheckpointError, match=rf"config\.json: \w+: .*{expected}.*; take the model's own") as caught:
        BertConfig.from_json(write(tmp_path, content))
    assert name in str(caught.value) and caught.value.exit_code == 4


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", None])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content):
    path = tmp_path / "config.json" if content is None else write(tmp_path, content)
    with pytest.raises(CheckpointError, match=r"config\.json: expected "):
        BertConfig.from_json(path)


@pytest.mark.parametrize("config", SOME, ids=["defaults", "nothing default", "whole rates"])
def test_transformers_reads_what_we_write_and_we_what_it_writes(tmp_path, config):
    write(tmp_path, config.to_json().encode())
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(theirs) is transformers.BertConfig
    assert fields_of(theirs) == asdict(config)
    assert (theirs.hidden_act, theirs.is_decoder, theirs.architectures) == ("gelu", False, ["BertModel"])
    theirs.save_pretrained(tmp_path / "theirs")
    assert BertConfig.from_json(tmp_path / "theirs" / "config.json") == config
