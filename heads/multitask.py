"""The whole model: encoder, pooling, architecture; its files, its training losses and its predictions.

Letters: B batch rows of a task, N sentences, T tokens, D hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from bert.checkpoint import check_fit, save_folder, write_tensors
from bert.errors import CheckpointError
from bert.fused import fused
from bert.hub import resolve
from bert.model import BertModel
from bert.tokenizer import Batch, BertTokenizer
from heads.architectures import ARCHITECTURES, STS_MAX
from heads.losses import LossSettings, PreviousBatch, para_loss, sst_loss, sts_loss
from heads.pooling import POOLINGS, CnnPooling, attention_mean, cls, mean

TASKS = ("sst", "para", "sts")
PAIR_TASKS = ("para", "sts")
POOL = {  # hidden states (N, T, D), their layer's attention (N, H, T, T) and mask (N, T) -> (N, D)
    "cls": lambda x, attention, mask: cls(x),
    "mean": lambda x, attention, mask: mean(x, mask),
    "attention_mean": attention_mean,
}
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Of inference: enough to keep the processor busy, little enough for its caches or its memory.
TOKENS_A_PASS = {"cpu": 2048, "cuda": 16384}
TOKENS_A_GROUP = 256


@dataclass(frozen=True)
class HeadsConfig:
    """What stands on the encoder. Raises ValueError for a name or number out of range.

    The defaults did best on dev with minilm; the paper has attention_mean of layer -2 and a dropout of 0.65 or 0.7.
    """

    arch: str = "v3a"
    pooling: str = "mean"
    layer: int = -1
    hidden_dropout_prob: float = 0.3  # the heads'; the encoder keeps its checkpoint's own
    max_length: int = 128  # tokens of a sentence, [CLS] and [SEP] included

    def __post_init__(self):
        for name, allowed in (("arch", tuple(ARCHITECTURES)), ("pooling", POOLINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}; found {getattr(self, name)!r}")
        if self.arch == "v1" and self.pooling != "cls":
            raise ValueError(
                f"pooling: architecture v1 stands on cls; found {self.pooling!r}; take v2 for other poolings"
            )
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(f"hidden_dropout_prob: expected a rate in [0, 1); found {self.hidden_dropout_prob}")
        if self.layer > -1:
            raise ValueError(f"layer: expected -1 (the last), -2, ...; found {self.layer}")
        if self.max_length < 3:
            raise ValueError(f"max_length: expected at least 3 ([CLS], a token, [SEP]); found {self.max_length}")


@dataclass(frozen=True)
class TaskBatch:
    """One task's rows of a step."""

    tokens: Batch  # (B, T); for pair tasks (2 B, T): the first sentences, then the second ones
    labels: Tensor  # (B,): int64 classes for sst, float32 for para and sts
    ids: list[str]  # the rows' names, for error messages

    def to(self, device: torch.device) -> TaskBatch:
        return TaskBatch(self.tokens.to(device), self.labels.to(device), self.ids)


class UndefinedOutput(ArithmeticError):
    """An output that is infinite or NaN; `row`: of which of the texts, from 0."""

    def __init__(self, task: str, row: int):
        super().__init__(f"{task}: expected finite outputs; found others, first in row {row}")
        self.row = row


