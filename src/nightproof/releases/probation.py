"""Say of a release that has just gone live whether it keeps the service's objectives.

A pure function of counts, asked several times a second while the probation lasts. Unlike a canary it has nobody
beside it to be compared with, so it is held to the objective, or to what the release before it did where that was
worse already: what is wrong with the world is not the new release's fault.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from nightproof.releases.sequential import log_rate, upper_rate

Standing = Literal["watched", "broken", "passed"]
_BASELINE_ALPHA = 0.05
_MOST_ALLOWED = 0.95


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a fresh live release is held to."""

    allowed_bad: float
    """Part of the requests that may end without the model's own answer."""
    allowed_slow: float | None = None
    """Part that may be slower than the objective's p99; None where none is promised."""
    slow_s: float | None = None
    false_alarm: float = 0.005
    """Highest probability, over the whole probation, that a release which keeps its terms is taken back."""
    for_s: float = 600.0


class Counted(msgspec.Struct, kw_only=True):
    """What was seen of the release since it went live. Changed in place, on the event loop's thread."""

    total: int = 0
    bad: int = 0
    answered: int = 0
    slow: int = 0
    failures: dict[str, int] = {}

    def add(self, *, failure: str, duration_s: float | None, slow_s: float | None) -> None:
        """Count one ended request; `failure` is empty where the model's own answer went out."""
        self.total += 1
        if failure:
            self.bad += 1
            self.failures[failure] = self.failures.get(failure, 0) + 1
        elif duration_s is not None:
            self.answered += 1
            self.slow += slow_s is not None and duration_s > slow_s


class Probation(msgspec.Struct, frozen=True, kw_only=True):
    """How far a probation is, as it is kept over a restart."""

    terms: Terms
    counted: Counted
    watched_s: float
    """For how long the release was watched: while no server runs, nothing is learnt of it."""


class Ruling(msgspec.Struct, frozen=True):
    """Where the release stands, and why."""

    standing: Standing
    why: str = ""


def terms_of(
    *,
    availability: float,
    latency_p99_ms: float | None,
    before: tuple[int, int],
    slow_before: tuple[int, int] = (0, 0),
    false_alarm: float,
    for_s: float,
) -> Terms:
    """Return the terms: the objective, or what was so before if that was worse. Pairs are (bad, all)."""

    def at_least(promised: float, bad: int, total: int) -> float:
        was = upper_rate(bad, total, _BASELINE_ALPHA) if bad else 0.0
        return max(promised, was)

    return Terms(
        allowed_bad=min(_MOST_ALLOWED, at_least(1 - availability, *before)),
        allowed_slow=None if latency_p99_ms is None else at_least(0.01, *slow_before),
        slow_s=None if latency_p99_ms is None else latency_p99_ms / 1_000,
        false_alarm=false_alarm,
        for_s=for_s,
    )


def rule(counted: Counted, terms: Terms, *, since_s: float) -> Ruling:
    """Judge a release that has been live for `since_s` seconds."""
    looks = 1 if terms.allowed_slow is None else 2
    needed = math.log(looks / terms.false_alarm)
    if log_rate(counted.bad, counted.total, allowed=terms.allowed_bad) >= needed:
        named = max(counted.failures, key=lambda name: counted.failures[name])
        return Ruling(
            "broken",
            f"availability: {counted.bad} of {counted.total} requests had no answer of the model, mostly {named}; "
            f"allowed {terms.allowed_bad:.2%}",
        )
    if (
        terms.allowed_slow is not None
        and log_rate(counted.slow, counted.answered, allowed=terms.allowed_slow) >= needed
    ):
        return Ruling(
            "broken",
            f"latency: {counted.slow} of {counted.answered} answers took longer than {terms.slow_s or 0:g} s; "
            f"allowed {terms.allowed_slow:.2%}",
        )
    return Ruling("passed") if since_s >= terms.for_s else Ruling("watched")
