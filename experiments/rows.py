"""The rows of the tables as settings, with the paper's numbers for its tables 2 and 3; and the presets of training.

Source: "Exploring Multi-Task Learning for Robust Language Encoding with BERT" (Stanford CS224N), tables 2 and 3 and its
list of settings. Where it is silent: mtl has the settings of gs; early stopping waits for 8 evaluations, two epochs or
more; table 2's architectures are one run a task, its `cnn` and `cls` ("embeddings") one gs run over all. Rows 14 to 16
of table 3 are ours, for claims of the paper that it has no row for. So are the comparison of surgeries, and the parts
of the recipe of experiments.best.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from data import SAMPLE_DIR
from data.tasks import LEADERBOARD
from optim.surgery import SURGERIES
from optim.weighing import WEIGHINGS

Settings = dict[str, object]  # option of train_multitask.py -> value
BOTH, UNSCALED, SCALED = ("para", "sts"), {"loss_scale": "para=1,sts=1"}, {"loss_scale": "para=1,sts=4"}
BCE = {"para_loss": "bce"}
NONE = (None,) * 4


@dataclass(frozen=True)
class Row:
    """A row of a table. `single` with several tasks is a run for each task, and each cell comes from its task's run."""

    number: int
    name: str  # 13 letters at most
    kind: str  # which settings it has: a key of PAPER
    paper: tuple[float | None, ...]  # sst, para, sts, average in percent; None: the paper has no number
    strategy: str = "gs"
    tasks: tuple[str, ...] = LEADERBOARD
    arch: str = "v3a"
    pooling: str = "attention_mean"
    layer: int = -2
    options: Mapping[str, object] = field(default_factory=dict)  # more of them: loss_scale, surgery, ...
    after: int | None = None  # the row whose best weights it starts from
    data: str = ""  # the folder of its files, in --data_dir
    base: int | None = None  # the row that it is compared with

    def parts(self) -> list[tuple[str, ...]]:
        """The tasks of each of its runs."""
        return [(task,) for task in self.tasks] if self.strategy == "single" else [self.tasks]

    def settings(self, preset: str, tasks: tuple[str, ...]) -> Settings:
        """The options of a run, without paths, seed and --init_from."""
        options = {"strategy": self.strategy, "tasks": ",".join(tasks)}
        options |= {"arch": self.arch, "pooling": self.pooling, "layer": self.layer}
        options |= {"head_lr_scale": 1, "no_test": True}  # one learning rate for all weights, as the paper has it
        return options | self.options | PRESETS[preset][""] | PRESETS[preset].get(self.kind, {})


def architecture(number: int, arch: str, pooling: str, *paper: float | None, kind: str = "architecture") -> Row:
    """A row of table 2; the paper pools `mean`, and `cnn` on top of it, from the layer before the last."""
    strategy, layer = "single" if kind == "architecture" else "gs", -1 if pooling == "cls" else -2
    return Row(number, f"{arch} {pooling}", kind, (*paper, None), strategy, LEADERBOARD, arch, pooling, layer)


def alone(number: int, task: str, *paper: float, after: int | None = None) -> Row:
    """A row of one task, which starts from BERT, or from the best weights of the row `after`."""
    name, kind = (f"gs, then {task}", "then") if after else (f"single {task}", "single")
    return Row(number, name, kind, paper, "single", (task,), after=after)


def way(number: int, name: str, strategy: str, **options: str) -> Row:
    """A row of the comparison of surgeries and weighings, each with the plain sum (row 2)."""
    return Row(number, name, "way", NONE, strategy, options=options, base=None if number == 2 else 2)


# The parts of the recipe of experiments.best: each one's option, its usual value, and that of the recipe.
PARTS = {
    "surgery": ("strategy", "mtl", "gs"),
    "head rate": ("head_lr_scale", 1, 10),
    "batches": ("batch_size", "sst=8,para=24,sts=8", "sst=64,para=32,sts=16"),
    "both ways": ("pairs", "siamese", "both"),
    "sst twice": ("loss_scale", "sst=1", "sst=2"),
    "dropout 0": ("bert_dropout_prob", 0.1, 0),
}
NOTHING = {option: usual for option, usual, _ in PARTS.values()} | {"data": ""}
WHOLE = {option: value for option, _, value in PARTS.values()} | {"data": "soft"}
LEFT_OUT = {name: {option: usual} for name, (option, usual, _) in PARTS.items()}
LEFT_OUT |= {"phrases": {"data": ""}, "soft labels": {"data": "phrases"}}
ADDED = {name: {option: value} for name, (option, _, value) in PARTS.items()}
ADDED |= {"phrases": {"data": "phrases"}, "soft labels": {"data": "soft"}}


