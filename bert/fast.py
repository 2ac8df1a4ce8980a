"""bert/model.py computed faster, with the same results: packed without padding, and in forms that suit the processor.

`hidden_states` is for training and inference; `inference_copy` makes a model for inference. Both use the plain model's
own modules: `hidden_states`, `layer_forward` and `self_attention` are the forwards of its BertModel, Layer and
SelfAttention on packed tokens, and `dropout`, `attend` and `attend_unseen` replace what is slow in them. Every layer
with parameters is called as a module, with all tokens on the first axis, so that hooks on it see what it computes.
Letters: B batch, T tokens, D hidden size, F feed-forward size, H heads, K = D // H, N tokens that are computed. Masks
are bool, True = a real token.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.lora import LowRankLinear
from bert.model import BertModel, Layer, SelfAttention
from bert.tokenizer import Batch

# On a CPU oneDNN compiles each product for each new shape. That takes 5 to 12 ms (the product itself takes 1 to 4) and
# 1 MB that it keeps. So the number of tokens is rounded up to a multiple of this, and shapes repeat.
MULTIPLE = 64


def tokens_computed(batches: Sequence[Batch]) -> list[int]:
    """How many tokens the layers compute for each batch: all B T on a GPU, else the real ones and a few copies.

    With gradients, which are taken batch by batch, each number is a multiple of MULTIPLE; without, only their sum is.
    """
    if not batches[0].input_ids.is_cpu:
        return [batch.input_ids.numel() for batch in batches]
    sizes = [batch.real for batch in batches]
    if torch.is_grad_enabled():
        return [size + -size % MULTIPLE for size in sizes]
    return [*sizes[:-1], sizes[-1] + -sum(sizes) % MULTIPLE]


class Packing:
    """The tokens of padded batches (B_1, T_1), (B_2, T_2), ..., one after another: N in all, on a CPU without padding.

    Everything that a layer computes token by token, it computes on (N, D): for all batches at once, without padding.
    Tokens meet only in attention, so only there is each batch padded again. `tokens_computed` adds copies of a batch's
    first token, which nobody reads. (A GPU computes padding, too: packing would cost more than it saves.)
    """

    def __init__(self, batches: Sequence[Batch]):
        self.shapes, self.masks = [], []  # (B, T) of each batch; its mask, None without padding
        self.read, self.places = [], []  # places in (B T,) of the tokens that are read, and of all that are computed
        self.cuts = []  # for each batch, how many tokens are read and how many are copies
        for batch, size in zip(batches, tokens_computed(batches), strict=True):
            mask = batch.attention_mask
            has_padding = batch.real < mask.numel()
            places = batch.places if has_padding and mask.is_cpu else None  # None: all of them, in order
            count = mask.numel() if places is None else batch.real
            self.shapes.append(mask.shape)
            self.masks.append(mask if has_padding else None)
            self.read.append(places)
            if size > count:
                places = torch.arange(count) if places is None else places
                places = torch.cat([places, places[:1].expand(size - count)])
            self.places.append(places)
            self.cuts += [count, size - count]

    def pack(self, padded: Sequence[Tensor]) -> Tensor:
        """(B, T) or (B, T, D) each -> (N,) or (N, D)"""
        flat = zip((x.flatten(0, 1) for x in padded), self.places, strict=True)
        packed = [x if places is None else x.index_select(0, places) for x, places in flat]
        return torch.cat(packed) if len(packed) > 1 else packed[0]

    def pad(self, x: Tensor) -> list[Tensor]:
        """(N, D) -> (B, T, D) each; on a CPU zeros for padding"""
        padded = []
        for part, places, shape in zip(x.split(self.cuts)[::2], self.read, self.shapes, strict=True):
            if places is not None:
                part = part.new_zeros(shape.numel(), part.shape[1]).index_copy(0, places, part)  # (B T, D)
            padded.append(part.view(*shape, -1))  # (B, T, D)
        return padded


def dropout(x: Tensor, module: nn.Dropout) -> Tensor:
    """The same as module(x), on a CPU several times faster: 16 random bits per element instead of a float.

    So the rate is rounded to a multiple of 2^-16 that is below 1. The division uses the rounded rate, which keeps
    the expectation exact, in bfloat16 as far as it can hold 1 / (1 - p).
    """
    if not (x.is_cpu and module.training and module.p):
        return module(x)
    drop = min(round(module.p * 65536), 65535)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= drop - 32768
    return x * keep.to(x.dtype).mul_(65536 / (65536 - drop))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: nn.Dropout) -> tuple[Tensor, Tensor]:
    """q, k, v: (B, H, T, K), mask: (B, T), None for no padding -> heads (B, H, T, K), attention (B, H, T, T)."""
    # Transposed: one query per column, and the number of columns a multiple of 16. On a CPU torch's softmax is several
    # times slower over a short last axis, and again where the axis after its own does not fill the processor's vectors.
    columns = F.pad(q, (0, 0, 0, -q.shape[2] % 16))
    scores = (k @ columns.mT).div_(math.sqrt(q.shape[-1]))  # (B, H, T, T or a few more)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, :, None], torch.finfo(scores.dtype).min)
    attention = scores.softmax(dim=-2, dtype=torch.promote_types(scores.dtype, torch.float32))
    attention = attention[..., : q.shape[2]].mT  # (B, H, T, T), one query per row
    return dropout(attention, drop).to(v.dtype) @ v, attention


def attend_unseen(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: nn.Dropout) -> tuple[Tensor, None]:
    """`attend` where nobody reads the attention; a GPU then never holds all of it."""
    p = drop.p if drop.training else 0.0
    keys = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=p), None


def self_attention(
    part: SelfAttention, x: Tensor, packing: Packing, keep_attention: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """x: (N, D) -> the new x: (N, D), and each batch's attention (B, H, T, T), None unless `keep_attention`."""
    heads, weights = [], []
    attend_batch = attend if keep_attention or x.is_cpu else attend_unseen
    for projected, mask in zip(packing.pad(part.query_key_value(x)), packing.masks, strict=True):  # (B, T, 3 D)
        q, k, v = projected.unflatten(-1, (3, part.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        attended, attention = attend_batch(q, k, v, mask, part.dropout)
        heads.append(attended.transpose(1, 2).flatten(2))  # (B, T, D)
        weights.append(attention if keep_attention else None)
    return part.output(packing.pack(heads)), weights


def layer_forward(
    block: Layer, x: Tensor, packing: Packing, keep_attention: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """One layer. x: (N, D) -> the new x: (N, D), and each batch's attention (B, H, T, T), None unless it is kept."""
    attended, attention = self_attention(block.attention, x, packing, keep_attention)
    x = block.attention_norm(x + dropout(attended, block.dropout))
    into = block.feed_forward_in
    wide = into(x, "gelu") if isinstance(into, InferenceLinear) else F.gelu(into(x))  # (N, F)
    return block.feed_forward_norm(x + dropout(block.feed_forward_out(wide), block.dropout)), attention


def hidden_states(
    model: BertModel, batches: Sequence[Batch], layer: int = -1, keep_attention: bool = False
) -> list[tuple[Tensor, Tensor | None]]:
    """One layer's output for several batches, in one pass; the layers above it are not computed. Hidden states of
    padding mean nothing; on a CPU they are 0.

    Args:    batches: input_ids, attention_mask, token_type_ids: (B, T) each, every batch with its own B and T.
             layer: -1 the last, -2 the second to last, ...
             keep_attention: whether to return that layer's attention.
    Returns: for each batch the hidden states (B, T, D) and the attention (B, H, T, T), None unless asked for.
    Raises:  ValueError for a layer that does not exist, or texts longer than the position embeddings.
    """
    blocks, packing = model.layers_up_to(layer), Packing(batches)
    ids, types = [batch.input_ids for batch in batches], [batch.token_type_ids for batch in batches]  # (B, T) each
    positions = [model.positions(x).expand_as(x) for x in ids]
    part = model.embeddings
    x = part.word(packing.pack(ids)) + part.token_type(packing.pack(types)) + part.position(packing.pack(positions))
    x = dropout(part.norm(x), part.dropout)  # (N, D)
    for block in blocks:
        x, weights = layer_forward(block, x, packing, keep_attention and block is blocks[-1])
    return list(zip(packing.pad(x), weights, strict=True))


class InferenceLinear(nn.Module):
    """A Linear that computes in one dtype and takes no gradient: its weights are cast once, here.

    On CPUs oneDNN, where it has the product, adds the bias and applies GELU to each block while it is in the cache. It
    also uses AVX-512 on AMD's CPUs, which MKL does not. The operator is the one that torch.compile uses; its private
    name is the same in torch 2.10 and 2.13.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype):
        super().__init__()
        weight = layer.whole_weight() if isinstance(layer, LowRankLinear) else layer.weight.detach()
        self.weight, self.bias = weight.to(dtype), layer.bias.detach().to(dtype)
        self.fused = layer.weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if dtype != torch.float32 and self.fused:
            self.fused = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """(..., in) -> (..., out), in dtype. activation: "none" or "gelu", the exact erf form."""
        x = x.to(self.weight.dtype)
        if self.fused:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, activation, [], "none")
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if activation == "gelu" else y


def inference_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of the model for inference, with products in dtype: new modules that share the model's weights, except
    in Linears: these have their own where the dtype is another or LoRA's matrices are added.

    Its `hidden_states` need no autocast and equal those of the model under `torch.autocast` with this dtype. The model
    itself stays as it is, mode and hooks included, so threads may use it at once. If its weights change, copy it again.
    """
    if isinstance(model, nn.Linear):
        return InferenceLinear(model, dtype).eval()
    children = {name: child and inference_copy(child, dtype) for name, child in model._modules.items()}
    twin = nn.Module.__new__(type(model))  # copy.copy is slower, which shows with a single sentence
    twin.__dict__.update(model.__dict__, _modules=children, training=False)
    return twin


def keep_freed_memory() -> None:
    """Make the C library keep the memory of freed tensors for the next ones.

    glibc returns memory to the system when more is free than twice the largest block that was freed so far. Getting it
    back page by page costs 5 % of a step and of encode. It counts blocks of up to 32 MiB, so this frees such a block.
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8)
