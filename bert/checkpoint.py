"""A Hugging Face folder <-> a BertModel: one table of names, strict, and no pickle that can run code."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bert.errors import CheckpointError

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


def weights_file(folder: Path) -> Path:
    """model.safetensors, else pytorch_model.bin. Raises CheckpointError where neither is there."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder}: expected model.safetensors or pytorch_model.bin; found neither; give a folder that has one"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, by the names in it."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable weights file ({error}); fetch it again") from None
    refusal = f"{path}: expected names and tensors alone; found damage or other things; take a model.safetensors"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)  # refuses a pickle that calls anything
    except Exception as error:  # damaged pickles raise of any kind; torch's text would advise to run this one
        raise CheckpointError(refusal) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise CheckpointError(refusal)
    return weights


def standard_names(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Undo the variants of older checkpoints: a `bert.` prefix, LayerNorm gamma/beta; pass over `cls.*` heads."""
    heads = sorted(name for name in weights if name.startswith("cls."))
    if heads:
        print(f"{path}: passed over {len(heads)} pre-training head tensors: {', '.join(heads)}", file=sys.stderr)
    standard = {}
    for name, value in weights.items():
        if name in heads:
            continue
        name = name.removeprefix("bert.")
        if name == "embeddings.position_ids":  # the numbers 0..511, not a weight
            continue
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name in standard:
            raise CheckpointError(f"{path}: two tensors mean {name}; fetch the file again")
        standard[name] = value
    return standard


def check_fit(
    expected: dict[str, Tensor],
    found: dict[str, Tensor],
    path: Path,
    advice: str = "check config.json beside it",
) -> None:
    """See that tensors fit a model in names, shapes and kind.

    Args:    expected, found: tensors by the same kind of name.
             path: the file of `found`; advice: what to do where they do not fit. Both are for the error alone.
    Raises:  CheckpointError naming what is missing, unexpected, of another shape or quantised (five of each).
    """
    faults = [
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
        (
            "wrong shape",
            [
                f"{name} (expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)})"
                for name in expected
                if name in found and expected[name].shape != found[name].shape
            ],
        ),
        ("not floating-point", [f"{name} ({x.dtype})" for name, x in found.items() if not x.is_floating_point()]),
    ]
    told = [
        f"{len(names)} {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for what, names in faults
        if names
    ]
    if told:
        raise CheckpointError(f"{path}: the weights do not fit the model: {'; '.join(told)}; {advice}")


def load_folder(model: nn.Module, folder: Path) -> None:
    """Replace every weight of `model` by the folder's, as float32. Raises CheckpointError and changes nothing else."""
    path = weights_file(folder)
    found = standard_names(read_weights(path), path)
    check_fit(to_hugging_face(model.state_dict()), found, path)
    # cat copies: the file's pages stay mapped otherwise, and training would read them while the file may be replaced.
    # float comes first: cat refuses some mixtures of dtypes.
    parts = {ours: [found[theirs] for theirs in hugging_face_names(ours)] for ours in model.state_dict()}
    state = {name: torch.cat([value.float() for value in values]) for name, values in parts.items()}
    model.load_state_dict(state, assign=True)


def save_folder(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors with Hugging Face's names; the tokenizer saves itself beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    write_tensors(folder / "model.safetensors", to_hugging_face(model.state_dict()))


def write_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """A safetensors file that transformers reads. Not by save_file, which hides it from the user's group."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
