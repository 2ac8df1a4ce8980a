"""experiments/figure3.py: the projection in closed form, the claim both ways, and the command line on a tiny run."""

import json
import sys
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import tiny
from scipy.spatial.distance import cosine, pdist
from tiny_run import train, workshop

from evaluate import load_model
from experiments.figure3 import PAIRS, PAPER, SENTENCES, main, measure, picture, project, verdict
from heads import MultitaskBert
from runtime.errors import run_cli

TOGETHER = np.array([[3.0, 0, 0], [1, 0.1, 0], [0, 2, 1]])  # two dogs, a car
APART, ALIKE = TOGETHER[[0, 2, 1]], np.ones((3, 5))
ORDER = [*product(("untouched", "trained"), (-1, -2), PAPER)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny BERT that knows the dogs apart, and a run of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "WORDS", [{"walk": "danc", "learn": "bark"}.get(word, word) for word in tiny.WORDS])
        with workshop(tmp_path_factory.mktemp("figure3")) as home:
            assert train(home, home / "run", "--max_steps", 2, "--lr", 0.01, "--no_test") == 0
            yield home


def draw(*words: object) -> int:
    return run_cli(main, [*map(str, words)])


@pytest.mark.parametrize("seed", range(7))
def test_the_projection_of_any_vectors(seed):
    """U S and x V alike, whichever way the vectors are turned; of rank 2 every distance stays."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(3, 17))
    (xy, s), (u, all_s, vt) = project(x), np.linalg.svd(x)
    assert s == pytest.approx(all_s, rel=1e-12) and (xy.max(0) == np.abs(xy).max(0)).all()
    for same in (u[:, :2] * all_s[:2], x @ vt[:2].T):
        assert np.abs(xy) == pytest.approx(np.abs(same), rel=1e-12, abs=1e-12)
    turned = x @ np.linalg.qr(generator.normal(size=(17, 17)))[0]
    for other in (-x, turned, -turned):
        assert project(other)[0] == pytest.approx(xy, rel=1e-12, abs=1e-12)
    flat = x[:, :2] @ generator.normal(size=(2, 17))
    assert pdist(project(flat)[0]) == pytest.approx(pdist(flat), rel=1e-12)


@pytest.mark.parametrize(("cls", "dogs"), [(TOGETHER, "together"), (APART, "apart"), (ALIKE, "apart")])
@pytest.mark.parametrize(("attention_mean", "others"), [(TOGETHER, "together"), (APART, "apart")])
def test_the_claim_holds_where_attention_mean_alone_has_the_dogs_together(cls, dogs, attention_mean, others):
    two = measure(cls, "trained", -1, "cls"), measure(attention_mean, "trained", -2, "attention_mean")
    found, holds = verdict(*two), (dogs, others) == ("apart", "together")
    assert (two[0].dogs, two[1].dogs, found["holds"], found["layers"]) == (dogs, others, holds, [-1, -2])
    start = (
        f"trained: the paper's claim {'holds' if holds else 'does not hold'}: the dogs are {dogs} by cls of layer -1"
    )
    assert found["verdict"].startswith(start) and f", {others} by attention_mean of layer -2 (" in found["verdict"]


def test_the_numbers_are_those_of_encode_and_no_place_of_the_machine_is_told(home, tmp_path, capsys):
    """The untouched encoder is what the run started from."""
    out = tmp_path / "new" / "dogs.png"
    assert draw(home / "run", "--output", out) == 0
    printed, _ = capsys.readouterr()
    text = out.with_suffix(".json").read_text()
    found, models = json.loads(text), {"untouched": MultitaskBert.from_pretrained(home / "bert")}
    models["trained"] = load_model(home / "run")
    assert [(p["encoder"], p["layer"], p["pooling"]) for p in found["panels"]] == ORDER
    for p in found["panels"]:
        x = models[p["encoder"]].encode(list(SENTENCES.values()), p["pooling"], p["layer"]).astype(float)
        cosines = [1 - cosine(a, b) for a, b in combinations(x, 2)]
        assert p["cosines"] == pytest.approx(dict(zip(PAIRS, cosines, strict=True)), rel=1e-9)
        assert len({*np.round(cosines, 6)}) == 3  # a mix-up of two would show
        assert p["margin"] == pytest.approx(cosines[0] - max(cosines[1:]), abs=1e-9)
        assert p["coordinates"] == pytest.approx(project(x)[0], rel=1e-9) and len(p["singular_values"]) == 3
    assert [found["untouched"], found["trained"]] == [f"{home.name}/bert", f"{home.name}/run"]
    assert '"/' not in text and str(home) not in text and "/tmp" not in text
    assert [(v["encoder"], *v["layers"]) for v in found["verdicts"]] == [
        (encoder, *layers) for encoder in models for layers in ((-1, -1), (-2, -2), (-1, -2))
    ]
    lines = printed.splitlines()
    assert len({line.rindex(" ") for line in lines[2:15]}) == 1  # columns
    assert lines[16:22] == [v["verdict"] for v in found["verdicts"]] and lines[-1] == str(out)


def test_a_panel_has_three_lines_from_the_origin_on_shared_equal_axes_and_says_what_it_measures():
    vectors = [TOGETHER, APART, ALIKE] * 4
    panels = [measure(x, *place) for x, place in zip(vectors, ORDER, strict=True)]
    axes = picture(panels, "untouched: a; trained: b").axes
    assert [ax.get_title() for ax in axes] == [*PAPER, *[""] * 9]
    assert [ax.get_ylabel() for ax in axes[::3]] == [
        f"{e}, layer {n}" for e in ("untouched", "trained") for n in (-1, -2)
    ]
    for ax, panel in zip(axes, panels, strict=True):
        lines = [line.get_xydata() for line in ax.lines[:3]]
        longest = np.linalg.norm(panel.coordinates, axis=1).max()
        assert [tuple(line[0]) for line in lines] == [(0, 0)] * 3
        assert np.array([line[1] for line in lines]) * longest == pytest.approx(np.array(panel.coordinates))
        assert ax.get_aspect() == 1 and (ax.get_xlim(), ax.get_ylim()) == (axes[0].get_xlim(), axes[0].get_ylim())
    assert [ax.get_xlabel().splitlines()[:2] for ax in axes[:3]] == [
        ["cos dogs 1.00, with car 0.00, 0.09", "margin +0.91: together (paper: apart)"],
        ["cos dogs 0.00, with car 1.00, 0.09", "margin -1: apart"],
        ["cos dogs 1.00, with car 1.00, 1.00", "margin +0: apart (paper: together)"],
    ]
    assert axes[2].get_xlabel().endswith("\nnot seen: 0.0 %")


def test_what_cannot_be_compared(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tiny, "CONFIG", replace(tiny.CONFIG, num_hidden_layers=1))
    shallow, run, bert = tiny.make_bert_folder(tmp_path / "shallow"), home / "run", home / "bert"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for words, code, message in (
        ([tmp_path], 2, f"{tmp_path}: expected best/heads.json or a checkpoint in it; found none; check"),
        ([run / "best"], 2, f"--checkpoint: expected what {run / 'best'} started from; found none in it; give it"),
        ([run, "--checkpoint", tmp_path / "none"], 4, "none: expected a folder or a Hub id; found neither"),
        ([run, "--checkpoint", shallow], 2, "untouched: expected an encoder of two layers or more; found one"),
        ([run, "--output", "x.json"], 2, "--output: expected a name for the PNG; found x.json"),
        ([run, "--checkpoint", bert], 2, "pictures: expected matplotlib; found none; pip install -e '.[pictures]'"),
    ):
        assert draw(*words, *([] if "--output" in words else ["--output", tmp_path / "a.png"])) == code
        out, err = capsys.readouterr()
        assert message in err and err.count("\n") == 1 and out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"shallow"}
