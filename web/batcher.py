"""Requests that arrive together share a pass over the model: a queue, and one thread that empties it.

No request waits for others to arrive. The thread takes all in the queue; what arrives meanwhile makes the next pass.
"""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from threading import Thread


@dataclass(eq=False)
class Job:
    key: Hashable
    rows: Sequence
    future: Future = field(default_factory=Future)


class Batcher:
    """Its thread runs inside a `with` block. `jobs` and `passes` count answered jobs and passes over the model."""

    def __init__(self, compute: Callable[[Hashable, Sequence], Sequence], most: int):
        """compute: key, rows -> an answer for each row. most: rows of a pass, unless one job alone has more."""
        self.compute, self.most = compute, most
        self.jobs = self.passes = 0
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="batcher")

    def __enter__(self) -> "Batcher":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop after the current pass. Jobs that still wait get no answer."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, key: Hashable, rows: Sequence) -> Future:
        """A future of the answers to these rows. Jobs of one key can share a pass. A cancelled job is left out."""
        job = Job(key, rows)
        self._queue.put(job)
        return job.future

    def _work(self) -> None:
        waiting: list[Job] = []
        while True:
            while not waiting or not self._queue.empty():
                job = self._queue.get()
                if job is None:
                    return
                waiting.append(job)
            batch, later, rows = [], [], 0
            for job in waiting:
                fits = job.key == waiting[0].key and rows + len(job.rows) <= self.most
                if not fits and job is not waiting[0]:
                    later.append(job)
                elif job.future.set_running_or_notify_cancel():
                    batch.append(job)
                    rows += len(job.rows)
            waiting = later
            if batch:
                self._answer(batch)

    def _answer(self, jobs: list[Job]) -> None:
        try:
            answers = iter(self.compute(jobs[0].key, [row for job in jobs for row in job.rows]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # perhaps one of them is at fault: answer the others
                self._answer([job])
            return
        self.jobs, self.passes = self.jobs + len(jobs), self.passes + 1
        for job in jobs:
            job.future.set_result(list(islice(answers, len(job.rows))))
