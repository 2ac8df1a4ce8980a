"""SST's train file with soft labels: models trained on it say what else a sentence may be, and label new ones.

    for seed in 0 1; do
        python train_multitask.py --strategy single --tasks sst --batch_size 64 --epochs 1 --data_dir DATA/phrases \\
            --seed $seed --output_dir runs/teacher-$seed
    done
    python -m experiments.soft_labels --teachers runs/teacher-0 runs/teacher-1 --data_dir DATA/phrases --dest DATA/soft
    python -m experiments.best --data_dir DATA/soft --output_dir RUN

DATA/phrases is what experiments.phrases has written, the models are the teachers. --dest gets a copy of the files in
--data_dir. In its ids-sst-train.csv a row's label has a share for each class: 0.3 of the row's own label and 0.7 of the
mean of the teachers' probabilities (distillation, Hinton et al. 2015). After these rows come the sentences of CFIMDB's
train reviews, with the teachers' probabilities alone (self-training). Those with 4 to 50 words, full stops and commas
counted, are taken, each once, and none that is in train, dev or test of SST. docs/recipes.md says what that gains.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from data.reader import folded, read
from data.table import check_columns, csv_writer, rows_of, text_lines
from data.tasks import TASKS
from evaluate import load_model
from experiments.phrases import SST, copy_course_files, has_phrases, sst_row
from heads import MultitaskBert
from runtime.errors import UsageError, check_name, run_cli, say
from runtime.files import new_folder, read_plain
from runtime.settings import OptionParser

CFIMDB, OWN_SHARE, WORDS = TASKS["cfimdb"], 0.3, range(4, 51)


def sentences(review: str) -> Iterator[str]:
    """The sentences of a review, in lower case with single spaces, as SST's are, without line breaks and quotes."""
    text = " ".join(re.sub('< *br */? *>|"', " ", review.lower()).split())
    yield from re.split("(?<=[.!?]) ", text)


def new_sentences(data_dir: Path, known: set[str]) -> list[str]:
    """Those of CFIMDB's train reviews that are neither too short nor too long, each once, and none that is known."""
    reviews = [example.texts[0] for example in read(CFIMDB, "train", data_dir).examples]
    unique = dict.fromkeys(text for review in reviews for text in sentences(review) if len(text.split()) in WORDS)
    return [text for text in unique if text not in known]


def mean_probabilities(teachers: Sequence[MultitaskBert], texts: Sequence[str]) -> np.ndarray:
    """-> (N, 5)"""
    total = np.zeros((len(texts), len(SST.classes)))
    for number, teacher in enumerate(teachers, start=1):
        say(f"teacher {number} of {len(teachers)} labels {len(texts):,} sentences")
        total += teacher.predict(SST.name, texts, amp="auto", probabilities=True)
    return total / len(teachers)


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--teachers", type=Path, nargs="+", required=True, metavar="RUN", help="models that know sst")
    parser.add_argument("--data_dir", type=Path, required=True, metavar="DIR", help="folder with SST's phrases")
    parser.add_argument("--dest", type=Path, required=True, metavar="DIR", help="a new folder for the files")
    args = parser.parse_args(argv)
    if args.dest.exists():
        raise UsageError(f"{args.dest}: expected a new folder; found one; choose another --dest")
    train, dev, test = (read(SST, name, args.data_dir) for name in ("train", "dev", "test"))
    if not has_phrases(train) or any(isinstance(example.label, tuple) for example in train.examples):
        found = f"{'soft labels' if has_phrases(train) else 'no phrases'} in {train.path}"
        raise UsageError(f"--data_dir: expected what experiments.phrases writes; found {found}; give that folder")
    known = {folded(example)[0] for split in (train, dev, test) for example in split.examples}
    new = new_sentences(args.data_dir, known)
    texts = [example.texts[0] for example in train.examples] + new
    teachers = [load_model(run) for run in args.teachers]
    for run, teacher in zip(args.teachers, teachers, strict=True):
        check_name(f"--teachers: tasks of {run}", teacher.tasks, SST.name)
    (line, columns), rows = rows_of(text_lines(BytesIO(read_plain(train.path)), train.path), train.path, "\t")
    check_columns(f"{train.path}:{line}", columns, columns, advice="name them apart")  # a row is a dictionary
    with new_folder(args.dest) as folder:
        copy_course_files(args.data_dir, folder)
        shares = mean_probabilities(teachers, texts)
        own = np.eye(len(SST.classes))[[example.label for example in train.examples]]
        shares[: len(own)] = OWN_SHARE * own + (1 - OWN_SHARE) * shares[: len(own)]
        labels = [" ".join(f"{share:.4f}" for share in row) for row in shares]
        by_line = {example.line: label for example, label in zip(train.examples, labels, strict=False)}
        with open(folder / train.path.name, "w", encoding="utf-8", newline="") as file:
            writer = csv_writer(file.write, "\t")
            writer.writerow(columns)
            for line, row in rows:  # one that training leaves out stays as it is
                writer.writerow((row | {SST.label: by_line.get(line, row[SST.label])}).values())
            for number, (text, label) in enumerate(zip(new, labels[len(own) :], strict=True), start=1):
                writer.writerow(sst_row(columns, f"cfimdb-{number}", text, label))
    say(f"{args.dest}: soft labels for {len(own):,} rows of {train.path}, and {len(new):,} new sentences")


if __name__ == "__main__":
    sys.exit(run_cli(main))
