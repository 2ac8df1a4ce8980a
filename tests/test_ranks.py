"""Several processes, one exact surgery: what two and three ranks make of a run is what one makes of it."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import ranks
import torch
from safetensors.torch import load_file
from tiny import make_bert_folder, make_data_folder
from tiny_run import before_update, command, leftovers, log_lines, loss_by, outcome
from torch import Tensor
from torch.distributed import TCPStore
from torch.testing import assert_close

import evaluate
import train_multitask
import training.session
from runtime.errors import UsageError, run_cli
from runtime.ranks import join
from tools.soak import SETTINGS
from training.checkpoint import saved
from training.options import parse
from training.session import Session

STEPS = ("--max_steps", 6, "--eval_every", 3, "--save_every", 3, "--lr", 0.003, "--seed", 5)


class Exact(Session):
    """In float64, and without dropout, whose draws are each rank's own."""

    def make_optimizer(self) -> None:
        self.model.double().eval()
        super().make_optimizer()


def exact(words: list[str]) -> int:
    """train_multitask.py with such a session: its exit code."""

    def main(argv: list[str]) -> None:
        with join() as world:
            train_multitask.run(parse(argv), Exact, world)

    return run_cli(main, words)


def tensors(out: Path) -> dict[str, torch.Tensor]:
    """Weights, moments and triplets' vectors of the newest checkpoint."""
    files = sorted(saved(out / "checkpoints")[0].glob("*.safetensors"))
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


def assert_same_run(one: Path, several: Path) -> None:
    """In its tensors, to 1e-10, and, line by line, in losses, cosines, norms and scores."""
    expected, found = tensors(one), tensors(several)
    assert expected.keys() == found.keys() and any(name.startswith("optimizer/") for name in found)
    for name, value in expected.items():
        assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    for line, other in zip(log_lines(one), log_lines(several), strict=True):
        assert line.keys() == other.keys()
        for part, value in line.items():
            assert other[part] == pytest.approx(value, rel=1e-6, abs=1e-9), part


RUNS = {  # the options; how many ranks
    "pcgrad, three in a batch of 8, 8 and 7": ((), 3),
    "gradvac, accumulated, 1 row of a task a batch": (
        ("--surgery", "gradvac:beta=0.3", "--grad_accum", 3, "--batch_size", "sst=5,para=4,sts=1"),
        2,
    ),
    "random weights, losses of equal size": (("--surgery", "random", "--weigh", "equal", "--layer", -2), 2),
    "db_mtl, which reads the losses; cnn": (("--surgery", "db_mtl", "--pooling", "cnn", "--max_grad_norm", 0.1), 2),
    "the plain sum, pairs in all ways": (
        ("--strategy", "mtl", "--pairs", "para=both,sts=cross", "--pooling", "attention_mean"),
        2,
    ),
    "ended by early stopping": (("--eval_every", 1, "--patience", 1), 2),
    "heads alone": (("--strategy", "mtl", "--option", "pretrain", "--arch", "v2"), 2),
}


@pytest.mark.parametrize("name", RUNS)
def test_ranks_give_the_weights_of_one_process(home, tmp_path, name):
    """In float64, to 1e-10: weights, moments, vectors, losses, cosines, norms, scores."""
    options, count = RUNS[name]
    words = command(home, *STEPS, *options, "--output_dir")
    assert exact([*words, str(tmp_path / "one")]) == 0
    codes, text = ranks.run(count, lambda rank: exact([*words, str(tmp_path / "several")]), tmp_path)
    assert codes == [0] * count, text
    assert_same_run(tmp_path / "one", tmp_path / "several")
    assert text.count("step 1/6") == 1  # rank 0 alone talks


def test_a_dry_run_of_ranks_leaves_nothing(home, tmp_path):
    codes, text = train(home, tmp_path / "run", 2, "--dry_run")
    assert codes == [0, 0] and "dry run: data, options, a checkpoint and a step are in order" in text
    assert not (tmp_path / "run").exists()


# ---- faults ----------------------------------------------------------------------------------------------------------

GS = (*SETTINGS["gs"], "--save_every", 3)  # with dropout


