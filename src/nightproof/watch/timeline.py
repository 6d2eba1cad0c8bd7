"""Say what a stretch of time looked like: windows as points that people and programs read.

Pure functions. Asked by the operators' route and, where no server runs, by the command line on the file itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec

from nightproof.base.clock import iso_us
from nightproof.watch.meters import BATCH_BUCKETS, SHARE_BUCKETS, STAGE_BUCKETS_S
from nightproof.watch.windows import FINE_BOUNDS_S, Window, dense, quantile, roll_up, span_for

_ENDINGS = ("answered", "degraded", "refused", "failed", "abandoned")


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody wants to see."""

    since_s: Annotated[float, msgspec.Meta(gt=0, le=10_000_000)] = 3_600.0
    points: Annotated[int, msgspec.Meta(ge=1, le=2_000)] = 60
    service: str | None = None


class Gauge(msgspec.Struct, frozen=True):
    """A value over a point's time."""

    mean: float
    least: float
    most: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time of one service, or of the server."""

    at: str
    """Where it begins, ISO 8601 in UTC."""
    seconds: int
    """How many seconds of it the server was there to see."""
    rate_per_s: float
    endings: dict[str, int]
    failures: dict[str, int]
    events: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    queue_wait_p99_ms: float | None
    batch_p50: float | None
    confidence_p50: float | None
    gauges: dict[str, Gauge]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Points by scope; the server's own is the empty name."""

    span_s: int
    """How long each point is."""
    scopes: dict[str, list[Point]]


def spans_of(asked: Asked) -> tuple[int, int]:
    """Return which stored span to read and how long a point of it becomes: a whole number of windows."""
    stored_s = span_for(asked.since_s)
    points = max(1, min(asked.points, 2_000))
    return stored_s, max(1, math.ceil(asked.since_s / points / stored_s)) * stored_s


def timeline(windows: Sequence[Window], asked: Asked) -> Timeline:
    """Gather windows into points."""
    _, point_s = spans_of(asked)
    scopes: dict[str, list[Point]] = {}
    for window in roll_up(windows, point_s):
        if asked.service is None or window.scope == asked.service:
            scopes.setdefault(window.scope, []).append(_point(window))
    return Timeline(span_s=point_s, scopes=scopes)


def _point(window: Window) -> Point:
    counts = window.counts
    endings = {name: counts[name] for name in _ENDINGS if name in counts}
    waits = _quantile(window, "queue_wait", STAGE_BUCKETS_S, 0.99)
    return Point(
        at=iso_us(window.at_s * 1_000_000),
        seconds=window.seconds,
        rate_per_s=sum(endings.values()) / max(1, window.seconds),
        endings=endings,
        failures=_named(counts, "failure."),
        events=_named(counts, "event."),
        p50_ms=_ms(_quantile(window, "duration", FINE_BOUNDS_S, 0.5)),
        p99_ms=_ms(_quantile(window, "duration", FINE_BOUNDS_S, 0.99)),
        queue_wait_p99_ms=_ms(waits),
        batch_p50=_quantile(window, "batch", BATCH_BUCKETS, 0.5),
        confidence_p50=_quantile(window, "confidence", SHARE_BUCKETS, 0.5),
        gauges={name: Gauge(seen.mean, seen.least, seen.most) for name, seen in window.gauges.items()},
    )


def _named(counts: dict[str, int], start: str) -> dict[str, int]:
    return {name.removeprefix(start): count for name, count in counts.items() if name.startswith(start)}


def _quantile(window: Window, name: str, bounds: Sequence[float], share: float) -> float | None:
    places = window.histograms.get(name)
    return None if not places else quantile(dense(places, len(bounds) + 1), bounds, share)


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * 1_000
