"""Notice a wall clock that jumps ahead, so that nothing is destroyed because of it.

Asked by whoever destroys by time. The wall clock is held to the time since the machine was booted, which nobody can
set. Promises: once the wall clock has run ahead, that is said until somebody who has looked at it trusts it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nightproof.base.clock import uptime_s, utc_us

MOST_AHEAD_S = 3_600.0
"""Less is what time synchronisation does, and no content is destroyed by the hour."""


class Reading(NamedTuple):
    """Both clocks at one moment."""

    wall_us: int
    uptime_s: float


def read_clocks() -> Reading:
    """Read both clocks."""
    return Reading(utc_us(), uptime_s())


def ahead_s(trusted: Reading, now: Reading) -> float:
    """Return by how much the wall clock has moved more than time has passed; negative where it went back."""
    return (now.wall_us - trusted.wall_us) / 1e6 - (now.uptime_s - trusted.uptime_s)


class ClockWatch:
    """The wall clock, as far as it is trusted."""

    def __init__(self, read: Callable[[], Reading] = read_clocks) -> None:
        self._read = read
        self._trusted = read()
        self._worst_s = 0.0

    @property
    def ahead_s(self) -> float:
        """The most that the clock was ahead since it was trusted last."""
        self._worst_s = max(self._worst_s, ahead_s(self._trusted, self._read()))
        return self._worst_s

    @property
    def has_jumped(self) -> bool:
        """Say whether the clock was ahead by so much that nothing may be destroyed by it."""
        return self.ahead_s > MOST_AHEAD_S

    def trust(self) -> None:
        """Take the wall clock as it is now to be right."""
        self._trusted = self._read()
        self._worst_s = 0.0

    def __repr__(self) -> str:
        return f"<ClockWatch ahead by {self.ahead_s:.0f} s>"
