"""Writes data/sample/: a small synthetic corpus in the course's format, so that everything runs offline.

    python -m tools.make_sample [--output_dir data/sample]

They are the same bytes on every Python from 3.10 on: every draw is one of a private random.Random's, and no set is ever
iterated over. The words are in sample_words.py. What may be combined with what (a frame with a thing, a question with
its fill, an action with its object) is dealt out to train, dev and test first, so that dev and test ask for
combinations that were never trained on.
"""

import csv
import re
import sys
from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import NamedTuple

from data import SAMPLE_DIR
from data.tasks import TASKS
from runtime.errors import run_cli
from runtime.settings import OptionParser
from tools import sample_words as words

SIZES = {"train": 480, "dev": 120, "test": 100}  # rows of each task
PARAPHRASE_RATE = 0.37  # as in the course's own files
SEED = 0
DRAFTS = 4  # a negative pair takes the most similar of this many other questions


# ------------------------------------------------------------------------------------------------------- small helpers
class Concept(NamedTuple):
    group: str  # the text of its group: concepts of one group are alike
    names: tuple[str, ...]


def concepts(text: str) -> list[Concept]:
    """Parse a word list as sample_words.py describes it: "a|b, c; d" -> three concepts in two groups."""
    return [
        Concept(group.strip(), tuple(name.strip() for name in entry.split("|")))
        for group in text.split(";")
        for entry in group.split(",")
    ]


def deal(rng: Random, groups: list[list]) -> dict[str, list[list]]:
    """Shuffle each group of cards and cut it into one hand per split: split -> a hand of every group."""
    hands: dict[str, list[list]] = {split: [] for split in SIZES}
    for group in groups:
        cards = list(group)
        rng.shuffle(cards)
        one, two = round(0.6 * len(cards)), round(0.8 * len(cards))
        for split, hand in zip(SIZES, (cards[:one], cards[one:two], cards[two:]), strict=True):
            hands[split].append(hand)
    return hands


def pick(rng: Random, concept: Concept, seen: str, fresh: bool) -> str:
    """A name of the concept, if possible one that `seen` does not use (fresh) or does use (not fresh)."""
    return rng.choice([name for name in concept.names if (name.lstrip("+~") in seen) != fresh] or concept.names)


def closest(drafts: list[str], text: str) -> str:
    """The draft that shares the most words with the text."""
    return max(drafts, key=lambda draft: len({*draft.split()} & {*text.split()}))


