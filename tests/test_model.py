"""bert/model.py against transformers' BertModel, and what changes nothing in it.

Letters: B batch, T tokens, D hidden size, H heads, K = D // H.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bert import (
    CONFIG,
    SAME,
    B,
    T,
    assert_same,
    fake_dropout,
    layer_states,
    make_batch,
    make_mask,
    make_model,
    make_reference,
    seeded,
)

from bert import BertModel


@pytest.fixture(scope="module")
def model() -> BertModel:
    """For tests that change nothing in it."""
    return make_model()


def test_fresh_weights_are_normal_biases_0_and_norms_1():
    torch.manual_seed(0)
    model = BertModel(replace(CONFIG, initializer_range=0.02))
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert (parameter == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name
        else:
            bound = 5 / math.sqrt(parameter.numel())  # 5 standard errors
            assert abs(parameter.mean() / 0.02) < bound, name
            assert abs(parameter.std() / 0.02 - 1) < bound / math.sqrt(2), name


# ---- the whole against transformers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SAME)
@pytest.mark.parametrize("names", [("attention_mask", "token_type_ids"), ("attention_mask",), ("token_type_ids",), ()])
def test_outputs_are_transformers(dtype, names):
    ours = make_model(dtype)
    batch = {name: value for name, value in make_batch().items() if name in ("input_ids", *names)}
    output, expected = ours(**batch), make_reference(ours)(**batch)
    assert_same(output.last_hidden_state, expected.last_hidden_state)
    assert_same(output.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("dtype", SAME)
def test_each_layers_states_are_transformers(dtype):
    ours, batch = make_model(dtype), make_batch()
    expected = make_reference(ours)(**batch, output_hidden_states=True).hidden_states
    for layer in (-1, -2, -3):
        assert_same(layer_states(ours, **batch, layer=layer)[0], expected[layer])


@pytest.mark.parametrize("dtype", SAME)
def test_the_attentions_of_all_layers_are_transformers(dtype):
    ours, batch = make_model(dtype), make_batch()  # rows with padding
    output, expected = ours(**batch, output_attentions=True), make_reference(ours)(**batch, output_attentions=True)
    assert len(output.attentions) == CONFIG.num_hidden_layers
    for attention, theirs in zip(output.attentions, expected.attentions, strict=True):
        assert attention.shape == (B, CONFIG.num_attention_heads, T, T)
        assert_same(attention, theirs)
        assert_same(attention.sum(-1), torch.ones_like(attention[..., 0]))
    plain = ours(**batch)
    assert plain.attentions is None
    assert torch.equal(plain.last_hidden_state, output.last_hidden_state)
    assert torch.equal(plain.pooler_output, output.pooler_output)


@pytest.mark.parametrize("heads", [1, 2, 14])
@pytest.mark.parametrize("depth", [1, 2])
def test_other_sizes_are_transformers_too(heads, depth):
    ours = make_model(config=replace(CONFIG, hidden_size=28, num_attention_heads=heads, num_hidden_layers=depth))
    for batch in (make_batch(), make_batch(make_mask([23, 17, 2], CONFIG.max_position_embeddings))):
        assert_same(ours(**batch).last_hidden_state, make_reference(ours)(**batch).last_hidden_state)


def test_dropout_stands_where_transformers_has_it_with_its_rates(monkeypatch):
    monkeypatch.setattr(F, "dropout", fake_dropout)
    ours = make_model(config=replace(CONFIG, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.7))
    batch = make_batch()
    still = ours(**batch).last_hidden_state
    expected = make_reference(ours).train()(**batch).last_hidden_state
    assert_same(ours.train()(**batch).last_hidden_state, expected)
    assert not torch.allclose(expected, still)
    assert_same(still, make_reference(ours)(**batch).last_hidden_state)


# ---- invariances -----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(length=st.integers(1, T), padding=st.integers(0, 10), seed=st.integers(0, 2**32 - 1))
def test_padding_changes_nothing_at_real_positions(model, length, padding, seed):
    ids = torch.randint(0, CONFIG.vocab_size, (1, length + padding), generator=seeded(seed))
    types = torch.randint(0, 2, ids.shape, generator=seeded(seed + 1))
    padded, attention = layer_states(model, ids, make_mask([length], length + padding), types)
    alone, attention_alone = layer_states(model, ids[:, :length], None, types[:, :length])
    assert_same(padded[:, :length], alone)
    assert_same(attention[:, :, :length, :length], attention_alone)


@pytest.mark.parametrize("layer", [0, 1, 2, -4])
def test_a_layer_that_is_not_there_is_refused(model, layer):
    with pytest.raises(ValueError, match=rf"^layer: expected -3 to -1 .*; found {layer}$"):
        model.layers_up_to(layer)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 5), (2, 0), (2, 24)])
def test_ids_of_a_wrong_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"^input_ids: expected \(B, T\) with T from 1 to 23; found \("):
        model(torch.ones(shape, dtype=torch.int64))
