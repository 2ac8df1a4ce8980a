"""How the price of a step with surgery grows with the rows of a batch and with the number of tasks: minilm.

    python -m benchmarks.growth [--check] [--device cuda] [--checkpoint DIR] [--data_dir DIR]

With 8, 32 and 128 rows of each of the three tasks, real text; then with 2, 4 and 8 synthetic tasks (a random regression
each) that divide 64 sentences of 20 tokens among themselves, against the plain sum of the same tasks.
"""

import math
import statistics
import sys

import torch
from torch import Tensor

from benchmarks.common import Report, in_turn, quotient, timing_parser
from benchmarks.step import STEPS, lengths, session_for, take_steps
from bert import BertModel
from bert.fast import hidden_states
from bert.precision import autocast, resolve_precision
from bert.tokenizer import Batch
from heads.pooling import mean
from optim import AdamW, TaskGradients
from optim.surgery import SURGERIES
from optim.task_gradients import clip_and_combine
from runtime.errors import run_cli

SENTENCES, TOKENS = 64, 20


class Synthetic:
    """T tasks that share an encoder: each predicts random numbers from its sentences' mean vectors."""

    def __init__(self, checkpoint: str, tasks: int, surgery: bool, device: str):
        self.device, self.tasks = torch.device(device), [str(task) for task in range(tasks)]
        self.surgery = SURGERIES["pcgrad"]() if surgery else None
        self.amp = resolve_precision("auto", self.device)
        self.bert = BertModel.from_pretrained(checkpoint).to(device).train()
        words = self.bert.embeddings.word
        words.sparse = device == "cpu"
        shared = list(self.bert.parameters()) if surgery else []
        self.gradients = TaskGradients(self.tasks, shared, sparse=[words.weight] * words.sparse)
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 30000, (SENTENCES, TOKENS), generator=draw)
        mask = torch.ones_like(ids, dtype=torch.bool)
        self.batch = Batch(input_ids=ids, attention_mask=mask, token_type_ids=ids * 0).to(device)
        self.target = torch.randn(SENTENCES, self.bert.config.hidden_size, generator=draw).to(device)
        self.optimizer = AdamW(self.bert.parameters(), lr=1e-5)

    def loss(self) -> Tensor:
        """The sum of the tasks' losses."""
        with autocast(self.device, self.amp):
            ((states, _),) = hidden_states(self.bert, [self.batch])
        x = mean(states.float(), self.batch.attention_mask)
        return (x - self.target).square().mean() * len(self.tasks)

    def step(self) -> None:
        tokens = [SENTENCES // len(self.tasks) * TOKENS] * len(self.tasks)
        with self.gradients.by_rows(self.bert, tokens):
            self.loss().backward()
        clip_and_combine(self.gradients, self.surgery, self.bert.parameters(), math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()


def main(argv: list[str] | None = None) -> int:
    args = timing_parser(__doc__).parse_args(argv)
    report = Report()
    runs = {f"{rows} rows of each task": session_for(args, "gs", rows) for rows in (8, 32, 128)}
    seconds = in_turn({name: lambda run=run: take_steps(run) for name, run in runs.items()}, args.rounds, args.device)
    first = None
    for name, run in runs.items():
        tokens = sum(lengths(run))
        first = first or (seconds[name], tokens)
        ratio = quotient(seconds[name], first[0]) * first[1] / tokens
        time = 1e6 * statistics.median(seconds[name]) / tokens
        setting = {"unit": "us a token", "tokens": tokens // STEPS, "precision": run.amp}
        report.figure(f"growth: {name}", time, None, ratio, at_most=1.0, **setting)
    for tasks, bar in ((2, math.inf), (4, math.inf), (8, 1.35)):  # inf: no bar
        both = {name: Synthetic(args.checkpoint, tasks, name == "gs", args.device) for name in ("gs", "mtl")}
        seconds = in_turn({name: work.step for name, work in both.items()}, args.rounds, args.device)
        gs, mtl = (1e6 * statistics.median(seconds[name]) / (SENTENCES * TOKENS) for name in ("gs", "mtl"))
        ratio = quotient(seconds["gs"], seconds["mtl"])
        report.figure(f"growth: {tasks} tasks, gs / mtl", gs, mtl, ratio, at_most=bar, unit="us a token")
    return report.exit_code(args.check)


if __name__ == "__main__":
    sys.exit(run_cli(main))
