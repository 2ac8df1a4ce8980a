"""The README's picture of what PCGrad does with two gradients, computed by `optim`, not drawn by hand.

    python -m tools.pictures     # docs/pcgrad.png; docs/conflict.png is experiments/conflict.py's

Needs the extra: pip install -e '.[pictures]'
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments.pictures import Axes, new_figure, save
from optim import pcgrad, pcgrad_weights
from runtime.errors import run_cli
from runtime.settings import OptionParser

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
    # With two tasks, the weight of a gradient in the sum is 1 plus what the other's projection added of it.
    parts = gradients + (weights.flip(0) - 1)[:, None] * gradients.flip(0)
    torch.testing.assert_close(parts.sum(0), pcgrad(gradients))
    return parts


def arrow(ax: Axes, tip: Tensor, color: str, name: str = "", at: tuple[float, float] = (0, 0), wide=1.0, alpha=1.0):
    """Draw an arrow from the origin to the tip. at: the place of its name, as seen from the tip."""
    size = {"width": 0.04 * wide, "head_width": 0.17 * wide, "length_includes_head": True, "linewidth": 0}
    ax.arrow(0, 0, *tip.tolist(), color=color, alpha=alpha, zorder=3, **size)
    ax.text(tip[0] + at[0], tip[1] + at[1], name, color=color, alpha=max(alpha, 0.6), ha="center", va="center")


def lines(ax: Axes, start: Tensor, ends: Tensor, color: str, style: str = ":") -> None:
    for end in ends:
        ax.plot(*torch.stack([start, end]).T.tolist(), color=color, linestyle=style, linewidth=1)


def normal(gradient: Tensor) -> Tensor:
    """Two far points of the line through the origin that is perpendicular to the gradient: (2, 2)"""
    return 9 * torch.tensor([[-1, 1], [1, -1]]) * gradient.flip(0)


def draw_pcgrad(path: Path) -> None:
    (a, b), parts, total = CONFLICT, projected(CONFLICT), pcgrad(CONFLICT)
    figure = new_figure(8, 5.8)
    (plain, project), (surgery, agree) = figure.subplots(2, 2)
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
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    OptionParser(__doc__).parse_args(argv)
    draw_pcgrad(DOCS / "pcgrad.png")


if __name__ == "__main__":
    sys.exit(run_cli(main))
