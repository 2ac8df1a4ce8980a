"""On a GPU, or on its stand-in (gpu_stand_in.py): what the program does there, and that it is what a CPU does."""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, pairwise, product
from pathlib import Path

import gpu_stand_in
import pytest
import torch
from gpu_process import LACKING, ON_GPU, STAND_IN
from own_tasks import make_own_tasks
from tiny import TEXTS
from tiny_run import STILL, before_update, copied, make_session, moved, recorded, take_steps, train

import data
import train_multitask
from bert.precision import set_deterministic
from heads.config import ARCHITECTURES, POOLINGS
from optim.surgery import SURGERIES
from optim.weighing import WEIGHINGS
from runtime.seeds import seeded
from training.session import Session

BUDGETS = {"gs": {"launches": 1200, "waits": 10}, "mtl": {"launches": 850, "waits": 5}}  # of a step, of minilm

SAMPLE = Path(data.__file__).parent / "sample"
CPU, GPU = ("--device", "cpu"), ("--device", "cuda")
nowhere = ON_GPU and not torch.cuda.is_available()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(nowhere, reason=f"no GPU here, and its stand-in needs {LACKING}"),
]
STRATEGIES = pytest.mark.parametrize("strategy", ["gs", "mtl"])


def still(home: Path, *options: object) -> Session:
    """A session without dropout."""
    session = make_session(home, *options)
    session.model.eval()
    return session


# ---- the device itself ----------------------------------------------------------------------------------------------


def test_what_a_gpu_refuses():
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert torch.equal((there * torch.tensor(2.0) + 1).cpu(), 3 * here)  # a scalar of the CPU may come
    for refused in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: there.add_(here),
        lambda: torch.tensor(0.0).add_(there[0]),
        lambda: there.index_select(0, torch.tensor([1])),
        lambda: torch._foreach_add_([there], [here]),
        lambda: torch.nn.functional.linear(there, here[None]),
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError, match="device"):
            refused()


def test_draws_are_seeded_by_place_there_too():
    x = torch.ones(101, device="cuda")
    before = torch.cuda.get_rng_state()
    with seeded(3, "dropout", 5):
        first = torch.nn.functional.dropout(x)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.rand(3, device="cuda")
    with seeded(3, "dropout", 5):
        assert torch.equal(torch.nn.functional.dropout(x), first)
    with seeded(3, "dropout", 6):
        assert not torch.equal(torch.nn.functional.dropout(x), first)


# ---- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(home) -> Path:
    """A task file with every kind of task."""
    return make_own_tasks(home / "own")


HEADS = cycle(product(ARCHITECTURES[1:], POOLINGS))  # twelve, and there are more surgeries
RUNS = [
    *(
        f"--arch {arch} --pooling {pooling} --surgery {surgery} --weigh {weigh} --layer -2 --amp fp16"
        for (arch, pooling), surgery, weigh in zip(HEADS, SURGERIES, cycle(WEIGHINGS))
    ),
    "--arch v1 --amp auto --grad_accum 3",
    "--strategy mtl --grad_accum 3",
    "--strategy single --tasks sst --amp auto",
    "--strategy gs --task_file {own}",
    "--strategy mtl --task_file {own} --amp fp16",
    "--strategy gs --pairs para=both,sts=cross",
    "--strategy gs --option pretrain --arch v3b --pooling cnn",
    "--strategy mtl --option pretrain --pooling attention_mean",
    "--deterministic",
    "--dry_run",
]


@pytest.mark.parametrize("options", RUNS)
def test_tensors_of_two_devices_never_meet(home, own, tmp_path, options):
    """In two steps (the second has triplets), an evaluation, a checkpoint and the final predictions."""
    words = options.format(own=own).split()
    assert train(home, tmp_path / "run", *GPU, "--max_steps", 2, "--debug", *words) == 0
    assert (tmp_path / "run" / "metrics.json").exists() == ("--dry_run" not in words)


