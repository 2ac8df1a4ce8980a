"""The shape of a BERT, as Hugging Face's config.json writes it (Devlin et al. 2019)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from runtime.errors import CheckpointError
from runtime.files import read_json

# Settings of config.json that change the mathematics, with the one value that this BERT computes.
ONLY = {
    "model_type": "bert",
    "hidden_act": "gelu",  # the exact erf form
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


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
        for fault in faults_in(vars(self)):
            raise ValueError(fault)
        for field in fields(self):
            if field.type == "float":  # transformers refuses to read a rate written as 0
                object.__setattr__(self, field.name, float(getattr(self, field.name)))

    @classmethod
    def from_json(cls, path: str | Path) -> BertConfig:
        """Read a config.json. Keys that change nothing here (id2label, torch_dtype, ...) are passed over.

        Raises CheckpointError where a value would change the mathematics, or a size is missing or impossible.
        """
        raw = read_json(Path(path))
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        faults = [f"{name}: expected a value; found none" for name in ("model_type", *sizes) if name not in raw]
        faults += [
            f"{name}: expected {value!r}, which is all that this BERT computes; found {raw[name]!r}"
            for name, value in ONLY.items()
            if raw.get(name, value) != value
        ]
        values = {field.name: raw.get(field.name, field.default) for field in fields(cls)}
        faults += faults_in(values)
        if faults:
            raise CheckpointError(f"{path}: {faults[0]}; take the model's own config.json, or another model")
        return cls(**values)

    def to_json(self) -> str:
        """The text of a config.json that transformers reads as the same model."""
        return json.dumps({"architectures": ["BertModel"], **ONLY, "dtype": "float32", **asdict(self)}, indent=2) + "\n"


def faults_in(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a config's values."""
    for field in fields(BertConfig):
        value, whole = values[field.name], field.type == "int"
        low = 0 if not whole or field.name == "pad_token_id" else 1
        high = 1 if "dropout" in field.name else 2**63  # torch's largest size
        kind_fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not kind_fits or not low <= value < high:
            expected = f"a {'whole number' if whole else 'number'} from {low}, below {high}"
            yield f"{field.name}: expected {expected}; found {value!r}"
            return
    heads = values["num_attention_heads"]
    if values["hidden_size"] % heads:
        yield f"hidden_size: expected a multiple of num_attention_heads ({heads}); found {values['hidden_size']}"
