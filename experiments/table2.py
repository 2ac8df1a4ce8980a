"""Table 2 of the paper, architectures on dev: `python -m experiments.table2 --help`. The work is in tables.py."""

import sys
from functools import partial

from experiments import tables
from runtime.errors import run_cli

main = partial(tables.main, table="table2")

if __name__ == "__main__":
    sys.exit(run_cli(main))
