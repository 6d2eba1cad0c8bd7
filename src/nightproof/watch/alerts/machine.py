"""Move alerts from quiet to pending, firing and resolved. Pure: verdicts and both clocks go in, transitions come out.

Durations are measured on the monotonic clock, so a wall clock that steps neither fires nor resolves anything. An
alert that is not known to be well stays as it is. What fires keeps its id until it is resolved, also across a
restart: the run after is given the tracks that the run before kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from nightproof.watch.alerts.judge import Verdict
from nightproof.watch.alerts.rules import Key, Rule

State = Literal["pending", "firing", "resolved"]

_SHOWN_RESOLVED_S = 900.0
_UNKNOWN_AT_MOST_S = 21_600.0


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert as it is kept, shown and told."""

    id: str
    """Names this time that it fires; another time is another id."""
    failure: str
    service: str
    severity: Literal["page", "ticket"]
    alertname: str
    state: State
    since_us: int
    """When it took this state, on the wall clock."""
    fired_us: int = 0
    why: str = ""
    is_told: bool = False
    """Receivers have been, or are being, told that it fires."""
    is_known: bool = True
    """Whether there is anything to judge it by now."""

    @property
    def key(self) -> Key:
        """Name its rule."""
        return (self.failure, self.service, self.severity)


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """An alert with its place on the monotonic clock, which is this run's own."""

    alert: Alert
    since_s: float
    good_since_s: float | None = None
    unknown_since_s: float | None = None


class Transition(msgspec.Struct, frozen=True):
    """One change of state, to be recorded."""

    alert: Alert
    before: str


Tracks = Mapping[Key, Track]


def step(
    tracks: Tracks,
    rules: Iterable[Rule],
    verdicts: Mapping[Key, Verdict],
    *,
    now_s: float,
    now_us: int,
    draw_id: Callable[[], str],
    is_complete: bool = True,
    scale: float = 1.0,
) -> tuple[dict[Key, Track], list[Transition]]:
    """Return the tracks after this look, and what changed. `is_complete` False: services are still loading."""
    by_key = {rule.key: rule for rule in rules}
    after: dict[Key, Track] = {}
    changed: list[Transition] = []
    for key in dict.fromkeys([*tracks, *by_key]):
        track, rule = tracks.get(key), by_key.get(key)
        verdict = verdicts.get(key) if rule is not None else None
        if verdict is None or rule is None:
            judged = _without_rule(track, is_complete=is_complete, now_s=now_s, now_us=now_us)
        elif track is None or track.alert.state == "resolved":
            judged = _from_quiet(track, rule, verdict, now_s=now_s, now_us=now_us, draw_id=draw_id)
        elif track.alert.state == "pending":
            judged = _from_pending(track, rule, verdict, now_s=now_s, now_us=now_us)
        else:
            judged = _from_firing(track, rule, verdict, now_s=now_s, now_us=now_us, scale=scale)
        if judged is not None and _is_stale(judged, now_s, scale):
            judged = None
        if judged is not None:
            after[key] = judged
        before = track.alert if track is not None else None
        if judged is not None and (before is None or before.state != judged.alert.state):
            changed.append(Transition(judged.alert, before.state if before is not None else "quiet"))
        elif judged is None and before is not None and before.state == "pending":
            ended = msgspec.structs.replace(before, state="resolved", since_us=now_us)
            changed.append(Transition(ended, "pending"))
    return after, changed


def _from_quiet(
    track: Track | None,
    rule: Rule,
    verdict: Verdict,
    *,
    now_s: float,
    now_us: int,
    draw_id: Callable[[], str],
) -> Track | None:
    if verdict.judgement != "bad":
        return track
    waits = verdict.is_condition and rule.for_s > 0
    alert = Alert(
        id=draw_id(),
        failure=rule.failure,
        service=rule.service,
        severity=rule.severity,
        alertname=rule.alertname,
        state="pending" if waits else "firing",
        since_us=now_us,
        fired_us=0 if waits else now_us,
        why=verdict.why,
    )
    return Track(alert=alert, since_s=now_s)


def _from_pending(track: Track, rule: Rule, verdict: Verdict, *, now_s: float, now_us: int) -> Track | None:
    if verdict.judgement == "good":
        return None
    if verdict.judgement == "unknown":
        return _with(track, is_known=False)
    is_due = not verdict.is_condition or now_s - track.since_s >= rule.for_s
    if not is_due:
        return _with(track, why=verdict.why, is_known=True)
    alert = msgspec.structs.replace(
        track.alert, state="firing", since_us=now_us, fired_us=now_us, why=verdict.why, is_known=True
    )
    return Track(alert=alert, since_s=now_s)


def _from_firing(
    track: Track, rule: Rule, verdict: Verdict, *, now_s: float, now_us: int, scale: float
) -> Track:
    if verdict.judgement == "bad":
        told = _with(track, why=verdict.why, is_known=True)
        return msgspec.structs.replace(told, good_since_s=None, unknown_since_s=None)
    if verdict.judgement == "unknown":
        since_s = track.unknown_since_s if track.unknown_since_s is not None else now_s
        if now_s - since_s >= _UNKNOWN_AT_MOST_S * scale:
            return _resolved(track, f"nothing to judge it by: {verdict.why}", now_s=now_s, now_us=now_us)
        told = _with(track, is_known=False)
        return msgspec.structs.replace(told, good_since_s=None, unknown_since_s=since_s)
    good_since_s = track.good_since_s if track.good_since_s is not None else now_s
    if now_s - good_since_s >= rule.clear_s:
        return _resolved(track, track.alert.why, now_s=now_s, now_us=now_us)
    told = _with(track, is_known=True)
    return msgspec.structs.replace(told, good_since_s=good_since_s, unknown_since_s=None)


def _without_rule(track: Track | None, *, is_complete: bool, now_s: float, now_us: int) -> Track | None:
    """See to an alert whose service is not served any more; at a start it may be loading still."""
    if track is None or not is_complete or track.alert.state == "resolved":
        return track
    if track.alert.state == "pending":
        return None
    return _resolved(track, "the service is not served any more", now_s=now_s, now_us=now_us)


def _resolved(track: Track, why: str, *, now_s: float, now_us: int) -> Track:
    alert = msgspec.structs.replace(track.alert, state="resolved", since_us=now_us, why=why, is_known=True)
    return Track(alert=alert, since_s=now_s)


def _is_stale(track: Track, now_s: float, scale: float) -> bool:
    return track.alert.state == "resolved" and now_s - track.since_s > _SHOWN_RESOLVED_S * scale


def _with(track: Track, **named: object) -> Track:
    if all(getattr(track.alert, name) == value for name, value in named.items()):
        return track
    return msgspec.structs.replace(track, alert=msgspec.structs.replace(track.alert, **named))
