"""heads/multitask.py, inference.py and files.py on a tiny BERT, against their parts and sentence-transformers."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from every_kind import EVERY, LABELS, task_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from small_bert import layer_states, seeded
from torch import Tensor, nn

from bert import BertModel, BertTokenizer
from data.reader import Example, Split
from data.tasks import LEADERBOARD, TASKS, Task
from heads import MultitaskBert
from heads.config import POOLINGS, HeadsConfig
from heads.inference import TOKENS_A_PASS, passes
from heads.kinds import KINDS
from heads.losses import LossSettings, PreviousStep, contrastive_loss
from heads.pooling import attention_mean, mean
from heads.rows import TaskBatch, TaskRows
from runtime.errors import CheckpointError, DivergedError, UsageError

D, TEXTS = tiny.CONFIG.hidden_size, tiny.TEXTS
OTHERS = TEXTS[1:] + TEXTS[:1]
EACH = [*(TASKS[name] for name in LEADERBOARD), *EVERY]
EACH_ARCH = [("v1", "cls"), ("v2", "attention_mean"), ("v3a", "cnn"), ("v3b", "mean")]
each_task = pytest.mark.parametrize("task", EACH, ids=lambda task: task.name)
each_arch = pytest.mark.parametrize("arch, pooling", EACH_ARCH)


def make(folder: Path, tasks: list[Task] = EACH, **settings) -> MultitaskBert:
    """A model with heads none of whose weights are 0, as if trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultitaskBert.from_pretrained(folder, tasks, HeadsConfig(**settings))
        for parameter in model.heads.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("pairs", ["cross", "both"])
def test_what_cannot_read_two_texts_at_once_is_refused(tiny_bert, pairs):
    task, bert = replace(TASKS["sts"], pairs=pairs), BertModel(replace(tiny.CONFIG, type_vocab_size=1))
    with pytest.raises(UsageError, match=r"--max_length: expected at least 5 for sts, .*; found 4"):
        make(tiny_bert, [TASKS["sst"], task], max_length=4)
    with pytest.raises(UsageError, match="--pairs: sts expects a BERT with two segment ids; found one"):
        MultitaskBert(bert, BertTokenizer.from_pretrained(tiny_bert), [task])


@pytest.fixture(scope="module")
def model(tiny_bert) -> MultitaskBert:
    return make(tiny_bert, pooling="cnn", layer=-2)


@pytest.fixture
def saved(model, tmp_path) -> Path:
    model.save(tmp_path)
    return tmp_path


def sides_of(task: Task, texts: list[str] = TEXTS) -> list[list[str]]:
    return [texts, OTHERS[: len(texts)]][: len(task.texts)]


def batch(model: MultitaskBert, task: Task) -> TaskBatch:
    """Three rows."""
    rows = zip("xyz", zip(*sides_of(task, TEXTS[:3]), strict=True), LABELS[task.kind], (1, 2, 3), strict=True)
    split = Split(task.name, Path(), "", [Example(*row) for row in rows], [], "")
    return TaskRows(task, split, model.tokenizer, model.max_length, batch_size=3, seed=0).batch([0, 1, 2])


def losses(model: MultitaskBert) -> dict[str, torch.Tensor]:
    batches = {task.name: batch(model, task) for task in EACH}
    return model.losses(batches, LossSettings(), PreviousStep(), seeded())


def plain(model: MultitaskBert, tokens, pooling: str, layer: int) -> torch.Tensor:
    """Sentence vectors by the plain model, (N, D)."""
    (x, attention), mask = layer_states(model.bert, **tokens, layer=layer), tokens.attention_mask
    if pooling == "cnn":
        return model.cnn(x, mask)
    weighted = attention_mean(x, attention, mask, tokens.token_type_ids)
    return {"cls": x[:, 0], "mean": mean(x, mask), "attention_mean": weighted}[pooling]


