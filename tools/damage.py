"""For tools/abuse.py: the files that each try begins with, and random damage to a file."""

import json
import os
import random
import re
import shutil
import struct
from pathlib import Path

from tools.soak import make_bert_folder, make_data_folder, train
from training.checkpoint import describe

THEIRS = "theirs/notes.txt theirs/best/mine theirs/.tmp-notes.2024 new/mine.txt new/.lock run/.tmp-best.x run/notes.txt"
THEIRS += " run/checkpoints/mine run/predictions/mine.csv"
TOML = '[tasks.mine]\ntexts = ["sentence"]\nlabel = "sentiment"\ntrain = "data/mine.tsv"\ndev = 0.3\nid = "id"\n'
ABSURD = json.loads(r"""[-99, -1, 0, 1, 1.5, 1e300, 1e-300, 4e18, NaN, Infinity, true, null, [], {}, [[1]],
    "", " ", "x", "../../up", "1_0", "nan", "mean", "\u001b]0;x\u0007", "\u202e\u200b", "\ud800", "\u0000"]""")
ABSURD += [10**400, -(10**400), "a" * 5000]
DAMAGES = "json json json json word bytes cut deep link loose zero pipe folder huge"


def make_home(home: Path) -> None:
    """Write the folder that each try copies: a model, data, a user's task, two finished runs, other files."""
    make_bert_folder(home / "bert")
    shutil.copy(make_data_folder(home / "data") / "ids-sst-train.csv", home / "data" / "mine.tsv")
    (home / "own.toml").write_text(TOML)
    assert all(train(home, home / name, "--max_steps", 2, "--eval_every", 1) == 0 for name in ("run", "other"))
    for path in map(home.joinpath, THEIRS.split()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (home / "link").symlink_to("theirs")


def damage_json(content: object, draw: random.Random) -> object:
    """The content with one value, at any depth, made absurd or deleted."""
    if not isinstance(content, dict | list) or not content or draw.random() < 0.2:
        return draw.choice(ABSURD)
    key = draw.choice([*content]) if isinstance(content, dict) else draw.randrange(len(content))
    content[key] = damage_json(content[key], draw)
    if draw.random() < 0.1:
        del content[key]
    return content


def damaged_header(path: Path, content: bytes, draw: random.Random) -> bytes:
    """The content with `damage_json` done to the header of a safetensors file, the first line of a log, or all."""
    if path.suffix == ".safetensors":
        end = 8 + struct.unpack("<Q", content[:8])[0]
        header = json.dumps(damage_json(json.loads(content[8:end]), draw)).encode()
        return struct.pack("<Q", len(header)) + header + content[end:]
    end = content.find(b"\n{") + 1 or len(content)
    return json.dumps(damage_json(json.loads(content[:end]), draw)).encode() + b"\n" + content[end:]


def damage(path: Path, draw: random.Random) -> str:
    """Damage a plain file at random. Returns a description."""
    kind, content, manifest = draw.choice(DAMAGES.split()), path.read_bytes(), path.with_name("MANIFEST.json")
    at, words = draw.randrange(len(content) + 1), re.split(rb"([\s,=]+)", content)
    words[draw.randrange(len(words))] = str(draw.choice(ABSURD)).encode(errors="surrogatepass")
    made = {"bytes": content[:at] + draw.randbytes(3) + content[at + 2 :], "cut": content[:at], "deep": b"[" * 10**5}
    if kind == "json" and path.suffix in (".json", ".jsonl", ".safetensors") and content:
        made[kind] = damaged_header(path, content, draw)
    path.unlink()
    links = {"link": Path.cwd() / "theirs/notes.txt", "loose": Path.cwd() / "x", "zero": "/dev/zero"}
    if kind in links:
        path.symlink_to(links[kind])
    elif kind in ("pipe", "folder"):
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    else:
        path.write_bytes(made.get(kind, b"".join(words)))
        os.truncate(path, 2**42 if kind == "huge" else path.stat().st_size)
        if manifest.is_file() and path != manifest and kind != "huge":  # its sha256 is right, as if on purpose
            listed = json.loads(manifest.read_text())
            listed["files"][path.name] = describe(path)
            manifest.write_text(json.dumps(listed))
    return f"{kind} of {path}"
