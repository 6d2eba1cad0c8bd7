"""Counters and histograms of the server process. One collector for all workers: nothing to merge.

Written by `pipeline.record` and by the rooms' observers, on the event loop's thread only, which is its
one lock. Read by `/metrics`, `status` and health through `render` and `snapshot`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from time import thread_time
from typing import Any, Protocol

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST as TEXT_TYPE
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from nightproof.base.clock import monotonic_s
from nightproof.watch.chat_meters import ChatMeters
from nightproof.watch.families import Histogram, gauge, histograms
from nightproof.watch.outputs import OutputCounts, OutputPlan
from nightproof.watch.windows import FINE_BOUNDS_S, quantile

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
_RECENT_S = 60
_MOST_FINDINGS = 200
_MOST_WATCHED_RELEASES = 4
_MOST_OUTPUTS_WAITING = 500
_LARGEST_OUTPUT_BYTES = 16_384
_MOST_STORIES = 64
"""So many are counted at once: few enough to hold nobody up, enough to be cheap."""
_OTHER = "_other"


class ItemSeen(Protocol):
    """What the meters read of one record."""

    output: bytes
    failure: str
    degraded: Any
    confidence: float | None
    batch_size: int
    queue_us: int
    findings: list[str]


_Ended = tuple[str, str, str, str, float, Sequence[tuple[str, int]], Sequence[ItemSeen]]


class _Second:
    """What ended in one second, per service: for rates and quantiles of the last minute."""

    __slots__ = ("at", "endings", "fine")

    def __init__(self, at: float) -> None:
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
    """Everything that only grows, at one moment: what happened between two of them is their difference."""

    arrivals: int = 0
    requests: dict[tuple[str, str, str, str], int] = {}
    """By service, release, ending and failure."""
    durations: dict[str, list[int]] = {}
    """Answered and degraded requests by service, on the scale of `windows.FINE_BOUNDS_S`."""
    queue_waits: dict[str, list[int]] = {}
    batches: dict[str, tuple[list[int], float]] = {}
    confidence: dict[str, list[int]] = {}
    """By service, all its releases together."""
    events: dict[tuple[str, str, str], int] = {}
    own_s: dict[str, float] = {}
    """What watching has cost, in seconds by part."""
    told_durations: dict[str, list[int]] = {}
    """All requests by service, in the buckets that `/metrics` tells (`DURATION_BUCKETS_S`)."""


class Gauges(Protocol):
    """The rooms' present values, asked at each scrape."""

    def __call__(self) -> Iterable[Metric]:
        """Return the metric families."""


