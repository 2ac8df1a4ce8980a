"""Train one BERT on sentiment (sst), paraphrase detection (para) and semantic similarity (sts).

    python train_multitask.py --option finetune --strategy gs                   # gradient surgery over all three tasks
    python train_multitask.py --option finetune --strategy mtl                  # the plain sum of the losses
    python train_multitask.py --option finetune --strategy single --tasks sst   # one task

Data: --data_dir, else the course files where `python -m data.download` has put them, else the embedded synthetic
sample. A run's folder holds config.json, log.jsonl, metrics.json, checkpoints/, best/ and predictions/.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
import tokenizers
import torch
from torch import Tensor

from bert import BertConfig, BertModel
from bert.hub import resolve
from data import find_data_dir
from data.reader import overlap, read
from data.tasks import TASKS
from evaluate import evaluate_dev, predict_split, report, undefined, write_predictions
from heads import MultitaskBert
from heads.architectures import ARCHITECTURES
from heads.losses import LossSettings
from heads.multitask import HeadsConfig, TaskBatch, read_heads_config
from heads.pooling import POOLINGS
from optim import pcgrad_weights
from optim.clipping import clip_factor, clip_gradients
from optim.schedule import lr_factor
from optim.surgery import combined_norm, cosines
from training import checkpoint, options, precision
from training.errors import DivergedError, UsageError, is_out_of_memory, run_cli, stop_signals
from training.files import check_space, claim_output_dir, disk_errors, lock, nearest_folder, write_atomic
from training.log import Progress, RunLog
from training.run import EPOCHS, MIN_STEPS, STORED, Run, Splits, score
from training.seeds import generator, seeded

T = TypeVar("T")
NAMES = tuple(TASKS)
# By task, for the course's files are of unlike size: so each is gone through about as often as the others. (Of Quora's
# rows a sixth, as in the README's results.)
BATCH_SIZE = {"sst": 8, "para": 24, "sts": 8}
MAX_SKIPPED_IN_A_ROW = 20  # steps with an infinite gradient: loss scaling settles in a few, so this many is a fault

# ---- options ---------------------------------------------------------------------------------------------------------
# fmt: off


def build_parser() -> options.OptionParser:
    parser = options.OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("what to train").add_argument
    add("--option", choices=("finetune", "pretrain"), default="finetune",
        help="finetune: everything; pretrain: only what stands on a frozen BERT (default: %(default)s)")
    add("--strategy", choices=("single", "mtl", "gs"), default="gs",
        help="one task, the sum of the tasks' losses, or gradient surgery (default: %(default)s)")
    add("--tasks", type=options.subset(NAMES), help="comma-separated, of sst, para, sts (default: all three)")
    add("--checkpoint", help="minilm, bert-base-uncased, a folder or a Hub id (default: minilm)")
    add("--init_from", type=Path, metavar="RUN", help="start from an earlier run's best weights, heads included")

    add = parser.add_argument_group("model").add_argument
    add("--arch", choices=tuple(ARCHITECTURES), help=f"default: {HeadsConfig.arch}")
    add("--pooling", choices=POOLINGS, help=f"default: {HeadsConfig.pooling}; cls for v1")
    add("--layer", type=options.negative_int, help=f"to pool: -1 the last, -2, ... (default: {HeadsConfig.layer})")
    add("--hidden_dropout_prob", type=options.rate,
        help=f"dropout of the heads; BERT keeps its checkpoint's (default: {HeadsConfig.hidden_dropout_prob})")
    add("--max_length", type=options.positive_int,
        help=f"tokens of a sentence; longer ones are cut and counted (default: {HeadsConfig.max_length})")

    add = parser.add_argument_group("data").add_argument
    add("--data_dir", type=Path, help="the course's csv files (default: the downloaded ones, else the sample)")
    add("--predictions_dir", type=Path, help="for the leaderboard's files (default: predictions/ in the run's folder)")

    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=options.positive_int,
        help=f"passes over the longest task's rows (default: {EPOCHS}, or as many as make {MIN_STEPS} steps)")
    add("--max_steps", type=options.positive_int, help="at most so many steps, over which the learning rate then falls")
    add("--batch_size", type=options.by_name(NAMES, options.positive_int), default={}, metavar="N|sst=N,para=N,sts=N",
        help=f"rows of a task in a batch (default: {given_by_name(BATCH_SIZE)})")
    add("--grad_accum", type=options.positive_int, default=1, help="batches of each task a step (default: %(default)s)")
    add("--lr", type=options.positive_float, default=1e-4, help="peak learning rate (default: %(default)s)")
    add("--warmup", type=options.rate, default=0.1, help="share of the steps that it rises in (default: %(default)s)")
    add("--weight_decay", type=options.non_negative_float, default=0.01, help="of matrices (default: %(default)s)")
    add("--max_grad_norm", type=options.positive_float, default=1.0, help="after surgery (default: %(default)s)")
    add("--patience", type=options.non_negative_int, default=0,
        help="end after so many evaluations without a better score; 0: never (default: %(default)s)")

    add = parser.add_argument_group("losses").add_argument
    add("--loss_scale", type=options.by_name(NAMES, options.positive_float), default={}, metavar="X|sst=X,para=X,sts=X",
        help="what a task's loss is multiplied by (default: 1)")
    add("--para_loss", choices=("full", "bce"), default="full",
        help="full: cross-entropy + cosine embedding + triplets; bce: cross-entropy alone (default: %(default)s)")
    add("--sts_gamma", type=options.probability, default=LossSettings.sts_gamma,
        help="share of the squared error, against the absolute one (default: %(default)s)")
    add("--cosine_margin", type=options.probability, default=LossSettings.cosine_margin,
        help="default: %(default)s")
    add("--triplet_margin", type=options.non_negative_float, default=LossSettings.triplet_margin,
        help="default: %(default)s")

    add = parser.add_argument_group("machine").add_argument
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--amp", choices=("auto", "off", "bf16", "fp16"), default="auto",
        help="the encoder's precision; auto: the fastest that the hardware computes in (default: %(default)s)")
    add("--seed", type=options.non_negative_int, default=0)
    add("--deterministic", action="store_true", help="refuse the GPU operations whose result may vary")

    add = parser.add_argument_group("the run's folder").add_argument
    add("--output_dir", type=Path, help="default: runs/OPTION-STRATEGY, with the tasks where not all three")
    add("--resume", default="never", metavar="auto|never|PATH",
        help="go on from the newest checkpoint, or from that one: those after it then go")
    add("--allow_change", action="append", default=[], metavar="NAME", type=lambda name: name.replace("-", "_"),
        help="an option that may differ on resuming")
    add("--overwrite", action="store_true", help="remove the run that the folder holds")
    add("--save_every", type=options.positive_int, default=500, help="steps between two (default: %(default)s)")
    add("--eval_every", type=options.positive_int, help="steps between evaluations on dev (default: an epoch)")
    add("--log_every", type=options.positive_int, default=50, help="steps from line to line (default: %(default)s)")
    add("--dry_run", action="store_true", help="check everything, make one step, tell the time, leave nothing")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


# fmt: on


def given_by_name(values: dict) -> str:
    """{"sst": 16} -> "sst=16", as an option is given."""
    return ",".join(f"{name}={value}" for name, value in values.items())


def settle(args: argparse.Namespace) -> HeadsConfig:
    """Check what options mean together, fill in what depends on others, and return the heads' settings."""
    for name in args.allow_change:
        if name not in vars(args):
            known = options.nearest(name, vars(args))
            raise UsageError(f"--allow_change: expected the name of an option; found {name!r}{known}")
    args.tasks = args.tasks or list(NAMES)
    args.loss_scale = {task: args.loss_scale.get(task, 1.0) for task in args.tasks}
    args.batch_size = {task: args.batch_size.get(task, BATCH_SIZE[task]) for task in args.tasks}
    found = ",".join(args.tasks)
    if args.strategy == "single" and len(args.tasks) != 1:
        raise UsageError(f"--strategy single: expected one task; found {found}; name it with --tasks")
    if args.strategy != "single" and len(args.tasks) == 1:
        raise UsageError(f"--strategy {args.strategy}: expected two or three tasks; found {found}; take single")
    if args.overwrite and args.resume != "never":
        raise UsageError(f"--overwrite: removes what --resume {args.resume} would go on from; take one of the two")
    if args.output_dir is None:
        parts = [args.option, args.strategy, *(args.tasks if len(args.tasks) < len(NAMES) else [])]
        args.output_dir = Path("runs") / "-".join(parts)
    if args.data_dir is None:
        args.data_dir, name = find_data_dir()
        args.data_name = f"{name} in {args.data_dir}"
    else:
        args.data_name = str(args.data_dir)
    stored = None
    if args.init_from is not None:
        source = args.init_from / "best" if (args.init_from / "best").is_dir() else args.init_from
        if args.checkpoint is not None:
            print(f"note: --checkpoint {args.checkpoint} is not read: --init_from names the weights", file=sys.stderr)
        args.checkpoint, stored = str(source), read_heads_config(source)
        if stored is None:
            raise UsageError(f"--init_from: expected a run's folder; {args.init_from} holds no best/heads.json")
        if args.overwrite and args.init_from.resolve() == args.output_dir.resolve():
            raise UsageError(f"--init_from: {args.init_from} is what --overwrite removes; choose another --output_dir")
    elif args.checkpoint is not None and (Path(args.checkpoint) / "heads.json").is_file():
        raise UsageError(f"--checkpoint: {args.checkpoint} holds trained heads; take --init_from, or a plain BERT")
    args.checkpoint = args.checkpoint or "minilm"
    args.predictions_dir = args.predictions_dir or args.output_dir / "predictions"
    return heads_config(args, stored)


