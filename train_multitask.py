"""Train one BERT on several tasks at once.

    python train_multitask.py --option finetune --strategy gs    # surgery
    python train_multitask.py --strategy mtl                     # plain sum
    python train_multitask.py --strategy single --tasks sst      # one task
    python train_multitask.py --task_file my.toml                # your own

Data: --data_dir, else the course files where `python -m data.download` has put
them, else the embedded synthetic sample. A run's folder holds config.json,
log.jsonl, metrics.json, checkpoints/, best/ and predictions/.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bert.precision import autocast, set_deterministic
from evaluate import finish, predict_and_score, score, undefined
from heads.rows import TaskBatch
from optim.schedule import lr_factor
from optim.task_gradients import clip_and_combine
from runtime.errors import Stopped, UsageError, run_cli, say
from runtime.files import discard, lock, move_aside, remove, write_atomic
from runtime.ranks import ALONE, World, join
from runtime.seeds import generator
from training import checkpoint, guards
from training.folder import check_output_space, marks, prediction_files, sweep
from training.log import RunLog, count_conflicts, header, progress, seconds_left, span
from training.options import Options, parse
from training.resume import checked, resume
from training.session import Session, versions


def train(session: Session) -> None:
    """Take every step of a run, in order. training/session.py makes its parts, training/guards.py meets its faults."""
    options, state, optimizer, scaler = session.options, session.state, session.optimizer, session.scaler
    with closing(RunLog(session.out / "log.jsonl", state.log_size, session.world.leads)) as log:
        for step in session.steps():  # from the first or the resumed one until the end, patience or a signal
            started = time.monotonic()
            losses, weighed_losses = guards.in_parts_that_fit(session, partial(compute_gradients, session, step))
            losses, weighed_losses = session.world.total(losses, weighed_losses)
            session.unshared.sum_gradients()  # over the ranks, as clip_and_combine sums the task gradients
            conflict = clip_and_combine(
                session.gradients,
                session.surgery,
                session.pieces,
                options.max_grad_norm,
                generator=generator(options.seed, "surgery", step),
                scale=scaler.get_scale(),
                losses=[weighed_losses[task] for task in session.gradients.tasks],
            )
            lr = options.lr * lr_factor(state.updates, session.total_steps, session.warmup_steps)
            line = {"losses": losses, **count_conflicts(session, conflict, weighed_losses, lr)}
            guards.count_skipped(conflict, state)
            if not conflict.problem:
                scaler.unscale_(optimizer)
                line |= {"lr": lr, "grad_norm": conflict.norm}
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["lr_scale"]
                scaler.step(optimizer)
                session.gather_weights()
                scaler.update()
                session.weigh.update(losses, partial(session.losses_of, step))
                state.updates += 1
            else:
                line["skipped"] = conflict.problem
                guards.halve_scale(scaler)
            session.previous.end_step(session.world)
            optimizer.zero_grad()
            state.step += 1
            state.seconds += time.monotonic() - started
            if session.is_due(options.log_every) or "skipped" in line:
                log.write({"step": state.step, "seconds": round(state.seconds, 3), **line})
            progress(session, losses)
            if evaluated := session.is_due(session.eval_every):
                evaluate(session, log)
            state.log_size = log.size
            session.save_if_due(evaluated)


def compute_gradients(session: Session, step: int) -> tuple[dict[str, float], dict[str, float]]:
    """Compute a step's task gradients, one micro-batch after the other. Returns this process's share of each task's
    loss, plain and weighed."""
    losses, weighed_losses = (dict.fromkeys(session.rows, 0.0) for _ in range(2))
    for micro, (batches, shares) in enumerate(session.micro_batches(step)):
        for name, value, weighed_value in backward(session, step, micro, batches, shares):
            losses[name] += value * shares[name]
            weighed_losses[name] += weighed_value * shares[name]
    return losses, weighed_losses


def backward(
    session: Session, step: int, micro: int, batches: dict[str, TaskBatch], shares: dict[str, float]
) -> list[tuple[str, float, float]]:
    """Add a micro-batch's task gradients to the step's. Returns each task's name and loss, plain and weighed.

    It is a function so that the graph, with all activations, is gone before anything else is computed.
    """
    options, model, gradients = session.options, session.model, session.gradients
    sizes = gradients.sizes(model.row_counts(batches))  # each task's sentences and tokens
    negatives = generator(options.seed, "negatives", step)  # row k gets draw k
    with session.dropout(step, micro), gradients.by_rows(model, *sizes):
        with autocast(session.device, session.amp):
            losses = model.losses(batches, options.losses, session.previous, negatives)
        weighed = session.weigh(losses, generator(options.seed, "weighing", step))
        total = sum(weighed[name] * share for name, share in shares.items())
        session.scaler.scale(total).backward()  # splits the shared gradients by task
    return guards.finite_losses(losses, weighed, batches, step)


def evaluate(session: Session, log: RunLog) -> None:
    """Log the dev metrics of the run's tasks, and save the model where they are the best so far."""
    state, options, started = session.state, session.options, time.monotonic()
    metrics = predict_and_score(session.model, {"dev": session.splits["dev"]}, session.amp, world=session.world)
    seconds = time.monotonic() - started
    state.seconds += seconds
    state.evaluation_seconds += seconds
    state.evaluations += 1
    log.write({"step": state.step, "seconds": round(state.seconds, 3), "dev": metrics, "undefined": undefined(metrics)})
    value = score(metrics, options.tasks)
    # Rank 0's answer for all: the last bit of a score may differ
    best = session.world.on_rank_0(lambda: value is not None and (state.best_score is None or value > state.best_score))
    state.evaluations_since_best = 0 if best else state.evaluations_since_best + 1
    shown = {name: metrics[name] for name in (task.metric_key(task.metric) for task in options.tasks)}
    shown |= {"average": value} if len(shown) > 1 else {}
    texts = [f"{name} {number:.3f}" if number is not None else f"{name} -    " for name, number in shown.items()]
    say(f"dev at {state.step:>{len(str(session.total_steps))}}  {'  '.join(texts)}{'  best' * best}")
    if best:
        session.save_best(value)


