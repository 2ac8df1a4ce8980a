"""bert/model.py computed faster, to the same numbers: packed without padding, and in forms that suit the processor.

`hidden_states` trains and infers, `inference_copy` makes what infers. Both walk over the plain model's own modules, and
each function here stands for one line of it. Every layer with parameters is called as a module, with all tokens on the
first axis, so that hooks on it see what it computes.
Letters: B batch, T tokens, D hidden size, H heads, K = D // H, N real tokens. Masks are bool, True = a real token.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.lora import LowRankLinear
from bert.model import BertModel, Layer, SelfAttention
from bert.tokenizer import Batch

# On a CPU oneDNN compiles each product anew for each shape: 5 to 12 ms, where the product itself takes 1 to 4, and 1 MB
# that it keeps. So numbers of tokens are rounded up to multiples of this, and shapes come again.
MULTIPLE = 64


def tokens_computed(batches: Sequence[Batch]) -> list[int]:
    """How many of each batch's B T tokens the layers compute: a GPU all, a CPU the real ones and a few copies more.

    For gradients, which are taken batch by batch, each batch's number is a multiple; else their sum.
    """
    if not batches[0]["input_ids"].is_cpu:
        return [batch["input_ids"].numel() for batch in batches]
    sizes = [batch.real for batch in batches]
    if torch.is_grad_enabled():
        return [size + -size % MULTIPLE for size in sizes]
    return [*sizes[:-1], sizes[-1] + -sum(sizes) % MULTIPLE]


class Packing:
    """The tokens of padded batches (B_1, T_1), (B_2, T_2), ..., one after another: N in all, real ones on a CPU.

    What a layer computes token by token it computes on (N, D), for all batches at once and not for padding. Tokens meet
    in attention alone, so only there is each batch padded again. What `tokens_computed` adds are copies of a batch's
    first token, which nobody reads. (A GPU computes padding, too: what it would save is less than what it costs to
    pack.)
    """

    def __init__(self, batches: Sequence[Batch]):
        self.shapes = [batch["attention_mask"].shape for batch in batches]
        padded = [batch.real < shape.numel() for batch, shape in zip(batches, self.shapes, strict=True)]
        both = [*zip(batches, padded, strict=True)]
        self.masks = [batch["attention_mask"].bool() if gaps else None for batch, gaps in both]  # (B, T) each
        # Of the tokens that are read, in (B T,), each, and of all that are computed; None where these are B T in order
        self.read = [batch.places if gaps and batch["input_ids"].is_cpu else None for batch, gaps in both]
        self.places, self.cuts = [], []  # cuts: how many of each batch are read, and how many are copies
        for places, shape, size in zip(self.read, self.shapes, tokens_computed(batches), strict=True):
            count = shape.numel() if places is None else len(places)
            self.places.append(places if size == count else with_copies(places, count, size))
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


def with_copies(places: Tensor | None, count: int, size: int) -> Tensor:
    """The places of the `count` tokens that are read, None for 0, 1, ..., and the first one again, `size` in all."""
    places = torch.arange(count) if places is None else places
    return torch.cat([places, places[:1].expand(size - count)])


def dropout(x: Tensor, layer: nn.Dropout) -> Tensor:
    """What `layer` does, on a CPU several times faster: 16 random bits an element instead of a float.

    So the rate is rounded to a multiple of 2^-16, below 1 (and the division uses the rounded one, which keeps the
    expectation exact, in bfloat16 as far as 1 / (1 - p) fits it).
    """
    if not (x.is_cpu and layer.training and layer.p):
        return layer(x)
    drop = min(round(layer.p * 65536), 65535)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= drop - 32768
    return x * keep.to(x.dtype).mul_(65536 / (65536 - drop))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layer: nn.Dropout) -> tuple[Tensor, Tensor]:
    """q, k, v: (B, H, T, K), mask: (B, T), None for no padding -> heads (B, H, T, K), attention (B, H, T, T)."""
    # Transposed, a query a column, and columns in sixteens: on a CPU torch's softmax takes several times as long over a
    # short last axis, and again where what follows its axis does not fill the processor's vectors.
    columns = F.pad(q, (0, 0, 0, -q.shape[2] % 16))
    scores = (k @ columns.mT).div_(math.sqrt(q.shape[-1]))  # (B, H, T, T or a few more)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, :, None], torch.finfo(scores.dtype).min)
    attention = scores.softmax(dim=-2, dtype=torch.promote_types(scores.dtype, torch.float32))
    attention = attention[..., : q.shape[2]].mT  # (B, H, T, T), a query a row
    return dropout(attention, layer).to(v.dtype) @ v, attention


def attend_unseen(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layer: nn.Dropout) -> tuple[Tensor, None]:
    """`attend` where nobody reads the attention, which a GPU then never holds whole."""
    p = layer.p if layer.training else 0.0
    keys = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=p), None


def self_attention(part: SelfAttention, x: Tensor, packing: Packing, seen: bool) -> tuple[Tensor, list[Tensor | None]]:
    """x: (N, D) -> the new x: (N, D), and each batch's attention (B, H, T, T), None unless `seen`."""
    heads, weights = [], []
    one_batch = attend if seen or x.is_cpu else attend_unseen
    for projected, mask in zip(packing.pad(part.query_key_value(x)), packing.masks, strict=True):  # (B, T, 3 D)
        q, k, v = projected.unflatten(-1, (3, part.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        attended, attention = one_batch(q, k, v, mask, part.dropout)
        heads.append(attended.transpose(1, 2).flatten(2))  # (B, T, D)
        weights.append(attention if seen else None)
    return part.output(packing.pack(heads)), weights


def transform(block: Layer, x: Tensor, packing: Packing, seen: bool) -> tuple[Tensor, list[Tensor | None]]:
    """One layer. x: (N, D) -> the new x: (N, D), and each batch's attention (B, H, T, T), None unless `seen`."""
    attended, attention = self_attention(block.attention, x, packing, seen)
    x = block.attention_norm(x + dropout(attended, block.dropout))
    into = block.feed_forward_in
    wide = into(x, "gelu") if isinstance(into, InferenceLinear) else F.gelu(into(x))  # (N, 4 D)
    return block.feed_forward_norm(x + dropout(block.feed_forward_out(wide), block.dropout)), attention


def hidden_states(
    model: BertModel, batches: Sequence[Batch], layer: int = -1, attention: bool = False
) -> list[tuple[Tensor, Tensor | None]]:
    """`model.hidden_state` of several batches in one pass. Hidden states of padding mean nothing; on a CPU they are 0.

    Args:    batches: input_ids, attention_mask, token_type_ids: (B, T) each, every batch with its own B and T.
             layer: -1 the last, -2 the second to last, ...
             attention: whether somebody reads that layer's attention.
    Returns: for each batch the hidden states (B, T, D) and the attention (B, H, T, T), None unless asked for.
    Raises:  ValueError as `model.hidden_state`.
    """
    blocks, packing = model.layers_up_to(layer), Packing(batches)
    positions = [model.positions(batch["input_ids"]).expand_as(batch["input_ids"]) for batch in batches]  # (B, T) each
    ids, types = ([batch[name] for batch in batches] for name in ("input_ids", "token_type_ids"))
    part = model.embeddings
    x = part.word(packing.pack(ids)) + part.token_type(packing.pack(types)) + part.position(packing.pack(positions))
    x = dropout(part.norm(x), part.dropout)  # (N, D)
    for block in blocks:
        x, weights = transform(block, x, packing, seen=attention and block is blocks[-1])
    return list(zip(packing.pad(x), weights, strict=True))


class InferenceLinear(nn.Module):
    """A Linear that computes in one dtype and takes no gradient: its weights are cast once, here.

    On CPUs oneDNN, where it has the product, adds the bias and applies GELU to each block while it is in the cache, and
    uses AVX-512 on AMD's, as MKL does not. The operator is torch.compile's; its name is private, in torch 2.10 as in
    2.13.
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
    """The model as it is now, for inference with products in dtype: a structure of its own over the same weights.

    `hidden_states` of it is that of `torch.autocast` with this dtype, without autocast. The model is not touched, its
    mode and hooks included, so that threads may infer with it at once. Where the weights change, make a new one.
    """
    if isinstance(model, nn.Linear):
        return InferenceLinear(model, dtype).eval()
    children = {name: child and inference_copy(child, dtype) for name, child in model._modules.items()}
    twin = nn.Module.__new__(type(model))  # quicker than copy.copy, which a single sentence would feel
    twin.__dict__.update(model.__dict__, _modules=children, training=False)
    return twin


def keep_freed_memory() -> None:
    """Have the C library keep the memory that tensors free for the next ones.

    glibc gives it back to the system where more lies free than twice the largest block that was freed so far, and takes
    it again page by page, which is 5 % of a step and of encode. It counts blocks of up to 32 MiB: so free such a one.
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8)
