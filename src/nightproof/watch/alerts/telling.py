"""Decide who is told what: grouped by service, not while silenced, not a symptom beside its cause. Pure.

An alert is told once that it fires, and once that it is over. A silence or a cause holds back what was not told
yet; when they end and the alert still fires, it is told then. What was told is always told to be over.

A cause holds its symptom back from when it is seen: a symptom counts and fires at once, and the cause, a condition,
fires after its time. Told meanwhile, one fault would tell two alerts. That wait has an end: in that time the cause
fires, is gone, or nothing is known of it any more, and then it holds nothing back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from nightproof.base.alerting import CAUSES
from nightproof.watch.alerts.machine import Alert, Track, Tracks, Transition
from nightproof.watch.alerts.rules import Key

_WEIGHT = {"ticket": 0, "page": 1}


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Keeps alerts quiet for a while. Empty fields fit everything."""

    id: str
    alertname: str = ""
    service: str = ""
    until_us: int
    """On the wall clock; a clock that steps back does not lengthen it beyond what it was made for."""
    until_s: float = 0.0
    """The same on this run's monotonic clock: whichever passes first ends it."""
    reason: str
    who: str

    def fits(self, alert: Alert) -> bool:
        """Say whether it is about this alert."""
        names = ("", alert.alertname, alert.failure)
        return self.alertname in names and self.service in ("", alert.service)

    def is_over(self, *, now_s: float, now_us: int) -> bool:
        """Say whether it has ended, by either clock."""
        return now_us >= self.until_us or now_s >= self.until_s


class Group(msgspec.Struct, frozen=True):
    """Alerts of one service that are told together."""

    service: str
    alerts: tuple[Alert, ...]


class Held(msgspec.Struct, frozen=True):
    """Why a firing alert is not told."""

    by: Literal["silence", "cause"]
    name: str


def held_back(tracks: Tracks, silences: Sequence[Silence]) -> dict[Key, Held]:
    """Return which firing alerts are held back now, and by what."""
    alerts = [track.alert for track in tracks.values()]
    causes = [one for one in alerts if one.state == "firing" or (one.state == "pending" and one.is_known)]
    held: dict[Key, Held] = {}
    for alert in (one for one in alerts if one.state == "firing"):
        key = alert.key
        silence = next((one for one in silences if one.fits(alert)), None)
        if silence is not None:
            held[key] = Held("silence", silence.id)
            continue
        cause = next((one for one in causes if _stands_behind(one, alert)), None)
        if cause is not None:
            held[key] = Held("cause", cause.alertname)
    return held


def _stands_behind(cause: Alert, symptom: Alert) -> bool:
    if _WEIGHT[cause.severity] < _WEIGHT[symptom.severity]:
        return False
    if cause.failure == symptom.failure:
        if cause.service == symptom.service:  # the page stands before the ticket about the same
            return _WEIGHT[cause.severity] > _WEIGHT[symptom.severity]
        return cause.service == ""
    is_cause = cause.failure in CAUSES.get(symptom.failure, ())
    return is_cause and cause.service in ("", symptom.service)


def due(
    tracks: Tracks,
    changed: Iterable[Transition],
    silences: Sequence[Silence],
    *,
    now_s: float,
    group_wait_s: float,
) -> list[Group]:
    """Return what is to be told now: what is over at once, what fires once its group had time to gather.

    A group is told as one as soon as its eldest has waited: a cause that shows a moment after its symptom is still
    in time to hold it back.
    """
    held = held_back(tracks, silences)
    groups: dict[str, list[Alert]] = {}
    for one in changed:
        if one.before == "firing" and one.alert.state == "resolved" and one.alert.is_told:
            groups.setdefault(one.alert.service, []).append(one.alert)
    waiting: dict[str, list[Track]] = {}
    for key, track in tracks.items():
        if track.alert.state == "firing" and not track.alert.is_told and key not in held:
            waiting.setdefault(track.alert.service, []).append(track)
    for service, members in waiting.items():
        if min(track.since_s for track in members) <= now_s - group_wait_s:
            groups.setdefault(service, []).extend(track.alert for track in members)
    return [
        Group(service, tuple(sorted(alerts, key=lambda one: (one.fired_us, one.alertname))))
        for service, alerts in sorted(groups.items())
    ]


def mark_told(tracks: Tracks, groups: Iterable[Group]) -> dict[Key, Track]:
    """Return the tracks with what these groups tell marked as told."""
    told = {alert.key for group in groups for alert in group.alerts if alert.state == "firing"}
    return {
        key: msgspec.structs.replace(track, alert=msgspec.structs.replace(track.alert, is_told=True))
        if key in told
        else track
        for key, track in tracks.items()
    }


def severity_order(alert: Alert) -> tuple[int, int, str, str]:
    """Sort alerts for people: firing before pending before resolved, pages before tickets."""
    state = {"firing": 0, "pending": 1, "resolved": 2}[alert.state]
    return (state, -_WEIGHT[alert.severity], alert.service, alert.alertname)
