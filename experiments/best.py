"""A better recipe for a small model such as minilm: on two cores half an hour with SST's phrases, an hour without.

    python -m experiments.phrases --trees trees/train.txt --data_dir DATA --dest DATA/phrases
    python -m experiments.best --data_dir DATA/phrases --output_dir RUN --seed N

What experiments.soft_labels makes of DATA/phrases is better still, and costs half an hour more. The recipe is
train_multitask.py with these options; all its options can be given, and replace those of the recipe:

    {with_phrases}

Where SST's train has no phrases (--data_dir DATA):

    {without}

docs/recipes.md says what its parts gained and what they cost.
"""

import sys
from collections.abc import Sequence

import train_multitask
from data.reader import read
from experiments.phrases import SST, has_phrases
from runtime.errors import run_cli
from training.options import parse

WITH_PHRASES = """--pairs both --batch_size sst=64,para=32,sts=16 --loss_scale sst=2
    --bert_dropout_prob 0 --max_steps 1416 --eval_every 354"""
WITHOUT = "--pairs both --batch_size sst=8,para=32,sts=16 --epochs 3"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    description = __doc__.format(with_phrases=WITH_PHRASES, without=WITHOUT)
    options = parse(argv, description)
    phrases = "sst" in options.task_names and has_phrases(read(SST, "train", options.data_dir))
    train_multitask.main([*(WITH_PHRASES if phrases else WITHOUT).split(), *argv], description)


if __name__ == "__main__":
    sys.exit(run_cli(main))