def heads_config(args: argparse.Namespace, stored: HeadsConfig | None) -> HeadsConfig:
    """As asked for, else as the run that training starts from has them, else the defaults."""
    usual = stored or HeadsConfig()
    asked = {field.name: getattr(args, field.name) for field in fields(HeadsConfig)}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked.get("arch") == "v1":
        asked.setdefault("pooling", "cls")
    try:
        config = replace(usual, **asked)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    vars(args).update(asdict(config))
    return config


def read_data(args: argparse.Namespace) -> Splits:
    """Every file, checked; what is odd but usable is told on stderr."""
    splits = {
        name: {task: read(task, name, args.data_dir) for task in NAMES if name != "train" or task in args.tasks}
        for name in ("train", "dev", "test")
    }
    warnings = [warning for by_task in splits.values() for split in by_task.values() for warning in split.warnings]
    for task, split in splits["train"].items():
        dev = splits["dev"][task]
        if count := overlap(split, dev):
            warnings.append(f"{dev.path}: {count} texts stand in {split.path.name} too: its metrics flatter")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return splits


# ---- the loop --------------------------------------------------------------------------------------------------------


def train_step(run: Run) -> dict:
    """One step: every task's losses and gradients, surgery, clipping, AdamW. Returns what the log tells of it."""
    line = {"losses": in_memory(run, backward)}
    run.previous.end_step()
    norm = None
    if run.args.strategy == "gs":
        surgery, norm = operate(run)
        line |= surgery
    line |= update(run, norm, line.get("infinite", []))
    run.state.step += 1
    return line


