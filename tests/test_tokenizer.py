"""bert/tokenizer.py against the `tokenizers` library and transformers, on a small vocabulary of our own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import AutoTokenizer, BertTokenizerFast

from bert import BertTokenizer
from bert.errors import CheckpointError
from bert.tokenizer import Batch, cut_pair

WORDS = [
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),  # not bert-base-uncased's places
    *("the", "film", "is", "un", "##believ", "##able", "##s", "good", "bad", "cafe", "café", "Good", "!", ",", "."),
    *("中", "文", "שלום", "مرحبا", "😀", "\u2028", "é", "##e", "a", "##a", "b", "##b", "[", "]", "se", "##p"),
]
TEXTS = ["the film is unbelievable!", "", "Good café, bad films.", "中文 good", "the the the the the the the", "zzz"]


def write_vocab(folder: Path, words: list[str] = WORDS, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_vocab(tmp_path_factory.mktemp("vocab") / "uncased")


@pytest.fixture
def tokenizer(folder):
    return BertTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def reference(folder):
    """transformers' own."""
    return BertTokenizerFast.from_pretrained(folder)


def assert_same(ours: Batch, theirs) -> None:
    assert set(ours) == set(theirs) == {"input_ids", "attention_mask", "token_type_ids"}
    for name in ours:
        assert torch.equal(ours[name].long(), theirs[name]), name


# ---- ids -------------------------------------------------------------------------------------------------------------


def test_known_ids(tokenizer):
    pieces = ["[CLS]", "the", "film", "is", "un", "##believ", "##able", "!", "[SEP]"]
    assert tokenizer.ids("The FILM is unbelievable!") == [[WORDS.index(piece) for piece in pieces]]
    assert tokenizer.ids(["zzz", ""]) == [[3, 2, 4], [3, 4]]
    assert tokenizer.ids([]) == []
    assert tokenizer.vocab_size == len(WORDS)
    ids = [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "cls", "sep", "mask")]
    assert ids == [0, 2, 3, 4, 5]


def test_a_batch_is_transformers_batch(tokenizer, reference):
    assert_same(tokenizer(TEXTS), reference(TEXTS, padding=True, return_tensors="pt"))
    assert_same(tokenizer(TEXTS[0]), reference([TEXTS[0]], return_tensors="pt"))


def test_pairs_and_their_segments(tokenizer, reference):
    others = TEXTS[::-1]
    batch = tokenizer(TEXTS, others)
    assert_same(batch, reference(TEXTS, others, padding=True, return_tensors="pt"))
    assert_same(tokenizer("a b", "good"), reference(["a b"], ["good"], return_tensors="pt"))
    assert tokenizer("a", "good film").token_type_ids.tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("max_length", [3, 4, 5, 8, 11])
def test_cut_like_transformers(tokenizer, reference, max_length):
    theirs = reference(TEXTS, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    assert_same(tokenizer(TEXTS, max_length=max_length), theirs)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(5, 20))
def test_pairs_are_cut_like_transformers(reference, folder, a, b, max_length):
    tokenizer = BertTokenizer.from_pretrained(folder)
    texts, pairs = [" ".join("a" * a)], [" ".join("b" * b)]
    theirs = reference(texts, pairs, truncation="longest_first", max_length=max_length, return_tensors="pt")
    assert_same(tokenizer(texts, pairs, max_length), theirs)


@pytest.mark.fault(36)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 50))
def test_a_cut_takes_from_the_longer_side(a, b, room):
    keep_a, keep_b = cut_pair(a, b, room)
    assert keep_a + keep_b == min(a + b, room)
    assert 0 <= keep_a <= a and 0 <= keep_b <= b
    assert (keep_a or not a) and (keep_b or not b)  # neither side vanishes
    if keep_a < a:
        assert keep_a >= keep_b - 1
    if keep_b < b:
        assert keep_b >= keep_a - 1


@pytest.mark.fault(36)
def test_cuts_are_counted(tokenizer):
    assert (tokenizer.truncated, tokenizer.longest) == (0, 0)
    tokenizer(["a", "a a a"], max_length=4)
    assert (tokenizer.truncated, tokenizer.longest) == (1, 5)
    tokenizer(["a", "a b"], ["b", "b b b"], max_length=6)
    assert (tokenizer.truncated, tokenizer.longest) == (2, 8)
    tokenizer("a a a", max_length=5)
    assert (tokenizer.truncated, tokenizer.longest) == (2, 8)


