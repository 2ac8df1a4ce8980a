"""WordPiece (Devlin et al. 2019) through the `tokenizers` library: texts -> ids -> padded batches.

Letters: B texts, T tokens of the longest of them, [CLS] and [SEP] included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from bert.errors import CheckpointError
from bert.hub import resolve

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = 512  # BERT's position embeddings
SURROGATE = re.compile("[\ud800-\udfff]")  # no character by itself, so no UTF-8 and no token


class Batch(dict):
    """Tensors by name, also as attributes: batch["input_ids"] and batch.input_ids; model(**batch) takes it whole."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this batch holds {', '.join(self)}; found no {name}") from None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """A new batch on `device`; this one stays as it is."""
        return Batch({name: value.to(device, non_blocking=non_blocking) for name, value in self.items()})


class BertTokenizer:
    """Texts -> ids. The ids are those of the `tokenizers` library, bit by bit.

    As there (and in transformers), a special token written out in a text, like "[SEP]", becomes that special token.

    Attributes: vocab_size (the largest id + 1), pad_token_id, unk_token_id, cls_token_id, sep_token_id, mask_token_id;
                max_length: where texts are cut unless a call says otherwise;
                truncated: texts (or pairs) cut so far; longest: the longest in tokens, special ones included, uncut.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int = MAX_LENGTH):
        """tokenizer: BERT's kind; changed in place: no padding, no truncation, BERT's special tokens around a text."""
        for part, kind in (
            (tokenizer.normalizer, normalizers.BertNormalizer),
            (tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer),
            (tokenizer.model, models.WordPiece),
        ):
            if not isinstance(part, kind):
                raise ValueError(f"expected a BERT tokenizer's {kind.__name__}; found {type(part).__name__}")
        vocab = tokenizer.get_vocab()
        missing = [token for token in SPECIAL_TOKENS if token not in vocab]
        if missing or tokenizer.model.unk_token != "[UNK]":
            found = f"no {' '.join(missing)}" if missing else f"{tokenizer.model.unk_token} for unknown words"
            raise ValueError(f"expected the special tokens {' '.join(SPECIAL_TOKENS)}; found {found}")
        self.pad_token_id, self.unk_token_id, self.cls_token_id, self.sep_token_id, self.mask_token_id = (
            vocab[token] for token in SPECIAL_TOKENS
        )
        self.vocab_size = max(vocab.values()) + 1
        self.max_length = max_length
        self.truncated = self.longest = 0
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.post_processor = processors.TemplateProcessing(  # for those who read what `save` writes
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", self.cls_token_id), ("[SEP]", self.sep_token_id)],
        )
        self._tokenizer = tokenizer

    # ---- files -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, source: str | Path) -> BertTokenizer:
        """Read tokenizer.json, else vocab.txt with the settings of tokenizer_config.json.

        Args:    source: a folder in Hugging Face layout, "minilm", "bert-base-uncased" or a Hub id.
        Raises:  CheckpointError (a bad file), HubError (nothing cached and no network).
        """
        folder = resolve(source)
        config = read_config(folder / "tokenizer_config.json")
        path = folder / "tokenizer.json"
        if path.is_file():
            tokenizer = read_tokenizer(path)
        elif (path := folder / "vocab.txt").is_file():
            tokenizer = wordpiece(read_vocab(path), config)
        else:
            raise CheckpointError(f"{folder}: expected tokenizer.json or vocab.txt; found neither; copy one there")
        try:
            return cls(tokenizer, int(min(config["model_max_length"], MAX_LENGTH)))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; take the file that belongs to the model") from None

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json, which transformers loads as the same tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [""] * self.vocab_size
        for token, number in self._tokenizer.get_vocab().items():
            lines[number] = token
        normalizer = self._tokenizer.normalizer
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": normalizer.lowercase,
            "strip_accents": normalizer.strip_accents,
            "tokenize_chinese_chars": normalizer.handle_chinese_chars,
            "model_max_length": self.max_length,
            **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS},
        }
        for name, text in (
            ("tokenizer.json", self._tokenizer.to_str(pretty=True)),
            ("vocab.txt", "\n".join(lines)),
            ("tokenizer_config.json", json.dumps(config, indent=2)),
        ):
            (folder / name).write_text(text + "\n", encoding="utf-8", newline="\n")

    # ---- texts -------------------------------------------------------------------------------------------------------

    def __call__(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, max_length: int | None = None
    ) -> Batch:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with segment ids 0 and 1, padded to the longest.

        Args:    texts: one or B of them; pairs: as many; max_length: in tokens, None = the model's own.
        Returns: input_ids (B, T) int64, attention_mask (B, T) bool, token_type_ids (B, T) int64.
        Raises:  ValueError.
        """
        if pairs is None:
            return self.pad(self.ids(texts, max_length))
        return self.pad(*self.pair_ids(texts, pairs, max_length))

    def ids(self, texts: str | Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Each text's ids with [CLS] and [SEP], cut at the end where longer than max_length; not padded."""
        room = self._room(max_length, sides=1)
        pieces = self._pieces(texts)
        self._count([len(piece) for piece in pieces], room, specials=2)
        return [[self.cls_token_id, *piece[:room], self.sep_token_id] for piece in pieces]

    def pair_ids(
        self, texts: str | Sequence[str], pairs: str | Sequence[str], max_length: int | None = None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Each pair's ids and segment ids. Too long a pair loses tokens at the ends, the longer side first."""
        room = self._room(max_length, sides=2)
        first, second = self._pieces(texts), self._pieces(pairs)
        if len(first) != len(second):
            raise ValueError(f"pairs: expected as many as texts; found {len(first)} texts and {len(second)} pairs")
        self._count([len(a) + len(b) for a, b in zip(first, second, strict=True)], room, specials=3)
        ids, types = [], []
        for a, b in zip(first, second, strict=True):
            keep_a, keep_b = cut_pair(len(a), len(b), room)
            ids.append([self.cls_token_id, *a[:keep_a], self.sep_token_id, *b[:keep_b], self.sep_token_id])
            types.append([0] * (keep_a + 2) + [1] * (keep_b + 1))
        return ids, types

    def pad(self, ids: Sequence[Sequence[int]], token_type_ids: Sequence[Sequence[int]] | None = None) -> Batch:
        """B rows of ids -> a batch as wide as the longest. Segment ids are 0 unless given."""
        lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
        width = int(lengths.max()) if len(ids) else 0

        def tensor(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
            padded = [[*row, *[filler] * (width - len(row))] for row in rows]
            return torch.tensor(padded, dtype=torch.int64).reshape(len(ids), width)  # (B, T), also for B = 0

        input_ids = tensor(ids, self.pad_token_id)
        return Batch(
            input_ids=input_ids,
            attention_mask=torch.arange(width) < lengths[:, None],  # (B, T)
            token_type_ids=torch.zeros_like(input_ids) if token_type_ids is None else tensor(token_type_ids, 0),
        )

    def _pieces(self, texts: str | Sequence[str]) -> list[list[int]]:
        """Each text's ids without [CLS] and [SEP], uncut."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        for row, text in enumerate(texts):
            if not isinstance(text, str) or SURROGATE.search(text):
                raise ValueError(f"texts[{row}]: expected a string that UTF-8 can hold; found {text!r:.60}")
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _room(self, max_length: int | None, sides: int) -> int:
        """Tokens left for the texts beside [CLS] and a [SEP] for each side."""
        limit = self.max_length if max_length is None else max_length
        if limit < 1 + 2 * sides:
            raise ValueError(
                f"max_length: expected at least {1 + 2 * sides} ([CLS], a token and [SEP] a text); found {limit}"
            )
        return limit - 1 - sides

    def _count(self, lengths: list[int], room: int, specials: int) -> None:
        self.longest = max([self.longest, *(length + specials for length in lengths)])
        self.truncated += sum(length > room for length in lengths)


def cut_pair(a: int, b: int, room: int) -> tuple[int, int]:
    """How many tokens each side of a pair keeps when the longer side is cut, one by one, until both fit into `room`.

    Where both end up cut, an odd token goes to the side that was longer, to the second of equals (as in `tokenizers`).
    """
    if a + b <= room:
        return a, b
    if a <= b:
        a = min(a, room // 2)
        return a, room - a
    b = min(b, room // 2)
    return room - b, b


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: expected UTF-8; found {error}; fetch the file anew") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """tokenizer.json -> whatever tokenizer it describes."""
    text = read_text(path)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: expected a tokenizer's JSON; found {error}; fetch the file anew") from None


def read_vocab(path: Path) -> dict[str, int]:
    """vocab.txt, a token a line -> token to id, the line's number from 0. Of equal lines the last counts."""
    # Not splitlines(), which would also break at characters that are tokens.
    return {token: number for number, token in enumerate(read_text(path).removesuffix("\n").split("\n"))}


def read_config(path: Path) -> dict:
    """The settings of tokenizer_config.json that matter here; BERT's uncased ones where it names none."""
    config = {
        "do_lower_case": True,
        "strip_accents": None,  # None: where lower-casing
        "tokenize_chinese_chars": True,
        "model_max_length": MAX_LENGTH,
    }
    if not path.is_file():
        return config
    text = read_text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON; found {error}; fetch the file anew") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object; found {type(found).__name__}; fetch the file anew")
    for name in config:
        value = found.get(name)
        if value is None:
            continue
        if name == "model_max_length":
            expected, good = "a number from 3", isinstance(value, (int, float)) and value >= 3
        else:
            expected, good = "true or false", isinstance(value, bool)
        if not good:
            raise CheckpointError(f"{path}: {name}: expected {expected}; found {value!r}; correct it")
        config[name] = value
    return config


def wordpiece(vocab: dict[str, int], config: dict) -> Tokenizer:
    """BERT's own tokenizer over a vocabulary."""
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=config["do_lower_case"],
        strip_accents=config["strip_accents"],
        handle_chinese_chars=config["tokenize_chinese_chars"],
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocab])
    return tokenizer
