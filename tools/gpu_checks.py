"""Checks of tools/on_gpu.py: whether a GPU computes what the CPU does, repeats itself, and goes on where it stopped.

A section is a function that yields, for each check, its name and a function that returns its numbers and "ok".
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stderr
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

import train_multitask
from benchmarks.step import gradient, session_for
from bert.precision import computes_bf16
from heads import MultitaskBert
from optim.surgery.gramian import gramian
from training.checkpoint import load_latest, saved, step_of

STEPS = 20
# Bounds of relative errors after these steps, against the CPU in float32: of all steps' losses, as a vector, and of the
# change of the weights. The latter is larger, for Adam makes steps of full length even of the smallest gradients, with
# their rounding. Measured with these precisions emulated on a CPU: losses 2e-7, 4e-3, 5e-4; weights 7e-5, 0.05, 0.012.
# The bounds are about four times that. float32's are between it and TF32, emulated in the linear layers: 4e-4 and 6e-3.
AFTER_STEPS = {"off": (5e-5, 2e-3), "bf16": (2e-2, 0.2), "fp16": (2e-3, 0.05)}
# For the first gradient, as a vector, against float64. Measured as above: 3e-6 to 3e-5, 0.02 to 0.03, 0.003 to 0.01;
# with TF32 in the linear layers 2e-3 to 1e-2, in the convolution alone 6e-3.
FIRST_GRADIENT = {"off": 2e-4, "bf16": 0.1, "fp16": 0.04}
HEADS = (("v1", "cls"), ("v2", "attention_mean"), ("v3a", "cnn"))  # cnn: cuDNN uses TF32 by default


class LeftOut(Exception):
    """Raised for what cannot be checked here. Its text says why."""


def parity(args: Namespace) -> Iterator[tuple[str, Callable[[], dict]]]:
    for strategy in ("mtl", "gs"):
        reference = cache(partial(trained, args, strategy, "off", "cpu"))
        for amp in AFTER_STEPS:
            yield f"{strategy} {amp}: {STEPS} steps", partial(after_steps, args, strategy, amp, reference)
    for arch, pooling in HEADS:
        compute_gradient = partial(first_gradient, args, arch, pooling)
        exact = cache(partial(compute_gradient, "off", "cpu", torch.float64))
        for amp in FIRST_GRADIENT:
            yield f"gs {amp}: first gradient, {arch}, {pooling}", partial(gradient_error, amp, compute_gradient, exact)


def check_precision(amp: str) -> None:
    if amp == "bf16" and not computes_bf16(torch.device("cuda")):
        raise LeftOut("this GPU does not compute in bfloat16")


def trained(args: Namespace, strategy: str, amp: str, device: str) -> tuple[list[dict], Tensor, Tensor]:
    """Train without dropout, whose draws differ by device. Returns the log's lines, the weights before and after."""
    words = ("--amp", amp, "--device", device, "--max_steps", STEPS, "--log_every", 1)
    words += ("--lr", 1e-4, "--head_lr_scale", 1)  # the bounds were measured so
    session = session_for(args, strategy, 8, *words)
    session.model.eval()
    session.is_due = lambda every: every == 1  # a line for each step; no evaluation, no checkpoint
    before = flat(session.model)
    with redirect_stderr(io.StringIO()):
        train_multitask.train(session)
    lines = [json.loads(line) for line in (session.out / "log.jsonl").read_text().splitlines()]
    return lines, before, flat(session.model)


def flat(model: MultitaskBert) -> Tensor:
    """The encoder's weights, without the keys' biases: these add the same to all scores of a query, so their gradients
    are rounding alone, and Adam makes whole steps of it. The same holds for some heads, so they are left out too."""
    parts = []
    for name, weight in model.bert.named_parameters():
        thirds = weight.detach().double().cpu().flatten().chunk(3)
        parts += thirds[::2] if name.endswith("query_key_value.bias") else thirds
    return torch.cat(parts)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def after_steps(args: Namespace, strategy: str, amp: str, reference: Callable) -> dict:
    check_precision(amp)
    (lines, _, weights), (expected, before, goal) = trained(args, strategy, amp, "cuda"), reference()
    losses, expected_losses = (torch.tensor([[*line["losses"].values()] for line in log]) for log in (lines, expected))
    loss, change = relative(losses, expected_losses), relative(weights - before, goal - before)
    limits, skipped = AFTER_STEPS[amp], sum("skipped" in line for line in lines)
    ok = loss < limits[0] and change < limits[1]
    return {"ok": ok, "loss": loss, "change": change, "limits": list(limits), "skipped": skipped}


