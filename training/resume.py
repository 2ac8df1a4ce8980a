"""Resume a run: which checkpoint, whether it is this run's and fits, and its state put back bit for bit."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from bert.checkpoint import check_fit
from optim.adamw import MOMENTS, unpacked
from runtime.errors import CheckpointError, DataError, UsageError, say
from runtime.settings import of_type
from training import checkpoint
from training.folder import is_run, marks
from training.options import NEVER_CHANGE, Options, option_text
from training.session import Session, State


def checkpoint_to_resume(choice: str, out: Path) -> tuple[Path, checkpoint.Tensors, dict] | None:
    """(path, tensors, state) of the checkpoint that --resume asks for; None where there is nothing to resume."""
    folder = out / "checkpoints"
    if choice == "never":
        return None
    if choice != "auto":
        path, names = Path(choice), [path.name for path in checkpoint.saved(folder)]
        if path.resolve() not in [folder.resolve() / name for name in names]:
            there = ", ".join(names) or "none"
            expected = f"--resume: expected auto, never or a checkpoint in {folder} (there are: {there})"
            raise UsageError(f"{expected}; found {path}; take one of these, or --init_from for another run's model")
        return path, *checkpoint.load(path)
    newest = checkpoint.load_latest(folder)
    existing = marks(out)
    if newest is None and existing and ("metrics.json" in existing or not is_run(out)):
        found = f"{out} holds a finished run without a checkpoint, or files that are no run's ({', '.join(existing)})"
        raise UsageError(f"--resume auto: {found}; take --overwrite or another --output_dir")
    if newest is None:
        say(f"--resume auto: no checkpoint in {folder}; starting from the beginning")
    return newest


def check_same_run(options: Options, stored: dict, own: dict) -> None:
    """Raise where the run was started with other options or other data. stored, own: as Session.numbers gives them."""
    allowed = options.allow_change
    before, now = stored["options"], own["options"]
    changed = [name for name in now if before.get(name) != now[name]]
    fixed = [name for name in changed if name in NEVER_CHANGE or (name, now[name]) == ("option", "pretrain")]
    if changed := fixed + [name for name in changed if name not in [*fixed, *allowed]]:
        shown = [name for name in fixed if name != "task_definitions"] or fixed or changed  # what others follow from
        differences = "; ".join(difference_text(name, before.get(name), now[name]) for name in shown)
        advice = "take those" if fixed else f"take those, or --allow_change {','.join(changed)}"
        raise UsageError(f"--resume: the run was started with other options: {differences}; {advice}")
    old, new = stored["data"], own["data"]
    different = sorted(name for name in {**old, **new} if old.get(name) != new.get(name))
    if different and "data_dir" not in allowed:
        advice = "bring those back, or --allow_change data_dir"
        raise DataError(f"--resume: {', '.join(different)}: not the files that the run was started with; {advice}")


def difference_text(name: str, old: object, new: object) -> str:
    """What an option was and is; of the tasks' definitions only what differs."""
    if name == "task_definitions" and old and len(old) == len(new):
        pairs = [(a, b, key) for a, b in zip(old, new, strict=True) for key in a | b if a.get(key) != b.get(key)]
        return "; ".join(f"{b['name']}'s {key} was {a.get(key)!r:.99}, is {b.get(key)!r:.99}" for a, b, key in pairs)
    name += " (or --init_from)" * (name == "checkpoint")
    return f"--{name} was {option_text(old)}, is {option_text(new)}"


