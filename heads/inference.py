"""Texts -> vectors and outputs. The model does not change, nor does its mode, so threads can share one.

Letters: N texts, T tokens, D hidden size, K classes.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from bert import BertModel, precision
from bert.fast import inference_copy
from bert.tokenizer import Batch, check_text
from heads.config import POOLINGS
from heads.pooling import sentence_vectors
from runtime.errors import DivergedError, UsageError

# Enough to keep the processor busy, little enough for its caches or its memory.
TOKENS_A_PASS = {"cpu": 2048, "cuda": 16384}
TOKENS_A_GROUP = {"cpu": 256, "cuda": 16384}

Progress = Callable[[int, int], None]  # called with the number of texts done, and of all


@torch.no_grad()
def encode(
    model,
    texts: Sequence[str],
    pooling: str | None = None,
    layer: int | None = None,
    normalize: bool = False,
    amp: str = "off",
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Sentence vectors as `MultitaskBert.encode` documents them, a float32 Tensor (N, D) on the CPU.

    texts: single texts, or pairs that are read as one sequence.
    """
    check_list("texts", texts)
    pooling = model.config.pooling if pooling is None else pooling
    layer = model.config.layer if layer is None else layer
    poolings = [name for name in POOLINGS if name != "cnn" or model.cnn]
    if pooling not in poolings:
        raise ValueError(f"pooling: expected one of this model's {', '.join(poolings)}; found {pooling!r}")
    if amp not in precision.PRECISIONS:
        raise ValueError(f"amp: expected off, bf16, fp16 or auto; found {amp!r}")
    bert = encoder(model, amp)
    unique = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # each text, or pair, once
    vectors, done = torch.empty(len(unique), model.bert.config.hidden_size), 0
    for groups, tokens in token_passes(model, list(unique)):
        for rows, x in zip(groups, sentence_vectors(bert, model.cnn, tokens, pooling, layer), strict=True):
            vectors[rows] = x.float().cpu()
            done += len(rows)
        progress(done, len(unique))
    if normalize:
        vectors = nn.functional.normalize(vectors, dim=1)
    return vectors[[unique[text] for text in texts]]


def encoder(model, amp: str) -> BertModel:
    """The model's BERT, for inference in this precision."""
    weight = model.bert.embeddings.word.weight
    amp = precision.resolve_precision(amp, weight.device) if amp == "auto" else amp
    return inference_copy(model.bert, precision.DTYPES.get(amp, weight.dtype))


@torch.no_grad()
def outputs(
    model,
    names: Sequence[str],
    sides: Sequence[Sequence[str]],
    amp: str,
    progress: Progress = lambda done, total: None,
) -> dict[str, Tensor]:
    """By task: the outputs y, as its kind defines them, for N texts, or N pairs as two sides; on the CPU.

    Texts that several tasks read in the same way are encoded once.
    Raises: ValueError for a task that the model does not have, or one text for a pair; DivergedError for outputs that
            are infinite or NaN, from which no class follows.
    """
    forms, ys = {1: "single texts", 2: "pairs"}, {}
    known = ", ".join(f"{task.name} ({forms[len(task.texts)]})" for task in model.tasks.values())
    for name in names:
        if name not in model.tasks:
            raise UsageError(f"task: expected one of {known}; found {name!r}")
        if len(model.tasks[name].texts) != len(sides):
            expected, found = forms[len(model.tasks[name].texts)], forms[len(sides)]
            raise UsageError(f"{name}: expected {expected}; found {found}; this model has {known}")
    for side, texts in zip("ab", sides, strict=False):
        check_list(f"texts_{side}", texts, pairs_allowed=False)
    if len(sides[0]) != len(sides[-1]):
        counts = f"found {len(sides[0])} and {len(sides[1])}"
        raise UsageError(f"{names[0]}: expected as many texts_b as texts_a; {counts}")
    weight = next(model.heads.parameters())
    heads, tasks, x = inference_copy(model.heads, weight.dtype), [model.tasks[name] for name in names], {}
    if any(task.apart for task in tasks):
        texts = [text for side in sides for text in side]
        x["apart"] = encode(model, texts, amp=amp, progress=progress).to(weight)  # (N, D), of two sides (2 N, D)
    if any(task.at_once for task in tasks):
        pairs = list(zip(*sides, strict=True))
        x["at_once"] = encode(model, pairs, amp=amp, progress=progress).to(weight)  # (N, D)
    for name, task in zip(names, tasks, strict=True):
        v = heads.vectors({name: torch.cat([x[way] for way in x if getattr(task, way)])})[name]
        y = heads[name](v)
        if not y.isfinite().all():
            row = (~y.isfinite()).nonzero()[0, 0]
            advice = "train with a lower --lr, or take --amp off"
            found = f"others, first of {sides[0][row]!r:.60}"
            raise DivergedError(f"{name}: expected finite outputs; found {found}; {advice}")
        ys[name] = y.cpu()
    return ys