def test_the_models_own_length_is_the_default(tmp_path, tokenizer):
    text = "a " * 600
    assert tokenizer.max_length == 512
    assert tokenizer(text).input_ids.shape == (1, 512)
    assert tokenizer(text, text).input_ids.shape == (1, 512)
    assert tokenizer(text, max_length=700).input_ids.shape == (1, 602)
    for given_length, expected in ((7, 7), (7.0, 7), (1e30, 512), (10**30, 512), (None, 512)):
        short = BertTokenizer.from_pretrained(write_vocab(tmp_path / "short", model_max_length=given_length))
        assert short(text).input_ids.shape == (1, expected)


# ---- any text --------------------------------------------------------------------------------------------------------

ODD = ["##", "sep", "\0", "\ufffd", "\u200f", "\u0301", "\t", "\r\n", "\xa0", "é", "🏳️‍🌈", "한글", "İ"]
ANY_TEXT = st.lists(st.sampled_from([*WORDS, *ODD]) | st.text(max_size=8), max_size=12).map("".join)


@pytest.mark.fault(38)
@pytest.mark.parametrize("cased", [False, True])
def test_ids_are_those_of_the_library_for_any_text(tmp_path, cased):
    """Emoji, CJK, right-to-left, control characters, and special tokens written out."""
    folder = write_vocab(tmp_path / "any", do_lower_case=not cased)
    tokenizer = BertTokenizer.from_pretrained(folder)
    library = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=not cased)

    @given(ANY_TEXT, ANY_TEXT)
    @example("[SEP]", "[CLS] [sep] [MASK]")
    @example("a\0b\ufffdc\u200b", "x" * 101)
    def check(text, other):
        batch = tokenizer([text, other])
        for row, encoding in enumerate(library.encode_batch([text, other])):
            assert batch.input_ids[row][batch.attention_mask[row]].tolist() == encoding.ids
        batch = tokenizer(text, other)
        encoding = library.encode(text, other)
        assert batch.input_ids.tolist() == [encoding.ids]
        assert batch.token_type_ids.tolist() == [encoding.type_ids]

    check()


@pytest.mark.parametrize(
    "config",
    [
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"strip_accents": None},
    ],
)
def test_the_settings_of_tokenizer_config(tmp_path, config):
    folder = write_vocab(tmp_path, **config)
    ours = BertTokenizer.from_pretrained(folder)
    theirs = BertTokenizerFast.from_pretrained(folder)
    assert_same(ours(TEXTS), theirs(TEXTS, padding=True, return_tensors="pt"))


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_padding(tokenizer):
    batch = tokenizer.pad([[3, 8, 4], [3, 4]])
    assert batch.input_ids.tolist() == [[3, 8, 4], [3, 4, 0]]
    assert batch.attention_mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert {name: value.dtype for name, value in batch.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.bool,
        "token_type_ids": torch.int64,
    }
    assert tokenizer.pad([[3, 8, 4], [3, 4]], [[0, 1, 1], [1, 1]]).token_type_ids.tolist() == [[0, 1, 1], [1, 1, 0]]


def test_padding_uses_the_vocabularys_own_pad(tmp_path):
    tokenizer = BertTokenizer.from_pretrained(write_vocab(tmp_path, [*WORDS[1:], "[PAD]"]))
    assert tokenizer(["a", ""]).input_ids[1, 2] == len(WORDS) - 1


def test_no_texts(tokenizer):
    for batch in (tokenizer([]), tokenizer([], [])):
        assert {name: tuple(value.shape) for name, value in batch.items()} == dict.fromkeys(batch, (0, 0))
        assert batch.input_ids.dtype == torch.int64 and batch.attention_mask.dtype == torch.bool


