"""training/log.py: a log that is whole whatever happens, and progress."""

import json
import math
import resource
from types import SimpleNamespace

import child
import pytest

from data.reader import Example
from data.tasks import TASKS
from runtime.errors import DiskError
from training.log import RunLog, most_frequent, progress, seconds_left, span
from training.session import Session, State

HARD_LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)[1]


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_a_constant_answer_would_score():
    dev = SimpleNamespace(examples=[Example("x", ("a",), label, 1) for label in (3, 3, 1, None)])
    assert most_frequent(TASKS["sst"], dev) == "; always 3: 0.667 of dev"
    assert most_frequent(TASKS["sts"], dev) == most_frequent(TASKS["sst"], SimpleNamespace(examples=[])) == ""


@pytest.mark.parametrize("cost, every", [(10, 250), (50, 500), (500, 1000)])
def test_evaluations_take_a_tenth_of_the_time_but_are_one_to_four_an_epoch(cost, every):
    session = SimpleNamespace(steps_an_epoch=1000, evaluation_in_steps=cost)
    assert Session.usual_eval_every(session) == every


def test_a_line_is_there_at_once(tmp_path):
    path = tmp_path / "log.jsonl"
    RunLog(path, size=7).close()  # where there is none yet
    path.write_text('{"step": 7}\n')  # of a run before
    log = RunLog(path)
    log.write({"step": 1, "losses": {"sst": 0.1 + 0.2}, "name": "é"})
    assert records(path) == [{"step": 1, "losses": {"sst": 0.1 + 0.2}, "name": "é"}]
    log.write({"step": 2, "loss": math.nan, "cosine": {"sst-sts": -math.inf}, "list": [1.5, math.inf]})
    assert records(path)[1] == {"step": 2, "loss": None, "cosine": {"sst-sts": None}, "list": [1.5, None]}
    log.close()
    silent = RunLog(tmp_path / "other" / "log.jsonl", kept=False)
    silent.write({"step": 1})
    assert silent.size == 0
    silent.close()


def test_a_log_shorter_than_its_checkpoint_says_keeps_whole_lines(tmp_path, capsys):
    path, lines = tmp_path / "log.jsonl", ['{"step": 1}\n', '{"step": 2}\n']
    for present in ("".join(lines), lines[0] + '{"st'):
        path.write_text(present)
        log = RunLog(path, size=len("".join(lines)))
        log.write({"step": 3})
        log.close()
        short = present != "".join(lines)
        assert path.read_text() == lines[0] + lines[1] * (not short) + '{"step": 3}\n'
        assert ("its last lines before this checkpoint are missing" in capsys.readouterr().err) == short


@pytest.mark.fault(13)
@pytest.mark.parametrize("freed", [True, False])
def test_a_full_disk_delays_the_lines(tmp_path, capsys, freed):
    path = tmp_path / "log.jsonl"

    def writes():
        log = RunLog(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (25, HARD_LIMIT))
        for step in range(5):
            log.write({"step": step})  # 12 bytes each: the third goes in part
        assert path.stat().st_size == 25
        assert "not written (File too large)" in capsys.readouterr().err
        if freed:
            resource.setrlimit(resource.RLIMIT_FSIZE, (HARD_LIMIT, HARD_LIMIT))
            log.close()
        else:
            with pytest.raises(DiskError, match=r"log\.jsonl: not written"):
                log.close()

    assert child.run(writes) == 0
    if freed:
        assert [record["step"] for record in records(path)] == list(range(5))


def test_plain_progress_and_the_time_left(capsys):
    """Steps of 2 seconds, evaluations of 10, of 30 rows, and 60 more to be predicted in the end."""
    state, rows = State(), {"x": SimpleNamespace(examples=[None] * 30)}
    splits = {"dev": rows, "test": rows | {"y": rows["x"]}}
    settings = {"total_steps": 40, "last_step": 40, "eval_every": 15, "evaluation_in_steps": 4}
    session = SimpleNamespace(state=state, splits=splits, **settings)
    for step in range(1, 41):
        state.step, state.seconds = step, state.seconds + 2
        progress(session, {"sst": 0.5, "sts": math.nan})
        if step == 15:
            assert span(seconds_left(session)) == "90 seconds"  # 25 steps, and evaluations guessed to take 4 steps each
            state.seconds, state.evaluation_seconds, state.evaluations = state.seconds + 10, 10, 1
            assert span(seconds_left(session)) == "1.7 minutes"  # 25 steps, two evaluations, three times as many rows
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, [line.split("  ")[0] for line in lines]) == ("", [f"step {n}/40" for n in range(2, 41, 2)])
    assert lines[0] == "step 2/40  2.1 minutes left  losses: sst 0.500  sts nan"
