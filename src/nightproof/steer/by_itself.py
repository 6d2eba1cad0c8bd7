"""Remember what was done by itself lately, and where nothing could be done: what somebody is to hear of.

Kept by `steer.promote`, asked for the alerts. After a restart it is made again from the registry's history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.conditions import Condition
from nightproof.storage.registry_store import RegistryAct

BY_ITSELF = "nightproof"
"""Who did it, in the history and in the audit log."""
CONDITIONS = ("release_rolled_back", "canary_worse", "canary_undecided", "no_way_back")
_TOLD_OF = {
    "rolled_back": "release_rolled_back",
    "canary_worse": "canary_worse",
    "canary_undecided": "canary_undecided",
}
"""The condition by the act in the history."""
_SHOWN_S = 3_600.0
"""For so long what was done by itself stands as a condition, unless somebody acts on the service before."""


_AGAIN_FIRST_S, _AGAIN_MOST_S = 5.0, 60.0
"""Pauses between tries to go back: what stood in the way (a store that was away, a full disk) may be gone."""


class _Stuck(msgspec.Struct, frozen=True):
    why: str
    by_golden: bool
    pause_s: float
    again_s: float


class ByItself:
    """The last deed of each service, and the releases that should go back and cannot."""

    def __init__(self) -> None:
        self._done: dict[str, Condition] = {}
        self._stuck: dict[str, _Stuck] = {}

    def did(self, service: str, failure: str, detail: str, *, ago_s: float = 0.0) -> None:
        """Take in what was done."""
        self._done[service] = Condition(
            failure=failure, service=service, since_s=monotonic_s() - ago_s, detail=detail
        )

    def could_not(self, service: str, why: str, *, by_golden: bool) -> bool:
        """Take in that the live release should go back, and why it cannot; say whether that is news."""
        before = self._stuck.get(service)
        pause_s = _AGAIN_FIRST_S if before is None else min(_AGAIN_MOST_S, 2 * before.pause_s)
        self._stuck[service] = _Stuck(why, by_golden, pause_s, monotonic_s() + pause_s)
        return before is None or before.why != why

    def may_try(self, service: str) -> bool:
        """Say whether to go back may be tried now: it never failed, or its pause is over."""
        stuck = self._stuck.get(service)
        return stuck is None or monotonic_s() >= stuck.again_s

    def golden_hold_again(self, service: str) -> None:
        """Forget that a release could not go back for its golden cases: they hold."""
        if service in self._stuck and self._stuck[service].by_golden:
            del self._stuck[service]

    def switched(self, service: str) -> None:
        """Another release is live: what could not be done before is over, and what was done is seen to."""
        self._stuck.pop(service, None)
        self.acted(service)

    def acted(self, service: str) -> None:
        """Somebody acted on the service: he knows what was done."""
        self._done.pop(service, None)

    def resume(self, service: str, acts: Sequence[RegistryAct], live: str) -> None:
        """After a start: what was done shortly before stands on, if nobody acted since. `acts`: the newest first."""
        last = next((one for one in acts if one.act != "registered"), None)
        if last is None or last.act not in _TOLD_OF or last.who != BY_ITSELF:
            return
        ago_s = (utc_us() - last.at_us) / 1e6
        if 0 <= ago_s < _SHOWN_S:
            rolled = last.act == "rolled_back"
            text = rolled_back(last.origin, last.label) if rolled else taken_off(last.label, live)
            self.did(service, _TOLD_OF[last.act], f"{text}: {last.why}", ago_s=ago_s)

    def conditions(self) -> Iterable[Condition]:
        """Return both."""
        now = monotonic_s()
        yield from [one for one in self._done.values() if now - one.since_s < _SHOWN_S]
        for service, stuck in self._stuck.items():
            yield Condition(failure="no_way_back", service=service, detail=stuck.why)


def rolled_back(bad: str, live: str) -> str:
    """Say what a rollback did."""
    return f"{bad} was rolled back to {live}"


def taken_off(canary: str, live: str) -> str:
    """Say what the end of a canary did."""
    return f"{canary} was taken back; {live} is live"


def taken_back(acts: Sequence[RegistryAct]) -> str:
    """Name the release that was taken back last, by itself or by somebody; empty if none was."""
    for one in acts:
        if one.act in ("rollback", "rolled_back"):
            return one.origin
        if one.act in ("canary_worse", "canary_undecided"):
            return one.label
    return ""


def last_switch(acts: Sequence[RegistryAct]) -> RegistryAct | None:
    """Return the act that made the live release live."""
    return next((one for one in acts if one.act in ("live", "rollback", "rolled_back")), None)
