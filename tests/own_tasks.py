"""For tests: a user's own tasks, with files and TOML file; made up from templates, so that they can be learnt."""

import csv
import json
import random
from itertools import product
from pathlib import Path

WHO, WHAT = ("man", "woman", "dog", "cat", "people"), ("film", "story", "guitar", "money", "way", "letter")
MOODS = ("bad", "dull", "old", "new", "good", "great", "best")  # the scale of urgency, 1 to 7
TOPICS = {"animals": ("dog", "cat"), "music": ("guitar",), "people": ("man", "woman", "people")}
TOML = """\
[tasks.nli]
kind = "classes"
texts = ["premise", "hypothesis"]
label = "gold"
classes = ["entailment", "neutral", "contradiction"]
train = "nli-train.jsonl"
dev = "nli-dev.jsonl"
test = "nli-test.jsonl"
id = "uid"
metric = "macro_f1"

[tasks.urgency]
kind = "score"
range = [1, 7]
texts = ["body"]
label = "urgency"
train = "mail.csv"
dev = 0.1
batch_size = 7

[tasks.topics]
texts = ["body"]
label = "topics"
train = "topics-train.jsonl"
dev = "topics-dev.jsonl"
loss_scale = 0.5

[tasks.mood]
texts = ["body"]
label = "mood"
train = "mood.tsv"
dev = 0.25
"""


def write_rows(path: Path, rows: list[dict]) -> Path:
    """In the format of the file's ending; lists only in .jsonl."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def nli_rows(draw: random.Random) -> list[dict]:
    """200 rows, each premise once; what the hypothesis adds or denies gives the label away."""
    premises = list(product(("old", "new", "good", "bad"), WHO, ("plays", "gets", "makes"), WHAT))
    rows = []
    for number, (adjective, who, verb, what) in enumerate(draw.sample(premises, 200)):
        gold = ("entailment", "neutral", "contradiction")[number % 3]
        hypothesis = {
            "entailment": f"a {who} {verb} the {what}",
            "neutral": f"the {who} {verb} the {what} with my {draw.choice(WHO)}",
            "contradiction": f"the {who} does not {verb[:-1]} the {what}",
        }[gold]
        premise = f"the {adjective} {who} {verb} the {what}"
        rows.append({"uid": f"nli/{number}", "premise": premise, "hypothesis": hypothesis, "gold": gold})
    return rows


def make_own_tasks(folder: str | Path) -> Path:
    """Write nli (three classes of pairs; 140, 40 and 20 rows), urgency (scores from 1 to 7), topics (any of three
    labels) and mood (two classes), and tasks.toml, whose path is returned. Always the same bytes."""
    folder, draw = Path(folder), random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    nli = nli_rows(draw)
    unlabelled = [{key: value for key, value in row.items() if key != "gold"} for row in nli[180:]]
    for split, rows in (("train", nli[:140]), ("dev", nli[140:180]), ("test", unlabelled)):
        write_rows(folder / f"nli-{split}.jsonl", rows)
    scenes = draw.sample(list(product(WHO, WHAT, MOODS)), 210)
    bodies = [f"the {who} has a {what} , and it is {mood} !" for who, what, mood in scenes]
    urgency = [MOODS.index(mood) + 1 for _, _, mood in scenes]
    write_rows(folder / "mail.csv", [{"body": b, "urgency": u} for b, u in zip(bodies, urgency, strict=True)][:70])
    topics = [[name for name, words in TOPICS.items() if {*words} & {*scene}] for scene in scenes]
    topics = [{"body": body, "topics": names} for body, names in zip(bodies, topics, strict=True)]
    write_rows(folder / "topics-train.jsonl", topics[:60])
    write_rows(folder / "topics-dev.jsonl", topics[60:80])
    moods = ["glad" if score > 4 else "sad" for score in urgency]
    write_rows(folder / "mood.tsv", [{"body": b, "mood": m} for b, m in zip(bodies, moods, strict=True)][80:160])
    path = folder / "tasks.toml"
    path.write_text(TOML, encoding="utf-8")
    return path
