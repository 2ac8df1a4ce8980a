"""bert/checkpoint.py against transformers' own files, older variants of them, and damaged or hostile ones."""

from __future__ import annotations

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
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from bert import BertConfig, BertModel
from bert.checkpoint import check_fit, load_folder, read_weights, save_folder, to_hugging_face
from bert.errors import CheckpointError

SIZES = {
    "vocab_size": 31,
    "hidden_size": 14,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 23,
    "max_position_embeddings": 19,
}
IDS = torch.tensor([[5, 7, 11, 13, 0], [17, 19, 23, 29, 30]])
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"
Weights = dict[str, Tensor]


def make_reference(kind: type = transformers.BertModel) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = kind(transformers.BertConfig(**SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh biases are all 0 and LayerNorms 1: a mix-up would not show
            parameter.add_(torch.randn_like(parameter))
    return model


@pytest.fixture
def reference() -> transformers.BertModel:
    return make_reference()


@pytest.fixture
def folder(tmp_path, reference) -> Path:
    """What transformers writes."""
    reference.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def rewrite(folder: Path, change: Callable[[Weights], Weights | None]) -> None:
    """Write a folder's weights anew: as `change` returns them, or as it leaves them."""
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights) or weights, folder / WEIGHTS, metadata={"format": "pt"})


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
    again, told = transformers.AutoModel.from_pretrained(tmp_path / "new" / "ours", output_loading_info=True)
    assert type(again) is transformers.BertModel
    assert not any(told.values()), told
    assert again.state_dict().keys() == reference.state_dict().keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, reference.state_dict()[name]), name


def test_a_loaded_model_computes_what_transformers_computes(folder, reference):
    output, expected = BertModel.from_pretrained(folder)(IDS), reference(IDS)
    assert_close(output.last_hidden_state, expected.last_hidden_state, rtol=1e-5, atol=1e-6)
    assert_close(output.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-6)


@settings(max_examples=15)
@given(
    heads=st.integers(1, 3),
    width=st.integers(1, 5),
    layers=st.sampled_from([1, 2, 11]),
    others=st.lists(st.integers(1, 7), min_size=4, max_size=4),
)
def test_any_size_is_read_as_written(tmp_path_factory, heads, width, layers, others):
    vocab_size, intermediate_size, positions, types = others
    config = BertConfig(vocab_size, heads * width, layers, heads, intermediate_size, positions, types)
    model = BertModel(config)
    folder = tmp_path_factory.getbasetemp() / "any_size"
    save_folder(model, folder)
    again = BertModel.from_pretrained(folder)
    assert again.config == config
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_what_is_written_may_be_read_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        save_folder(BertModel(BertConfig(**SIZES)), tmp_path)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in (WEIGHTS, "config.json")] == [0o640, 0o640]


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_a_loaded_model_is_in_eval_mode_and_can_be_trained(folder):
    model = BertModel.from_pretrained(folder)
    assert not any(module.training for module in model.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model(IDS)
    (output.last_hidden_state.pow(3).sum() + output.pooler_output.sum()).backward()
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in model.parameters())
    optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    # Softmax does not see what a key's bias adds to all scores alike, so that its gradient is 0 but for rounding.
    assert changed >= {name for name in before if not name.endswith("key.bias")}


def test_loading_draws_no_random_number(folder):
    before = torch.get_rng_state()
    BertModel.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_model_does_not_look_at_its_file_again(folder, reference):
    model = BertModel.from_pretrained(folder)
    with (folder / WEIGHTS).open("r+b") as file:  # the same file, not a new one in its place
        file.write(bytes((folder / WEIGHTS).stat().st_size))
    assert_equal(model, reference.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_read_as_float32(folder, dtype):
    rewrite(folder, lambda weights: {name: value.to(dtype) for name, value in weights.items()})
    assert_equal(BertModel.from_pretrained(folder), load_file(folder / WEIGHTS))


@pytest.mark.parametrize(
    "kinds",
    [
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float16),
        (torch.float8_e4m3fn, torch.float32, torch.bfloat16),  # a mixture that torch.cat refuses
    ],
)
def test_query_key_and_value_may_each_have_their_own_precision(folder, kinds):
    """They become one matrix here, which is that of the three as they stand in the file."""
    dtypes = dict(zip(("query", "key", "value"), kinds, strict=True))
    rewrite(folder, lambda w: {name: value.to(dtypes.get(name.split(".")[-2])) for name, value in w.items()})
    written = load_file(folder / WEIGHTS)
    assert {written[f"encoder.layer.2.attention.self.{part}.bias"].dtype for part in dtypes} == set(kinds)
    assert_equal(BertModel.from_pretrained(folder), written)