def checked(
    session: Session, path: Path, tensors: checkpoint.Tensors, numbers: dict
) -> tuple[State, dict[str, Tensor], dict[Tensor, dict]]:
    """A checkpoint's progress, weights by name and AdamW's state by parameter, all of which fit this run. Surgery,
    weighing and scaler take back what they remember, which is how it is seen to fit.

    Raises: UsageError or DataError for another run's, CheckpointError where something does not fit.
    """
    advice = "take the checkpoint of a run with these options, or the version that wrote it"
    own = session.numbers()
    if numbers.keys() != own.keys() or not all(isinstance(part, dict) for part in numbers.values()):
        raise CheckpointError(f"{path}: expected {', '.join(own)}; found {', '.join(numbers)}; {advice}")
    check_same_run(session.options, numbers, own)
    moments = defaultdict(dict)  # AdamW's state by the weight's name
    try:
        progress = of_type(vars(State(**numbers["progress"])), State)
        weights = tensors["model"] | tensors["heads"]
        fits = [min(n for n in vars(progress).values() if type(n) is int) >= 0]
        fits += [1 <= progress.parts <= 2 * max(numbers["options"]["batch_size"].values())]
        size = session.model.bert.config.hidden_size
        fits += [len(x) and x.shape[1:] == (size,) for x in tensors["triplets"].values()]
        if not all(fits):
            raise ValueError(f"{progress!r:.300}")
        for name, value in tensors["optimizer"].items():
            weight, kind = name.split(":")
            moments[weight][kind] = value
        moments = {weight: unpacked(state) for weight, state in moments.items()}
        expected = {f"{weight}:{kind}": session.trained[weight] for weight in moments for kind in MOMENTS}
        if any(type(state["step"]) is not int or state["step"] < 1 for state in moments.values()):
            raise ValueError("steps of AdamW")
        parts = (
            (session.surgery, "surgery", "surgery"),
            (session.weigh, "weighing", "weigh"),
            (session.scaler, "scaler", "amp"),
        )
        for part, name, option in parts:
            was, now = (str(run["options"].get(option)).partition(":")[0] for run in (numbers, own))
            if part and numbers[name] and was == now:  # another method, by --allow_change, remembers nothing
                part.load_state_dict(numbers[name])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{path}: a state that does not fit this run ({error!r}); {advice}") from None
    check_fit(session.model.state_dict(), weights, path, advice=advice)
    found = {f"{weight}:{kind}": x for weight, state in moments.items() for kind, x in state.items() if kind in MOMENTS}
    check_fit(expected, found, path, advice=advice)
    return progress, weights, {session.trained[weight]: state for weight, state in moments.items()}


def restore(session: Session, path: Path, tensors: checkpoint.Tensors, numbers: dict) -> None:
    """Put back the tensors and numbers of a checkpoint, bit for bit. Raises as `checked`; no weight is changed."""
    progress, weights, moments = checked(session, path, tensors, numbers)
    session.model.load_state_dict(weights)
    for shards in session.shards:
        for parameter, piece in shards.pieces.items():
            if parameter in moments:
                state = shards.state_of_piece(parameter, moments[parameter])
                on_device = {key: x.to(piece) for key, x in state.items() if key != "step"}
                session.optimizer.state[piece] = state | on_device
    session.previous.vectors = {name: value.to(session.device) for name, value in tensors["triplets"].items()}
    if progress.processes != session.world.size:
        found = f"trained by {progress.processes} processes so far, from here on by {session.world.size}"
        say(f"{found}: the same batches, but other draws of dropout")
    session.state, session.last_good = replace(progress, processes=session.world.size), progress.step
    has_best = session.best_stands or session.checkpoint_of(progress.best_step).is_dir()
    if progress.best_step and not session.fingerprints(["dev"]).items() <= numbers["data"].items():
        session.state.best_score, session.state.evaluations_since_best = None, 0
        say("dev has other rows than before: the best score so far, on the old ones, does not count")
    elif progress.best_step and not has_best:  # best/ is missing, or of a later step
        session.state.best_score = None
        best, step = session.out / "best", progress.best_step
        say(f"{best}: not of step {step}; the next evaluation, or the end of the run, makes it anew")


def resume(session: Session) -> None:
    """Restore the newest checkpoint, or the one that --resume names."""
    stored = session.world.on_rank_0(lambda: checkpoint_to_resume(session.options.resume, session.out))
    if not stored:
        return
    restore(session, *stored)
    saved_steps = map(checkpoint.step_of, checkpoint.saved(session.out / "checkpoints"))
    session.damaged = {step for step in saved_steps if step > session.state.step and session.options.resume == "auto"}
    step, best = session.state.best_step, session.state.best_score
    so_far = "" if best is None else f"; the best so far: {best:.3f} on dev, at step {step}"
    say(f"resumed at step {session.state.step} of {session.total_steps}{so_far}")
