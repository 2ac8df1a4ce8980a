"""WordPiece (Devlin et al. 2019) through the `tokenizers` library: texts -> ids -> padded batches.

Letters: B texts, T tokens of the longest of them, [CLS] and [SEP] included.
"""

import json
import re
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer, Tokenizer, normalizers, processors
from torch import Tensor

from bert.hub import resolve
from runtime.errors import CheckpointError
from runtime.files import read_json, read_plain

Texts = str | Sequence[str]  # one or several
Rows = list[list[int]]  # ids, not padded
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = 512  # BERT's position embeddings
# Settings of tokenizer_config.json -> the argument of the library's BertNormalizer, and its value in uncased BERT.
SETTINGS = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),  # None: as do_lower_case
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # transformers', which follow tokenizer.json alone
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which UTF-8 cannot hold


def check_text(place: str, text: object) -> None:
    """Raise ValueError, with the place, for what is no text."""
    if not isinstance(text, str) or SURROGATE.search(text):
        raise ValueError(f"{place}: expected a string that UTF-8 can hold; found {text!r:.60}")


class Batch(dict):
    """Tensors by name, also as attributes: batch["input_ids"] is batch.input_ids. model(**batch) takes it whole."""

    def __getattr__(self, name: str) -> Tensor:
        if name not in self:
            raise AttributeError(f"this batch holds {', '.join(self)}; found no {name}")
        return self[name]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """A new batch on `device`; this one stays as it is."""
        moved = Batch({name: value.to(device, non_blocking=non_blocking) for name, value in self.items()})
        moved.real = self.real
        return moved

    @cached_property
    def real(self) -> int:
        """The number of real tokens among the B T. Counted before a batch moves: on a GPU the program would wait."""
        return int(self["attention_mask"].sum())

    @cached_property
    def places(self) -> Tensor:
        """The places of the real tokens in (B T,): (N,)"""
        return self["attention_mask"].flatten().nonzero()[:, 0]


