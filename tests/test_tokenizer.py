"""bert/tokenizer.py against the `tokenizers` library and transformers, on a small vocabulary of our own."""

import itertools
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
from bert.tokenizer import Batch
from runtime.errors import CheckpointError

WORDS = [
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),  # not bert-base-uncased's places
    *("the", "film", "is", "un", "##believ", "##able", "##s", "good", "bad", "cafe", "café", "Good", "!", ",", "."),
    *("中", "文", "中文", "שלום", "مرحبا", "😀", "\u2028", "é", "##e", "a", "##a", "b", "##b", "[", "]", "se", "##p"),
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


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize("max_length", [5, 6, 8, 11, 512])
def test_a_batch_is_transformers_batch(tokenizer, reference, max_length):
    cut = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
    assert_same(tokenizer(TEXTS, max_length=max_length), reference(TEXTS, **cut))
    assert_same(tokenizer(TEXTS, TEXTS[::-1], max_length), reference(TEXTS, TEXTS[::-1], **cut))
    assert_same(tokenizer(TEXTS[0], max_length=max_length), reference([TEXTS[0]], **cut))


@pytest.mark.fault(36)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(5, 53))
def test_pairs_are_cut_like_transformers_and_neither_side_vanishes(reference, tokenizer, a, b, max_length):
    texts, pairs = [" ".join("a" * a)], [" ".join("b" * b)]
    theirs = reference(texts, pairs, truncation="longest_first", max_length=max_length, return_tensors="pt")
    assert_same(batch := tokenizer(texts, pairs, max_length), theirs)
    kept = [int((batch.input_ids == WORDS.index(word)).sum()) for word in "ab"]
    assert sum(kept) == min(a + b, max_length - 3) and all(kept[i] or not n for i, n in enumerate((a, b)))


@pytest.mark.fault(36)
def test_lengths_are_those_before_the_cut(tokenizer):
    assert tokenizer.lengths(["a", "a a a", "", "a " * 700]) == [3, 5, 2, 702]
    assert tokenizer.lengths(["a", "a b"], ["b", "b b b"]) == [5, 8]
    assert tokenizer.lengths([]) == [] and tokenizer.lengths("a b") == [4]


def test_the_models_own_length_is_the_default(tmp_path, tokenizer):
    assert tokenizer("a " * 600).input_ids.shape == tokenizer("a " * 600, "b").input_ids.shape == (1, 512)
    assert tokenizer("a " * 600, max_length=700).input_ids.shape == (1, 602)
    for given_length, expected in ((7, 7), (7.0, 7), (1e30, 512), (10**30, 512), (None, 512)):
        folder = write_vocab(tmp_path, model_max_length=given_length)
        assert BertTokenizer.from_pretrained(folder)("a " * 600).input_ids.shape == (1, expected)


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
        assert tokenizer.ids([text, other]) == [encoding.ids for encoding in library.encode_batch([text, other])]
        encoding = library.encode(text, other)
        assert tokenizer.pair_ids(text, other) == ([encoding.ids], [encoding.type_ids])

    check()


def settings_of(lower: bool | None, accents: bool | None, chinese: bool | None) -> dict:
    named = {"do_lower_case": lower, "strip_accents": accents, "tokenize_chinese_chars": chinese}
    return {name: value for name, value in named.items() if value is not None}


