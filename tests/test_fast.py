"""bert/fast.py against bert/model.py, its dropout against the law of dropout, and inference by threads at once."""

import math
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from small_bert import CONFIG, LENGTHS, B, T, assert_same, fake_dropout, layer_states, make_batch, make_mask, make_model
from torch import Tensor, nn
from torch.testing import assert_close

from bert import BertModel, fast
from bert.fast import dropout, hidden_states, inference_copy

DROPPING = replace(CONFIG, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.7)
CLOSE = {  # oneDNN's sums have an order of their own; 8 and 11 bits of mantissa, layer on layer
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2},
    torch.float16: {"rtol": 1e-2, "atol": 1e-2},
}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model() -> BertModel:
    """For tests that change nothing in it."""
    return make_model()


@pytest.fixture(params=["attend", "attend_unseen"])
def form(request, monkeypatch) -> str:
    """Every way to attend, on the CPU; the second one tells no attention."""
    monkeypatch.setattr(fast, "attend", getattr(fast, request.param))
    return request.param


def make_batches() -> list:
    """With padding, without, and with rows that are padding alone."""
    return [make_batch(), make_batch(make_mask([5, 5], 5)), make_batch(make_mask([2, 0, 3], 3))]


# ---- the same numbers ------------------------------------------------------------------------------------------------


def mask_of(tokens: int) -> st.SearchStrategy[list[list[bool]]]:
    return st.lists(st.lists(st.booleans(), min_size=tokens, max_size=tokens), min_size=1, max_size=4)


@settings(max_examples=30)
@given(
    masks=st.lists(st.integers(1, T).flatmap(mask_of), min_size=1, max_size=3),
    layer=st.sampled_from([-1, -2, -3]),
)
def test_real_tokens_are_the_same_and_padding_is_0(model, masks, layer):
    """Batches of unlike sizes; real tokens anywhere, or nowhere."""
    batches = [make_batch(torch.tensor(mask)) for mask in masks]
    found = hidden_states(model, batches, layer, keep_attention=True)
    for batch, (x, attention) in zip(batches, found, strict=True):
        expected, expected_attention = layer_states(model, **batch, layer=layer)
        real = batch.attention_mask
        assert_same(x, expected * real[:, :, None])
        assert_same(attention * real[:, None, :, None], expected_attention * real[:, None, :, None])


@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_every_form_gives_the_same_states_and_gradients(form, layer):
    batches = make_batches()
    weights = [torch.randn(*b.input_ids.shape, CONFIG.hidden_size, dtype=torch.float64) for b in batches]
    weights = [w * b.attention_mask[:, :, None] for w, b in zip(weights, batches, strict=True)]
    gradients = []
    for packed in (False, True):
        model = make_model()
        plain = [layer_states(model, **batch, layer=layer) for batch in batches]
        states = hidden_states(model, batches, layer) if packed else plain
        for (x, attention), (y, _), batch in zip(states, plain, batches, strict=True):
            assert_same(x[batch.attention_mask], y[batch.attention_mask])
            assert not packed or attention is None
        sum((x * w).sum() for (x, _), w in zip(states, weights, strict=True)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        ours = gradients[1][name]
        if expected is None:  # of the pooler, and of layers above
            assert ours is None, name
        else:
            assert_same(ours, expected)


def test_dropout_stands_where_the_plain_model_has_it(form, monkeypatch):
    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, dropout_p: float) -> Tensor:
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        return (fake_dropout(scores, dropout_p) if dropout_p else scores) @ v

    monkeypatch.setattr(F, "dropout", fake_dropout)
    monkeypatch.setattr(fast, "dropout", lambda x, layer: fake_dropout(x, layer.p, layer.training))
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    model = make_model(config=DROPPING)
    batch = make_batch(make_mask([T] * B))  # without padding, so that packed elements have the same numbers
    for mode in (True, False):
        model.train(mode)
        ((states, _),) = hidden_states(model, [batch])
        assert_same(states, model(**batch).last_hidden_state)


# ---- what is computed, and where -------------------------------------------------------------------------------------


def test_every_layer_is_called_once_with_the_real_tokens_of_all_batches(monkeypatch):
    """Which optim/row_hooks.py needs. Each batch's are a multiple; without gradients their sum is."""
    monkeypatch.setattr(fast, "MULTIPLE", 8)
    model, batches = make_model(), make_batches()
    rows = {}
    for name, part in model.named_modules():
        if list(part.parameters(recurse=False)):
            part.register_forward_hook(lambda _, inputs, y, name=name: rows.setdefault(name, []).append(len(inputs[0])))
    hidden_states(model, batches)
    real = [int(batch.attention_mask.sum()) for batch in batches]
    assert sum(real) == sum(LENGTHS) + 2 * 5 + 2 + 3
    tokens = sum(8 * math.ceil(count / 8) for count in real)
    assert len(rows) == 4 + 3 * 6 and all(sizes == [tokens] for sizes in rows.values()), rows
    rows.clear()
    with torch.no_grad():
        hidden_states(model, batches)
    tokens = 8 * math.ceil(sum(real) / 8)
    assert len(rows) == 4 + 3 * 6 and all(sizes == [tokens] for sizes in rows.values()), rows
    rows.clear()
    hidden_states(model, batches, layer=-2)  # nothing of the layers above
    assert len(rows) == 4 + 2 * 6


