"""Remember what happened in one moment for as long as it is to be told: an alert needs something that lasts.

For what no room can be asked about afterwards. Kept in memory: a restart forgets it; the log does not.
"""

from __future__ import annotations

from collections.abc import Iterable

from nightproof.base.conditions import Condition


class Happened:
    """The newest of each failure, by service, for a while."""

    def __init__(self, *, shown_s: float) -> None:
        self._shown_s = shown_s
        self._newest: dict[tuple[str, str], Condition] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def note(self, failure: str, *, service: str = "", detail: str, now_s: float) -> None:
        """Take in that it happened, once more or for the first time in a while."""
        key = (failure, service)
        before = self._newest.get(key)
        again = before is not None and now_s - before.since_s < self._shown_s
        self._counts[key] = self._counts[key] + 1 if again else 1
        times = f" ({self._counts[key]} times)" if again else ""
        self._newest[key] = Condition(
            failure=failure, service=service, since_s=now_s, detail=f"{detail}{times}"
        )

    def conditions(self, *, now_s: float) -> Iterable[Condition]:
        """Return what happened within the time that it is shown."""
        return [one for one in self._newest.values() if now_s - one.since_s < self._shown_s]