def run_config(session: Session) -> dict:
    """Every option, version and fingerprint: what it takes to make the run again."""
    options = session.options
    source = os.path.abspath(options.checkpoint) if os.path.isdir(options.checkpoint) else options.checkpoint
    return {
        **options.as_json(),
        **{name: str(getattr(options, name).resolve()) for name in ("data_dir", "predictions_dir")},
        "checkpoint": source,
        "versions": versions(),
        "machine": {"device": str(session.device), "precision": session.amp, "threads": torch.get_num_threads()},
        "data": session.fingerprints(session.splits),
    }


def dry_run(session: Session) -> None:
    """Take two steps, evaluate, write a checkpoint and read it back; then remove it all. Call it inside `lock`."""
    if session.finished:
        return say("dry run: data and options are in order; no step is left to take")
    session.out = session.options.output_dir / f".tmp-dry-run.{os.getpid()}"
    try:
        session.last_step = min(session.total_steps, session.state.step + 2)
        train(session)
        checked(session, *session.world.on_rank_0(lambda: checkpoint.load_latest(session.out / "checkpoints")))
    finally:
        remove(session.out)
    session.last_step = session.total_steps
    say(f"time: about {span(seconds_left(session))}, by two steps and an evaluation")
    say("dry run: data, options, a checkpoint and a step are in order; nothing was left")


def run_in_folder(
    options: Options, locks: ExitStack, make_session: Callable[[Options, World], Session], world: World
) -> None:
    """Start or resume the run, train and finish it, as the only process in its folder."""
    out = options.output_dir
    with world.together(slow=True):
        locks.enter_context(lock(out))
        existing = marks(out)
        holds_run = bool(existing or checkpoint.saved(out / "checkpoints"))
        if holds_run and options.resume == "never" and not options.overwrite:
            advice = "take --resume auto, --overwrite (which moves it) or another --output_dir"
            raise UsageError(f"--output_dir: {out} holds a run; {advice}")
        predictions = prediction_files(options)
        finished = options.resume != "never" and (out / "metrics.json").is_file()  # it may need no space
        if world.leads and not finished:
            check_output_space(options)
        say(f"loading the data and {options.checkpoint}")
        session = make_session(options, world)
    session.check_ranks()
    resume(session)
    is_whole = {"metrics.json", "best"} <= {*existing} and all(path.is_file() for path in predictions)
    is_whole &= options.resume == "auto"  # a checkpoint that it names may be an earlier one
    if world.on_rank_0(lambda: session.last_good and session.finished and is_whole):
        by_patience = " by --patience; for more steps give --allow_change patience and a larger one"
        ended = by_patience * (session.state.step < session.total_steps)
        return say(f"complete at step {session.state.step}{ended}: nothing to do in {out}")
    world.on_rank_0(lambda: finished and check_output_space(options))  # a finished run that goes on
    say(header(session))
    if options.dry_run:
        return dry_run(session)
    if holds_run and options.overwrite:  # only now: all that the new run starts from is loaded
        say(f"the run that was here is in {move_aside(out)}")
        locks.enter_context(lock(out))
    sweep(out)
    if options.resume not in ("auto", "never"):  # later checkpoints than the one it names are of another branch
        for path in checkpoint.saved(out / "checkpoints"):  # the newest first
            if checkpoint.step_of(path) > session.state.step:
                discard(path)
    (out / "metrics.json").unlink(missing_ok=True)  # the mark of a finished run, maybe one of fewer steps
    write_atomic(out / "config.json", json.dumps(run_config(session), indent=2) + "\n")
    train(session)
    try:
        world.on_rank_0(lambda: finish(session))
    except Stopped:
        raise Stopped(f"go on with: {options.command}") from None


def run(options: Options, make_session: Callable[[Options, World], Session] = Session, world: World = ALONE) -> None:
    """Run what the options ask for. make_session: the class Session, or a function that makes another kind."""
    set_deterministic(options.deterministic)
    with ExitStack() as locks:
        run_in_folder(rank_options(options, world, locks), locks, make_session, world)


def rank_options(options: Options, world: World, folders: ExitStack) -> Options:
    """This process's options, checked to be the same in all; those of all but the first have a temporary folder."""
    most = max(options.batch_size.values())
    if world.size > most:
        expected = f"expected at most {most} processes, as many as the largest batch has rows"
        raise UsageError(f"{expected}; found {world.size}; take fewer, or a larger --batch_size")
    world.check_same(options.shared_by_ranks)
    if world.leads:
        return options
    folder = Path(folders.enter_context(TemporaryDirectory()))
    return replace(options, output_dir=folder, predictions_dir=folder, resume="never", overwrite=False)


def main(argv: list[str] | None = None, description: str = __doc__) -> None:
    with join() as world:
        with world.together():
            options = parse(argv, description)
        run(options, world=world)


if __name__ == "__main__":
    sys.exit(run_cli(main))