def train(home: Path, out: Path, count: int, *options: object, of: dict[int, object] | None = None, **variables: str):
    """The real command by so many ranks, some of them disturbed by a context: exit codes, and stderr of all."""

    def action(rank: int) -> int:
        with (of or {}).get(rank, nullcontext()):
            return run_cli(train_multitask.main, command(home, *GS, "--output_dir", out, *options))

    return ranks.run(count, action, home / "ranks", **variables)


@pytest.fixture(scope="module")
def whole(home) -> Path:
    """An undisturbed run of two ranks."""
    codes, text = train(home, home / "whole", 2)
    assert codes == [0, 0], text
    return home / "whole"


def ends_as(whole: Path, home: Path, out: Path) -> bool:
    """Whether, resumed, it has that run's weights, moments, log, metrics and predictions, bit for bit."""
    codes, text = train(home, out, 2, "--resume", "auto")
    assert codes == [0, 0], text
    return outcome(out) == outcome(whole) and not leftovers(out)


def killed(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def at(step: int, action: Callable[[], object]) -> AbstractContextManager:
    return before_update(lambda number: action() if number == step else None)


@contextmanager
def in_a_save(action: Callable[[], object]) -> Iterator[None]:
    sys.addaudithook(lambda event, args: action() if event == "os.rename" and ".tmp-step-000006" in str(args) else None)
    yield


@pytest.mark.fault(44)
@pytest.mark.parametrize(("rank", "fault"), [(0, at(5, killed)), (1, at(5, killed)), (0, in_a_save(killed))])
def test_a_rank_is_killed(home, tmp_path, whole, rank, fault):
    """As by kill -9, in a step or in a save. The other ends and says so; nothing half is seen; the end is the same."""
    started = time.monotonic()
    codes, text = train(home, tmp_path / "run", 2, of={rank: fault})
    assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 8) and time.monotonic() - started < 60
    assert text.count("error:") == 1 and "--resume auto" in text.splitlines()[-1]
    assert [path.name for path in saved(tmp_path / "run" / "checkpoints")] == ["step-000004", "step-000003"]
    assert ends_as(whole, home, tmp_path / "run")


@pytest.mark.fault(44)
def test_a_rank_that_hangs_ends_the_others(home, tmp_path, monkeypatch):
    monkeypatch.setattr("runtime.ranks.SILENCE", timedelta(seconds=5))
    codes, text = train(home, tmp_path / "run", 2, of={1: at(2, lambda: time.sleep(10))})
    assert codes == [8, 8] and "error: expected 2 processes at work; one has ended, or is silent" in text


@contextmanager
def before_predicting(action: Callable[[], object]) -> Iterator[None]:
    """From here on, in this process."""
    predict = evaluate.outputs
    evaluate.outputs = lambda *arguments: [action(), predict(*arguments)][1]
    yield


@pytest.mark.fault(44)
@pytest.mark.parametrize(
    ("action", "expected", "message"),
    [
        (killed, [8, -signal.SIGKILL], "error: expected 2 processes at work; one has ended, or is silent"),
        (lambda: time.sleep(4), [0, 0], "predictions: "),
    ],
)
def test_a_rank_may_be_slow_where_the_others_wait_but_not_dead(home, tmp_path, monkeypatch, action, expected, message):
    monkeypatch.setattr("runtime.ranks.SILENCE", timedelta(seconds=2))
    codes, text = train(home, tmp_path / "run", 2, "--max_steps", 1, of={1: before_predicting(action)})
    assert codes == expected and message in text


def stopped_for_ten_seconds() -> None:
    """As by kill -STOP; then killed."""
    subprocess.Popen(["sh", "-c", f"sleep 10; kill -KILL {os.getpid()}"])
    killed(signal.SIGSTOP)


