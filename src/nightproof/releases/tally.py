"""What is counted of a canary and of the live release beside it: events by arm, step by step.

Fed by `services` with each request that ended while a canary is on, read by `judge`. Events of shape (slow, unsure,
an output's value) need a scale, and the scale must be fixed before what is judged by it: the first live requests of
the trial make it, and are counted for nothing else. Bounded: a fixed number of events, and of units remembered.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from nightproof.releases.routing import Arm
from nightproof.releases.sequential import Arms

LEARNED_FROM = 200
"""Live requests that the scales are made of."""
_CATEGORIES = 8
_MOST_FIELDS = 16
_MOST_UNITS = 200_000
_OTHER = "(other)"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of one ended request. `unit` is empty where each request is a unit of its own."""

    arm: Arm
    unit: int = 0
    failed: bool = False
    refused: bool = False
    degraded: bool = False
    flagged: bool = False
    """An output check said no, or flagged it."""
    duration_s: float | None = None
    """None where the request came to no answer."""
    confidence: float | None = None
    outputs: tuple[tuple[str, Any], ...] = ()
    """Top-level fields of the answer: booleans, numbers, texts, None."""


class Slack(msgspec.Struct, frozen=True):
    """How much slower and less sure than live a canary may be before it counts."""

    latency_ratio: float = 1.25
    latency_s: float = 0.002
    confidence: float = 0.02


class Step(msgspec.Struct, frozen=True):
    """One stretch of the trial, with one share."""

    share: float
    canary: int
    live: int
    """Requests by arm."""
    shape_canary: int
    shape_live: int
    """Answered requests by arm, since there are scales."""
    events: dict[str, tuple[int, int]]
    """By name, as evidence: how often in the canary, how often in live; of a unit only its first."""
    rates: dict[str, tuple[int, int]]
    """By name, as parts of the requests that are counted here: of a unit only the first request of the step."""


class Picture(msgspec.Struct, frozen=True):
    """All that a judge sees."""

    steps: tuple[Step, ...]
    has_scales: bool
    names: dict[str, tuple[str, ...]]
    """By metric: its events, known once there are scales."""

    def arms(self, event: str) -> list[Arms]:
        """Return an event's counts over the whole trial."""
        return [Arms(step.share, *step.events.get(event, (0, 0))) for step in self.steps]


class _Scales:
    """Cuts of latency, confidence and outputs, made of live requests."""

    def __init__(self, sample: Sequence[Seen]) -> None:
        self.slow_s = _quantiles([one.duration_s for one in sample if one.duration_s is not None], (0.5, 0.9))
        sure = [one.confidence for one in sample if one.confidence is not None]
        self.unsure = _quantiles(sure, (0.1, 0.5)) if sure else ()
        values: dict[str, list[Any]] = {}
        for one in sample:
            for name, value in one.outputs:
                if name in values or len(values) < _MOST_FIELDS:
                    values.setdefault(name, []).append(value)
        self.categories: dict[str, tuple[str, ...]] = {}
        self.cuts: dict[str, tuple[float, ...]] = {}
        for name, found in values.items():
            counted = Counter(_written(value) for value in found)
            numbers = [float(value) for value in found if _is_number(value)]
            if len(counted) == 1 and isinstance(found[0], str):
                continue  # a text that never changes, a version's name mostly, has no distribution
            if len(counted) <= _CATEGORIES:
                self.categories[name] = (*counted, _OTHER)
            elif len(numbers) == len(found):
                self.cuts[name] = tuple(sorted(set(_quantiles(numbers, (0.25, 0.5, 0.75)))))

    def names(self) -> dict[str, tuple[str, ...]]:
        """Name each metric's events."""
        outputs = [f"{name}={value}" for name, known in self.categories.items() for value in known]
        outputs += [f"{name}#{place}" for name, cuts in self.cuts.items() for place in range(len(cuts) + 1)]
        return {
            "latency": tuple(f"slow#{place}" for place in range(len(self.slow_s))),
            "confidence": tuple(f"unsure#{place}" for place in range(len(self.unsure))),
            "outputs": tuple(outputs),
        }

    def events_of(self, seen: Seen, slack: Slack) -> list[str]:
        """Name the events of one answered request."""
        names: list[str] = []
        is_canary = seen.arm == "canary"
        if seen.duration_s is not None:
            took_s = (
                (seen.duration_s - slack.latency_s) / slack.latency_ratio if is_canary else seen.duration_s
            )
            names += [f"slow#{place}" for place, cut in enumerate(self.slow_s) if took_s > cut]
        if seen.confidence is not None:
            sure = seen.confidence + (slack.confidence if is_canary else 0.0)
            names += [f"unsure#{place}" for place, cut in enumerate(self.unsure) if sure < cut]
        for name, value in seen.outputs:
            if name in self.categories:
                written = _written(value)
                names.append(f"{name}={written if written in self.categories[name] else _OTHER}")
            elif name in self.cuts and _is_number(value):
                names.append(f"{name}#{bisect_right(self.cuts[name], float(value))}")
        return names


