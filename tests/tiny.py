"""For tests, made in milliseconds: a tiny random BERT, two layers over 61 words, in a folder of Hugging Face layout,
and a few dozen rows in the course's format."""

import random
from pathlib import Path

import torch

from bert import BertConfig, BertModel, BertTokenizer
from bert.checkpoint import save_folder
from data.tasks import TASKS

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", "!", "'", "##s", "##ed", "##ing"),
    *("the", "a", "an", "i", "my", "it", "you", "to", "of", "in", "on", "for", "and", "with", "not", "very"),
    *("is", "are", "was", "do", "does", "can", "have", "get", "make", "learn", "play", "walk", "what", "how"),
    *("film", "story", "money", "dog", "cat", "man", "woman", "people", "guitar", "way", "day"),
    *("good", "best", "great", "bad", "dull", "new", "old"),
]
CONFIG = BertConfig(
    vocab_size=len(WORDS),  # 61
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=37,
    max_position_embeddings=131,
    initializer_range=0.2,  # ten times BERT's: with so few dimensions, sentences would be too much alike
)
TEXTS = [
    "the film was very good !",
    "a dull story , and a bad film",
    "how do i learn to play the guitar ?",
    "what is the best way to learn the guitar ?",
    "a man is walking the dog",
    "dog",
    "zebras",  # unknown
    "",
    "the old man and the woman have money , and the people play with the dogs and the cats in the new film !",
]


def make_bert_folder(path: str | Path, seed: int = 0) -> Path:
    """Write config.json, model.safetensors and the tokenizer's files; the weights are a function of the seed alone."""
    path = Path(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(CONFIG)
        with torch.no_grad():
            for parameter in model.parameters():  # biases and LayerNorms too, so that a mix-up of two would show
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_folder(model, path)
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    BertTokenizer.from_pretrained(path).save(path)
    return path


def make_data_folder(path: str | Path, seed: int = 0) -> Path:
    """Write the course's files, a few dozen rows of random words; their odd rows too.

    Rows: 23, 31, 17 and 19 of sst, para, sts and cfimdb in train, about half in dev and test. In para's dev file, the
    second row has no label and the third no second sentence; sst's first test row is empty, and its file has two junk
    columns.
    """
    path, draw = Path(path), random.Random(seed)
    path.mkdir(parents=True, exist_ok=True)
    for name, task in TASKS.items():
        for split, share in (("train", 1), ("dev", 2), ("test", 2)):
            rows = []
            for number in range({"sst": 23, "para": 31, "sts": 17, "cfimdb": 19}[name] // share):
                label = round(draw.uniform(*task.range), 3) if task.range else draw.randint(0, len(task.classes) - 1)
                row = {"id": f"{name}-{split}-{number}", task.label: f"{float(label)}"}
                row |= {column: " ".join(draw.choices(WORDS[13:], k=draw.randint(1, 9))) for column in task.texts}
                if split == "test":
                    del row[task.label]
                rows.append(row)
            if (name, split) == ("para", "dev"):
                rows[1][task.label] = rows[2]["sentence2"] = ""
            if (name, split) == ("sst", "test"):
                rows[0]["sentence"] = ""
                rows = [{"": "7", "index": "7", **row} for row in rows]
            lines = ["\t".join(row) for row in (rows[0], *(row.values() for row in rows))]
            (path / task.files[split]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
