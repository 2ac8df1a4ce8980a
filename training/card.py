"""A model card in the Hub's format, for best/README.md, made from the files of one run or several.

It has no path, date or time: it is for others, and two equal runs have equal cards.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import mean, stdev

from huggingface_hub import EvalResult, ModelCardData

from bert.hub import ALIASES, MINILM
from data import SAMPLE_DIR
from data.tasks import Task
from heads.kinds import KINDS
from training.options import FIXED, option_text

MAX_CELL = 300  # characters in a cell
TYPES = {"acc": "accuracy", "em": "exact_match", "pearson": "pearsonr", "spearman": "spearmanr"}  # the Hub's names
WAYS = {"single": "alone", "mtl": "on the sum of their losses", "gs": "with gradient surgery"}
TEXTS = ('["A sentence."]', '["Another."]')
CARD = """\
---
{head}
---

# {title}

{source}, trained on {names} {way}; with a head for each task.

## Tasks

{tasks}

## Metrics

{metrics}

On dev, whose rows also chose step {step} as the best of the run: expect a little less on others.{spread}
{synthetic}
## Data

{data}

## Settings

{settings}

## Loading it

```sh
hf download USER/NAME --local-dir model      # its name on the Hub
```

The encoder with its heads, in the code that trained it:

```python
from heads import MultitaskBert
model = MultitaskBert.from_pretrained("model")
{calls}
```

The encoder alone:

```python
from transformers import AutoModel, AutoTokenizer
encoder, tokenizer = AutoModel.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
encoder(**tokenizer(["A sentence."], return_tensors="pt")).last_hidden_state
```

Vectors of texts, by the last layer's `{pooling}`:

```python
from sentence_transformers import SentenceTransformer
SentenceTransformer("model").encode(["A sentence."])
```

Its parts, for code of your own:

```python
from safetensors.numpy import load_file
from tokenizers import Tokenizer
weights, heads = load_file("model/model.safetensors"), load_file("model/heads.safetensors")
ids = Tokenizer.from_file("model/tokenizer.json").encode("A sentence.").ids
```

## What it is not for

- Deciding about people: work, credit, health, law, what somebody may say; unless a person looks at each case.
- Texts unlike those it was trained on: another language, another field, another time. Of a text it reads at
  most the first {max_length} tokens.
- Trusting its probabilities as they are: `python evaluate.py RUN --report` shows how far they are off.
- Keeping its data secret: a model may give away rows that it was trained on. Share it where you may share those; see
  their licences, and that of {source}.
{before}"""
SPREAD = "\nMean ± standard deviation: of {} runs that differ in their seeds alone; this model is the first."
SYNTHETIC = "The course's files are a synthetic sample here: what is measured on them says nothing about real texts.\n"
MINILM_DATA = """
## What minilm had read before

1,170,060,424 pairs of texts, in English: comments from Reddit (62 % of the pairs), citations in S2ORC, questions of
WikiAnswers, PAQ, Stack Exchange, MS MARCO, GOOAQ and Yahoo Answers, code, captions of COCO and Flickr30k, SNLI and
MultiNLI, and others. Quora's pairs of questions are among them: metrics on these flatter.
"""

Measured = tuple[Task, str, str, list[float | None]]  # task, title of its dev file, metric, value in each run


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are Markdown already."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def cell(text: object) -> str:
    """Any text as a table's cell: on one line, escaped, cut to MAX_CELL."""
    return " ".join(escape(str(text)[:MAX_CELL], quote=False).split()).replace("|", "\\|")


def uses_sample(config: Mapping, tasks: Iterable[Task]) -> bool:
    """Whether a run has read the synthetic sample."""
    return Path(config["data_dir"]) == SAMPLE_DIR.resolve() and any(task.folder is None for task in tasks)


def described(task: Task) -> list[str]:
    pairs = f" ({task.pairs})" * (len(task.texts) == 2)
    return [task.name, task.kind, cell(", ".join(task.texts) + pairs), cell(task.explained)]


