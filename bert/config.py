"""The shape of a BERT, as Hugging Face's config.json writes it (Devlin et al. 2019)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bert.errors import CheckpointError

# Settings of config.json that change the mathematics, with the one value that this BERT computes.
ONLY = {
    "model_type": "bert",
    "hidden_act": "gelu",  # the exact erf form
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
ADVICE = "take the config.json that belongs to the model"


@dataclass(frozen=True)
class BertConfig:
    """Sizes and dropout rates; the defaults are bert-base-uncased's.

    Raises ValueError where the sizes do not fit together.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                expected = "a whole number" if whole else "a number"
                raise ValueError(f"{field.name}: expected {expected}; found {value!r}")
            low = 0 if not whole or field.name == "pad_token_id" else 1
            if not low <= value < 2**63:  # torch's largest size
                raise ValueError(f"{field.name}: expected at least {low} and below 2^63; found {value!r}")
            if not whole:
                object.__setattr__(self, field.name, float(value))  # transformers refuses to read a rate written as 0
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected a rate in [0, 1); found {getattr(self, name)!r}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size: expected a multiple of num_attention_heads ({self.num_attention_heads}); "
                f"found {self.hidden_size}"
            )
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id: expected below vocab_size {self.vocab_size}; found {self.pad_token_id}")

    @classmethod
    def from_json(cls, path: str | Path) -> BertConfig:
        """Read a config.json. Keys that change nothing here (id2label, torch_dtype, ...) are passed over.

        Raises CheckpointError where a value would change the mathematics, or a size is missing.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: expected a readable JSON file; found {error}; {ADVICE}") from None
        if not isinstance(raw, dict) or "model_type" not in raw:
            raise CheckpointError(f"{path}: expected a JSON object with model_type 'bert'; found none; {ADVICE}")
        for name, value in ONLY.items():
            if raw.get(name, value) != value:
                raise CheckpointError(
                    f"{path}: {name}: this BERT computes {value!r} only; found {raw[name]!r}; choose another model"
                )
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        missing = [name for name in sizes if name not in raw]
        if missing:
            raise CheckpointError(f"{path}: {', '.join(missing)} missing; {ADVICE}")
        try:
            return cls(**{field.name: raw[field.name] for field in fields(cls) if field.name in raw})
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; {ADVICE}") from None

    def to_json(self) -> str:
        """The text of a config.json that transformers reads as the same model."""
        return json.dumps({"architectures": ["BertModel"], **ONLY, "dtype": "float32", **asdict(self)}, indent=2) + "\n"
