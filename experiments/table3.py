"""Table 3 of the paper, strategies on dev: `python -m experiments.table3 --help`. The work is in tables.py."""

import sys
from functools import partial

from experiments import tables
from runtime.errors import run_cli

main = partial(tables.main, table="table3")

if __name__ == "__main__":
    sys.exit(run_cli(main))
