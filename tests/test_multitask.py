"""heads/multitask.py on a tiny BERT, against its own parts, transformers and sentence-transformers."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from bert import BertModel
from bert.errors import CheckpointError
from heads import MultitaskBert
from heads.architectures import ARCHITECTURES
from heads.losses import LossSettings, PreviousBatch, para_loss, sst_loss, sts_loss
from heads.multitask import (
    PAIR_TASKS,
    TASKS,
    TOKENS_A_GROUP,
    TOKENS_A_PASS,
    HeadsConfig,
    TaskBatch,
    UndefinedOutput,
    evaluating,
    passes,
    read_heads_config,
)
from heads.pooling import POOLINGS

D = tiny.CONFIG.hidden_size
TEXTS = tiny.TEXTS
PAIRS = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
LABELS = {"sst": [0, 4, 2], "para": [1.0, 0.0, 1.0], "sts": [0.0, 5.0, 2.7]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.make_bert_folder(tmp_path_factory.mktemp("tiny") / "bert")


def make(folder: Path, **settings) -> MultitaskBert:
    """A model with heads none of whose weights are 0, as if trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultitaskBert.from_pretrained(folder, HeadsConfig(**settings))
        for parameter in model.heads.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def model(folder) -> MultitaskBert:
    return make(folder, pooling="cnn", layer=-2)


@pytest.fixture
def saved(model, tmp_path) -> Path:
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


def batch(model: MultitaskBert, task: str) -> TaskBatch:
    """Three rows."""
    sides = [TEXTS[:3]] if task == "sst" else [TEXTS[:3], TEXTS[3:6]]
    tokens = model.tokenizer([text for side in sides for text in side])
    dtype = torch.int64 if task == "sst" else torch.float32
    return TaskBatch(tokens, torch.tensor(LABELS[task], dtype=dtype), ["x", "y", "z"])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def predict(model: MultitaskBert, task: str, **settings) -> np.ndarray:
    sides = [TEXTS] if task == "sst" else [list(side) for side in zip(*PAIRS, strict=True)]
    return model.predict(task, *sides, **settings)


