"""A longer recipe for a small model, of minilm: about an hour on two cores, twice as long as train_multitask.py's
defaults.

    python -m experiments.phrases --trees trees/train.txt --data_dir DATA --dest DATA_PHRASES
    python -m experiments.best --data_dir DATA_PHRASES --output_dir RUN --seed N

It runs train_multitask.py with these options. All its options can be given; they replace those of the recipe.

    {recipe}
    {batches}

Without the phrases (--data_dir DATA) a step has {rows} rows of sst. docs/recipes.md says what its parts gained and what
they cost.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import train_multitask
from data import find_data_dir
from data.reader import read
from data.tasks import LEADERBOARD, TASKS
from experiments.phrases import PHRASE_ID, SST
from runtime.errors import run_cli
from runtime.settings import OptionParser

RECIPE = ("--pairs", "both", "--epochs", "3", "--max_steps", "2124", "--eval_every", "354")
BATCHES = ("--batch_size", "sst={},para=32,sts=16")
ROWS, ROWS_WITH_PHRASES = 8, 64  # of sst, in a step: two epochs of its sentences; nearly one with all phrases


def has_phrases(data_dir: Path) -> bool:
    """Whether experiments.phrases has added to SST's train file; False too where there is none."""
    if not SST.path("train", data_dir).is_file():
        return False
    return PHRASE_ID.format(1) in {example.id for example in read(SST, "train", data_dir).examples}


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = OptionParser("", add_help=False)
    parser.add_argument("--data_dir", type=Path, default=find_data_dir(TASKS[name] for name in LEADERBOARD)[0])
    rows = ROWS_WITH_PHRASES if has_phrases(parser.parse_known_args(argv)[0].data_dir) else ROWS
    words = {"recipe": RECIPE, "batches": (BATCHES[0], BATCHES[1].format(ROWS_WITH_PHRASES))}
    description = __doc__.format(rows=ROWS, **{name: " ".join(part) for name, part in words.items()})
    train_multitask.main([*RECIPE, BATCHES[0], BATCHES[1].format(rows), *argv], description)


if __name__ == "__main__":
    sys.exit(run_cli(main))
