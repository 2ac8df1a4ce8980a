"""BERT, by hand: embeddings, self-attention, layer, pooler, and the whole.

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers"; Vaswani et al. 2017.
Letters: B batch, T tokens, D hidden size, H heads, K = D // H, N real tokens. Masks are bool, True = a real token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.checkpoint import load_folder
from bert.config import BertConfig
from bert.fused import Linear
from bert.hub import resolve
from bert.tokenizer import Batch


class Dropout(nn.Module):
    """Inverted dropout: an element is zeroed with rate p, the others are divided by 1 - p.

    The same law as nn.Dropout, several times faster on a CPU: 16 random bits an element instead of a float, so p is
    rounded to a multiple of 2^-16, below 1 (and the division uses the rounded p, which keeps the expectation exact, in
    bfloat16 as far as 1 / (1 - p) fits it).
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        drop = min(round(self.p * 65536), 65535)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= drop - 32768
        return x * keep.to(x.dtype).mul_(65536 / (65536 - drop))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Embeddings(nn.Module):
    """Word + position + segment embeddings, then LayerNorm and dropout."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, positions: Tensor) -> Tensor:
        """All (B, T), positions from 0, or broadcast to it -> (B, T, D)"""
        x = self.word(input_ids) + self.token_type(token_type_ids) + self.position(positions)
        return self.dropout(self.norm(x))


class Packing:
    """The real tokens of padded batches (B_1, T_1), (B_2, T_2), ..., one after another: N tokens in all.

    What a layer computes token by token it computes on (N, D), for all batches at once and not for padding. Tokens meet
    in attention alone, so only there is each batch padded again.
    """

    def __init__(self, masks: Sequence[Tensor]):
        self.masks = masks  # (B, T) each
        self.places = [mask.flatten().nonzero()[:, 0] for mask in masks]  # of the real tokens in (B T,), each
        # The masks once more, None where there is no padding.
        self.padded = [mask if len(p) < mask.numel() else None for mask, p in zip(masks, self.places, strict=True)]

    def pack(self, padded: Sequence[Tensor]) -> Tensor:
        """(B, T) or (B, T, D) each -> (N,) or (N, D)"""
        flat = [x.flatten(0, 1) for x in padded]
        parts = zip(flat, self.places, strict=True)
        packed = [x if len(x) == len(places) else x.index_select(0, places) for x, places in parts]
        return torch.cat(packed) if len(packed) > 1 else packed[0]

    def pad(self, x: Tensor) -> list[Tensor]:
        """(N, D) -> (B, T, D) each, zeros for padding"""
        parts = zip(x.split([len(places) for places in self.places]), self.places, self.masks, strict=True)
        return [self._pad(part, places, mask).view(*mask.shape, -1) for part, places, mask in parts]

    @staticmethod
    def _pad(part: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """(N of one batch, D) -> (B T, D)"""
        if len(part) == mask.numel():  # no padding, no copy
            return part
        return part.new_zeros(mask.numel(), part.shape[1]).index_copy(0, places, part)


class SelfAttention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(K)) V, the heads side by side, then a projection."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size)  # one product for the three
        self.output = Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor | Packing) -> tuple[Tensor, Tensor | list[Tensor]]:
        """x: (B, T, D), mask: (B, T) -> the new x: (B, T, D), and the attention before dropout: (B, H, T, T).

        With a Packing x is (N, D), and so is the new x; the attention is a list with each batch's.
        """
        projected = self.query_key_value(x)  # (B, T, 3 D)
        if isinstance(mask, Packing):
            batches = zip(mask.pad(projected), mask.padded, strict=True)
            heads, attention = zip(*(self.attend(*batch) for batch in batches), strict=True)
            return self.output(mask.pack(heads)), list(attention)
        heads, attention = self.attend(projected, mask)
        return self.output(heads), attention

    def attend(self, projected: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """projected: (B, T, 3 D), mask: (B, T), None for no padding -> the heads side by side: (B, T, D), attention:
        (B, H, T, T)."""
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        # Transposed, a query a column, and columns in sixteens: on a CPU torch's softmax takes several times as long
        # over a short last axis, and again where what follows its axis does not fill the processor's vectors.
        columns = F.pad(q, (0, 0, 0, -q.shape[2] % 16))
        scores = (k @ columns.mT).div_(math.sqrt(q.shape[-1]))  # (B, H, T, T or a few more)
        if mask is not None:
            # The least finite number, not -inf: the softmax gives padding an exact 0 either way, and no NaN to a row
            # of padding alone.
            scores = scores.masked_fill(~mask[:, None, :, None], torch.finfo(scores.dtype).min)
        attention = scores.softmax(dim=-2, dtype=torch.promote_types(scores.dtype, torch.float32))
        attention = attention[..., : q.shape[2]].mT  # (B, H, T, T), a query a row
        heads = self.dropout(attention) @ v  # (B, H, T, K)
        return heads.transpose(1, 2).flatten(2), attention


class Layer(nn.Module):
    """One transformer layer: attention, add and norm, feed-forward, add and norm."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward_in = Linear(config.hidden_size, config.intermediate_size)
        self.feed_forward_out = Linear(config.intermediate_size, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor | Packing) -> tuple[Tensor, Tensor | list[Tensor]]:
        """x: (B, T, D), mask: (B, T) -> the new x: (B, T, D), and the attention: (B, H, T, T). Or packed, as above."""
        attended, attention = self.attention(x, mask)
        x = self.attention_norm(x + self.dropout(attended))
        wide = self.feed_forward_in.gelu(x)  # (B, T, 4 D)
        return self.feed_forward_norm(x + self.dropout(self.feed_forward_out(wide))), attention