def sentence(text: str) -> str:
    """A draft -> an English sentence: single spaces, "a" or "an", a capital at the start."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b([Aa]) (?=[aeiou])(?!one\b|univ)", r"\1n ", text)
    return text[0].upper() + text[1:]


# ----------------------------------------------------------------------------------------------------- sentiment (sst)
def write_opinion(rng: Random, frame: str, thing: dict) -> str:
    """Fill a frame of OPINIONS with words about one thing, none of them twice."""
    used: list[str] = []

    def draw(options: str) -> str:
        word = rng.choice([name for concept in concepts(options) for name in concept.names if name not in used])
        used.append(word)
        return word

    noun = draw(thing["names"])

    def fill(slot: re.Match) -> str:
        name, level = slot[1], int(slot[2] or 0)
        if name == "noun":
            return noun
        if name == "adj":
            return draw(words.ADJECTIVES[level])
        if name == "reaction":
            return draw(words.REACTIONS[thing["kind"]][level])
        if name == "clause":
            sides = [(kind, side) for kind, text in thing["sides"].items() for side in text.split(", ")]
            kind, side = rng.choice([pair for pair in sides if pair[1] not in used])
            used.append(side)
            return f"{side.lstrip('+')} {'are' if side[0] == '+' else 'is'} {draw(words.PREDICATES[kind][level])}"
        return draw(thing[{"detail": "details", "fact": "facts"}.get(name, name)])

    return sentence(re.sub(r"\{(\w+?)([+-]?\d)?\}", fill, frame))


def make_sst(rng: Random) -> dict[str, list[tuple]]:
    """Rows (sentence, sentiment 0..4), the five labels equally often."""
    hands = deal(rng, [list(product(words.OPINIONS[label], words.THINGS)) for label in range(5)])
    rows: dict[str, list[tuple]] = {}
    label_of: dict[str, int] = {}  # of all splits: two things may share a side, and so a sentence
    for split, size in SIZES.items():
        start = len(label_of)
        while len(label_of) < start + size:
            turn, label = divmod(len(label_of), 5)
            hand = hands[split][label]
            label_of.setdefault(write_opinion(rng, *hand[turn % len(hand)]), label)
        rows[split] = list(label_of.items())[start:]
        rng.shuffle(rows[split])
    return rows


# ---------------------------------------------------------------------------------------------------- paraphrase (para)
class Question(NamedTuple):
    topic: int
    intent: int
    fill: tuple[Concept, ...]  # {x}, or {x} and {y}


def all_questions() -> list[list[Question]]:
    """Every question that can be asked, by topic; {x} and {y} of one list in one order only."""
    groups = []
    for number, topic in enumerate(words.QUESTIONS):
        if "order" in topic:
            fills = list(combinations(concepts(topic["x"]), 2))
        else:
            fills = list(product(*(concepts(topic[name]) for name in ("x", "y") if name in topic)))
        groups.append([Question(number, *pair) for pair in product(range(len(topic["intents"])), fills)])
    return groups


def ask(rng: Random, question: Question, frame: int, seen: str = "", fresh: bool = True) -> str:
    text = words.QUESTIONS[question.topic]["intents"][question.intent][frame]
    return sentence(text.format(**dict(zip("xy", (pick(rng, c, seen, fresh) for c in question.fill), strict=False))))


def turned(question: Question) -> Question:
    return question._replace(fill=question.fill[::-1])


def ask_another(rng: Random, question: Question, frame: int, first: str, hands: list[list[Question]]) -> str:
    """A question with another meaning than `first`, mostly one that looks much like it."""
    if words.QUESTIONS[question.topic].get("order") == "matters" and rng.random() < 0.5:
        return ask(rng, turned(question), frame if rng.random() < 0.5 else rng.randrange(3), first, fresh=False)
    fills = (question.fill, question.fill[::-1])
    near = [q for q in hands[question.topic] if (q.intent == question.intent) != (q.fill in fills)]
    if near and rng.random() < 0.9:  # another intent or another fill, not both
        return closest([ask(rng, rng.choice(near), rng.randrange(3), first, fresh=False) for _ in range(DRAFTS)], first)
    far = rng.choice([hand for hand in hands if hand is not hands[question.topic]])
    return ask(rng, rng.choice(far), rng.randrange(3))


def make_para(rng: Random) -> dict[str, list[tuple]]:
    """Rows (question, question, "0.0" or "1.0")."""
    hands = deal(rng, all_questions())
    rows: dict[str, list[tuple]] = {}
    for split, size in SIZES.items():
        label_of: dict[tuple[str, str], str] = {}
        while len(label_of) < size:
            same = len(label_of) < round(PARAPHRASE_RATE * size)
            one = rng.choice(rng.choice(hands[split]))
            order = words.QUESTIONS[one.topic].get("order")
            if order and rng.random() < 0.5:
                one = turned(one)
            frame = rng.randrange(3)
            first = ask(rng, one, frame)
            if same:
                two = turned(one) if order == "free" and rng.random() < 0.5 else one
                second = ask(rng, two, (frame + 1 + rng.randrange(2)) % 3, first, fresh=True)
            else:
                second = ask_another(rng, one, frame, first, hands[split])
            if (second, first) not in label_of:
                label_of.setdefault((first, second), "1.0" if same else "0.0")
        rows[split] = [(*pair, label) for pair, label in label_of.items()]
        rng.shuffle(rows[split])
    return rows


# ---------------------------------------------------------------------------------------------------- similarity (sts)
class Scene(NamedTuple):
    """Who does what, where and how: what a sentence of the similarity task says."""

    topic: int
    act: Concept  # its group holds its opposite
    what: Concept
    who: Concept | None
    where: Concept | None = None
    how: Concept | None = None
    negated: bool = False


class Card(NamedTuple):
    """What train, dev and test may not share: an action (with its opposite) and its object, or its two participants."""

    topic: int
    act: str
    things: tuple[Concept, ...]


# Slot -> how much it counts, how much of that two different concepts of one group keep, and how much is kept where only
# one sentence fills the slot. An action's group is its opposite: CONTRADICTION then takes most of the score away.
SLOTS = {"act": (3, 0.7, 0), "what": (3, 0.4, 0), "who": (2, 0.4, 0), "where": (1.5, 0.4, 0.5), "how": (1, 0.4, 0.3)}
CONTRADICTION, OTHER_TOPIC, NOISE = 0.4, 0.3, 0.25


def similarity(a: Scene, b: Scene) -> float:
    """From 0 (nothing in common) to 5 (the same meaning), by what the two sentences say and not by how they say it."""
    agreed = total = 0.0
    exchanged = (a.who, a.what) == (b.what, b.who)
    for slot, (weight, alike, missing) in SLOTS.items():
        one, two = getattr(a, slot), getattr(b, slot)
        total += weight if one or two else 0
        if one == two:
            agreed += weight if one else 0
        elif not one or not two:
            agreed += weight * missing
        elif one.group == two.group and not exchanged:
            agreed += weight * alike
    opposite = a.act != b.act and a.act.group == b.act.group
    contradiction = opposite != (a.negated != b.negated)
    return 5 * agreed / total * (CONTRADICTION if contradiction else 1) * (1 if a.topic == b.topic else OTHER_TOPIC)


def all_cards() -> list[list[Card]]:
    """Every card, by topic."""
    groups = []
    for number, topic in enumerate(words.SCENES):
        cards = []
        for act, what in topic["acts"]:
            things = combinations(concepts(topic["who"]), 2) if what == "@who" else ((c,) for c in concepts(what))
            cards += [Card(number, act, pair) for pair in things]
        groups.append(cards)
    return groups


def draw_scene(rng: Random, card: Card) -> Scene:
    """A scene with this card's action and things; the rest is random."""
    topic = words.SCENES[card.topic]
    act = rng.choice(concepts(card.act.replace("<>", ",")))
    what, *who = card.things if rng.random() < 0.5 else card.things[::-1]
    if not who and "who" in topic:
        who = [rng.choice(concepts(topic["who"]))]
    where = rng.choice(concepts(topic["where"])) if rng.random() < 0.5 else None
    how = rng.choice(concepts(topic["how"])) if "how" in topic and rng.random() < 0.3 else None
    return Scene(card.topic, act, what, who[0] if who else None, where, how)


