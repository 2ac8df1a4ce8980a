"""The whole model: encoder, pooling, heads; its training losses, its predictions, its files.

Letters: B batch rows of a task, N sentences, T tokens, D hidden size, K classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from bert.fast import keep_freed_memory, tokens_computed
from bert.hub import resolve
from bert.model import BertModel
from bert.tokenizer import BertTokenizer
from data.tasks import LEADERBOARD, TASKS, Task
from heads import files, inference
from heads.config import HeadsConfig
from heads.losses import LossSettings, PreviousStep, contrastive_loss
from heads.pairs import Heads
from heads.pooling import CnnPooling, sentence_vectors
from heads.rows import TaskBatch
from runtime.errors import CheckpointError, UsageError


class MultitaskBert(nn.Module):
    """Encoder + a head for each task. `from_pretrained` is the usual way to make one."""

    def __init__(
        self, bert: BertModel, tokenizer: BertTokenizer, tasks: Sequence[Task] = (), config: HeadsConfig | None = None
    ):
        """tasks: none = the course's sst, para and sts. Raises UsageError where they do not fit the encoder."""
        super().__init__()
        tasks, config = tasks or [TASKS[name] for name in LEADERBOARD], config or HeadsConfig()
        self.config, self.tasks = config, {task.name: task for task in tasks}
        depth, size = bert.config.num_hidden_layers, bert.config.hidden_size
        self.bert, self.tokenizer = bert, tokenizer
        self.cnn = CnnPooling(size) if config.pooling == "cnn" else None
        self.heads = Heads(tasks, config.arch, size, config.hidden_dropout_prob)
        if -config.layer > depth:
            raise UsageError(f"--layer: expected -{depth} to -1; found {config.layer}")
        if at_once := [task.name for task in tasks if task.at_once]:
            if bert.config.type_vocab_size < 2:
                raise UsageError(f"--pairs: {at_once[0]} expects a BERT with two segment ids; found one; take siamese")
            if self.max_length < 5:
                expected = f"at least 5 for {at_once[0]}, which reads two texts at once"
                raise UsageError(f"--max_length: expected {expected}; found {self.max_length}")

    @classmethod
    def from_pretrained(
        cls, source: str | Path, tasks: Sequence[Task] = (), config: HeadsConfig | None = None
    ) -> "MultitaskBert":
        """A run's model (`runs/x` or `runs/x/best`), or any plain BERT source with fresh heads; float32, eval mode.

        Args:   source: a folder, "minilm", "bert-base-uncased" or a Hub id.
                tasks, config: of the fresh heads. If the source has heads, the tasks are added to its own; the config
                must agree with its own in arch, pooling and layer, and sets the rest.
        Raises: CheckpointError for files that cannot be used; UnavailableError (nothing cached and no network);
                UsageError (a ValueError) for settings or tasks that do not fit the source's.
        """
        keep_freed_memory()
        folder = files.model_folder(resolve(source))
        identity = folder.stat().st_ino
        stored = files.read_heads(folder)
        if stored:
            stored_config, stored_tasks = stored
            config = config or stored_config
            files.check_config(stored_config, config, folder)
            tasks = files.joint_tasks(stored_tasks, tasks, folder)
        bert, tokenizer = BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
        rows, tokens = bert.config.vocab_size, tokenizer.vocab_size
        if rows != tokens:
            raise CheckpointError(
                f"{folder}: expected as many embedding rows as tokens; found {rows} rows and {tokens} tokens; take the "
                "model's own tokenizer, or cut the rows: resize_token_embeddings(len(tokenizer)) in transformers"
            )
        model = cls(bert, tokenizer, tasks, config)
        if stored:
            files.load_heads(model, folder, stored_tasks)
        if not folder.is_dir() or folder.stat().st_ino != identity:
            raise CheckpointError(f"{folder}: replaced while it was read; try again")
        return model.eval()

    def save(self, folder: str | Path) -> None:
        """Write a folder that transformers and sentence-transformers load unchanged, with the heads beside it."""
        files.save_model(self, Path(folder))

    def head_state(self) -> dict[str, Tensor]:
        """Every weight that is not the encoder's, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("bert.")}

    @property
    def max_length(self) -> int:
        """The most tokens of a sentence: the heads' setting, or the encoder's limit where that is less."""
        return min(self.config.max_length, self.bert.config.max_position_embeddings)

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that more than one task uses: the encoder, the CNN pooling, v3's shared MLP."""
        modules = (self.bert, self.cnn, self.heads.shared)
        return [parameter for module in modules if module is not None for parameter in module.parameters()]

    def row_counts(self, batches: Mapping[str, TaskBatch]) -> dict[str, tuple[int, int]]:
        """For each task, how many sentences and how many tokens the layers compute in `losses`.

        On a GPU: of batches that `on_device` (heads/rows.py) has padded to one width.
        """
        computed = tokens_computed([batch.tokens for batch in batches.values()])
        counts = zip(batches.items(), computed, strict=True)
        return {name: (len(batch.tokens.input_ids), count) for (name, batch), count in counts}

    def losses(
        self,
        batches: Mapping[str, TaskBatch],
        settings: LossSettings,
        previous: PreviousStep,
        generator: Generator,
    ) -> dict[str, Tensor]:
        """Each task's loss, not scaled, a float32 scalar, from one pass over the rows of all tasks in `batches`.

        Args: previous: the triplets' negatives, read and added to only by contrastive pairs that are not `cross`, with
              the full loss.
              generator: a CPU generator to draw negatives, in the same state for all micro-batches of a step.
        """
        tokens = [batch.tokens for batch in batches.values()]
        x = sentence_vectors(self.bert, self.cnn, tokens, self.config.pooling, self.config.layer)  # (up to 3 B, D) each
        losses = {}
        with torch.autocast(x[0].device.type, enabled=False):
            for name, v in self.heads.vectors(dict(zip(batches, x, strict=True))).items():
                task, batch = self.tasks[name], batches[name]
                losses[name] = self.heads[name].loss(v, batch.labels, settings)
                if task.contrastive and task.sequences > 1 and settings.para_loss == "full":
                    apart = v[: 2 * len(batch.labels)]  # (2 B, D), without those of pairs as one sequence
                    v_a, v_b = apart.chunk(2)  # (B, D) each
                    places = batch.places or range(len(v_a))
                    negatives = previous.draw(name, places, generator)
                    previous.add(name, apart, batch.number, places)
                    losses[name] = losses[name] + contrastive_loss(v_a, v_b, batch.labels, negatives, settings)
        return losses

    def encode(
        self,
        texts: Sequence[str],
        pooling: str | None = None,
        layer: int | None = None,
        normalize: bool = False,
        amp: str = "off",
    ) -> np.ndarray:
        """Sentence vectors X, as the pooling makes them (before any head): float32 (N, D), in the order of `texts`.

        Args: pooling, layer: None = the model's own. normalize: to length 1. amp: "off", "bf16", "fp16" or "auto".
        """
        return inference.encode(self, texts, pooling, layer, normalize, amp).numpy()

    def predict(
        self,
        task: str,
        texts_a: Sequence[str],
        texts_b: Sequence[str] | None = None,
        amp: str = "off",
        probabilities: bool = False,
    ) -> np.ndarray | list[tuple]:
        """The model's predictions for N texts, or N pairs, in a task that it was trained on.

        Returns: names of classes (N,) (numbers for the course's tasks: sst 0..4, para 0 or 1); for a score the number,
                 within its range (N,); for several labels a tuple of names for each text. With probabilities=True the
                 classes' probabilities, (N, K), in the order of `model.tasks[task].classes`.
        Raises:  ValueError for a task that the model does not have, one text for a pair, probabilities of a score;
                 DivergedError where the model computes NaN or an infinite number.
        """
        y = inference.outputs(self, [task], [texts_a] if texts_b is None else [texts_a, texts_b], amp)[task]
        kind = self.heads[task].kind
        if not probabilities:
            return kind.names(kind.predict(y))
        if not kind.task.classes:
            raise ValueError(f"{task}: a {kind.task.kind} has no probabilities; leave probabilities out")
        return kind.probabilities(y).numpy()
