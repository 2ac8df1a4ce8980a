"""Export a trained model for onnxruntime, which runs where torch does not.

    pip install -e '.[export]'
    python export.py runs/x --output_dir exported             # --int8: a second encoder, in 8 bits

The new folder has the model's own files, which transformers and
sentence-transformers load, and these graphs. They take any number of rows:

    onnx/model.onnx         input_ids, attention_mask, token_type_ids, (B, T)
                            -> last_hidden_state (B, T, D), vector (B, D)
    onnx/heads/TASK.onnx    vector, or for pairs vector_a and vector_b, and
                            vector_ab where they are also read together, (B, D)
                            -> y: a score's number (B,), a binary task's second
                            probability (B,), probabilities (B, K) of labels,
                            logits (B, K) of classes
    onnx/model_int8.onnx    as model.onnx; products and words in 8 bits

--int8 also prints dev's metrics by both encoders. How to use them without this
program: docs/export.md.
"""

import logging
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from data.reader import Split, read_splits
from evaluate import averages, load_model, read_run_with_data, task_metrics
from heads import MultitaskBert
from heads.files import model_folder
from heads.inference import token_passes
from heads.kinds import KINDS
from heads.pooling import pooled
from runtime.errors import UsageError, run_cli, say
from runtime.files import new_folder
from runtime.settings import OptionParser

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ENCODER, SMALL = "onnx/model.onnx", "onnx/model_int8.onnx"  # the first is where sentence-transformers looks
# A head's inputs, by the number of sequences that its task reads
VECTORS = {1: ("vector",), 2: ("vector_a", "vector_b"), 3: ("vector_a", "vector_b", "vector_ab")}


class Encoder(nn.Module):
    """Tokens -> the last layer's states, which other libraries pool, and X, which this model's heads read."""

    def __init__(self, model: MultitaskBert):
        super().__init__()
        self.bert, self.cnn, self.pooling = model.bert, model.cnn, model.config.pooling
        self.read = model.bert.layers_up_to(model.config.layer)[-1]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) int64 each -> (B, T, D), (B, D)"""
        x, mask = self.bert.embed(input_ids, attention_mask, token_type_ids)
        for block in self.bert.layers:
            x, attention = block(x, mask)  # (B, T, D), (B, H, T, T)
            if block is self.read:
                vector = self.cnn(x, mask) if self.cnn else pooled(x, attention, mask, token_type_ids, self.pooling)
        return x, vector


class Head(nn.Module):
    """A task's head, behind the MLP that all tasks share."""

    def __init__(self, model: MultitaskBert, name: str):
        super().__init__()
        self.shared, self.head = model.heads.shared, model.heads[name]

    def forward(self, vector_a: Tensor, vector_b: Tensor | None = None, vector_ab: Tensor | None = None) -> Tensor:
        """X of each of a row's sequences, (B, D) each -> (B,) or (B, K)"""
        x = torch.cat([x for x in (vector_a, vector_b, vector_ab) if x is not None])
        return self.head(self.head.own(self.shared(x)))


def write_graph(
    module: nn.Module, path: Path, inputs: Mapping[str, Tensor], outputs: Sequence[str], *sizes: Dim
) -> None:
    """Write a module's graph. inputs: an example of each. sizes: of their first dimensions, which may vary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it says that torchvision is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about its own code, and that inputs share their sizes
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=[*inputs],
            output_names=outputs,
            dynamic_shapes=tuple(dict(enumerate(sizes)) for _ in inputs),
            dynamo=True,
            verbose=False,
        )
    program.save(path)


def export(model: MultitaskBert, folder: Path, int8: bool = False, card: Path | None = None) -> None:
    """Write the folder: the model's own files, its card where it has one, and the graphs."""
    with new_folder(folder) as new:
        model.save(new)
        if card and card.is_file():
            shutil.copyfile(card, new / card.name)
        batch, tokens = Dim("batch"), Dim("tokens", max=model.bert.config.max_position_embeddings)
        ids = {name: torch.ones(3, 7, dtype=torch.int64) for name in INPUTS}
        write_graph(Encoder(model), new / ENCODER, ids, ["last_hidden_state", "vector"], batch, tokens)
        for name, task in model.tasks.items():
            vectors = {side: torch.ones(3, model.bert.config.hidden_size) for side in VECTORS[task.sequences]}
            write_graph(Head(model, name), new / head_file(name), vectors, ["y"], batch)
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic  # an extra

            logging.disable(logging.WARNING)  # it advises to simplify the graph first
            # A scale for each column halves the error; signed weights overflow on processors without VNNI.
            quantize_dynamic(new / ENCODER, new / SMALL, per_channel=True, weight_type=QuantType.QUInt8)
            logging.disable(logging.NOTSET)