class BertTokenizer:
    """Texts -> ids, as in the `tokenizers` library; there, too, "[SEP]" written out in a text is that special token.

    Attributes: vocab_size (the largest id + 1), pad_token_id, cls_token_id, sep_token_id; max_length: where texts are
                cut unless a call says otherwise. No call changes the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int = MAX_LENGTH):
        """tokenizer: of BERT's kind (see `read_folder`). It is changed: no padding, no truncation, BERT's template."""
        vocab = tokenizer.get_vocab()
        self.pad_token_id, self.cls_token_id, self.sep_token_id = vocab["[PAD]"], vocab["[CLS]"], vocab["[SEP]"]
        self.vocab_size = max(vocab.values()) + 1
        self.max_length = max_length
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # For other programs, which read the files of `save`.
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", self.sep_token_id), ("[CLS]", self.cls_token_id))
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "BertTokenizer":
        """Read tokenizer.json, else vocab.txt, with the settings of tokenizer_config.json, as transformers does.

        That is: case, accents and Chinese characters follow tokenizer_config.json (uncased BERT if it names none),
        not tokenizer.json, unless tokenizer_config.json names one of GENERIC_CLASSES.
        Args:    source: a folder in Hugging Face layout, "minilm", "bert-base-uncased" or a Hub id.
        Raises:  CheckpointError (a bad file), UnavailableError (nothing cached and no network).
        """
        return cls(*read_folder(resolve(source)))

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json, which transformers loads as the same tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        words = {number: token for token, number in self._tokenizer.get_vocab().items()}
        vocab = "".join(words.get(number, "") + "\n" for number in range(self.vocab_size))
        config = {"tokenizer_class": "BertTokenizer", "model_max_length": self.max_length}
        config |= {name: getattr(self._tokenizer.normalizer, argument) for name, (argument, _) in SETTINGS.items()}
        (folder / "tokenizer.json").write_text(self._tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
        (folder / "vocab.txt").write_text(vocab, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def __call__(self, texts: Texts, pairs: Texts | None = None, max_length: int | None = None) -> Batch:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with segment ids 0 and 1, padded to the longest.

        Args:    texts: one or B of them; pairs: the same number; max_length: in tokens, None = self.max_length.
        Returns: input_ids (B, T) int64, attention_mask (B, T) bool, token_type_ids (B, T) int64.
        Raises:  ValueError.
        """
        if pairs is None:
            return self.pad(self.ids(texts, max_length))
        return self.pad(*self.pair_ids(texts, pairs, max_length))

    def ids(self, texts: Texts, max_length: int | None = None) -> Rows:
        """Each text's ids with [CLS] and [SEP], cut at the end where longer than max_length; not padded."""
        room = self._room(max_length, sides=1)
        return [[self.cls_token_id, *piece[:room], self.sep_token_id] for piece in self._pieces(texts)]

    def pair_ids(self, texts: Texts, pairs: Texts, max_length: int | None = None) -> tuple[Rows, Rows]:
        """Each pair's ids and segment ids. A pair that is too long loses tokens at its ends, the longer side first."""
        room, first, second = self._room(max_length, sides=2), self._pieces(texts), self._pieces(pairs)
        if len(first) != len(second):
            raise ValueError(f"pairs: expected as many as texts; found {len(first)} texts and {len(second)} pairs")
        ids, types = [], []
        for a, b in zip(first, second, strict=True):
            # If both sides are cut, an odd token goes to the longer, or to the second of equals, as in `tokenizers`.
            keep_a = min(len(a), max(room - len(b), (room + (len(a) > len(b))) // 2))
            a, b = a[:keep_a], b[: room - keep_a]
            ids.append([self.cls_token_id, *a, self.sep_token_id, *b, self.sep_token_id])
            types.append([0] * (len(a) + 2) + [1] * (len(b) + 1))
        return ids, types

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Each id's token in the vocabulary; "##s" continues the word before it."""
        return [self._tokenizer.id_to_token(number) for number in ids]

    def lengths(self, texts: Texts, pairs: Texts | None = None) -> list[int]:
        """How many tokens each text, or pair, has before it is cut, [CLS] and [SEP] included."""
        uncut = self.ids(texts, sys.maxsize) if pairs is None else self.pair_ids(texts, pairs, sys.maxsize)[0]
        return [len(row) for row in uncut]

    def pad(self, ids: Sequence[Sequence[int]], token_type_ids: Sequence[Sequence[int]] | None = None) -> Batch:
        """B rows of ids -> a batch as wide as the longest. Segment ids are 0 unless given."""
        width = max(map(len, ids), default=0)

        def tensor(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
            padded = [[*row, *[filler] * (width - len(row))] for row in rows]
            return torch.tensor(padded, dtype=torch.int64).reshape(len(ids), width)  # (B, T), also for B = 0

        mask = tensor([[1] * len(row) for row in ids], 0).bool()  # (B, T)
        types = torch.zeros_like(mask, dtype=torch.int64) if token_type_ids is None else tensor(token_type_ids, 0)
        return Batch(input_ids=tensor(ids, self.pad_token_id), attention_mask=mask, token_type_ids=types)

    def _pieces(self, texts: Texts) -> Rows:
        """Each text's ids without [CLS] and [SEP], uncut."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        for row, text in enumerate(texts):
            check_text(f"texts[{row}]", text)
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _room(self, max_length: int | None, sides: int) -> int:
        """The number of tokens left for the texts after [CLS] and one [SEP] for each side."""
        limit, least = self.max_length if max_length is None else max_length, 1 + 2 * sides
        if limit < least:
            raise ValueError(f"max_length: expected at least {least} ([CLS], a token and [SEP] a text); found {limit}")
        return limit - 1 - sides


def read_folder(folder: Path) -> tuple[Tokenizer, int]:
    """A folder's tokenizer and its max_length. Raises CheckpointError where it is not BERT's kind."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    try:
        if (folder / "tokenizer.json").exists():
            tokenizer = Tokenizer.from_str(read_plain(folder / "tokenizer.json").decode())
        else:  # one token per line; not splitlines(), which also splits at characters that are tokens
            text = read_plain(folder / "vocab.txt").decode().replace("\r\n", "\n")
            tokens = text.removesuffix("\n").split("\n")
            vocab = {token: number for number, token in enumerate(tokens)}
            tokenizer = Tokenizer.from_str(BertWordPieceTokenizer(vocab).to_str())
        if settings.get("tokenizer_class") not in GENERIC_CLASSES:
            arguments = {}
            for name, (argument, default) in SETTINGS.items():
                value = settings.get(name)
                arguments[argument] = default if value is None else value
            tokenizer.normalizer = normalizers.BertNormalizer(**arguments)
        max_length = int(min(settings.get("model_max_length") or MAX_LENGTH, MAX_LENGTH))
    except Exception as error:  # the library raises nothing narrower
        expected = "tokenizer.json or vocab.txt, and fitting values in tokenizer_config.json"
        raise CheckpointError(f"{folder}: expected {expected}; found others ({error}); fetch them anew") from None
    if "word_tokenizer_type" in settings:  # BertJapaneseTokenizer
        found = f"word_tokenizer_type {settings['word_tokenizer_type']!r}"
        raise CheckpointError(f"{path}: expected BERT's own way to part words; found {found}; take another model")
    kinds = [type(part).__name__ for part in (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model)]
    found = kinds + [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is not None]
    expected = ["BertNormalizer", "BertPreTokenizer", "WordPiece", *SPECIAL_TOKENS]
    if found != expected:
        raise CheckpointError(f"{folder}: expected {expected}; found {found}; take the files that belong to the model")
    if not tokenizer.normalizer.clean_text:  # BERT's always does, and a saved model could not say otherwise
        raise CheckpointError(
            f"{folder}: expected a normalizer that cleans texts; found clean_text false; correct that"
        )
    return tokenizer, max_length