def test_a_batch_is_used_as_hugging_faces(tokenizer):
    batch = tokenizer(["a b", "a"])
    assert batch.input_ids is batch["input_ids"]
    assert (lambda **names: sorted(names))(**batch) == ["attention_mask", "input_ids", "token_type_ids"]
    moved = batch.to("meta")
    assert isinstance(moved, Batch) and {value.device.type for value in moved.values()} == {"meta"}
    assert batch.input_ids.device.type == "cpu"
    assert torch.equal(pickle.loads(pickle.dumps(batch)).input_ids, batch.input_ids)
    with pytest.raises(AttributeError, match="found no labels"):
        _ = batch.labels


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda t: t(["a", "b"], ["a"]), "found 2 texts and 1 pairs"),
        (lambda t: t("a", ["a", "b"]), "found 1 texts and 2 pairs"),
        (lambda t: t("a", max_length=2), "max_length: expected at least 3 .*found 2"),
        (lambda t: t("a", "b", max_length=4), "max_length: expected at least 5 .*found 4"),
        (lambda t: t("a", max_length=-1), "found -1"),
        (lambda t: t(["a", None]), r"texts\[1\]: .*found None"),
        (lambda t: t([("a", "b")]), r"texts\[0\]"),
        (lambda t: t([b"a"]), r"texts\[0\]"),
        (lambda t: t(["a", "half \ud83d"]), r"texts\[1\]: .*UTF-8"),
    ],
)
def test_what_cannot_be_tokenized(tokenizer, call, text):
    with pytest.raises(ValueError, match=text) as error:
        call(tokenizer)
    assert "\n" not in str(error.value)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cased", [False, True])