@pytest.mark.parametrize("amp, rtol", [("off", 1e-5), ("bf16", 3e-2), ("fp16", 3e-3)])
def test_vectors_and_predictions_are_the_cpu_s(home, own, amp, rtol):
    """Of every pooling and kind of task. rtol: of the largest value, some units in the last place of a product."""
    tasks = ("--tasks", "para,sts,nli,urgency,topics,mood", "--pairs", "para=both,sts=cross")
    session = still(home, *CPU, "--task_file", own, *tasks, "--pooling", "cnn")
    cpu, gpu = session.model, copy.deepcopy(session.model).to("cuda")
    for settings in (*({"pooling": pooling} for pooling in POOLINGS), {"layer": -2, "normalize": True}):
        expected, found = cpu.encode(TEXTS, **settings), gpu.encode(TEXTS, **settings, amp=amp)
        assert found == pytest.approx(expected, abs=rtol * float(abs(expected).max()))
    assert gpu.encode([]).shape == (0, 16)
    for name, task in cpu.tasks.items():
        sides = [TEXTS, TEXTS[::-1]][: len(task.texts)]
        settings = {"probabilities": bool(task.classes)}
        expected = cpu.predict(name, *sides, **settings)
        assert gpu.predict(name, *sides, **settings, amp=amp) == pytest.approx(expected, abs=10 * rtol)


# ---- the same numbers -----------------------------------------------------------------------------------------------


def assert_same_weights(session: Session, other: Session, lr: float) -> None:
    """To a hundredth of what a step moves them: Adam divides by a gradient's size, and so magnifies its rounding.

    But for the bias of the keys, which adds the same to all scores of a query: its gradient is rounding alone.
    """
    weights = other.model.state_dict()
    for name, found in session.model.state_dict().items():
        kept = [0, 2] if name.endswith("query_key_value.bias") else [0, 1, 2]
        found, expected = ([tensor.cpu().tensor_split(3)[i] for i in kept] for tensor in (found, weights[name]))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * lr)


@STRATEGIES
def test_steps_in_float32_are_the_cpu_s(home, strategy):
    lr, steps = 1e-3, 5
    options = ("--strategy", strategy, "--max_steps", steps, "--lr", lr)
    cpu, gpu = still(home, *options, *CPU), still(home, *options, *GPU)
    for expected, found in zip(take_steps(cpu, steps), take_steps(gpu, steps), strict=True):
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert_same_weights(gpu, cpu, lr)


@STRATEGIES
@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_gradients_in_fp16_are_those_of_float32(home, strategy, scale):
    """Within 2e-3, twice the 2^-10 of fp16's rounding, whatever the scale."""
    wide, narrow = (still(home, *STILL, "--strategy", strategy, *words) for words in (CPU, (*GPU, "--amp", "fp16")))
    narrow.scaler = torch.amp.GradScaler("cuda", init_scale=scale)
    for (expected, _), (found, _) in zip(recorded(wide, 2), recorded(narrow, 2), strict=True):
        assert found.keys() == expected.keys()
        differences = [(found[name].cpu() - expected[name]).norm() for name in expected]
        norms = [gradient.norm() for gradient in expected.values()]
        assert torch.stack(differences).norm() < 2e-3 * torch.stack(norms).norm()


# ---- what goes wrong ------------------------------------------------------------------------------------------------


@STRATEGIES
@pytest.mark.fault(21, 22)
@pytest.mark.parametrize(
    "layer",
    [
        "bert.embeddings.word",
        "bert.layers.0.attention.query_key_value",
        "bert.layers.1.feed_forward_norm",
        "heads.shared.mlp.1",
        "heads.tasks.sst_head.f.4",
    ],
)
def test_an_infinity_anywhere_skips_the_step_and_halves_the_scale(home, strategy, layer):
    """In one row of the gradient of one layer's output. Nothing moves, moments neither."""
    session = make_session(home, "--strategy", strategy, *GPU, "--amp", "fp16")
    session.scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    take_steps(session, 1)
    before, moments = copied(session), session.tensors()["optimizer"]

    def spoil(layer, inputs, y) -> None:
        y.requires_grad_()  # an embedding's does not of itself, nor any in an evaluation
        y.register_hook(lambda dy: dy.index_fill(0, torch.tensor([0], device="cuda"), torch.inf))

    handle = session.model.get_submodule(layer).register_forward_hook(spoil)
    (line,) = take_steps(session, 1)
    assert line["skipped"].startswith("infinite gradient") and session.scaler.get_scale() == 128.0
    assert not moved(before, session.model.state_dict()) and not moved(moments, session.tensors()["optimizer"])
    handle.remove()
    assert "skipped" not in take_steps(session, 1)[0] and session.scaler.get_scale() == 128.0