def in_memory(run: Run, work: Callable[[Run], T]) -> T:
    """work(run), gradients and all; where memory runs out, again with each batch cut in two. Of one row, it raises."""
    while True:
        try:
            return work(run)
        except Exception as error:
            if not is_out_of_memory(error) or run.state.parts >= max(run.args.batch_size.values()):
                raise
        # out here, where the error, and the graph that hangs on it, are gone
        run.state.parts *= 2
        run.optimizer.zero_grad()
        run.gradients.forget()
        run.previous.forget_step()
        told = f"batches are computed in {run.state.parts} parts from here on, with as many rows a step as before"
        print(f"warning: out of memory at step {run.state.step + 1}; {told}", file=sys.stderr)


def backward(run: Run) -> dict[str, float]:
    """The step's losses; their gradients go to .grad, for surgery those of the shared parameters to run.gradients."""
    args, state = run.args, run.state
    negatives = generator(args.seed, "negatives", state.step)
    losses = dict.fromkeys(run.sets, 0.0)
    for micro, (batches, shares) in enumerate(run.micro_batches(state.step)):
        split = run.gradients.by_rows(run.model, *sizes(run, batches)) if args.strategy == "gs" else nullcontext()
        with seeded(args.seed, "dropout", state.step, micro), split:
            found = task_losses(run, batches, negatives)
            for task, loss in found.items():
                losses[task] += loss.item() * shares[task]
            run.scaler.scale(sum(found[task] * (shares[task] * args.loss_scale[task]) for task in found)).backward()
    return losses


def sizes(run: Run, batches: dict[str, TaskBatch]) -> tuple[list[int], list[int]]:
    """Of each task the sentences and the real tokens, as layers see them; 0 of a task that has no batch here."""
    masks = {task: batch.tokens.attention_mask for task, batch in batches.items()}
    sentences = [len(masks[task]) if task in masks else 0 for task in run.sets]
    tokens = [int(masks[task].sum()) if task in masks else 0 for task in run.sets]
    return sentences, tokens


