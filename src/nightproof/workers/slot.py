"""One worker of a pool with what it is doing. Plain values; the pool changes them, nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from nightproof.storage import proc
from nightproof.workers import decide
from nightproof.workers.engine import Job
from nightproof.workers.process import ChildProcess

SETTLE_S = 10.0
LOADED: frozenset[decide.State] = frozenset(("ready", "busy"))
"""The states in which a worker can answer, now or after its batch."""


class Batch:
    """Jobs that one worker holds, with the clock it is on."""

    __slots__ = ("handed_s", "jobs", "number", "timer")

    def __init__(self, number: int, jobs: list[Job], handed_s: float, timer: asyncio.TimerHandle) -> None:
        self.number = number
        self.jobs = jobs
        self.handed_s = handed_s
        self.timer = timer


class Slot:
    """One worker of the pool."""

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.process: ChildProcess | None = None
        self.state: decide.State = "starting"
        self.since_s = now
        self.batch: Batch | None = None
        self.pinged_s: float | None = None
        self.ping_number = 0
        self.golden_timer: asyncio.TimerHandle | None = None
        self.golden_s = now
        self.golden_is_due = False
        self.rss_bytes = 0
        self.settled_rss_bytes = 0
        self.end_reason = ""

    @property
    def loaded(self) -> bool:
        """Say whether it can answer, now or after its batch."""
        return self.state in LOADED

    @property
    def pid(self) -> int:
        """Its process id; 0 before there is one."""
        return self.process.pid if self.process is not None else 0

    def stop_clocks(self) -> None:
        """End the timers that run for it."""
        for timer in (self.golden_timer, self.batch.timer if self.batch else None):
            if timer is not None:
                timer.cancel()
        self.golden_timer = None

    def measure(self, now: float) -> None:
        """Read the worker's memory; what it has some seconds after it loaded is the base of growth."""
        if self.process is None or not self.loaded:
            return
        self.rss_bytes = proc.rss_bytes(self.process.pid)
        if not self.settled_rss_bytes and now - self.since_s > SETTLE_S:
            self.settled_rss_bytes = self.rss_bytes

    def excuse(self, stall_s: float) -> None:
        """Give it the time back in which the server could not read its answers."""
        if self.pinged_s is not None:
            self.pinged_s += stall_s
        if self.state == "starting":
            self.since_s += stall_s

    def view(self) -> decide.ChildView:
        """Return what the decisions see."""
        return decide.ChildView(
            slot=self.number,
            state=self.state,
            since_s=self.since_s,
            pinged_s=self.pinged_s,
            rss_bytes=self.rss_bytes,
            settled_rss_bytes=self.settled_rss_bytes,
        )


def counts_by_state(slots: Iterable[Slot], *, answering: int) -> dict[str, int]:
    """Count workers as they are shown; those that are ready beyond the number that answers are spares."""
    counts = dict.fromkeys(("starting", "ready", "busy", "spare"), 0)
    for slot in slots:
        if slot.state == "busy":
            counts["busy"] += 1
        elif slot.state == "ready":
            counts["ready" if counts["ready"] + counts["busy"] < answering else "spare"] += 1
        elif slot.state == "starting":
            counts["starting"] += 1
    return counts
