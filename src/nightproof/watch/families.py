"""Make metric families of counts: the form in which `/metrics` and OpenTelemetry are told. Pure but for `Histogram`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


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

    @classmethod
    def of(cls, bounds: Sequence[float], counts: Sequence[int], total: float) -> Histogram:
        """Make one of counts that somebody else keeps."""
        made = cls(bounds)
        made.counts, made.total = list(counts), total
        return made

    def cumulated(self) -> list[tuple[str, float]]:
        """Return the buckets as Prometheus wants them."""
        told, running = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            running += count
            told.append((repr(float(bound)), float(running)))
        told.append(("+Inf", float(running + self.counts[-1])))
        return told


def gauge(name: str, meaning: str, values: Mapping[Any, float], labels: Sequence[str] = ()) -> Metric:
    """Make a gauge family of values by label."""
    family = GaugeMetricFamily(name, meaning, labels=list(labels))
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def counter(name: str, meaning: str, values: Mapping[Any, float], labels: Sequence[str] = ()) -> Metric:
    """Make a counter family of values by label; `_total` is added to its name where it is written."""
    family = CounterMetricFamily(name, meaning, labels=list(labels))
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def histogram_of(
    name: str, meaning: str, bounds: Sequence[float], counts: Sequence[int], total: float
) -> Metric:
    """Make a histogram family of counts that a room keeps itself."""
    kept = Histogram.of(bounds, counts, total)
    family = HistogramMetricFamily(name, meaning)
    family.add_metric([], kept.cumulated(), kept.total)
    return family


def histograms(name: str, meaning: str, labels: Sequence[str], values: Mapping[Any, Histogram]) -> Metric:
    """Make a histogram family of histograms by label."""
    family = HistogramMetricFamily(name, meaning, labels=list(labels))
    for key, histogram in values.items():
        family.add_metric(
            [key] if isinstance(key, str) else list(key), histogram.cumulated(), histogram.total
        )
    return family
