"""Before training: do the tasks' gradients agree, and should they be trained together?

    python -m experiments.affinity                                   # the sample, or the downloaded files
    python -m experiments.affinity --data_dir DIR --task_file my.toml --batches 60

It takes all options of train_multitask.py, and --batches (default: 40). First the heads alone are trained, for the
gradient of an untrained head says nothing about its task. Then, in each of --batches measurements, two batches A and B
of each task give its gradients of the shared parameters, and no weight changes. From the Gramian of these 2 T
gradients:

    cosine     of two tasks; and of a task with itself, cos(A, B): its distance from 1 is noise
    signal     the cosine of the two mean gradients, without the noise:
               E[g_i . g_j] / sqrt(E[g_iA . g_iB] E[g_jA . g_jB])
    transfer   what a step on task i does for task j, to first order, in relation to a step on j itself:
               E[g_i . g_j] / E[g_jA . g_jB]; plain, and scaled as AdamW would, by the mean of squared gradients
    affinity   TAG's (Fifty et al. 2021): a plain step of --lr on i lowers j's loss by the share lr E[g_i . g_j] / l_j
    turn       the angle between the plain sum and PCGrad's update (its mean over all orders of the tasks), and the
               angle between the sums of two batches

Writes affinity.json and affinity.png to --output_dir (default: runs/affinity). Needs: pip install -e '.[pictures]'
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bert.precision import autocast
from experiments.claims import over_seeds
from experiments.pictures import new_figure, save
from heads.rows import step_batches
from optim import AdamW, TaskGradients
from optim.surgery import SURGERIES
from optim.surgery.gramian import gramian
from runtime.errors import UsageError, run_cli, say, show
from runtime.files import write_atomic
from runtime.seeds import generator, seeded
from runtime.settings import OptionParser, positive_int
from training.options import parse
from training.session import Session

HEAD_STEPS, HEAD_LR = 100, 1e-3
RESAMPLES = 1000
LEAST = 20  # measurements: the bootstrap of fewer has intervals that are too narrow


class Measured(NamedTuple):
    """N measurements of T tasks. The 2 T gradients: batch A of each task, then batch B of each."""

    tasks: list[str]
    losses: np.ndarray  # (N, T), weighed like the gradients
    gramians: np.ndarray  # (N, 2 T, 2 T)
    layers: dict[str, np.ndarray]  # by layer: the Gramians of its parameters alone
    scaled: np.ndarray  # (N / 2, 2 T, 2 T), gradients scaled as by AdamW, second half of the measurements


def layer_of(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    parts = name.split(".")
    if parts[0] != "bert":
        return "on top"
    return f"layer {int(parts[2]) + 1}" if parts[1] == "layers" else parts[1]


def train_heads(session: Session) -> None:
    """Train the tasks' own parts, and nothing that tasks share."""
    model, options = session.model, session.options
    shared = [p for p in model.shared_parameters() if p.requires_grad]
    model.requires_grad_(False)
    for name in options.task_names:
        model.heads[name].requires_grad_(True)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=HEAD_LR)
    for step in range(HEAD_STEPS):
        ((batches, _),) = step_batches(session.rows, step, 1, 1, session.device)
        with seeded(options.seed, "heads first", step), autocast(session.device, session.amp):
            draws = generator(options.seed, "negatives", step)
            losses = model.losses(batches, options.losses, session.previous, draws)
        sum(losses.values()).backward()
        session.previous.end_step()
        optimizer.step()
        optimizer.zero_grad()
        show("heads first", step + 1, HEAD_STEPS)
    for parameter in shared:
        parameter.requires_grad_(True)