# ---- variants --------------------------------------------------------------------------------------------------------


def test_a_pretraining_checkpoint_is_read_and_its_heads_are_told(tmp_path, capsys):
    """It has a `bert.` prefix on every name but the heads'."""
    reference = make_reference(transformers.BertForPreTraining)
    reference.save_pretrained(tmp_path)
    heads = sorted(name for name in load_file(tmp_path / WEIGHTS) if name.startswith("cls."))
    assert "cls.predictions.bias" in heads
    capsys.readouterr()
    ours = BertModel.from_pretrained(tmp_path)
    assert_equal(ours, reference.bert.state_dict())
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1 and told.err.endswith(", ".join(heads) + "\n")


def test_layer_norms_of_the_first_checkpoints_are_called_gamma_and_beta(folder, reference, capsys):
    rewrite(folder, renamed(lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")))
    assert sum(name.endswith((".gamma", ".beta")) for name in load_file(folder / WEIGHTS)) == 14
    capsys.readouterr()
    assert_equal(BertModel.from_pretrained(folder), reference.state_dict())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_the_buffer_position_ids_is_passed_over(folder, reference, prefix):
    rewrite(folder, renamed(lambda name: prefix + name))
    rewrite(folder, lambda weights: weights | {f"{prefix}embeddings.position_ids": torch.arange(19)[None]})
    assert_equal(BertModel.from_pretrained(folder), reference.state_dict())


def test_two_names_of_one_weight_are_refused(folder):
    rewrite(folder, lambda weights: weights | {"embeddings.LayerNorm.gamma": torch.zeros(14)})
    assert "two tensors mean embeddings.LayerNorm.weight" in refusal(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_tensors_is_read(folder, reference, zipped):
    make_pickle(folder, reference.state_dict(), zipped)
    assert_equal(BertModel.from_pretrained(folder), reference.state_dict())


def test_safetensors_come_before_a_pickle(folder, reference):
    (folder / PICKLE).write_bytes(b"not looked at")
    assert_equal(BertModel.from_pretrained(folder), reference.state_dict())


# ---- weights that do not fit -----------------------------------------------------------------------------------------

WORD, POOLER = "embeddings.word_embeddings.weight", "pooler.dense.bias"
QUERY, KEY, VALUE = (f"encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key", "value"))


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if name not in names}


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without(POOLER), f"1 missing: {POOLER};"),
        (without(QUERY), f"1 missing: {QUERY};"),  # the three that are one matrix here
        (without(KEY), f"1 missing: {KEY};"),
        (without(VALUE), f"1 missing: {VALUE};"),
        # together as many rows as there should be
        (
            lambda w: w | {QUERY: torch.ones(13, 14), VALUE: torch.ones(15, 14)},
            f"2 wrong shape: {QUERY} (expected (14, 14), found (13, 14)), {VALUE} (expected (14, 14), found (15, 14));",
        ),
        (lambda w: w | {"classifier.weight": torch.ones(2)}, "1 unexpected: classifier.weight;"),
        (lambda w: w | {"encoder.layer.3.output.dense.bias": torch.ones(14)}, "1 unexpected: encoder.layer.3."),
        (lambda w: w | {WORD: torch.ones(29, 14)}, f"1 wrong shape: {WORD} (expected (31, 14), found (29, 14));"),
        (lambda w: w | {POOLER: torch.ones(14, 1)}, f"1 wrong shape: {POOLER} (expected (14,), found (14, 1));"),
        (lambda w: w | {WORD: torch.ones(31, 14, dtype=torch.int8)}, f"1 not floating-point: {WORD} (torch.int8);"),
        (renamed(lambda name: name.replace("pooler", "pool")), "2 missing: pooler.dense.weight, pooler.dense.bias; 2"),
        (lambda w: {"x": torch.ones(1)}, "55 missing: embeddings.word_embeddings.weight, "),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, told):
    rewrite(folder, change)
    assert told in refusal(folder)


@pytest.mark.fault(9)
def test_of_many_names_the_first_five_are_told(folder):
    rewrite(folder, lambda weights: weights | {f"extra.{number}": torch.ones(1) for number in range(7)})
    assert "7 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4, ...;" in refusal(folder)