@contextmanager
def room_for(size: float) -> Iterator[None]:
    """Inside, so many bytes are all that there are."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@STRATEGIES
@pytest.mark.fault(25)
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.9])
def test_where_memory_runs_out_a_step_is_made_in_smaller_parts(request, home, tmp_path, strategy, share):
    """With room for this share of what it takes: in its first batch or its second, on the way forth or back.

    Nothing is left over, and the weights are as without.
    """
    lr, options = 1e-3, ("--strategy", strategy, "--max_steps", 3, "--lr", 1e-3, "--grad_accum", 2, *GPU)
    if not STAND_IN:  # a GPU's memory is dealt out by the 20 MB
        options += ("--checkpoint", request.getfixturevalue("minilm"), "--data_dir", SAMPLE, "--batch_size", 64)
    plain, small = (still(home, *options, "--output_dir", tmp_path / name) for name in ("plain", "small"))
    for session in (plain, small):
        take_steps(session, 1)
    gc.collect()  # what other tests have left, which would make room while this one counts
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    take_steps(plain, 1)
    after, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    with room_for(after + share * (peak - held)):
        take_steps(small, 1)
    assert small.state.parts > 1 and (small.state.step, small.state.updates) == (2, 2)
    assert torch.cuda.memory_allocated() - after == after - held
    assert_same_weights(small, plain, lr)


@STRATEGIES
@pytest.mark.fault(1)
def test_resumed_it_ends_in_the_same_bits(home, tmp_path, strategy):
    """Weights, moments, triplets and the loss scale, which is halved in the first steps and doubled later."""
    set_deterministic(not STAND_IN)  # which knows no other way
    options = ("--strategy", strategy, "--max_steps", 8, "--eval_every", 4, "--lr", 0.01, *GPU, "--amp", "fp16")
    places = (("--output_dir", tmp_path / name) for name in ("whole", "halves", "halves"))
    whole, first, second = (make_session(home, *options, *place, "--resume", "auto") for place in places)
    for session in (whole, first, second):
        session.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**18, growth_interval=2)
    scales = [take_steps(whole, 1) and whole.scaler.get_scale() for _ in range(8)]
    assert min(scales) < scales[0] and any(later > before for before, later in pairwise(scales))
    take_steps(first, 4)
    train_multitask.resume(second)
    take_steps(second, 4)
    assert whole.scaler.state_dict() == second.scaler.state_dict()
    for name, tensors in whole.tensors().items():
        assert not moved(tensors, second.tensors()[name])


# ---- what a step costs there ----------------------------------------------------------------------------------------


class EnoughError(Exception):
    pass


@pytest.mark.skipif(ON_GPU and not STAND_IN, reason="a GPU counts neither launches nor waits")
@pytest.mark.parametrize("strategy", BUDGETS)
def test_a_step_stays_within_its_budget(home, minilm, strategy):
    """Eight rows of each of the course's tasks: from the second update to the third, and to the fourth.

    A step that takes far less than its budget is not counted, or the budget is too large.
    """
    options = ("--strategy", strategy, "--batch_size", 8, "--amp", "bf16", *GPU)
    session, counts = make_session(home, *options, "--checkpoint", minilm, "--data_dir", SAMPLE), []

    def note(number: int) -> None:
        counts.append([sum(each.values()) for each in gpu_stand_in.counts()])
        if number == 4:
            raise EnoughError  # before an evaluation

    with before_update(note), pytest.raises(EnoughError):
        take_steps(session, 9)
    launches, waits = map(max, zip(*counts[2:], strict=True))
    budget = BUDGETS[strategy]
    assert 0.8 * budget["launches"] < launches <= budget["launches"], launches
    assert 0 < waits <= budget["waits"], waits