def answers(model, name: str, y: Tensor) -> list[dict]:
    """Each row's prediction from a task's outputs y, ready for JSON, with the digits that float32 has.

    {"prediction": a class, a list of classes, or a number}; for classes also {"probabilities": {class as a string:
    its probability}}.
    """
    task, kind = model.tasks[name], model.heads[name].kind
    predictions = kind.names(kind.predict(y))
    if task.range:
        return [{"prediction": float(f"{value:.7g}")} for value in predictions]
    rows, classes = [], [str(label) for label in task.classes]
    for value, shares in zip(predictions, kind.probabilities(y).tolist(), strict=True):
        shares = {label: float(f"{share:.7g}") for label, share in zip(classes, shares, strict=True)}
        rows.append({"prediction": list(value) if task.several else value.item(), "probabilities": shares})
    return rows


def check_list(name: str, texts: Sequence[str], pairs_allowed: bool = True) -> None:
    """Refuse a single string, which Python would read as a list of letters, and anything else that is no list of texts,
    or of pairs."""
    if isinstance(texts, str) or not hasattr(texts, "__len__"):
        raise ValueError(f"{name}: expected a list of sentences; found {type(texts).__name__}; put it into a list")
    pairs = pairs_allowed and isinstance(next(iter(texts), ""), tuple)
    for row, item in enumerate(texts):
        if pairs and not (isinstance(item, tuple) and len(item) == 2):
            raise ValueError(f"{name}[{row}]: expected a pair of texts, for {name}[0] is a tuple; found {item!r:.60}")
        for text in item if pairs else [item]:
            check_text(f"{name}[{row}]", text)


def token_passes(model, texts: Sequence) -> Iterator[tuple[list[list[int]], list[Batch]]]:
    """For each of the `passes` over texts (or pairs read as one sequence): its groups of rows, and their tokens
    on the model's device."""
    if texts and isinstance(texts[0], tuple):
        ids, types = model.tokenizer.pair_ids(*zip(*texts, strict=True), max_length=model.max_length)
    else:
        ids, types = model.tokenizer.ids(texts, max_length=model.max_length), None
    device = model.bert.embeddings.word.weight.device
    for groups in passes([len(row) for row in ids], TOKENS_A_PASS[device.type], TOKENS_A_GROUP[device.type]):
        padded = [([ids[row] for row in rows], types and [types[row] for row in rows]) for rows in groups]
        yield groups, [model.tokenizer.pad(*rows).to(device) for rows in padded]


def passes(lengths: Sequence[int], most: int, least: int) -> Iterator[list[list[int]]]:
    """Row numbers for inference, longest first: each pass is a list of groups, and a group is padded together.

    A group ends where a shorter row follows, so that most have no padding at all, but not before it has `least` tokens:
    many small groups cost more than padding. A pass has at most `most` tokens, padding included.
    """
    groups: list[list[int]] = []
    tokens = width = 0  # of the pass, padding included, and of its last group
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        new_group = not groups or (lengths[row] < width and len(groups[-1]) * width >= least)
        if groups and tokens + (lengths[row] if new_group else width) > most:
            yield groups
            groups, tokens, new_group = [], 0, True
        if new_group:
            groups.append([])
            width = lengths[row]
        groups[-1].append(row)
        tokens += width
    if groups:
        yield groups