def measure(session: Session, count: int) -> Measured:
    """Measure the gradients of two batches of each task, `count` times. No weight changes."""
    model, options, tasks = session.model, session.options, session.gradients.tasks
    model.bert.embeddings.word.sparse = False
    gradients = TaskGradients([task + half for half in "AB" for task in tasks], model.shared_parameters())
    names = {parameter: layer_of(name) for name, parameter in model.named_parameters()}
    layers: dict[str, list[Tensor]] = {names[parameter]: [] for parameter in gradients.shared}
    squares = {parameter: torch.zeros_like(parameter) for parameter in gradients.shared}  # AdamW's v, but a plain mean
    losses, scaled = [], []
    for n in range(count):
        step_losses = dict.fromkeys(tasks, 0.0)
        for half in range(2):
            step = HEAD_STEPS + 2 * n + half
            for micro, (batches, shares) in enumerate(session.micro_batches(step)):
                counts = {name + "AB"[half]: rows for name, rows in model.row_counts(batches).items()}
                with session.dropout(step, micro), gradients.by_rows(model, *gradients.sizes(counts)):
                    with autocast(session.device, session.amp):
                        draws = generator(options.seed, "negatives", step)
                        batch_losses = model.losses(batches, options.losses, session.previous, draws)
                    weighed = session.weigh(batch_losses, generator(options.seed, "weighing", step))
                    sum(weighed[name] * share for name, share in shares.items()).backward()
                for name, share in shares.items():
                    step_losses[name] += weighed[name].item() * share / 2
        session.previous.end_step()
        losses.append([*step_losses.values()])
        gradients.summed()  # zeros where a task did not reach a parameter
        layer_gramians = dict.fromkeys(layers, 0.0)
        scaled_gramian = 0.0
        for parameter, rows in gradients.views.items():  # (2 T, ...)
            rows = rows.flatten(1)
            layer_gramians[names[parameter]] += gramian(rows).cpu()
            # Of both halves: both are scaled by it, and where only one counts, the other is divided by next to nothing
            squares[parameter] += rows.view(2, len(tasks), -1).sum(1).square().mean(0).view_as(parameter)
            if n >= count // 2:
                root = (squares[parameter].flatten() / (n + 1)).sqrt() + 1e-8
                scaled_gramian += gramian(rows / root.sqrt()).cpu()
        for layer, layer_gramian in layer_gramians.items():
            layers[layer].append(layer_gramian)
        scaled += [scaled_gramian] if n >= count // 2 else []
        gradients.forget()
        model.zero_grad()
        show("gradients", n + 1, count)
    by_layer = {layer: torch.stack(gramians).numpy() for layer, gramians in layers.items()}
    by_layer = {layer: gramians for layer, gramians in by_layer.items() if gramians.any()}  # others have no gradient
    return Measured(tasks, np.array(losses), sum(by_layer.values()), by_layer, torch.stack(scaled).numpy())


def products(gramians: np.ndarray) -> np.ndarray:
    """(N, 2 T, 2 T) -> (N, T, T): g_i . g_j of two tasks, the mean over A and B; of a task with itself, A with B."""
    half = gramians.shape[1] // 2
    a, b, across = gramians[:, :half, :half], gramians[:, half:, half:], gramians[:, :half, half:]
    across = (across + across.transpose(0, 2, 1)) / 2
    return np.where(np.eye(half, dtype=bool), across, (a + b + 2 * across) / 4)


def cosines(gramians: np.ndarray) -> np.ndarray:
    """Like `products`, with all gradients scaled to length 1."""
    norms = np.sqrt(np.einsum("nii->ni", gramians))
    return products(gramians / np.maximum(norms[:, :, None] * norms[:, None, :], 1e-300))


def ratios(values: np.ndarray, kind: str) -> np.ndarray:
    """products (..., N, T, T) -> (..., T, T): of their means over N the `signal`, or the `transfer` from i to j."""
    mean = values.mean(axis=-3)
    diagonal = np.einsum("...ii->...i", mean).copy()
    diagonal[diagonal <= 0] = np.nan  # no signal
    if kind == "transfer":
        return mean / diagonal[..., None, :]
    return mean / np.sqrt(diagonal[..., None, :] * diagonal[..., :, None])


