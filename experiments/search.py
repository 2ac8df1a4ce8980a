"""Search for settings by Optuna, then measure the best ones on fresh seeds.

    python -m experiments.search --max_steps 400 --eval_every 100 --data_dir DIR
    python -m experiments.search --max_steps 400 --eval_every 100 --data_dir DIR --measure 3

Each trial is a run of train_multitask.py, with settings drawn near those that did well before. Once five have gone to
the end, a trial below the others' median at an evaluation ends there. The score is the mean of the tasks' main metrics
on dev.

    --trials N         how many shall end, earlier ones included (default: 30)
    --measure N        then train the best and the usual settings on N further seeds (default: 0)
    --storage URL      a database that several processes share (default: OUTPUT_DIR/trials.db, by sqlite)
    --output_dir DIR   for the trials (default: runs/search)

All options of train_multitask.py can be given, but --dry_run, --overwrite and --predictions_dir. They hold for every
trial, and what you give is not searched. The same command goes on after an interruption; docs/recipes.md has the rest.
Needs: pip install -e '.[search]'
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import train_multitask
from data.reader import fingerprints, read_splits
from data.tasks import Task
from evaluate import score
from experiments.claims import over_seeds
from experiments.tables import with_spread
from runtime.errors import DivergedError, UsageError, run_cli, say
from runtime.files import read_json, remove
from runtime.ranks import ALONE, World
from runtime.settings import OptionParser, non_negative_int, positive_int
from training.options import FIXED, Options, parse
from training.session import Session

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

# For each option its choices, or the ends of its range; if the lower is above 0, its logarithm is drawn evenly.
SPACE = {
    "lr": (2e-5, 4e-4),
    "head_lr_scale": (1.0, 100.0),
    "warmup": (0.0, 0.3),
    "weight_decay": (0.001, 0.1),
    "hidden_dropout_prob": (0.0, 0.6),
    "loss_scale": {"sst": (0.3, 3.0), "sts": (0.3, 3.0)},  # para's is 1: only their ratios matter
    "pairs": {"para": ("siamese", "cross", "both"), "sts": ("siamese", "cross", "both")},
    "pooling": ("cls", "mean", "attention_mean"),
    "layer": ("-1", "-2"),
    "sts_gamma": (0.0, 1.0),
}
BEATS = 60  # seconds between a trial's heartbeats; a trial without one for twice as long is taken over
WORDS, FOLDER = "options", "folder"  # a trial's attributes: its draws, as words of train_multitask.py; its run's folder
DATA = "data"  # beside WORDS, a search's attribute: what each file holds
TRIES = 3  # most retries of an interrupted trial
FAILED = 10  # so many failed trials in a row end the search


class TrialSession(Session):
    """A session that reports its best score so far to a trial after each evaluation, and ends if that is behind."""

    def __init__(self, options: Options, world: World = ALONE, *, trial: Trial):
        super().__init__(options, world)
        self.trial = trial

    def save_if_due(self, evaluated: bool) -> None:
        super().save_if_due(evaluated)
        if evaluated and self.state.best_score is not None:
            self.trial.report(self.state.best_score, self.state.step)
            if self.trial.should_prune() and not self.finished:
                raise optuna().TrialPruned


def optuna():
    """The library optuna. Raises UsageError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UsageError("expected the package optuna; found none; pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # about heartbeats
    return optuna


def draw_options(trial: Trial, given: Sequence[str], tasks: Sequence[Task]) -> list[str]:
    """Draw all options of SPACE that are not given and matter to the trained tasks, as words of train_multitask.py."""
    names = [task.name for task in tasks]
    matters = {"loss_scale": len(tasks) > 1, "sts_gamma": any(task.range for task in tasks)}

    def value(name: str, space: Sequence) -> str:
        if isinstance(space[0], str):
            return trial.suggest_categorical(name, space)
        return f"{trial.suggest_float(name, *space, log=space[0] > 0):.3g}"

    words = []
    for option, space in SPACE.items():
        if option in given or not matters.get(option, True):
            continue
        if isinstance(space, dict):
            values = [f"{task}={value(f'{option} {task}', part)}" for task, part in space.items() if task in names]
        else:
            values = [value(option, space)]
        if values:
            words += [f"--{option}", ",".join(values)]
    return words


def check_same_options(out: Path, options: Options) -> None:
    """Raise UsageError where the run in this folder has other options: it is of another search, say."""
    now = json.loads(json.dumps(options.as_json())) | {"data_dir": str(options.data_dir.resolve())}
    before = read_json(out / "config.json")
    before, now = ({**run, "checkpoint": os.path.abspath(run.get("checkpoint", ""))} for run in (before, now))
    if differ := [name for name in (*FIXED, "data_dir", "task_definitions") if before.get(name) != now[name]]:
        raise UsageError(f"{out}: holds a run with another {', '.join(differ)}; take another --output_dir")


def train(words: Sequence[str], out: Path, make_session: Callable[..., Session] = Session) -> float:
    """Do a run in this process, or the rest of it, and return its score. Logs to OUT.log; deletes what is large.

    Raises: UsageError where the folder holds a finished run with other options; and as a run does.
    """
    options = parse([*words, "--output_dir", str(out), "--resume", "auto", "--no_test"])
    if (out / "metrics.json").is_file():
        check_same_options(out, options)
    else:
        with open(f"{out}.log", "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                train_multitask.run(options, make_session)
            except (DivergedError, optuna().TrialPruned):  # others leave a run that can go on, or another process's
                remove(out)
                raise
    for name in ("checkpoints", "best"):
        remove(out / name)
    value = score(read_json(out / "metrics.json")["dev"], options.tasks)
    if value is None:
        raise DivergedError(f"{out}: expected a score on dev; found none, a metric is not defined; see {out}.log")
    return value


def study_of(storage: str, words: Sequence[str], data: dict[str, str]) -> Study:
    """The search in this storage, new or existing. data: its `fingerprints`. Raises UsageError for one with other
    options or data."""
    library = optuna()
    retry = library.storages.RetryHeartbeatStaleTrialCallback(TRIES, inherit_intermediate_values=True)
    try:
        database = library.storages.RDBStorage(storage, heartbeat_interval=BEATS, heartbeat_stale_trial_callback=retry)
    except Exception as error:
        expected = f"expected a database's URL, sqlite:///FILE say; found {storage}"
        raise UsageError(f"--storage: {expected} ({str(error).splitlines()[0]})") from None
    pruner = library.pruners.MedianPruner(n_startup_trials=5)
    arguments = {"study_name": "search", "storage": database, "load_if_exists": True}
    study = library.create_study(direction="maximize", pruner=pruner, **arguments)
    if (before := study.user_attrs.get(WORDS, [*words])) != [*words]:
        found = f"{storage} is of a search with {shlex.join(before)}; found {shlex.join(words)}"
        raise UsageError(f"{found}; take the same options, or another --output_dir")
    if differ := [title for title, contents in study.user_attrs.get(DATA, data).items() if data.get(title) != contents]:
        found = f"{storage} is of a search with another {differ[0]}"
        raise UsageError(f"{found}; bring it back, or take another --output_dir")
    study.set_user_attr(WORDS, [*words])
    study.set_user_attr(DATA, data)
    return study


def names_in(words: Sequence[str]) -> set[str]:
    """The names of the options among these words."""
    return {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}


def search(study: Study, count: int, words: Sequence[str], options: Options, out: Path) -> None:
    """Run trials until `count` have ended, earlier ones and those of other processes included."""
    library = optuna()
    states = library.trial.TrialState.COMPLETE, library.trial.TrialState.PRUNED
    given = names_in(words)
    given |= {"pooling"} if options.heads.arch == "v1" else set()  # v1 takes cls alone
    given |= {"pooling", "layer", "pairs"} if options.init_from else set()  # its heads are made for those they have

    def objective(trial: Trial) -> float:
        name = trial.user_attrs.get(FOLDER, f"trial-{trial.number:04}")  # a retry has the first trial's
        trial.set_user_attr(FOLDER, name)
        drawn = draw_options(trial, given, options.tasks)
        trial.set_user_attr(WORDS, drawn)
        say(f"{name}: {shlex.join(drawn)}; log: {out / name}.log")
        try:
            return train([*words, *drawn], out / name, partial(TrialSession, trial=trial))
        except DivergedError as error:
            say(f"{name}: {error}")
            raise

    def say_result(study: Study, trial: FrozenTrial) -> None:
        value = "" if trial.value is None else f", {trial.value:.4f}"
        say(f"{trial.user_attrs[FOLDER]}: {trial.state.name.lower()}{value}")
        last = [other.state for other in study.get_trials(deepcopy=False) if other.state.is_finished()][-FAILED:]
        if last == [library.trial.TrialState.FAIL] * FAILED:
            raise DivergedError(f"expected a trial with a score; found {FAILED} failed ones in a row; change options")

    stop = library.study.MaxTrialsCallback(count, states)
    if len(study.get_trials(deepcopy=False, states=states)) < count:
        study.optimize(objective, callbacks=[say_result, stop], catch=(DivergedError,))


def report(study: Study) -> str:
    """The numbers of trials, how much each setting matters, and the best trials, as text."""
    library, trials = optuna(), study.get_trials(deepcopy=False)
    counts = Counter(trial.state.name.lower() for trial in trials)
    complete = [trial for trial in trials if trial.state == library.trial.TrialState.COMPLETE]
    lines = ["trials: " + ", ".join(f"{count} {state}" for state, count in counts.items())]
    if len(complete) > 1:
        matters = library.importance.get_param_importances(study)
        lines += ["", "how much each setting matters, 1 in all:"]
        lines += [f"  {name:<24}{share:5.2f}" for name, share in matters.items()]
    lines += ["", "the best:"]
    for trial in sorted(complete, key=lambda trial: -trial.value)[:5]:
        lines += [f"  {trial.value:.4f}  {shlex.join(trial.user_attrs[WORDS])}"]
    return "\n".join(lines)


def measured(study: Study, words: Sequence[str], seeds: Sequence[int], out: Path) -> str:
    """Train the best trial's settings and the usual ones on the same fresh seeds, and return a comparison as text."""
    scores, lines = {}, ["", f"on seeds {', '.join(map(str, seeds))}, which no trial has seen:"]
    best = study.best_trial
    for name, part, settings in (("best", f"best-{best.number:04}", best.user_attrs[WORDS]), ("usual", "usual", [])):
        runs = [(seed, out / f"{part}-seed-{seed}") for seed in seeds]
        scores[name] = [100 * train([*words, *settings, "--seed", str(seed)], folder) for seed, folder in runs]
        spread = statistics.stdev(scores[name]) if len(seeds) > 1 else None
        lines.append(f"  {name:<6} {with_spread(statistics.mean(scores[name]), spread)}")
    if len(seeds) > 1:
        mean, _, (low, high) = over_seeds(np.subtract(scores["best"], scores["usual"]))
        lines.append(f"  best less usual, in percent: {mean:+.1f}, 95 % interval {low:+.1f} to {high:+.1f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    search_options = OptionParser("", add_help=False)
    search_options.add_argument("--trials", type=positive_int, default=30)
    search_options.add_argument("--measure", type=non_negative_int, default=0)
    search_options.add_argument("--storage")
    search_options.add_argument("--output_dir", "--output-dir", default="runs/search")
    args, words = search_options.parse_known_args(argv)
    if unfit := names_in(words) & {"dry_run", "overwrite", "predictions_dir"}:
        raise UsageError(f"--{min(unfit)}: is for one run, and a search makes many; leave it out")
    options = parse([*words, "--output_dir", args.output_dir], __doc__)
    out = options.output_dir
    out.mkdir(parents=True, exist_ok=True)
    splits = read_splits(options.tasks, ("train", "dev"), options.data_dir, options.seed)
    study = study_of(args.storage or f"sqlite:///{out / 'trials.db'}", words, fingerprints(splits.values()))
    search(study, args.trials, words, options, out)
    print(report(study))
    if args.measure:
        seeds = range(options.seed + 1, options.seed + 1 + args.measure)
        print(measured(study, words, seeds, out))


if __name__ == "__main__":
    sys.exit(run_cli(main))
