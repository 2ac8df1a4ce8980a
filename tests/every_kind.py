"""For tests: a task of every kind, of single texts and of pairs, and labels of three rows."""

from data.tasks import Task

WORDS = {
    "classes": {"classes": ("no", "maybe", "yes")},
    "binary": {"classes": ("ham", "spam")},
    "score": {"range": (-1.0, 9.0)},
    "labels": {"classes": ("red", "green", "blue", "grey", "pink"), "several": True},
}
LABELS = {"classes": [2, 0, 1], "binary": [1, 0, 1], "score": [0.0, 5.0, 2.75], "labels": [(0, 2), (), (1,)]}


def task_of(kind: str, sides: int, **settings) -> Task:
    """Named KIND-SIDES, such as score-2, or KIND-cross, KIND-both. settings: in place of what it would have."""
    return Task(
        f"{kind}-{settings.get('pairs', sides)}", kind, ("one", "other")[:sides], "label", {}, **WORDS[kind] | settings
    )


EVERY = [task_of(kind, sides) for kind in WORDS for sides in (1, 2)]
EVERY += [task_of(kind, 2, pairs=pairs) for pairs in ("cross", "both") for kind in WORDS]