def test_what_it_saves_loads_everywhere(tmp_path, cased):
    source = write_vocab(tmp_path / "source", do_lower_case=not cased, strip_accents=False, model_max_length=17)
    ours = BertTokenizer.from_pretrained(source)
    ours.save(tmp_path / "new" / "saved")
    saved = tmp_path / "new" / "saved"
    assert (saved / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    for again in (BertTokenizer.from_pretrained(saved), ours):
        assert_same(again(TEXTS, TEXTS[::-1]), ours(TEXTS, TEXTS[::-1]))
        assert again.max_length == 17
    theirs = AutoTokenizer.from_pretrained(saved)
    assert theirs.model_max_length == 17
    assert theirs.pad_token_id == ours.pad_token_id and theirs.mask_token_id == ours.mask_token_id
    assert_same(ours(TEXTS), theirs(TEXTS, padding=True, return_tensors="pt"))
    pairs = theirs(TEXTS, TEXTS[::-1], padding=True, truncation=True, return_tensors="pt")
    assert_same(ours(TEXTS, TEXTS[::-1]), pairs)
    library = Tokenizer.from_file(str(saved / "tokenizer.json"))
    assert [encoding.ids for encoding in library.encode_batch(TEXTS)] == ours.ids(TEXTS)
    pairs = library.encode_batch(list(zip(TEXTS, TEXTS[::-1], strict=True)))
    assert ([pair.ids for pair in pairs], [pair.type_ids for pair in pairs]) == ours.pair_ids(TEXTS, TEXTS[::-1])
    (saved / "tokenizer.json").unlink()  # vocab.txt and the settings are enough
    assert BertTokenizer.from_pretrained(saved).ids(TEXTS) == ours.ids(TEXTS)


def test_saving_twice_gives_the_same_bytes(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "a")
    BertTokenizer.from_pretrained(tmp_path / "a").save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_padding_and_cutting_in_tokenizer_json_are_switched_off(tmp_path, tokenizer):
    """As in minilm's file, which pads and cuts everything to 128."""
    tokenizer.save(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_padding(length=9)
    library.enable_truncation(4)
    library.save(str(tmp_path / "tokenizer.json"))
    again = BertTokenizer.from_pretrained(tmp_path)
    assert again.ids(TEXTS) == tokenizer.ids(TEXTS)
    again.save(tmp_path)
    written = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert written["padding"] is None and written["truncation"] is None


def test_line_ends_of_a_vocab(tmp_path, tokenizer):
    """CRLF; and a token that str.splitlines() would break in two."""
    write_vocab(tmp_path)
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(WORDS).encode())
    again = BertTokenizer.from_pretrained(tmp_path)
    assert again.ids(TEXTS) == tokenizer.ids(TEXTS)
    assert again.vocab_size == len(WORDS)


def test_equal_lines_of_a_vocab_keep_their_numbers(tmp_path):
    tokenizer = BertTokenizer.from_pretrained(write_vocab(tmp_path, [*WORDS, "good", "film"]))
    assert tokenizer.ids("good") == [[3, len(WORDS), 4]]
    assert tokenizer.vocab_size == len(WORDS) + 2
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").unlink()
    again = BertTokenizer.from_pretrained(tmp_path / "saved")
    assert again.ids(TEXTS) == tokenizer.ids(TEXTS) and again.vocab_size == tokenizer.vocab_size


NUMBERED = {word: number for number, word in enumerate(WORDS)}
MODEL = {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": NUMBERED}
NORMALIZER = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}


def tokenizer_json(model: dict | None = None, **parts) -> bytes:
    """A BERT tokenizer's file with some parts replaced."""
    file = {
        "version": "1.0",
        "normalizer": {"type": "BertNormalizer", **NORMALIZER},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", **MODEL, **(model or {})},
    }
    return json.dumps({**file, **parts}).encode()


def test_the_file_that_the_next_tests_spoil_is_good(tmp_path, tokenizer):
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    assert BertTokenizer.from_pretrained(tmp_path).ids(TEXTS) == tokenizer.ids(TEXTS)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("tokenizer.json", b"{", "expected a tokenizer's JSON"),
        ("tokenizer.json", b"", "expected a tokenizer's JSON"),
        ("tokenizer.json", b"[" * 100_000, "expected a tokenizer's JSON"),
        ("tokenizer.json", b"{}", "expected a tokenizer's JSON"),
        ("tokenizer.json", b"\xff\xfe", "expected UTF-8"),
        ("tokenizer.json", tokenizer_json({"type": "BPE", "vocab": {}, "merges": []}), "WordPiece; found BPE"),
        ("tokenizer.json", tokenizer_json(normalizer=None), "BertNormalizer; found NoneType"),
        ("tokenizer.json", tokenizer_json(pre_tokenizer={"type": "Whitespace"}), "BertPreTokenizer; found Whitespace"),
        ("tokenizer.json", tokenizer_json({"vocab": {}}), r"found no \[PAD\] \[UNK\] \[CLS\]"),
        ("tokenizer.json", tokenizer_json({"unk_token": "the"}), "found the for unknown words"),
        ("tokenizer.json", tokenizer_json({"vocab": {"the": -1}}), "expected a tokenizer's JSON"),
        ("vocab.txt", b"\xff\n", "expected UTF-8"),
        ("vocab.txt", b"", r"found no \[PAD\]"),
        ("vocab.txt", "\n".join(WORDS).replace("[MASK]", "[mask]").encode(), r"found no \[MASK\]"),
        ("tokenizer_config.json", b"{", "expected JSON"),
        ("tokenizer_config.json", b"[" * 100_000, "expected JSON"),
        ("tokenizer_config.json", b"[]", "expected a JSON object; found list"),
        ("tokenizer_config.json", b"\xff", "expected UTF-8"),
        ("tokenizer_config.json", b'{"do_lower_case": "no"}', "do_lower_case: expected true or false; found 'no'"),
        ("tokenizer_config.json", b'{"strip_accents": 1}', "strip_accents: expected true or false; found 1"),
        ("tokenizer_config.json", b'{"model_max_length": "long"}', "model_max_length: expected a number from 3"),
        ("tokenizer_config.json", b'{"model_max_length": 2}', "model_max_length: expected a number from 3; found 2"),
        ("tokenizer_config.json", b'{"model_max_length": NaN}', "expected a number from 3; found nan"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, text):
    write_vocab(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=text) as error:
        BertTokenizer.from_pretrained(tmp_path)
    told = str(error.value)
    assert told.startswith(f"{tmp_path / name}: ") and "\n" not in told and len(told) < 500


def test_no_file_at_all(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected tokenizer\.json or vocab\.txt; found neither"):
        BertTokenizer.from_pretrained(tmp_path)


# ---- the real thing --------------------------------------------------------------------------------------------------


def test_minilm(minilm, tmp_path):
    ours = BertTokenizer.from_pretrained(minilm)
    theirs = AutoTokenizer.from_pretrained(minilm)
    texts = [*TEXTS, "Hello, world! naïve façade 東京 " * 40]
    assert (ours.vocab_size, ours.max_length, ours.cls_token_id, ours.sep_token_id) == (30522, 512, 101, 102)
    assert_same(ours(texts), theirs(texts, padding=True, truncation=True, max_length=512, return_tensors="pt"))
    assert_same(
        ours(texts, texts[::-1], max_length=50),
        theirs(texts, texts[::-1], padding=True, truncation=True, max_length=50, return_tensors="pt"),
    )
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    assert BertTokenizer.from_pretrained(tmp_path).ids(texts) == ours.ids(texts)
    ours.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "vocab.txt").read_bytes() == (minilm / "vocab.txt").read_bytes()