class BertOutput(NamedTuple):
    last_hidden_state: Tensor  # (B, T, D)
    pooler_output: Tensor  # (B, D)


class BertModel(nn.Module):
    """The encoder. `BertModel(config)` has random weights, `BertModel.from_pretrained(source)` a checkpoint's."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """Normal weights, zero biases; LayerNorm keeps torch's ones and zeros."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> BertModel:
        """A checkpoint's BERT, float32, in eval mode.

        Args:    source: a folder in Hugging Face layout, "minilm", "bert-base-uncased" or a Hub id.
        Raises:  CheckpointError (a bad file), HubError (nothing cached and no network).
        """
        folder = resolve(source)
        config = BertConfig.from_json(folder / "config.json")
        with torch.device("meta"):  # no memory and no random draws for weights that are replaced at once
            model = cls(config)
        load_folder(model, folder)
        return model.eval()

    def hidden_state(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        layer: int = -1,
    ) -> tuple[Tensor, Tensor]:
        """One layer's output; the layers above it are not computed.

        Args:    input_ids, attention_mask, token_type_ids: (B, T); no mask means no padding, no types means all 0.
                 layer: -1 the last, -2 the second to last, ...
        Returns: hidden states (B, T, D) and the attention of that layer (B, H, T, T), rows summing to 1.
        """
        blocks = self._up_to(layer)
        positions = self._positions(input_ids)
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.embeddings(input_ids, types, positions)
        for block in blocks:
            x, attention = block(x, mask)
        return x, attention

    def hidden_states(self, batches: Sequence[Batch], layer: int = -1) -> list[tuple[Tensor, Tensor]]:
        """`hidden_state` of several batches in one pass, without work on padding, whose hidden states are 0.

        Args:    batches: input_ids, attention_mask, token_type_ids: (B, T) each, every batch with its own B and T.
        Returns: for each batch the hidden states (B, T, D) and the attention (B, H, T, T).
        """
        blocks = self._up_to(layer)
        packing = Packing([batch["attention_mask"].bool() for batch in batches])
        positions = [self._positions(batch["input_ids"]).expand_as(batch["input_ids"]) for batch in batches]
        ids, types = ([batch[name] for batch in batches] for name in ("input_ids", "token_type_ids"))
        x = self.embeddings(*map(packing.pack, (ids, types, positions)))  # (N, D)
        for block in blocks:
            x, attention = block(x, packing)
        return list(zip(packing.pad(x), attention, strict=True))

    def _up_to(self, layer: int) -> nn.ModuleList:
        depth = len(self.layers)
        if not -depth <= layer <= -1:
            raise ValueError(f"layer: expected -{depth} to -1 (the model has {depth} layers); found {layer}")
        return self.layers[: depth + 1 + layer]

    def _positions(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (T,)"""
        if input_ids.dim() != 2 or not 1 <= input_ids.shape[1] <= self.config.max_position_embeddings:
            raise ValueError(
                f"input_ids: expected (B, T) with T from 1 to {self.config.max_position_embeddings}; "
                f"found {tuple(input_ids.shape)}; cut the texts with max_length"
            )
        return torch.arange(input_ids.shape[1], device=input_ids.device)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> BertOutput:
        """input_ids, attention_mask, token_type_ids: (B, T) -> last_hidden_state (B, T, D), pooler_output (B, D)."""
        x, _ = self.hidden_state(input_ids, attention_mask, token_type_ids)
        return BertOutput(x, torch.tanh(self.pooler(x[:, 0])))
