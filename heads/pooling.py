"""From one layer's token states to one vector X per sentence (the paper's "BERT-based encoding module").

Letters: B batch, T tokens, D hidden size, H heads. Masks are bool, True = a real token. A row is [CLS], word pieces,
[SEP], for a pair read at once the second text's word pieces and [SEP], padding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.fast import hidden_states
from bert.model import BertModel
from bert.tokenizer import Batch


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """x: (B, T, D), weights: (B, T), not negative, not all 0 -> (B, D)"""
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights[:, None, :] @ x)[:, 0]  # (B, D)


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of the real tokens' states, [CLS] and [SEP] among them. x: (B, T, D), mask: (B, T) -> (B, D)"""
    return weighted_mean(x, mask.to(x.dtype))


def attention_mean(x: Tensor, attention: Tensor, mask: Tensor, types: Tensor) -> Tensor:
    """Token states weighted by the attention they receive in their layer, over the word pieces alone.

    Args:    x: (B, T, D), attention: (B, H, T, T), rows summing to 1, mask and types (token_type_ids): (B, T).
    Returns: (B, D).
    """
    return weighted_mean(x, attention_weights(attention, mask, types))


def attention_weights(attention: Tensor, mask: Tensor, types: Tensor) -> Tensor:
    """The weights of `attention_mean`, not normalised. attention: (B, H, T, T), mask, types: (B, T) -> (B, T)

    [CLS] and [SEP] get weight 0, because they receive most of the attention. A text without any word piece, or without
    one that receives attention, gets the weights of the plain `mean`.
    """
    received = mean(attention.mean(dim=1), mask)  # (B, T), the mean over heads and real queries
    # Word pieces: neither the first token nor the last of a segment. After these comes a real one of the same segment.
    followed = mask[:, 1:] & (types[:, 1:] == types[:, :-1])  # (B, T - 1)
    weights = received * F.pad(followed[:, 1:], (1, 1))
    return torch.where((weights > 0).any(dim=1, keepdim=True), weights, mask.to(weights.dtype))


def pooled(x: Tensor, attention: Tensor | None, mask: Tensor, types: Tensor, pooling: str) -> Tensor:
    """X by a pooling without learnt weights: "cls", "mean", or "attention_mean", the only one that reads `attention`.

    x: (B, T, D), attention: (B, H, T, T), mask, types: (B, T) -> (B, D)
    """
    if pooling == "attention_mean":
        return attention_mean(x, attention.to(x.dtype), mask, types)
    return x[:, 0] if pooling == "cls" else mean(x, mask)


class CnnPooling(nn.Module):
    """Conv1d over the token states (kernel 3, same padding), ReLU, then the mean of the real tokens."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.conv = nn.Conv1d(hidden_size, hidden_size, kernel_size=3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, T, D), mask: (B, T) -> (B, D)"""
        x = x * mask[:, :, None]  # padding is 0, like all beyond a sentence's end: a row does not depend on its batch
        return mean(F.relu(self.conv(x.mT).mT), mask)


def joined(padded: Sequence[Tensor]) -> Tensor:
    """(N_1, T_1, ...), (N_2, T_2, ...), ... -> (N_1 + N_2 + ..., T, ...), zeros up to the longest T."""
    longest = max(x.shape[1] for x in padded)
    return torch.cat([F.pad(x, (0, 0) * (x.dim() - 2) + (0, longest - x.shape[1])) for x in padded])


def one_batch(batches: Sequence[Batch]) -> Batch:
    """(N_1, T_1), (N_2, T_2), ... -> (N_1 + N_2 + ..., T), padded to the longest T"""
    whole = Batch({name: joined([batch[name] for batch in batches]) for name in batches[0]})
    whole.real = sum(batch.real for batch in batches)
    return whole


def sentence_vectors(
    bert: BertModel, cnn: CnnPooling | None, batches: Sequence[Batch], pooling: str, layer: int
) -> list[Tensor]:
    """batches: (N, T) each -> X: (N, D) each, float32 (or float64) under mixed precision too. One pass for all."""
    ids, sizes = batches[0].input_ids, [len(batch.input_ids) for batch in batches]
    if len(batches) > 1 and not ids.is_cpu:  # a GPU is faster with one large batch
        (x,) = sentence_vectors(bert, cnn, [one_batch(batches)], pooling, layer)
        return list(x.split(sizes))
    states = hidden_states(bert, batches, layer, keep_attention=pooling == "attention_mean")
    wide = torch.promote_types(states[0][0].dtype, torch.float32)
    with torch.autocast(ids.device.type, enabled=False):  # all that follows the encoder is computed in float32
        if pooling == "cnn":  # in one call, with the rows of all batches
            x, mask = joined([x for x, _ in states]), joined([batch.attention_mask for batch in batches])
            return list(cnn(x.to(wide), mask).split(sizes))
        return [
            pooled(x.to(wide), attention, batch.attention_mask, batch.token_type_ids, pooling)
            for (x, attention), batch in zip(states, batches, strict=True)
        ]
