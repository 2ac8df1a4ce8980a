"""Milliseconds of a training step: ours, plain sum and surgery, against transformers and torchjd.

    python -m benchmarks.step [--check] [--device cuda] [--checkpoint DIR] [--data_dir DIR] [--rows 8]

All train every weight of minilm, with dropout, on the same rows: `rows` of each task a step. The peers run
transformers' model on each task's padded batch, with small siamese heads and torch's fused AdamW; their surgery is
torchjd's mtl_backward and PCGrad. Only we put rows of similar length in one batch. So the peers get the same rows
shuffled, as from a DataLoader: the bars are for these. Without a bar, they get our own batches too.
Needs the extra: pip install -e '.[test]'
"""

import argparse
import io
import math
import random
import statistics
import sys
import tempfile
from contextlib import redirect_stderr
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import train_multitask
from benchmarks.common import Products, Report, encoder_flops, in_turn, quotient, timing_parser, transformers_model
from bert.precision import DTYPES, autocast, resolve_precision
from heads.rows import TaskBatch, on_device
from optim import TaskGradients
from optim.task_gradients import clip_and_combine
from runtime.errors import run_cli
from runtime.ranks import ALONE, World
from runtime.seeds import generator
from training.options import parse
from training.session import Session

STEPS = 4  # of each measurement, each on another batch
# Passes over memory as large as the dense weights that every step needs. The plain sum: the gradient is written; AdamW
# reads it, the weights and two moments, and writes the last three. Surgery: three task gradients are written, read
# for the Gramian, read and summed into one; then AdamW's seven.
PASSES = {"mtl": 8, "gs": 17}
HOME = tempfile.TemporaryDirectory(prefix="bench-")  # of the sessions' folders; removed at the end


class Peer(nn.Module):
    """transformers' BERT, mean pooling, a linear layer a task; the two sides of a pair in one batch."""

    def __init__(self, checkpoint: str, attention: str, amp: str, surgery: bool, device: str):
        super().__init__()
        self.bert = transformers_model(checkpoint, attention)
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
        return (F.binary_cross_entropy_with_logits if task == "para" else F.mse_loss)(y, labels.float())

    def steps(self, batches: list[dict[str, TaskBatch]]) -> None:
        for batch in batches:
            self.step(batch)

    def step(self, batches: dict[str, TaskBatch]) -> None:
        with autocast(self.device, self.amp):
            x = {task: self.features(batch) for task, batch in batches.items()}
            losses = [self.loss(task, x[task], batch.labels) for task, batch in batches.items()]
        if self.surgery:
            from torchjd.aggregation import PCGrad  # here, so that the rest can be imported without it
            from torchjd.autojac import jac_to_grad, mtl_backward

            mtl_backward(losses, features=list(x.values()))
            jac_to_grad(list(self.bert.parameters()), PCGrad(), optimize_gramian_computation=True)
        else:
            sum(losses).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def session_for(args: argparse.Namespace, strategy: str, rows: int, *more: object, world: World = ALONE) -> Session:
    """A session as the command makes it, in a temporary folder. more: words of the command, which win."""
    words = ["--strategy", strategy, "--batch_size", rows, "--checkpoint", args.checkpoint, "--device", args.device]
    words += ["--epochs", 1000, "--lr", 1e-5, "--output_dir", tempfile.mkdtemp(dir=HOME.name)]
    words += ["--save_every", 10**9, "--eval_every", 10**9, "--log_every", 10**9]
    words += ["--data_dir", args.data_dir] if args.data_dir else []
    return Session(parse([str(word) for word in (*words, *more)]), world)


def take_steps(session: Session, count: int = STEPS) -> None:
    """Take the first steps again, by the program's own loop, without evaluation and checkpoint."""
    session.state.step, session.last_step = 0, count
    session.is_due = lambda every: False
    with redirect_stderr(io.StringIO()):
        train_multitask.train(session)


def shuffled(session: Session) -> list[dict[str, TaskBatch]]:
    """The rows of our first steps, shuffled into batches of the same size, whatever their length."""
    draw, batches = random.Random(0), [{} for _ in range(STEPS)]
    for task, rows in session.rows.items():
        numbers = [row for step in range(STEPS) for row in rows.stream[step]]
        draw.shuffle(numbers)
        for step, batch in enumerate(batches):
            batch[task] = rows.batch(numbers[step::STEPS])
    return [on_device(batch, session.device) for batch in batches]


def lengths(session: Session) -> list[int]:
    """The length of each sentence in the first steps, in tokens."""
    batches = [b for step in range(STEPS) for micro, _ in session.micro_batches(step) for b in micro.values()]
    return [length for batch in batches for length in batch.tokens.attention_mask.sum(1).tolist()]


