"""How often workers may be started again: a budget over time, a pause after failed loads, one load at a time.

Used by the pool. Never reads the clock, never starts anything.
"""

from __future__ import annotations

from collections import deque

from nightproof.settings.settings import WorkerSettings
from nightproof.workers import decide


class RestartBudget:
    """The deaths of the last minute and the pause until the next start."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._deaths_s: deque[float] = deque()
        self._failures_in_a_row = 0
        self._no_start_before_s = 0.0
        self.is_exhausted = False
        """More workers died than the budget allows; only now and then one is started to see."""

    @property
    def loads_fail(self) -> bool:
        """Say whether the last loads failed, so that the next one is not to be counted on."""
        return self._failures_in_a_row >= 2

    @property
    def deaths(self) -> int:
        """Count the deaths that weigh on the budget."""
        return len(self._deaths_s)

    def spend(self, now: float, *, while_loading: bool) -> None:
        """Count a worker that died or could not be started."""
        self._deaths_s.append(now)
        if while_loading:
            self._failures_in_a_row += 1
        pause_s = decide.next_backoff_s(
            self._failures_in_a_row,
            first_s=self._settings.backoff_first_s,
            most_s=self._settings.backoff_most_s,
        )
        self._no_start_before_s = max(self._no_start_before_s, now + pause_s)

    def loaded(self) -> None:
        """See a worker come up: loads succeed again. Batches do not count, others may be answering them."""
        self._failures_in_a_row = 0
        self.is_exhausted = False

    def may_start(self, now: float, *, starting: int, loaded: int) -> bool:
        """Say whether one more worker may be started now. Beside working ones, one loads at a time."""
        while self._deaths_s and now - self._deaths_s[0] > self._settings.restart_window_s:
            self._deaths_s.popleft()
        if now < self._no_start_before_s or (loaded and starting):
            return False
        if len(self._deaths_s) < self._settings.restarts:
            self.is_exhausted = False
            return starting < 2
        self.is_exhausted = True
        if starting:
            return False
        self._no_start_before_s = now + self._settings.backoff_most_s
        return True

    def __repr__(self) -> str:
        return f"<RestartBudget deaths={self.deaths}/{self._settings.restarts} exhausted={self.is_exhausted}>"