class Meters:
    """Everything counted. A request costs a few additions; the rest is done once a second, by `tick`."""

    def __init__(self) -> None:
        self._arrivals = 0
        self._requests: Counter[tuple[str, str, str, str]] = Counter()
        self._durations: dict[str, Histogram] = {}
        self._fine: dict[str, list[int]] = {}
        self._stages: dict[str, Histogram] = {}
        self._confidence: dict[tuple[str, str], Histogram] = {}
        self._batches: dict[str, Histogram] = {}
        self._queue_waits: dict[str, Histogram] = {}
        self._findings: Counter[tuple[str, str]] = Counter()
        self._events: Counter[tuple[str, str, str]] = Counter()
        self._outputs: dict[tuple[str, str], OutputCounts] = {}
        self._waiting: dict[tuple[str, str], list[bytes]] = {}
        """Answers that the next tick looks into; full, a list takes no more."""
        self._outputs_passed_over = 0
        self._seconds: deque[_Second] = deque()
        self._last_requests: dict[tuple[str, str, str, str], int] = {}
        self._last_fine: dict[str, list[int]] = {}
        self._own_s = {"counting": 0.0, "outputs": 0.0, "tick": 0.0, "scrape": 0.0, "history": 0.0}
        self._stories: list[_Ended] = []
        """Ended requests that are not counted yet; every reader settles them first."""
        self._began_s = monotonic_s()
        self.chat = ChatMeters()
        """What is counted of chat services."""

    # -- what others tell ---------------------------------------------------------------------

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
        """Count one ended request. Called once for each, by `pipeline.record` alone.

        It is put aside and counted with its neighbours: between other work, each by itself cost nearly twice as much.
        """
        self._stories.append((service, release, ending, failure, duration_s, stages_us, items))
        if len(self._stories) >= _MOST_STORIES:
            self._settle()

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

    def watch_outputs(self, service: str, release: str, plan: OutputPlan) -> None:
        """Count a release's answers by this plan from now on. Of a service's releases the newest few are kept."""
        if (service, release) in self._outputs:
            return
        mine = [key for key in self._outputs if key[0] == service]
        for key in mine[: max(0, len(mine) + 1 - _MOST_WATCHED_RELEASES)]:
            del self._outputs[key], self._waiting[key]
            self._confidence.pop(key, None)
        self._outputs[service, release] = OutputCounts(plan)
        self._waiting[service, release] = []

    def watches(self, service: str, release: str) -> bool:
        """Say whether a release's answers are counted already."""
        return (service, release) in self._outputs

    def spent(self, part: str, took_s: float) -> None:
        """Note what a part of watching has cost."""
        self._own_s[part] = self._own_s.get(part, 0.0) + took_s

    def _settle(self) -> None:
        """Count the requests that were put aside."""
        if not self._stories:
            return
        began_s = thread_time()
        requests, fine, stages = self._requests, self._fine, self._stages
        for service, release, ending, failure, duration_s, stages_us, items in self._stories:
            requests[service, release, ending, failure] += 1
            durations = self._durations.get(service)
            if durations is None:
                durations = self._durations[service] = Histogram(DURATION_BUCKETS_S)
                fine[service] = [0] * (len(FINE_BOUNDS_S) + 1)
            durations.add(duration_s)
            if ending in ("answered", "degraded"):
                fine[service][bisect_left(FINE_BOUNDS_S, duration_s)] += 1
            for stage, us in stages_us:
                # Written out, as `Histogram.add` would do it: this loop runs five times a request.
                histogram = stages.get(stage)
                if histogram is None:
                    histogram = stages[stage] = Histogram(STAGE_BUCKETS_S)
                took_s = us * 1e-6
                histogram.counts[bisect_left(STAGE_BUCKETS_S, took_s)] += 1
                histogram.total += took_s
            for item in items:
                self._count_item(service, release, item)
        self._stories.clear()
        self._own_s["counting"] += thread_time() - began_s

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
        if item.output and not item.failure and item.degraded is None:
            waiting = self._waiting.get((service, release))
            if waiting is not None and len(waiting) < _MOST_OUTPUTS_WAITING:
                waiting.append(item.output)
            else:
                self._outputs_passed_over += 1
        for finding in item.findings:
            key = (service, finding)
            if key not in self._findings and len(self._findings) >= _MOST_FINDINGS:
                key = (service, _OTHER)  # a check's author may put anything into its name
            self._findings[key] += 1

    # -- once a second ------------------------------------------------------------------------

    def look_into_outputs(self) -> None:
        """Count the answers that wait. Called often, so that it never holds the loop for long."""
        self._settle()
        began_s = thread_time()
        for key, waiting in self._waiting.items():
            if not waiting:
                continue
            counts = self._outputs[key]
            for output in waiting:
                if len(output) <= _LARGEST_OUTPUT_BYTES:
                    counts.add(bytes(output))
                else:
                    self._outputs_passed_over += 1
            waiting.clear()
        self._own_s["outputs"] += thread_time() - began_s

    def tick(self) -> None:
        """Close a second: what has ended since the last call becomes part of the last minute."""
        self._settle()
        self.chat.settle()
        began_s, now = thread_time(), monotonic_s()
        second = _Second(now)
        for key, count in self._requests.items():
            grown = count - self._last_requests.get(key, 0)
            if grown:
                second.endings[key[0], key[2]] += grown
        for service, counts in self._fine.items():
            before = self._last_fine.get(service)
            fine = counts[:] if before is None else [a - b for a, b in zip(counts, before, strict=True)]
            if any(fine):
                second.fine[service] = fine
                self._last_fine[service] = counts[:]
        self._last_requests = dict(self._requests)
        if second.endings:
            self._seconds.append(second)
        while self._seconds and self._seconds[0].at <= now - _RECENT_S:
            self._seconds.popleft()
        self._own_s["tick"] += thread_time() - began_s

    # -- what others ask ----------------------------------------------------------------------

    def totals(self) -> Totals:
        """Return everything that only grows."""
        self._settle()
        confidence: dict[str, list[int]] = {}
        for (service, _), histogram in self._confidence.items():
            known = confidence.get(service)
            confidence[service] = (
                histogram.counts[:]
                if known is None
                else [a + b for a, b in zip(known, histogram.counts, strict=True)]
            )
        return Totals(
            self._arrivals,
            dict(self._requests),
            {service: counts[:] for service, counts in self._fine.items()},
            {service: one.counts[:] for service, one in self._queue_waits.items()},
            {service: (one.counts[:], one.total) for service, one in self._batches.items()},
            confidence,
            dict(self._events),
            dict(self._own_s),
            {service: one.counts[:] for service, one in self._durations.items()},
        )

    def snapshot(self) -> MetersSnapshot:
        """Return totals and the last minute, frozen."""
        self._settle()
        endings: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        for (_, _, ending, failure), count in self._requests.items():
            endings[ending] += count
            if failure:
                failures[failure] += count
        return MetersSnapshot(self._arrivals, dict(endings), dict(failures), dict(self._recent()))

    def endings_of(self, service: str, release: str) -> dict[str, int]:
        """Return how the requests that a release was to answer have ended since the start."""
        self._settle()
        endings: Counter[str] = Counter()
        for (of_service, of_release, ending, _), count in self._requests.items():
            if of_service == service and of_release == release:
                endings[ending] += count
        return dict(endings)

    def _recent(self) -> Iterator[tuple[str, RecentService]]:
        now = monotonic_s()
        seconds = [second for second in self._seconds if second.at > now - _RECENT_S]
        span_s = max(1.0, min(float(_RECENT_S), now - self._began_s))
        names = {service for second in seconds for service, _ in second.endings if service}
        for name in sorted(names):
            endings: Counter[str] = Counter()
            fine = [0] * (len(FINE_BOUNDS_S) + 1)
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
                    p50_ms=_ms(quantile(fine, FINE_BOUNDS_S, 0.5)),
                    p99_ms=_ms(quantile(fine, FINE_BOUNDS_S, 0.99)),
                    endings=dict(endings),
                ),
            )

    def render(self, gauges: Gauges, *, openmetrics: bool) -> tuple[bytes, str]:
        """Write everything in Prometheus' text form, or OpenMetrics; return it with its content type."""
        began_s = thread_time()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(self.families(gauges)))
        if openmetrics:
            page, kind = bytes(generate_openmetrics(registry)), OPENMETRICS_TYPE  # type: ignore[no-untyped-call]
        else:
            page, kind = generate_text(registry), TEXT_TYPE
        self._own_s["scrape"] += thread_time() - began_s
        return page, kind

    def families(self, gauges: Gauges) -> list[Metric]:
        """Return every metric family as it stands: the meters' own, and the rooms'."""
        self.look_into_outputs()
        return [
            *self._families(),
            *self._output_families(),
            *self.chat.families(),
            *self._own_families(),
            *gauges(),
        ]

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
        yield histograms(
            "nightproof_request_duration_seconds", "From arrival to record.", ["service"], self._durations
        )
        yield histograms(
            "nightproof_stage_duration_seconds", "Each stage's own time.", ["stage"], self._stages
        )
        yield histograms(
            "nightproof_queue_wait_seconds", "Wait for a worker.", ["service"], self._queue_waits
        )
        yield histograms("nightproof_batch_size", "Records in a worker's batch.", ["service"], self._batches)
        yield histograms(
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

    def _output_families(self) -> Iterator[Metric]:
        values = CounterMetricFamily(
            "nightproof_output_values",
            "Answers by the value of a field that the schema names.",
            labels=["service", "release", "field", "value"],
        )
        numbers: dict[tuple[str, str, str], Histogram] = {}
        lengths: dict[tuple[str, str, str], Histogram] = {}
        unwatched: dict[tuple[str, str], float] = {}
        for (service, release), counts in self._outputs.items():
            unwatched[service, release] = float(counts.plan.left_out)
            for field, by_value in counts.values.items():
                for value, count in by_value.items():
                    values.add_metric([service, release, field, value], count)
            kinds = {field.name: field.kind for field in counts.plan.fields}
            for field, (bounds, places, total) in counts.numbers.items():
                told = lengths if kinds[field] == "length" else numbers
                told[service, release, field] = Histogram.of(bounds, places, total[0])
        labels = ["service", "release", "field"]
        yield values
        yield histograms("nightproof_output_number", "Numbers in answers.", labels, numbers)
        yield histograms(
            "nightproof_output_length", "Lengths of texts and lists in answers.", labels, lengths
        )
        yield gauge(
            "nightproof_output_fields_unwatched",
            "Fields of the answers beyond those that are watched.",
            unwatched,
            ["service", "release"],
        )
        passed = CounterMetricFamily(
            "nightproof_outputs_passed_over",
            "Answers that were not looked into: too many at once, too large, or of a release not watched.",
        )
        passed.add_metric([], self._outputs_passed_over)
        yield passed

    def _own_families(self) -> Iterator[Metric]:
        own = CounterMetricFamily(
            "nightproof_watch_cost_seconds", "What watching itself has cost.", labels=["part"]
        )
        for part, took_s in (*self._own_s.items(), ("chat", self.chat.cost_s)):
            own.add_metric([part], took_s)
        yield own

    def __repr__(self) -> str:
        return (
            f"<Meters arrivals={self._arrivals} endings={sum(self._requests.values()) + len(self._stories)}>"
        )


class _Families:
    """Hand ready-made families to the registry."""

    def __init__(self, families: list[Metric]) -> None:
        self._ready = families

    def collect(self) -> Iterator[Metric]:
        """Return them (the registry's callback)."""
        yield from self._ready


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * 1_000
