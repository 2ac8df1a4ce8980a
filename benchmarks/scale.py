"""A step with surgery by 1, 2 and 4 processes of this machine: its time, and what each sends.

    python -m benchmarks.scale [--ranks 1,2,4] [--checkpoint DIR] [--data_dir DIR] [--rows 128] [--check]

It is the same step each time, one thread a process, so the efficiency is the time of one over N times that of N. Bytes
are counted where they are sent, as a ring would send them. They are compared with plain data parallelism, which reduces
the gradient of the sum, and with an all-reduce of each task's gradient. Then comes a model of larger runs, from the
rates measured here, or from --flops and --bandwidth of a process: ranks that share cores and memory measure no network.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from argparse import Namespace

import torch
from torch import Tensor

from benchmarks.common import Report, encoder_flops, in_turn, synchronize, timing_parser
from benchmarks.step import STEPS, lengths, session_for, take_steps
from bert import BertConfig, BertModel
from runtime.errors import run_cli
from runtime.ranks import Ranks, World, join

SIZES = {  # hidden size, layers, heads
    "minilm": (384, 6, 12),
    "bert-base": (768, 12, 12),
    "bert-large": (1024, 24, 16),
}
TASKS, TOKENS = 3, 20  # of the model: tasks; tokens of a sentence
LARGE = (2, 8, 64, 256, 1000)
PROBE = 1 << 22  # elements that a rank sends to each other rank, to measure the bandwidth


class CountingRanks(Ranks):
    """Ranks that count the bytes of the large things each of them sends."""

    sent = 0

    def reduce_scatter(self, x: Tensor) -> Tensor:
        self.sent += x.nbytes * (self.size - 1) // self.size
        return super().reduce_scatter(x)

    def all_gather(self, x: Tensor) -> Tensor:
        self.sent += x.nbytes * (self.size - 1) // self.size
        return super().all_gather(x)

    def gather_rows(self, x: Tensor | None) -> Tensor | None:
        self.sent += 0 if x is None else x.nbytes * (self.size - 1)
        return super().gather_rows(x)


def measure_rank(args: Namespace, world: World) -> dict:
    """Measure one rank: seconds and bytes a step, parameters, rates."""
    world = CountingRanks(world.store, world.rank, world.size) if world.size > 1 else world
    session = session_for(args, "gs", args.rows, world=world)

    def steps() -> None:
        world.sent = 0
        take_steps(session)

    seconds = statistics.median(in_turn({"steps": steps}, args.rounds, args.device)["steps"]) / STEPS
    sent = world.sent / STEPS
    probe = torch.zeros(1, world.size * PROBE, device=args.device)
    synchronize(args.device)
    began = time.perf_counter()
    world.reduce_scatter(probe)
    synchronize(args.device)
    bandwidth = (world.size - 1) * PROBE * 4 / (time.perf_counter() - began)
    dense = sum(p.numel() for p in session.model.parameters() if p.requires_grad)
    flops = 3 * encoder_flops(session.model.bert.config, lengths(session)) / STEPS
    return {
        "seconds": seconds,
        "sent": sent,
        "dense": dense,
        "rate": flops / seconds,
        "bandwidth": bandwidth,
        "tasks": len(session.rows),
    }


def measure_ranks(count: int, words: list[str]) -> dict:
    """What `measure_rank` finds in `count` processes of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "-m", "benchmarks.scale"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *words, "--worker"], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def parameters_of(name: str) -> tuple[int, int]:
    """An encoder's parameters, and its floating-point operations in a step for one sentence."""
    size, layers, heads = SIZES[name]
    config = BertConfig(
        hidden_size=size, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * size
    )
    with torch.device("meta"):
        return sum(p.numel() for p in BertModel(config).parameters()), 3 * encoder_flops(config, [TOKENS])


def modelled(name: str, ranks: int, rows: int, flops: float, bandwidth: float) -> dict[str, float]:
    """A step with dense gradients in float32 and `rows` sentences a rank: seconds, shares of computing and of surgery.

    T + 1 passes over P elements, N - 1 of N parts each: T to scatter the task gradients, one to gather the weights. The
    plain sum has two. Latency, and computing while bytes are sent, are left out.
    """
    elements, row_flops = parameters_of(name)
    one_pass = 4 * elements * (ranks - 1) / ranks / bandwidth
    compute = rows * row_flops / flops
    total = compute + (TASKS + 1) * one_pass
    return {"seconds": total, "computing": compute / total, "surgery": (TASKS - 1) * one_pass / total}


def main(argv: list[str] | None = None) -> int:
    parsed = timing_parser(__doc__)
    parsed.add_argument("--rows", type=int, default=128, help="of each task in a batch (default: %(default)s)")
    parsed.add_argument("--ranks", default="1,2,4", help="numbers of processes (default: %(default)s)")
    parsed.add_argument("--flops", type=float, help="a process computes in a second (default: as measured)")
    parsed.add_argument("--bandwidth", type=float, help="bytes that a process sends in a second (default: as measured)")
    parsed.add_argument("--worker", action="store_true", help="one of the processes; started by this program")
    args = parsed.parse_args(argv)
    if args.worker:
        with join() as world:
            print(json.dumps(measure_rank(args, world)))
        return 0
    report, words = Report(), sys.argv[1:] if argv is None else argv
    counts = [int(count) for count in args.ranks.split(",")]
    by_count = {count: measure_ranks(count, words) for count in counts}
    first, cores = by_count[counts[0]], len(os.sched_getaffinity(0))
    for count, figures in by_count.items():
        efficiency = counts[0] * first["seconds"] / (count * figures["seconds"])
        bar = {"at_least": 0.85} if 1 < count <= cores else {}
        setting = {"unit": "s a step", "rows": args.rows, "cores": cores}
        report.figure(f"scale: {count} processes", figures["seconds"], first["seconds"], efficiency, **bar, **setting)
        if count > 1:
            plain = 2 * 4 * figures["dense"] * (count - 1) / count
            for peer, theirs in (("plain DDP", plain), ("T all-reduces", figures["tasks"] * plain)):
                name = f"scale: bytes a step and rank, {count} processes / {peer}"
                report.figure(name, figures["sent"], theirs, figures["sent"] / theirs)
    flops = args.flops or first["rate"]
    bandwidth = args.bandwidth or max(figures["bandwidth"] for figures in by_count.values())
    for name in SIZES:
        for count in LARGE:
            step = modelled(name, count, 5 * args.rows, flops, bandwidth) if bandwidth else {}
            print(json.dumps({"model": name, "ranks": count, **{key: float(f"{x:.3g}") for key, x in step.items()}}))
    return report.exit_code(args.check)


if __name__ == "__main__":
    sys.exit(run_cli(main))
