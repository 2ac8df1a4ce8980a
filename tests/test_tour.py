"""examples/tour.ipynb: its cells run in their order, and what is stored with them is what they print and draw.

Without a kernel: the cells are plain Python, whose only outputs are print and plt.show, so that here they do what they
do in Jupyter, and the tests need no more packages. The first test holds the notebook to that. After a change of a cell
restart the kernel, run all, and save.
"""

import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

NOTEBOOK = Path(__file__).parent.parent / "examples" / "tour.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def test_it_was_run_in_order_and_prints_and_draws_alone():
    assert [cell["execution_count"] for cell in CELLS] == [*range(1, len(CELLS) + 1)]
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert {output.get("name", output["output_type"]) for output in outputs} == {"stdout", "display_data"}
    assert sum(len(output["data"]["image/png"]) for output in outputs if "data" in output) < 200_000  # base64


def test_it_runs_and_its_outputs_are_the_stored_ones(minilm, monkeypatch, capsys):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    drawn = []

    def show() -> None:
        for number in plt.get_fignums():
            plt.figure(number).savefig(picture := io.BytesIO())
            drawn.append(picture)
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    names: dict = {}
    with torch.random.fork_rng(devices=[]):
        for cell in CELLS:
            exec("".join(cell["source"]), names)
            stored = Counter(output["output_type"] for output in cell["outputs"])
            assert len(drawn) == stored["display_data"]
            drawn.clear()
            texts = capsys.readouterr().out, "".join(line for out in cell["outputs"] for line in out.get("text", []))
            assert NUMBER.sub("0", texts[0]) == NUMBER.sub("0", texts[1])
            found, expected = ([float(number) for number in NUMBER.findall(text)] for text in texts)
            assert found == pytest.approx(expected, abs=0.02)  # machines round in their own ways