def assert_close(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# ---- encode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_encode_is_each_sentence_alone(model, pooling, layer):
    """No matter what else is in the list, in its order, one row a text, doubles among them."""
    texts = [*TEXTS, TEXTS[3], TEXTS[0]]
    alone = [model.pooled([model.tokenizer(text)], pooling, layer)[0][0].detach().numpy() for text in texts]
    found = model.encode(texts, pooling, layer)
    assert found.dtype == np.float32 and found.shape == (len(texts), D)
    assert_close(found, alone)


def test_pooled_takes_the_layers_own_states_and_attention(folder):
    """From transformers: the mean of one layer's states, and its attention's column sums as weights."""
    reference = AutoModel.from_pretrained(folder, attn_implementation="eager")
    model = make(folder)
    tokens = model.tokenizer(TEXTS[0])
    with torch.no_grad():
        out = reference(**tokens, output_hidden_states=True, output_attentions=True)
    for layer in (-1, -2):
        x, attention = out.hidden_states[layer][0], out.attentions[layer][0]
        assert_close(model.encode(TEXTS[:1], "cls", layer)[0], x[0])
        assert_close(model.encode(TEXTS[:1], "mean", layer)[0], x.mean(dim=0))
        weights = attention.sum(dim=(0, 1))[1:-1]
        expected = (weights[:, None] * x[1:-1]).sum(dim=0) / weights.sum()
        assert_close(model.encode(TEXTS[:1], "attention_mean", layer)[0], expected)


def test_encode_without_arguments_is_the_models_own_pooling_and_layer(model):
    assert np.array_equal(model.encode(TEXTS), model.encode(TEXTS, pooling="cnn", layer=-2))
    assert not np.allclose(model.encode(TEXTS), model.encode(TEXTS, layer=-1))
    assert not np.allclose(model.encode(TEXTS), model.encode(TEXTS, pooling="mean"))


def test_encode_of_nothing(model):
    found = model.encode([])
    assert found.shape == (0, D) and found.dtype == np.float32


def test_equal_texts_have_equal_vectors(model):
    found = model.encode([TEXTS[0], TEXTS[1], TEXTS[0]])
    assert np.array_equal(found[0], found[2])


def test_encode_does_not_depend_on_what_is_in_a_pass(model, monkeypatch):
    whole = model.encode(TEXTS)
    monkeypatch.setitem(TOKENS_A_PASS, "cpu", 1)  # every text alone
    assert_close(model.encode(TEXTS), whole)


def test_normalize_makes_length_1(model):
    plain, found = model.encode(TEXTS), model.encode(TEXTS, normalize=True)
    assert_close(np.linalg.norm(found, axis=1), np.ones(len(TEXTS)))
    assert_close(found, plain / np.linalg.norm(plain, axis=1, keepdims=True))


def test_bf16_is_near_and_still_float32(model):
    plain, found = model.encode(TEXTS), model.encode(TEXTS, amp="bf16")
    assert found.dtype == np.float32
    assert not np.array_equal(found, plain)
    np.testing.assert_allclose(found, plain, rtol=0, atol=0.05)  # 8 bits of significand, vectors of size 1


def test_long_texts_are_cut_to_the_models_length(folder):
    model = make(folder, max_length=5)
    assert_close(model.encode(["the dog is good and bad"]), model.encode(["the dog is"]))
    assert model.tokenizer.truncated == 1


def test_the_encoders_limit_goes_before_the_settings(folder):
    model = make(folder, max_length=512)
    assert model.max_length == tiny.CONFIG.max_position_embeddings
    assert model.encode(["dog " * 1000]).shape == (1, D)


def test_no_dropout_in_encode_and_predict(folder):
    model = make(folder, hidden_dropout_prob=0.5)
    expected = model.encode(TEXTS), predict(model, "sts")
    model.train()
    assert np.array_equal(model.encode(TEXTS), expected[0])
    assert np.array_equal(predict(model, "sts"), expected[1])


def test_training_goes_on_in_the_mode_it_was_in(folder):
    """Each part's own: a frozen encoder stays in eval mode while the heads train."""
    model = make(folder).train()
    model.bert.eval()
    before = {name: module.training for name, module in model.named_modules()}
    model.encode(TEXTS)
    predict(model, "para")
    assert {name: module.training for name, module in model.named_modules()} == before


def test_the_mode_comes_back_after_an_error(folder):
    model = make(folder).train()
    with pytest.raises(KeyError), evaluating(model):
        assert not model.training
        raise KeyError
    assert model.training


@pytest.mark.parametrize(
    "texts, settings, message",
    [
        ("dog", {}, "texts: expected a list of sentences; found one string"),
        (TEXTS, {"pooling": "max"}, "pooling: expected one of cls, mean, attention_mean, cnn; found 'max'"),
        (TEXTS, {"pooling": "cnn"}, "pooling: this model has no trained cnn"),
        (TEXTS, {"layer": -3}, "layer: expected -2 to -1"),
        (TEXTS, {"layer": 0}, "layer: expected -2 to -1"),
        (TEXTS, {"amp": "fp8"}, "amp: expected off, bf16 or fp16; found 'fp8'"),
        (["dog", 7], {}, "texts.1.: expected a string"),
    ],
)
def test_encode_refuses(folder, texts, settings, message):
    with pytest.raises(ValueError, match=message):
        make(folder).encode(texts, **settings)


PAGES = """
import resource, torch
from heads.multitask import keep_freed_memory

def fresh_pages() -> int:
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


MOST = 2048


@given(st.lists(st.integers(2, 60) | st.integers(2, MOST + 3), max_size=97))
def test_passes_hold_every_row_once_and_not_too_many_tokens(lengths):
    found = list(passes(lengths, MOST))
    assert sorted(row for groups in found for rows in groups for row in rows) == list(range(len(lengths)))
    for groups in found:
        assert all(groups)
        padded = [len(rows) * max(lengths[row] for row in rows) for rows in groups]
        assert sum(map(len, groups)) == 1 or sum(padded) <= MOST


@given(st.lists(st.integers(2, 60), max_size=997))
def test_padding_is_within_small_groups_alone(lengths):
    for groups in passes(lengths, MOST):
        for rows in groups:
            width = max(lengths[row] for row in rows)
            shorter = [row for row in rows if lengths[row] < width]
            assert not shorter or (len(rows) - len(shorter)) * width < TOKENS_A_GROUP


def test_a_pass_ends_where_it_is_full_and_not_before():
    assert [[len(rows) for rows in groups] for groups in passes([16] * 300, MOST)] == [[128], [128], [44]]
    lengths = [16] * 100 + [15] * 100 + [3] * 10
    assert [[len(rows) for rows in groups] for groups in passes(lengths, MOST)] == [[100, 29], [71, 10]]


# ---- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_predictions_are_the_heads_of_the_vectors(folder, arch):
    model = make(folder, arch=arch, pooling="cls")
    x = torch.from_numpy(model.encode(TEXTS))
    a, b = (torch.from_numpy(model.encode(list(side))) for side in zip(*PAIRS, strict=True))
    heads = model.heads
    with torch.no_grad():
        sst = heads.sst(heads.vector("sst", x)).argmax(dim=1)
        para = heads.para(heads.vector("para", a), heads.vector("para", b)) >= 0.5
        sts = heads.sts(heads.vector("sts", a), heads.vector("sts", b)).clamp(0, 5)
    assert np.array_equal(predict(model, "sst"), sst)
    assert np.array_equal(predict(model, "para"), para.long())
    assert_close(predict(model, "sts"), sts)


@pytest.mark.parametrize("task, dtype", [("sst", np.int64), ("para", np.int64), ("sts", np.float32)])
def test_predictions_of_many_and_of_none(model, task, dtype):
    found, none = predict(model, task), model.predict(task, [], *([] if task == "sst" else [[]]))
    assert found.dtype == none.dtype == dtype
    assert found.shape == (len(TEXTS),) and none.shape == (0,)


@pytest.mark.parametrize("task", ["sst", "para", "sts"])
def test_no_prediction_is_made_of_an_undefined_output(folder, task):
    """Neither a class of NaN logits nor a 0 of a NaN probability; the first such row is named."""
    model = MultitaskBert.from_pretrained(folder)
    encode, texts = model.encode, TEXTS[:4]

    def spoiled(*args, **options):
        vectors = encode(*args, **options)
        vectors[2] = np.nan
        return vectors

    model.encode = spoiled
    with pytest.raises(UndefinedOutput, match=f"{task}: .* first in row 2") as caught:
        model.predict(task, texts, *([] if task == "sst" else [texts]))
    assert caught.value.row == 2


def test_predictions_under_bf16_have_the_same_types_and_ranges(model):
    for task, high in (("sst", 4), ("para", 1), ("sts", 5)):
        plain, found = predict(model, task), predict(model, task, amp="bf16")
        assert found.dtype == plain.dtype
        assert ((found >= 0) & (found <= high)).all()


def test_a_similarity_beyond_the_range_is_clamped(folder):
    """v3b's sts is a plain real number, almost."""
    model = make(folder, arch="v3b")
    for bias, expected in ((1000.0, 5), (-1000.0, 0)):
        torch.nn.init.constant_(model.heads.sts_head[-1].bias, bias)
        assert (predict(model, "sts") == expected).all()


def test_a_probability_of_one_half_is_a_paraphrase(folder):
    """As for two orthogonal vectors in v2."""
    model = make(folder, arch="v2")
    model.heads.vector = lambda task, x: torch.eye(2, D)
    assert model.predict("para", ["dog"], ["cat"]).tolist() == [1]


def test_identical_sentences_are_paraphrases_and_alike(folder):
    model = MultitaskBert.from_pretrained(folder, HeadsConfig(arch="v2"))
    assert (model.predict("para", TEXTS, TEXTS) == 1).all()
    assert_close(model.predict("sts", TEXTS, TEXTS), np.full(len(TEXTS), 5.0))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("nli", TEXTS), "task: expected one of sst, para, sts; found 'nli'"),
        (("sst", TEXTS, TEXTS), "sst: expected texts_a alone"),
        (("sts", TEXTS), "sts: expected pairs: texts_a and texts_b"),
        (("para", TEXTS, TEXTS[:2]), "para: expected as many texts_b as texts_a; found 9 and 2"),
        (("sst", "dog"), "texts_a: expected a list of sentences; found one string"),
        (("sts", ["dog"], "d"), "texts_b: expected a list of sentences; found one string"),
    ],
)
def test_predict_refuses(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.predict(*arguments)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch, pooling", [("v1", "cls"), ("v2", "attention_mean"), ("v3a", "mean"), ("v3b", "cnn")])
def test_a_saved_model_comes_back_bit_for_bit(folder, tmp_path, arch, pooling):
    model = make(folder, arch=arch, pooling=pooling, layer=-2, hidden_dropout_prob=0.3, max_length=11)
    model.save(tmp_path)
    again = MultitaskBert.from_pretrained(tmp_path)
    assert again.config == model.config and not again.training
    state = again.state_dict()
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    for task in TASKS:
        assert np.array_equal(predict(again, task), predict(model, task))


def test_saving_twice_writes_the_same_files(model, tmp_path):
    for name in ("a", "b"):
        model.save(tmp_path / name)
    model.save(tmp_path / "b")  # and again over what is there
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 10
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_transformers_reads_what_was_saved(model, saved):
    reference, tokenizer = AutoModel.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected, found = reference(**tokens), model.bert(**model.tokenizer(TEXTS))
    real = tokens["attention_mask"].bool()
    assert_close(found.last_hidden_state[real], expected.last_hidden_state[real])
    assert_close(found.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_reads_what_was_saved(folder, tmp_path, pooling):
    model = make(folder, pooling=pooling, max_length=13)
    model.save(tmp_path)
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    assert reference.max_seq_length == 13
    assert_close(reference.encode(TEXTS), model.encode(TEXTS))  # the last of them is longer
    assert_close(reference.encode(TEXTS, normalize_embeddings=True), model.encode(TEXTS, normalize=True))


def test_sentence_transformers_is_told_a_length_that_the_encoder_can_read(folder, tmp_path):
    make(folder, max_length=512).save(tmp_path)
    written = json.loads((tmp_path / "sentence_bert_config.json").read_text())
    assert written["max_seq_length"] == tiny.CONFIG.max_position_embeddings


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_plain_bert_gets_fresh_heads(folder, arch):
    model = MultitaskBert.from_pretrained(folder, HeadsConfig(arch=arch, pooling="cls"))
    reference = BertModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, reference[name]) for name, value in model.bert.state_dict().items())
    assert type(model.heads) is type(ARCHITECTURES[arch](D, 0.1))
    assert not model.training
    assert read_heads_config(folder) is None


