"""The paper's figure 3: three sentences' vectors by cls, mean and attention_mean, before and after training.

    python -m experiments.figure3 runs/x --output figure3.png   # and figure3.json

The paper's claim: attention_mean puts the two dogs together, cls does not. Here the dogs are together if their
cosine is above those with the car: margin = cos(dog, dog) - max(cos(dog, car)) > 0. A tiny margin means little if all
cosines are near 1. Cosines are of whole vectors. As in the paper, the picture projects them, without centring, on the
first two right singular vectors of their (3, D) matrix. The third, which often separates the dogs most, is not shown.
Needs the extra: pip install -e '.[pictures]'
"""

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np

from evaluate import load_model, read_run
from experiments.pictures import Figure, file_name, new_figure, save
from heads import MultitaskBert
from runtime.errors import UsageError, run_cli
from runtime.files import write_atomic
from runtime.settings import OptionParser

SENTENCES = {
    "dancing": "The dog is dancing on the stage",
    "barking": "The dog is barking on the stage",
    "car": "The flying car is about to land in Nevada",
}
PAIRS = ("dancing-barking", "dancing-car", "barking-car")
PAPER = {"cls": "apart", "mean": "-", "attention_mean": "together"}  # the dogs in the paper; -: it does not say
LAYERS = ((-1, -1), (-2, -2), (-1, -2))  # of cls and of attention_mean; the last pair is the paper's
STYLES = [("C0", "o", 9, 3.5), ("C2", "s", 4.5, 1.2), ("C3", "^", 7, 1.2)]  # distinct where lines coincide
FOOT = """Lines from the origin (+), each panel in units of its longest. With car: dancing's cosine, barking's.
Not seen: what the third singular vector holds, of the squared lengths."""


@dataclass(frozen=True)
class Panel:
    encoder: str  # untouched or trained
    layer: int
    pooling: str
    coordinates: list[list[float]]  # (3, 2), a row a sentence
    singular_values: list[float]  # (3,)
    cosines: dict[str, float]  # of PAIRS
    margin: float
    dogs: str  # together or apart


