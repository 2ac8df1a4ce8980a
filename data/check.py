"""Check the data of tasks before a long training: rows, labels, lengths, and anything odd.

    python -m data.check                        # the course's tasks
    python -m data.check --task_file my.toml    # your own

Exit code 3 where training would refuse the data.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bert import BertTokenizer
from data import find_data_dir
from data.reader import SHOWN, Split, folded, label_counts, listed, overlaps, read, token_counts
from data.task_file import load
from data.tasks import TASKS, Task, choose_tasks, names
from heads.kinds import KINDS
from runtime.errors import DataError, nearest, printable, run_cli
from runtime.settings import OptionParser, positive_int

RARE = 10  # rows of a class in train: fewer are hardly enough to learn it


def summary(task: Task, split: Split, counts: dict[str, int], tokenizer: BertTokenizer, max_length: int) -> str:
    """A line of numbers: rows; tokens of a row's longer text, or of both if they are one sequence, before they are cut,
    [CLS] and [SEP] included; the share of each label."""
    tokens = np.max(token_counts(task, split, tokenizer), axis=0)
    labelled = max(1, sum(example.label is not None for example in split.examples))
    line = f"{len(tokens):9,} rows   median {np.median(tokens):4.0f} tokens, longest {tokens.max():5,}"
    shares = [f"{label} {count / labelled:.1%}" for label, count in counts.items()]
    return f"{line}   {np.mean(tokens > max_length):6.1%} cut at {max_length}   {listed(shares)}".rstrip()


def what_is_odd(task: Task, name: str, split: Split, counts: dict[str, int], trains: Sequence[Split]) -> list[str]:
    """A line for each odd thing in the split of this name, with what to do. trains: of all tasks."""
    least = 0 if task.range else RARE if name == "train" else 1
    few = [label for label, count in counts.items() if count < least]
    near = []
    for label in few[:SHOWN]:
        others = [other for other in counts if other != label]
        near.append(f"{label} ({counts[label]}{nearest(label, others)})")
    spare = name == "train" and not task.course and len(counts) - len(few) > 1  # at least two labels remain
    many = len(counts) > RARE and 2 * len(few) > len(counts)
    amounts = many and all(isinstance(label, int) for label in task.classes)
    equal = sum(len(set(folded(example))) < len(example.texts) for example in split.examples)
    by_text = defaultdict(list)
    for example in split.examples if name != "test" else ():
        by_text[folded(example)].append(example)
    repeated = [same for same in by_text.values() if len(same) > 1]
    disagree = [same for same in repeated if len({example.label for example in same} - {None}) > 1]
    lines = ", ".join(listed([example.line for example in same], " and ") for same in disagree[:5])
    shared = overlaps(trains, split) if name != "train" else ""
    never_several = task.several and name == "train" and all(len(example.label) < 2 for example in split.examples)
    findings = [
        (few, f"labels with few rows: {listed(near + few[SHOWN:])}; add some{', or take these labels out' * spare}"),
        (amounts, 'most labels have few rows, and all are numbers; for amounts give kind = "score"'),
        (never_several, f"no row has several labels, with {task.separator!r} between; see whether separator is right"),
        (equal, f"pairs with equal sides: {equal}; see whether they should be there"),
        (repeated, f"repeated texts: {len(repeated)}; keep one row of each"),
        (disagree, f"repeated texts whose labels disagree: {len(disagree)}; correct them, such as lines {lines}"),
        (shared, f"texts that are also in {shared}; take them out there, or scores are too good"),
    ]
    return split.warnings + [f"{name}: {finding}" for applies, finding in findings if applies]


def main(argv: Sequence[str] | None = None) -> int:
    parser = OptionParser(__doc__)
    parser.add_argument("--task_file", type=Path, metavar="FILE", help="your own tasks, in TOML")
    parser.add_argument("--tasks", type=names, metavar="NAMES", help="(default: the file's, or sst,para,sts)")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="course files' folder (default: as in training)")
    parser.add_argument("--max_length", type=positive_int, default=128, metavar="TOKENS", help="(default: %(default)s)")
    parser.add_argument("--checkpoint", default="minilm", metavar="SOURCE", help="its tokenizer (default: %(default)s)")
    args = parser.parse_args(argv)
    errors, odd = [], []
    tasks = choose_tasks(args.tasks, TASKS | (load(args.task_file, KINDS) if args.task_file else {}))
    data_dir = args.data_dir or find_data_dir(tasks)[0]
    tokenizer = BertTokenizer.from_pretrained(args.checkpoint)
    folders = dict.fromkeys(str(task.folder or data_dir) for task in tasks)
    print(f"data: {', '.join(folders)}")
    splits: dict[tuple[str, str], Split] = {}  # by task and name
    for task in tasks:
        for name in task.splits:
            try:
                splits[task.name, name] = read(task, name, data_dir)
            except DataError as error:
                errors.append(f"{task.name}: {error}")
    trains = [split for (_, name), split in splits.items() if name == "train"]
    for task in tasks:
        print(printable(f"{task.name}: {task.kind}, {' + '.join(task.texts)} -> {task.label}"))
        for name in task.splits:
            if split := splits.get((task.name, name)):
                counts = label_counts(task, split.examples) if name != "test" else {}
                print(printable(f"  {name:5}{summary(task, split, counts, tokenizer, args.max_length)}"))
                odd += [f"{task.name}: {finding}" for finding in what_is_odd(task, name, split, counts, trains)]
        print()
    for heading, lines in (("Training refuses this", dict.fromkeys(errors)), ("Look at this", odd)):
        if lines:
            print(printable("\n  ".join([heading, *lines])), end="\n\n")
    if not errors + odd:
        print("nothing is odd")
    return DataError.exit_code if errors else 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
