"""The tables between marks in README.md and docs/, made from experiments/results/; other figures are written by hand.

    cp runs/tables/*-laptop.json experiments/results/
    python -m experiments.docs

conflict-laptop.json is the conflict.json of experiments.conflict, figure3-laptop.json that of experiments.figure3.
Between `<!-- table3 -->` and `<!-- end -->` is the block of this name: see BLOCKS.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data.tasks import LEADERBOARD
from experiments.claims import as_words
from experiments.surgeries import as_words as differences
from experiments.tables import COLUMNS, with_spread
from runtime.errors import run_cli
from runtime.files import read_json, write_atomic
from runtime.settings import OptionParser
from training.card import markdown

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
PAGES = ("README.md", "docs/results.md", "docs/claims.md", "docs/surgery.md", "docs/recipes.md")
SHORT = {4: "`mtl`, the plain sum", 6: "`gs`, gradient surgery", 5: "`gs` with v3b", 8: "`gs`, then para alone"}
SHORT |= {10: "`gs` on para and sts alone", 13: "the same, bce, losses 1:4"}
WHOLE_RUNS = {"defaults": "the defaults: `gs`, two epochs"}
WHOLE_RUNS |= {"best": "[the best recipe](docs/recipes.md), with more labels for sst"}


def cell(row: Mapping, name: str) -> str:
    """`ours ± spread (the paper's)`"""
    mean, spread, paper = (row[part][name] for part in ("mean", "spread", "paper"))
    return with_spread(mean, spread) + (f" ({paper:.1f})" if paper is not None else "")


def table(content: Mapping) -> str:
    """Every row of a table of the paper."""
    rows = [[str(row["row"]), row["name"], *(cell(row, name) for name in COLUMNS)] for row in content["rows"]]
    return markdown(["row", "", *COLUMNS], rows)


def short(content: Mapping) -> str:
    """Table 3 in a few lines: the three tasks by themselves as one row, then some of the others."""
    rows = {row["row"]: row for row in content["rows"]}
    alone = [cell(rows[number], name) for number, name in enumerate(LEADERBOARD, start=1)]
    lines = [["`single`, task by task", *alone]]
    lines += [[name, *(cell(rows[number], task) for task in LEADERBOARD)] for number, name in SHORT.items()]
    return markdown(["percent on dev (the paper's)", "sst acc", "para acc", "sts r"], lines)


def means(row: Mapping, columns: Sequence[str] = COLUMNS) -> list[str]:
    """`mean ± spread` of each column."""
    return [with_spread(row["mean"][name], row["spread"][name]) for name in columns]


def compared(row: Mapping) -> list[str]:
    """A row's name, its means, and by how much it is better than the row that it is compared with."""
    return [row["name"], *means(row), differences(row)]


def surgeries(content: Mapping) -> str:
    """Every way to combine tasks, the best average first, and its difference from the plain sum."""
    lines = [compared(row) for row in sorted(content["rows"], key=lambda row: -row["mean"]["average"])]
    return markdown(["", *COLUMNS, "minus mtl (95 %)"], lines)


def ablation(content: Mapping) -> str:
    """The whole and nothing, and what is left out of the one or added to the other; with a run's minutes."""
    lines = [[*compared(row), with_spread(row["minutes"], None)] for row in content["rows"]]
    return markdown(["", *COLUMNS, "difference (95 %)", "minutes"], lines)


def headline(content: Mapping) -> str:
    """The defaults and the best recipe, each a whole run."""
    rows = {row["name"]: row for row in content["rows"]}
    lines = [[text, *means(rows[name], LEADERBOARD)] for name, text in WHOLE_RUNS.items()]
    return markdown(["percent (sts: 100 r)", "sst acc", "para acc", "sts r"], lines)


def claims(content: Mapping) -> str:
    """A line for each claim and column."""
    lines = []
    for claim in content["claims"]:
        for number, (name, column) in enumerate(claim["columns"].items()):
            lines.append(["" if number else claim["claim"], name, *as_words(column)])
    return markdown(["claim", "", "ours", "over seeds", "over rows", "paper", "verdict"], lines)


def conflict(content: Mapping) -> str:
    """Cosines of task gradients, and of halves of a task's batch."""
    rows = []
    for part, text in content["cosines of"].items():
        for name, n in content[part].items():
            mean, below = f"{n['mean']:+.3f} ± {2 * n['mean_se']:.3f}", f"{100 * n['below_zero']:.0f} %"
            rows.append([text, name, str(n["steps"]), mean, f"{n['sd']:.3f}", below])
    return markdown(["cosine of the gradients of", "", "steps", "mean ± 2 standard errors", "sd", "below 0"], rows)


def figure3(content: Mapping) -> str:
    """The cosines of the three sentences' vectors, of each encoder, layer and pooling."""
    rows = []
    for panel in content["panels"]:
        cosines = [f"{cosine:.2f}" for cosine in panel["cosines"].values()]
        rows.append([panel["encoder"], str(panel["layer"]), panel["pooling"], *cosines, f"{panel['margin']:+.2g}"])
    return markdown(["encoder", "layer", "X", "the dogs", "dancing dog, car", "barking dog, car", "margin"], rows)


BLOCKS = {  # name -> its file of results, and the function that makes the block from it
    "table2": ("table2-laptop", table),
    "table3": ("table3-laptop", table),
    "table3-short": ("table3-laptop", short),
    "surgeries": ("surgeries-laptop", surgeries),
    "ablation": ("ablation-laptop", ablation),
    "headline": ("ablation-laptop", headline),
    "claims": ("claims-laptop", claims),
    "conflict": ("conflict-laptop", conflict),
    "figure3": ("figure3-laptop", figure3),
}


def new_block(match: re.Match) -> str:
    file, block = BLOCKS[match[1]]
    return f"<!-- {match[1]} -->\n{block(read_json(RESULTS / f'{file}.json'))}\n<!-- end -->"


def pages() -> Iterator[tuple[Path, str]]:
    """Each page and its text with new blocks."""
    for path in (ROOT / name for name in PAGES):
        text = path.read_text(encoding="utf-8")
        yield path, re.sub(r"<!-- (\S+) -->\n.*?<!-- end -->", new_block, text, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    OptionParser(__doc__).parse_args(argv)
    for path, text in pages():
        write_atomic(path, text)
        print(path)


if __name__ == "__main__":
    sys.exit(run_cli(main))
