"""Requests that arrive together share a pass over the model: a queue, and one thread that empties it.

Nobody waits for others to come. The thread takes what is there, and what arrives meanwhile makes the next pass.
"""

from __future__ import annotations

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
    """As a context: the thread lives inside it. Counts the jobs that it answered, and the passes that they took."""

    def __init__(self, compute: Callable[[Hashable, Sequence], Sequence], most: int):
        """compute: key, rows -> an answer for each row. most: rows of a pass, where one job alone has not more."""
        self.compute, self.most = compute, most
        self.jobs = self.passes = 0
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="batcher")

    def __enter__(self) -> Batcher:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends after the pass that is being computed. What still waits is not answered."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, key: Hashable, rows: Sequence) -> Future:
        """The answers to these rows, in time. Rows of one key can share a pass. A job that is cancelled is left out."""
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
            together, left, rows = [], [], 0
            for job in waiting:
                fits = job.key == waiting[0].key and rows + len(job.rows) <= self.most
                if not fits and job is not waiting[0]:
                    left.append(job)
                elif job.future.set_running_or_notify_cancel():
                    together.append(job)
                    rows += len(job.rows)
            waiting = left
            if together:
                self._answer(together)

    def _answer(self, jobs: list[Job]) -> None:
        try:
            found = iter(self.compute(jobs[0].key, [row for job in jobs for row in job.rows]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # the fault may be in one of them: the others are answered
                self._answer([job])
            return
        self.jobs, self.passes = self.jobs + len(jobs), self.passes + 1
        for job in jobs:
            job.future.set_result(list(islice(found, len(job.rows))))
