"""optim/split_rules.py against autograd: each rule on some rows alone."""

import pytest
import torch
from torch import nn

from optim.split_rules import RULES

IDS = torch.tensor([[3, 5, 5], [7, 0, 3], [12, 12, 1], [5, 3, 0], [2, 2, 2]])
LAYERS = [
    (nn.Linear(7, 11), (5, 7)),
    (nn.Linear(7, 11), (5, 3, 7)),
    (nn.LayerNorm(7, eps=1e-3), (5, 7)),
    (nn.LayerNorm((3, 7)), (5, 2, 3, 7)),
    (nn.Embedding(13, 7), None),
    (nn.Embedding(13, 7, padding_idx=3), None),
    (nn.Embedding(13, 7, sparse=True), None),
    (nn.Conv1d(6, 4, kernel_size=3, padding=1), (5, 6, 11)),
    (nn.Conv1d(6, 4, kernel_size=3, stride=2, dilation=2, groups=2), (5, 6, 11)),
]


def through(layer: nn.Module, size) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The layer with weights of no special value, an input, its output and a gradient for that."""
    generator = torch.Generator().manual_seed(0)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = IDS if size is None else torch.randn(size, generator=generator, dtype=torch.float64)
    y = layer(x)
    return layer, x, y, torch.randn(y.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rows", [slice(0, 5), slice(1, 3), slice(4, 5)])
@pytest.mark.parametrize(("layer", "size"), LAYERS, ids=str)
def test_a_rule_is_autograds_gradient_of_these_rows(layer, size, rows):
    layer, x, y, dy = through(layer, size)
    expected = torch.autograd.grad((y[rows] * dy[rows]).sum(), layer.parameters())
    others = slice(0, 2)
    found = {name: both[1] for name, both in RULES[type(layer)](layer, x, dy, [others, rows]).items()}
    assert found.keys() == dict(layer.named_parameters()).keys()
    for gradient, plain in zip((found[name] for name, _ in layer.named_parameters()), expected, strict=True):
        assert gradient.is_sparse == plain.is_sparse
        torch.testing.assert_close(gradient.to_dense(), plain.to_dense(), rtol=1e-12, atol=1e-12)