class Tally:
    """Counts of one canary. Touched on the event loop's thread only."""

    def __init__(self, share: float, slack: Slack) -> None:
        self._slack = slack
        self._sample: list[Seen] = []
        self._scales: _Scales | None = None
        self._units: set[tuple[int, str]] = set()
        self._done: list[Step] = []
        self._begin(share)

    def _begin(self, share: float) -> None:
        self._share = share
        self._met: set[int] = set()
        self._met_shape: set[int] = set()
        self._all: Counter[Arm] = Counter()
        self._shaped: Counter[Arm] = Counter()
        self._events: Counter[tuple[str, Arm]] = Counter()
        self._rates: Counter[tuple[str, Arm]] = Counter()

    def next_step(self, share: float) -> None:
        """Begin a new stretch with another share; what was counted stays evidence."""
        self._done.append(self._step())
        self._begin(share)

    def add(self, seen: Seen) -> None:
        """Count one ended request."""
        names = [
            name
            for name, holds in (
                ("errors", seen.failed),
                ("refusals", seen.refused),
                ("fallbacks", seen.degraded),
                ("output_checks", seen.flagged),
            )
            if holds
        ]
        if self._is_first(seen.unit, self._met):
            self._all[seen.arm] += 1
            for name in names:
                self._rates[name, seen.arm] += 1
        if not (seen.failed or seen.refused or seen.degraded):
            names += self._shape(seen)
        for name in names:
            if self._is_new(seen.unit, name):
                self._events[name, seen.arm] += 1

    def _shape(self, seen: Seen) -> list[str]:
        """Name the events of an answer's shape, once there are scales; before, live's answers make them."""
        if self._scales is None:
            if seen.arm == "live":
                self._learn(seen)
            return []
        names = self._scales.events_of(seen, self._slack)
        if self._is_first(seen.unit, self._met_shape):
            self._shaped[seen.arm] += 1
            for name in names:
                self._rates[name, seen.arm] += 1
        return names

    def _learn(self, seen: Seen) -> None:
        self._sample.append(seen)
        if len(self._sample) >= LEARNED_FROM:
            self._scales = _Scales(self._sample)
            self._sample = []

    def _is_first(self, unit: int, met: set[int]) -> bool:
        """Say whether this is the unit's first request of the step; a request without a unit is its own."""
        if not unit:
            return True
        if unit in met or len(met) >= _MOST_UNITS:
            return False
        met.add(unit)
        return True

    def _is_new(self, unit: int, name: str) -> bool:
        """Say whether an event is evidence: a unit's requests share a fate, so only its first one is."""
        if not unit:
            return True
        if (unit, name) in self._units or len(self._units) >= _MOST_UNITS:
            return False
        self._units.add((unit, name))
        return True

    def picture(self) -> Picture:
        """Return the counts, frozen."""
        return Picture(
            (*self._done, self._step()),
            self._scales is not None,
            self._scales.names() if self._scales is not None else {},
        )

    def _step(self) -> Step:
        return Step(
            self._share,
            self._all["canary"],
            self._all["live"],
            self._shaped["canary"],
            self._shaped["live"],
            _by_name(self._events),
            _by_name(self._rates),
        )

    def __repr__(self) -> str:
        return f"<Tally share={self._share:g} canary={self._all['canary']} live={self._all['live']}>"


def _by_name(counts: Counter[tuple[str, Arm]]) -> dict[str, tuple[int, int]]:
    return {name: (counts[name, "canary"], counts[name, "live"]) for name, _ in counts}


def _quantiles(values: Sequence[float], shares: Sequence[float]) -> tuple[float, ...]:
    ordered = sorted(values)
    return (
        tuple(ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in shares)
        if ordered
        else ()
    )


def _written(value: Any) -> str:
    return value[:40] if isinstance(value, str) else str(value).lower()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
