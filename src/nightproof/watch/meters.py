"""Counters and histograms of the server process. One collector for all workers: nothing to merge.

Written by `pipeline.record` and by the rooms' observers, on the event loop's thread only, which is its
one lock. Read by `/metrics`, `status` and health through `render` and `snapshot`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST as TEXT_TYPE
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from nightproof.base.clock import monotonic_s

DURATION_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
STAGE_BUCKETS_S = (
    0.00001,
    0.000025,
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)
SHARE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_FINE_PER_OCTAVE = 4
_FINE_LEAST_S = 2.0**-15
_FINE_COUNT = 96
_RECENT_S = 60


class ItemSeen(Protocol):
    """What the meters read of one record."""

    confidence: float | None
    batch_size: int
    queue_us: int
    findings: list[str]


class Histogram:
    """Counts per bucket and a sum. `bounds` are upper bounds, rising; values above go to the last count."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self) -> list[tuple[str, float]]:
        """Return the buckets as Prometheus wants them."""
        told, running = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            running += count
            told.append((repr(float(bound)), float(running)))
        told.append(("+Inf", float(running + self.counts[-1])))
        return told


class _Second:
    """What ended in one second, per service: for rates and quantiles of the last minute."""

    __slots__ = ("at", "endings", "fine")

    def __init__(self, at: int) -> None:
        self.at = at
        self.endings: Counter[tuple[str, str]] = Counter()
        self.fine: dict[str, list[int]] = {}


class RecentService(msgspec.Struct, frozen=True, kw_only=True):
    """One service over the last minute."""

    rate_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    endings: dict[str, int]


class MetersSnapshot(msgspec.Struct, frozen=True):
    """Totals and the last minute."""

    arrivals: int
    endings: dict[str, int]
    failures: dict[str, int]
    services: dict[str, RecentService]


class Totals(msgspec.Struct, frozen=True):
    """What has been counted since the start, for those who keep windows of their own."""

    requests: dict[tuple[str, str, str, str], int]
    """By service, release, ending and failure."""
    durations: dict[str, tuple[Sequence[float], list[int]]]
    """By service: upper bounds of the buckets, and their counts; the last is for what lies above."""


class Gauges(Protocol):
    """The rooms' present values, asked at each scrape."""

    def __call__(self) -> Iterable[Metric]:
        """Return the metric families."""


