"""bert/checkpoint.py against transformers' own files, older variants of them, and damaged or hostile ones."""

import json
import os
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_bert import noisy
from torch import Tensor
from torch.testing import assert_close

from bert import BertConfig, BertModel
from bert.checkpoint import check_fit, load_folder, save_folder, to_hugging_face
from runtime.errors import CheckpointError

SIZES = {"vocab_size": 31, "hidden_size": 14, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 23, "max_position_embeddings": 19}
IDS = torch.tensor([[5, 7, 11, 13, 0], [17, 19, 23, 29, 30]])
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"
EXPECTED = "expected model.safetensors, or a pytorch_model.bin of names and tensors alone"
NO_PICKLE, BAD_PICKLE = (
    f"{EXPECTED}; found neither",
    f"{EXPECTED}; found a pytorch_model.bin, damaged or with more in it",
)
Weights = dict[str, Tensor]


def make_reference(kind: type = transformers.BertModel) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return noisy(kind(transformers.BertConfig(**SIZES)), torch.float32).eval()


@pytest.fixture
def reference() -> transformers.BertModel:
    return make_reference()


@pytest.fixture
def folder(tmp_path, reference) -> Path:
    """What transformers writes."""
    reference.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def renamed(change: Callable[[str], str]) -> Callable[[Weights], Weights]:
    return lambda weights: {change(name): value for name, value in weights.items()}


def make_pickle(folder: Path, content: object, zipped: bool = True) -> None:
    """Replace a folder's weights by a pytorch_model.bin."""
    (folder / WEIGHTS).unlink()
    torch.save(content, folder / PICKLE, _use_new_zipfile_serialization=zipped)


def assert_equal(ours: BertModel, expected: Weights) -> None:
    """Bit for bit, and float32."""
    found = to_hugging_face(ours.state_dict())
    assert sorted(found) == sorted(expected)
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name].float()), name


def refusal(folder: Path) -> str:
    """The text of the error for a folder that must be refused."""
    with pytest.raises(CheckpointError) as caught:
        BertModel.from_pretrained(folder)
    assert caught.value.exit_code == 4
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text
    return text


# ---- there and back --------------------------------------------------------------------------------------------------


def test_transformers_to_ours_to_transformers_bit_for_bit(tmp_path, folder, reference):
    ours = BertModel.from_pretrained(folder)
    assert_equal(ours, reference.state_dict())
    save_folder(ours, tmp_path / "new" / "ours")
    again, report = transformers.AutoModel.from_pretrained(tmp_path / "new" / "ours", output_loading_info=True)
    assert type(again) is transformers.BertModel and not any(report.values()), report
    assert again.state_dict().keys() == reference.state_dict().keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, reference.state_dict()[name]), name
    output, expected = ours.double()(IDS), reference.double()(IDS)
    assert_close(output.last_hidden_state, expected.last_hidden_state, rtol=1e-12, atol=1e-12)
    assert_close(output.pooler_output, expected.pooler_output, rtol=1e-12, atol=1e-12)


def test_a_loaded_model_can_be_trained_draws_no_random_number_and_needs_its_file_no_more(folder, reference):
    before = torch.get_rng_state()
    model = BertModel.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    with (folder / WEIGHTS).open("r+b") as file:  # the same file, not a new one in its place
        file.write(bytes((folder / WEIGHTS).stat().st_size))
    assert_equal(model, reference.state_dict())


