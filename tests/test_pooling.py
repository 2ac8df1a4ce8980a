"""heads/pooling.py against plain loops over sentences and tokens, and against nn.Conv1d on each sentence alone.

B = 5 sentences, T = 13 tokens, D = 7, H = 3.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_bert import assert_same, make_mask
from torch import Tensor, nn

from heads.pooling import CnnPooling, attention_mean, mean

T, D, H = 13, 7, 3
LENGTHS = [5, 13, 2, 3, 11]  # of full length without padding; of [CLS] and [SEP] alone; of one word piece
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    CNN = CnnPooling(D).double()
POOLINGS = {
    "mean": lambda x, attention, mask: mean(x, mask),
    "attention_mean": lambda x, attention, mask: attention_mean(x, attention, mask, one_segment(mask)),
    "cnn": lambda x, attention, mask: CNN(x, mask),
}
each_pooling = pytest.mark.parametrize("pool", POOLINGS.values(), ids=POOLINGS)


def one_segment(mask: Tensor) -> Tensor:
    return torch.zeros_like(mask, dtype=torch.int64)


def states(lengths: list[int] = LENGTHS, tokens: int = T, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random x (B, T, D), attention (B, H, T, T) that gives padding an exact 0, and mask (B, T)."""
    generator, rows, mask = torch.Generator().manual_seed(seed), len(lengths), make_mask(lengths, tokens)
    x = torch.randn(rows, tokens, D, dtype=torch.float64, generator=generator)
    scores = 2 * torch.randn(rows, H, tokens, tokens, dtype=torch.float64, generator=generator)
    return x, scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(dim=-1), mask


def test_mean_is_over_the_real_tokens():
    x, _, mask = states()
    assert_same(mean(x, mask), torch.stack([row[:n].mean(dim=0) for row, n in zip(x, LENGTHS, strict=True)]))


def test_attention_mean_by_a_loop():
    """Weight of a word piece: the attention it receives, mean over heads and real queries; renormalised."""
    x, attention, mask = states()
    expected = []
    for b, length in enumerate(LENGTHS):
        pieces = range(1, length - 1)  # neither [CLS] nor [SEP]
        received = [sum(attention[b, h, q, k] for h in range(H) for q in range(length)) / (H * length) for k in pieces]
        if pieces:
            expected.append(sum(w * x[b, k] for w, k in zip(received, pieces, strict=True)) / sum(received))
        else:
            expected.append(x[b, :length].mean(dim=0))
    assert_same(attention_mean(x, attention, mask, one_segment(mask)), torch.stack(expected))


def test_a_pair_read_at_once_leaves_out_both_separators():
    x, attention, mask = states([8, 13])
    types = torch.tensor([[0] * 4 + [1] * 4 + [0] * 5, [0] * 6 + [1] * 7])  # [CLS] a a [SEP] b b b [SEP] ...
    expected = []
    for b, pieces in enumerate(([1, 2, 4, 5, 6], [1, 2, 3, 4, 6, 7, 8, 9, 10, 11])):
        received = attention[b, :, mask[b]].mean(dim=(0, 1))[pieces]
        expected.append(received @ x[b, pieces] / received.sum())
    assert_same(attention_mean(x, attention, mask, types), torch.stack(expected))


def test_cnn_on_each_sentence_alone():
    """torch's own convolution of a sentence without any padding: what lies beyond its ends is zero."""
    x, _, mask = states()
    conv = nn.Conv1d(D, D, kernel_size=3, padding="same").double()
    conv.load_state_dict(CNN.conv.state_dict())
    expected = [conv(x[b, :length].T).relu().mean(dim=1) for b, length in enumerate(LENGTHS)]
    assert_same(CNN(x, mask), torch.stack(expected))


def test_word_pieces_that_nobody_attends_to_have_the_plain_mean():
    """Attention that has underflown to 0 is no 0 / 0."""
    x, attention, mask = states([5])
    attention[...] = 0
    attention[..., 0] = 1
    assert_same(attention_mean(x, attention, mask, one_segment(mask)), mean(x, mask))


def test_gradients_reach_the_attention():
    x, attention, mask = states()
    attention.requires_grad_(True)
    attention_mean(x, attention, mask, one_segment(mask)).pow(2).sum().backward()
    assert attention.grad.isfinite().all()
    assert (attention.grad[1, :, :, 1:12] != 0).all()  # the sentence of full length, its word pieces


# ---- properties ------------------------------------------------------------------------------------------------------

lengths = st.lists(st.integers(2, T), min_size=1, max_size=5)


@each_pooling
@given(lengths=lengths, extra=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_padding_does_not_matter(pool, lengths, extra, seed):
    """More of it, with other states in it, and other attention by it."""
    x, attention, mask = states(lengths, max(lengths), seed)
    tokens = max(lengths) + extra
    wide_x, wide_attention, wide_mask = states(lengths, tokens, seed + 1)
    wide_x[make_mask(lengths, tokens)] = x[mask]
    for b, n in enumerate(lengths):
        wide_attention[b, :, :n, :n] = attention[b, :, :n, :n]
    assert_same(pool(wide_x, wide_attention, wide_mask), pool(x, attention, mask))