@contextmanager
def agent() -> Iterator[dict[str, str]]:
    """The variables of torchrun's own process, which keeps the store for the ranks and outlives them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(store.port)}


@pytest.mark.fault(44)
@pytest.mark.parametrize(
    ("store", "found"), [(nullcontext({}), "the process that keeps the store does not answer"), (agent(), "Timed out")]
)
def test_rank_0_is_stopped(home, tmp_path, monkeypatch, store, found):
    """It closes no connection. Where it keeps the store, as without torchrun, questions to that would never end."""
    monkeypatch.setattr("runtime.ranks.SILENCE", timedelta(seconds=3))
    with store as variables:
        codes, text = train(home, tmp_path / "run", 2, of={0: at(2, stopped_for_ten_seconds)}, **variables)
    assert codes == [-signal.SIGKILL, 8] and text.count("error:") == 1 and "is silent (" in text and found in text


@pytest.mark.fault(44)
def test_a_store_that_does_not_answer_at_the_start(home, tmp_path, monkeypatch):
    """As where torchrun's own process is stopped before the ranks have met."""
    monkeypatch.setattr("runtime.ranks.START", timedelta(seconds=2))
    monkeypatch.setattr("runtime.ranks.SILENCE", timedelta(seconds=2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        variables = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(silent.getsockname()[1])}
        codes, text = train(home, tmp_path / "run", 2, **variables)
    assert codes == [8, 8] and "error: expected 2 processes" in text


@pytest.mark.fault(44)
def test_torchrun_starts_the_ranks_again(home, tmp_path, whole):
    """As by --max_restarts: the same store, with what the first attempt left in it, and a number for the attempt."""
    with agent() as variables:
        for attempt, (fault, expected) in enumerate([(at(5, killed), [8, -signal.SIGKILL]), (nullcontext(), [0, 0])]):
            variables["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
            codes, text = train(home, tmp_path / "run", 2, "--resume", "auto", of={1: fault}, **variables)
            assert codes == expected, text
    assert outcome(tmp_path / "run") == outcome(whole) and not leftovers(tmp_path / "run")


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("count", "options", "variables", "code", "message"),
    [
        (3, ("--batch_size", 2), {}, 2, "expected at most 2 processes, as many as the largest batch has rows; found 3"),
        (2, ("--lr", -1), {}, 2, "--lr"),
        (2, ("--data_dir", "nowhere"), {}, 3, "nowhere"),
        (2, (), {"MASTER_ADDR": ""}, 2, "WORLD_SIZE=2: expected what torchrun sets; MASTER_ADDR is not set"),
        (2, (), {"MASTER_PORT": "x"}, 2, "found MASTER_PORT='x'"),
    ],
)
def test_a_world_that_does_not_fit(home, tmp_path, count, options, variables, code, message):
    codes, text = train(home, tmp_path / "run", count, *options, **variables)
    assert codes == [code] * count and text.count("error:") == 1 and message in text.splitlines()[-1]
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--lr", "0.1"), 2, "found lr 0.003 in process 0, 0.1 in process 1"),
        (("--save_every", "5"), 2, "found save_every 3 in process 0, 5 in process 1"),
        (("--data_dir", "{home}/other"), 3, "found train of sst: "),
        (("--checkpoint", "bert"), 2, "found bert.embeddings.word.weight"),
        (("version", ""), 2, "found torch"),
    ],
)
def test_ranks_that_differ(home, tmp_path, words, code, message):
    make_data_folder(home / "other", seed=1)
    make_bert_folder(home / "twin" / "bert", seed=1)
    words = [word.format(home=home) for word in words]

    def action(rank: int) -> int:
        os.chdir(home / "twin" if rank else home)
        more = words * (words[-1] == "bert" or (rank == 1 and words[0] != "version"))
        if rank and words[0] == "version":
            training.session.version = lambda name: "0.1"  # in this process alone
        return run_cli(train_multitask.main, command(home, *GS, "--output_dir", tmp_path / "run", *more))

    codes, text = ranks.run(2, action, tmp_path)
    assert codes == [code, code] and text.count("error:") == 1 and message in text
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.fault(46)
def test_a_loss_that_is_not_finite_on_one_rank_ends_all(home, tmp_path):
    nan = loss_by("binary", lambda number, loss, y: loss * math.nan if number == 4 else loss)
    codes, text = train(home, tmp_path / "run", 2, of={1: nan})
    assert codes == [5, 5] and text.count("error:") == 1 and "found nan for para at step 2, rows para-train-" in text


