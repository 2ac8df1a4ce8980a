"""A Hugging Face folder <-> a BertModel: one table of names, strict, and no pickle that can run code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import CheckpointError, say
from runtime.files import read_tensors, write_tensors

# Our module names -> Hugging Face's; weight and bias follow the module.
NAMES = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
}
LAYER_NAMES = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward_in": "intermediate.dense",
    "feed_forward_out": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
QUERY_KEY_VALUE = ["attention.self.query", "attention.self.key", "attention.self.value"]  # ours are one, in this order


def hugging_face_names(name: str) -> list[str]:
    """layers.3.feed_forward_in.bias -> [encoder.layer.3.intermediate.dense.bias]; of query_key_value, three names."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("layers."):
        return [f"{NAMES[module]}.{kind}"]
    _, number, part = module.split(".", 2)
    parts = QUERY_KEY_VALUE if part == "attention.query_key_value" else [LAYER_NAMES[part]]
    return [f"encoder.layer.{number}.{part}.{kind}" for part in parts]


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict, by Hugging Face's names."""
    named = ((hugging_face_names(name), value) for name, value in state.items())
    return {theirs: part for names, value in named for theirs, part in zip(names, value.chunk(len(names)), strict=True)}


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A folder's weights file, model.safetensors before pytorch_model.bin, and its tensors. Raises CheckpointError."""
    path = folder / "model.safetensors"
    if path.is_file():
        return path, read_tensors(path)
    path = folder / "pytorch_model.bin"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)  # refuses a pickle that calls anything
        if not all(isinstance(name, str) and isinstance(x, Tensor) for name, x in weights.items()):
            raise TypeError("other things than names and tensors")
    except Exception as error:  # damaged pickles raise of any kind; torch's text would advise to run this one
        raise CheckpointError(
            f"{folder}: expected model.safetensors, or a pytorch_model.bin of names and tensors alone; found neither; "
            "take a model.safetensors"
        ) from error
    return path, weights


def standard_names(weights: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors by BertModel's names, and the names of all others, which are heads.

    Undone are DataParallel's prefix `module.`, the prefix `bert.` of models with a head, LayerNorm gamma and beta.
    """
    standard, others = {}, []
    for name, value in weights.items():
        new = name.removeprefix("module.").removeprefix("bert.")
        new = new.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if new == "embeddings.position_ids":  # the numbers 0..511, not a weight
            continue
        if not new.startswith(("embeddings.", "encoder.", "pooler.")):
            others.append(name)
        elif new in standard:
            raise CheckpointError(f"{path}: two tensors mean {new}; fetch the file again")
        else:
            standard[new] = value
    return standard, sorted(others)


def check_fit(
    expected: dict[str, Tensor], weights: dict[str, Tensor], path: Path, advice: str = "see that config.json fits it"
) -> None:
    """See that tensors fit a model in names, shapes and kind, and are finite in float32.

    Args:    expected, weights: tensors by the same kind of name.
             path: the file of `weights`; advice: what to do where they do not fit. Both are for the error alone.
    Raises:  CheckpointError naming what does not fit, five of each kind.
    """
    shapes = {name: (tuple(x.shape), tuple(weights[name].shape)) for name, x in expected.items() if name in weights}
    faults = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "wrong shape": [f"{name} (expected {a}, found {b})" for name, (a, b) in shapes.items() if a != b],
        "not floating-point": [f"{name} ({x.dtype})" for name, x in weights.items() if not x.is_floating_point()],
        "NaN or infinite": [
            name for name, x in weights.items() if x.numel() and not all(map(torch.isfinite, x.float().aminmax()))
        ],
    }
    listed = [
        f"{len(names)} {fault}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for fault, names in faults.items()
        if names
    ]
    if listed:
        raise CheckpointError(f"{path}: the weights do not fit the model: {'; '.join(listed)}; {advice}")


def load_folder(model: nn.Module, folder: Path) -> None:
    """Replace every weight of a BertModel by the folder's, as float32; its pooler by None where the folder has none.

    What the file has beside the encoder, and a pooler that it lacks, are named on stderr.
    Raises: CheckpointError; the model is as it was.
    """
    path, weights = read_weights(folder)
    weights, heads = standard_names(weights, path)
    has_pooler = any(name.startswith("pooler.") for name in weights)
    names = [name for name in model.state_dict() if has_pooler or not name.startswith("pooler.")]
    check_fit(to_hugging_face({name: model.state_dict()[name] for name in names}), weights, path)
    if heads:
        say(f"{path}: not used: {len(heads)} tensors outside the encoder: {', '.join(heads)}")
    if not has_pooler:
        say(f"{path}: not there: pooler.dense.weight, pooler.dense.bias; the model has no pooler_output")
        model.pooler = None
    parts = {name: [weights[theirs] for theirs in hugging_face_names(name)] for name in names}
    # float comes first: cat refuses some mixtures of dtypes.
    model.load_state_dict({name: torch.cat([x.float() for x in xs]) for name, xs in parts.items()}, assign=True)


def save_folder(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors with Hugging Face's names; the tokenizer saves itself beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    write_tensors(folder / "model.safetensors", to_hugging_face(model.state_dict()))