# ---- variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "prefix", "head", "pooler"),
    [
        (transformers.BertForPreTraining, "", "cls.predictions.bias", True),
        (transformers.BertForSequenceClassification, "module.", "classifier.weight", True),
        (transformers.BertForMaskedLM, "", "cls.predictions.bias", False),
        (transformers.BertForTokenClassification, "module.", "classifier.bias", False),
        (transformers.BertForQuestionAnswering, "", "qa_outputs.weight", False),
    ],
)
def test_models_with_a_head_are_read_and_what_is_not_used_or_not_there_is_said_once(
    tmp_path, capsys, kind, head, pooler, prefix
):
    """Their names have a `bert.` prefix; DataParallel puts `module.` before all."""
    reference = make_reference(kind)
    reference.save_pretrained(tmp_path)
    heads = sorted(name for name in load_file(tmp_path / WEIGHTS) if not name.startswith("bert."))
    assert head in heads
    rewrite(tmp_path, renamed(lambda name: prefix + name))
    capsys.readouterr()
    ours = BertModel.from_pretrained(tmp_path)
    said = capsys.readouterr()
    assert_equal(ours, reference.bert.state_dict())
    assert said.out == "" and said.err.count("\n") == 1 + (not pooler)
    assert f"not used: {len(heads)} tensors outside the encoder: {', '.join(heads)}\n" in said.err
    assert ("missing: pooler.dense.weight, pooler.dense.bias" in said.err) == (not pooler)
    assert (ours.pooler is not None) == (ours(IDS).pooler_output is not None) == pooler
    save_folder(ours, tmp_path / "ours")
    assert sorted(load_file(tmp_path / "ours" / WEIGHTS)) == sorted(reference.bert.state_dict())
    assert_equal(BertModel.from_pretrained(tmp_path / "ours"), reference.bert.state_dict())


@pytest.mark.parametrize("prefix", ["", "bert.", "module.", "module.bert."])
def test_older_names_are_read_in_silence(folder, reference, capsys, prefix):
    """LayerNorm's gamma and beta, and the buffer position_ids."""
    rewrite(folder, renamed(lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")))
    rewrite(folder, renamed(lambda name: prefix + name))
    rewrite(folder, lambda weights: weights | {f"{prefix}embeddings.position_ids": torch.arange(19)[None]})
    assert sum(name.endswith((".gamma", ".beta")) for name in load_file(folder / WEIGHTS)) == 14
    capsys.readouterr()
    assert_equal(BertModel.from_pretrained(folder), reference.state_dict())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("query", "others"),
    [
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float64),
        (torch.float64, torch.bfloat16),
        (torch.float8_e4m3fn, torch.float32),
    ],
)
def test_another_precision_is_read_as_float32(folder, query, others):
    """Also where the query, which becomes one matrix with key and value here, has its own."""
    rewrite(folder, lambda w: {name: value.to(query if ".query." in name else others) for name, value in w.items()})
    assert_equal(BertModel.from_pretrained(folder), load_file(folder / WEIGHTS))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_tensors_is_read_where_there_are_no_safetensors(folder, reference, zipped):
    (folder / PICKLE).write_bytes(b"not looked at")
    assert_equal(BertModel.from_pretrained(folder), reference.state_dict())
    make_pickle(folder, reference.state_dict(), zipped)
    assert_equal(BertModel.from_pretrained(folder), reference.state_dict())


# ---- weights that do not fit -----------------------------------------------------------------------------------------

WORD, POOLER = "embeddings.word_embeddings.weight", "pooler.dense.bias"
QUERY, KEY, VALUE = (f"encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key", "value"))


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if name not in names}


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (without(POOLER), f"1 missing: {POOLER};"),  # half a pooler
        (without(QUERY), f"1 missing: {QUERY};"),  # one of the three that are one matrix here
        # together as many rows as there should be
        (
            lambda w: w | {QUERY: torch.ones(13, 14), VALUE: torch.ones(15, 14)},
            f"2 wrong shape: {QUERY} (expected (14, 14), found (13, 14)), {VALUE} (expected (14, 14), found (15, 14));",
        ),
        (lambda w: w | {"encoder.layer.3.output.dense.bias": torch.ones(14)}, "1 unexpected: encoder.layer.3."),
        (lambda w: w | {POOLER: torch.ones(14, 1)}, f"1 wrong shape: {POOLER} (expected (14,), found (14, 1));"),
        (lambda w: w | {WORD: torch.ones(31, 14, dtype=torch.int8)}, f"1 not floating-point: {WORD} (torch.int8);"),
        (lambda w: {"x": torch.ones(1)}, "53 missing: embeddings.word_embeddings.weight, "),
        (lambda w: w | {VALUE: torch.full((14, 14), torch.nan)}, f"1 NaN or infinite: {VALUE};"),
        (lambda w: w | {WORD: torch.ones(31, 14).index_fill(1, torch.tensor(11), -torch.inf)}, f"infinite: {WORD};"),
        (lambda w: w | {POOLER: torch.full((14,), 1e300, dtype=torch.float64)}, f"1 NaN or infinite: {POOLER};"),
        (lambda w: w | {"embeddings.LayerNorm.gamma": torch.ones(14)}, "found two of one standard name"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, capsys, change, text):
    rewrite(folder, change)
    capsys.readouterr()
    assert text in refusal(folder)
    assert capsys.readouterr().err == ""  # nothing of heads or poolers


