"""data/make_sample.py and the files that it wrote into data/sample/."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from data import SAMPLE_DIR
from data.make_sample import SIZES, all_cards, concepts, deal, draw_scene, main, sentence, similarity
from data.tasks import TASKS, file_name

NAMES = sorted(file_name(task, split) for task in TASKS for split in SIZES)


def rows(task: str, split: str, folder: Path = SAMPLE_DIR) -> list[dict[str, str]]:
    with open(folder / file_name(task, split), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def texts(task: str, split: str, folder: Path = SAMPLE_DIR) -> list[tuple[str, ...]]:
    """A row's one or two texts as the models see them: in lower case."""
    return [tuple(row[name].lower() for name in TASKS[task].texts) for row in rows(task, split, folder)]


def overlap(pair: tuple[str, ...]) -> float:
    """Jaccard index of the words of two sentences."""
    one, two = (set(re.findall(r"\w+", text)) for text in pair)
    return len(one & two) / len(one | two)


def test_generator_writes_the_committed_bytes(tmp_path):
    main(["--output_dir", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert sorted(path.name for path in SAMPLE_DIR.glob("*.csv")) == NAMES
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (SAMPLE_DIR / name).read_bytes(), name


def test_small_in_total():
    assert sum(path.stat().st_size for path in SAMPLE_DIR.iterdir()) < 400_000


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("task", TASKS)
def test_columns_and_rows(task, split):
    found = rows(task, split)
    label = [] if split == "test" else [TASKS[task].label]
    assert list(found[0]) == ["", "id", *TASKS[task].texts, *label]
    assert len(found) == SIZES[split]
    for index, row in enumerate(found):
        assert row[""] == str(index)
        assert re.fullmatch("[0-9a-f]{25}", row["id"])
        assert None not in row and None not in row.values()  # no field too many, none too few


def test_ids_are_unique_over_all_files():
    ids = [row["id"] for task in TASKS for split in SIZES for row in rows(task, split)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_labels_in_range_and_balanced(split):
    sst = Counter(row["sentiment"] for row in rows("sst", split))
    assert sst == dict.fromkeys("01234", SIZES[split] // 5)
    para = Counter(row["is_duplicate"] for row in rows("para", split))
    assert set(para) == {"0.0", "1.0"}
    assert para["1.0"] / SIZES[split] == pytest.approx(0.37, abs=0.005)
    sts = [float(row["similarity"]) for row in rows("sts", split)]
    assert all(0 <= label <= 5 for label in sts)
    assert Counter(min(int(label), 4) for label in sts) == dict.fromkeys(range(5), SIZES[split] // 5)
    assert sum(label % 1 != 0 for label in sts) > SIZES[split] / 2


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("task", TASKS)
def test_no_text_in_two_splits_and_no_row_twice(task, seed, tmp_path):
    main(["--output_dir", str(tmp_path), "--seed", str(seed)])
    owner: dict[str, str] = {}
    for split in SIZES:
        pairs = [frozenset(pair) for pair in texts(task, split, tmp_path)]  # (a, b) and (b, a) are the same pair
        assert len(set(pairs)) == len(pairs)
        assert all(len(pair) == len(TASKS[task].texts) for pair in pairs)  # a text is never paired with itself
        assert [text for pair in pairs for text in pair if owner.setdefault(text, split) != split] == []


@pytest.mark.parametrize("task", TASKS)
def test_sentences_are_well_formed(task):
    for row in (row for split in SIZES for row in rows(task, split)):
        for text in (row[name] for name in TASKS[task].texts):
            assert re.fullmatch(r"[A-Z][^{}|~+<>@]*[.?]", text), text  # no mark of the word lists is left over
            assert not re.search(r"\s\s|\s[.,;:?]|,,|\.\.", text), text
            assert not re.search(r"\b(a ([aeio]|un)|an [^aeiouh]|(\w+) \3\b)", text, re.IGNORECASE), text
    assert TASKS[task].texts == ("sentence",) or {pair[1][-1] for pair in texts(task, "train")} <= {".", "?"}


def test_counting_shared_words_does_not_solve_the_pair_tasks():
    def measured(task: str) -> list[tuple[float, float]]:
        labels = [float(row[TASKS[task].label]) for row in rows(task, "train")]
        return list(zip(map(overlap, texts(task, "train")), labels, strict=True))

    para, sts = measured("para"), measured("sts")
    assert sum(shared > 0.7 for shared, label in para if label == 0) > 60
    assert sum(shared < 0.4 for shared, label in para if label == 1) > 60
    assert sum(shared > 0.6 for shared, label in sts if label < 2.5) > 20
    assert sum(shared < 0.4 for shared, label in sts if label > 4) > 20


def test_concepts_keep_groups_and_names():
    man, woman, dog = concepts("a man|a gentleman, a woman; a dog")
    assert man.names == ("a man", "a gentleman") and woman.names == ("a woman",) and dog.names == ("a dog",)
    assert man.group == woman.group != dog.group


def test_deal_gives_each_card_to_one_split():
    groups = [list(range(101)), list(range(200, 217))]
    hands = deal(Random(3), groups)
    for number, group in enumerate(groups):
        assert sorted(card for split in SIZES for card in hands[split][number]) == group
    assert [[len(hand) for hand in hands[split]] for split in SIZES] == [[61, 10], [20, 4], [20, 3]]


@pytest.mark.parametrize(
    ("draft", "text"),
    [
        ("a  ordinary day.", "An ordinary day."),
        ("such a  university.", "Such a university."),
        ("a one-off and a idea.", "A one-off and an idea."),
    ],
)
def test_sentence_mends_articles_and_spaces(draft, text):
    assert sentence(draft) == text


def test_similarity_follows_from_the_meaning():
    rng = Random(5)
    scenes = [draw_scene(rng, card) for cards in all_cards() for card in cards]
    for one in scenes[:40]:
        assert similarity(one, one) == pytest.approx(5)
        assert similarity(one, one._replace(negated=True)) == pytest.approx(2)
        for two in scenes[::7]:
            assert 0 <= similarity(one, two) <= 5
            assert similarity(one, two) == pytest.approx(similarity(two, one))
            if one.topic != two.topic:
                assert similarity(one, two) <= 1.5
    chase = next(s for s in scenes if s.act.names[0].startswith("chasing"))._replace(where=None, how=None)
    swapped = chase._replace(who=chase.what, what=chase.who)
    other = chase._replace(what=next(s for s in scenes if s.topic != chase.topic).what)
    assert similarity(chase, swapped) < similarity(chase, other) < 5