def test_trained_heads_keep_their_arch_pooling_and_layer_and_take_the_rest(saved, model):
    wanted = HeadsConfig(pooling="cnn", layer=-2, hidden_dropout_prob=0.7, max_length=17)
    again = MultitaskBert.from_pretrained(saved, wanted)
    assert again.config == wanted
    assert {module.p for module in again.heads.modules() if hasattr(module, "p")} == {0.7}
    assert all(torch.equal(value, model.head_state()[name]) for name, value in again.head_state().items())


@pytest.mark.parametrize(
    "name, settings",
    [
        ("arch", {"arch": "v2", "pooling": "cnn", "layer": -2}),
        ("pooling", {"pooling": "mean", "layer": -2}),
        ("layer", {"pooling": "cnn", "layer": -1}),
    ],
)
def test_other_settings_than_those_of_the_trained_heads_are_refused(saved, name, settings):
    with pytest.raises(ValueError, match=f"^{name}: .* holds heads trained with"):
        MultitaskBert.from_pretrained(saved, HeadsConfig(**settings))


def change_json(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    "changes", [{"arch": "v9"}, {"layer": None}, {"layer": "x"}, {"hidden_dropout_prob": 1.0}, {"max_length": 2}]
)
def test_a_heads_json_with_wrong_settings_is_refused(saved, changes):
    change_json(saved / "heads.json", **changes)
    with pytest.raises(CheckpointError, match=r"heads\.json: expected the settings of a run's heads"):
        MultitaskBert.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe"])