def with_interval(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratios, and their 95 % interval by a bootstrap over the measurements; NaN if a resample has none."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    resampled = ratios(values[draws], kind)
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return ratios(values, kind), low, high


def turns(gramians: np.ndarray) -> tuple[float, float]:
    """Mean angles in degrees: of PCGrad's mean update from the plain sum, and between the plain sums of two batches."""
    half, surgery = gramians.shape[1] // 2, SURGERIES["pcgrad_mean"]()
    angles = []
    for matrix in gramians:
        g, ones = matrix[:half, :half], np.ones(half)
        w = surgery.weights(torch.from_numpy(g)).numpy()
        other = matrix[half:, half:]
        cosine = ones @ g @ w / math.sqrt((ones @ g @ ones) * (w @ g @ w))
        noise = matrix[:half, half:].sum() / math.sqrt(g.sum() * other.sum())
        angles.append(np.degrees(np.arccos(np.clip([cosine, noise], -1, 1))))
    turned, noise = np.mean(angles, axis=0)
    return float(turned), float(noise)


def numbers(measured: Measured, lr: float, scales: Mapping[str, float]) -> dict:
    """All results, for affinity.json: pairs by "i-j", directions by "i>j". scales: the --loss_scale that was used."""
    tasks, count = measured.tasks, len(measured.losses)
    losses, dots, cos = measured.losses.mean(axis=0), products(measured.gramians), cosines(measured.gramians)
    n_tasks = len(tasks)
    signal, scaled = with_interval(dots, "signal"), with_interval(products(measured.scaled), "transfer")
    plain = with_interval(dots, "transfer")
    by_layer = {layer: cosines(gramians).mean(axis=0) for layer, gramians in measured.layers.items()}
    turned, noise = turns(measured.gramians)
    content: dict = {"measurements": count, "tasks": {}, "pairs": {}, "directions": {}}
    for i, task in enumerate(tasks):
        square = dots[:, i, i].mean()
        content["tasks"][task] = {
            "loss": losses[i],
            "signal": math.sqrt(square) if square > 0 else None,
            "noise floor": mean_and_interval(cos[:, i, i]),
        }
    for i, j in combinations(range(n_tasks), 2):
        content["pairs"][f"{tasks[i]}-{tasks[j]}"] = {
            "cosine": mean_and_interval(cos[:, i, j]),
            "signal": [number(part[i, j]) for part in signal],
            "by layer": {layer: float(mean[i, j]) for layer, mean in by_layer.items()},
        }
    for i, j in permutations(range(n_tasks), 2):
        content["directions"][f"{tasks[i]}>{tasks[j]}"] = {
            "affinity": float(lr * dots[:, i, j].mean() / losses[j]),
            "transfer": [number(part[i, j]) for part in plain],
            "transfer, AdamW": [number(part[i, j]) for part in scaled],
        }
    signals = [content["tasks"][task]["signal"] for task in tasks]
    content["loss_scale"] = {
        "equal losses": balanced(dict(zip(tasks, losses, strict=True)), scales),
        "equal gradients": None if None in signals else balanced(dict(zip(tasks, signals, strict=True)), scales),
    }
    content["turn"] = {"PCGrad from the plain sum": turned, "the plain sum from batch to batch": noise}
    return content


def number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def mean_and_interval(values: np.ndarray) -> list[float]:
    """Mean, and the ends of its 95 % interval, for independent measurements."""
    mean, _, interval = over_seeds(values)
    return [mean, *interval]


def balanced(sizes: Mapping[str, float], scales: Mapping[str, float]) -> dict[str, float]:
    """Factors that make all sizes equal, to two digits: 1 for the task that is largest without factors.

    scales: the factors that are in the sizes now.
    """
    sizes = {task: size / scales[task] for task, size in sizes.items()}
    largest = max(sizes.values())
    return {task: float(f"{largest / size:.2g}") for task, size in sizes.items()}


def advice(content: Mapping) -> list[str]:
    """In plain words: what to train together, with which scales, and whether PCGrad can matter."""
    lines = []
    for a, b in combinations(content["tasks"], 2):
        transfers = {(i, j): content["directions"][f"{i}>{j}"]["transfer, AdamW"] for i, j in ((a, b), (b, a))}
        lines.append(f"{a} and {b}: {pair_advice([*transfers.values()])}")
        for (i, j), value in transfers.items():
            if None not in value:
                share = "{:+.0f} % ({:+.0f} to {:+.0f})".format(*(100 * x for x in value))
                lines.append(f"    a step on {i} does for {j} {share} of what a step on {j} does")
    for goal, scales in content["loss_scale"].items():
        if scales:
            lines.append(f"for {goal}: --loss_scale {','.join(f'{task}={x:g}' for task, x in scales.items())}")
    turned, noise = content["turn"].values()
    matter = "can hardly matter" if turned < noise / 3 else "may matter"
    angles = f"it turns the plain sum by {turned:.1f} degrees on average, another batch by {noise:.1f}"
    return [*lines, f"PCGrad {matter}: {angles}"]


def pair_advice(both: Sequence[Sequence[float | None]]) -> str:
    """Advice for a pair of tasks. both: the transfer in each direction as (value, low, high), None where undefined."""
    if undefined := sum(None in value for value in both):
        way = " in one direction" * (undefined == 1)
        return f"cannot be told{way}: the signal drowns in noise; take more --batches"
    if all(low > 0 for _, low, _ in both):
        return "train them together: each helps the other"
    if all(high < 0 for _, _, high in both):
        return "train them apart: each harms the other"
    if any(high < 0 for _, _, high in both):
        return "look at it: one harms the other"
    return "one helps the other" if any(low > 0 for _, low, _ in both) else "neither help nor harm can be told"


def draw(path: Path, content: Mapping) -> None:
    """Heat maps: cosines with the noise floor on the diagonal; transfer under AdamW; cosines by layer."""
    tasks, pairs = list(content["tasks"]), list(content["pairs"])
    figure = new_figure(9, 3.6 + 0.28 * len(pairs))
    grid = figure.add_gridspec(2, 2, height_ratios=[3, 1 + 0.25 * len(pairs)])
    floor = [content["tasks"][task]["noise floor"][0] for task in tasks]
    cos, transfer = np.diag(floor), 100 * np.eye(len(tasks))
    for pair, (i, j) in zip(pairs, combinations(range(len(tasks)), 2), strict=True):
        cos[i, j] = cos[j, i] = content["pairs"][pair]["cosine"][0]
    for i, j in permutations(range(len(tasks)), 2):
        value = content["directions"][f"{tasks[i]}>{tasks[j]}"]["transfer, AdamW"]
        transfer[i, j] = np.nan if None in value else 100 * value[0]
    layers = list(next(iter(content["pairs"].values()))["by layer"])
    by_layer = np.array([[content["pairs"][pair]["by layer"][layer] for layer in layers] for pair in pairs])
    effect = "what a step on the row's task does\nfor the column's, in % of its own (AdamW)"
    panels = (
        (grid[0, 0], "cosine of gradients\n(diagonal: two batches of one task)", cos, tasks, tasks, "{:+.3f}"),
        (grid[0, 1], effect, transfer, tasks, tasks, "{:+.0f}"),
        (grid[1, :], "cosine of two tasks' gradients, by layer", by_layer, pairs, layers, "{:+.3f}"),
    )
    for place, title, values, rows, columns, form in panels:
        ax, limit = figure.add_subplot(place), np.nanmax(np.abs(values)) or 1.0
        ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            color = "white" if abs(value) > 0.6 * limit else "black"
            shown = form.format(value) if np.isfinite(value) else "?"  # lost in noise
            ax.text(j, i, shown, ha="center", va="center", color=color)
        ax.set_title(title)
        ax.set_xticks(range(len(columns)), columns, rotation=0 if len(columns) < 6 else 20)
        ax.set_yticks(range(len(rows)), rows)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    extra_options = OptionParser("", add_help=False)
    extra_options.add_argument("--batches", type=positive_int, default=40)
    extra_options.add_argument("--output_dir", "--output-dir", default="runs/affinity")
    args, words = extra_options.parse_known_args(argv)
    options = parse([*words, "--output_dir", args.output_dir, "--no_test"], __doc__)
    if options.strategy == "single":
        raise UsageError("--tasks: expected two tasks or more; found one; there is nothing to compare")
    if options.dry_run or options.overwrite or options.resume != "never":
        raise UsageError("--dry_run, --overwrite, --resume: are for a run; here there is none; leave them out")
    if args.batches < LEAST:
        raise UsageError(f"--batches: expected {LEAST} or more; found {args.batches}")
    new_figure(1, 1)  # where matplotlib is missing, say so before the work
    session = Session(options)
    if not any(p.requires_grad for p in session.model.shared_parameters()):
        raise UsageError(f"--option pretrain: {options.heads.arch} trains nothing that tasks share; take finetune")
    plan = f"{HEAD_STEPS} steps of the heads, then {args.batches} times two batches of each task"
    say(f"{', '.join(options.task_names)} of {options.data_name}: {plan}")
    train_heads(session)
    content = numbers(measure(session, args.batches), options.lr, options.loss_scale)
    settings = {"checkpoint": options.checkpoint, "batch_size": dict(options.batch_size), "lr": options.lr}
    settings |= {"seed": options.seed, "data": session.fingerprints()}
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(options.output_dir / "affinity.json", json.dumps(settings | content, indent=2) + "\n")
    draw(options.output_dir / "affinity.png", content)
    print("\n".join(advice(content)))
    say(f"all of it: {options.output_dir / 'affinity.json'}, affinity.png")


if __name__ == "__main__":
    sys.exit(run_cli(main))
