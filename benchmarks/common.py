"""What the benchmarks share: real text, us and the peers in turn, and a line of JSON for each figure."""

import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bert.hub import resolve
from runtime.settings import OptionParser


def parser(description: str) -> OptionParser:
    options = OptionParser(description)
    options.add_argument("--check", action="store_true", help="exit 1 where a ratio falls short of its bar")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return options


def timing_parser(description: str) -> OptionParser:
    """With the options of all benchmarks that time work on texts."""
    options = parser(description)
    options.add_argument("--checkpoint", default="minilm", help="the model's source (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=5, help="of each measurement (default: %(default)s)")
    options.add_argument(
        "--data_dir", type=Path, help="the course's files (default: the downloaded ones, else the sample)"
    )
    return options


def in_turn(actions: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each action in each round, A B C A B C ..., after one round that does not count."""
    seconds = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for name, action in actions.items():
            gc.collect()
            synchronize(device)
            began = time.perf_counter()
            action()
            synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def quotient(above: list[float], below: list[float]) -> float:
    """The median of the rounds' quotients: a drift of the machine is in both sides of each."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


class Report:
    """Prints each figure, and remembers those that fell short of their bar."""

    def __init__(self):
        self.short: list[str] = []

    def figure(
        self,
        name: str,
        ours: float,
        peer: float | None,
        ratio: float,
        at_least: float = 0,
        at_most: float = math.inf,
        **more: object,
    ) -> None:
        """One line of JSON.

        Args: at_least, at_most: the bar for the ratio.
              more: further keys of the line; limit: what the hardware allows, in the unit of `ours`.
        """
        bar = f">= {at_least}" if at_least else f"<= {at_most}" if at_most < math.inf else None
        line = {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "bar": bar, **more}
        rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in line.items()}
        print(json.dumps(rounded), flush=True)
        if not at_least <= ratio <= at_most:
            self.short.append(f"{name}: {ratio:.3g}, the bar {bar}")

    def exit_code(self, check: bool) -> int:
        for line in self.short:
            print(f"short of its bar: {line}", file=sys.stderr)
        return int(check and bool(self.short))


class Products:
    """Matrix products of minilm's feed-forward size, timed in turn with the rest: what the hardware can do."""

    COUNT, ROWS, SIZES = 20, 4096, (384, 1536)
    flops = COUNT * 2 * ROWS * SIZES[0] * SIZES[1]

    def __init__(self, dtype: torch.dtype, device: str):
        shapes = ((self.ROWS, self.SIZES[0]), self.SIZES, (self.ROWS, self.SIZES[1]))
        self.a, self.b, self.out = (torch.randn(shape, device=device).to(dtype) for shape in shapes)

    def __call__(self) -> None:
        for _ in range(self.COUNT):
            torch.mm(self.a, self.b, out=self.out)


def transformers_model(source: str | Path, attention: str) -> torch.nn.Module:
    """transformers' BERT in float32, whatever the weights' precision, without messages. Only peers need the import."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return AutoModel.from_pretrained(resolve(source), attn_implementation=attention, add_pooling_layer=False).float()


def encoder_flops(config, lengths: list[int]) -> int:
    """Multiplications and additions of one forward pass's matrix products over texts of these lengths, unpadded."""
    size = config.hidden_size
    weights = 4 * size * size + 2 * size * config.intermediate_size
    return config.num_hidden_layers * sum(2 * n * weights + 4 * n * n * size for n in lengths)