def base_model(config: Mapping) -> str | None:
    """The Hub's name of the model that training began with; for another run's best model, the one that its card names;
    None where that is not known."""
    source = config["checkpoint"]
    if not os.path.isdir(source):
        return ALIASES.get(source, source)
    path = Path(source, "README.md")
    text = path.read_text("utf-8") if config.get("init_from") and path.is_file() else ""
    named = re.search("^base_model: (.+)$", text, re.M)
    return named[1] if named else None


def front_matter(title: str, base: str | None, measured: Iterable[Measured], data: str) -> str:
    """YAML that the Hub reads: how to load the folder, and those of the model's metrics that are defined.

    data: what to write before the name of a dev file.
    """
    results = []
    for task, dev, metric, (value, *_) in measured:
        if value is not None:
            results.append(
                EvalResult(
                    task_type="sentence-similarity" if task.range and len(task.texts) == 2 else "text-classification",
                    dataset_type=task.name,
                    dataset_name=data + dev,
                    dataset_split="dev",
                    metric_type=TYPES.get(metric, "f1"),
                    metric_name=task.metric_key(metric),
                    metric_value=round(value, 4),
                )
            )
    tags = ["sentence-transformers", "bert", "multi-task-learning"]
    loads = {"library_name": "sentence-transformers", "pipeline_tag": "feature-extraction", "base_model": base}
    return ModelCardData(**loads, tags=tags, model_name=title, eval_results=results).to_yaml()


def row(name: str, rows: str, values: Sequence[float | None]) -> list[str]:
    """A metric's row of the table: this model's value; for several runs also the mean ± the standard deviation."""
    cells = [name, "-" if values[0] is None else f"{values[0]:.4f}", rows]
    if len(values) > 1:
        cells.append("-" if None in values else f"{mean(values):.4f} ± {stdev(values):.4f}")
    return cells


def card(config: Mapping, tasks: Mapping[str, Task], results: Sequence[Mapping]) -> str:
    """config: a run's config.json; tasks: by name; results: its metrics.json, then those of runs with other seeds."""
    data, names, source, base = config["data"], ", ".join(tasks), config["checkpoint"], base_model(config)
    source = "/".join(Path(source).parts[-2:]) if os.path.isdir(source) else base
    measured = []
    for title in data:
        if title.startswith("dev of "):
            task = tasks[title.removeprefix("dev of ").partition(":")[0]]
            for metric in KINDS[task.kind].metrics:
                measured.append((task, title, metric, [result["dev"][task.metric_key(metric)] for result in results]))
    rows = [row(task.metric_key(metric), data[dev].split()[0], values) for task, dev, metric, values in measured]
    shown = [name for name in FIXED if name != "pairs" and config.get(name) is not None]  # pairs: with the tasks
    settings = {name: config[name] for name in shown} | {"checkpoint": source}
    synthetic = uses_sample(config, tasks.values())
    several = len(results) > 1
    return CARD.format(
        head=front_matter(f"BERT for {names}", base, measured, "synthetic sample, " * synthetic),
        title=f"BERT for {names}",
        source=source,
        names=names,
        way=WAYS[config["strategy"]] + f" ({config['surgery']})" * bool(config["surgery"]),
        tasks=markdown(["task", "kind", "texts", "label"], map(described, tasks.values())),
        metrics=markdown(["metric", "value", "rows", *[f"{len(results)} runs"] * several], rows),
        step=" of ".join(str(results[0][name]) for name in ("step", "steps") if name in results[0]),
        spread=SPREAD.format(len(results)) * several,
        synthetic=SYNTHETIC * synthetic,
        data=markdown(["file", "contents"], ([cell(title), contents] for title, contents in data.items())),
        settings=markdown(["option", "value"], ([name, cell(option_text(value))] for name, value in settings.items())),
        calls="\n".join(f'model.predict("{name}", {", ".join(TEXTS[: len(t.texts)])})' for name, t in tasks.items()),
        pooling="cls" if config["pooling"] == "cls" else "mean",  # as modules.json has it
        max_length=config["max_length"],
        before=MINILM_DATA * (base == MINILM),
    )