class Meters:
    """Everything counted."""

    def __init__(self) -> None:
        self._arrivals = 0
        self._requests: Counter[tuple[str, str, str, str]] = Counter()
        self._durations: dict[str, Histogram] = {}
        self._stages: dict[str, Histogram] = {}
        self._confidence: dict[tuple[str, str], Histogram] = {}
        self._batches: dict[str, Histogram] = {}
        self._queue_waits: dict[str, Histogram] = {}
        self._findings: Counter[tuple[str, str]] = Counter()
        self._events: Counter[tuple[str, str, str]] = Counter()
        self._seconds: deque[_Second] = deque()
        self._began_s = monotonic_s()

    def arrived(self) -> None:
        """Count a request that has come in."""
        self._arrivals += 1

    def count_story(
        self,
        *,
        service: str,
        release: str,
        ending: str,
        failure: str,
        duration_s: float,
        stages_us: Sequence[tuple[str, int]],
        items: Sequence[ItemSeen],
    ) -> None:
        """Count one ended request. Called once for each, by `pipeline.record` alone."""
        self._requests[service, release, ending, failure] += 1
        durations = self._durations.get(service)
        if durations is None:
            durations = self._durations[service] = Histogram(DURATION_BUCKETS_S)
        durations.add(duration_s)
        known = self._stages
        for stage, us in stages_us:
            # Written out, as `Histogram.add` would do it: this loop runs five times a request.
            histogram = known.get(stage)
            if histogram is None:
                histogram = known[stage] = Histogram(STAGE_BUCKETS_S)
            took_s = us * 1e-6
            histogram.counts[bisect_left(STAGE_BUCKETS_S, took_s)] += 1
            histogram.total += took_s
        for item in items:
            self._count_item(service, release, item)
        self._count_recent(service, ending, failure, duration_s)

    def count_stage(self, stage: str, took_s: float) -> None:
        """Count a stage that ends after the record: the reply's own time."""
        histogram = self._stages.get(stage)
        if histogram is None:
            histogram = self._stages[stage] = Histogram(STAGE_BUCKETS_S)
        histogram.add(took_s)

    def count_event(self, event: str, *, service: str = "", reason: str = "") -> None:
        """Count something that happened to a room: a worker gone, a scale-up, a refused connection."""
        self._events[event, service, reason] += 1

    def count_connection_refused(self, failure: str) -> None:
        """Count a refusal made before a request was there to be served."""
        self._arrivals += 1
        self._requests["", "", "refused", failure] += 1

    def _count_item(self, service: str, release: str, item: ItemSeen) -> None:
        if item.batch_size:
            batches = self._batches.get(service)
            if batches is None:
                batches = self._batches[service] = Histogram(BATCH_BUCKETS)
                self._queue_waits[service] = Histogram(STAGE_BUCKETS_S)
            batches.add(item.batch_size)
            self._queue_waits[service].add(item.queue_us / 1e6)
        if item.confidence is not None:
            confidence = self._confidence.get((service, release))
            if confidence is None:
                confidence = self._confidence[service, release] = Histogram(SHARE_BUCKETS)
            confidence.add(item.confidence)
        for finding in item.findings:
            self._findings[service, finding] += 1

    def _count_recent(self, service: str, ending: str, failure: str, duration_s: float) -> None:
        now = int(monotonic_s())
        if not self._seconds or self._seconds[-1].at != now:
            self._seconds.append(_Second(now))
            while self._seconds[0].at <= now - _RECENT_S:
                self._seconds.popleft()
        second = self._seconds[-1]
        second.endings[service, ending] += 1
        if ending in ("answered", "degraded"):
            fine = second.fine.get(service)
            if fine is None:
                fine = second.fine[service] = [0] * _FINE_COUNT
            fine[_fine_place(duration_s)] += 1

    def snapshot(self) -> MetersSnapshot:
        """Return totals and the last minute, frozen."""
        endings: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        for (_, _, ending, failure), count in self._requests.items():
            endings[ending] += count
            if failure:
                failures[failure] += count
        return MetersSnapshot(self._arrivals, dict(endings), dict(failures), dict(self._recent()))

    def totals(self) -> Totals:
        """Return what has been counted since the start."""
        durations = {name: (kept.bounds, list(kept.counts)) for name, kept in self._durations.items()}
        return Totals(dict(self._requests), durations)

    def _recent(self) -> Iterator[tuple[str, RecentService]]:
        now = int(monotonic_s())
        seconds = [second for second in self._seconds if now - _RECENT_S < second.at < now]
        span_s = max(1.0, min(float(_RECENT_S), monotonic_s() - self._began_s))
        names = {service for second in seconds for service, _ in second.endings if service}
        for name in sorted(names):
            endings: Counter[str] = Counter()
            fine = [0] * _FINE_COUNT
            for second in seconds:
                for (service, ending), count in second.endings.items():
                    if service == name:
                        endings[ending] += count
                for place, count in enumerate(second.fine.get(name, ())):
                    fine[place] += count
            yield (
                name,
                RecentService(
                    rate_per_s=sum(endings.values()) / span_s,
                    p50_ms=_quantile_ms(fine, 0.5),
                    p99_ms=_quantile_ms(fine, 0.99),
                    endings=dict(endings),
                ),
            )

    def render(self, gauges: Gauges, *, openmetrics: bool) -> tuple[bytes, str]:
        """Write everything in Prometheus' text form, or OpenMetrics; return it with its content type."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families([*self._families(), *gauges()]))
        if openmetrics:
            return bytes(generate_openmetrics(registry)), OPENMETRICS_TYPE  # type: ignore[no-untyped-call]
        return generate_text(registry), TEXT_TYPE

    def _families(self) -> Iterator[Metric]:
        arrivals = CounterMetricFamily("nightproof_arrivals", "Requests that came in.")
        arrivals.add_metric([], self._arrivals)
        yield arrivals
        requests = CounterMetricFamily(
            "nightproof_requests",
            "Requests by how they ended.",
            labels=["service", "release", "ending", "failure"],
        )
        for labels, count in self._requests.items():
            requests.add_metric(list(labels), count)
        yield requests
        yield _histogram(
            "nightproof_request_duration_seconds", "From arrival to record.", ["service"], self._durations
        )
        yield _histogram(
            "nightproof_stage_duration_seconds", "Each stage's own time.", ["stage"], self._stages
        )
        yield _histogram(
            "nightproof_queue_wait_seconds", "Wait for a worker.", ["service"], self._queue_waits
        )
        yield _histogram("nightproof_batch_size", "Records in a worker's batch.", ["service"], self._batches)
        yield _histogram(
            "nightproof_confidence", "The model's own confidence.", ["service", "release"], self._confidence
        )
        findings = CounterMetricFamily(
            "nightproof_findings", "What checks flagged without refusing.", labels=["service", "finding"]
        )
        for finding, count in self._findings.items():
            findings.add_metric(list(finding), count)
        yield findings
        events = CounterMetricFamily(
            "nightproof_events", "What happened to the server's rooms.", labels=["event", "service", "reason"]
        )
        for event, count in self._events.items():
            events.add_metric(list(event), count)
        yield events

    def __repr__(self) -> str:
        return f"<Meters arrivals={self._arrivals} endings={sum(self._requests.values())}>"


class _Families:
    """Hand ready-made families to the registry."""

    def __init__(self, families: list[Metric]) -> None:
        self._ready = families

    def collect(self) -> Iterator[Metric]:
        """Return them (the registry's callback)."""
        yield from self._ready


def gauge(name: str, meaning: str, values: Mapping[Any, float], labels: Sequence[str] = ()) -> Metric:
    """Make a gauge family of values by label."""
    family = GaugeMetricFamily(name, meaning, labels=list(labels))
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def histogram_of(
    name: str, meaning: str, bounds: Sequence[float], counts: Sequence[int], total: float
) -> Metric:
    """Make a histogram family of counts that a room keeps itself."""
    kept = Histogram(bounds)
    kept.counts, kept.total = list(counts), total
    family = HistogramMetricFamily(name, meaning)
    family.add_metric([], kept.cumulated(), kept.total)
    return family


def _histogram(name: str, meaning: str, labels: list[str], values: dict[Any, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for key, histogram in values.items():
        family.add_metric(
            [key] if isinstance(key, str) else list(key), histogram.cumulated(), histogram.total
        )
    return family


def _fine_place(duration_s: float) -> int:
    """Return the place of a duration on a scale of four steps per octave, 30 µs to minutes."""
    if duration_s <= _FINE_LEAST_S:
        return 0
    return min(_FINE_COUNT - 1, int(math.log2(duration_s / _FINE_LEAST_S) * _FINE_PER_OCTAVE) + 1)


def _quantile_ms(fine: list[int], share: float) -> float | None:
    total = sum(fine)
    if not total:
        return None
    running = 0
    for place, count in enumerate(fine):
        running += count
        if running >= share * total:
            return float(_FINE_LEAST_S * 2.0 ** (place / _FINE_PER_OCTAVE) * 1_000)
    return None
