"""A longer recipe for a small model, of minilm: about an hour on two cores, twice as long as train_multitask.py's
defaults.

    python -m experiments.best --data_dir DATA --output_dir RUN --seed N

It runs train_multitask.py with these options. All its options can be given; they replace those of the recipe.

    {recipe}

docs/recipes.md says what its parts gained and what they cost.
"""

import sys
from collections.abc import Sequence

import train_multitask
from runtime.errors import run_cli

RECIPE = ("--pairs", "both", "--epochs", "3", "--batch_size", "sst=8,para=32,sts=16")


def main(argv: Sequence[str] | None = None) -> None:
    description = __doc__.format(recipe=" ".join(RECIPE))
    train_multitask.main([*RECIPE, *(sys.argv[1:] if argv is None else argv)], description)


if __name__ == "__main__":
    sys.exit(run_cli(main))
