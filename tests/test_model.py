"""bert/model.py against transformers' BertModel and torch's attention, part by part and whole, and its invariances.

Letters: B batch, T tokens, D hidden size, H heads, K = D // H.
"""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.testing import assert_close

from bert import BertConfig, BertModel, BertTokenizer
from bert.checkpoint import to_hugging_face
from bert.model import Dropout, Embeddings, Layer, SelfAttention

COURSE = Path(__file__).parents[2] / "shared" / "data" / "cs224n"
CONFIG = BertConfig(
    vocab_size=41,
    hidden_size=35,  # H = 5, K = 7
    num_hidden_layers=3,
    num_attention_heads=5,
    intermediate_size=37,
    max_position_embeddings=23,
    type_vocab_size=2,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.1,  # so that the attention is not uniform
)
B, T = 11, 13
SAME = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, **SAME[ours.dtype])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Add noise to every parameter: fresh biases are 0 and fresh LayerNorms 1, so that a mix-up would not show."""
    generator = seeded(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.to(dtype)


def make_model(dtype: torch.dtype = torch.float64, config: BertConfig = CONFIG) -> BertModel:
    torch.manual_seed(0)
    return randomise(BertModel(config), dtype).eval()


def make_reference(ours: BertModel) -> transformers.BertModel:
    """transformers' model with the same weights."""
    config = transformers.BertConfig(**asdict(ours.config), attn_implementation="eager")
    theirs = transformers.BertModel(config).to(ours.pooler.weight.dtype).eval()
    theirs.load_state_dict(to_hugging_face(ours.state_dict()))
    return theirs


@pytest.fixture(scope="module")
def model() -> BertModel:
    """For tests that change nothing in it."""
    return make_model()


def make_mask(lengths: list[int], width: int = T) -> Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]  # (B, T)


def make_batch() -> dict[str, Tensor]:
    """Rows of 1 to T real tokens, then padding of random ids; real segment ids; no id is [PAD]'s 0."""
    generator = seeded()
    return {
        "input_ids": torch.randint(1, CONFIG.vocab_size, (B, T), generator=generator),
        "attention_mask": make_mask([T, 1, 2, 3, 5, 7, 11, 12, T, 6, 4]),
        "token_type_ids": torch.randint(0, 2, (B, T), generator=generator),
    }


def normalise(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm by its formula."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_embeddings_are_the_normalised_sum_of_three_rows():
    part = randomise(Embeddings(CONFIG))
    batch = make_batch()
    rows = [
        [part.word.weight[i] + part.position.weight[t] + part.token_type.weight[s] for t, (i, s) in enumerate(row)]
        for row in torch.stack((batch["input_ids"], batch["token_type_ids"]), dim=-1).tolist()
    ]
    expected = normalise(torch.stack([torch.stack(row) for row in rows]), part.norm)
    assert_same(part(batch["input_ids"], batch["token_type_ids"], torch.arange(T)), expected)


def test_self_attention_is_torchs():
    part = randomise(SelfAttention(CONFIG))
    x, mask = torch.randn(B, T, CONFIG.hidden_size, dtype=torch.float64), make_batch()["attention_mask"]
    expected, expected_attention = F.multi_head_attention_forward(
        *[x.transpose(0, 1)] * 3,  # torch's are (T, B, D)
        embed_dim_to_check=CONFIG.hidden_size,
        num_heads=CONFIG.num_attention_heads,
        in_proj_weight=part.query_key_value.weight,
        in_proj_bias=part.query_key_value.bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=part.output.weight,
        out_proj_bias=part.output.bias,
        key_padding_mask=~mask,
        average_attn_weights=False,
    )
    ours, attention = part(x, mask)
    assert_same(ours, expected.transpose(0, 1))
    assert_same(attention, expected_attention)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, T), min_size=1, max_size=5),
    scale=st.sampled_from([0.0, 1.0, 1e3]),  # at 1e3 one token gets all the attention
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_attention_sums_to_1_over_real_tokens_and_is_0_on_padding(lengths, scale, dtype):
    part = randomise(SelfAttention(CONFIG), dtype)
    mask = make_mask(lengths)
    x = scale * torch.randn(len(lengths), T, CONFIG.hidden_size, generator=seeded(), dtype=dtype)
    _, attention = part(x, mask)
    on_keys = mask[:, None, None, :].expand_as(attention)
    assert (attention >= 0).all()
    assert (attention[~on_keys] == 0).all()
    assert_same(attention.sum(-1), torch.ones_like(attention[..., 0]))


def test_a_row_of_padding_alone_gives_no_nan():
    part = randomise(SelfAttention(CONFIG))
    x = torch.randn(2, T, CONFIG.hidden_size, dtype=torch.float64)
    for output in part(x, make_mask([0, T])):
        assert output.isfinite().all()