class MultitaskBert(nn.Module):
    """Encoder + heads for sst, para and sts. `from_pretrained` is the usual way to make one."""

    def __init__(self, bert: BertModel, tokenizer: BertTokenizer, config: HeadsConfig | None = None):
        super().__init__()
        self.config = config or HeadsConfig()
        if -self.config.layer > bert.config.num_hidden_layers:
            raise ValueError(f"layer: expected -{bert.config.num_hidden_layers} to -1; found {self.config.layer}")
        self.bert = bert
        self.tokenizer = tokenizer
        size = bert.config.hidden_size
        self.cnn = CnnPooling(size) if self.config.pooling == "cnn" else None
        self.heads = ARCHITECTURES[self.config.arch](size, self.config.hidden_dropout_prob)

    # ---- files -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, source: str | Path, config: HeadsConfig | None = None) -> MultitaskBert:
        """What a run wrote (`runs/x/best`), or any plain BERT source with fresh heads; float32, eval mode.

        Args:    source: a folder, "minilm", "bert-base-uncased" or a Hub id.
                 config: the fresh heads' settings. Where the source has heads of its own, it must agree with them in
                 arch, pooling and layer, and sets the rest.
        Raises:  CheckpointError for files that cannot be used; HubError where nothing is cached and no network.
        """
        keep_freed_memory()
        folder = resolve(source)
        stored = read_heads_config(folder)
        if stored and config:
            for name in ("arch", "pooling", "layer"):
                if getattr(stored, name) != getattr(config, name):
                    raise ValueError(
                        f"{name}: {folder} holds heads trained with {getattr(stored, name)!r}; "
                        f"found {getattr(config, name)!r}; leave the option out or start from a plain BERT"
                    )
        bert, tokenizer = BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
        if tokenizer.vocab_size != bert.config.vocab_size:
            raise CheckpointError(
                f"{folder}: expected as many embedding rows as tokens; found {bert.config.vocab_size} rows and "
                f"{tokenizer.vocab_size} tokens; take the tokenizer that belongs to the model"
            )
        model = cls(bert, tokenizer, config or stored)
        if stored:
            model._load_heads(folder / "heads.safetensors")
        return model.eval()

    def head_state(self) -> dict[str, Tensor]:
        """Every weight that is not the encoder's, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("bert.")}

    def _load_heads(self, path: Path) -> None:
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: not a readable weights file ({error}); train again or copy it anew"
            ) from None
        check_fit(self.head_state(), state, path)
        self.load_state_dict(state, strict=False)

    def save(self, folder: str | Path) -> None:
        """Write a folder that transformers and sentence-transformers load unchanged, with the heads beside it.

        sentence-transformers knows the last layer's `cls` and `mean` only; for another layer it takes the last one, for
        other poolings the mean, which is not this model's X.
        """
        folder = Path(folder)
        save_folder(self.bert, folder)
        self.tokenizer.save(folder)
        write_tensors(folder / "heads.safetensors", self.head_state())
        by_cls = self.config.pooling == "cls"
        pooling = {
            "word_embedding_dimension": self.bert.config.hidden_size,
            "pooling_mode_cls_token": by_cls,
            "pooling_mode_mean_tokens": not by_cls,
        }
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
        (folder / "1_Pooling").mkdir(exist_ok=True)
        for name, content in (
            ("heads.json", asdict(self.config)),
            ("modules.json", modules),
            ("sentence_bert_config.json", {"max_seq_length": self.max_length, "do_lower_case": False}),
            ("1_Pooling/config.json", pooling),
        ):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    # ---- training ----------------------------------------------------------------------------------------------------

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that more than one task uses: the encoder, the CNN pooling, v3's shared MLP."""
        modules = [self.bert, *([self.cnn] if self.cnn else []), *self.heads.shared()]
        return [parameter for module in modules for parameter in module.parameters()]

    def pooled(self, batches: Sequence[Batch], pooling: str | None = None, layer: int | None = None) -> list[Tensor]:
        """batches: (N, T) each -> X: (N, D) each, float32 under mixed precision too. One pass for all."""
        pooling = pooling or self.config.pooling
        states = self.bert.hidden_states(batches, self.config.layer if layer is None else layer)
        masks = [batch.attention_mask for batch in batches]
        with torch.autocast(masks[0].device.type, enabled=False):  # what stands on the encoder is computed in float32
            if pooling == "cnn":
                x = self.cnn(joined([full(x) for x, _ in states]), joined(masks))
                return list(x.split([len(mask) for mask in masks]))
            return [POOL[pooling](full(x), full(a), mask) for (x, a), mask in zip(states, masks, strict=True)]

    def losses(
        self, batches: Mapping[str, TaskBatch], settings: LossSettings, previous: PreviousBatch, generator: Generator
    ) -> dict[str, Tensor]:
        """Each task's loss, not scaled, a float32 scalar, from one pass over the rows of all tasks.

        Args: batches: by task, one or more of them.
              previous: the triplets' store, read and added to by para with the full loss alone.
              generator: a CPU generator for the draw of negatives.
        """
        x = self.pooled([batch.tokens for batch in batches.values()])  # (B, D), for pairs (2 B, D)
        with torch.autocast(x[0].device.type, enabled=False):
            vectors = self.heads.vectors(dict(zip(batches, x, strict=True)))
            return {
                task: self._loss(task, vectors[task], batch.labels, settings, previous, generator)
                for task, batch in batches.items()
            }

    def _loss(
        self,
        task: str,
        v: Tensor,
        labels: Tensor,
        settings: LossSettings,
        previous: PreviousBatch,
        generator: Generator,
    ) -> Tensor:
        """v: (B, D), for pairs (2 B, D), labels: (B,) -> scalar"""
        if task == "sst":
            return sst_loss(self.heads.sst(v), labels)
        v_a, v_b = v.chunk(2)  # (B, D) each
        if task == "sts":
            return sts_loss(self.heads.sts(v_a, v_b), labels, settings.sts_gamma)
        negatives = None
        if settings.para_loss == "full":
            negatives = previous.draw(len(v_a), generator)
            previous.add(v_a, v_b)
        return para_loss(self.heads.para(v_a, v_b), v_a, v_b, labels, negatives, settings)

    # ---- inference ---------------------------------------------------------------------------------------------------

    @torch.no_grad()  # not inference_mode, where autocast casts the weights anew for every pass
    def encode(
        self,
        texts: Sequence[str],
        pooling: str | None = None,
        layer: int | None = None,
        normalize: bool = False,
        amp: str = "off",
    ) -> np.ndarray:
        """Sentence vectors X, as the pooling makes them (before any head): float32 (N, D), in the order of `texts`.

        Args: pooling, layer: None = the model's own. normalize: to length 1. amp: "off", "bf16" or "fp16".
        """
        check_list("texts", texts)
        if pooling == "cnn" and self.cnn is None:
            raise ValueError("pooling: this model has no trained cnn; take cls, mean or attention_mean")
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}; found {pooling!r}")
        if amp != "off" and amp not in AMP_DTYPES:
            raise ValueError(f"amp: expected off, bf16 or fp16; found {amp!r}")
        weight = self.bert.embeddings.word.weight
        device, dtype = weight.device, AMP_DTYPES.get(amp, weight.dtype)
        unique = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # each text once
        ids = self.tokenizer.ids(list(unique), max_length=self.max_length)
        vectors = torch.empty(len(ids), self.bert.config.hidden_size)
        autocast = torch.autocast(device.type, dtype, enabled=amp != "off")
        with evaluating(self), autocast, fused(self.bert, dtype):
            most = TOKENS_A_PASS.get(device.type, TOKENS_A_PASS["cuda"])
            for groups in passes([len(row) for row in ids], most):
                tokens = [self.tokenizer.pad([ids[row] for row in rows]).to(device) for rows in groups]
                for rows, x in zip(groups, self.pooled(tokens, pooling, layer), strict=True):
                    vectors[rows] = x.cpu()
        if normalize:
            vectors = nn.functional.normalize(vectors, dim=1)
        return vectors[[unique[text] for text in texts]].numpy() if len(texts) else vectors.numpy()

    @property
    def max_length(self) -> int:
        """The most tokens of a sentence: the heads' setting, or the encoder's limit where that is less."""
        return min(self.config.max_length, self.bert.config.max_position_embeddings)

    @torch.no_grad()
    def predict(
        self, task: str, texts_a: Sequence[str], texts_b: Sequence[str] | None = None, amp: str = "off"
    ) -> np.ndarray:
        """(N,): sst classes 0..4 (int64), para 0 or 1 (int64; 1 where y >= 0.5), sts similarity in [0, 5] (float32).

        Raises: UndefinedOutput where the model computes what is no finite number, which no class can be made of.
        """
        if task not in TASKS:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}; found {task!r}")
        if (texts_b is not None) != (task in PAIR_TASKS):
            raise ValueError(
                f"{task}: expected {'pairs: texts_a and texts_b' if task in PAIR_TASKS else 'texts_a alone'}"
            )
        check_list("texts_a", texts_a)
        check_list("texts_b", texts_b)
        if texts_b is not None and len(texts_a) != len(texts_b):
            raise ValueError(f"{task}: expected as many texts_b as texts_a; found {len(texts_a)} and {len(texts_b)}")
        device = self.bert.embeddings.word.weight.device
        x = torch.from_numpy(self.encode([*texts_a, *(texts_b or [])], amp=amp)).to(device)  # (N, D) or (2 N, D)
        with evaluating(self):
            v = self.heads.vector(task, x)
            if task == "sst":
                y = self.heads.sst(v)  # (N, 5)
            else:
                y = getattr(self.heads, task)(*v.chunk(2)) if len(v) else v.new_empty(0)  # (N,)
        undefined = (~y.isfinite()).nonzero()
        if len(undefined):
            raise UndefinedOutput(task, undefined[0, 0].item())
        if task == "sst":
            return y.argmax(dim=1).cpu().numpy()
        if task == "para":
            return (y >= 0.5).long().cpu().numpy()
        return y.clamp(0, STS_MAX).cpu().numpy()


