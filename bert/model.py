"""BERT as in Devlin et al.: embeddings, self-attention, layer, pooler, and the whole.

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers"; Vaswani et al. 2017, "Attention Is
All You Need". This file is plain torch, made to be read; training and inference use bert/fast.py, which computes the
same faster.
Letters: B batch, T tokens, D hidden size, F feed-forward size, H heads, K = D // H. Masks are bool, True = a real
token.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.checkpoint import load_folder
from bert.config import BertConfig
from bert.hub import resolve


class Embeddings(nn.Module):
    """Word + position + segment embeddings, then LayerNorm and dropout."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, positions: Tensor) -> Tensor:
        """input_ids, token_type_ids: (B, T), positions: (T,), from 0 -> (B, T, D)"""
        x = self.word(input_ids) + self.token_type(token_type_ids) + self.position(positions)  # (B, T, D)
        return self.dropout(self.norm(x))


class SelfAttention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(K)) V, the heads side by side, then a projection."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)  # one product for the three
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, T, D), mask: (B, T) -> the new x: (B, T, D), and the attention before dropout: (B, H, T, T)."""
        q, k, v = self.query_key_value(x).chunk(3, dim=-1)  # (B, T, D) each
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, H, T, K) each
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, T), one query per row
        # The lowest finite number, not -inf: the softmax gives padding an exact 0 either way, but with -inf a row of
        # nothing but padding would be NaN.
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        attention = scores.softmax(dim=-1)
        heads = self.dropout(attention) @ v  # (B, H, T, K)
        return self.output(heads.transpose(1, 2).flatten(2)), attention  # (B, T, D)


class Layer(nn.Module):
    """One transformer layer: attention, add and norm, feed-forward, add and norm."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward_in = nn.Linear(config.hidden_size, config.intermediate_size)
        self.feed_forward_out = nn.Linear(config.intermediate_size, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, T, D), mask: (B, T) -> the new x: (B, T, D), and the attention: (B, H, T, T)."""
        attended, attention = self.attention(x, mask)
        x = self.attention_norm(x + self.dropout(attended))
        wide = F.gelu(self.feed_forward_in(x))  # (B, T, F); the exact erf form
        x = self.feed_forward_norm(x + self.dropout(self.feed_forward_out(wide)))
        return x, attention


class BertOutput(NamedTuple):
    last_hidden_state: Tensor  # (B, T, D)
    pooler_output: Tensor | None  # (B, D); None for a model without a pooler
    attentions: tuple[Tensor, ...] | None  # (B, H, T, T) for each layer; None without output_attentions


class BertModel(nn.Module):
    """The encoder. `BertModel(config)` has random weights, `BertModel.from_pretrained(source)` a checkpoint's."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler: nn.Linear | None = nn.Linear(config.hidden_size, config.hidden_size)  # None: not in the checkpoint
        for module in self.modules():  # LayerNorms keep torch's ones and zeros
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "BertModel":
        """A checkpoint's BERT, float32, in eval mode.

        Args:    source: a folder in Hugging Face layout, "minilm", "bert-base-uncased" or a Hub id.
        Raises:  CheckpointError (a bad file), UnavailableError (nothing cached and no network).
        """
        folder = resolve(source)
        config = BertConfig.from_json(folder / "config.json")
        with torch.device("meta"):  # no memory and no random draws for weights that are replaced at once
            model = cls(config)
        load_folder(model, folder)
        return model.eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_attentions: bool = False,
    ) -> BertOutput:
        """input_ids, attention_mask, token_type_ids: (B, T) -> last_hidden_state (B, T, D), pooler_output (B, D).

        output_attentions: also return each layer's attention (B, H, T, T): one query per row, rows summing to 1, before
        dropout. (In training, transformers returns it after dropout.)
        """
        x, mask = self.embed(input_ids, attention_mask, token_type_ids)
        attentions = []
        for block in self.layers:
            x, attention = block(x, mask)
            if output_attentions:  # otherwise only one layer's is kept in memory
                attentions.append(attention)
        pooled = None if self.pooler is None else torch.tanh(self.pooler(x[:, 0]))  # (B, D)
        return BertOutput(x, pooled, tuple(attentions) if output_attentions else None)

    def set_dropout(self, p: float) -> None:
        """Replace both rates of the config, 0 <= p < 1; a saved model keeps them."""
        self.config = replace(self.config, hidden_dropout_prob=p, attention_probs_dropout_prob=p)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = p

    def embed(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The input of the first layer: x (B, T, D) and the mask (B, T), all True if none is given."""
        positions = self.positions(input_ids)
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        return self.embeddings(input_ids, types, positions), mask

    def layers_up_to(self, layer: int) -> nn.ModuleList:
        """The layers from the first up to and including `layer`: -1 the last, -2 the second to last, ..."""
        depth = len(self.layers)
        if not -depth <= layer <= -1:
            raise ValueError(f"layer: expected -{depth} to -1 (the model has {depth} layers); found {layer}")
        return self.layers[: depth + 1 + layer]

    def positions(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (T,): 0, 1, ..."""
        shape, limit = tuple(input_ids.shape), self.config.max_position_embeddings
        if len(shape) != 2 or not 1 <= shape[1] <= limit:
            expected = f"(B, T) with T from 1 to {limit}"
            raise ValueError(f"input_ids: expected {expected}; found {shape}; cut the texts with max_length")
        return torch.arange(shape[1], device=input_ids.device)  # (T,)