def vary(rng: Random, scene: Scene, card: Card, hands: list[list[Card]]) -> Scene:
    """Another scene: anything from the same meaning to no relation to the first."""
    if rng.random() < 0.15:
        return draw_scene(rng, rng.choice(rng.choice(hands)))
    new_card = card
    if rng.random() < 0.5:
        near = hands[card.topic]
        new_card = rng.choice([c for c in near if c.act == card.act] if rng.random() < 0.5 else near)
    other = draw_scene(rng, new_card)
    kept = {slot: getattr(scene, slot) for slot in ("where", "how") if rng.random() < 0.6}
    if new_card.act == card.act and rng.random() < 0.7:
        kept["act"] = scene.act
    if (new_card == card or len(new_card.things) == 1) and rng.random() < 0.65:
        kept |= {"who": scene.who, "what": scene.what if new_card == card else other.what}
    if rng.random() < 0.1:
        kept |= {"negated": True, "how": None}
    return other._replace(**kept)


def describe(rng: Random, scene: Scene, seen: str = "", fresh: bool = True) -> str:
    """A sentence about the scene, in words that `seen` does not use (fresh) or does use (not fresh), where possible."""
    slots = {slot: pick(rng, concept, seen, fresh) if (concept := getattr(scene, slot)) else "" for slot in SLOTS}
    verb, _, participle = slots["act"].partition("/")
    if verb.startswith("~"):
        slots["who"], slots["what"] = slots["what"], slots["who"]
    slots |= {"verb": verb.lstrip("~"), "participle": participle, "lead": ""}
    for name in ("who", "what"):
        is_, was = ("are", "were") if slots[name].startswith("+") else ("is", "was")
        slots |= {name: slots[name].lstrip("+"), f"is_{name}": is_, f"was_{name}": was}
    slots["any_what"] = re.sub("^some ", "any ", slots["what"])
    frames = words.SCENE_FRAMES[words.SCENES[scene.topic]["style"]]["negated" if scene.negated else "plain"]
    frames = [frame for frame in frames if participle or "{participle}" not in frame]
    if slots["where"] and rng.random() < 0.3:
        frames = [re.sub(r"\{lead\}(.*) \{where\}", r"{where}, \1", frame) for frame in frames]
    drafts = [sentence(frame.format(**slots).replace(" .", ".")) for frame in frames]
    rng.shuffle(drafts)
    return drafts[0] if fresh else closest(drafts, seen)


def make_sts(rng: Random) -> dict[str, list[tuple]]:
    """Rows (sentence, sentence, similarity in [0, 5]), each fifth of the range equally often.

    Close pairs tend to be worded differently and distant ones alike, so that counting shared words does not suffice.
    """
    hands = deal(rng, all_cards())
    rows: dict[str, list[tuple]] = {}
    for split, size in SIZES.items():
        label_of: dict[tuple[str, str], float] = {}
        while len(label_of) < size:
            card = rng.choice(rng.choice(hands[split]))
            one = draw_scene(rng, card)
            two = vary(rng, one, card, hands[split])
            score = similarity(one, two)
            label = round(20 * min(5.0, max(0.0, score + NOISE * (2 * rng.random() - 1)))) / 20  # steps of 0.05
            if min(int(label), 4) != len(label_of) % 5:
                continue
            first = describe(rng, one)
            second = describe(rng, two, first, fresh=rng.random() < 0.1 + 0.16 * score)
            if first != second and (second, first) not in label_of:
                label_of.setdefault((first, second), label)
        rows[split] = [(*pair, label) for pair, label in label_of.items()]
        rng.shuffle(rows[split])
    return rows


# ------------------------------------------------------------------------------------------------------------ all files
def write_files(output_dir: Path) -> None:
    """Write the nine files; those of the test split have no label."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, make in {"sst": make_sst, "para": make_para, "sts": make_sts}.items():
        rng, task = Random(f"{SEED} {name}"), TASKS[name]
        for split, rows in make(rng).items():
            columns = ["id", *task.texts] if split == "test" else ["id", *task.texts, task.label]
            with open(output_dir / task.files[split], "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="\t", lineterminator="\n")
                writer.writerow(["", *columns])
                for index, row in enumerate(rows):
                    values = [f"{rng.getrandbits(100):025x}", *row][: len(columns)]
                    writer.writerow([index, *values])


def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--output_dir", type=Path, default=SAMPLE_DIR, help="where the nine files go")
    write_files(parser.parse_args(argv).output_dir)


if __name__ == "__main__":
    sys.exit(run_cli(main))
