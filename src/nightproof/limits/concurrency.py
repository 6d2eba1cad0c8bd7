"""How many calls one upstream is sent at once: found by its own signals, since its latency says nothing (AIMD).

Called by `pipeline.upstreams`, for one upstream and model. More while calls succeed and the limit is in use, fewer
when the upstream says or shows that it has too many. Until it does so for the first time the limit doubles with each
round of answers (slow start): a server that has just started must not keep a burst of long streams in line. Promises
that calls inside never exceed the limit at their entry, and that a place is given back exactly once. Who does not get
a place may wait in line: that is the caller's part, here is only the count. Never waits, never reads the clock.

>>> limit = Concurrency(most=32)
>>> limit.enter(), limit.in_flight, limit.limit
(True, 1, 16)
"""

from __future__ import annotations

from typing import Literal

Signal = Literal["good", "refused", "slow", "none"]
"""How a call ended, for the limit: answered; the upstream refused or could not be reached; no answer in time; else."""

_STEP = 4.0
_STARTING_STEP = 2.0
"""Each new stream that has begun makes room for two more."""
_CUT = {"refused": 0.7, "slow": 0.9}
_BETWEEN_CUTS_S = 1.0


class Concurrency:
    """The limit of one upstream and the calls inside.

    Its one lock is the event loop: all methods are called on the loop's thread and none awaits.
    """

    __slots__ = ("_cut_s", "_in_flight", "_is_starting", "_least", "_limit", "_most")

    def __init__(self, *, start: float = 16.0, least: float = 2.0, most: float = 256.0) -> None:
        self._most = max(1.0, most)
        self._least = min(least, self._most)
        self._limit = min(start, self._most)
        self._in_flight = 0
        self._is_starting = True
        self._cut_s = float("-inf")

    @property
    def limit(self) -> int:
        """The most calls at once, now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """The calls inside."""
        return self._in_flight

    @property
    def has_room(self) -> bool:
        """Say whether one more call may go in."""
        return self._in_flight < int(self._limit)

    def hold_to(self, most: float) -> None:
        """Take another bound from a new release of the service."""
        self._most = max(1.0, most)
        self._least = min(self._least, self._most)
        self._limit = min(self._limit, self._most)

    def enter(self) -> bool:
        """Take a place, or say that there is none. Whoever got one leaves exactly once."""
        if not self.has_room:
            return False
        self._in_flight += 1
        return True

    def answered(self) -> None:
        """See an answer begin while its call stays inside: for a stream that says as much as its end."""
        if self._in_flight >= self._limit / 2:
            step = _STARTING_STEP if self._is_starting else _STEP / self._limit
            self._limit = min(self._most, self._limit + step)

    def leave(self, signal: Signal, *, now: float) -> None:
        """Give the place back, and let the limit learn from how the call ended."""
        if signal == "good":
            self.answered()
        self._in_flight -= 1
        if signal in _CUT and now - self._cut_s >= _BETWEEN_CUTS_S:
            self._is_starting = False
            self._cut_s = now
            self._limit = max(self._least, self._limit * _CUT[signal])

    def __repr__(self) -> str:
        return f"<Concurrency {self._in_flight}/{self._limit:.1f}>"
