"""The shape of a BERT, as Hugging Face's config.json writes it (Devlin et al. 2019)."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from runtime.errors import CheckpointError
from runtime.files import read_json

# Settings of config.json that change the mathematics, with the one value that this BERT computes.
SUPPORTED = {
    "model_type": "bert",
    "hidden_act": "gelu",  # the exact erf form
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass(frozen=True)
class BertConfig:
    """Sizes and dropout rates, bert-base-uncased's by default. Raises ValueError where they do not fit together."""

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
            low = 0 if field.name == "pad_token_id" else 1
            high = 1000 if field.name == "num_hidden_layers" else 10**7
            if field.type is int and not (type(value) is int and low <= value <= high):
                raise ValueError(f"{field.name}: expected a whole number from {low} to {high:,}; found {value!r:.99}")
            if field.type is float and not (type(value) in (int, float) and 0 <= value < 1):
                raise ValueError(f"{field.name}: expected a number from 0, below 1; found {value!r:.99}")
        heads, size = self.num_attention_heads, self.hidden_size
        if size % heads:
            raise ValueError(f"hidden_size: expected a multiple of num_attention_heads ({heads}); found {size}")

    @classmethod
    def from_json(cls, path: str | Path) -> "BertConfig":
        """Read a config.json. Keys that change nothing here (id2label, torch_dtype, ...) are ignored.

        Raises CheckpointError where a value would change the mathematics, or a size is missing or impossible.
        """
        raw = read_json(Path(path))
        defaults = {field.name: None if field.name in REQUIRED else field.default for field in fields(cls)}
        try:
            for name, supported in SUPPORTED.items():
                if (value := raw.get(name, supported)) != supported:
                    expected = f"{supported!r}, which is all that this BERT computes"
                    raise ValueError(f"{name}: expected {expected}; found {value!r:.99}")
            return cls(**{name: raw.get(name, default) for name, default in defaults.items()})
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; take the model's own config.json, or another model") from None

    def to_json(self) -> str:
        """The text of a config.json that transformers reads as the same model."""
        # A rate of 0 as 0.0: transformers refuses whole numbers.
        values = {field.name: field.type(getattr(self, field.name)) for field in fields(self)}
        return json.dumps({"architectures": ["BertModel"], **SUPPORTED, "dtype": "float32", **values}, indent=2) + "\n"