def gradient(session: Session, dtype: torch.dtype = torch.float32) -> Tensor:
    """The first batch's .grad of the shared parameters, without dropout and clipping: (P,) float64 on the CPU.

    It is computed in the session's precision, by a model in dtype.
    """
    model, gradients = session.model.eval().to(dtype), session.gradients
    gradients = TaskGradients(gradients.tasks, gradients.shared, sparse=gradients.sparse)
    ((batches, _),) = session.micro_batches(0)
    with gradients.by_rows(model, *gradients.sizes(model.row_counts(batches))):
        with autocast(session.device, session.amp):
            losses = model.losses(batches, session.options.losses, session.previous, torch.Generator())
        session.scaler.scale(sum(losses.values())).backward()
    clip_and_combine(gradients, session.surgery, model.parameters(), math.inf, generator(0, "surgery", 0))
    parts = [p.grad.to_dense().flatten().double().cpu() for p in model.shared_parameters() if p.grad is not None]
    return torch.cat(parts) / session.scaler.get_scale()


def main(argv: list[str] | None = None) -> int:
    parsed = timing_parser(__doc__)
    parsed.add_argument("--rows", type=int, default=8, help="of each task in a batch (default: %(default)s)")
    args = parsed.parse_args(argv)
    device = torch.device(args.device)
    amp = resolve_precision("auto", device)
    larger = "gs, 4 x the rows"
    shapes = {"mtl": ("mtl", args.rows), "gs": ("gs", args.rows), larger: ("gs", 4 * args.rows)}
    runs = {name: session_for(args, *shape) for name, shape in shapes.items()}
    actions = {name: lambda run=run: take_steps(run) for name, run in runs.items()}
    ours = [batches for step in range(STEPS) for batches, _ in runs["gs"].micro_batches(step)]
    orders = {"shuffled": shuffled(runs["gs"]), "our batches": ours}
    for library in ("transformers", "torchjd"):
        for attention in ("eager", "sdpa"):
            for kind in dict.fromkeys(("off", amp)):
                peer = Peer(args.checkpoint, attention, kind, library == "torchjd", args.device)
                for order, batches in orders.items():
                    if order == "shuffled" or kind == amp:
                        actions[f"{library} {attention} {kind}, {order}"] = partial(peer.steps, batches)
    products = Products(DTYPES.get(amp, torch.float32), args.device)
    words = runs["gs"].model.bert.embeddings.word.weight
    dense = torch.zeros(sum(p.numel() for p in runs["gs"].model.parameters() if p is not words), device=device)
    copy = partial(torch.empty_like(dense).copy_, dense)  # two passes
    seconds = in_turn({**actions, "products": products, "copy": copy}, args.rounds, args.device)
    ms = {name: 1000 * statistics.median(times) / STEPS for name, times in seconds.items()}

    flops = 3 * encoder_flops(runs["gs"].model.bert.config, lengths(runs["gs"])) / STEPS
    multiply = flops / products.flops * 1000 * statistics.median(seconds["products"])
    limits = {name: multiply + 1000 * statistics.median(seconds["copy"]) / 2 * count for name, count in PASSES.items()}
    report, setting = Report(), {"unit": "ms a step", "rows": args.rows, "precision": amp}
    for strategy, library, bar, share in (("mtl", "transformers", 1.5, 0.4), ("gs", "torchjd", 4.0, 0)):  # 0: no bar
        peers = [name for name in actions if name.startswith(library)]
        limit = limits[strategy]
        quickest = min([name for name in peers if name.endswith("shuffled")], key=ms.get)
        for name in peers:
            least = bar if name == quickest and amp == "bf16" else 0
            ratio = quotient(seconds[name], seconds[strategy])
            report.figure(f"{strategy} step / {name}", ms[strategy], ms[name], ratio, least, limit=limit, **setting)
        name = f"{strategy} step / limit: matrix products and passes over memory"
        report.figure(name, ms[strategy], None, limit / ms[strategy], share, limit=limit, **setting)
    price = quotient(seconds["gs"], seconds["mtl"])
    report.figure("surgery's price: gs / mtl", ms["gs"], ms["mtl"], price, at_most=1.2, **setting)
    tokens = {name: sum(lengths(run)) for name, run in runs.items()}
    fewer = tokens["gs"] / tokens[larger]
    growth = quotient(seconds[larger], seconds["gs"]) * fewer
    # More tokens share only the passes over the weights: where products are slow, the limit's own ratio is above 0.8.
    of_limit = (multiply + (limits["gs"] - multiply) * fewer) / limits["gs"]
    bar = max(0.8, round(of_limit, 3))
    report.figure("growth: time a token, 4 x / 1 x the rows", ms[larger], ms["gs"], growth, at_most=bar, **setting)
    low = gradient(session_for(args, "gs", args.rows, "--amp", amp))
    exact = gradient(session_for(args, "gs", args.rows, "--amp", "off"), torch.float64)
    error = ((low - exact).norm() / exact.norm()).item()
    name = "gradient's relative error, against float64"
    report.figure(name, error, None, error, at_most=2e-2, rows=args.rows, precision=amp)
    return report.exit_code(args.check)


if __name__ == "__main__":
    sys.exit(run_cli(main))
