"""A Hugging Face folder <-> a BertModel: one table of names, strict, and no pickle that can run code."""

import io
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bert.lora import whole_state
from runtime.errors import CheckpointError, say
from runtime.files import MAX_TENSOR_BYTES, read_plain

# Parts of our names -> Hugging Face's, replaced in this order.
NAMES = {
    "embeddings.word.": "embeddings.word_embeddings.",
    "embeddings.position.": "embeddings.position_embeddings.",
    "embeddings.token_type.": "embeddings.token_type_embeddings.",
    "embeddings.norm.": "embeddings.LayerNorm.",
    "layers.": "encoder.layer.",
    "attention.output.": "attention.output.dense.",
    "attention_norm.": "attention.output.LayerNorm.",
    "feed_forward_in.": "intermediate.dense.",
    "feed_forward_out.": "output.dense.",
    "feed_forward_norm.": "output.LayerNorm.",
    "pooler.": "pooler.dense.",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file of tensors that do not overlap in memory. Not atomic: call it inside new_folder."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # Not by save_file: it makes a file that the user's group cannot read, and hides why a write failed.
    path.write_bytes(safetensors.torch.save(whole, metadata={"format": "pt"}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises CheckpointError."""
    try:
        # Not by load_file: it would take a signal for damage, and it reads pages only when they are used.
        return safetensors.torch.load(read_plain(path, MAX_TENSOR_BYTES))
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); copy it anew or take another") from None


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict with Hugging Face's names, sharing memory; query_key_value is split into its three parts."""
    renamed = {}
    for name, value in state.items():
        for part, replacement in NAMES.items():
            name = name.replace(part, replacement)
        if "query_key_value" in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[name.replace("query_key_value", f"self.{part}")] = third
        else:
            renamed[name] = value
    return renamed


def standard_name(name: str) -> str:
    """The name without the prefixes of DataParallel and of models with a head; gamma and beta as weight and bias."""
    name = name.removeprefix("module.").removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's model.safetensors, else of its pytorch_model.bin."""
    if (folder / "model.safetensors").is_file():
        return read_tensors(folder / "model.safetensors")
    try:  # weights_only refuses a pickle that calls anything
        content = io.BytesIO(read_plain(folder / "pytorch_model.bin", MAX_TENSOR_BYTES))
        weights = torch.load(content, map_location="cpu", weights_only=True)
        if not all(isinstance(name, str) and isinstance(x, Tensor) for name, x in weights.items()):
            raise TypeError("other things than names and tensors")
    except Exception as error:  # a damaged pickle can raise anything; torch's text would advise running it
        expected = "model.safetensors, or a pytorch_model.bin of names and tensors alone"
        found = "neither" if isinstance(error, FileNotFoundError) else "a pytorch_model.bin, damaged or with more in it"
        raise CheckpointError(f"{folder}: expected {expected}; found {found}; take a model.safetensors") from error
    return weights


def check_fit(expected: dict[str, Tensor], weights: dict[str, Tensor], path: Path, advice: str) -> None:
    """Check that tensors fit a model in names, shapes and kind, and are finite in float32.

    Args:    expected, weights: tensors by name; both use the same naming.
             path: the source of `weights`; advice: what to do if they do not fit. Both are only for the error's text.
    Raises:  CheckpointError that names what does not fit, at most five tensors for each fault.
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
    listed = [f"{len(names)} {fault}: {', '.join(names[:5])}" for fault, names in faults.items() if names]
    if listed:
        raise CheckpointError(f"{path}: the weights do not fit the model: {'; '.join(listed)}; {advice}")


def load_folder(model: nn.Module, folder: Path) -> None:
    """Replace every weight of a BertModel by the folder's, as float32; its pooler by None where the folder has none.

    Tensors outside the encoder, which are not used, and a missing pooler are named on stderr.
    Raises: CheckpointError; the model is then unchanged.
    """
    stored = read_weights(folder)
    weights = {standard_name(name): value for name, value in stored.items()}
    if len(weights) < len(stored):
        raise CheckpointError(f"{folder}: expected each tensor once; found two of one standard name; fetch it anew")
    weights.pop("embeddings.position_ids", None)  # the numbers 0..511
    heads = sorted(name for name in weights if not name.startswith(("embeddings.", "encoder.", "pooler.")))
    weights = {name: value for name, value in weights.items() if name not in heads}
    has_pooler = any(name.startswith("pooler.") for name in weights)
    state = {name: x for name, x in model.state_dict().items() if has_pooler or not name.startswith("pooler.")}
    check_fit(to_hugging_face(state), weights, folder, advice="see that config.json fits them")
    if heads:
        say(f"{folder}: not used: {len(heads)} tensors outside the encoder: {', '.join(heads)}")
    if not has_pooler:
        say(f"{folder}: missing: pooler.dense.weight, pooler.dense.bias; the model has no pooler_output")
        model.pooler = None
    model.to_empty(device="cpu").float()
    for name, value in to_hugging_face(model.state_dict()).items():
        value.copy_(weights[name])


def save_folder(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors with Hugging Face's names; LoRA's matrices are added to the weights. The
    tokenizer's files are not written here: it has a `save` of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    write_tensors(folder / "model.safetensors", to_hugging_face(whole_state(model)))
