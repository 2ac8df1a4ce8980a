"""The settings of pooling and heads, which the model, its files and its inference import."""

from dataclasses import dataclass

from runtime.errors import UsageError
from runtime.settings import negative_int, positive_int, rate, setting

ARCHITECTURES = ("v1", "v2", "v3a", "v3b")
POOLINGS = ("cls", "mean", "attention_mean", "cnn")


@dataclass(frozen=True)
class HeadsConfig:
    """How the model goes on from the encoder. Raises UsageError (a ValueError) for a name or number out of range.

    Of what was tried with minilm the defaults did best on dev (docs/results.md). The paper has attention_mean of layer
    -2, and a dropout of 0.65 or 0.7, which was not tried.
    """

    arch: str = setting("v3a", "the paper's architecture", usual=True, choices=ARCHITECTURES)
    pooling: str = setting("mean", "from tokens to a vector (default: mean; cls for v1)", usual=True, choices=POOLINGS)
    layer: int = setting(-1, "layer that is pooled: -1 the last, -2, ...", negative_int, metavar="N")
    hidden_dropout_prob: float = setting(0.3, "dropout of the heads", rate, metavar="X")
    max_length: int = setting(128, "most tokens of a sentence; longer ones are cut", positive_int, metavar="N")

    def __post_init__(self):
        for name, fits, expected in (
            ("arch", self.arch in ARCHITECTURES, f"one of {', '.join(ARCHITECTURES)}"),
            ("pooling", self.pooling in POOLINGS, f"one of {', '.join(POOLINGS)}"),
            ("pooling", self.arch != "v1" or self.pooling == "cls", "cls (v1 stands on cls; v2 takes others)"),
            ("layer", self.layer <= -1, "-1 (the last), -2, ..."),
            ("hidden_dropout_prob", 0 <= self.hidden_dropout_prob < 1, "a rate in [0, 1)"),
            ("max_length", self.max_length >= 3, "at least 3 ([CLS], a token, [SEP])"),
        ):
            if not fits:
                raise UsageError(f"--{name}: expected {expected}; found {getattr(self, name)!r}")
