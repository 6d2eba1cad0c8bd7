"""The jobs that wait for a worker: retries and rules first, then the others in their order of arrival.

Used by the pool on the event loop's thread. Drops what nobody waits for any more before it costs anything;
tells a job that its deadline has passed; never starts or ends a worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from nightproof.workers import decide
from nightproof.workers.engine import Job, Outcome

Turn = Literal["run", "wait", "drop"]


class Line:
    """Two queues and the bytes in them. `queue` and `urgent` are public to be looked at, not to be changed."""

    __slots__ = ("queue", "size_bytes", "urgent")

    def __init__(self) -> None:
        self.queue: deque[Job] = deque()
        self.urgent: deque[Job] = deque()
        """Retries and rules, one to a batch: they have lost time already, or are the way out."""
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self.queue) + len(self.urgent)

    def join(self, job: Job) -> None:
        """Take a job in at the end."""
        self.queue.append(job)
        self.size_bytes += len(job.input)

    def go_first(self, job: Job) -> None:
        """Take in a job that goes before the others, and alone."""
        self.urgent.append(job)
        self.size_bytes += len(job.input)

    def next_urgent(self, turn_of: Callable[[Job], Turn]) -> Job | None:
        """Take the first urgent job that may run; one that has to wait keeps its place behind the others."""
        for _ in range(len(self.urgent)):
            job = self.urgent.popleft()
            turn = turn_of(job)
            if turn == "wait":
                self.urgent.append(job)
                continue
            self.size_bytes -= len(job.input)
            if turn == "run":
                return job
        return None

    def next_batch(self, now: float, *, most: int, budget_s: float) -> list[Job]:
        """Take up to `most` living jobs: the oldest first, or the newest when the oldest are nearly lost."""
        queue = self.queue
        newest = decide.newest_first(oldest_wait_s=now - queue[0].queued_s, budget_s=budget_s)
        take = queue.pop if newest else queue.popleft
        jobs: list[Job] = []
        while queue and len(jobs) < most:
            job = take()
            self.size_bytes -= len(job.input)
            if not is_dead(job, now):
                jobs.append(job)
        return jobs

    def drop_the_dead(self) -> None:
        """Let go of the jobs at the head that nobody waits for."""
        queue = self.queue
        while queue and queue[0].waiter is None:
            self.size_bytes -= len(queue.popleft().input)

    def wait_s(self, now: float) -> float:
        """Return how long the job at the head has been waiting; 0 where none is."""
        return now - self.queue[0].queued_s if self.queue else 0.0

    def end_all(self, outcome: Outcome) -> None:
        """Tell every job the same, and let them go."""
        for job in (*self.urgent, *self.queue):
            tell(job, outcome)
        self.urgent.clear()
        self.queue.clear()
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<Line {len(self.queue)} urgent={len(self.urgent)} bytes={self.size_bytes}>"


def tell(job: Job, outcome: Outcome) -> None:
    """Tell the job's waiter, if one still waits."""
    if job.waiter is not None:
        job.waiter.tell(job, outcome)


def is_dead(job: Job, now: float) -> bool:
    """Say whether nobody waits for the job any more; one past its deadline is told so here."""
    if job.waiter is None:
        return True
    if now >= job.deadline_s:
        tell(job, Outcome(failure=job.last_failure or "deadline_exceeded"))
        return True
    return False
