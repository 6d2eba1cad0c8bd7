"""Keep cumulative counts over three days in a few hundred points, and say what was counted in any window.

Fed once a second with the meters' totals. Points thin out with age, so a window is cut within a twelfth of its
length. Counts go on across restarts: what the last run had counted is the ground that this run's counts stand on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from nightproof.base.failures import CATALOGUE
from nightproof.watch.alerts.rules import Promise
from nightproof.watch.meters import DURATION_BUCKETS_S, Totals

Values = Mapping[str, int]

ALL = "all"
JUDGED = "judged"
"""Requests that count for the availability: those that did not end by the caller's doing."""
BAD = "bad"
TIMED = "timed"
SLOW = "slow"
FAILED = "failed:"
"""Before a failure's name: endings by it, and answers of fallbacks because of it."""

_NOT_JUDGED = frozenset({"shutting_down", "caller_gone"})

# Up to this age, points stand this far apart (seconds at scale 1).
_GRADES = ((90.0, 0.9), (600.0, 5.0), (3_900.0, 30.0), (25_200.0, 300.0), (280_000.0, 1_800.0))
_THIN_EVERY = 30


class Window(msgspec.Struct, frozen=True):
    """What was counted in a window."""

    counts: Values
    span_s: float
    """How much of the window there are points for."""

    def get(self, name: str) -> int:
        """Return one count."""
        return self.counts.get(name, 0)


class Series:
    """One service's counts over time. `scale` shortens everything alike, for tests."""

    def __init__(self, *, now_s: float, scale: float = 1.0) -> None:
        self._scale = scale
        self._times: list[float] = [now_s]
        self._points: list[Values] = [{}]
        self._ground: Values = {}
        self._changed: dict[str, Values] = {}
        """All counts as they were when one of them was counted last."""
        self._since_thinned = 0

    def restore(self, points: Iterable[tuple[float, Values]], *, now_s: float) -> None:
        """Take over what the run before kept, as (time on our clock, counts). Points of the future are left out."""
        kept = sorted((point for point in points if point[0] < now_s), key=lambda point: point[0])
        monotone: list[tuple[float, Values]] = []
        for at_s, values in kept:
            if not monotone or all(values.get(name, 0) >= count for name, count in monotone[-1][1].items()):
                monotone.append((at_s, values))
        if not monotone:
            return
        self._ground = monotone[-1][1]
        self._times = [at_s for at_s, _ in monotone] + [now_s]
        self._points = [values for _, values in monotone] + [self._ground]
        self._thin(now_s)

    def add(self, counted: Values, *, now_s: float) -> None:
        """Take in this run's totals as they are now."""
        if now_s <= self._times[-1]:
            return
        before = self._points[-1]
        values = _sum(self._ground, counted) if self._ground else dict(counted)
        for name, count in values.items():
            if count != before.get(name, 0):
                self._changed[name] = values
        self._times.append(now_s)
        self._points.append(values)
        self._since_thinned += 1
        if self._since_thinned >= _THIN_EVERY:
            self._thin(now_s)

    def window(self, window_s: float) -> Window:
        """Return what was counted in the last `window_s` (at scale 1), up to the newest point."""
        newest_s, newest = self._times[-1], self._points[-1]
        place = max(0, bisect_right(self._times, newest_s - window_s * self._scale) - 1)
        before = self._points[place]
        counts = {name: count - before.get(name, 0) for name, count in newest.items()}
        return Window(counts, newest_s - self._times[place])

    def streak(self, name: str, of: str) -> int:
        """Return how many `of` were counted since `name` was counted last (or since the start of this run)."""
        then = self._changed.get(name, self._ground)
        return self._points[-1].get(of, 0) - then.get(of, 0)

    @property
    def newest(self) -> Values:
        """The newest totals, this run's and the ground's together: what is to be kept."""
        return self._points[-1]

    def _thin(self, now_s: float) -> None:
        self._since_thinned = 0
        times: list[float] = []
        points: list[Values] = []
        last = len(self._times) - 1
        for place, at_s in enumerate(self._times):
            apart_s = self._apart(now_s - at_s)
            if apart_s is None and place < last and self._apart(now_s - self._times[place + 1]) is None:
                continue  # too old, and the next one is too: one old point stays, as the ground of the longest window
            if place == last or not times or at_s - times[-1] >= (apart_s or 0.0):
                times.append(at_s)
                points.append(self._points[place])
        self._times, self._points = times, points

    def _apart(self, age_s: float) -> float | None:
        for up_to_s, apart_s in _GRADES:
            if age_s <= up_to_s * self._scale:
                return apart_s * self._scale
        return None

    def __len__(self) -> int:
        return len(self._times)

    def __repr__(self) -> str:
        return f"<Series points={len(self._times)} span={self._times[-1] - self._times[0]:.0f}s>"


def _sum(ground: Values, counted: Values) -> Values:
    return {name: ground.get(name, 0) + counted.get(name, 0) for name in dict.fromkeys([*ground, *counted])}


class Slowness:
    """Which requests were too slow: each by what was promised when it ended, since another release promises otherwise.

    Judged by the newest promise, what the release before was slow by would count as slow at one moment, and page.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Sequence[int]] = {}
        self._counted: dict[str, dict[str, int]] = {}

    def add(self, totals: Totals, promises: Sequence[Promise]) -> Mapping[str, Values]:
        """Take in the totals as they are now; return what was counted since the start, by service."""
        limits = {one.service: one.latency_p99_ms for one in promises}
        for service, counts in totals.told_durations.items():
            before, self._seen[service] = self._seen.get(service, [0] * len(counts)), list(counts)
            limit_ms = limits.get(service)
            if limit_ms is None:
                continue
            grown = [count - was for count, was in zip(counts, before, strict=True)]
            counted = self._counted.setdefault(service, {TIMED: 0, SLOW: 0})
            counted[TIMED] += sum(grown)
            counted[SLOW] += sum(grown[bucket_of(limit_ms, DURATION_BUCKETS_S) + 1 :])
        return self._counted


def values_of(totals: Totals, slowness: Mapping[str, Values] | None = None) -> dict[str, Values]:
    """Return what the rules count, by service; under the empty name, all requests and what ended before a service."""
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    everything: Counter[str] = counted[""]
    for (service, _, ending, failure), count in totals.requests.items():
        everything[ALL] += count
        if service:
            counted[service][ALL] += count
        if failure:
            counted[service][FAILED + failure] += count
        if _is_judged(ending, failure):
            counted[service][JUDGED] += count
            if ending not in ("answered", "degraded"):
                counted[service][BAD] += count
    for service, values in (slowness or {}).items():
        counted[service].update(values)
    return {service: dict(values) for service, values in counted.items()}


def bucket_of(latency_ms: float, bounds: Sequence[float]) -> int:
    """Return the place of the first bucket whose upper bound is not below the latency: slower than it is slow.

    Prometheus sees buckets only, so both judge by the same ones.
    """
    return bisect_left(bounds, latency_ms / 1_000)


def _is_judged(ending: str, failure: str) -> bool:
    if ending in ("answered", "degraded"):
        return True
    known = CATALOGUE.get(failure)
    is_ours = known is not None and bool(known.statuses) and known.statuses[0] >= 500
    return is_ours and ending != "abandoned" and failure not in _NOT_JUDGED
