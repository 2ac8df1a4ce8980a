"""SST's train file with the treebank's longer phrases: 93,271 rows instead of 8,544.

    python -m experiments.phrases --trees trees/train.txt --data_dir DATA --dest DATA/phrases
    python -m experiments.best --data_dir DATA/phrases --output_dir RUN

The Stanford Sentiment Treebank (Socher et al. 2013) has a label for every phrase of a sentence; the course's files keep
that of the whole sentence alone. trees/train.txt lies in https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip.

--dest gets a copy of the course's files in --data_dir, with a row more in ids-sst-train.csv for each different phrase
of four words and more (--min_words), full stops and commas counted. Only trees of sentences that are in DATA's train,
and not in dev or test, are used: some copies of trees/train.txt hold dev's, too. What is a whole sentence of train, dev
or test gets no row. Of a phrase with several labels the most frequent one counts, of equals the first. docs/recipes.md
says what that gains.
"""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from data.download import BLOB_IDS
from data.reader import Split, folded, read
from data.table import csv_writer, data_error, rows_of, text_lines
from data.tasks import TASKS
from runtime.errors import UsageError, run_cli, say
from runtime.files import new_folder, read_plain
from runtime.settings import OptionParser, positive_int

SST, PHRASE_ID = TASKS["sst"], "phrase-{}"


def phrases(tree: str) -> Iterator[tuple[str, int]]:
    """The (text, label) of each node of a tree such as "(3 (2 a) (4 gem))"; the last one is the whole sentence.

    Raises: ValueError, for anything else than one tree.
    """
    above: list[tuple[int, list[str]]] = []  # label and words so far, from the root to the node that is open
    whole = False  # whether the root is closed
    for token in re.findall(r"\([0-4](?=\s)|[()]|[^()\s]+", tree):
        if token == "(" or whole or not (above or token.startswith("(")):
            raise ValueError
        if token.startswith("("):
            above.append((int(token[1]), []))
        elif token != ")":
            above[-1][1].append(token)
        else:
            label, words = above.pop()
            if not words:
                raise ValueError
            yield " ".join(words), label
            whole = not above
            if above:
                above[-1][1].extend(words)
    if not whole:
        raise ValueError


def has_phrases(train: Split) -> bool:
    """Whether this program has added to SST's train."""
    return PHRASE_ID.format(1) in {example.id for example in train.examples}


def labelled_phrases(path: Path, sentences: set[str], apart: set[str], min_words: int) -> tuple[int, dict[str, int]]:
    """How many trees of the file are of these sentences, and the label of each of their phrases of so many words or
    more, none of `apart`.

    Raises: DataError, with path and line: a file that cannot be read, a line that is not a tree.
    """
    try:
        content = BytesIO(read_plain(path))
    except OSError as error:
        raise data_error(path, "a file", error.strerror, "give the treebank's trees/train.txt") from None
    trees, labels = 0, {}
    for line, tree in enumerate(text_lines(content, path), start=1):
        try:
            nodes = [(text.lower(), label) for text, label in phrases(tree)] if tree.strip() else []
        except ValueError:
            place, example = f"{path}:{line}", "a tree, as (3 (2 a) (4 gem))"
            raise data_error(place, example, repr(tree.strip()[:40]), "copy it anew") from None
        if nodes and nodes[-1][0] in sentences:
            trees += 1
            for text, label in nodes:
                if text not in apart and len(text.split()) >= min_words:
                    labels.setdefault(text, Counter())[label] += 1
    return trees, {text: counts.most_common(1)[0][0] for text, counts in labels.items()}


def copy_course_files(source: Path, dest: Path) -> None:
    for name in BLOB_IDS:
        if (source / name).exists():
            shutil.copyfile(source / name, dest / name)


def sst_row(columns: Sequence[str], row_id: str, text: str, label: object) -> list[object]:
    """A new row's cells, in the order of the file's columns; a column that training does not read is empty."""
    row = {SST.id: row_id, SST.texts[0]: text, SST.label: label}
    return [row.get(column, "") for column in columns]


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--trees", type=Path, required=True, metavar="FILE", help="the treebank's train.txt")
    parser.add_argument("--data_dir", type=Path, required=True, metavar="DIR", help="folder of the course's files")
    parser.add_argument("--dest", type=Path, required=True, metavar="DIR", help="a new folder for the files")
    words_help = "words of the shortest phrase (default: %(default)s)"
    parser.add_argument("--min_words", type=positive_int, default=4, metavar="N", help=words_help)
    args = parser.parse_args(argv)
    if args.dest.exists():
        raise UsageError(f"{args.dest}: expected a new folder; found one; choose another --dest")
    splits = [read(SST, name, args.data_dir) for name in ("train", "dev", "test")]
    if has_phrases(splits[0]):
        found = f"phrases in {splits[0].path}"
        raise UsageError(f"--data_dir: expected the course's rows; found {found}; give the folder without them")
    train, dev, test = ({folded(example)[0] for example in split.examples} for split in splits)
    trees, labels = labelled_phrases(args.trees, train - dev - test, train | dev | test, args.min_words)
    source = splits[0].path
    if not trees:
        raise data_error(args.trees, f"trees of sentences in {source}", "none", "give the treebank's trees/train.txt")
    if not labels:
        raise UsageError(f"--min_words: expected a phrase of {args.min_words} words or more; found none; lower it")
    content = read_plain(source)
    (_, columns), _ = rows_of(text_lines(BytesIO(content), source), source, "\t")
    with new_folder(args.dest) as folder:
        copy_course_files(args.data_dir, folder)
        with open(folder / source.name, "a", encoding="utf-8", newline="") as file:
            file.write("" if content.endswith(b"\n") else "\n")
            writer = csv_writer(file.write, "\t")
            for number, (text, label) in enumerate(labels.items(), start=1):
                writer.writerow(sst_row(columns, PHRASE_ID.format(number), text, label))
    say(f"{args.dest}: {len(labels):,} phrases of {trees:,} trees beside the rows of {source}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
