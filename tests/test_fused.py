"""bert/fused.py against the same layers without it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import make_bert_folder
from torch import nn
from torch.testing import assert_close

from bert import BertModel, BertTokenizer
from bert.fused import Linear, can_fuse, fused

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
TEXTS = ["one", "a longer sentence, of more words", "two words", ""]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request) -> torch.dtype:
    if not can_fuse(CPU, request.param):
        pytest.skip(f"this torch, or this processor, has no such product in {request.param}")
    return request.param


@pytest.mark.parametrize("size", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_a_layer_is_torchs(size, dtype):
    layer, x = Linear(5, 7), torch.randn(size)
    expected = F.linear(x, layer.weight, layer.bias).detach()
    assert torch.equal(layer(x), expected) and torch.equal(layer.gelu(x), F.gelu(expected))
    with torch.no_grad(), fused(layer, dtype):
        found, activated = layer(x), layer.gelu(x)
    assert found.dtype == activated.dtype == dtype
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    assert_close(found.float(), expected, **tolerance)
    assert_close(activated.float(), F.gelu(expected), **tolerance)


@pytest.mark.parametrize("layer", [-1, -2])
def test_a_model_is_the_same_and_remains_so(tmp_path, dtype, layer):
    folder = make_bert_folder(tmp_path)
    model, tokenizer = BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    batches = [tokenizer(TEXTS), tokenizer(TEXTS[:2])]
    with torch.no_grad():
        expected = model.hidden_states(batches, layer)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), fused(model, dtype):
            inside = model.hidden_states(batches, layer)
        after = model.hidden_states(batches, layer)
    for (x, a), (y, b), (z, c) in zip(expected, inside, after, strict=True):
        assert_close((y.float(), b.float()), (x, a), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        assert torch.equal(z, x) and torch.equal(c, a)
    model.layers[0].feed_forward_in(torch.randn(3, model.config.hidden_size)).sum().backward()  # gradients as ever


def test_it_sees_the_weights_of_its_begin_and_ends_with_an_exception(dtype):
    layer, x = Linear(5, 7), torch.randn(3, 5)
    with torch.no_grad():
        layer.weight.add_(1)
        expected = layer(x)
        with fused(layer, dtype):
            assert_close(layer(x).float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        with pytest.raises(KeyError), fused(layer, dtype):
            raise KeyError
    assert layer(x).requires_grad and torch.equal(layer(x), expected)


@pytest.mark.parametrize("change", ["float64", "float16", "no oneDNN", "no such operator", "no bfloat16"])
def test_where_it_is_not_to_be_had_torch_computes(change, monkeypatch):
    others = {"float64": torch.float64, "float16": torch.float16, "no bfloat16": torch.bfloat16}
    dtype = others.get(change, torch.float32)
    if change == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    if change == "no such operator":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    if change == "no bfloat16":
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    layer, x = Linear(5, 7).to(dtype), torch.randn(3, 5).to(dtype)
    with torch.no_grad(), fused(layer, dtype):
        assert torch.equal(layer(x), nn.Linear.forward(layer, x))
        assert torch.equal(layer.gelu(x), F.gelu(nn.Linear.forward(layer, x)))
    assert not can_fuse(CPU, dtype) and not can_fuse(torch.device("cuda"), torch.float32)
