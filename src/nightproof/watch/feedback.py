"""Judge labels that come afterwards: is their source to be believed, and how good is the release really?

Pure functions of values, called by `steer.feedback`. Promises: quality is told with a range that holds however often
one looks (a confidence sequence); a source is set aside only on evidence against it, and never decided upon for good
without an operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

LabelState = Literal["counted", "held", "rejected"]
SourceState = Literal["counted", "held", "accepted", "rejected"]

_ALPHA = 0.05
_HELD_AT = 1e4
"""How many times likelier wrong labels must be than right ones before their source is set aside."""
_LEAST_BASE = 50
"""Labels before anything can be said about what is usual."""
_MARGIN = 0.1
_FLIPPED = 0.3
_CONFLICTS = 20
_CONFLICT_SHARE = 0.05
_BINS = 15
_LEAST_FOR_ECE = 100
SAME_RECORD_MOST = 20
"""Labels of one source about the very same record that count; more are set aside."""


class Source(msgspec.Struct, kw_only=True):
    """What is known of one key that gives labels to one service."""

    source: str
    state: SourceState = "counted"
    why: str = ""
    since_us: int = 0
    labels: int = 0
    disagreed: int = 0
    conflicts: int = 0
    duplicates: int = 0
    wealth: float = 1.0
    """Evidence that its labels are wrong, since `run_from_us`."""
    run_from_us: int = 0
    minute: int = 0
    in_minute: int = 0


def usual_disagreement(
    source: Source, others: Sequence[Source], expected_error: float | None
) -> float | None:
    """Return how often labels may be expected to contradict the release; None while nobody can say.

    By the other sources' labels, else by the source's own that an operator accepted or that are many, else by what
    the release's confidence promises.
    """
    labels = sum(one.labels for one in others if one.state in ("counted", "accepted"))
    if labels >= _LEAST_BASE:
        wrong = sum(one.disagreed for one in others if one.state in ("counted", "accepted"))
        return (wrong + 1) / (labels + 2)
    if source.labels >= (_LEAST_BASE if source.state == "accepted" else 4 * _LEAST_BASE):
        return (source.disagreed + 1) / (source.labels + 2)
    return expected_error


def weigh(source: Source, disagrees: bool, usual: float, *, now_us: int) -> bool:
    """Take one label's word for or against its source; say whether it is to be set aside now. Changes `source`."""
    allowed = min(0.9, usual + _MARGIN)
    flipped = min(0.99, allowed + _FLIPPED)
    ratio = flipped / allowed if disagrees else (1 - flipped) / (1 - allowed)
    if source.wealth <= 1.0:
        source.wealth, source.run_from_us = 1.0, now_us
    source.wealth *= ratio
    return source.wealth >= _HELD_AT


def conflicts_too_often(source: Source) -> bool:
    """Say whether a source takes back what it said too often to be believed."""
    said = source.labels + source.conflicts
    return source.conflicts >= _CONFLICTS and source.conflicts > _CONFLICT_SHARE * said


def floods(source: Source, now_us: int, most_per_min: int) -> bool:
    """Count one more label of this minute; say whether there are too many. Changes `source`."""
    minute = now_us // 60_000_000
    if source.minute != minute:
        source.minute, source.in_minute = minute, 0
    source.in_minute += 1
    return source.in_minute > most_per_min


# -- quality ----------------------------------------------------------------------------------


class Counted(msgspec.Struct, frozen=True):
    """One counted label."""

    source: str
    correct: bool | None
    error: float | None
    confidence: float | None
    delay_s: float


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good a release is by its labels."""

    labels: int
    """That count; a source's share is capped."""
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    """The range holds at all times together with probability 95 %."""
    mean_error: float | None
    """Mean absolute error of numbers."""
    calibration_error: float | None
    """ECE, 15 bins of equal width."""
    brier: float | None
    delay_s: float | None
    """Median time from answer to label."""


