"""Windows of time: what was counted and measured in one of them, and how small ones become large ones.

Pure functions of values. A window holds counts, histograms of integer counts and gauges as (n, sum, least,
most), all of which merge by addition: a minute made of its seconds is the minute, whatever order they came in.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import msgspec

FINE_BOUNDS_S = tuple(2.0 ** (-15 + place / 4) for place in range(95))
"""Upper bounds of the fine scale of times: four steps per octave, 30 µs to 7 minutes."""
SPANS_S = (1, 60, 3_600)
KEEP = {1: 900, 60: 1_440, 3_600: 2_160}
"""How many windows of each span are kept: 15 minutes, 24 hours, 90 days."""
SERVER = ""
"""The scope of what belongs to no service."""


class Span(msgspec.Struct, array_like=True):
    """A gauge over a window."""

    count: int
    total: float
    least: float
    most: float

    @property
    def mean(self) -> float:
        """The mean of what was seen."""
        return self.total / self.count if self.count else 0.0


class Window(msgspec.Struct, array_like=True):
    """One span of time of one scope: a service, or the server."""

    at_s: int
    """Where it begins, seconds since 1970 on the wall clock."""
    span_s: int
    scope: str
    seconds: int = 1
    """How many seconds of it were seen: fewer than the span where the server was not running."""
    counts: dict[str, int] = {}
    histograms: dict[str, dict[int, int]] = {}
    """By name: counts by place on the scale that belongs to the name; only places that have any."""
    gauges: dict[str, Span] = {}


def next_beat(last_s: float, now: float) -> tuple[int, float, float]:
    """Return how many whole seconds have passed since the last beat, when the next beat was, and how long ago
    these seconds began.

    By an even beat and not by when somebody looks: a late look must not skip a second, nor stretch one.
    """
    seconds = int(now - last_s)
    beat_s = last_s + seconds
    return seconds, beat_s, now - beat_s + seconds


def merge(one: Window, other: Window) -> Window:
    """Return the window of both. Place and span are those of the first."""
    counts = dict(one.counts)
    for name, count in other.counts.items():
        counts[name] = counts.get(name, 0) + count
    histograms = {name: dict(places) for name, places in one.histograms.items()}
    for name, places in other.histograms.items():
        mine = histograms.setdefault(name, {})
        for place, count in places.items():
            mine[place] = mine.get(place, 0) + count
    gauges = dict(one.gauges)
    for name, seen in other.gauges.items():
        known = gauges.get(name)
        gauges[name] = seen if known is None else _both(known, seen)
    return Window(one.at_s, one.span_s, one.scope, one.seconds + other.seconds, counts, histograms, gauges)


def roll_up(windows: Iterable[Window], span_s: int) -> list[Window]:
    """Return the windows as larger ones, by time and scope."""
    rolled: dict[tuple[int, str], Window] = {}
    for window in windows:
        at_s = window.at_s - window.at_s % span_s
        key = (at_s, window.scope)
        known = rolled.get(key)
        base = Window(at_s, span_s, window.scope, seconds=0) if known is None else known
        rolled[key] = merge(base, window)
    return [rolled[key] for key in sorted(rolled)]


def span_for(since_s: float) -> int:
    """Return the finest span whose windows reach back that far."""
    for span_s in SPANS_S:
        if since_s <= span_s * KEEP[span_s]:
            return span_s
    return SPANS_S[-1]


def sparse(now: Sequence[int], before: Sequence[int] | None) -> dict[int, int]:
    """Return what a histogram has grown by, only places that have."""
    if before is None:
        return {place: count for place, count in enumerate(now) if count}
    return {
        place: count - was for place, (count, was) in enumerate(zip(now, before, strict=True)) if count != was
    }


def dense(places: Mapping[int, int], length: int) -> list[int]:
    """Return a histogram with all its places."""
    counts = [0] * length
    for place, count in places.items():
        counts[min(place, length - 1)] += count
    return counts


def quantile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    """Return the upper bound of the bucket in which the share is reached; None of nothing.

    Exact to one bucket, and the same whether the counts were merged before or not. Above the last bound
    there is none to return: the last one stands for it.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, running = max(1, math.ceil(share * total)), 0
    for place, count in enumerate(counts):
        running += count
        if running >= wanted:
            return float(bounds[min(place, len(bounds) - 1)])
    return float(bounds[-1])


def slower_than(limit: float, counts: Sequence[int], bounds: Sequence[float]) -> int:
    """Return how many lie above a limit; of the bucket that the limit lies in, the part that is above it."""
    place = bisect_left(bounds, limit)
    if place >= len(bounds):
        return counts[-1]
    below = bounds[place - 1] if place else 0.0
    part = (bounds[place] - limit) / (bounds[place] - below)
    return int(counts[place] * part) + sum(counts[place + 1 :])


def _both(one: Span, other: Span) -> Span:
    return Span(
        one.count + other.count,
        one.total + other.total,
        min(one.least, other.least),
        max(one.most, other.most),
    )
