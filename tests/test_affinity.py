"""experiments/affinity.py: its numbers from gradients that are known, its gradients against autograd's, its words."""

import json
import math

import numpy as np
import pytest
import torch
from tiny_run import command, copied, moved

from experiments import affinity
from experiments.affinity import (
    Measured,
    advice,
    balanced,
    layer_of,
    main,
    measure,
    numbers,
    pair_advice,
    products,
    with_interval,
)
from heads.rows import on_device
from runtime.errors import run_cli
from runtime.seeds import generator
from training.options import parse
from training.session import Session


@pytest.fixture(autouse=True)
def few_steps_of_the_heads(monkeypatch):
    monkeypatch.setattr(affinity, "HEAD_STEPS", 3)


def made(noise: float, count: int = 400) -> Measured:
    """Three tasks in 5 dimensions: a and b share a direction, c is against a; every batch adds noise of its own."""
    draw = np.random.default_rng(0)
    means = np.array([[2.0, 0, 0, 0, 0], [1.0, 1.0, 0, 0, 0], [-1.0, 0, 3.0, 0, 0]])
    gradients = np.concatenate([means, means])[None] + noise * draw.standard_normal((count, 6, 5))
    gramians = gradients @ gradients.transpose(0, 2, 1)
    losses = np.full((count, 3), [0.5, 1.0, 4.0])
    return Measured(["a", "b", "c"], losses, gramians, {"all": gramians}, gramians[count // 2 :])


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_numbers_are_those_of_the_mean_gradients_whatever_the_noise(noise):
    found = numbers(made(noise), 0.1, {"a": 1.0, "b": 2.0, "c": 0.5})
    tolerance = 0.15 if noise else 1e-9  # 400 draws, in 5 dimensions
    expected = {"a>b": 2 / 2, "b>a": 2 / 4, "a>c": -2 / 10, "c>a": -2 / 4, "b>c": -1 / 10, "c>b": -1 / 2}
    for direction, transfer in expected.items():
        plain, low, high = found["directions"][direction]["transfer"]
        assert plain == pytest.approx(transfer, abs=2 * tolerance)
        assert low - 1e-9 <= plain <= high + 1e-9
        loss = {"a": 0.5, "b": 1.0, "c": 4.0}[direction[2]]
        dot = transfer * {"a": 4, "b": 2, "c": 10}[direction[2]]
        assert found["directions"][direction]["affinity"] == pytest.approx(0.1 * dot / loss, abs=tolerance)
    assert found["pairs"]["a-b"]["signal"][0] == pytest.approx(2 / math.sqrt(4 * 2), abs=tolerance)
    assert found["pairs"]["a-c"]["signal"][0] == pytest.approx(-2 / math.sqrt(4 * 10), abs=tolerance)
    assert found["pairs"]["a-c"]["cosine"][0] < 0
    assert found["tasks"]["c"]["signal"] == pytest.approx(math.sqrt(10), abs=tolerance)
    floor = found["tasks"]["a"]["noise floor"][0]
    assert floor == pytest.approx(1) if not noise else 0.1 < floor < 0.7
    if not noise:  # by hand: PCGrad's mean over the orders of c's partners is (2.7, 1.25, 3.9), the plain sum (2, 1, 3)
        degrees = math.degrees(math.acos(18.35 / math.sqrt(24.0625 * 14)))
        turn = {"PCGrad from the plain sum": degrees, "the plain sum from batch to batch": 0.0}
        assert found["turn"] == pytest.approx(turn, abs=1e-4)
    assert found["loss_scale"]["equal losses"] == {"a": 16.0, "b": 16.0, "c": 1.0}  # of losses of 0.5, 0.5 and 8


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.ones((400, 2, 2))
    values[:, 0, 1] = values[:, 1, 0] = draws = np.random.default_rng(0).standard_normal(400)
    plain, low, high = (part[0, 1] for part in with_interval(values, "signal"))
    half = 1.96 * draws.std() / math.sqrt(400)
    expected = draws.mean(), draws.mean() - half, draws.mean() + half
    assert (plain, low, high) == pytest.approx(expected, abs=0.15 * half)


def test_products_of_a_task_with_itself_are_those_of_two_batches():
    g = np.arange(16.0).reshape(1, 4, 4)
    g = g + g.transpose(0, 2, 1)
    assert products(g)[0, 0, 0] == g[0, 0, 2] and products(g)[0, 1, 1] == g[0, 1, 3]
    assert products(g)[0, 0, 1] == (g[0, 0, 1] + g[0, 2, 3] + g[0, 0, 3] + g[0, 1, 2]) / 4


def test_gradients_are_autograds_and_no_weight_moves(home, tmp_path):
    """The Gramian of three tasks' two batches each, layer by layer; dropout is drawn alike, so it is there."""
    options = parse([*command(home, "--output_dir", tmp_path / "run"), "--amp", "off", "--para_loss", "bce"])
    session = Session(options)
    session.model.eval()
    before = {name: weight.clone() for name, weight in session.model.state_dict().items()}
    found = measure(session, 4)
    assert all(torch.equal(weight, before[name]) for name, weight in session.model.state_dict().items())
    assert {*found.layers} == {"embeddings", "layer 1", "layer 2", "on top"}
    assert {layer_of(name) for name, _ in session.model.named_parameters()} == {*found.layers, "pooler"}  # not reached
    rows, shared = [], session.gradients.shared
    for step in range(3, 3 + 2 * 4):  # A and B of each measurement
        batches = {name: of.micro_batches(step, 1, 1)[0] for name, of in session.rows.items()}
        draws = generator(options.seed, "negatives", 0)
        losses = session.model.losses(on_device(batches, session.device), options.losses, session.previous, draws)
        for loss in losses.values():
            slopes = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            slopes = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(shared, slopes, strict=True)]
            rows.append(torch.cat([slope.flatten() for slope in slopes]).double())
    jacobian = torch.stack(rows).unflatten(0, (4, 2, 3))  # by measurement, half, task
    root = jacobian.sum(2).square().mean((0, 1)).sqrt() + 1e-8  # of AdamW's v: of the halves' sums over tasks
    gradients = jacobian.flatten(1, 2)
    for ours, j in ((found.gramians[1], gradients[1]), (found.scaled[-1], gradients[3] / root.sqrt())):
        expected = (j @ j.T).numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6 * expected.max())
    np.testing.assert_allclose(sum(found.layers.values()), found.gramians, rtol=1e-12)