@pytest.mark.fault(9)
def test_of_many_names_five_are_shown_and_the_caller_says_what_to_do():
    text = r"^x\.bin: .*: 1 missing: a; 7 unexpected: b0, b1, b2, b3, b4; train again$"
    with pytest.raises(CheckpointError, match=text):
        check_fit({"a": torch.ones(1)}, {f"b{i}": torch.ones(1) for i in range(7)}, Path("x.bin"), advice="train again")


@pytest.mark.fault(9)
def test_a_refused_file_leaves_the_model_untouched(folder):
    model = BertModel(BertConfig(**SIZES))
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, model.state_dict()
    rewrite(folder, without(POOLER, "pooler.dense.weight", KEY))
    with pytest.raises(CheckpointError):
        load_folder(model, folder)
    assert all(value is state[name] or torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.pooler is not None


@pytest.mark.parametrize(("name", "text"), [(WEIGHTS, NO_PICKLE), ("config.json", "config.json: expected")])
def test_a_folder_without_a_file_is_refused(folder, name, text):
    (folder / name).unlink()
    assert text in refusal(folder)


# ---- damage and malice -----------------------------------------------------------------------------------------------


class Malice:
    """Unpickled, it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("trap",)


@pytest.mark.fault(8)
@pytest.mark.parametrize("name", [WEIGHTS, PICKLE])
@pytest.mark.parametrize("kind", ["zip", "old pickle", "bare pickle"])
def test_a_pickle_that_calls_anything_is_refused_and_not_run(tmp_path, folder, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malice()))  # tried out, so that a harmless pickle could not pass for a caught one
    os.rmdir("trap")
    make_pickle(folder, {"x": Malice()}, zipped=kind == "zip")
    if kind == "bare pickle":
        (folder / PICKLE).write_bytes(pickle.dumps({"x": Malice()}, protocol=2))
    (folder / PICKLE).rename(folder / name)
    text = refusal(folder)
    assert (BAD_PICKLE if name == PICKLE else "not a safetensors file") in text
    assert "weights_only" not in text  # torch's own text says how to run it nevertheless
    assert not os.path.exists("trap")


@pytest.mark.parametrize("content", [[torch.ones(1)], {"model": {"x": torch.ones(1)}}, {"x": 1.0}, {1: torch.ones(1)}])
def test_a_pickle_of_other_things_than_names_and_tensors_is_refused(folder, content):
    make_pickle(folder, content)
    assert BAD_PICKLE in refusal(folder)


HUGE = json.dumps({WORD: {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}}).encode()


@pytest.mark.fault(8)
@pytest.mark.parametrize("size", [2**60, 2**64 - 1, None])
@pytest.mark.parametrize("header", [b"{}", b"[]", b"not JSON.", b"[" * 100_000, HUGE])
def test_a_file_that_lies_is_refused_at_once(folder, size, header):
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header) if size is None else size) + header)
    start = time.monotonic()
    assert ("not a safetensors file" if header != b"{}" or size else "missing") in refusal(folder)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("keep", [0, 1, 8, 9, 1000, -1])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "old pickle"])
def test_a_file_cut_short_is_refused(folder, reference, kind, keep):
    if kind != "safetensors":
        make_pickle(folder, reference.state_dict(), zipped=kind == "zip")
    path = folder / (WEIGHTS if kind == "safetensors" else PICKLE)
    path.write_bytes(path.read_bytes()[:keep])
    assert ("not a safetensors file" if kind == "safetensors" else BAD_PICKLE) in refusal(folder)