def first_gradient(args: Namespace, arch: str, pooling: str, amp: str, device: str, dtype=torch.float32) -> Tensor:
    words = ("--arch", arch, "--pooling", pooling, "--amp", amp, "--device", device)
    session = session_for(args, "gs", 8, *words)
    session.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10, enabled=amp == "fp16")  # as after some steps
    return gradient(session, dtype)


def gradient_error(amp: str, compute_gradient: Callable, exact: Callable[[], Tensor]) -> dict:
    check_precision(amp)
    error = relative(compute_gradient(amp, "cuda"), exact())
    return {"ok": error < FIRST_GRADIENT[amp], "error": error, "limit": FIRST_GRADIENT[amp]}


def resume(args: Namespace) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Whole runs of the real command, several at a time: of each kind two, and one that is stopped and resumed."""
    pool = ThreadPoolExecutor(max(1, min(8, os.cpu_count() // 2)))
    kinds = [(strategy, *more) for strategy in ("gs", "mtl") for more in ((), ("--deterministic",))]
    runs = {kind: [pool.submit(run, args, kind, number) for number in range(3)] for kind in kinds}
    try:
        for kind, (first, second, stopped) in runs.items():
            yield f"{' '.join(kind)}: the same run twice", partial(same_bits, first, second)
            yield f"{' '.join(kind)}: SIGTERM, then --resume auto", partial(same_bits, first, stopped, second)
    finally:
        pool.shutdown(cancel_futures=True)


def run(args: Namespace, kind: tuple[str, ...], number: int) -> tuple[Path, int | None]:
    """Do a run and return its folder. The third run is stopped and resumed: also returns the step where it stopped."""
    out, steps = args.home / f"{'-'.join(kind)}-{number}", str(args.sizes.run)
    command = [sys.executable, train_multitask.__file__, "--device", "cuda", "--checkpoint", args.checkpoint]
    command += ["--output_dir", str(out), "--no_test", "--batch_size", "8", "--max_steps", steps, "--eval_every", steps]
    command += ["--strategy", *kind]
    if number < 2:
        wait_for(command, out, 0)
        return out, None
    wait_for(command, out, 128 + signal.SIGTERM, stop=True)
    step = step_of(saved(out / "checkpoints")[0])
    wait_for([*command, "--resume", "auto"], out, 0)
    return out, step


def wait_for(command: list[str], out: Path, expected: int, stop: bool = False) -> None:
    """Run a command and wait for it. stop: by SIGTERM, after 5 logged steps. Raises RuntimeError for another code."""
    log, messages = out / "log.jsonl", out.with_suffix(".txt")
    with open(messages, "ab") as stream:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream)
    try:
        while stop and process.poll() is None:
            if log.exists() and log.read_bytes().count(b"\n") >= 5:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.01)
        code = process.wait(timeout=240)
    finally:
        process.kill()
    if code == 8:
        raise LeftOut("a process of its own finds no GPU here")
    if code != expected:
        raise RuntimeError(f"expected exit {expected}; found {code}: {messages.read_text()[-500:]}")


def same_bits(run: Future, other: Future, twin: Future | None = None) -> dict:
    """Compare weights, moments and triplets of the last checkpoints. twin: must equal `run`, else no verdict."""
    (out, _), (folder, step) = run.result(), other.result()
    differ, repeats = differing(out, folder), twin is None or not differing(out, twin.result()[0])
    result = {"tensors that differ": len(differ), "the first": differ[:8], "stopped at": step}
    result["left out"] = None if repeats else "runs that are not stopped differ, too"
    return {"ok": not differ if repeats else None, **result}


def differing(out: Path, other: Path) -> list[str]:
    (_, a, _), (_, b, _) = (load_latest(folder / "checkpoints") for folder in (out, other))
    return [f"{file}: {name}" for file in a for name, x in a[file].items() if not torch.equal(x, b[file][name])]


def large(args: Namespace) -> Iterator[tuple[str, Callable[[], dict]]]:
    for tasks in (3, 8):
        yield f"Gramian of {tasks} x {args.sizes.columns:,}", partial(gramian_error, tasks, args.sizes.columns)


def gramian_error(tasks: int, columns: int) -> dict:
    jacobian, seconds = torch.randn(tasks, columns, device="cuda"), []
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        computed = gramian(jacobian)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    exact = sum(part @ part.mT for part in map(Tensor.double, jacobian.split(1 << 22, dim=1)))
    error, best = ((computed - exact).abs() / exact.diagonal().max()).max().item(), min(seconds)
    # The docstring's 1e-7 is one span's; over many spans the errors average out, to 1e-9.
    return {"ok": error < 1e-7, "error": error, "ms": 1e3 * best, "GB/s": 4e-9 * jacobian.numel() / best}