@pytest.mark.parametrize("kind", [None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("file", [(True, None, True), (False, None, True), (True, False, False), (False, True, False)])
def test_case_accents_and_chinese_are_treated_as_transformers_treats_them(tmp_path, kind, file):
    """Whatever tokenizer.json and tokenizer_config.json say of them, each for itself."""
    BertTokenizer.from_pretrained(write_vocab(tmp_path, **settings_of(*file))).save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    texts, seen = ["Café cafe CAFÉ good", "中文 The good Film", *TEXTS], set()
    for words in itertools.product([True, False, None], repeat=3):
        config = {**settings_of(*words), **({"tokenizer_class": kind} if kind else {})}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        ours = BertTokenizer.from_pretrained(tmp_path).ids(texts)
        assert ours == AutoTokenizer.from_pretrained(tmp_path)(texts)["input_ids"], config
        seen.add(str(ours))
    assert len(seen) == (1 if kind == "PreTrainedTokenizerFast" else 8)  # lower, accents: 4 ways; chinese: 2


def test_padding(tokenizer, tmp_path):
    for some, shape in ((tokenizer(["a", ""]), (2, 3)), (tokenizer([]), (0, 0)), (tokenizer([], []), (0, 0))):
        assert [value.dtype for value in some.values()] == [torch.int64, torch.bool, torch.int64]
        assert {value.shape for value in some.values()} == {shape}
    other = BertTokenizer.from_pretrained(write_vocab(tmp_path, [*WORDS[1:], "[PAD]"]))
    assert other(["a", ""]).input_ids[1, 2] == len(WORDS) - 1  # the vocabulary's own


def test_a_batch_is_used_as_hugging_faces(tokenizer):
    batch = tokenizer(["a b", "a"])
    assert batch.input_ids is batch["input_ids"]
    assert (lambda **names: sorted(names))(**batch) == ["attention_mask", "input_ids", "token_type_ids"]
    assert batch.places.tolist() == [0, 1, 2, 3, 4, 5, 6]  # of the real tokens, row after row; the eighth is padding
    moved = batch.to("meta")
    assert isinstance(moved, Batch) and {value.device.type for value in moved.values()} == {"meta"}
    assert moved.real == batch.real == 7  # counted before it moved: a "meta" tensor cannot be
    assert batch.input_ids.device.type == "cpu"
    assert torch.equal(pickle.loads(pickle.dumps(batch)).input_ids, batch.input_ids)
    with pytest.raises(AttributeError, match="found no labels"):
        _ = batch.labels


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda t: t(["a", "b"], ["a"]), "found 2 texts and 1 pairs"),
        (lambda t: t.lengths("a", ["a", "b"]), "found 1 texts and 2 pairs"),
        (lambda t: t("a", max_length=2), "max_length: expected at least 3 .*found 2"),
        (lambda t: t("a", "b", max_length=4), "max_length: expected at least 5 .*found 4"),
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


@pytest.mark.parametrize("cased", [False, True])
def test_what_it_saves_loads_everywhere(tmp_path, cased):
    source = write_vocab(tmp_path / "source", do_lower_case=not cased, strip_accents=False, model_max_length=17)
    ours, saved = BertTokenizer.from_pretrained(source), tmp_path / "new" / "saved"
    ours.save(saved)
    assert (saved / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    again, theirs = BertTokenizer.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    assert again.max_length == theirs.model_max_length == 17
    assert theirs.pad_token_id == ours.pad_token_id and theirs.mask_token_id == WORDS.index("[MASK]")
    assert_same(ours(TEXTS, TEXTS), theirs(TEXTS, TEXTS, padding=True, truncation=True, return_tensors="pt"))
    pairs = Tokenizer.from_file(str(saved / "tokenizer.json")).encode_batch([(text, text) for text in TEXTS])
    assert ([pair.ids for pair in pairs], [pair.type_ids for pair in pairs]) == ours.pair_ids(TEXTS, TEXTS)
    again.save(tmp_path / "again")
    for path in saved.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    (saved / "tokenizer.json").unlink()  # vocab.txt and the settings are enough
    assert again.ids(TEXTS) == BertTokenizer.from_pretrained(saved).ids(TEXTS) == ours.ids(TEXTS)


def test_odd_lines_of_a_vocab(tmp_path, tokenizer):
    """CRLF; a token that str.splitlines() would break in two; equal lines, which keep their numbers."""
    write_vocab(tmp_path)
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(WORDS).encode())
    assert BertTokenizer.from_pretrained(tmp_path).ids(TEXTS) == tokenizer.ids(TEXTS)
    doubled = BertTokenizer.from_pretrained(write_vocab(tmp_path, [*WORDS, "good", "film"]))
    assert doubled.ids("good") == [[3, len(WORDS), 4]] and doubled.vocab_size == len(WORDS) + 2
    doubled.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "vocab.txt").read_text(encoding="utf-8").count("\n") == len(WORDS) + 2


UNCLEANED = BertWordPieceTokenizer({word: number for number, word in enumerate(WORDS)}, clean_text=False)


def tokenizer_json(**parts) -> bytes:
    """A BERT tokenizer's file with some parts replaced or left out."""
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": {}}
    return json.dumps({"version": "1.0", "model": {**model, "max_input_chars_per_word": 100}, **parts}).encode()


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        *(("tokenizer.json", x, "found others") for x in (b"{", b"[" * 100_000, b"\xff\xfe")),
        ("tokenizer.json", tokenizer_json(normalizer={"type": "Lowercase"}), "'BertNormalizer', .* found .'Lowercase'"),
        ("tokenizer.json", tokenizer_json(), "found .'NoneType', 'NoneType', 'WordPiece'.; take"),
        ("tokenizer.json", tokenizer_json(model={"type": "BPE", "vocab": {}, "merges": []}), "found .* 'BPE'.; take"),
        *(("vocab.txt", x, "found others") for x in (b"\xff\n", None)),  # None: no file at all
        ("vocab.txt", "\n".join(WORDS).replace("[MASK]", "[mask]").encode(), r"MASK.*; found .*SEP\]'\]; take"),
        ("tokenizer.json", UNCLEANED.to_str().encode(), "clean_text false"),  # which a saved model could not say
        ("tokenizer_config.json", b'{"word_tokenizer_type": "mecab"}', "word_tokenizer_type 'mecab'"),  # Japanese
        ("tokenizer_config.json", b"{", "expected a JSON object"),
        ("tokenizer_config.json", b'{"do_lower_case": "no"}', "found others .*'str'"),
        ("tokenizer_config.json", b'{"strip_accents": 1}', "found others .*'int'"),
        ("tokenizer_config.json", b'{"model_max_length": "x"}', "found others .*'str'"),
        ("tokenizer_config.json", b'{"model_max_length": NaN}', "found others .*NaN"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, text):
    write_vocab(tmp_path, tokenizer_class="PreTrainedTokenizerFast")  # which takes tokenizer.json as it stands
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=text) as error:
        BertTokenizer.from_pretrained(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_minilm(minilm, tmp_path):
    """Its file asks for padding, and a cut at 128."""
    ours, theirs = BertTokenizer.from_pretrained(minilm), AutoTokenizer.from_pretrained(minilm)
    texts = [*TEXTS, "Hello, world! naïve façade 東京 " * 40]
    assert (ours.vocab_size, ours.max_length, ours.cls_token_id, ours.sep_token_id) == (30522, 512, 101, 102)
    for max_length in (50, 400):
        cut = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
        assert_same(ours(texts, texts[::-1], max_length=max_length), theirs(texts, texts[::-1], **cut))
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    assert BertTokenizer.from_pretrained(tmp_path).ids(texts) == ours.ids(texts)
    ours.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "vocab.txt").read_bytes() == (minilm / "vocab.txt").read_bytes()
