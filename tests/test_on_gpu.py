"""tools/on_gpu.py as far as it goes without a GPU: the book of its checks, what it packs, how it compares runs."""

import json
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch

from bert import BertModel, BertTokenizer
from bert.checkpoint import read_weights
from runtime.errors import UsageError, run_cli
from tools.gpu_checks import LeftOut, same_bits
from tools.gpu_speed import model_flop_use
from tools.on_gpu import Book, main, pack
from training import checkpoint


def left_out():
    raise LeftOut("nothing to see")


def test_checks_are_written_down_one_by_one_and_after_the_deadline_none_begins(tmp_path):
    """A check that fails does not stop the others; what a section holds is given back."""
    book, closed = Book(tmp_path, "the command", minutes=1), []

    def too_long() -> dict:
        book.deadline = 0
        return {"ok": True, "error": 0.00012345678}

    def checks():
        try:
            yield "figure", lambda: {"ok": None, "ms": 2.5}
            yield "broken", lambda: 1 / 0
            yield "left", left_out
            yield "bad", lambda: {"ok": False, "error": 7, "names": ["a|b", "c\nd"]}
            yield "long", too_long
            yield "never", left_out
        finally:
            closed.append(True)

    book.fill("first", checks())
    written = json.loads((tmp_path / "results.json").read_text())  # before the end: a session may be cut off
    assert written["state"].startswith("cut off") and closed == [True]
    expected = {"figure": None, "broken": False, "left": None, "bad": False, "long": True, "the rest": None}
    found = {check["name"]: check for check in written["checks"]}
    assert {name: check["ok"] for name, check in found.items()} == expected
    assert found["long"]["error"] == 0.0001235 and "ZeroDivisionError" in found["broken"]["error"]
    assert found["left"]["left out"] == "nothing to see" and found["the rest"]["left out"] == "no time"
    book.write("complete")
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert "`the command`: 2 failed, 1 passed, 3 figures or left out; " in lines[2] and lines[2].endswith("complete.")
    assert [row.split(" | ")[2] for row in lines[6:]] == ["broken", "bad", "long", "figure", "left", "the rest"]
    assert "a\\|b / c d" in lines[7]


def test_the_packed_model_is_half_as_large_and_reads_as_float32(tmp_path, tiny_bert):
    pack(str(tiny_bert), tmp_path / "half")
    files = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", tiny_bert)]
    assert 0.4 < files[0] / files[1] < 0.6
    model, weights = BertModel.from_pretrained(tmp_path / "half"), read_weights(tiny_bert)
    assert torch.equal(model.embeddings.word.weight, weights["embeddings.word_embeddings.weight"].half().float())
    ids = [
        BertTokenizer.from_pretrained(folder).ids("the film was good !") for folder in (tmp_path / "half", tiny_bert)
    ]
    assert ids[0] == ids[1]
    (tmp_path / "half" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="--pack: expected a new folder; found one, "):
        pack(str(tiny_bert), tmp_path / "half")
    assert (tmp_path / "half" / "mine.txt").exists()


def test_runs_are_compared_bit_by_bit(tmp_path):
    def run(name, value):
        tensors = {"model": {"a": torch.zeros(3), "b": torch.tensor([1.0, value])}}
        checkpoint.save(tmp_path / name / "checkpoints", 5, tensors, {})
        future = Future()
        future.set_result((tmp_path / name, 5))
        return future

    first, same, other = run("first", 0.1), run("same", 0.1), run("other", 0.1 + 1e-8)
    assert same_bits(first, same)["ok"] is True
    assert same_bits(first, other)["the first"] == ["model: b"]
    assert [same_bits(first, other, twin)["ok"] for twin in (None, same, other)] == [False, False, None]


@pytest.mark.parametrize("name, most", [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12)])
def test_model_flop_use(monkeypatch, name, most):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name=name))
    assert model_flop_use(most, 4.0) == 0.25
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name="another"))
    assert model_flop_use(most, 4.0) is None


def test_without_a_gpu_or_with_another_section(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_cli(main, ["--output_dir", str(tmp_path / "x")]) == 8
    assert run_cli(main, ["--only", "sped"]) == 2
    assert "did you mean speed?" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