@pytest.mark.fault(9)
def test_what_to_do_about_weights_that_do_not_fit_is_the_caller_s_to_say():
    with pytest.raises(CheckpointError, match=r"^x\.bin: .*: 1 missing: a; train again$"):
        check_fit({"a": torch.ones(1)}, {}, Path("x.bin"), advice="train again")


@pytest.mark.fault(9)
def test_a_refused_file_leaves_the_model_untouched(folder):
    model = BertModel(BertConfig(**SIZES))
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    rewrite(folder, without(POOLER))
    with pytest.raises(CheckpointError):
        load_folder(model, folder)
    for name, value in model.state_dict().items():
        assert value.data_ptr() == before[name][0] and torch.equal(value, before[name][1])


# ---- damage and malice -----------------------------------------------------------------------------------------------


class Malice:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path) -> Path:
    """A file that must not come to be; tried out, so that a harmless pickle could not pass for a caught one."""
    path = tmp_path / "trap"
    pickle.loads(pickle.dumps(Malice(path)))
    assert path.exists()
    path.unlink()
    return path


@pytest.mark.fault(8)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_calls_anything_is_refused_and_not_run(folder, reference, trap, zipped):
    make_pickle(folder, reference.state_dict() | {"x": Malice(trap)}, zipped)
    text = refusal(folder)
    assert "expected names and tensors alone" in text
    assert "weights_only" not in text  # torch's own text says how to run it nevertheless
    assert not trap.exists()


@pytest.mark.fault(8)
@pytest.mark.parametrize("name", [WEIGHTS, PICKLE])
def test_a_bare_pickle_by_any_name_is_refused_and_not_run(folder, trap, name):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps({"x": Malice(trap)}, protocol=2))
    refusal(folder)
    assert not trap.exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], {"model": {"x": torch.ones(1)}}, {"x": 1.0}, {1: torch.ones(1)}])
def test_a_pickle_of_other_things_than_names_and_tensors_is_refused(folder, content):
    make_pickle(folder, content)
    assert "expected names and tensors alone" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 1000, -1])
def test_safetensors_cut_short_are_refused(folder, keep):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    assert "model.safetensors: not a readable weights file" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 1, 100, 1000, -1])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_cut_short_is_refused(folder, reference, zipped, keep):
    make_pickle(folder, reference.state_dict(), zipped)
    content = (folder / PICKLE).read_bytes()
    (folder / PICKLE).write_bytes(content[:keep])
    assert "pytorch_model.bin: expected names and tensors alone" in refusal(folder)


def header(size: int, text: bytes) -> bytes:
    return struct.pack("<Q", size) + text


HUGE = json.dumps({WORD: {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}}).encode()


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "content",
    [
        header(2**60, b"{}"),
        header(2**64 - 1, b"{}"),
        header(len(HUGE), HUGE),
        header(2, b"[]"),
        header(9, b"not JSON."),
        header(100_000, b"[" * 100_000),
        b"garbage" * 97,
    ],
    ids=["header of 2^60 bytes", "header of 2^64 - 1", "tensor of 2^60", "a list", "no JSON", "deep JSON", "garbage"],
)
def test_a_file_that_lies_is_refused_at_once(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    start = time.monotonic()
    assert "not a readable weights file" in refusal(folder)
    assert time.monotonic() - start < 1


@settings(max_examples=150)
@given(data=st.data(), kind=st.sampled_from(["safetensors", "zip", "old pickle", "noise"]))
def test_any_damage_ends_in_tensors_or_a_checkpoint_error(tmp_path_factory, data, kind):
    path = tmp_path_factory.getbasetemp() / ("damaged.safetensors" if kind == "safetensors" else "damaged.bin")
    weights = {"a": torch.arange(3.0), "b": torch.ones(2, 5)}
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "noise":
        path.write_bytes(data.draw(st.binary(max_size=40)))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    if content:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
            content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_weights(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items())


def test_a_folder_without_weights_is_refused(folder):
    (folder / WEIGHTS).unlink()
    assert "expected model.safetensors or pytorch_model.bin; found neither; give a folder" in refusal(folder)


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    assert "config.json: expected a readable JSON file" in refusal(folder)


def test_a_config_of_another_model_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 29}))
    text = refusal(folder)
    assert "9 wrong shape: encoder.layer.0.intermediate.dense.weight (expected (29, 14), found (23, 14)), " in text
    assert text.endswith("; check config.json beside it")
