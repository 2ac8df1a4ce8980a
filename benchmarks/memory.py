"""Peak memory of a step of a bert-base-size model: surgery against the plain sum, above the weights and moments.

    python -m benchmarks.memory [--check] [--device cuda] [--rows 32]

Each is measured in a process of its own: the peak of its resident memory (on a GPU, of what torch allocates) over three
steps, less what Python and torch take before, the weights and AdamW's moments. Random weights and tokens, float32.
"""

import math
import subprocess
import sys

import torch

from benchmarks.common import Report, parser
from bert import BertConfig, BertModel
from bert.precision import peak_memory
from bert.tokenizer import Batch
from heads import MultitaskBert
from heads.losses import LossSettings, PreviousStep
from heads.rows import TaskBatch, on_device
from optim import AdamW, TaskGradients
from optim.surgery import SURGERIES
from optim.task_gradients import clip_and_combine
from runtime.errors import run_cli

TOKENS = 20  # of a sentence


def measure(strategy: str, rows: int, device: str) -> int:
    """Peak memory of three steps in bytes, above the weights and moments."""
    before = peak_memory(torch.device(device))
    with torch.device(device):
        model = MultitaskBert(BertModel(BertConfig()), tokenizer=None).train()
    words = model.bert.embeddings.word
    words.sparse = device == "cpu"
    surgery = SURGERIES["pcgrad"]() if strategy == "gs" else None
    gradients = TaskGradients(
        list(model.tasks), model.shared_parameters() if surgery else [], sparse=[words.weight] * words.sparse
    )
    optimizer, previous, draw = AdamW(model.parameters()), PreviousStep(), torch.Generator().manual_seed(0)
    for _ in range(3):
        batches = random_batches(model, rows, draw, device)
        with gradients.by_rows(model, *gradients.sizes(model.row_counts(batches))):
            sum(model.losses(batches, LossSettings(), previous, draw).values()).backward()
        clip_and_combine(gradients, surgery, model.parameters(), math.inf, draw)
        previous.end_step()
        optimizer.step()
        optimizer.zero_grad()
        values = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        for value in values:
            value.mul_(1)  # moments of unseen words take no memory until they are written to
    state_bytes = sum(value.numel() * 4 for value in [*model.parameters(), *values])
    return round(1e9 * (peak_memory(torch.device(device)) - before)) - state_bytes


def random_batches(model: MultitaskBert, rows: int, draw: torch.Generator, device: str) -> dict[str, TaskBatch]:
    """`rows` random rows of each task."""
    batches = {}
    for name, task in model.tasks.items():
        ids = torch.randint(1000, 30000, (rows * len(task.texts), TOKENS), generator=draw)
        tokens = Batch(input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool), token_type_ids=ids * 0)
        labels = torch.randint(0, 2, (rows,), generator=draw)
        batches[name] = TaskBatch(tokens, labels, [])
    return on_device(batches, torch.device(device))


def main(argv: list[str] | None = None) -> int:
    parsed = parser(__doc__)
    parsed.add_argument("--rows", type=int, default=32, help="of each task in a batch (default: %(default)s)")
    parsed.add_argument("--measure", choices=("mtl", "gs"), help="only this one, in this process")
    args = parsed.parse_args(argv)
    if args.measure:
        print(measure(args.measure, args.rows, args.device))
        return 0
    words = ["--rows", str(args.rows), "--device", args.device, "--measure"]
    command = [sys.executable, "-m", "benchmarks.memory", *words]
    gs, mtl = (int(subprocess.check_output([*command, strategy])) / 2**30 for strategy in ("gs", "mtl"))
    report = Report()
    report.figure("peak memory: gs / mtl", gs, mtl, gs / mtl, at_most=1.5, unit="GiB", rows=args.rows)
    return report.exit_code(args.check)


if __name__ == "__main__":
    sys.exit(run_cli(main))
