"""Many deadlines on one timer: what is due is called a few milliseconds late, never early.

A request whose deadline is set and taken back again costs two dictionary entries, where a timer of the event
loop for each would cost more than the rest of its wait. Used on the loop's thread only.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from nightproof.base.clock import monotonic_s

_TICKS_PER_S = 200


class Deadlines:
    """Calls back what was not taken back in time. Late by 5 ms at most, and by what the loop is late itself."""

    __slots__ = ("_by_tick", "_loop", "_ticks", "_timer", "_timer_tick")

    def __init__(self) -> None:
        self._by_tick: dict[int, dict[int, Callable[[], None]]] = {}
        self._ticks: list[int] = []
        """The keys of `_by_tick`, as a heap."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def set(self, at_s: float, owner: object, act: Callable[[], None]) -> int:
        """Have `act` called at a time of the monotonic clock; return what takes it back again."""
        tick = int(at_s * _TICKS_PER_S) + 1
        due = self._by_tick.get(tick)
        if due is None:
            due = self._by_tick[tick] = {}
            heapq.heappush(self._ticks, tick)
            if self._timer is None or tick < self._timer_tick:
                self._wait_for(tick)
        due[id(owner)] = act
        return tick

    def take_back(self, tick: int, owner: object) -> None:
        """Forget a deadline; one that has been called is forgotten already."""
        due = self._by_tick.get(tick)
        if due is not None:
            due.pop(id(owner), None)

    def _wait_for(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._timer_tick = tick
        self._timer = self._loop.call_at(tick / _TICKS_PER_S, self._call_due)

    def _call_due(self) -> None:
        self._timer = None
        now_tick = int(monotonic_s() * _TICKS_PER_S)
        ticks = self._ticks
        acts: list[Callable[[], None]] = []
        while ticks and (ticks[0] <= now_tick or not self._by_tick[ticks[0]]):
            acts += self._by_tick.pop(heapq.heappop(ticks)).values()
        if ticks:
            self._wait_for(ticks[0])
        for act in acts:
            act()

    def __repr__(self) -> str:
        return f"<Deadlines {sum(map(len, self._by_tick.values()))} set>"
