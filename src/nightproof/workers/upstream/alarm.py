"""End a wait in time: by the shared timer, at a fraction of what a timer for each wait costs.

Called by the client for each of its clocks, and by who waits in line for a place. Inside the block the wait is
cancelled when the time is over, and the block then raises UpstreamFault `upstream_timeout` with which clock it was.
A cancellation from outside stays one, also when both come at once.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import NamedTuple

from nightproof.base.deadlines import Deadlines
from nightproof.workers.upstream.values import UpstreamFault


class Clock(NamedTuple):
    """When a wait ends, and why then."""

    at_s: float
    why: str
    is_cut: bool = False
    """It is the end of the call, not a clock of the upstream's."""


class Alarm:
    """One clock after the other for the task inside the block."""

    __slots__ = ("_cancelling", "_clock", "_deadlines", "_rang", "_task", "_tick")

    def __init__(self, deadlines: Deadlines, clock: Clock) -> None:
        self._deadlines = deadlines
        self._rang = False
        self._clock = clock
        self._task = task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an alarm needs a task to wake")
        self._cancelling = task.cancelling()
        self._tick = deadlines.set(clock.at_s, self, self.ring)

    def set(self, clock: Clock) -> None:
        """Go by another clock."""
        if not self._rang:
            self._deadlines.take_back(self._tick, self)
            self._clock = clock
            self._tick = self._deadlines.set(clock.at_s, self, self.ring)

    def ring(self) -> None:
        """Ring now (what the timer calls)."""
        task = self._task
        if task is not None:
            self._rang = True
            task.cancel()

    def __enter__(self) -> Alarm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.take_back(self._tick, self)
        task, self._task = self._task, None
        if (
            self._rang
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise UpstreamFault("upstream_timeout", self._clock.why, was_cut=self._clock.is_cut) from None
