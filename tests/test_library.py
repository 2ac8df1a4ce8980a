"""docs/library.md: its programs run as they stand there, and do what the page says."""

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parent.parent / "docs" / "library.md").read_text(encoding="utf-8")
IMPORTS, PLAIN, BERT = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_what_the_page_imports_is_there():
    exec(IMPORTS, {})


def test_a_plain_model_learns_its_tasks(capsys):
    assert len(PLAIN.splitlines()) <= 40
    names: dict = {}
    with torch.random.fork_rng(devices=[]):
        exec(PLAIN, names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "50", "100", "150"]
    assert names["losses"]["size"] < 0.5 and names["losses"]["sign"] < 0.2


def test_transformers_bert_has_torchjds_gradients(capsys):
    """At a smaller size than on the page, which is minilm's."""
    for library in ("torchjd", "transformers"):
        pytest.importorskip(library)
    small = BERT.replace("384", "36").replace('"num_hidden_layers": 6', '"num_hidden_layers": 2').replace("1536", "60")
    assert small != BERT
    names: dict = {}
    with torch.random.fork_rng(devices=[]):
        exec(small, names)
    assert names["difference"] < 1e-5 and names["found"][names["ours"]].norm() > 0
    assert capsys.readouterr().out.startswith("difference ")
