"""LoRA (Hu et al. 2022): a layer's weights stay as they are, and a product of two thin matrices is trained beside them.

    y = x W^T + b + 2 (x A^T) B^T        W: (out, in), frozen; A: (r, in), normal; B: (out, r), from 0

The factor is the paper's alpha / r with alpha = 2 r. The paper changes only the attention's query and value; here it is
every Linear of the layers, which Dettmers et al. 2023 found to matter. Query, key and value share one A, because they
are one Linear. W + 2 B A is a weight like any other, so that is what is saved and what predictions use.
"""

import math

import torch
from torch import Tensor, nn

from runtime.errors import UsageError

SCALE = 2.0


class LowRankLinear(nn.Linear):
    """A Linear plus a product of two thin matrices, which alone is trained. At first it computes what `layer` does."""

    def __init__(self, layer: nn.Linear, rank: int):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.down = nn.Linear(layer.in_features, rank, bias=False)  # A
        self.up = nn.Linear(rank, layer.out_features, bias=False)  # B
        nn.init.normal_(self.down.weight, std=1 / math.sqrt(layer.in_features))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return super().forward(x) + self.up(SCALE * self.down(x))

    @torch.no_grad()
    def whole_weight(self) -> Tensor:
        """(out, in): W + 2 B A"""
        return self.weight + SCALE * self.up.weight @ self.down.weight


def add_low_rank(model: nn.Module, rank: int) -> None:
    """Freeze a BertModel, and add new trainable matrices of this rank to each Linear of its layers.

    Raises UsageError (a ValueError) for a rank below 1 or above the hidden size.
    """
    size = model.config.hidden_size
    if not 1 <= rank <= size:
        raise UsageError(f"--lora: expected a rank from 1 to {size}, the width of the model; found {rank}")
    model.requires_grad_(False)
    for layer in model.layers:
        for part in [*layer.modules()]:
            for name, child in part.named_children():
                if isinstance(child, nn.Linear):
                    setattr(part, name, LowRankLinear(child, rank))


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A BertModel's state dict without entries for LoRA's matrices: they are added to their weights."""
    state = model.state_dict()
    for name, layer in model.named_modules():
        if isinstance(layer, LowRankLinear):
            state[f"{name}.weight"] = layer.whole_weight()
            del state[f"{name}.down.weight"], state[f"{name}.up.weight"]
    return state
