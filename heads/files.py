"""A model's folder: Hugging Face's and sentence-transformers' layout, with the heads and their tasks beside it.

heads.json holds the settings and the tasks, heads.safetensors the weights; other libraries ignore both.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import nn

from bert.checkpoint import check_fit, read_tensors, save_folder, write_tensors
from data.tasks import NAME, PAIRS, Task
from heads.config import HeadsConfig
from heads.kinds import KINDS
from runtime.errors import CheckpointError, UsageError
from runtime.files import read_json
from runtime.settings import of_type


def save_model(model: nn.Module, folder: Path) -> None:
    """Write a MultitaskBert's folder. The tasks are written without the paths of their files.

    sentence-transformers knows only `cls` and `mean` of the last layer, and uses one of them for this model's X.
    """
    save_folder(model.bert, folder)
    model.tokenizer.save(folder)
    write_tensors(folder / "heads.safetensors", model.head_state())
    size, cls = model.bert.config.hidden_size, model.config.pooling == "cls"
    pooling = {"word_embedding_dimension": size, "pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": not cls}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in {
        "heads.json": asdict(model.config) | {"tasks": [task.to_json(files=False) for task in model.tasks.values()]},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "sentence_bert_config.json": {"max_seq_length": model.max_length, "do_lower_case": False},
        "1_Pooling/config.json": pooling,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def model_folder(run: Path) -> Path:
    """The folder of a run's model, its best/; any other folder is returned as it is."""
    return run / "best" if (run / "best" / "heads.json").is_file() else run


def read_task(content: dict) -> Task:
    """The task that `to_json` wrote. Raises ValueError or KeyError for anything else, and where it fits no kind."""
    task = of_type({"meaning": ""} | content, Task)  # older models have none
    if task.kind not in KINDS:
        raise ValueError(f"kind {task.kind!r:.99}, not one of {', '.join(KINDS)}")
    kind, count = KINDS[task.kind], len(task.classes)
    is_number = kind.label_form == "number"
    fits = (
        NAME.fullmatch(task.name) and len(task.texts) in (1, 2) and task.pairs in PAIRS,
        all(isinstance(file, str) or (split == "dev" and 0 < file < 1) for split, file in task.files.items()),
        bool(task.range) == is_number and (not is_number or task.range[0] < task.range[1]),
        count == 0 if is_number else count == 2 if task.kind == "binary" else count >= 2,
        task.several == (kind.label_form == "several"),
        task.metric in ("", *kind.metrics),
    )
    if not all(fits):
        raise ValueError(f"{task.kind} with {task!r:.300}")
    return task


def read_heads(folder: Path) -> tuple[HeadsConfig, list[Task]] | None:
    """The settings and tasks in a folder's heads.json; None without that file: a plain BERT. Raises CheckpointError."""
    path = folder / "heads.json"
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        config = of_type(content, HeadsConfig)
        return config, [read_task(task) for task in content["tasks"]]
    except (ValueError, KeyError, TypeError) as error:
        expected = f"{path}: expected the settings and tasks of a run's heads"
        raise CheckpointError(f"{expected}; found {error!r}; copy it anew, or take the version that wrote it") from None


def load_heads(model: nn.Module, folder: Path, stored: Sequence[Task]) -> None:
    """Load the stored tasks' heads and all shared weights; other heads stay as they are. Raises CheckpointError."""
    path = folder / "heads.safetensors"
    state, names = read_tensors(path), [task.name for task in stored]
    fresh = tuple(f"heads.tasks.{name}_head." for name in model.tasks if name not in names)
    expected = {name: value for name, value in model.head_state().items() if not name.startswith(fresh)}
    check_fit(expected, state, path, advice="train again or copy it anew")
    model.load_state_dict(state, strict=False)


def check_config(stored: HeadsConfig, config: HeadsConfig, folder: Path) -> None:
    """Raise UsageError where settings give the stored heads another meaning; dropout and length may differ."""
    for name in ("arch", "pooling", "layer"):
        old_value, value = getattr(stored, name), getattr(config, name)
        if old_value != value:
            found = f"{folder} holds heads trained with {old_value!r}; found {value!r}"
            raise UsageError(f"--{name}: {found}; leave the option out or start from a plain BERT")


def joint_tasks(stored: Sequence[Task], tasks: Sequence[Task], folder: Path) -> list[Task]:
    """A stored model's tasks and further ones. Raises UsageError where the two define a task differently."""
    joint = {task.name: task for task in stored}
    for task in tasks:
        old = joint.get(task.name, task)
        for name in ("kind", "classes", "range", "pairs", "texts"):
            old_value, value = getattr(old, name), getattr(task, name)
            if old_value != value and not (name == "texts" and len(old_value) == len(value)):
                place, advice = "--tasks", "give the task another name or start from a plain BERT"
                if name == "pairs":
                    place, advice = "--pairs", f"take {task.name}={old_value}, or start from a plain BERT"
                found = f"{task.name} of {folder} was trained with {name} {old_value!r}; found {value!r}"
                raise UsageError(f"{place}: {found}; {advice}")
        joint[task.name] = task
    return list(joint.values())