def test_a_heads_json_that_is_none_is_refused(saved, content):
    (saved / "heads.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"heads\.json: expected the settings of a run's heads"):
        MultitaskBert.from_pretrained(saved)


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_heads_that_cannot_be_read_are_refused(saved, content):
    path = saved / "heads.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: not a readable weights file"):
        MultitaskBert.from_pretrained(saved)


def test_heads_that_do_not_fit_are_refused_with_both_shapes(saved):
    path = saved / "heads.safetensors"
    state = load_file(path)
    state["heads.sst_head.4.bias"] = torch.zeros(6)
    state["heads.extra"] = torch.zeros(1)
    del state["cnn.conv.bias"]
    save_file(state, path)
    with pytest.raises(CheckpointError) as caught:
        MultitaskBert.from_pretrained(saved)
    for part in ("1 missing: cnn.conv.bias", "1 unexpected: heads.extra", "heads.sst_head.4.bias (expected (5,), f"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


@pytest.mark.fault(39)
def test_a_tokenizer_of_another_size_is_refused(saved):
    words = [*tiny.WORDS, "more"]
    (saved / "tokenizer.json").unlink()
    (saved / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(CheckpointError, match="found 61 rows and 62 tokens"):
        MultitaskBert.from_pretrained(saved)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"arch": "v4"}, "arch: expected one of v1, v2, v3a, v3b; found 'v4'"),
        ({"pooling": "max"}, "pooling: expected one of cls, mean, attention_mean, cnn; found 'max'"),
        ({"arch": "v1"}, "pooling: architecture v1 stands on cls; found 'mean'"),
        ({"layer": 0}, "layer: expected -1"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob: expected a rate in"),
        ({"hidden_dropout_prob": -0.1}, "hidden_dropout_prob: expected a rate in"),
        ({"max_length": 2}, "max_length: expected at least 3"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HeadsConfig(**settings)


def test_a_layer_that_the_encoder_has_not_is_refused(folder):
    with pytest.raises(ValueError, match="layer: expected -2 to -1; found -3"):
        MultitaskBert.from_pretrained(folder, HeadsConfig(layer=-3))


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["v2", "v3a"])
def test_the_losses_are_those_of_the_heads_outputs(folder, arch):
    model = make(folder, arch=arch)
    heads, previous = model.heads, PreviousBatch(torch.randn(5, D, generator=generator()))
    settings = LossSettings(sts_gamma=0.3)
    for task in TASKS:
        rows = batch(model, task)
        found = model.losses({task: rows}, settings, previous, generator())[task]
        v = heads.vector(task, model.pooled([rows.tokens])[0])
        if task == "sst":
            expected = sst_loss(heads.sst(v), rows.labels)
        elif task == "sts":
            expected = sts_loss(heads.sts(v[:3], v[3:]), rows.labels, 0.3)
        else:
            negatives = previous.draw(3, generator())
            expected = para_loss(heads.para(v[:3], v[3:]), v[:3], v[3:], rows.labels, negatives, settings)
        assert torch.equal(found, expected) and found.shape == ()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch, pooling", [("v1", "cls"), ("v2", "attention_mean"), ("v3a", "cnn"), ("v3b", "mean")])
def test_gradients_reach_what_the_task_uses_and_nothing_else(folder, arch, pooling, task):
    """Layer -2: the last layer and the pooler are not computed, so they have none."""
    model = make(folder, arch=arch, pooling=pooling, layer=-2).train()
    model.losses({task: batch(model, task)}, LossSettings(), PreviousBatch(), generator())[task].backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    used = ("bert.embeddings.", "bert.layers.0.", "cnn.", "heads.shared_mlp.", f"heads.{task}_head.")
    assert reached == {name for name, _ in model.named_parameters() if name.startswith(used)}


@pytest.mark.parametrize("arch, pooling", [("v1", "cls"), ("v2", "attention_mean"), ("v3a", "cnn"), ("v3b", "mean")])
def test_one_pass_over_all_tasks_is_each_alone(folder, arch, pooling):
    """Losses, the vectors that are stored, and gradients; float64. Of batches of unlike length, in another order."""
    model, settings = make(folder, arch=arch, pooling=pooling).double(), LossSettings()
    batches = {task: batch(model, task) for task in reversed(TASKS)}
    for task in PAIR_TASKS:
        batches[task] = replace(batches[task], labels=batches[task].labels.double())
    vectors = torch.randn(5, D, generator=generator(), dtype=torch.float64)
    stores = PreviousBatch(vectors), PreviousBatch(vectors)
    together = model.losses(batches, settings, stores[0], generator())
    assert list(together) == list(batches)
    alone = {task: model.losses({task: batches[task]}, settings, stores[1], generator())[task] for task in TASKS}
    used = [parameter for name, parameter in model.named_parameters() if "pooler" not in name]
    for task in TASKS:
        torch.testing.assert_close(together[task], alone[task], rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(sum(losses.values()), used) for losses in (together, alone)]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(torch.cat(store.pending) for store in stores), rtol=1e-12, atol=1e-12)


