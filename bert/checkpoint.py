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
from runtime.files import MOST_TENSORS, check_plain, read_plain

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
    """A safetensors file of tensors that do not overlap in memory. Not atomic: for inside new_folder."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # Through bytes: the library's save_file hides the file from the user's group, and why a write failed.
    path.write_bytes(safetensors.torch.save(whole, metadata={"format": "pt"}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises CheckpointError."""
    check_plain(path)
    try:
        # Through bytes: the library's load_file would take a signal for damage, and reads its pages when they are used.
        return safetensors.torch.load(read_plain(path, MOST_TENSORS))
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); copy it anew or take another") from None


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict by Hugging Face's names, over the same memory; of query_key_value, its three parts."""
    theirs = {}
    for name, value in state.items():
        for part, replacement in NAMES.items():
            name = name.replace(part, replacement)
        if "query_key_value" in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                theirs[name.replace("query_key_value", f"self.{part}")] = third
        else:
            theirs[name] = value
    return theirs


def standard_name(name: str) -> str:
    """Without DataParallel's prefix and that of models with a head; LayerNorm's gamma and beta by today's names."""
    name = name.removeprefix("module.").removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's model.safetensors, else of its pytorch_model.bin."""
    if (folder / "model.safetensors").is_file():
        return read_tensors(folder / "model.safetensors")
    try:  # weights_only refuses a pickle that calls anything
        content = io.BytesIO(read_plain(folder / "pytorch_model.bin", MOST_TENSORS))
        weights = torch.load(content, map_location="cpu", weights_only=True)
        if not all(isinstance(name, str) and isinstance(x, Tensor) for name, x in weights.items()):
            raise TypeError("other things than names and tensors")
    except Exception as error:  # damaged pickles raise of any kind; torch's text would advise to run this one
        expected = "model.safetensors, or a pytorch_model.bin of names and tensors alone"
        raise CheckpointError(f"{folder}: expected {expected}; found neither; take a model.safetensors") from error
    return weights


def check_fit(expected: dict[str, Tensor], weights: dict[str, Tensor], path: Path, advice: str) -> None:
    """See that tensors fit a model in names, shapes and kind, and are finite in float32.

    Args:    expected, weights: tensors by the same kind of name.
             path: where `weights` are from; advice: what to do where they do not fit. Both are for the error alone.
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
    listed = [f"{len(names)} {fault}: {', '.join(names[:5])}" for fault, names in faults.items() if names]
    if listed:
        raise CheckpointError(f"{path}: the weights do not fit the model: {'; '.join(listed)}; {advice}")


def load_folder(model: nn.Module, folder: Path) -> None:
    """Replace every weight of a BertModel by the folder's, as float32; its pooler by None where the folder has none.

    What the file has beside the encoder, and a pooler that it lacks, are named on stderr.
    Raises: CheckpointError; the model is as it was.
    """
    found = read_weights(folder)
    weights = {standard_name(name): value for name, value in found.items()}
    if len(weights) < len(found):
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
        say(f"{folder}: not there: pooler.dense.weight, pooler.dense.bias; the model has no pooler_output")
        model.pooler = None
    model.to_empty(device="cpu").float()
    for name, value in to_hugging_face(model.state_dict()).items():
        value.copy_(weights[name])


def save_folder(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors with Hugging Face's names, LoRA's matrices in the weights that they are
    added to; the tokenizer saves itself beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    write_tensors(folder / "model.safetensors", to_hugging_face(whole_state(model)))