@pytest.mark.parametrize("attention", [False, True])
def test_no_size_depends_on_data_that_lies_on_the_device(attention):
    """The meta device holds no data, so it refuses to tell; and it meets no tensor of the CPU, backwards neither."""
    model = make_model(config=DROPPING).to("meta")
    batches = [batch.to("meta") for batch in make_batches()]
    found = hidden_states(model.train(), batches, keep_attention=attention)
    sum(x.sum() for x, _ in found).backward()
    assert model.embeddings.word.weight.grad.device.type == "meta"
    assert all((a is not None) == attention for _, a in found)


# ---- dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.7])
def test_dropout_zeroes_the_rate_and_divides_the_rest(p):
    n = 1_000_003
    y = dropout(torch.ones(n, dtype=torch.float64), nn.Dropout(p))
    rounded = round(p * 65536) / 65536
    kept = y != 0
    assert_same(y[kept], torch.full_like(y[kept], 1 / (1 - rounded)))
    assert dropout(y, nn.Dropout(1 - 1e-9)).isfinite().all()  # rounded to a rate below 1
    dropped = n - kept.sum().item()
    assert abs(dropped - n * rounded) < 5 * math.sqrt(n * rounded * (1 - rounded))  # 5 standard deviations
    assert abs(rounded - p) <= 2**-17


def test_neighbours_are_dropped_independently():
    """Four elements share a 64-bit word: each of their 16 patterns must come as often as its probability says."""
    p, draws = 0.25, 400_000
    dropped = (dropout(torch.ones(draws, 4), nn.Dropout(p)) == 0).long()
    counts = torch.bincount(dropped @ torch.tensor([1, 2, 4, 8]), minlength=16)
    sizes = torch.tensor([bin(pattern).count("1") for pattern in range(16)], dtype=torch.float64)
    assert chisquare(counts, draws * p**sizes * (1 - p) ** (4 - sizes)).pvalue > 1e-6


def test_each_call_drops_anew_a_seed_repeats_it_and_the_gradient_is_the_mask():
    x = torch.randn(11, 13, dtype=torch.float64).T.requires_grad_()  # laid out like no fresh tensor
    first, second = dropout(x, nn.Dropout(0.5)), dropout(x, nn.Dropout(0.5))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    torch.randn(11, 13, dtype=torch.float64)
    assert torch.equal(dropout(x, nn.Dropout(0.5)), first)
    first.sum().backward()
    assert_same(x.grad * x, first)
    assert (x.grad == 0).any() and (x.grad != 0).any()


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5,), (2, 3, 7)])
def test_the_type_and_shape_stay_and_evaluation_and_rate_0_change_nothing(dtype, shape):
    x, before = torch.ones(shape, dtype=dtype), torch.get_rng_state()
    assert dropout(x, nn.Dropout(0.5).eval()) is x and dropout(x, nn.Dropout(0.0)) is x
    assert torch.equal(torch.get_rng_state(), before)
    y = dropout(x, nn.Dropout(0.5))
    assert y.dtype == dtype and y.shape == shape and ((y == 0) | (y == 2)).all()


# ---- inference -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("dtype", CLOSE)
@torch.no_grad()
def test_an_inference_copy_computes_the_same_as_autocast_or_without(dtype, layer):
    model = make_model(torch.float64 if dtype == torch.float64 else torch.float32)
    batches, whole = make_batches(), dtype in (torch.float32, torch.float64)
    found = hidden_states(inference_copy(model, dtype), batches, layer, keep_attention=True)
    with torch.autocast("cpu", torch.bfloat16 if whole else dtype, enabled=not whole):
        for model_ in (model, inference_copy(model, dtype)):
            for (x, a), (y, b) in zip(hidden_states(model_, batches, layer, keep_attention=True), found, strict=True):
                assert x.dtype == y.dtype and a.dtype == b.dtype
                assert_close((y, b), (x, a), **CLOSE[dtype])


NO_FUSED = [
    (torch.backends.mkldnn, "is_available", lambda: False),
    (torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False),
]


@pytest.mark.parametrize("change", NO_FUSED, ids=["no oneDNN", "no bfloat16"])
@torch.no_grad()
def test_where_there_is_no_fused_product_it_is_autocast_bit_for_bit(change, monkeypatch):
    monkeypatch.setattr(*change)
    model, batches = make_model(torch.float32), make_batches()
    twin = inference_copy(model, torch.bfloat16)
    assert not twin.pooler.fused
    found = hidden_states(twin, batches)
    with torch.autocast("cpu", torch.bfloat16):
        for (x, _), (y, _) in zip(hidden_states(model, batches), found, strict=True):
            assert torch.equal(y, x)


PAGES = """
import resource, torch
from bert.fast import keep_freed_memory
def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 20) for _ in range(8)]  # 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
print(fresh_pages() + fresh_pages(), end=" ")
keep_freed_memory()
print(min(fresh_pages() for _ in range(5)))  # once the heap has grown to what it takes
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory by rules of their own")
def test_freed_memory_is_kept():
    found = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True).stdout
    without, kept = map(int, found.split())
    assert kept < 100 < 4000 < without
