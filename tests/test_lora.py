"""bert/lora.py: against its formula, against the gradient of the whole weight, and as a run of its own."""

import shutil

import pytest
import torch
import transformers
from small_bert import CONFIG, assert_same, make_batch, make_model, noisy
from tiny_run import copied, make_session, moved, outcome, take_steps, train
from torch import nn

import evaluate
from bert import BertModel
from bert.checkpoint import save_folder
from bert.fast import hidden_states, inference_copy
from bert.lora import LowRankLinear, add_low_rank
from runtime.errors import run_cli

RANK = 3
LORA = ("--lora", RANK)


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
    (slope,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    assert_same(slope, layer.whole_weight().sum(0).expand_as(x))  # both parts go on to what is below


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
