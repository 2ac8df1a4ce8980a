"""bert/config.py: what is refused, and that transformers reads what we write, and we what it writes."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from bert import BertConfig
from bert.errors import CheckpointError

SIZES = {
    "vocab_size": 61,
    "hidden_size": 21,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 37,
}
REQUIRED = {"model_type": "bert", **SIZES}  # the least that a config.json holds
TAKE = "; take the config.json that belongs to the model$"  # how an error ends
CONFIG = BertConfig(
    **SIZES,
    max_position_embeddings=131,
    type_vocab_size=5,
    hidden_dropout_prob=0.3,
    attention_probs_dropout_prob=0.7,
    initializer_range=0.11,
    layer_norm_eps=1e-7,
    pad_token_id=13,
)


def write(folder: Path, content) -> Path:
    """A config.json that holds `content`: bytes as they are, all else as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def shared_fields(theirs: transformers.BertConfig) -> dict:
    """transformers' values of our fields."""
    return {name: getattr(theirs, name) for name in asdict(CONFIG)}


@st.composite
def configs(draw) -> BertConfig:
    size, rate = st.integers(1, 2**31), st.floats(0, 1, exclude_max=True)
    heads, vocab_size = draw(st.integers(1, 97)), draw(size)
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=heads * draw(st.integers(1, 97)),
        num_hidden_layers=draw(size),
        num_attention_heads=heads,
        intermediate_size=draw(size),
        max_position_embeddings=draw(size),
        type_vocab_size=draw(size),
        hidden_dropout_prob=draw(rate),
        attention_probs_dropout_prob=draw(rate),
        initializer_range=draw(rate),
        layer_norm_eps=draw(rate),
        pad_token_id=draw(st.integers(0, vocab_size - 1)),
    )


# ---- the values ------------------------------------------------------------------------------------------------------


def test_the_defaults_are_bert_base_uncaseds():
    assert asdict(BertConfig()) == shared_fields(transformers.BertConfig())


@pytest.mark.parametrize("name", ["vocab_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1, 2**63, 7.0, "7", None, True, float("nan"), float("inf"), [7]])
def test_a_size_that_is_no_positive_whole_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected (a whole number|at least 1 .*); found "):
        replace(CONFIG, **{name: value})


@pytest.mark.parametrize(
    "name", ["hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps"]
)
@pytest.mark.parametrize("value", [-1e-9, -1, 10**400, "0.1", None, False, float("nan"), float("inf"), [0.1]])
def test_a_rate_that_is_no_number_from_0_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected (a number|at least 0 .*); found "):
        replace(CONFIG, **{name: value})


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_a_dropout_rate_of_1_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name}: expected a rate in \[0, 1\); found 1.0$"):
        replace(CONFIG, **{name: 1.0})


@pytest.mark.parametrize("heads", [2, 6, 42])
def test_heads_that_do_not_divide_the_hidden_size_are_refused(heads):
    with pytest.raises(ValueError, match=rf"^hidden_size: expected a multiple of .*\({heads}\); found 21$"):
        replace(CONFIG, num_attention_heads=heads)


def test_a_padding_token_outside_the_vocabulary_is_refused():
    assert replace(CONFIG, pad_token_id=60).pad_token_id == 60
    with pytest.raises(ValueError, match=r"^pad_token_id: expected below vocab_size 61; found 61$"):
        replace(CONFIG, pad_token_id=61)


def test_a_config_cannot_change():
    with pytest.raises(FrozenInstanceError):
        CONFIG.hidden_size = 2


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_what_a_file_leaves_out_is_bert_bases_and_what_it_adds_is_passed_over(tmp_path):
    path = write(tmp_path, {**REQUIRED, "id2label": {"0": "x"}, "torch_dtype": "float16", "use_cache": True})
    assert BertConfig.from_json(path) == BertConfig(**SIZES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "roberta"),
        ("model_type", None),
        ("hidden_act", "relu"),
        ("hidden_act", "gelu_new"),  # the tanh form
        ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "relative_key_query"),
        ("is_decoder", True),
        ("add_cross_attention", True),
    ],
)
def test_a_model_that_computes_something_else_is_refused(tmp_path, name, value):
    path = write(tmp_path, {**REQUIRED, name: value})
    told = rf"^.*config\.json: {name}: this BERT computes .* only; found {value!r}; choose another model$"
    with pytest.raises(CheckpointError, match=told):
        BertConfig.from_json(path)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_file_without_its_type_or_a_size_is_refused(tmp_path, name):
    path = write(tmp_path, {key: value for key, value in REQUIRED.items() if key != name})
    with pytest.raises(CheckpointError, match=f"{name}.*{TAKE}"):
        BertConfig.from_json(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 2),
        ("hidden_size", 21.0),
        ("vocab_size", "61"),
        ("num_hidden_layers", True),
        ("pad_token_id", None),
        ("layer_norm_eps", float("nan")),  # Python's JSON has NaN and Infinity
        ("hidden_dropout_prob", float("inf")),
        ("attention_probs_dropout_prob", 1.0),
        ("type_vocab_size", -2),
    ],
)
def test_a_wrong_value_in_a_file_is_told_with_its_place(tmp_path, name, value):
    path = write(tmp_path, {**REQUIRED, name: value})
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{name}.*; found .*{TAKE}") as caught:
        BertConfig.from_json(path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"vocab_size": 6', b"[]", b"null", b'"bert"', b"{}"]
)
def test_a_file_that_is_no_json_object_of_a_model_is_refused(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(CheckpointError, match=rf"config\.json: expected a .*JSON.*{TAKE}"):
        BertConfig.from_json(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=rf"absent\.json: expected a readable JSON file; found .*{TAKE}"):
        BertConfig.from_json(tmp_path / "absent.json")


# ---- there and back --------------------------------------------------------------------------------------------------


@given(config=configs())
def test_what_is_written_is_read_again(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    path.write_text(config.to_json(), encoding="utf-8")
    assert BertConfig.from_json(path) == config


@pytest.mark.parametrize(
    "config",
    [BertConfig(), CONFIG, BertConfig(hidden_dropout_prob=0, attention_probs_dropout_prob=0, initializer_range=1)],
    ids=["defaults", "nothing default", "whole rates"],
)
def test_transformers_reads_what_we_write(tmp_path, config):
    write(tmp_path, config.to_json().encode())
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(theirs) is transformers.BertConfig
    assert shared_fields(theirs) == asdict(config)
    assert (theirs.hidden_act, theirs.is_decoder, theirs.architectures) == ("gelu", False, ["BertModel"])


@pytest.mark.parametrize("config", [BertConfig(), CONFIG], ids=["defaults", "nothing default"])
def test_we_read_what_transformers_writes(tmp_path, config):
    transformers.BertConfig(**asdict(config)).save_pretrained(tmp_path)
    assert BertConfig.from_json(tmp_path / "config.json") == config