def test_shared_parameters_are_the_encoders_the_cnns_and_the_shared_mlps(folder):
    for arch, pooling, parts in (
        ("v1", "cls", ("bert.",)),
        ("v2", "cnn", ("bert.", "cnn.")),
        ("v3a", "mean", ("bert.", "heads.shared_mlp.")),
        ("v3b", "cnn", ("bert.", "cnn.", "heads.shared_mlp.")),
    ):
        model = make(folder, arch=arch, pooling=pooling)
        shared = {id(parameter) for parameter in model.shared_parameters()}
        names = {name for name, parameter in model.named_parameters() if id(parameter) in shared}
        assert names == {name for name, _ in model.named_parameters() if name.startswith(parts)}


def test_para_stores_its_vectors_for_the_next_step(model):
    """Both sides, as the cosine sees them."""
    previous, rows = PreviousBatch(), batch(model, "para")
    model.losses({"para": rows}, LossSettings(), previous, generator())
    previous.end_step()
    expected = model.heads.vector("para", model.pooled([rows.tokens])[0])
    assert torch.equal(previous.vectors, expected)


@pytest.mark.parametrize("task, settings", [("sst", {}), ("sts", {}), ("para", {"para_loss": "bce"})])
def test_the_store_is_for_the_full_para_loss_alone(model, task, settings):
    previous, draws = PreviousBatch(torch.ones(2, D)), generator()
    model.losses({task: batch(model, task)}, LossSettings(**settings), previous, draws)
    assert previous.pending == []
    assert torch.equal(draws.get_state(), generator().get_state())  # nothing was drawn


