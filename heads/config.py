"""The settings of what stands on the encoder, below the model, its files and its inference."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import UsageError
from runtime.settings import negative_int, positive_int, rate, setting

ARCHITECTURES = ("v1", "v2", "v3a", "v3b")
POOLINGS = ("cls", "mean", "attention_mean", "cnn")


@dataclass(frozen=True)
class HeadsConfig:
    """What stands on the encoder. Raises UsageError (a ValueError) for a name or number out of range.

    The defaults did best on dev with minilm; the paper has attention_mean of layer -2 and a dropout of 0.65 or 0.7.
    """

    arch: str = setting("v3a", "the paper's architecture", choices=ARCHITECTURES)
    pooling: str = setting("mean", "how tokens make a sentence vector (default: mean; cls for v1)", choices=POOLINGS)
    layer: int = setting(-1, "to pool: -1 the last, -2, ...", negative_int)
    hidden_dropout_prob: float = setting(0.3, "dropout of the heads; BERT keeps its checkpoint's", rate)
    max_length: int = setting(128, "tokens of a sentence; longer ones are cut and counted", positive_int)

    def __post_init__(self):
        for name, allowed in (("arch", ARCHITECTURES), ("pooling", POOLINGS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"--{name}: expected one of {', '.join(allowed)}; found {getattr(self, name)!r}")
        if self.arch == "v1" and self.pooling != "cls":
            raise UsageError(f"--pooling: v1 stands on cls; found {self.pooling!r}; take v2 for other poolings")
        if not 0 <= self.hidden_dropout_prob < 1:
            raise UsageError(f"--hidden_dropout_prob: expected a rate in [0, 1); found {self.hidden_dropout_prob}")
        if self.layer > -1:
            raise UsageError(f"--layer: expected -1 (the last), -2, ...; found {self.layer}")
        if self.max_length < 3:
            raise UsageError(f"--max_length: expected at least 3 ([CLS], a token, [SEP]); found {self.max_length}")