def assert_close(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# ---- encode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_encode_is_each_sentence_alone(model, pooling, layer):
    """By the plain model, no matter what else is in the list, in its order, one row a text, doubles among them."""
    texts = [*TEXTS, TEXTS[3], TEXTS[0]]
    expected = [plain(model, model.tokenizer(text), pooling, layer)[0].detach().numpy() for text in texts]
    found = model.encode(texts, pooling, layer)
    assert found.dtype == np.float32 and found.shape == (len(texts), D)
    assert_close(found, expected)
    assert np.array_equal(found[0], found[-1])


def test_encode_without_arguments_is_the_models_own_pooling_and_layer(model):
    assert np.array_equal(model.encode(TEXTS), model.encode(TEXTS, pooling="cnn", layer=-2))
    assert not np.allclose(model.encode(TEXTS), model.encode(TEXTS, layer=-1))
    assert not np.allclose(model.encode(TEXTS), model.encode(TEXTS, pooling="mean"))
    assert model.encode([]).shape == (0, D) and model.encode([]).dtype == np.float32


def test_normalize_makes_length_1_and_bf16_is_near(model):
    plain, found = model.encode(TEXTS), model.encode(TEXTS, normalize=True)
    assert_close(np.linalg.norm(found, axis=1), np.ones(len(TEXTS)))
    assert_close(found, plain / np.linalg.norm(plain, axis=1, keepdims=True))
    found = model.encode(TEXTS, amp="bf16")
    assert found.dtype == np.float32 and not np.array_equal(found, plain)
    np.testing.assert_allclose(found, plain, rtol=0, atol=0.05)  # 8 bits of significand, vectors of size 1


def test_long_texts_are_cut_to_the_models_length_and_the_encoders_limit(tiny_bert):
    short, long = make(tiny_bert, max_length=5), make(tiny_bert, max_length=512)
    assert_close(short.encode(["the dog is good and bad"]), long.encode(["the dog is"]))
    assert long.max_length == tiny.CONFIG.max_position_embeddings
    assert long.encode(["dog " * 1000]).shape == (1, D)


def test_threads_share_a_model_in_training_mode(tiny_bert):
    """Each call is as if alone, without dropout, and no part's mode changes."""
    model = make(tiny_bert, hidden_dropout_prob=0.5)
    for layer in model.bert.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.5
    calls = [
        lambda: model.encode(TEXTS),
        lambda: model.encode(TEXTS, "attention_mean", amp="bf16"),
        lambda: model.predict("sts", TEXTS, OTHERS),
        lambda: model.predict("sst", TEXTS, amp="bf16", probabilities=True),
    ]
    alone = [call() for call in calls]
    model.train().heads.shared.eval()  # each part's own: a frozen one stays in eval mode
    before = {name: module.training for name, module in model.named_modules()}
    with ThreadPoolExecutor(4) as threads:
        for found, expected in zip(threads.map(lambda call: call(), calls * 25), alone * 25, strict=True):
            assert np.array_equal(found, expected)
    assert {name: module.training for name, module in model.named_modules()} == before


MOST, LEAST = 2048, 256


@given(st.lists(st.integers(2, 60) | st.integers(2, MOST + 3), max_size=97))
def test_passes_hold_every_row_once_and_not_too_many_tokens_nor_much_padding(lengths):
    found = list(passes(lengths, MOST, LEAST))
    assert sorted(row for groups in found for rows in groups for row in rows) == list(range(len(lengths)))
    for groups in found:
        widths = [max(lengths[row] for row in rows) for rows in groups]
        padded = sum(len(rows) * width for rows, width in zip(groups, widths, strict=True))
        assert sum(map(len, groups)) == 1 or padded <= MOST
        for rows, width in zip(groups, widths, strict=True):
            longest = sum(lengths[row] == width for row in rows)
            assert longest == len(rows) or longest * width < LEAST


def test_a_pass_ends_where_it_is_full_and_not_before(model, monkeypatch):
    assert [[len(rows) for rows in groups] for groups in passes([16] * 300, MOST, LEAST)] == [[128], [128], [44]]
    lengths = [16] * 100 + [15] * 100 + [3] * 10
    assert [[len(rows) for rows in groups] for groups in passes(lengths, MOST, LEAST)] == [[100, 29], [71, 10]]
    whole = model.encode(TEXTS)
    monkeypatch.setitem(TOKENS_A_PASS, "cpu", 1)  # every text alone
    assert_close(model.encode(TEXTS), whole)


# ---- predict ---------------------------------------------------------------------------------------------------------


@each_task
@each_arch
def test_predictions_are_the_heads_of_the_vectors_in_the_users_words(tiny_bert, arch, pooling, task):
    model, kind = make(tiny_bert, [task], arch=arch, pooling=pooling), KINDS[task.kind](task)
    sides, layer = sides_of(task), model.config.layer
    tokens = [model.tokenizer([text]) for side in sides for text in side] if task.pairs != "cross" else []
    if len(sides) == 2 and task.pairs != "siamese":
        tokens += [model.tokenizer(*pair) for pair in zip(*sides, strict=True)]
    each_alone = [plain(model, each, pooling, layer) for each in tokens]
    x = torch.cat(each_alone).detach()
    with torch.no_grad():
        y = model.heads[task.name](model.heads.vectors({task.name: x})[task.name])
    found, none = model.predict(task.name, *sides_of(task)), model.predict(task.name, *sides_of(task, []))
    assert len(none) == 0 and type(none) is type(found)
    if task.kind == "score":
        assert found.dtype == none.dtype == np.float64
        assert_close(found, y.clamp(*task.range))
    else:
        assert list(found) == list(kind.names(kind.predict(y)))
        found = model.predict(task.name, *sides_of(task), probabilities=True)
        assert found.shape == (len(TEXTS), len(task.classes))
        assert_close(found, kind.probabilities(y))


@each_task
def test_no_prediction_is_made_of_an_undefined_output(tiny_bert, task):
    """Neither a class of NaN logits nor a 0 of a NaN probability; the first such text is named."""
    model, word = make(tiny_bert), tiny.WORDS.index("guitar")  # in rows 2 and 3, and as the other side in 1 and 2
    with torch.no_grad():
        model.bert.embeddings.word.weight[word] = torch.nan
    first = sides_of(task)[0][3 - len(task.texts)]
    with pytest.raises(DivergedError, match=re.escape(f"first of {first!r};")):
        model.predict(task.name, *sides_of(task))


def test_a_plain_bert_with_fresh_heads_finds_identical_sentences_alike(tiny_bert):
    model = MultitaskBert.from_pretrained(tiny_bert, config=HeadsConfig(arch="v2"))
    assert list(model.tasks) == list(LEADERBOARD) and not model.training
    assert (model.predict("para", TEXTS, TEXTS) == 1).all()
    assert_close(model.predict("sts", TEXTS, TEXTS), np.full(len(TEXTS), 5.0))


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    "method, arguments, message",
    [
        ("encode", ["dog"], "texts: expected a list of sentences; found str"),
        ("encode", [TEXTS, "max"], "pooling: expected one of this model's cls, mean, attention_mean; found 'max'"),
        ("encode", [TEXTS, ""], "pooling: expected one of this model's cls, mean, attention_mean; found ''"),
        ("encode", [TEXTS, "cnn"], "pooling: expected one of this model's .*attention_mean; found 'cnn'"),
        ("encode", [TEXTS, "cls", -3], "layer: expected -2 to -1"),
        ("encode", [TEXTS, "cls", -1, False, "fp8"], "amp: expected off, bf16, fp16 or auto; found 'fp8'"),
        ("encode", [["dog", "dog", 7]], r"texts\[2\]: expected a string"),  # equal texts are read once
        ("encode", [[["dog"]]], r"texts\[0\]: expected a string"),
        ("encode", [[("a", "b"), "ab"]], r"texts\[1\]: expected a pair .* for texts\[0\] is a tuple; found 'ab'"),
        ("encode", [[("a", "b", "c")]], r"texts\[0\]: expected a pair of texts, .*; found \('a', 'b', 'c'\)"),
        ("predict", ["sts", ["a", "b"], ["c", None]], r"texts_b\[1\]: expected a string"),
        ("predict", ["nli", TEXTS], r"task: expected one of sst \(single texts\), para \(pairs\), .*; found 'nli'$"),
        ("predict", ["sst", TEXTS, TEXTS], r"^sst: expected single texts; found pairs; this model has sst \(single"),
        ("predict", ["sts", TEXTS], r"^sts: expected pairs; found single texts; this model has .*sts \(pairs\), "),
        ("predict", ["para", TEXTS, TEXTS[:2]], "para: expected as many texts_b as texts_a; found 9 and 2"),
        ("predict", ["sst", [("a", "b")]], r"texts_a\[0\]: expected a string"),  # for encode a pair as one sequence
        ("predict", ["sst", "dog"], "texts_a: expected a list of sentences; found str"),
        ("predict", ["sts", ["dog"], "d"], "texts_b: expected a list of sentences; found str"),
        ("predict", ["score-1", TEXTS, None, "off", True], "score-1: a score has no probabilities"),
    ],
)
def test_what_cannot_be_answered_is_refused(tiny_bert, method, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(make(tiny_bert), method)(*arguments)


# ---- files -----------------------------------------------------------------------------------------------------------


@each_arch
def test_a_saved_model_comes_back_bit_for_bit_with_its_tasks(tiny_bert, tmp_path, arch, pooling):
    mine = task_of("classes", 1, classes=(3, 7), folder="/home/me")
    tasks = [*EACH, *(replace(mine, name=name, files={"train": "x.csv"}) for name in ("keys", "type", "a-b"))]
    settings = {"arch": arch, "pooling": pooling, "layer": -2, "hidden_dropout_prob": 0.3, "max_length": 11}
    model = make(tiny_bert, tasks, **settings)
    model.save(tmp_path)
    again = MultitaskBert.from_pretrained(tmp_path)
    assert again.config == model.config and not again.training
    without_files = [replace(task, files={}, folder=None) for task in tasks]  # a model's folder is given to others
    assert list(again.tasks.values()) == without_files and "home" not in (tmp_path / "heads.json").read_text()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    for task in tasks:
        found, expected = (each.predict(task.name, *sides_of(task)) for each in (again, model))
        assert list(found) == list(expected)


@pytest.mark.parametrize("pooling, length", [("mean", 13), ("cls", 512)])
def test_sentence_transformers_reads_what_was_saved(tiny_bert, tmp_path, pooling, length):
    model = make(tiny_bert, pooling=pooling, max_length=length)
    model.save(tmp_path)
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    assert reference.max_seq_length == min(length, tiny.CONFIG.max_position_embeddings)
    assert_close(reference.encode(TEXTS), model.encode(TEXTS))  # the last of them is longer than 13
    assert_close(reference.encode(TEXTS, normalize_embeddings=True), model.encode(TEXTS, normalize=True))


def test_going_on_from_a_model_joins_the_tasks(saved, model):
    """Its heads keep their weights, arch, pooling and layer, and take the rest; further tasks get fresh heads."""
    wanted, fresh = HeadsConfig(pooling="cnn", layer=-2, hidden_dropout_prob=0.7, max_length=17), task_of("labels", 2)
    fresh = replace(fresh, name="fresh")
    again = MultitaskBert.from_pretrained(saved, [fresh, replace(TASKS["sst"], batch_size=3)], wanted)
    assert again.config == wanted and list(again.tasks) == [*model.tasks, "fresh"]
    assert {module.p for module in again.heads.modules() if isinstance(module, nn.Dropout)} == {0.7}
    assert all(torch.equal(again.head_state()[name], value) for name, value in model.head_state().items())
    assert again.predict("fresh", TEXTS, OTHERS, probabilities=True).shape == (len(TEXTS), 5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": HeadsConfig("v2", "cnn", -2)}, "--arch: .* holds heads trained with 'v3a'; found 'v2'"),
        ({"config": HeadsConfig("v3a", "mean", -2)}, "--pooling: .* holds heads trained with 'cnn'; found 'mean'"),
        ({"config": HeadsConfig("v3a", "cnn", -1)}, "--layer: .* holds heads trained with -2; found -1"),
        ({"kind": "labels"}, "was trained with kind 'classes'; found 'labels'"),
        ({"classes": ("yes", "maybe", "no")}, "was trained with classes .*; found .*; give the task another name"),
        ({"range": (0.0, 5.0)}, "was trained with range None"),
        ({"texts": ("one", "other")}, "was trained with texts .'one',.; found .'one', 'other'."),
        ({"pairs": "cross"}, "was trained with pairs 'siamese'; found 'cross'"),
    ],
)
def test_what_means_another_thing_than_the_trained_heads_is_refused(saved, change, message):
    tasks = [] if "config" in change else [replace(EVERY[0], **change)]
    with pytest.raises(UsageError, match=message):
        MultitaskBert.from_pretrained(saved, tasks, change.get("config"))


