"""The three tasks' losses (the paper's). Each is the mean over the batch's rows of a loss per row, so a batch cut
into micro-batches and weighted by their rows gives the same gradient as the whole.

Letters: B batch, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from heads.architectures import cosine


@dataclass(frozen=True)
class LossSettings:
    """What the paper leaves open in the losses; the margins are torch's defaults."""

    para_loss: str = "full"  # "full", or "bce" for the ablation PD_ce
    sts_gamma: float = 0.5  # weight of the squared error against the absolute error
    cosine_margin: float = 0.0
    triplet_margin: float = 1.0


def sst_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy. logits: (B, 5), labels: (B,) int64 in 0..4 -> scalar"""
    return F.cross_entropy(logits, labels)


def para_loss(
    probabilities: Tensor, v_a: Tensor, v_b: Tensor, labels: Tensor, negatives: Tensor | None, settings: LossSettings
) -> Tensor:
    """Binary cross-entropy + cosine-embedding loss + cosine triplet-margin loss.

    Args:    probabilities, labels: (B,), labels 0. or 1.; v_a, v_b: (B, D); negatives: (B, D) or None (no triplets).
    Returns: a scalar. The triplet term is the sum over the rows labelled 1, divided by B like every other term: rows
             labelled 0 count as 0, and a batch without positives has no 0 / 0.
    """
    loss = F.binary_cross_entropy(probabilities, labels)
    if settings.para_loss == "bce":
        return loss
    loss = loss + cosine_embedding_loss(v_a, v_b, labels, settings.cosine_margin)
    if negatives is not None:
        loss = loss + triplet_loss(v_a, v_b, negatives, labels, settings.triplet_margin)
    return loss


def cosine_embedding_loss(v_a: Tensor, v_b: Tensor, labels: Tensor, margin: float) -> Tensor:
    """1 - cos for paraphrases, max(0, cos - margin) for others, the mean over rows. -> scalar"""
    cos = cosine(v_a, v_b)  # (B,)
    return torch.where(labels == 1, 1 - cos, F.relu(cos - margin)).mean()


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, labels: Tensor, margin: float) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d = 1 - cos, for rows labelled 1. -> scalar"""
    per_row = F.relu(cosine(anchor, negative) - cosine(anchor, positive) + margin)  # (B,)
    return (per_row * (labels == 1)).mean()


def sts_loss(predictions: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """gamma * squared error + (1 - gamma) * absolute error, means over rows; (B,), (B,) -> scalar.

    The paper prints (gamma - 1) and calls the second term "lasso".
    """
    return gamma * F.mse_loss(predictions, labels) + (1 - gamma) * F.l1_loss(predictions, labels)


@dataclass
class PreviousBatch:
    """The para sentence vectors of the previous step, detached: the negatives of this step's triplets.

    Part of a run's state. The vectors of this step's micro-batches become negatives together, at `end_step`.
    """

    vectors: Tensor | None = None  # (N, D)
    pending: list[Tensor] = field(default_factory=list)

    def draw(self, rows: int, generator: Generator) -> Tensor | None:
        """`rows` random vectors, with replacement: (rows, D); None before the first batch is stored."""
        if self.vectors is None:
            return None
        return self.vectors[torch.randint(len(self.vectors), (rows,), generator=generator).to(self.vectors.device)]

    def add(self, *vectors: Tensor) -> None:
        """Note this micro-batch's vectors, each (B, D)."""
        self.pending.extend(v.detach() for v in vectors)

    def end_step(self) -> None:
        """What was added replaces what was stored; a step without a para batch keeps it."""
        if self.pending:
            self.vectors, self.pending = torch.cat(self.pending), []

    def forget_step(self) -> None:
        """Drop what was added since the last `end_step`: the step is made anew."""
        self.pending = []
