"""Remember the records that run over predict's time whoever sends them, so that each costs a few workers and no more.

Owned by the pool's suspects. A record counts only if it was alone with its worker. Twice is enough to try it no more
for half a minute; golden cases that another worker answers in time prove that it is the record and not the machine,
and then it is not tried for five. It is never poison: it ended no worker, we did, and what made it slow may pass.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

ENOUGH = 2
UNPROVEN_S = 30.0
PROVEN_S = 300.0
_KEPT = 1_000


@dataclass
class _Seen:
    times: int
    at_s: float
    is_proven: bool = False

    @property
    def kept_s(self) -> float:
        """How long it is remembered."""
        return UNPROVEN_S if self.times >= ENOUGH and not self.is_proven else PROVEN_S


class OverTime:
    """By fingerprint: how often a record ran over its time alone, and when last."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    def __bool__(self) -> bool:
        """Say whether any record is remembered."""
        return bool(self._seen)

    def blame(self, fingerprint: bytes, now: float) -> bool:
        """Count one more time; say whether it is enough, and has to be proven."""
        seen = self._seen.pop(fingerprint, None)
        if seen is None or now - seen.at_s >= seen.kept_s:
            seen = _Seen(0, now)
        seen.times, seen.at_s = seen.times + 1, now
        self._seen[fingerprint] = seen
        if len(self._seen) > _KEPT:
            self._seen.popitem(last=False)
        return seen.times >= ENOUGH and not seen.is_proven

    def knows(self, fingerprint: bytes, now: float) -> bool:
        """Say whether the record ran over its time lately: it runs alone, so that it is told from its mates."""
        self._expire(now)
        seen = self._seen.get(fingerprint)
        return seen is not None and now - seen.at_s < seen.kept_s

    def refuses(self, fingerprint: bytes, now: float) -> bool:
        """Say whether the record is not tried now."""
        seen = self._seen.get(fingerprint)
        return seen is not None and seen.times >= ENOUGH and now - seen.at_s < seen.kept_s

    def judge(self, asked_s: float, *, is_quick: bool) -> bool:
        """Take what golden cases said that were asked for at `asked_s`; say whether they proved anything.

        Where they were late or wrong it was not the record: all that waits to be proven is forgotten.
        """
        waiting = [
            fingerprint
            for fingerprint, seen in self._seen.items()
            if seen.times >= ENOUGH and not seen.is_proven and seen.at_s <= asked_s
        ]
        for fingerprint in waiting:
            if is_quick:
                self._seen[fingerprint].is_proven = True
            else:
                del self._seen[fingerprint]
        return is_quick and bool(waiting)

    def forget(self, fingerprint: bytes) -> None:
        """Forget a record: it was answered."""
        self._seen.pop(fingerprint, None)

    def _expire(self, now: float) -> None:
        while self._seen:
            eldest = next(iter(self._seen.items()))
            if now - eldest[1].at_s < eldest[1].kept_s:
                return  # those that follow are younger
            del self._seen[eldest[0]]

    def __repr__(self) -> str:
        return f"<OverTime {len(self._seen)}>"