def keep_freed_memory() -> None:
    """Have the C library keep the memory that tensors free for the next ones.

    glibc gives it back to the system where more lies free than twice the largest block that was freed so far, and takes
    it again page by page, which is 5 % of a step and of encode. It counts blocks of up to 32 MiB: so free such a one.
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8)


def full(x: Tensor) -> Tensor:
    """float32, or float64 as it is"""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def joined(padded: Sequence[Tensor]) -> Tensor:
    """(N_1, T_1, ...), (N_2, T_2, ...), ... -> (N_1 + N_2 + ..., T, ...), zeros up to the longest T."""
    longest = max(x.shape[1] for x in padded)
    return torch.cat([nn.functional.pad(x, (0, 0) * (x.dim() - 2) + (0, longest - x.shape[1])) for x in padded])


def read_heads_config(folder: Path) -> HeadsConfig | None:
    """heads.json of a folder; None where there is none: a plain BERT."""
    path = folder / "heads.json"
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return HeadsConfig(**{name.name: raw[name.name] for name in fields(HeadsConfig)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected the settings of a run's heads; found {error!r}; copy it anew"
        ) from None


def check_list(name: str, texts: Sequence[str] | None) -> None:
    """Refuse a lone string, which Python would take for a list of its letters."""
    if isinstance(texts, str):
        raise ValueError(f"{name}: expected a list of sentences; found one string; put it into a list")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) inside; outside, each part's own mode again: a frozen encoder's may not be the heads'."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def passes(lengths: Sequence[int], most: int) -> Iterator[list[list[int]]]:
    """Row numbers for inference, longest first: groups to be padded together, and as many groups as make a pass.

    A group ends where a shorter row follows, so that most have no padding at all, but not before it has
    TOKENS_A_GROUP tokens: many small groups cost more than padding. A pass has at most `most`, padding included.
    """
    groups: list[list[int]] = []
    tokens = width = 0  # of the pass, padding included, and of its last group
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        begins = not groups or (lengths[row] < width and len(groups[-1]) * width >= TOKENS_A_GROUP)
        if groups and tokens + (lengths[row] if begins else width) > most:
            yield groups
            groups, tokens, begins = [], 0, True
        if begins:
            groups.append([])
            width = lengths[row]
        groups[-1].append(row)
        tokens += width
    if groups:
        yield groups
