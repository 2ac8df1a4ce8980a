"""Sentences a second into vectors: ours against sentence-transformers and transformers; minilm, real questions.

    python -m benchmarks.encode [--check] [--device cuda] [--checkpoint DIR] [--data_dir DIR] [--sentences N]

Needs the extra: pip install -e '.[test]'
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import normalize

from benchmarks.common import Products, Report, encoder_flops, in_turn, quotient, timing_parser, transformers_model
from bert.hub import resolve
from bert.precision import DTYPES, autocast, resolve_precision
from data import find_data_dir
from data.reader import read
from data.tasks import TASKS
from heads import MultitaskBert
from runtime.errors import run_cli


class Transformers:
    """AutoModel in its fastest arrangement: sorted by length, batches of 64, one autocast, mean of the last layer."""

    def __init__(self, folder: Path, attention: str, amp: str, device: str):
        from transformers import AutoTokenizer  # here, so that the rest can be imported without it

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = transformers_model(folder, attention).to(device).eval()
        self.device, self.amp = torch.device(device), amp

    @torch.no_grad()  # in inference_mode autocast would not keep the weights that it casts
    def encode(self, texts: list[str]) -> torch.Tensor:
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        vectors = torch.empty(len(texts), self.model.config.hidden_size)
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            tokens = self.tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt").to(self.device)
            with autocast(self.device, self.amp):
                states = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None]
            means = (states.float() * mask).sum(1) / mask.sum(1)
            vectors[rows] = normalize(means, dim=1).cpu()
        return vectors


def questions(folder: Path | None, count: int) -> list[str]:
    """The first `count` different questions of the paraphrase task."""
    task = TASKS["para"]
    folder = folder or find_data_dir([task])[0]
    rows = [row for split in ("dev", "train") for row in read(task, split, folder).examples]
    return list(dict.fromkeys(text for row in rows for text in row.texts if text))[:count]


def sentence_transformers(folder: Path, device: str) -> Callable[[list[str]], object]:
    """The library's own `encode`, as it comes, in float32."""
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(folder), device=device).float()
    return lambda texts: library.encode(texts, show_progress_bar=False, normalize_embeddings=True)


def main(argv: list[str] | None = None) -> int:
    options = timing_parser(__doc__)
    options.add_argument("--sentences", type=int, default=1536, help="different questions (default: %(default)s)")
    args = options.parse_args(argv)
    texts, folder = questions(args.data_dir, args.sentences), resolve(args.checkpoint)
    amp = resolve_precision("auto", torch.device(args.device))
    ours = MultitaskBert.from_pretrained(folder).to(args.device)
    library = sentence_transformers(folder, args.device)
    peers = {
        f"transformers {attention} {kind}": Transformers(folder, attention, kind, args.device)
        for attention in ("eager", "sdpa")
        for kind in dict.fromkeys(("off", amp))
    }
    actions = {
        "ours": lambda: ours.encode(texts, pooling="mean", layer=-1, normalize=True, amp=amp),
        "sentence-transformers": lambda: library(texts),
        **{name: lambda peer=peer: peer.encode(texts) for name, peer in peers.items()},
    }
    reference = torch.as_tensor(actions["sentence-transformers"]())
    for name, action in actions.items():
        error = (torch.as_tensor(action()) - reference).abs().max().item()
        assert error < 0.05, f"{name} computes something else: it is off by {error}"
    products = Products(DTYPES.get(amp, torch.float32), args.device)
    seconds = in_turn({**actions, "products": products}, args.rounds, args.device)

    lengths = [len(ids) for ids in ours.tokenizer.ids(texts, max_length=ours.max_length)]
    share = encoder_flops(ours.bert.config, lengths) / products.flops
    seconds["limit"] = [share * time for time in seconds.pop("products")]
    rate = {name: len(texts) / statistics.median(times) for name, times in seconds.items()}
    report = Report()
    setting = {"limit": rate["limit"], "unit": "sentences/s", "sentences": len(texts), "precision": amp}
    quickest = max(peers, key=rate.get)
    for name in [name for name in actions if name != "ours"]:
        bar = 1.3 if name == quickest and amp == "bf16" else 0  # 0: no bar
        ratio = quotient(seconds[name], seconds["ours"])
        report.figure(f"encode / {name}", rate["ours"], rate[name], ratio, bar, **setting)
    ratio = quotient(seconds["limit"], seconds["ours"])
    report.figure("encode / limit: matrix products", rate["ours"], None, ratio, 0.6, **setting)
    return report.exit_code(args.check)


if __name__ == "__main__":
    sys.exit(run_cli(main))