def head_file(task: str) -> str:
    return f"onnx/heads/{task}.onnx"


class OnnxModel:
    """A model exported to a folder, run by onnxruntime. Tokenizer and tasks are those of `model`."""

    def __init__(self, model: MultitaskBert, folder: Path, encoder: str = ENCODER):
        from onnxruntime import InferenceSession

        self.model, self.encoder = model, InferenceSession(folder / encoder)
        self.heads = {name: InferenceSession(folder / head_file(name)) for name in model.tasks}

    def encode(self, texts: Sequence) -> Tensor:
        """X of N texts, or of N pairs that are read together, in their order: (N, D)"""
        vectors = torch.empty(len(texts), self.model.bert.config.hidden_size)
        for groups, tokens in token_passes(self.model, texts):
            for rows, batch in zip(groups, tokens, strict=True):
                (x,) = self.encoder.run(["vector"], {name: batch[name].long().numpy() for name in INPUTS})
                vectors[rows] = torch.from_numpy(x)
        return vectors

    def outputs(self, task: str, sides: Sequence[Sequence[str]]) -> Tensor:
        """y of N texts, or of N pairs given as two sides, in the form of the task's kind"""
        definition = self.model.tasks[task]
        texts = [*sides] * definition.apart + [list(zip(*sides, strict=True))] * definition.at_once
        vectors = [self.encode(rows).numpy() for rows in texts]
        inputs = dict(zip(VECTORS[definition.sequences], vectors, strict=True))
        return torch.from_numpy(self.heads[task].run(["y"], inputs)[0])

    def metrics(self, splits: Mapping[str, Split]) -> dict[str, float | None]:
        """The metrics of each task on its split, with the leaderboards' averages."""
        metrics: dict[str, float | None] = {}
        for name, split in splits.items():
            task = self.model.tasks[name]
            predictions = KINDS[task.kind](task).predict(self.outputs(name, split.sides))
            metrics |= task_metrics(task, predictions, [example.label for example in split.examples])
        return metrics | averages(metrics)


def dev_of(model: MultitaskBert, run: Path, data_dir: Path | None) -> dict[str, Split]:
    """The dev split of each task. Raises UsageError for a bare model, which does not say where its data are."""
    config, tasks = read_run_with_data(run, model)
    folder = data_dir or config["data_dir"]
    if not folder:
        expected = "expected a run's folder, whose dev shows what 8 bits cost"
        raise UsageError(f"--int8: {expected}; found {run}; give that, or --data_dir")
    return read_splits(tasks.values(), ["dev"], Path(folder), config["seed"])["dev"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("run", type=Path, help="a run's folder, or a model's")
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
    parser.add_argument("--int8", action="store_true", help="also the encoder in 8 bits, and what that costs on dev")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="where dev's files are (default: the run's own)")
    args = parser.parse_args(argv)
    if args.data_dir and not args.int8:
        raise UsageError("--data_dir: belongs to --int8, which reads dev; leave it out, or add that")
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]:
        raise UsageError(f"expected the package {missing[0]}; found none; pip install -e '.[export]'")
    if args.output_dir.exists():
        raise UsageError(f"--output_dir: expected a folder that is not there; found {args.output_dir}; choose another")
    model = load_model(args.run)
    dev = dev_of(model, args.run, args.data_dir) if args.int8 else {}  # before the work, for this may be refused
    export(model, args.output_dir, args.int8, model_folder(args.run) / "README.md")
    files = sorted(args.output_dir.rglob("*.onnx"))
    say("\n".join(f"{path}  {path.stat().st_size / 1e6:.1f} MB" for path in files))
    if args.int8:
        say("predicting dev by both encoders")
        exact, quantized = (OnnxModel(model, args.output_dir, encoder).metrics(dev) for encoder in (ENCODER, SMALL))
        print("dev                float32    int8")
        print("\n".join(f"  {name:<16}{cell(exact[name])}  {cell(quantized[name])}" for name in exact))


def cell(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.4f}':>8}"


if __name__ == "__main__":
    sys.exit(run_cli(main))
