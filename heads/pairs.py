"""From sentence vectors X to each task's output (the paper's v1 to v3b and equation (1)).

    y = alpha * f(concat(v_a, v_b, |v_a - v_b|)) + (1 - alpha) * cos(v_a, v_b)        (1)

v are the vectors X after the MLP (the paper writes X for both), f is `kind.output` of a head's numbers, and
`kind.of_cosine` maps the cosine: (1 + cos) / 2 for binary, 5 cos for scores. The paper prints (alpha - 1) for the
second weight; a weighted average needs (1 - alpha).

| name | vectors that the cosine and f see           | alpha of binary | of scores |
|------|---------------------------------------------|-----------------|-----------|
| v1   | X by [CLS]; an MLP per task, for both texts | 0               | 0         |
| v2   | any X; an MLP per task, for both texts      | 0               | 0         |
| v3a  | one MLP on X, shared by all tasks           | 0.99            | 0.01      |
| v3b  | the same                                    | 0.01            | 0.99      |

Kinds whose output is not a single number use no cosine: their alpha is 1. Alpha is also 1 for single texts, and for
pairs that the encoder reads as one sequence (`cross`, Devlin et al. 2019), where f sees the one vector. A kind that
somebody adds, with a cosine, has 0.5. For pairs that are read in both ways (`both`), y is the mean of (1) and of an f
of the third vector, v_ab; the loss is the mean of the losses of the two. Letters: B batch, D hidden size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.tasks import Task
from heads.kinds import KINDS
from heads.losses import LossSettings

ALPHA = {
    "v1": {"binary": 0.0, "score": 0.0},
    "v2": {"binary": 0.0, "score": 0.0},
    "v3a": {"binary": 0.99, "score": 0.01},
    "v3b": {"binary": 0.01, "score": 0.99},
}


def mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """One hidden layer; dropout before each of the two products."""
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


class ResidualMLP(nn.Module):
    """x + mlp(x), starting as the identity: the last product's weights are 0.

    The paper says only "MLP". A fresh one would forget the geometry that the encoder was pretrained for, and cosines
    would start as noise; this one starts from the encoder's own vectors and learns the difference.
    """

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.mlp = mlp(size, size, size, dropout)
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class TaskHead(nn.Module):
    """One task's head: from a row's vector, or vectors, to y as the task's kind defines it."""

    def __init__(self, task: Task, arch: str, size: int, dropout: float):
        super().__init__()
        self.task, self.kind = task, KINDS[task.kind](task)
        compared, outputs = task.sequences > 1, self.kind.width()
        self.alpha = ALPHA[arch].get(task.kind, 0.5) if compared and self.kind.of_cosine else 1.0
        self.own = ResidualMLP(size, dropout) if self.alpha == 0 else nn.Identity()  # v1, v2: for both texts
        self.f = mlp(3 * size if compared else size, size, outputs, dropout) if self.alpha > 0 else None
        self.f_ab = mlp(size, size, outputs, dropout) if compared and task.at_once else None

    def forward(self, v: Tensor) -> Tensor:
        """v: (B, D), for siamese pairs (2 B, D): the first texts, then the second ones; for `both` (3 B, D): then
        each pair as one sequence -> y of B rows."""
        ys = self.readings(v)
        return sum(ys) / len(ys)

    def loss(self, v: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
        """v as in forward, labels: the targets of B rows -> scalar, the mean over the ways of reading"""
        losses = [self.kind.loss(y, labels, settings) for y in self.readings(v)]
        return sum(losses) / len(losses)

    def readings(self, v: Tensor) -> list[Tensor]:
        """v as in forward -> y for each way of reading a pair: two for `both`, else one."""
        if self.task.sequences == 1:
            return [self.kind.output(self.f(v))]
        rows = v.shape[0] // self.task.sequences  # not chunk, which torch.export takes for a fixed number of rows
        v_a, v_b, v_ab = v[:rows], v[rows : 2 * rows], v[2 * rows :]  # (B, D) each; siamese: no v_ab
        y = 0.0
        if self.alpha > 0:
            features = torch.cat([v_a, v_b, (v_a - v_b).abs()], dim=-1)  # (B, 3 D)
            y = y + self.alpha * self.kind.output(self.f(features))
        if self.alpha < 1:
            y = y + (1 - self.alpha) * self.kind.of_cosine(F.cosine_similarity(v_a, v_b, dim=-1))
        return [y, self.kind.output(self.f_ab(v_ab))] if self.f_ab else [y]


class Heads(nn.Module):
    """All tasks' heads, by name, and the MLP that they share in v3a and v3b."""

    def __init__(self, tasks: Sequence[Task], arch: str, size: int, dropout: float):
        super().__init__()
        self.shared = ResidualMLP(size, dropout) if arch.startswith("v3") else nn.Identity()
        # A ModuleDict refuses names such as "type" and "keys", which a task may have: hence _head
        self.tasks = nn.ModuleDict({f"{task.name}_head": TaskHead(task, arch, size, dropout) for task in tasks})

    def __getitem__(self, name: str) -> TaskHead:
        return self.tasks[f"{name}_head"]

    def vectors(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """By task: X (N, D) -> vectors (N, D) for heads and contrastive losses; the shared MLP runs once for all."""
        rows = self.shared(torch.cat(list(x.values()))).split([len(part) for part in x.values()])
        return {name: self[name].own(part) for name, part in zip(x, rows, strict=True)}