def task_losses(run: Run, batches: dict[str, TaskBatch], negatives: torch.Generator) -> dict[str, Tensor]:
    """Each task's loss on its batch, a scalar in float32. Raises DivergedError where one is no finite number."""
    with precision.autocast(run.device, run.amp):
        losses = run.model.losses(batches, run.settings, run.previous, negatives)
    for task, loss in losses.items():
        if not loss.isfinite():
            raise DivergedError(
                f"expected a finite loss; found {loss.item()} for {task} at step {run.state.step + 1}, rows "
                f"{', '.join(batches[task].ids)}; lower --lr or look at these rows; the last checkpoint stands"
            )
    return losses


def operate(run: Run) -> tuple[dict, float]:
    """Gradient surgery on the shared parameters, and clipping: of these by the weights that they are combined with.

    Returns for the log the cosine of each pair of task gradients; and the norm of all gradients before clipping.
    """
    gradients, state, tasks = run.gradients, run.state, run.gradients.tasks
    scale = run.scaler.get_scale()  # of the gradients, as of their losses
    max_norm = run.args.max_grad_norm * scale
    products = gradients.gramian().cpu()
    infinite = [task for task, product in zip(tasks, products.diagonal(), strict=True) if not product.isfinite()]
    if infinite:  # no surgery on these
        weights, norm = torch.ones(len(tasks)), math.inf
    else:
        weights = pcgrad_weights(products, generator(run.args.seed, "surgery", state.step))
        norm = clip_gradients(run.model.parameters(), max_norm, others=combined_norm(weights, products))
    # An infinite norm goes through to .grad, where the scaler looks for it; the update is skipped.
    gradients.combine(weights * (clip_factor(norm, max_norm) if math.isfinite(norm) else math.inf))
    if infinite:
        return {"infinite": infinite}, norm
    cosine = cosines(products)
    pairs = {f"{tasks[i]}-{tasks[j]}": cosine[i, j].item() for i, j in combinations(range(len(tasks)), 2)}
    state.surgeries += 1
    for pair, value in pairs.items():
        state.conflicts[pair] = state.conflicts.get(pair, 0) + (value < 0)
    return {"cosine": pairs}, norm / scale