def ablation(
    number: int, name: str, base: int | None, data: str, strategy: str, kind: str = "ablation", **options: object
) -> Row:
    """A row of the recipe's parts."""
    return Row(number, name, kind, NONE, strategy, pooling="mean", layer=-1, options=options, data=data, base=base)


SCALES = ("sst=2,para=1,sts=1", "sst=1,para=2,sts=1", "sst=1,para=1,sts=2", "sst=4,para=1,sts=1", "sst=1,para=1,sts=4")
WEIGHED = [name for name in WEIGHINGS if name != "fixed"]
TABLES: dict[str, tuple[Row, ...]] = {
    "table2": (
        architecture(1, "v1", "cls", 45.4, 45.6, 9.9),
        architecture(2, "v2", "mean", None, 66.6, 13.6),
        architecture(3, "v3a", "mean", 46.2, 70.1, 40.2),
        architecture(4, "v3a", "cnn", None, 67.9, 36.9, kind="embedding"),
        architecture(5, "v3a", "cls", None, 66.8, 38.9, kind="embedding"),
        architecture(6, "v3b", "mean", None, 37.5, 12.3),
    ),
    "table3": (
        alone(1, "sst", 51.9, 37.5, 43.3, 44.23),
        alone(2, "para", 20.8, 71.7, 30.7, 41.1),
        alone(3, "sts", 37.6, 25.5, 43.9, 35.67),
        Row(4, "mtl", "gs", (32.6, 58.7, 52.7, 48.0), "mtl"),
        Row(5, "gs, v3b", "gs", (34.8, 37.5, 10.2, 27.5), arch="v3b"),
        Row(6, "gs", "gs", (46.3, 60.1, 63.0, 56.47)),
        alone(7, "sst", 49.9, 37.8, 45.7, 44.47, after=6),
        alone(8, "para", 46.3, 65.6, 58.9, 56.93, after=6),
        alone(9, "sts", 45.5, 50.7, 60.1, 52.12, after=6),
        Row(10, "para+sts 1:1", "pair", (22.3, 69.6, 65.2, 52.36), tasks=BOTH, options=UNSCALED),
        Row(11, "para+sts 1:4", "pair", (23.8, 76.3, 63.4, 54.50), tasks=BOTH, options=SCALED),
        Row(12, "bce+sts 1:1", "pair", (21.4, 75.3, 39.6, 45.43), tasks=BOTH, options=UNSCALED | BCE),
        Row(13, "bce+sts 1:4", "pair", (21.0, 76.6, 43.3, 46.96), tasks=BOTH, options=SCALED | BCE),
        Row(14, "gs, layer -1", "gs", NONE, layer=-1),
        Row(15, "gs, mean", "gs", NONE, pooling="mean"),
        Row(16, "untrained", "untrained", NONE, "mtl"),
    ),
    "surgeries": (
        way(1, "single", "single"),
        way(2, "mtl", "mtl"),
        *(way(n, f"mtl {''.join(c for c in x if c.isdigit())}", "mtl", loss_scale=x) for n, x in enumerate(SCALES, 3)),
        *(way(number, name, "gs", surgery=name) for number, name in enumerate(SURGERIES, start=8)),
        *(way(n, name, "mtl", weigh=name) for n, name in enumerate(WEIGHED, start=8 + len(SURGERIES))),
    ),
    "ablation": (
        ablation(1, "the whole", None, **WHOLE),
        ablation(2, "nothing", None, **NOTHING),
        *(ablation(n, f"- {name}", 1, **(WHOLE | change)) for n, (name, change) in enumerate(LEFT_OUT.items(), 3)),
        *(ablation(n, f"+ {x}", 2, **(NOTHING | add)) for n, (x, add) in enumerate(ADDED.items(), 3 + len(LEFT_OUT))),
        ablation(19, "defaults", None, "", "gs", "defaults", head_lr_scale=10),
        ablation(20, "best", 19, kind="best", **WHOLE),
    ),
}
TITLES = {
    "table2": "Table 2 of the paper, architectures",
    "table3": "Table 3 of the paper, strategies",
    "surgeries": "Ways to combine tasks",
    "ablation": "The parts of the recipe of experiments.best",
}
KEYS = {
    "table2": "v1, v2, v3a, v3b: one run a task, each cell of its task's run. cnn and cls of v3a: gs over all tasks.",
    "table3": "1:1, 1:4: losses of para and sts unscaled, and scaled by 1 and 4. bce: para's cross-entropy alone. "
    "Tasks that a row never trained have fresh heads, as in the paper. Rows 14 to 16 are not in the paper.",
    "surgeries": "single: one run a task. mtl 211: the sum of the losses, sst's counted twice, and so on. From pcgrad "
    "to random: gs with this surgery. The last five: mtl with losses weighed this way. mtl, tuned: for each seed the "
    "scales that are best over the other seeds. difference: from mtl's average, paired by seed. step: its time, as a "
    "multiple of mtl's. See docs/surgery.md.",
    "ablation": "-: left out of the whole. +: added to nothing, the plain sum with one learning rate. surgery: gs. "
    "head rate: heads that learn ten times as fast. batches: larger ones. both ways: pairs read text by text and "
    "as one sequence. sst twice: its loss counted twice. dropout 0: none in BERT. DATA is the folder of the "
    "course's files, with two more folders: phrases as experiments.phrases writes it, soft as "
    'experiments.soft_labels does. "+ soft labels" has the phrases too, and "- phrases" no soft labels. '
    "defaults and best: whole runs, of 1,888 and 1,416 steps. difference: of the averages, paired by seed.",
}


