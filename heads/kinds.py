"""What a task's kind means, from its labels to its metrics: the one place to add a kind.

data/task_file.py guesses among these four, and heads/pairs.py has their alphas in equation (1).

| kind    | label                 | output y            | loss                              | metrics                 |
|---------|-----------------------|---------------------|-----------------------------------|-------------------------|
| classes | one of K names        | K logits            | cross-entropy                     | accuracy, macro-F1      |
| binary  | one of two names      | a probability       | binary cross-entropy              | accuracy, F1            |
| score   | a number in its range | a number            | gamma squared + (1 - gamma) abs.  | Pearson, Spearman, EM   |
| labels  | any of K names        | K probabilities     | binary cross-entropy              | micro-F1, macro-F1      |

In train a label of `classes` may be soft, K shares (data/tasks.py). A head computes f, `width` numbers a row; `output`
turns f into y. Kinds whose y is a single number can also compute it from the cosine of a pair's two vectors,
`of_cosine`; equation (1) mixes the two (heads/pairs.py). Letters: B rows, K classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.tasks import Task
from heads.losses import LossSettings, binary_cross_entropy, score_loss
from heads.metrics import accuracy, exact_match, f1, macro_f1, pearson, spearman


class Kind:
    """The kind of one task: what most kinds share. The docstrings of Classes say what else a kind has."""

    of_cosine = None  # a method, if y is one number

    def __init__(self, task: Task):
        self.task = task

    def width(self) -> int:
        """The numbers that a head computes for a row."""
        return 1 if self.of_cosine else len(self.task.classes)

    def names(self, predictions: np.ndarray) -> np.ndarray | list[tuple]:
        """-> predictions as the task names them: (B,) of task.classes, or the numbers themselves"""
        return np.asarray(self.task.classes)[predictions] if self.task.classes else predictions

    def gold(self, labels: Sequence) -> tuple[list[int], np.ndarray]:
        """The rows whose label is not None, and their targets"""
        rows = [row for row, label in enumerate(labels) if label is not None]
        return rows, self.target([labels[row] for row in rows]).numpy()


class Classes(Kind):
    label_form = "one"  # what Task.parse returns: "one" a class's number, "several" those of several, "number" a float
    metrics = {"acc": accuracy, "macro_f1": macro_f1}  # the first is the default for the best model

    def target(self, labels: Sequence) -> Tensor:
        """Labels from Task.parse -> targets (B,) int64; (B, K) float32, for the loss alone, where a label is soft"""
        if any(isinstance(label, tuple) for label in labels):
            sure = torch.eye(len(self.task.classes)).tolist()
            return torch.tensor([label if isinstance(label, tuple) else sure[label] for label in labels])
        return torch.tensor(labels, dtype=torch.int64)

    def output(self, f: Tensor) -> Tensor:
        """(B, K) -> logits (B, K)"""
        return f

    def loss(self, y: Tensor, target: Tensor, settings: LossSettings) -> Tensor:
        """-> scalar, the mean over rows"""
        return F.cross_entropy(y, target)

    def probabilities(self, y: Tensor) -> Tensor:
        """-> (B, K), in the order of task.classes"""
        return y.softmax(dim=1)

    def predict(self, y: Tensor) -> np.ndarray:
        """y on the CPU -> what the metrics compare with targets: (B,) int64 numbers of classes"""
        return y.argmax(dim=1).numpy()

    def confidence(self, y: Tensor) -> np.ndarray:
        """-> the probability of each prediction, in the shape of `predict`"""
        return self.probabilities(y).amax(dim=1).numpy()

    def errors(self, y: Tensor, gold: np.ndarray) -> np.ndarray:
        """-> how wrong each row is (B,): 1 - the gold class's probability, in float64, 0 = not at all. gold: targets"""
        return 1 - self.probabilities(y.double()).numpy()[np.arange(len(gold)), gold]


class Binary(Classes):
    metrics = {"acc": accuracy, "f1": f1}

    def output(self, f: Tensor) -> Tensor:
        """(B, 1) -> probability of the second class (B,)"""
        return torch.sigmoid(f[:, 0])

    def of_cosine(self, cos: Tensor) -> Tensor:
        """(B,) in [-1, 1] -> probability (B,); the clamp removes what rounding adds to a cosine."""
        return ((1 + cos) / 2).clamp(0, 1)

    def loss(self, y: Tensor, target: Tensor, settings: LossSettings) -> Tensor:
        return binary_cross_entropy(y, target)

    def probabilities(self, y: Tensor) -> Tensor:
        """-> (B, 2)"""
        return torch.stack([1 - y, y], dim=1)

    def predict(self, y: Tensor) -> np.ndarray:
        """-> int64 of y's shape, 1 where y >= 0.5"""
        return (y >= 0.5).long().numpy()


class Labels(Binary):
    label_form = "several"
    metrics = {"micro_f1": f1, "macro_f1": macro_f1}
    of_cosine = None

    def target(self, labels: Sequence) -> Tensor:
        """-> (B, K) int64 of 0 and 1"""
        classes = range(len(self.task.classes))
        return torch.tensor([[c in row for c in classes] for row in labels], dtype=torch.int64).view(-1, len(classes))

    def output(self, f: Tensor) -> Tensor:
        """(B, K) -> probabilities (B, K), independent of each other"""
        return torch.sigmoid(f)

    def probabilities(self, y: Tensor) -> Tensor:
        return y

    def confidence(self, y: Tensor) -> np.ndarray:
        return y.maximum(1 - y).numpy()

    def errors(self, y: Tensor, gold: np.ndarray) -> np.ndarray:
        """-> how many classes differ"""
        return (self.predict(y) != gold).sum(axis=1)

    def names(self, predictions: np.ndarray) -> list[tuple]:
        return [tuple(name for name, has in zip(self.task.classes, row, strict=True) if has) for row in predictions]


class Score(Kind):
    """Computed on the scale of the paper's similarity, 0 to 5, so that losses have one magnitude for all ranges:
    y = low + unit * z with z from 0 to 5."""

    label_form = "number"
    metrics = {"pearson": pearson, "spearman": spearman, "em": exact_match}

    def target(self, labels: Sequence) -> Tensor:
        """-> (B,) float64"""
        return torch.tensor(labels, dtype=torch.float64)

    def of_scale(self, z: Tensor) -> Tensor:
        low, high = self.task.range
        return low + (high - low) / 5 * z

    def output(self, f: Tensor) -> Tensor:
        """(B, 1) -> number (B,). For `siamese` pairs f is z, as in the paper. All others, `both` among them, start from
        the range's middle."""
        return self.of_scale(f[:, 0] if self.task.sequences == 2 else f[:, 0] + 2.5)

    def of_cosine(self, cos: Tensor) -> Tensor:
        """(B,) in [-1, 1] -> number (B,): z = 5 cos"""
        return self.of_scale(5 * cos)

    def loss(self, y: Tensor, target: Tensor, settings: LossSettings) -> Tensor:
        unit = (self.task.range[1] - self.task.range[0]) / 5
        return score_loss(y / unit, target.to(y.dtype) / unit, settings.sts_gamma)

    def predict(self, y: Tensor) -> np.ndarray:
        """-> (B,) float64, clamped to the range, whose ends float32 may not hold"""
        return y.double().clamp(*self.task.range).numpy()

    def errors(self, y: Tensor, gold: np.ndarray) -> np.ndarray:
        """-> the absolute error"""
        return np.abs(self.predict(y) - gold)


KINDS: dict[str, type[Kind]] = {"classes": Classes, "binary": Binary, "score": Score, "labels": Labels}
