"""Texts a second by predict.py and by the exported graphs, compared with `encode`.

    python -m benchmarks.predict [--check] [--device cuda] [--checkpoint DIR] [--data_dir DIR] [--rows N]

predict.py reads the rows from a csv file, loads the model, predicts a task and writes a file: all of it is timed. The
graphs are onnxruntime's, on the CPU: export.py's float32 against `encode` in float32, its 8 bits against `encode` in
the precision that is fastest here. All read the same questions. Needs the extra: pip install -e '.[export]'
"""

import csv
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import predict
from benchmarks.common import Report, in_turn, quotient, timing_parser
from benchmarks.encode import questions
from bert.precision import resolve_precision
from export import ENCODER, SMALL, OnnxModel, export
from heads import MultitaskBert
from runtime.errors import run_cli


def main(argv: list[str] | None = None) -> int:
    options = timing_parser(__doc__)
    options.add_argument("--rows", type=int, default=2048, help="different questions (default: %(default)s)")
    args = options.parse_args(argv)
    texts, amp = questions(args.data_dir, args.rows), resolve_precision("auto", torch.device(args.device))
    with TemporaryDirectory() as home:
        rows, out, folder = Path(home, "rows.csv"), Path(home, "out.csv"), Path(home, "model")
        with open(rows, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
        model = MultitaskBert.from_pretrained(args.checkpoint)
        export(model, folder, int8=True)
        graphs = {name: OnnxModel(model, folder, path) for name, path in (("float32", ENCODER), ("8 bits", SMALL))}
        words = [str(folder), "--task", "sst", "--input", str(rows), "--output", str(out), "--text_columns", "text"]
        words += ["--device", args.device]
        ours = MultitaskBert.from_pretrained(folder).to(args.device)
        exact = ours.encode(texts[:64])
        error = (graphs["float32"].encode(texts[:64]) - torch.from_numpy(exact)).abs().max().item()
        assert error < 1e-4, f"the graph computes something else: it is off by {error}"
        actions = {
            "encode": lambda: ours.encode(texts, amp=amp),
            "predict.py": lambda: predict.main(words),
            "encode in float32": lambda: ours.encode(texts),
            **{f"onnx in {name}": lambda graph=graph: graph.encode(texts) for name, graph in graphs.items()},
        }
        seconds = in_turn(actions, args.rounds, args.device)
        with open(out, encoding="utf-8", newline="") as file:
            assert sum(1 for _ in csv.reader(file)) == 1 + len(texts)
    report, rate = Report(), {name: len(texts) / statistics.median(s) for name, s in seconds.items()}
    setting = {"unit": "texts/s", "texts": len(texts), "precision": amp}
    pairs = (
        ("predict.py", "encode", 0.8),
        ("onnx in float32", "encode in float32", 0),
        ("onnx in 8 bits", "encode", 0),
    )
    for name, peer, bar in pairs:  # 0: no bar
        ratio = quotient(seconds[peer], seconds[name])
        report.figure(f"{name} / {peer}", rate[name], rate[peer], ratio, at_least=bar, **setting)
    return report.exit_code(args.check)


if __name__ == "__main__":
    sys.exit(run_cli(main))