def test_under_autocast_the_heads_and_losses_stay_float32(model):
    plain = model.losses({task: batch(model, task) for task in TASKS}, LossSettings(), PreviousBatch(), generator())
    with torch.autocast("cpu", torch.bfloat16):
        for task in TASKS:
            rows = batch(model, task)
            assert model.pooled([rows.tokens])[0].dtype == torch.float32
            found = model.losses({task: rows}, LossSettings(), PreviousBatch(), generator())[task]
            assert found.dtype == torch.float32
            assert found.item() == pytest.approx(plain[task].item(), rel=0.05)  # the encoder's bfloat16


# ---- the real minilm -------------------------------------------------------------------------------------------------

SENTENCES = [
    "The dog is dancing on the stage",
    "The dog is barking on the stage",
    "The flying car is about to land in Nevada",
    "",
    "a",
    "Ünïcödé, 東京 and \N{DOG FACE}!",
    "don't -- 'quote' (it) @ 3.14159 % of https://example.org/?q=1&r=2",
    " ".join(["a rather long sentence, of many words,"] * 9),
]


def test_minilms_vectors_are_sentence_transformers(minilm):
    reference = SentenceTransformer(str(minilm), device="cpu").encode(SENTENCES)
    model = MultitaskBert.from_pretrained(minilm)
    found = model.encode(SENTENCES, pooling="mean", layer=-1, normalize=True)
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-5)  # six layers of float32, in another order
