"""Milliseconds of a training step: ours, plain sum and surgery, against transformers and torchjd.

    python -m benchmarks.step [--check] [--device cuda] [--data_dir DIR] [--rows 8]

All train minilm on the same batches, `rows` of each task, with dropout, every weight. The peers run transformers' model
on each task's padded batch, with small siamese heads; the plain sum is stepped by torch's fused AdamW, and so is
surgery, by torchjd's mtl_backward and PCGrad. Needs the extra: pip install -e '.[bench]'
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchjd.aggregation import PCGrad
from torchjd.autojac import jac_to_grad, mtl_backward
from transformers import AutoModel
from transformers.utils import logging

import train_multitask
from benchmarks.common import Report, add_data_dir, encoder_flops, in_turn, parser, product_rate, quotient
from bert.hub import resolve
from heads.multitask import TaskBatch
from training import precision
from training.run import Run, Splits

STEPS = 4  # of each measurement, each on another batch


class Peer(nn.Module):
    """transformers' BERT, mean pooling, a linear layer a task; the two sides of a pair in one batch."""

    def __init__(self, attention: str, amp: str, surgery: bool, device: str):
        super().__init__()
        self.bert = AutoModel.from_pretrained(resolve("minilm"), attn_implementation=attention, add_pooling_layer=False)
        size = self.bert.config.hidden_size
        heads = {"sst": nn.Linear(size, 5), "para": nn.Linear(3 * size, 1), "sts": nn.Linear(3 * size, 1)}
        self.heads = nn.ModuleDict(heads)
        self.train().to(device)
        self.device, self.amp, self.surgery = torch.device(device), amp, surgery
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=1e-5, fused=True)

    def features(self, batch: TaskBatch) -> Tensor:
        """(N, D)"""
        tokens = {**batch.tokens, "attention_mask": batch.tokens.attention_mask.long()}
        states, mask = self.bert(**tokens).last_hidden_state, batch.tokens.attention_mask[..., None]
        return (states * mask).sum(1) / mask.sum(1)

    def loss(self, task: str, x: Tensor, labels: Tensor) -> Tensor:
        if task == "sst":
            return F.cross_entropy(self.heads["sst"](x).float(), labels)
        a, b = x.chunk(2)
        y = self.heads[task](torch.cat([a, b, (a - b).abs()], dim=1))[:, 0].float()
        return F.binary_cross_entropy_with_logits(y, labels) if task == "para" else F.mse_loss(y, labels)

    def step(self, batches: dict[str, TaskBatch]) -> None:
        with precision.autocast(self.device, self.amp):
            x = {task: self.features(batch) for task, batch in batches.items()}
            losses = [self.loss(task, x[task], batch.labels) for task, batch in batches.items()]
        if self.surgery:
            mtl_backward(losses, features=list(x.values()))
            jac_to_grad(list(self.bert.parameters()), PCGrad(), optimize_gramian_computation=True)
        else:
            sum(losses).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def options_for(args: argparse.Namespace, strategy: str, rows: int) -> tuple[argparse.Namespace, object]:
    """As the command would be given them."""
    words = ["--strategy", strategy, "--batch_size", rows, "--device", args.device, "--epochs", 1000, "--lr", 1e-5]
    words += ["--data_dir", args.data_dir] if args.data_dir else []
    options = train_multitask.build_parser().parse_args([str(word) for word in words])
    return options, train_multitask.settle(options)


def take_steps(run: Run) -> None:
    """The first steps' batches, once more."""
    for step in range(STEPS):
        run.state.step = step
        train_multitask.train_step(run)


def lengths(run: Run) -> list[int]:
    """Of each sentence in the first steps, in tokens."""
    batches = [batch for step in range(STEPS) for found, _ in run.micro_batches(step) for batch in found.values()]
    return [length for batch in batches for length in batch.tokens.attention_mask.sum(1).tolist()]


def gradient(run: Run, amp: str) -> Tensor:
    """What surgery makes of the first batch's gradients, without dropout: (P,) float64."""
    run.model.eval()
    run.amp, run.state.step = amp, 0
    train_multitask.backward(run)
    train_multitask.operate(run)
    found = torch.cat([p.grad.to_dense().flatten().double() for p in run.shared if p.grad is not None])
    run.optimizer.zero_grad()
    return found


def main(argv: list[str] | None = None) -> int:
    parsed = parser(__doc__)
    add_data_dir(parsed)
    parsed.add_argument("--rows", type=int, default=8, help="of each task in a batch (default: %(default)s)")
    args = parsed.parse_args(argv)
    logging.disable_progress_bar()
    device = torch.device(args.device)
    amp = precision.resolve("auto", device)
    splits: Splits = train_multitask.read_data(options_for(args, "gs", args.rows)[0])
    more = "gs, 4 x the rows"
    shapes = {"mtl": ("mtl", args.rows), "gs": ("gs", args.rows), more: ("gs", 4 * args.rows)}
    runs = {name: Run(*options_for(args, *shape), splits) for name, shape in shapes.items()}
    actions = {name: lambda run=run: take_steps(run) for name, run in runs.items()}
    batches = [found for step in range(STEPS) for found, _ in runs["gs"].micro_batches(step)]
    for library in ("transformers", "torchjd"):
        for attention in ("eager", "sdpa"):
            for kind in dict.fromkeys(("off", amp)):
                peer = Peer(attention, kind, library == "torchjd", args.device)
                actions[f"{library} {attention} {kind}"] = lambda peer=peer: [peer.step(batch) for batch in batches]
    seconds = in_turn(actions, args.rounds, args.device)
    ms = {name: 1000 * statistics.median(found) / STEPS for name, found in seconds.items()}

    rate = product_rate(precision.DTYPES.get(amp, torch.float32), args.device)
    limit = 1000 * 3 * encoder_flops(runs["gs"].model.bert.config, lengths(runs["gs"])) / STEPS / rate
    report, setting = Report(args.device), {"unit": "ms a step", "rows": args.rows, "precision": amp}
    for strategy, library, bar in (("mtl", "transformers", 1.5), ("gs", "torchjd", 4.0)):
        peers = [name for name in actions if name.startswith(library)]
        for name in peers:
            bars = {"at_least": bar, "needs_bfloat16": True} if name == min(peers, key=ms.get) else {}
            ratio = quotient(seconds[name], seconds[strategy])
            report.figure(f"{strategy} step / {name}", ms[strategy], ms[name], ratio, limit, **bars, **setting)
    price = quotient(seconds["gs"], seconds["mtl"])
    report.figure("surgery's price: gs / mtl", ms["gs"], ms["mtl"], price, at_most=1.2, **setting)
    tokens = {name: sum(lengths(run)) for name, run in runs.items()}
    growth = quotient(seconds[more], seconds["gs"]) * tokens["gs"] / tokens[more]
    report.figure("growth: time a token, 4 x / 1 x the rows", ms[more], ms["gs"], growth, at_most=1.0, **setting)
    low, exact = (gradient(runs["gs"], kind) for kind in ("bf16", "off"))
    error = ((low - exact).norm() / exact.norm()).item()
    report.figure("bfloat16 gradient's relative error", error, None, error, at_most=2e-2, rows=args.rows)
    return report.exit_code(args.check)


if __name__ == "__main__":
    sys.exit(main())