def project(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(3, D) -> (3, 2) on the first two right singular vectors, the largest of each positive; singular values (3,)"""
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    xy = u[:, :2] * s[:2]  # (3, 2)
    return xy * np.where(xy[np.abs(xy).argmax(0), [0, 1]] < 0, -1, 1), s


def measure(x: np.ndarray, encoder: str, layer: int, pooling: str) -> Panel:
    """x: (3, D), a row a sentence"""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[[0, 0, 1], [1, 2, 2]].tolist()
    margin, (xy, s) = cosines[0] - max(cosines[1:]), (part.tolist() for part in project(x))
    dogs = "together" if margin > 0 else "apart"
    return Panel(encoder, layer, pooling, xy, s, dict(zip(PAIRS, cosines, strict=True)), margin, dogs)


def verdict(cls: Panel, attention_mean: Panel) -> dict:
    """Whether the paper's claim holds for two panels of an encoder, and a sentence that says so."""
    both = (cls, attention_mean)
    holds = all(p.dogs == PAPER[p.pooling] for p in both)
    found = ", ".join(f"{p.dogs} by {p.pooling} of layer {p.layer} ({p.margin:+.2g})" for p in both)
    text = f"{cls.encoder}: the paper's claim {'holds' if holds else 'does not hold'}: the dogs are {found}"
    return {"encoder": cls.encoder, "layers": [p.layer for p in both], "holds": holds, "verdict": text}


def table(panels: Sequence[Panel]) -> str:
    """A line for each panel."""
    lines = [f"encoder    layer  pooling         {'  '.join(PAIRS)}   margin  dogs      paper"]
    for p in panels:
        cosines = "  ".join(f"{cosine:{len(pair)}.4f}" for pair, cosine in p.cosines.items())
        cells = f"{p.encoder:9}  {p.layer:5}  {p.pooling:14}  {cosines}  {p.margin:+.4f}"
        lines.append(f"{cells}  {p.dogs:8}  {PAPER[p.pooling]}")
    return "\n".join(lines)


def picture(panels: Sequence[Panel], foot: str) -> Figure:
    """A row for each encoder and layer, a column for each pooling, all on the same axes."""
    figure = new_figure(8, 10.5)
    points = [np.array(p.coordinates) / np.linalg.norm(p.coordinates, axis=1).max() for p in panels]  # (3, 2) each
    ends = np.vstack([(0, 0), *points])
    (left, low), (right, high) = ends.min(0) - 0.1, ends.max(0) + 0.1
    rows = figure.subplots(len(panels) // len(PAPER), len(PAPER))
    for ax, p, xy in zip(rows.flat, panels, points, strict=True):
        for (x, y), text, (color, marker, size, width) in zip(xy, SENTENCES.values(), STYLES, strict=True):
            look = {"marker": marker, "markersize": size, "markevery": [1], "markerfacecolor": "none"}
            ax.plot((0, x), (0, y), color=color, linewidth=width, label=text, **look)
        ax.plot(0, 0, "k+")
        ax.set(xlim=(left, right), ylim=(low, high), aspect="equal", xticks=[], yticks=[])
        ax.set_title(p.pooling if ax in rows[0] else "")
        ax.set_ylabel(f"{p.encoder}, layer {p.layer}" if ax in rows[:, 0] else "")
        dogs, *cars = (f"{round(cosine, 2) + 0:.2f}" for cosine in p.cosines.values())  # + 0: no -0.00
        paper, squares = f" (paper: {PAPER[p.pooling]})".replace(" (paper: -)", ""), np.square(p.singular_values)
        lines = f"cos dogs {dogs}, with car {', '.join(cars)}", f"margin {p.margin:+.2g}: {p.dogs}{paper}"
        ax.set_xlabel("\n".join([*lines, f"not seen: {100 * squares[2] / squares.sum():.1f} %"]))
    figure.legend(handles=ax.lines[:3], loc="outside upper center", frameon=False)
    figure.supxlabel(f"{FOOT}\n{textwrap.fill(foot, 110)}", fontsize="medium")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("run", type=Path, help="a run's folder, of train_multitask.py")
    parser.add_argument("--checkpoint", help="the untouched encoder (default: what the run started from)")
    parser.add_argument("--output", type=file_name, default=Path("figure3.png"), help="the PNG (default: figure3.png)")
    args = parser.parse_args(argv)
    if (json_path := args.output.with_suffix(".json")) == args.output:
        raise UsageError(f"--output: expected a name for the PNG; found {json_path}, the numbers' own; take .png")
    trained, source = load_model(args.run), args.checkpoint or read_run(args.run)[0].get("checkpoint")
    if not source:
        raise UsageError(f"--checkpoint: expected what {args.run} started from; found none in it; give it")
    panels = {}
    for encoder, model in {"untouched": MultitaskBert.from_pretrained(source), "trained": trained}.items():
        if model.bert.config.num_hidden_layers < 2:
            raise UsageError(f"{encoder}: expected an encoder of two layers or more; found one; take another")
        for layer, pooling in product((-1, -2), PAPER):
            x = model.encode(list(SENTENCES.values()), pooling=pooling, layer=layer).astype(float)  # (3, D)
            panels[encoder, layer, pooling] = measure(x, encoder, layer, pooling)
    places = {"untouched": Path(source), "trained": args.run}
    names = {encoder: "/".join(place.parts[-2:]).lstrip("/") for encoder, place in places.items()}  # never absolute
    sources, measured = "; ".join(f"{encoder}: {name}" for encoder, name in names.items()), list(panels.values())
    verdicts = [verdict(panels[e, i, "cls"], panels[e, j, "attention_mean"]) for e, (i, j) in product(names, LAYERS)]
    save(picture(measured, sources), args.output)
    content = {**names, "sentences": SENTENCES, "panels": [asdict(p) for p in measured], "verdicts": verdicts}
    write_atomic(json_path, json.dumps(content, indent=2) + "\n")
    print("\n".join([sources, "", table(measured), "", *(v["verdict"] for v in verdicts), "", str(args.output)]))


if __name__ == "__main__":
    sys.exit(run_cli(main))