@pytest.mark.parametrize(
    "there, instead",
    [
        ('"tasks":', '"task":'),  # as of an earlier version
        ('"layer":', '"level":'),
        ('"arch": "v3a"', '"arch": "v9"'),
        ('"pooling": "cnn"', '"pooling": "max"'),
        ('"hidden_dropout_prob": 0.3', '"hidden_dropout_prob": 1.0'),
        ('"layer": -2', '"layer": "x"'),
        ('"kind": "classes"', '"kind": "regression"'),
        ('"kind": "classes"', '"kind": ["classes"]'),
        ("}", ""),
    ],
)
def test_a_heads_json_that_is_none_of_this_version_is_refused(saved, there, instead):
    path = saved / "heads.json"
    text = path.read_text()
    assert there in text
    path.write_text(text.replace(there, instead))
    with pytest.raises(CheckpointError, match=r"heads\.json: expected .*; found .*"):
        MultitaskBert.from_pretrained(saved)


def test_heads_that_do_not_fit_are_refused_by_name_with_both_shapes(saved):
    path = saved / "heads.safetensors"
    state = load_file(path)
    state["heads.tasks.sst_head.f.4.bias"] = torch.zeros(6)
    state["heads.tasks.score-1_head.f.1.weight"][3, 5] = torch.nan
    state["heads.extra"] = torch.zeros(1)
    del state["cnn.conv.bias"]
    save_file(state, path)
    with pytest.raises(CheckpointError) as caught:
        MultitaskBert.from_pretrained(saved)
    message = str(caught.value)
    assert "1 missing: cnn.conv.bias; 1 unexpected: heads.extra; 1 wrong shape: heads.tasks.sst_head." in message
    assert "(expected (5,), found (6,)); 1 NaN or infinite: heads.tasks.score-1_head.f.1.weight; " in message
    assert caught.value.exit_code == 4 and "\n" not in message
    path.unlink()
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: not a safetensors file .*No such file"):
        MultitaskBert.from_pretrained(saved)