def test_a_layer_is_the_formula_of_the_paper():
    part = randomise(Layer(CONFIG))
    x, mask = torch.randn(B, T, CONFIG.hidden_size, dtype=torch.float64), make_batch()["attention_mask"]
    attended, attention = part.attention(x, mask)
    middle = normalise(x + attended, part.attention_norm)
    wide = middle @ part.feed_forward_in.weight.T + part.feed_forward_in.bias
    wide = wide * (1 + torch.erf(wide / math.sqrt(2))) / 2  # the exact GELU
    narrow = wide @ part.feed_forward_out.weight.T + part.feed_forward_out.bias
    ours, our_attention = part(x, mask)
    assert_same(ours, normalise(middle + narrow, part.feed_forward_norm))
    assert torch.equal(our_attention, attention)


def test_the_pooler_is_a_tanh_of_the_first_token(model):
    x, pooled = model(**make_batch())
    assert_same(pooled, torch.tanh(x[:, 0] @ model.pooler.weight.T + model.pooler.bias))


def test_fresh_weights_are_normal_biases_0_and_norms_1():
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
@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_each_layers_states_and_attention_are_transformers(dtype, layer):
    ours = make_model(dtype)
    batch = make_batch()
    expected = make_reference(ours)(**batch, output_hidden_states=True, output_attentions=True)
    x, attention = ours.hidden_state(**batch, layer=layer)
    assert_same(x, expected.hidden_states[layer])
    assert_same(attention, expected.attentions[layer])


@pytest.mark.parametrize("heads", [1, 2, 14])
@pytest.mark.parametrize("depth", [1, 2])
def test_other_sizes_are_transformers_too(heads, depth):
    ours = make_model(config=replace(CONFIG, hidden_size=28, num_attention_heads=heads, num_hidden_layers=depth))
    batch = make_batch()
    assert_same(ours(**batch).last_hidden_state, make_reference(ours)(**batch).last_hidden_state)


def test_the_largest_width_is_transformers(model):
    ids = torch.randint(1, CONFIG.vocab_size, (3, CONFIG.max_position_embeddings), generator=seeded())
    assert_same(model(ids).last_hidden_state, make_reference(model)(ids).last_hidden_state)


def test_every_gradient_is_transformers():
    ours = make_model()
    theirs = make_reference(ours)
    weights = torch.randn(B, T, CONFIG.hidden_size, generator=seeded(), dtype=torch.float64)
    for model in (ours, theirs):
        output = model(**make_batch())
        scalar = (output.last_hidden_state * weights).sum() + (output.pooler_output * weights[:, 0]).sum()
        scalar.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    found = to_hugging_face({name: parameter.grad for name, parameter in ours.named_parameters()})
    assert sorted(found) == sorted(expected)
    for name, gradient in found.items():
        assert_same(gradient, expected[name])


