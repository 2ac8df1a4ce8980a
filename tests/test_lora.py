"""bert/lora.py: against its formula, against the gradient of the whole weight, and as a run of its own."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers
from small_bert import CONFIG, assert_same, make_batch, make_model, noisy, seeded
from tiny_run import copied, make_session, moved, outcome, take_steps, train, workshop
from torch import nn

import evaluate
from bert import BertModel
from bert.checkpoint import save_folder
from bert.fast import hidden_states, inference_copy
from bert.lora import LowRankLinear, add_low_rank
from optim import TaskGradients
from runtime.errors import run_cli

RANK = 3
LORA = ("--lora", RANK)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with workshop(tmp_path_factory.mktemp("lora")) as made:
        yield made


def test_the_formula_and_its_start():
    """y = x W^T + b + 2 x A^T B^T; B starts as 0."""
    torch.manual_seed(0)
    plain = nn.Linear(7, 11).double()
    layer, x = LowRankLinear(plain, RANK).double(), torch.randn(5, 2, 7, dtype=torch.float64)
    assert torch.equal(layer(x), plain(x))
    a, b = noisy(layer.down).weight, noisy(layer.up).weight
    assert (tuple(a.shape), tuple(b.shape)) == ((RANK, 7), (11, RANK))
    assert_same(layer(x), x @ plain.weight.T + plain.bias + 2 * x @ a.T @ b.T)
    assert_same(layer.whole_weight(), plain.weight + 2 * b @ a)


def lora_model() -> BertModel:
    """In float64, with matrices that add something."""
    model = make_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        add_low_rank(model, RANK)
    for module in model.double().modules():
        if isinstance(module, LowRankLinear):
            noisy(module.up)
    return model


def test_gradients_are_the_whole_weights():
    """With G the gradient of the whole weight of a plain model: dA = 2 B^T G, dB = 2 G A^T; nothing else has one."""
    model, batch = lora_model(), make_batch()
    plain = make_model()
    whole = {name: m.whole_weight() for name, m in model.named_modules() if isinstance(m, LowRankLinear)}
    assert len(whole) == 4 * CONFIG.num_hidden_layers
    for name, weight in whole.items():
        plain.get_submodule(name).weight.data = weight
    for each in (model, plain):
        each(**batch).last_hidden_state.square().mean().backward()
    for name in whole:
        layer, gradient = model.get_submodule(name), plain.get_submodule(name).weight.grad
        assert_same(layer.down.weight.grad, 2 * layer.up.weight.T @ gradient)
        assert_same(layer.up.weight.grad, 2 * gradient @ layer.down.weight.T)
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {f"{name}.{part}.weight" for name in whole for part in ("down", "up")}


def test_task_gradients_by_rows_are_those_of_each_tasks_own_pass():
    torch.manual_seed(0)
    net = nn.Sequential(LowRankLinear(nn.Linear(7, 11), RANK), nn.Tanh(), LowRankLinear(nn.Linear(11, 5), RANK))
    for parameter in noisy(net).parameters():
        parameter.requires_grad_(parameter.shape.numel() in (7 * RANK, 11 * RANK, 5 * RANK))
    gramians, rows = [], torch.randn(5, 7, dtype=torch.float64, generator=seeded()).split([2, 3])
    for by_rows in (True, False):
        gradients = TaskGradients(("a", "b"), list(net.parameters()))
        if by_rows:
            with gradients.by_rows(net, [2, 3]):
                sum(part.square().mean() for part in net(torch.cat(rows)).split([2, 3])).backward()
        else:
            for task, part in zip(("a", "b"), rows, strict=True):
                gradients.backward(task, net(part).square().mean())
        gramians.append(gradients.gramian())
    assert_same(*gramians)
    assert gramians[0][0, 1] != 0


def test_what_predicts_and_what_is_saved_is_the_whole_weight(tmp_path):
    """The fast form, and the folder as every loader reads it, give what the plain form gives."""
    model, batch = lora_model().float().eval(), make_batch()
    expected = model(**batch).last_hidden_state[batch["attention_mask"]]
    ((fast, _),) = hidden_states(inference_copy(model, torch.float32), [batch])
    save_folder(model, tmp_path)
    theirs = transformers.BertModel.from_pretrained(tmp_path)(
        **batch | {"attention_mask": batch["attention_mask"].long()}
    )
    ours = BertModel.from_pretrained(tmp_path)
    assert ours.state_dict().keys() == BertModel(CONFIG).state_dict().keys()
    for other in (fast, ours(**batch).last_hidden_state, theirs.last_hidden_state):
        torch.testing.assert_close(other[batch["attention_mask"]], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strategy", ["gs", "mtl"])
def test_only_its_matrices_move_and_what_stands_on_the_encoder(home, strategy):
    session = make_session(home, *LORA, "--strategy", strategy, "--weight_decay", 0.1)
    before = copied(session)
    take_steps(session, 2)
    added = {name for name in before if name.endswith(("down.weight", "up.weight"))}
    assert len(added) == 8 * session.model.bert.config.num_hidden_layers
    assert moved(before, session.model.state_dict()) == added | {n for n in before if not n.startswith("bert.")}
    assert session.options.lr == 1e-3 and make_session(home, *LORA, "--lr", 0.1).options.lr == 0.1


def test_a_run_its_files_and_going_on(home, tmp_path, capsys):
    """best/ is a BERT as any other. The same run in two pieces is the same to the bit. Without best/ evaluate.py reads
    the checkpoint, which predicts the same."""
    out, words = tmp_path / "run", (*LORA, "--max_steps", 4, "--eval_every", 4)
    assert train(home, out, *words) == 0
    assert train(home, tmp_path / "halves", *words, "--save_every", 2) == 0
    shutil.rmtree(tmp_path / "halves" / "checkpoints" / "step-000004")
    assert train(home, tmp_path / "halves", *words, "--save_every", 2, "--resume", "auto") == 0
    assert outcome(out) == outcome(tmp_path / "halves")
    BertModel.from_pretrained(out / "best")
    capsys.readouterr()
    assert run_cli(evaluate.main, [str(out)]) == 0
    of_best = capsys.readouterr().out
    shutil.rmtree(out / "best")
    assert run_cli(evaluate.main, [str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == of_best.splitlines()[1:]
    assert train(home, out, *LORA[:1], 2, *words[2:], "--resume", "auto") == 2
    error = capsys.readouterr().err
    assert "--lora was 3, is 2" in error and "--allow_change" not in error
    assert train(home, tmp_path / "wide", "--lora", 9999) == 2 and "a rank from 1 to" in capsys.readouterr().err
    assert train(home, out, *LORA, "--option", "pretrain") == 2 and "--lora: " in capsys.readouterr().err
