"""Table 3 of the paper, strategies on dev: ours beside the paper's.

    python -m experiments.table3 --preset smoke --output_dir runs/try  # that it works: minutes, the sample
    python -m experiments.table3 --preset laptop --seeds 0,1,2          # minilm, some 45 minutes a seed on two cores
    python -m experiments.table3 --preset paper --dry_run               # bert-base-uncased, the paper's settings

Given again, the same command goes on. Its rows stand in experiments/rows.py, how they run in
experiments/runs.py.
"""

import sys

from experiments.tables import door
from runtime.errors import run_cli

main = door(3, __doc__)

if __name__ == "__main__":
    sys.exit(run_cli(main))