def test_dropout_stands_where_transformers_has_it_with_its_rates(monkeypatch):
    def fake(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
        assert training
        return x * (torch.arange(x.numel()) % 3 > 0).view(x.shape) * p

    monkeypatch.setattr(F, "dropout", fake)
    monkeypatch.setattr(Dropout, "forward", lambda self, x: fake(x, self.p))
    ours = make_model(config=replace(CONFIG, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.7))
    batch = make_batch()
    expected = make_reference(ours).train()(**batch)
    assert_same(ours.train()(**batch).last_hidden_state, expected.last_hidden_state)


def sentences() -> list[str]:
    """A hundred of various lengths: the course's where they are, else made ones."""
    path = COURSE / "ids-sst-dev.csv"
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            return [row["sentence"] for row in csv.DictReader(file, delimiter="\t")][:1100:11]
    words = ("the", "film", "was", "not", "very", "good", ",", "but", "a", "story", "well", "told", "is", "better")
    return [" ".join(words[i * j % 14] for j in range(i % 53)) for i in range(100)]


def test_minilms_hidden_states_are_transformers(minilm):
    ours, tokenizer = BertModel.from_pretrained(minilm), BertTokenizer.from_pretrained(minilm)
    theirs = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    texts = sorted(sentences(), key=len)
    assert len(texts) == 100
    states = []
    for block in ours.layers:
        block.register_forward_hook(lambda block, inputs, outputs: states.append(outputs[0]))
    with torch.inference_mode():
        for start in range(0, 100, 20):
            batch = tokenizer(texts[start : start + 20])
            expected = theirs(**batch, output_hidden_states=True)
            states.clear()
            assert_close(ours(**batch).pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)
            real = batch.attention_mask  # the states of padding mean nothing: their LayerNorms blow the rounding up
            for x, y in zip(states, expected.hidden_states[1:], strict=True):
                assert_close(x[real], y[real], rtol=1e-5, atol=1e-5)  # 1e-5: long float32 sums, layer on layer


# ---- invariances -----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(length=st.integers(1, T), padding=st.integers(0, 10), seed=st.integers(0, 2**32 - 1))
def test_padding_changes_nothing_at_real_positions(model, length, padding, seed):
    ids = torch.randint(0, CONFIG.vocab_size, (1, length + padding), generator=seeded(seed))
    types = torch.randint(0, 2, ids.shape, generator=seeded(seed + 1))
    padded, attention = model.hidden_state(ids, make_mask([length], length + padding), types)
    alone, attention_alone = model.hidden_state(ids[:, :length], None, types[:, :length])
    assert_same(padded[:, :length], alone)
    assert_same(attention[:, :, :length, :length], attention_alone)


def test_padding_gets_no_gradient():
    model = make_model()
    ids = torch.tensor([[5, 7, 0, 0], [5, 2, 3, 7]])  # 0 is padding alone
    mask = ids != 0
    model(ids, mask).last_hidden_state[mask].square().sum().backward()
    gradient = model.embeddings.word.weight.grad
    assert (gradient[0] == 0).all()
    assert (gradient[[2, 3, 5, 7]] != 0).any(dim=1).all()


@settings(max_examples=20)
@given(order=st.permutations(range(B)))
def test_the_order_of_the_rows_does_not_matter(model, order):
    batch = make_batch()
    shuffled = model(**{name: value[order] for name, value in batch.items()})
    for ours, expected in zip(shuffled, model(**batch), strict=True):
        assert_same(ours, expected[order])


def test_a_row_does_not_depend_on_its_batch_mates(model):
    batch = make_batch()
    whole = model(**batch)
    for row in range(B):
        alone = model(**{name: value[row : row + 1] for name, value in batch.items()})
        assert_same(alone.last_hidden_state[0], whole.last_hidden_state[row])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_mask_of_any_type_is_the_same(model, dtype):
    batch = make_batch()
    expected = model(**batch).last_hidden_state
    batch["attention_mask"] = batch["attention_mask"].to(dtype)
    assert torch.equal(model(**batch).last_hidden_state, expected)


@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_layers_above_the_asked_one_are_not_computed(layer):
    model, batch = make_model(), make_batch()
    calls = []
    for number, block in enumerate(model.layers):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    x, _ = model.hidden_state(**batch, layer=layer)
    x.sum().backward()
    used = list(range(3 + layer + 1))
    assert calls == used
    for number, block in enumerate(model.layers):
        assert all((parameter.grad is not None) == (number in used) for parameter in block.parameters())
    assert all(parameter.grad is None for parameter in model.pooler.parameters())


# ---- packed ----------------------------------------------------------------------------------------------------------


def mask_of(tokens: int) -> st.SearchStrategy[list[list[bool]]]:
    return st.lists(st.lists(st.booleans(), min_size=tokens, max_size=tokens), min_size=1, max_size=4)


@settings(max_examples=30)
@given(
    masks=st.lists(st.integers(1, T).flatmap(mask_of), min_size=1, max_size=3),
    layer=st.sampled_from([-1, -2, -3]),
)
def test_packed_real_tokens_are_the_same_and_padding_is_0(model, masks, layer):
    """Batches of unlike sizes; real tokens anywhere, or nowhere."""
    masks = [torch.tensor(mask) for mask in masks]
    batches = [cut(make_batch(), mask) for mask in masks]
    found = model.hidden_states(batches, layer)
    for batch, mask, (x, attention) in zip(batches, masks, found, strict=True):
        expected, expected_attention = model.hidden_state(**batch, layer=layer)
        assert_same(x, expected * mask[:, :, None])
        real_queries = mask[:, None, :, None]
        assert_same(attention * real_queries, expected_attention * real_queries)


def cut(batch: dict, mask: torch.Tensor) -> dict:
    """The batch's first rows and tokens, with this mask."""
    rows, tokens = mask.shape
    return {name: value[:rows, :tokens] for name, value in batch.items()} | {"attention_mask": mask}


def test_packed_gradients_are_the_same():
    batches = [make_batch(), cut(make_batch(), make_mask([2, 3], 3))]
    weights = [torch.randn(*b["input_ids"].shape, CONFIG.hidden_size, dtype=torch.float64) for b in batches]
    weights = [w * b["attention_mask"][:, :, None] for w, b in zip(weights, batches, strict=True)]
    gradients = []
    for packed in (False, True):
        model = make_model()
        states = model.hidden_states(batches) if packed else [model.hidden_state(**batch) for batch in batches]
        sum((x * w).sum() for (x, _), w in zip(states, weights, strict=True)).backward()
        gradients.append([p.grad for name, p in model.named_parameters() if not name.startswith("pooler")])
    for ours, expected in zip(*gradients, strict=True):
        assert_same(ours, expected)


def test_packed_spends_no_work_on_padding_and_one_pass_on_all():
    model, batch = make_model(), make_batch()
    rows = []
    parts = [p for b in model.layers for p in (b.attention.query_key_value, b.attention.output, b.feed_forward_in)]
    for part in (model.embeddings.word, *parts):
        part.register_forward_hook(lambda part, x, y: rows.append(y.shape[:-1].numel()))
    model.hidden_state(**batch)
    assert rows == [B * T] * 10
    rows.clear()
    model.hidden_states([batch, batch])
    assert rows == [2 * batch["attention_mask"].sum()] * 10


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2, -4])
def test_a_layer_that_is_not_there_is_refused(model, layer):
    with pytest.raises(ValueError, match=rf"^layer: expected -3 to -1 .*; found {layer}$"):
        model.hidden_state(torch.ones(2, 3, dtype=torch.int64), layer=layer)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 5), (2, 0), (2, 24)])