def settings(epochs: int, lr: float, batch_size: int, grad_accum: int, dropout: float, **more: object) -> Settings:
    values = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "grad_accum": grad_accum}
    return values | {"hidden_dropout_prob": dropout} | more


UNTRAINED = {"epochs": 1, "max_steps": 1, "eval_every": 1, "lr": 1e-30}  # a step too small to change a weight
PAPER = {
    "": {"checkpoint": "bert-base-uncased"},
    "architecture": settings(3, 1e-5, 16, 1, 0.7),
    "embedding": settings(3, 5e-6, 8, 1, 0.7),
    "single": settings(15, 5e-6, 32, 1, 0.7, patience=8),
    "gs": settings(15, 8e-6, 8, 4, 0.65),
    "then": settings(10, 6e-7, 32, 1, 0.7),
    "pair": settings(10, 2e-6, 16, 1, 0.7),
    "untrained": UNTRAINED,
    "way": settings(15, 8e-6, 8, 4, 0.65),
    **{kind: {"epochs": 15, "lr": 8e-6} for kind in ("ablation", "defaults", "best")},
}
# By preset and kind of row; "" is for all kinds. --epochs 100: the steps alone end a run, however small the data.
# laptop evaluates once, at the end, so that no number is the best of several.
PRESETS: dict[str, dict[str, Settings]] = {
    "paper": PAPER,
    "laptop": {
        "": {"checkpoint": "minilm", "epochs": 100, "max_steps": 400, "eval_every": 400, "lr": 1e-4},
        "then": {"lr": 1e-5},  # a tenth, as the paper's
        "untrained": UNTRAINED,
        "way": {"max_steps": 200, "eval_every": 200},
        "ablation": {"max_steps": 354, "eval_every": 354},  # a quarter of the recipe's; by 118 sst has learned little
        "defaults": {"max_steps": 1888, "eval_every": 1888},  # two epochs of a sixth of Quora's rows (docs/results.md)
        "best": {"max_steps": 1416, "eval_every": 1416},
    },
    "smoke": {"": {"checkpoint": "minilm", "epochs": 1, "max_steps": 4, "eval_every": 4, "batch_size": 4}},
}
DATA = {"smoke": SAMPLE_DIR}  # of presets that do not use the usual data
NOTES = {  # by checkpoint
    "minilm": "minilm has seen Quora's pairs (para) and natural-language inference in its own pretraining: its para "
    "and sts have a head start over bert-base-uncased, the paper's."
}
