"""For the tests of bert/: a small random BERT, of sizes as unlike as they may be, and transformers' twin of it."""

from dataclasses import asdict

import torch
import transformers
from torch import Tensor, nn
from torch.testing import assert_close

from bert import BertConfig, BertModel
from bert.checkpoint import to_hugging_face
from bert.tokenizer import Batch

CONFIG = BertConfig(
    vocab_size=41,
    hidden_size=35,  # H = 5, K = 7
    num_hidden_layers=3,
    num_attention_heads=5,
    intermediate_size=37,
    max_position_embeddings=23,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.1,  # so that the attention is not uniform
)
B, T = 11, 13
LENGTHS = [T, 1, 2, 3, 5, 7, 11, 12, T, 6, 4]
SAME = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, **SAME[ours.dtype])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Add noise to every parameter: fresh biases are 0 and fresh LayerNorms 1, so that a mix-up would not show."""
    generator = seeded(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.to(dtype)


def make_model(dtype: torch.dtype = torch.float64, config: BertConfig = CONFIG) -> BertModel:
    torch.manual_seed(0)
    return noisy(BertModel(config), dtype).eval()


def make_reference(ours: BertModel) -> transformers.BertModel:
    """transformers' model with the same weights."""
    config = transformers.BertConfig(**asdict(ours.config), attn_implementation="eager")
    theirs = transformers.BertModel(config).to(ours.pooler.weight.dtype).eval()
    theirs.load_state_dict(to_hugging_face(ours.state_dict()))
    return theirs


def fake_dropout(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
    """In place of F.dropout: drops every third element, and shows the rate in all others."""
    return x * (torch.arange(x.numel()) % 3 > 0).view(x.shape) * p if training else x


def make_mask(lengths: list[int], width: int = T) -> Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]  # (B, T)


def make_batch(mask: Tensor | None = None) -> Batch:
    """Rows of 1 to T real tokens, or this mask's, then padding of random ids; segment ids of both kinds; no [PAD]."""
    generator, mask = seeded(), make_mask(LENGTHS) if mask is None else mask
    return Batch(
        input_ids=torch.randint(1, CONFIG.vocab_size, mask.shape, generator=generator),
        attention_mask=mask,
        token_type_ids=torch.randint(0, 2, mask.shape, generator=generator),
    )


def layer_states(
    model: BertModel, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None, layer: int = -1
) -> tuple[Tensor, Tensor]:
    """A layer's hidden states (B, T, D) and attention (B, H, T, T), by the plain model."""
    x, mask = model.embed(input_ids, attention_mask, token_type_ids)
    for block in model.layers_up_to(layer):
        x, attention = block(x, mask)
    return x, attention
