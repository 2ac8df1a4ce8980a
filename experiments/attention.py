"""A picture of what each token of a text, or of a pair, attends to.

    python -m experiments.attention "The dog sleeps because it is tired." --layer -1 --output attention.png
    python -m experiments.attention "A man is eating." "Someone has a meal." --head 3 --checkpoint runs/x

A row is the token that looks, a column the one that is looked at; a row sums to 1. Most attention goes to [CLS] and
[SEP], so the colours end at the largest value among the words. Needs the extra: pip install -e '.[pictures]'
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bert import BertModel, BertTokenizer
from bert.hub import resolve
from experiments.pictures import Figure, file_name, new_figure, save
from heads.files import model_folder
from runtime.errors import UsageError, run_cli
from runtime.settings import OptionParser, negative_int, non_negative_int

MOST_TOKENS = 128  # more would be unreadable


def heat_map(attention: Tensor, tokens: Sequence[str], title: str) -> Figure:
    """attention: (T, T), a row for each token that looks; tokens: T. Raises UsageError where matplotlib is missing."""
    words = [i for i, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]")]
    size = 2.2 + 0.22 * len(tokens)
    figure = new_figure(size + 0.6, size)
    ax = figure.add_subplot(title=title, xlabel="looks at", ylabel="token")
    image = ax.imshow(attention.numpy(), cmap="Blues", vmin=0, vmax=attention[:, words or ...].max().item())
    ax.set_xticks(range(len(tokens)), tokens, rotation=90)
    ax.set_yticks(range(len(tokens)), tokens)
    figure.colorbar(image, shrink=0.7, extend="max", label="attention")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("text")
    parser.add_argument("pair", nargs="?", help="a second text, read together with the first")
    parser.add_argument("--checkpoint", default="minilm", help="a run, a folder or a Hub id (default: minilm)")
    parser.add_argument("--layer", type=negative_int, default=-1, help="-1 the last, -2 the one below (default: -1)")
    parser.add_argument("--head", type=non_negative_int, help="one of the layer's, from 0 (default: the mean of all)")
    parser.add_argument(
        "--output", type=file_name, default=Path("attention.png"), help="the PNG (default: attention.png)"
    )
    args = parser.parse_args(argv)
    folder = model_folder(resolve(args.checkpoint))
    model, tokenizer = BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    depth, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    if args.layer < -depth:
        raise UsageError(f"--layer: expected -{depth} to -1 (the model has {depth} layers); found {args.layer}")
    if args.head is not None and args.head >= heads:
        raise UsageError(f"--head: expected 0 to {heads - 1} (the model has {heads} heads); found {args.head}")
    if (count := tokenizer.lengths(args.text, args.pair)[0]) > MOST_TOKENS:
        raise UsageError(f"text: expected up to {MOST_TOKENS} tokens, pair included; found {count}; shorten it")
    batch = tokenizer(args.text, args.pair)
    with torch.inference_mode():
        attention = model(**batch, output_attentions=True).attentions[args.layer][0]  # (H, T, T)
    if args.head is None:
        attention, which = attention.mean(0), "mean of the heads"  # (T, T)
    else:
        attention, which = attention[args.head], f"head {args.head}"  # (T, T)
    title = f"{args.checkpoint}, layer {args.layer}, {which}"
    save(heat_map(attention, tokenizer.tokens(batch.input_ids[0].tolist()), title), args.output)
    print(args.output)


if __name__ == "__main__":
    sys.exit(run_cli(main))