def test_ids_of_a_wrong_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"^input_ids: expected \(B, T\) with T from 1 to 23; found \("):
        model(torch.ones(shape, dtype=torch.int64))


# ---- dropout ---------------------------------------------------------------------------------------------------------

RATES = [0.1, 1 / 3, 0.5, 0.7]


@pytest.mark.parametrize("p", RATES)
def test_dropout_zeroes_the_rate_and_divides_the_rest(p):
    n = 1_000_003
    y = Dropout(p)(torch.ones(n, dtype=torch.float64))
    rounded = round(p * 65536) / 65536
    kept = y != 0
    assert_same(y[kept], torch.full_like(y[kept], 1 / (1 - rounded)))
    dropped = n - kept.sum().item()
    assert abs(dropped - n * rounded) < 5 * math.sqrt(n * rounded * (1 - rounded))  # 5 standard deviations
    assert abs(rounded - p) <= 2**-17


@pytest.mark.parametrize("p", RATES)
def test_the_mean_of_many_draws_is_the_input(p):
    draws = 10_007
    x = torch.linspace(-2, 3, 97, dtype=torch.float64)
    mean = Dropout(p)(x.expand(draws, -1)).mean(0)
    assert ((mean - x).abs() <= 5 * x.abs() * math.sqrt(p / (1 - p) / draws)).all()  # 5 standard errors


def test_neighbours_are_dropped_independently():
    """Four elements share a 64-bit word: each of their 16 patterns must come as often as its probability says."""
    p, draws = 0.25, 400_000
    dropped = (Dropout(p)(torch.ones(draws, 4)) == 0).long()
    counts = torch.bincount(dropped @ torch.tensor([1, 2, 4, 8]), minlength=16)
    sizes = torch.tensor([bin(pattern).count("1") for pattern in range(16)], dtype=torch.float64)
    assert chisquare(counts, draws * p**sizes * (1 - p) ** (4 - sizes)).pvalue > 1e-6


def test_each_call_drops_anew_and_a_seed_repeats_it():
    dropout, x = Dropout(0.5), torch.ones(101)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_evaluation_and_rate_0_change_nothing():
    x = torch.randn(5, 7)
    before = torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_is_the_mask():
    x = torch.randn(11, 13, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert_same(x.grad * x, y)
    assert (x.grad == 0).any() and (x.grad != 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5,), (2, 3, 7)])
def test_the_type_and_shape_stay(dtype, shape):
    y = Dropout(0.5)(torch.ones(shape, dtype=dtype))
    assert y.dtype == dtype and y.shape == shape
    assert ((y == 0) | (y == 2)).all()


def test_a_transposed_input_is_dropped_like_any():
    x = torch.ones(7, 5).T
    assert ((y := Dropout(0.5)(x)) == 0).any() and y.shape == (5, 7)


def test_a_rate_just_below_1_stays_finite():
    assert Dropout(1 - 1e-9)(torch.ones(100_003)).isfinite().all()


def test_training_draws_dropout_and_evaluation_does_not():
    model, batch = make_model(config=replace(CONFIG, hidden_dropout_prob=0.1)), make_batch()
    assert torch.equal(model(**batch).last_hidden_state, model(**batch).last_hidden_state)
    model.train()
    assert not torch.equal(model(**batch).last_hidden_state, model(**batch).last_hidden_state)