@pytest.mark.fault(46)
def test_an_infinite_gradient_on_one_rank_is_skipped_by_all(home, tmp_path):
    """The gradient alone is: the loss has a slope whose square overflows."""

    def steep(number: int, loss: Tensor, y: Tensor) -> Tensor:
        return loss + (y.sum() - y.sum().detach()) * (1e38 if number == 3 else 0.0)

    codes, text = train(home, tmp_path / "run", 2, of={1: loss_by("score", steep)})
    assert codes == [0, 0], text
    skipped = [line["step"] for line in log_lines(tmp_path / "run") if "skipped" in line]
    assert skipped == [2] and "steps skipped for an infinite gradient: 1 of 9" in text


@pytest.mark.fault(46)
def test_memory_that_runs_out_on_one_rank_halves_the_batches_of_all(home, tmp_path):
    """And changes nothing else: in float64 the weights are those of one process that had enough."""
    words = command(home, *STEPS, "--output_dir")
    assert exact([*words, str(tmp_path / "one")]) == 0
    full = loss_by("binary", lambda number, loss, y: loss if len(y) < 4 else torch.empty(1 << 60))

    def action(rank: int) -> int:
        with full if rank else nullcontext():
            return exact([*words, str(tmp_path / "several")])

    codes, text = ranks.run(2, action, tmp_path)
    assert codes == [0, 0] and text.count("in 2 parts from here on") == 1
    assert_same_run(tmp_path / "one", tmp_path / "several")


@pytest.mark.fault(46)
def test_a_signal_to_one_rank_ends_all_after_the_step(home, tmp_path, whole):
    codes, text = train(home, tmp_path / "run", 2, of={1: at(5, lambda: killed(signal.SIGTERM))})
    assert codes == [143, 143] and "stopped and saved at step 5 of 9" in text
    assert saved(tmp_path / "run" / "checkpoints")[0].name == "step-000005"
    assert ends_as(whole, home, tmp_path / "run")


@pytest.mark.fault(47)
def test_resumed_by_other_numbers_of_ranks(home, tmp_path):
    """Two take three steps, three take two more, one ends it: one process's weights, and it is said."""
    words = command(home, *STEPS, "--surgery", "gradvac", "--save_every", 1, "--output_dir")
    assert exact([*words, str(tmp_path / "one")]) == 0
    out = tmp_path / "several"
    for count, last, said in (
        (2, 3, ""),
        (3, 5, "trained by 2 processes so far, from here on by 3"),
        (1, 6, "by 3 pr"),
    ):

        def action(rank: int, last: int = last) -> int:
            with at(last, lambda: killed(signal.SIGTERM)) if last < 6 else nullcontext():
                return exact([*words, str(out), "--resume", "auto"])

        codes, text = ranks.run(count, action, tmp_path)
        assert codes == [143 if last < 6 else 0] * count and said in text
    assert_same_run(tmp_path / "one", out)


def test_a_finished_run_goes_on(home, tmp_path, whole):
    """Also where rank 0 alone has its folder: its lost files are made again, and steps added."""
    out = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(out / "predictions")
    assert ends_as(whole, home, out)
    longer = ("--resume", "auto", "--max_steps", 12, "--allow_change", "max_steps")
    codes, text = train(home, out, 2, *longer)
    assert codes == [0, 0] and [line["step"] for line in log_lines(out) if "losses" in line] == [*range(1, 13)], text


THREADS_LEFT = """
import os, torch
from runtime.ranks import join
with join():
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])  # its import has functions with the process group as a default
print([open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux shows them")
def test_no_thread_of_the_network_outlives_the_world():
    """One that did could abort the program while Python ends, after all its work."""
    command = [sys.executable, "-c", THREADS_LEFT]
    started = [
        subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
        for variables in ranks.environments(2)
    ]
    threads = [process.communicate()[0] for process in started]
    assert all("python" in names and "gloo" not in names for names in threads), threads


def test_two_processes_on_one_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-1"))
    world = SimpleNamespace(size=2, gather=lambda value: [value, value])
    with pytest.raises(UsageError, match="expected a GPU for each process; found 1 for 2 processes"):
        Session.check_ranks(SimpleNamespace(device=torch.device("cuda"), world=world))
