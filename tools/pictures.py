"""The README's pictures.

    python -m tools.pictures                            # docs/pcgrad.png: what PCGrad does with two gradients
    python -m tools.pictures --log runs/x/log.jsonl     # docs/conflict.png: how often a run's tasks conflicted

The first is computed by `optim`, not drawn by hand. The second wants a run with surgery and `--log_every 1`.
Needs the extra: pip install -e '.[pictures]'
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optim import pcgrad, pcgrad_weights
from runtime.errors import DataError, UsageError, run_cli

try:
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes
except ImportError:
    plt = None

DOCS = Path(__file__).parents[1] / "docs"
A, B, PLAIN, SURGERY = "#1f6fb4", "#c8502d", "#6b6b6b", "#2c8a3c"  # task A, task B, the plain sum, PCGrad's
CONFLICT = torch.tensor([[3.0, 0.3], [-1.4, 1.2]], dtype=torch.float64)  # (2, 2): the gradients of task A and task B
AGREEMENT = torch.tensor([[2.6, 0.3], [0.5, 1.5]], dtype=torch.float64)
TITLES = (
    "1  Two tasks in conflict: the plain sum follows\n    the longer gradient, at the other task's cost",
    "2  PCGrad projects each gradient on the\n    other's normal plane",
    "3  and takes the sum of what is left:\n    no longer at anyone's cost",
    "4  Without conflict nothing is projected:\n    both sums are the same",
)


def projected(gradients: Tensor) -> Tensor:
    """Each of two conflicting gradients, projected on the other's normal plane: (2, 2) -> (2, 2)."""
    weights = pcgrad_weights(gradients @ gradients.T)
    # Of two tasks, the weight of a gradient in the sum is 1 plus what the other's projection added of it.
    parts = gradients + (weights.flip(0) - 1)[:, None] * gradients.flip(0)
    torch.testing.assert_close(parts.sum(0), pcgrad(gradients))
    return parts


def arrow(ax: Axes, tip: Tensor, color: str, name: str = "", at: tuple[float, float] = (0, 0), wide=1.0, alpha=1.0):
    """From the origin to the tip; its name beside the tip, as far from it as `at`."""
    size = {"width": 0.04 * wide, "head_width": 0.17 * wide, "length_includes_head": True, "linewidth": 0}
    ax.arrow(0, 0, *tip.tolist(), color=color, alpha=alpha, zorder=3, **size)
    ax.text(tip[0] + at[0], tip[1] + at[1], name, color=color, alpha=max(alpha, 0.6), ha="center", va="center")


def lines(ax: Axes, start: Tensor, ends: Tensor, color: str, style: str = ":") -> None:
    for end in ends:
        ax.plot(*torch.stack([start, end]).T.tolist(), color=color, linestyle=style, linewidth=1)


def normal(gradient: Tensor) -> Tensor:
    """Two points far away on the line through the origin that stands upright on it: (2, 2)"""
    return 9 * torch.tensor([[-1, 1], [1, -1]]) * gradient.flip(0)


def draw_pcgrad(path: Path) -> None:
    (a, b), parts, total = CONFLICT, projected(CONFLICT), pcgrad(CONFLICT)
    figure, ((plain, project), (surgery, agree)) = plt.subplots(2, 2, figsize=(8, 5.8), layout="constrained")
    for ax in (plain, surgery):
        ax.fill(*torch.cat([normal(b), normal(b).flip(0) - 9 * b]).T.tolist(), color=B, alpha=0.1, linewidth=0)
        ax.text(2.6, -0.6, "task B gets worse here", color=B, ha="center")
    lines(plain, a + b, CONFLICT, PLAIN)
    arrow(plain, a, A, "gradient of task A", (-0.1, -0.25))
    arrow(plain, b, B, "gradient of task B", (0.1, 0.25))
    arrow(plain, a + b, PLAIN, "plain sum", (0.25, 0.25), wide=1.7)
    for gradient, part, color, other, others in ((a, parts[0], A, b, B), (b, parts[1], B, a, A)):
        lines(project, -normal(other)[0], normal(other)[:1], others, "--")
        lines(project, gradient, [part], color)
        arrow(project, gradient, color, alpha=0.3)
    arrow(project, parts[0], A, "A, projected", (0.9, 0.0))
    arrow(project, parts[1], B, "B, projected", (-0.85, 0.25))
    project.text(2.2, 2.3, "normal plane of B", color=B)
    project.text(-0.45, 2.6, "normal plane of A", color=A, ha="right")
    lines(surgery, total, parts, SURGERY)
    arrow(surgery, a + b, PLAIN, "plain sum", (0.65, -0.15), wide=1.7, alpha=0.3)
    arrow(surgery, parts[0], A)
    arrow(surgery, parts[1], B)
    arrow(surgery, total, SURGERY, "PCGrad's sum", (0.1, 0.25), wide=1.7)
    torch.testing.assert_close(pcgrad(AGREEMENT), AGREEMENT.sum(0))
    lines(agree, pcgrad(AGREEMENT), AGREEMENT, SURGERY)
    arrow(agree, AGREEMENT[0], A, "gradient of task A", (-0.1, -0.25))
    arrow(agree, AGREEMENT[1], B, "gradient of task B", (-0.9, 0.25))
    arrow(agree, pcgrad(AGREEMENT), SURGERY, "plain sum = PCGrad's sum", (-0.6, 0.28), wide=1.7)
    for ax, title in zip(figure.axes, TITLES, strict=True):
        ax.set(xlim=(-2.5, 4.2), ylim=(-0.8, 3.5), aspect="equal", xticks=[], yticks=[])
        ax.set_title(title, loc="left")
        ax.spines[:].set_color("#dddddd")
    figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.05)


