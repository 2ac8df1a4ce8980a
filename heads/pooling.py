"""From one layer's token states to one vector X per sentence (the paper's "BERT-based encoding module").

Letters: B batch, T tokens, D hidden size, H heads. Masks are bool, True = a real token. A row is [CLS], word pieces,
[SEP], padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLINGS = ("cls", "mean", "attention_mean", "cnn")


def cls(x: Tensor) -> Tensor:
    """The state of [CLS]. (B, T, D) -> (B, D)"""
    return x[:, 0]


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """x: (B, T, D), weights: (B, T), not negative, not all 0 -> (B, D)"""
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights[:, None, :] @ x)[:, 0]  # (B, D)


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of the real tokens' states, [CLS] and [SEP] among them. x: (B, T, D), mask: (B, T) -> (B, D)"""
    return weighted_mean(x, mask.to(x.dtype))


def word_pieces(mask: Tensor) -> Tensor:
    """mask: (B, T) -> (B, T), True for the word pieces: real, neither [CLS] (the first) nor [SEP] (the last)."""
    pieces = mask & mask.roll(-1, dims=1)  # the last real token has no real successor
    pieces[:, -1] = False  # its successor is the row's own start, rolled round
    pieces[:, 0] = False
    return pieces


def attention_received(attention: Tensor, mask: Tensor) -> Tensor:
    """How much each token is attended to, the mean over heads and real queries. (B, H, T, T), (B, T) -> (B, T)"""
    by_query = attention.mean(dim=1)  # (B, T, T)
    return weighted_mean(by_query, mask.to(by_query.dtype))


def attention_mean(x: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
    """Token states weighted by the attention they receive in their layer, over the word pieces alone.

    [CLS] and [SEP] get weight 0, for they soak up most attention. A text without any word piece, or none that is
    attended to, has nothing to weigh, so its vector is the plain `mean`.
    Args:    x: (B, T, D), attention: (B, H, T, T), rows summing to 1, mask: (B, T).
    Returns: (B, D).
    """
    weights = attention_received(attention, mask) * word_pieces(mask)
    return weighted_mean(x, torch.where((weights > 0).any(dim=1, keepdim=True), weights, mask.to(weights.dtype)))


class CnnPooling(nn.Module):
    """Conv1d over the token states (kernel 3, same padding), ReLU, then the mean of the real tokens."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.conv = nn.Conv1d(hidden_size, hidden_size, kernel_size=3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, T, D), mask: (B, T) -> (B, D)"""
        x = x * mask[:, :, None]  # padding reads as the zeros beyond a sentence's end, so batch-mates do not matter
        return mean(F.relu(self.conv(x.mT).mT), mask)
