"""The paper's losses: L_sts is `score_loss`, L_para `binary_cross_entropy` + `contrastive_loss`.

Each is the mean over the batch's rows of a loss per row, so micro-batches, weighted by their rows, give the same
gradient as the whole batch. Letters: B batch, D hidden size.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from runtime.ranks import ALONE, World
from runtime.settings import non_negative, probability, setting

EDGE = 1e-4  # the probability below which a tangent replaces the logarithm


@dataclass(frozen=True)
class LossSettings:
    """What the paper leaves open in the losses; the margins are torch's defaults."""

    para_loss: str = setting(
        "full", "full: cross-entropy + cosine embedding + triplets; bce: cross-entropy alone", choices=("full", "bce")
    )
    sts_gamma: float = setting(
        0.5, "scores: weight of the squared error; the absolute has the rest", probability, metavar="X"
    )
    cosine_margin: float = setting(0.0, "of the cosine-embedding loss", probability, metavar="X")
    triplet_margin: float = setting(1.0, "of the triplet loss", non_negative, metavar="X")


def binary_cross_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """-(y log p + (1 - y) log(1 - p)), the mean over all elements -> scalar. Compute it in float32 at least.

    It takes probabilities, not logits, because equation (1) mixes a sigmoid with a cosine. The slope of log p has no
    bound: for an identical pair labelled 0, 1 - p is a rounding error, and the gradient is 1e5. So below p = EDGE the
    tangent at EDGE replaces log p: log EDGE + (p - EDGE) / EDGE.
    """
    p = torch.where(labels > 0.5, probabilities, 1 - probabilities)  # the probability of each label
    return (F.relu(EDGE - p) / EDGE - p.clamp(min=EDGE).log()).mean()


def score_loss(predictions: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """L_sts: gamma * squared error + (1 - gamma) * absolute error, means over rows; (B,), (B,) -> scalar.

    The paper prints (gamma - 1) and calls the second term "lasso".
    """
    return gamma * F.mse_loss(predictions, labels) + (1 - gamma) * F.l1_loss(predictions, labels)


def contrastive_loss(
    v_a: Tensor, v_b: Tensor, labels: Tensor, negatives: Tensor | None, settings: LossSettings
) -> Tensor:
    """What L_para adds to the cross-entropy: cosine-embedding loss + cosine triplet-margin loss.

    v_a, v_b: (B, D); labels: (B,), 0 or 1; negatives: (B, D) or None (no triplets) -> scalar, means over all B rows:
    1 - cos(a, b) for rows labelled 1, max(0, cos(a, b) - margin) for others; max(0, d(a, b) - d(a, negative) + margin),
    d = 1 - cos, for rows labelled 1, and 0 for others, so that a batch without positives has no 0 / 0.
    """
    cos = F.cosine_similarity(v_a, v_b)  # (B,)
    loss = torch.where(labels == 1, 1 - cos, F.relu(cos - settings.cosine_margin)).mean()
    if negatives is not None:
        triplets = F.relu(F.cosine_similarity(v_a, negatives) - cos + settings.triplet_margin)  # (B,)
        loss = loss + (triplets * (labels == 1)).mean()
    return loss


class PreviousStep:
    """Each task's sentence vectors of the previous step, detached: the negatives of this step's triplets.

    Part of a run's state. The vectors of this step's micro-batches become negatives together, at `end_step`. Neither
    their order nor a row's draw depends on how the step is cut into micro-batches, or divided among ranks.
    """

    def __init__(self):
        self.vectors: dict[str, Tensor] = {}  # (N, D) each
        # This step's, and for each row its key (batch, side, place), which orders it. Cleared if the step is repeated.
        self.pending: dict[str, list[tuple[Tensor, list[tuple[int, int, int]]]]] = defaultdict(list)

    def draw(self, task: str, places: Sequence[int], generator: Generator) -> Tensor | None:
        """Random vectors, with replacement: (B, D); None before the first batch is stored.

        places: of the B rows in the step: row k takes the k-th draw. generator: the same state in all of a step; it is
        left as it is.
        """
        if task not in self.vectors:
            return None
        vectors = self.vectors[task]
        draws = torch.randint(len(vectors), (1 + max(places),), generator=generator.clone_state())
        return vectors[draws[[*places]].to(vectors.device, non_blocking=True)]

    def add(self, task: str, vectors: Tensor, number: int, places: Sequence[int]) -> None:
        """Keep this micro-batch's vectors for `end_step`: (2 B, D), the first sentences, then the second ones."""
        keys = [(number, side, place) for side in range(2) for place in places]
        self.pending[task].append((vectors.detach(), keys))

    def end_step(self, world: World = ALONE) -> None:
        """Replace each task's vectors by those added on all ranks; a task without a batch keeps its old ones. They are
        in the order of the batches, in each the first sentences, then the second ones."""
        own_keys = {task: [key for _, keys in parts for key in keys] for task, parts in self.pending.items()}
        keys_by_rank = world.gather(own_keys)
        for task in dict.fromkeys(task for by_task in keys_by_rank for task in by_task):
            parts = [vectors for vectors, _ in self.pending.get(task, ())]
            vectors = world.gather_rows(torch.cat(parts) if parts else None)
            keys = [key for by_task in keys_by_rank for key in by_task.get(task, ())]
            order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
            self.vectors[task] = vectors[order.to(vectors.device, non_blocking=True)]
        self.pending.clear()