def read_cosines(log: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The steps (N,), and of each pair of tasks the cosines of their gradients (N,), in [-1, 1]."""
    try:
        found = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{log}: expected a run's log.jsonl; found: {error}; give another with --log") from None
    found = [line for line in found if "cosine" in line]
    if len(found) < 2:
        raise DataError(f"{log}: expected steps with cosines; found {len(found)}; take a run with --strategy gs")
    steps = np.array([line["step"] for line in found])
    return steps, {pair: np.array([line["cosine"][pair] for line in found]) for pair in found[0]["cosine"]}


def draw_conflict(log: Path, path: Path) -> None:
    steps, cosines = read_cosines(log)
    window, last = max(2, len(steps) // 12), len(cosines) - 1
    middle = steps[window // 2 :][: len(steps) - window + 1]  # of each window
    limit = 1.1 * np.quantile(np.abs(list(cosines.values())), 0.995)
    figure = plt.figure(figsize=(8, 1 + 1.15 * len(cosines)), layout="constrained")
    grid = figure.add_gridspec(last + 1, 2, width_ratios=(3, 1))
    bars = figure.add_subplot(grid[:, 1], title="steps with conflict", xlim=(0, 100), ylim=(last + 0.5, -0.5))
    for row, (pair, values) in enumerate(cosines.items()):
        color = f"C{row}"
        ax = figure.add_subplot(grid[row, 0], xlim=(steps[0], steps[-1]), ylim=(-limit, limit), ylabel=pair)
        near = np.lib.stride_tricks.sliding_window_view(values, window)  # (windows, window)
        ax.plot(steps, values, ".", color=color, markersize=1.5, alpha=0.35)
        ax.fill_between(middle, *np.quantile(near, (0.1, 0.9), axis=1), color=color, alpha=0.2, linewidth=0)
        ax.plot(middle, near.mean(axis=1), color=color, linewidth=1.6)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.tick_params(labelbottom=row == last)
        ax.set_title("" if row else "cosine of two tasks' gradients (below 0: conflict)")
        share = 100 * (values < 0).mean()
        bars.barh(row, share, color=color, height=0.5)
        bars.text(max(share, 60) + 3, row, f"{share:.0f} %", va="center", color=color)
    ax.set_xlabel(f"step (line: mean of {window} steps; band: 8 of 10 of them)")
    chance = 2 * 50 / len(steps) ** 0.5  # two standard errors of a share of one half
    bars.axvspan(50 - chance, 50 + chance, color="black", alpha=0.25, linewidth=0, zorder=3)
    bars.axvline(50, color="black", linestyle="--", linewidth=1, zorder=4)
    bars.set(yticks=range(len(cosines)), yticklabels=cosines, xlabel="% (grey: what chance gives)")
    figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.05)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="draw how often the tasks of this run conflicted instead")
    args = parser.parse_args(argv)
    if plt is None:
        raise UsageError("tools.pictures: expected matplotlib; found none; pip install -e '.[pictures]'")
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10})
    if args.log:
        draw_conflict(args.log, DOCS / "conflict.png")
    else:
        draw_pcgrad(DOCS / "pcgrad.png")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
