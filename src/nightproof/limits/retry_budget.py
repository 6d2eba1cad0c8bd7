"""Hold retries to a share of the traffic, so that a failing upstream is not hit harder for failing.

Called by `pipeline.upstreams`, one budget for each loaded release. Promises that over any time retries are at most
a first burst, plus the share of first tries, plus a trickle that lets a quiet service try again at all. Never waits,
never reads the clock.

>>> budget = RetryBudget(0.1, burst=1.0, trickle_per_s=0.0)
>>> budget.spend(now=0.0), budget.spend(now=0.0)
(True, False)
"""

from __future__ import annotations

_TRICKLE_FILLS = 3.0
"""Up to so many retries the trickle fills it; what is above comes from traffic."""


class RetryBudget:
    """A bucket of retries: first tries put their share in, each retry and each hedge takes one out."""

    __slots__ = ("_at_s", "_left", "_most", "_share", "_trickle_per_s")

    def __init__(self, share: float, *, burst: float = 10.0, trickle_per_s: float = 0.1) -> None:
        self._share = share
        self._most = burst if share > 0 else 0.0
        self._left = self._most
        self._trickle_per_s = trickle_per_s if share > 0 else 0.0
        self._at_s: float | None = None

    @property
    def left(self) -> float:
        """How many retries may be made now, without the trickle since it was last asked."""
        return self._left

    def earn(self) -> None:
        """Count a first try."""
        self._left = min(self._most, self._left + self._share)

    def has_room(self, *, now: float) -> bool:
        """Say whether one more retry may be made."""
        self._drip(now)
        return self._left >= 1.0

    def spend(self, *, now: float) -> bool:
        """Take one retry, or say that there is none."""
        if not self.has_room(now=now):
            return False
        self._left -= 1.0
        return True

    def _drip(self, now: float) -> None:
        if self._at_s is not None and self._left < _TRICKLE_FILLS:
            filled = self._left + max(0.0, now - self._at_s) * self._trickle_per_s
            self._left = min(filled, _TRICKLE_FILLS, self._most)
        self._at_s = now

    def __repr__(self) -> str:
        return f"<RetryBudget left={self._left:.1f}/{self._most:g}>"
