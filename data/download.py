"""Fetch the course files, each checked against its git blob id.

    python -m data.download               # into data/cs224n/, the default
    python -m data.download --dest DIR    # elsewhere; train with --data_dir DIR

Source: the course's public starter repository, gpoesia/minbert-default-final-project, folder data/.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.request import urlopen

from data import DEFAULT_DIR
from runtime.errors import CheckpointError, UnavailableError, run_cli
from runtime.files import disk_errors, read_plain, write_atomic
from runtime.settings import OptionParser

BASE_URL = "https://raw.githubusercontent.com/gpoesia/minbert-default-final-project/main/data/"
MAX_BYTES = 2**28  # bytes that a file may have
BLOB_IDS = {
    "ids-cfimdb-dev.csv": "8a0f5dcf3d40189b96c801a12cd79bf8003e61de",
    "ids-cfimdb-test-student.csv": "1e789c709b3ca0511f027a309b6d8bd21cde41b2",
    "ids-cfimdb-train.csv": "cd57bcbd2f7214ea6dd1783d3e885d324b1f478d",
    "ids-sst-dev.csv": "3171aa629a340809d2db4a50df8f6e5ec9420ab0",
    "ids-sst-test-student.csv": "bbd2313758825f86e24416d6aad64cd93370cf7a",
    "ids-sst-train.csv": "9cb7333cb1dae49c2bd2a4b56a24882a6e8704b5",
    "quora-dev.csv": "de7cfa32428fd470b93f778fccc45a619e01336f",
    "quora-test-student.csv": "f257ef00558555afb50819578a58205732b16354",
    "quora-train.csv": "a3b5546f6a0e65b60a328a5d294d1038f5bed1da",
    "sts-dev.csv": "9392860e584717976b8d817cc40c9e6ceeec27e0",
    "sts-test-student.csv": "25f0cf8fafdd1f82b9e2bb460c708af34341ce60",
    "sts-train.csv": "12b17760e7795fee35aeeabc290d5651de02622a",
}


def blob_id(content: bytes) -> str:
    """The name git gives to a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def main(argv: Sequence[str] | None = None, blob_ids: Mapping[str, str] = BLOB_IDS) -> None:
    """Fetch every file of `blob_ids` (name -> git blob id) into --dest: each one whole and checked, or not at all.

    Exit codes, by run_cli: 0 all files there; 2 options; 4 a wrong file; 7 the folder; 8 the network; 130 Ctrl-C.
    """
    parser = OptionParser(__doc__)
    parser.add_argument("--dest", type=Path, default=DEFAULT_DIR, metavar="DIR", help="to (default: %(default)s)")
    parser.add_argument("--base_url", default=BASE_URL, metavar="URL", help="from (default: %(default)s)")
    args = parser.parse_args(argv)
    with disk_errors(args.dest):
        args.dest.mkdir(parents=True, exist_ok=True)
        paths = [path for path in args.dest.iterdir() if path.name in blob_ids and path.is_file()]
        existing = {path.name: blob_id(read_plain(path)) for path in paths if path.stat().st_size < MAX_BYTES}
    missing = [name for name in blob_ids if existing.get(name) != blob_ids[name]]
    for done, name in enumerate(missing):
        url = f"{args.base_url.rstrip('/')}/{name}"
        print(f"fetching {url}", file=sys.stderr)
        try:
            with urlopen(url, timeout=30) as response:  # seconds without a byte
                content = response.read(MAX_BYTES)
                if missing_bytes := getattr(response, "length", 0):
                    raise IncompleteRead(content, missing_bytes)
        except (OSError, HTTPException, ValueError) as error:  # a body that ends early; no valid address
            by_hand = f"{', '.join(missing[done:])} by hand into {args.dest.resolve()}"
            raise UnavailableError(f"{url}: expected the file; found: {error}; try again, or fetch {by_hand}") from None
        if (found := blob_id(content)) != blob_ids[name]:
            raise CheckpointError(f"{url}: expected git blob {blob_ids[name]}; found {found}; try another --base_url")
        write_atomic(args.dest / name, content)
    print(f"{len(missing)} of {len(blob_ids)} files fetched, all verified, in {args.dest}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_cli(main))