@pytest.mark.fault(39)
def test_a_tokenizer_of_another_size_is_refused(saved):
    (saved / "tokenizer.json").unlink()
    (saved / "vocab.txt").write_text("\n".join([*tiny.WORDS, "more"]) + "\n")
    with pytest.raises(CheckpointError, match="found 61 rows and 62 tokens"):
        MultitaskBert.from_pretrained(saved)


# ---- training --------------------------------------------------------------------------------------------------------


def previous_step(vectors: Tensor) -> PreviousStep:
    previous = PreviousStep()
    previous.vectors = {"para": vectors, "twice": vectors}
    return previous


@each_arch
def test_losses_of_one_pass_over_all_tasks(tiny_bert, arch, pooling):
    """Each is its kind's of its head's outputs, as the plain model computes them alone; so are gradients. The
    contrastive loss compares the texts read apart, also of pairs that are read both ways. float64"""
    tasks = [*EACH, replace(TASKS["para"], name="twice", pairs="both")]
    model = make(tiny_bert, tasks, arch=arch, pooling=pooling, layer=-2).double()
    settings, vectors = LossSettings(sts_gamma=0.3), torch.randn(5, D, generator=seeded(), dtype=torch.float64)
    previous, draws, expected, stored = previous_step(vectors), seeded(), {}, {}
    batches = {task.name: batch(model, task) for task in reversed(tasks)}
    for name, rows in batches.items():
        task, kind = model.tasks[name], model.heads[name].kind
        v = model.heads.vectors({name: plain(model, rows.tokens, pooling, -2)})[name]
        each = [kind.loss(y, rows.labels, settings) for y in model.heads[name].readings(v)]
        expected[name] = sum(each) / (2 if task.pairs == "both" else 1)
        if task.contrastive:
            negatives, stored[name] = previous_step(vectors).draw(name, range(3), draws), v[:6]
            expected[name] = expected[name] + contrastive_loss(v[:3], v[3:6], rows.labels, negatives, settings)
    found = model.losses(batches, settings, previous, seeded())
    assert list(found) == list(batches) and stored.keys() == {"para", "twice"}
    previous.end_step()
    used = [p for name, p in model.named_parameters() if not name.startswith(("bert.layers.1.", "bert.pooler."))]
    gradients = [torch.autograd.grad(sum(each.values()), used) for each in (found, expected)]
    for one, other in (
        *((found[name], expected[name]) for name in batches),
        *((previous.vectors[name], stored[name]) for name in stored),  # both sides, as the cosine sees them
        *zip(*gradients, strict=True),
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_cased_vocabulary_sees_a_text_as_it_stands_in_training_and_predictions(tiny_bert, tmp_path):
    """What the checkpoint's tokenizer says of case counts: here "Dog" is no word."""
    bert = shutil.copytree(tiny_bert, tmp_path / "bert")
    (bert / "tokenizer.json").unlink()
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    model, rows = make(bert, [TASKS["sst"]]), [Example("x", ("the Dog",), 0, 1)]
    training = TaskRows(TASKS["sst"], Split("sst", Path(), "", rows, [], ""), model.tokenizer, 99, 1, seed=0)
    assert training.batch([0]).tokens.input_ids[0, 2] == tiny.WORDS.index("[UNK]")
    assert not np.allclose(*model.encode(["the Dog", "the dog"]))


def test_under_autocast_the_heads_and_losses_stay_float32(model):
    plain = losses(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(model)
    for name, loss in found.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(plain[name].item(), rel=0.1)  # the encoder's bfloat16