def update(run: Run, norm: float | None, infinite: list[str]) -> dict:
    """Let AdamW move the weights; a step whose gradient is infinite moves nothing and is counted.

    norm: of all gradients, where they are clipped; None where that is still to be done.
    """
    args, state = run.args, run.state
    run.scaler.unscale_(run.optimizer)
    if norm is None:
        norm = clip_gradients(run.model.parameters(), args.max_grad_norm)
    if math.isfinite(norm):
        lr = args.lr * lr_factor(state.updates, run.total_steps, run.warmup_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        run.scaler.step(run.optimizer)
        state.updates += 1
        state.skipped_in_a_row = 0
        line = {"lr": lr, "grad_norm": norm}
    else:
        state.skipped_in_a_row += 1
        line = {"skipped": "infinite gradient" + (f" of {', '.join(infinite)}" if infinite else "")}
    run.scaler.update()
    run.optimizer.zero_grad()
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise DivergedError(
            f"expected finite gradients; found {MAX_SKIPPED_IN_A_ROW} steps in a row with an {line['skipped']}, "
            f"up to step {state.step + 1}; lower --lr or take --amp off; the last checkpoint stands"
        )
    return line


def train(run: Run, log: RunLog, progress: Progress) -> None:
    """The training loop: steps, and in their turn lines of the log, evaluations and checkpoints."""
    args, state = run.args, run.state
    evaluate_every = args.eval_every or run.steps_an_epoch
    with stop_signals() as stop:
        stopping = stop.signal  # not 0 where a library has dropped the exception of an earlier one
        while not run.finished and not stopping:
            started = time.monotonic()
            line = train_step(run)
            state.seconds += time.monotonic() - started
            last = state.step == run.total_steps
            if last or state.step % args.log_every == 0 or "skipped" in line:
                log.write({"step": state.step, "seconds": round(state.seconds, 3), **line})
            progress.update(state.step, line["losses"])
            evaluated = last or state.step % evaluate_every == 0
            if evaluated:
                evaluate(run, log, progress)
            stopping = stop.signal  # read once: where it comes after this line, one more step is made and saved
            if evaluated or state.step % args.save_every == 0 or stopping:
                run.save(stopping=bool(stopping))
    if stop.signal:
        raise SystemExit(128 + stop.signal)


def evaluate(run: Run, log: RunLog, progress: Progress) -> None:
    """Dev metrics of all tasks; the best model so far goes to best/."""
    state, started = run.state, time.monotonic()
    metrics, predictions = evaluate_dev(run.model, run.splits["dev"], run.amp)
    state.seconds += time.monotonic() - started
    told = {"dev": metrics, "undefined": undefined(metrics)}
    log.write({"step": state.step, "seconds": round(state.seconds, 3), **told})
    progress.say(f"step {state.step}: dev " + "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if v is not None))
    found = score(metrics, list(run.sets))
    if found is None or (state.best_score is not None and found <= state.best_score):
        state.evaluations_since_best += 1
        return
    try:
        run.export_best()
    except OSError as error:
        if state.step == run.total_steps:
            raise
        progress.say(f"warning: the best model so far is not written: {error}; the next better one will be tried")
        return
    state.best_score, state.best_step, state.evaluations_since_best = found, state.step, 0
    run.best_on_dev = metrics, predictions


# ---- before and after ------------------------------------------------------------------------------------------------


def header(run: Run) -> str:
    """What runs on what, for people."""
    args, config, tokenizer = run.args, run.model.config, run.model.tokenizer
    lines = [f"{args.option}, {args.strategy} on {', '.join(run.sets)}; data: {args.data_name}"]
    for task, rows in run.sets.items():
        dev, test = (len(run.splits[name][task].examples) for name in ("dev", "test"))
        lines.append(f"  {task:<5}{len(rows.examples)} train, {dev} dev, {test} test rows")
    for split in (*run.splits["dev"].values(), *run.splits["test"].values()):
        for side in zip(*(example.texts for example in split.examples), strict=True):
            tokenizer.ids(list(side), max_length=run.model.max_length)  # for the counts of what is cut
    trained = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    heads = f"{config.arch}, {config.pooling} of layer {config.layer}"
    lines += [
        f"model: {args.checkpoint}, {heads}; {trained / 1e6:.1f} million trained parameters",
        f"texts: up to {tokenizer.longest} tokens, {tokenizer.truncated} cut to {run.model.max_length}",
        f"device: {run.device}, {torch.get_num_threads()} threads, precision {run.amp}; seed {args.seed}",
        f"steps: {run.total_steps}, {run.steps_an_epoch} an epoch; rows a step: {args.grad_accum} x "
        f"{given_by_name(args.batch_size)}",
        f"time: about {in_memory(run, time_a_step) * (run.total_steps - run.state.step) / 60:.1f} minutes, "
        "evaluations and AdamW not counted",
    ]
    return "\n".join(lines)


def time_a_step(run: Run) -> float:
    """Seconds of a usual step but for AdamW, from a try with the next batches; nothing of the run is changed."""
    for _ in range(2):  # the second counts: the first finds memory and threads cold
        started = time.monotonic()
        backward(run)
        if run.args.strategy == "gs":
            run.gradients.gramian()
            run.gradients.combine(torch.ones(len(run.sets)))
        clip_gradients(run.model.parameters(), run.args.max_grad_norm)
        seconds = time.monotonic() - started
        run.optimizer.zero_grad()
        run.previous.forget_step()
    usual = run.args.grad_accum * sum(rows.tokens_a_batch for rows in run.sets.values())
    batches = [batch for found, _ in run.micro_batches(run.state.step) for batch in found.values()]
    return seconds * usual / sum(batch.tokens.attention_mask.sum().item() for batch in batches)


def run_config(run: Run) -> dict:
    """Every option, version and fingerprint: what it takes to make the run again."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(run.args).items()}
    return {
        **settings,
        "data_dir": str(run.args.data_dir.resolve()),
        "heads": asdict(run.model.config),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                     "tokenizers": tokenizers.__version__},
        "machine": {"device": str(run.device), "precision": run.amp, "threads": torch.get_num_threads()},
        "data": run.fingerprints(),
    }


def finish(run: Run) -> None:
    """From the best model, as best/ holds it: the six prediction files and metrics.json."""
    args, state, out = run.args, run.state, run.args.output_dir
    if state.best_step == 0:  # no evaluation had a defined score: the last weights count
        run.export_best()
    with seeded(args.seed, "best"):  # a fresh model's weights are drawn before the stored ones take their place
        model = MultitaskBert.from_pretrained(out / "best").to(run.device)
    metrics, predictions = run.best_on_dev or evaluate_dev(model, run.splits["dev"], run.amp)
    for task in NAMES:
        test = run.splits["test"][task]
        write_predictions(args.predictions_dir, task, "dev", run.splits["dev"][task], predictions[task])
        write_predictions(args.predictions_dir, task, "test", test, predict_split(model, test, run.amp))
    result = {
        "dev": metrics,
        "undefined": undefined(metrics),
        "step": state.best_step or state.step,
        "data": args.data_name,
        "seconds": round(state.seconds, 1),
        "conflicts": {pair: count / state.surgeries for pair, count in state.conflicts.items()},
    }
    write_atomic(out / "metrics.json", json.dumps(result, indent=2) + "\n")
    print(f"dev of {args.data_name}, weights of step {result['step']}:\n{report(metrics)}")
    print(f"model: {out / 'best'}; predictions: {args.predictions_dir}", file=sys.stderr)


def dry_run(run: Run) -> None:
    """One step, a checkpoint written and read back, on the run's own disk; nothing of it is left."""
    if not run.finished:
        train_step(run)
    place = nearest_folder(run.args.output_dir)
    with disk_errors(place), tempfile.TemporaryDirectory(prefix=".tmp-", suffix=f".{os.getpid()}", dir=place) as folder:
        path = checkpoint.save(Path(folder), run.state.step, run.tensors(), run.stored_state())
        run.restore(path, *checkpoint.load(path, STORED))
    print("dry run: data, options, a checkpoint and a step are in order; nothing was left", file=sys.stderr)


def check_output_space(args: argparse.Namespace) -> None:
    """Room for the newest, the best and the last good checkpoint and one that is being written, each the weights and
    AdamW's two moments; for best/, twice while it is replaced; less what is there already."""
    config = BertConfig.from_json(resolve(args.checkpoint) / "config.json")
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in BertModel(config).parameters())
    there = [path for name in ("checkpoints", "best") for path in (args.output_dir / name).rglob("*") if path.is_file()]
    held = 0 if args.overwrite else sum(path.stat().st_size for path in there)
    check_space(args.output_dir, max(0, (4 * 3 + 2) * 4 * weights - held))
    check_space(args.predictions_dir, 0, option="--predictions_dir")


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    config = settle(args)
    if args.deterministic:  # cuBLAS asks for this, before its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if args.deterministic != torch.are_deterministic_algorithms_enabled():  # the call takes a second of imports
        torch.use_deterministic_algorithms(args.deterministic)
    splits = read_data(args)
    with nullcontext() if args.dry_run and not args.output_dir.exists() else lock(args.output_dir):
        return run_in_folder(args, config, splits)


def run_in_folder(args: argparse.Namespace, config: HeadsConfig, splits: Splits) -> int:
    """The run itself, alone in its folder."""
    out = args.output_dir
    claim_output_dir(out, resume=args.resume != "never" or args.overwrite, overwrite=False)
    finished = args.resume != "never" and (out / "metrics.json").is_file()
    if not finished:
        check_output_space(args)
    run = Run(args, config, splits)
    if args.overwrite and not args.dry_run:  # only now, when everything that the new run starts from is there
        claim_output_dir(out, resume=False, overwrite=True)
    resumed = run.resume()
    if resumed and run.finished and (out / "metrics.json").is_file():
        print(f"complete at step {run.state.step}: nothing to do in {out}", file=sys.stderr)
        return 0
    if args.dry_run:
        print(header(run), file=sys.stderr)
        dry_run(run)
        return 0
    if finished:  # and now to be made longer
        check_output_space(args)
    if resumed:
        run.rebuild_best()
    print(header(run), file=sys.stderr)
    with disk_errors(args.predictions_dir):
        args.predictions_dir.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)  # of fewer steps, say: it is a finished run's mark
    write_atomic(out / "config.json", json.dumps(run_config(run), indent=2) + "\n")
    log = RunLog(out / "log.jsonl", resumed_step=run.state.step if resumed else None)
    progress = Progress(run.total_steps, run.state.step, every=args.log_every)
    try:
        train(run, log, progress)
    finally:
        progress.close()
        log.close()
    finish(run)
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