def capped(labels: Sequence[Counted], share: float) -> list[Counted]:
    """Let no source have more than its share where there are several; its newest labels stay. Newest come first."""
    totals: dict[str, int] = {}
    for label in labels:
        totals[label.source] = totals.get(label.source, 0) + 1
    if len(totals) < 2 or share >= 1:
        return list(labels)
    allowed = {
        source: max(1, int(share / (1 - share) * (len(labels) - count))) for source, count in totals.items()
    }
    kept = []
    taken: dict[str, int] = {}
    for label in labels:
        taken[label.source] = taken.get(label.source, 0) + 1
        if taken[label.source] <= allowed[label.source]:
            kept.append(label)
    return kept


def quality(labels: Sequence[Counted], *, source_share: float) -> Quality:
    """Work out the quality by labels, the newest first."""
    kept = capped(labels, source_share)
    judged = [label for label in kept if label.correct is not None]
    right = sum(bool(label.correct) for label in judged)
    low, high = sequence_range(right, len(judged))
    errors = [label.error for label in kept if label.error is not None]
    sure = [(label.confidence, bool(label.correct)) for label in judged if label.confidence is not None]
    delays = sorted(label.delay_s for label in kept)
    return Quality(
        labels=len(kept),
        accuracy=right / len(judged) if judged else None,
        accuracy_low=low if judged else None,
        accuracy_high=high if judged else None,
        mean_error=sum(errors) / len(errors) if errors else None,
        calibration_error=calibration_error(sure) if len(sure) >= _LEAST_FOR_ECE else None,
        brier=sum((confidence - correct) ** 2 for confidence, correct in sure) / len(sure) if sure else None,
        delay_s=delays[len(delays) // 2] if delays else None,
    )


def sequence_range(right: int, total: int, alpha: float = _ALPHA) -> tuple[float, float]:
    """Return the range of a share that holds at every total together, with probability 1 - alpha.

    The mixture of Bernoulli likelihood ratios with Jeffreys' prior is a martingale under the true share; what it
    has not reached 1 / alpha for stays in the range (Robbins, Ville).
    """
    if not total:
        return 0.0, 1.0
    mixture = (
        math.lgamma(right + 0.5)
        + math.lgamma(total - right + 0.5)
        - math.lgamma(total + 1)
        - math.log(math.pi)
    )
    needed = mixture - math.log(1 / alpha)

    def stays(share: float) -> bool:
        likelihood = (right * math.log(share) if right else 0.0) + (
            (total - right) * math.log1p(-share) if total > right else 0.0
        )
        return likelihood >= needed

    best = min(1 - 1e-9, max(1e-9, right / total))
    low = _edge(stays, best, 1e-12) if right else 0.0
    return low, _edge(stays, best, 1 - 1e-12) if right < total else 1.0


def _edge(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """Find by halving where the range ends between a point inside and one outside."""
    if holds(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside


def calibration_error(sure: Sequence[tuple[float, bool]]) -> float:
    """Return how far confidence and being right lie apart, on average over bins of confidence (ECE)."""
    sums = [[0, 0.0, 0] for _ in range(_BINS)]
    for confidence, correct in sure:
        part = sums[min(_BINS - 1, max(0, int(confidence * _BINS)))]
        part[0] += 1
        part[1] += confidence
        part[2] += correct
    return sum(abs(confidence - right) for _, confidence, right in sums) / len(sure)


def corrected_estimate(mean_confidence: float | None, labels: Sequence[Counted]) -> float | None:
    """Correct what confidence promises over all rows by how wrong it is on the labelled ones."""
    pairs = [
        (label.confidence, bool(label.correct))
        for label in labels
        if label.correct is not None and label.confidence is not None
    ]
    if mean_confidence is None or not pairs:
        return None
    residual = sum(correct - confidence for confidence, correct in pairs) / len(pairs)
    return min(1.0, max(0.0, mean_confidence + residual))