def test_scales_and_batches_of_a_step_count_with_any_strategy(home, tmp_path, monkeypatch):
    monkeypatch.setattr(affinity, "HEAD_STEPS", 4)

    def measured(*words: object) -> Measured:
        usual = ("--output_dir", tmp_path / "run", "--para_loss", "bce", "--batch_size", 1)  # all batches equally large
        session = Session(parse(command(home, *usual, *words)))
        session.model.eval()
        return measure(session, 4)

    plain, scaled = measured(), measured("--strategy", "mtl", "--loss_scale", "sst=1,para=2,sts=4")
    np.testing.assert_allclose(scaled.losses, plain.losses * [1, 2, 4], rtol=1e-5)
    scales = np.array([1, 2, 4, 1, 2, 4])
    expected = plain.gramians * np.outer(scales, scales)
    np.testing.assert_allclose(scaled.gramians, expected, rtol=1e-4, atol=1e-6 * expected.max())
    both = measured("--grad_accum", 2)  # its first A is the plain third A and B, its B the fourth's
    np.testing.assert_allclose(both.losses[0], plain.losses[2:].mean(axis=0), rtol=1e-5)
    expected = plain.gramians[2].reshape(2, 3, 2, 3).mean(axis=(0, 2))
    np.testing.assert_allclose(both.gramians[0, :3, :3], expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_the_heads_alone_are_trained_first(home):
    session = Session(parse(command(home)))
    before, trained = copied(session), [p.requires_grad for p in session.model.parameters()]
    affinity.train_heads(session)
    after = session.model.state_dict()
    assert {name.partition("_head.")[0] for name in moved(before, after)} == {
        f"heads.tasks.{task}" for task in ("sst", "para", "sts")
    }
    assert [p.requires_grad for p in session.model.parameters()] == trained


def test_from_the_command_to_advice(home, tmp_path, capsys, monkeypatch):
    calls, train_heads = [], affinity.train_heads
    monkeypatch.setattr(affinity, "train_heads", lambda session: calls.append(train_heads(session)))
    words = command(home, "--output-dir", tmp_path / "out", "--batches", "20")
    assert run_cli(main, words) == 0 and len(calls) == 1
    content = json.loads((tmp_path / "out" / "affinity.json").read_text())
    assert [*content["tasks"]] == ["sst", "para", "sts"] and content["measurements"] == 20
    assert {*content["pairs"]} == {"sst-para", "sst-sts", "para-sts"} and len(content["directions"]) == 6
    assert (tmp_path / "out" / "affinity.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out.splitlines()
    assert printed == advice(content) and printed[-1].startswith("PCGrad ")
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert run_cli(main, [*words, "--strategy", "single", "--tasks", "sst"]) == 2
    assert run_cli(main, [*words[:-1], "19"]) == 2
    assert run_cli(main, [*words, "--dry_run"]) == 2 and run_cli(main, [*words, "--overwrite"]) == 2
    assert run_cli(main, [*words, "--strategy", "mtl", "--option", "pretrain", "--arch", "v1"]) == 2
    assert "v1 trains nothing that tasks share; take finetune" in capsys.readouterr().err


NOISE = "the signal drowns in noise; take more --batches"


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        (((0.3, 0.1, 0.5), (0.2, 0.1, 0.4)), "train them together: each helps the other"),
        (((-0.3, -0.5, -0.1), (-0.2, -0.4, -0.1)), "train them apart: each harms the other"),
        (((0.3, 0.1, 0.5), (-0.2, -0.4, -0.1)), "look at it: one harms the other"),
        (((0.3, 0.1, 0.5), (0.2, -0.1, 0.4)), "one helps the other"),
        (((0.3, -0.1, 0.5), (0.2, -0.1, 0.4)), "neither help nor harm can be told"),
        (((None, None, None), (0.2, 0.1, 0.4)), f"cannot be told in one direction: {NOISE}"),
        (((None, None, None), (None, None, None)), f"cannot be told: {NOISE}"),
    ],
)
def test_advice_says_what_the_intervals_carry(intervals, words):
    assert pair_advice(intervals) == words


def test_scales_that_balance():
    scales = {"a": 1.0, "b": 2.0, "c": 1.0}
    assert balanced({"a": 2.0, "b": 0.602, "c": 0.02}, scales) == {"a": 1.0, "b": 6.6, "c": 100.0}
