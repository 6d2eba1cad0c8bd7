"""The seam between a request and whatever runs models.

`pipeline.call` hands `Job`s to an `Engine` and is told of each outcome once. Nothing else in the house
knows whether the engine is the local pool or a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from nightproof.base.errors import DeclarationError, FieldError
from nightproof.declare.describe import Description
from nightproof.workers.decide import Forecast


class NotLoaded(DeclarationError):
    """A release's first worker did not come up; `failure` is the catalogue's name of why."""

    def __init__(self, text: str, *, hint: str = "", failure: str = "model_unavailable") -> None:
        super().__init__(text, hint=hint)
        self.failure = failure


class Outcome(msgspec.Struct, frozen=True):
    """How one job ended: an output, or the catalogue's name of what went wrong."""

    output: bytes = b""
    failure: str = ""
    detail: str = ""
    errors: Sequence[FieldError] = ()
    findings: Sequence[str] = ()
    """What the service's own checks flagged without refusing."""


_NOT_YET = Outcome(failure="internal_error", detail="not answered yet")


class Job(msgspec.Struct, eq=False):
    """One record on its way through an engine. Owned by the event loop; mutable until it is done."""

    input: bytes
    """The record as strict JSON, in UTF-8."""
    deadline_s: float
    """On the monotonic clock; a job that is past it is dropped before it costs anything."""
    waiter: Waiter | None
    place: int = 0
    """The record's place in its request."""
    rule: int = -1
    """Not the model but the service's fallback rule of this number answers; -1: the model."""
    queued_s: float = 0.0
    handed_s: float = 0.0
    attempts: int = 0
    alone: bool = False
    """Must be the only one in its batch: it was in a batch that died."""
    solo_kills: int = 0
    """How many workers ended while they held this record alone."""
    fingerprint: bytes = b""
    """Of the input; made only when a record is under suspicion."""
    died_of: tuple[str, ...] = ()
    """Why the workers ended that held it, one after the other."""
    last_failure: str = ""
    batch_size: int = 0
    predict_us: int = 0
    worker_pid: int = 0


class Waiter:
    """Collects the outcomes of one request's jobs and wakes its one waiting task, once."""

    __slots__ = ("future", "jobs", "outcomes", "remaining")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future
        self.jobs: list[Job] = []
        self.outcomes: list[Outcome] = []
        """By the jobs' places; all of them real once the future is done."""
        self.remaining = 0

    def add(self, job: Job) -> None:
        """Wait for this job too."""
        self.jobs.append(job)
        self.outcomes.append(_NOT_YET)
        self.remaining += 1

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Take one job's outcome. A late or double outcome is dropped, not raised."""
        if job.waiter is not self:
            return
        job.waiter = None
        self.outcomes[job.place] = outcome
        self.remaining -= 1
        if not self.remaining and not self.future.done():
            self.future.set_result(None)

    def give_up(self, failure: str) -> None:
        """End every job that is still out, under its own last failure or the given one."""
        for job in self.jobs:
            if job.waiter is self:
                self.tell(job, Outcome(failure=job.last_failure or failure))


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a release's signed manifest says that each of its workers must hold to while it loads."""

    digest: str = ""
    """Of the release's files: every worker reads every byte again before it runs one."""
    versions: dict[str, str] = {}
    """Of Python and frameworks: on others the release is not loaded."""
    python: str = ""
    """The interpreter that its workers start with; empty: the server's."""


class EngineSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine looks like at one moment."""

    service: str
    release: str
    workers: dict[str, int]
    """Number of workers by state: starting, ready, busy, spare."""
    pids: list[int]
    queued: int
    queue_bytes: int
    running: int
    restarts: int
    backing_off: bool
    trouble: str
    golden_passed_s: float = 0.0
    """When a worker last passed its golden cases, on the monotonic clock."""
    golden_level: str = ""
    """Whose fault wrong golden answers are now: `worker`, `release`, or nobody's."""

    @property
    def golden_ok(self) -> bool:
        """Say whether the last worker that was asked answered its golden cases rightly."""
        return not self.golden_level


Observer = Callable[..., None]
"""Told of engine events by name: `observe("restart", reason="model_crash", …)`."""


class Engine(Protocol):
    """Runs one release's model."""

    @property
    def description(self) -> Description:
        """What the release declares. Only after `start`."""

    async def start(self) -> None:
        """Bring the workers up; return when one is ready. Raises DeclarationError if none can be."""

    async def stop(self) -> None:
        """End the workers; jobs still out are told `shutting_down`."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs; each job's waiter is told its outcome once. Never waits."""

    def resize(self, workers: tuple[int, int] | None = None, spares: int | None = None) -> None:
        """Keep another number of workers from now on; None: what the release declares. Cuts nothing short."""

    def forecast(self, jobs: int) -> Forecast:
        """Estimate when that many new jobs would be answered, if they came now."""

    def is_ready(self) -> bool:
        """Say whether a worker that passes its golden cases is up."""

    def has_hope(self) -> bool:
        """Say whether a worker is on its way up, so that waiting for it makes sense."""

    def snapshot(self) -> EngineSnapshot:
        """Return a frozen picture."""
