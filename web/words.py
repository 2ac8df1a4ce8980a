"""The words of a text as a model reads them, each with its weight in the text's vector: what the page colours.

Letters: B batch, T tokens.
"""

from collections.abc import Sequence

import torch

from bert.fast import hidden_states
from heads import MultitaskBert
from heads.inference import encoder, token_passes
from heads.pooling import attention_weights


@torch.no_grad()
def word_weights(model: MultitaskBert, texts: Sequence[str], amp: str) -> list[list[tuple[str, float]]]:
    """For each text, or pair read as one sequence: its words as the model reads them, and their weights, 1 in all.

    A word's weight is that of its pieces in the vector of `heads.pooling.attention_mean`, in the model's own layer.
    """
    bert, words = encoder(model, amp), [[] for _ in texts]
    for groups, tokens in token_passes(model, texts):
        states = hidden_states(bert, tokens, model.config.layer, keep_attention=True)
        for rows, batch, (_, attention) in zip(groups, tokens, states, strict=True):
            weights = attention_weights(attention.float(), batch.attention_mask, batch.token_type_ids)  # (B, T)
            weights = weights / weights.sum(dim=1, keepdim=True)
            for row, ids, mask, shares in zip(rows, batch.input_ids, batch.attention_mask, weights, strict=True):
                pieces = model.tokenizer.tokens(ids[mask][1:-1].tolist())
                words[row] = whole_words(pieces, shares[mask][1:-1].tolist())
    return words


def whole_words(pieces: Sequence[str], weights: Sequence[float]) -> list[tuple[str, float]]:
    """Word pieces joined to words, each with the sum of its pieces' weights."""
    words = []
    for piece, weight in zip(pieces, weights, strict=True):
        if piece.startswith("##") and words:  # continues the word before it
            word, word_weight = words.pop()
            piece, weight = word + piece[2:], word_weight + weight
        words.append((piece, weight))
    return words
