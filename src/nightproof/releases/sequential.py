"""Tests that may be looked at after every request, and still are wrong no more often than they say.

Pure arithmetic, used by `judge` and `probation`. Two e-processes (products of betting odds that start at 1 and that,
while the release is *not* worse, grow above 1/alpha with probability at most alpha, over all time; Ville 1939) and
one confidence sequence:

- `log_arms`: of the requests with some event, how many were the canary's. The split is by chance and is known, so
  while the canary is not worse each event is the canary's with the split's own probability, whatever the event's
  rate is and however it drifts (a binomial sequential probability ratio test on the arm, mixed over alternatives:
  Wald 1945; Robbins 1970; for counts by arm, Lindon and Malek 2022, "Anytime-valid inference for multinomial count
  data").
- `log_rate`: bad ones among all, against an allowed rate (the same test on one arm).
- `upper_rate`, `lower_rate`: what a rate can be, at every moment at once (beta-binomial mixture: Robbins 1970;
  Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

RATIOS = (1.5, 2.0, 4.0, 10.0, 20.0, 50.0)
"""Alternatives that the evidence is mixed over: how many times more often the event comes with a worse release."""
_HALVINGS = 30


class Arms(NamedTuple):
    """How often an event came, by arm, while the canary's share was `share`."""

    share: float
    canary: int
    live: int


def log_mean(logs: Iterable[float]) -> float:
    """Return the logarithm of the mean of numbers given as logarithms. A mean of e-values is an e-value."""
    values = list(logs)
    top = max(values)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(value - top) for value in values) / len(values))


def log_arms(counts: Sequence[Arms], *, allowed: float = 1.0) -> float:
    """Return the log evidence that the event comes more than `allowed` times as often with the canary.

    Each stretch of the trial has its own share, known before its requests came: what was learned adds up.
    """
    return log_mean(sum(_log_odds(one, allowed, allowed * ratio) for one in counts) for ratio in RATIOS)


def log_arms_fewer(counts: Sequence[Arms], *, allowed: float = 1.0) -> float:
    """Return the log evidence that the event comes less than 1/`allowed` times as often with the canary."""
    return log_mean(
        sum(_log_odds(one, 1.0 / allowed, 1.0 / (allowed * ratio)) for one in counts) for ratio in RATIOS
    )


def _log_odds(counts: Arms, null: float, other: float) -> float:
    """Return the log odds of the counts if the canary's rate is `other` times live's, against `null` times."""
    p, q = _share_of_events(counts.share, null), _share_of_events(counts.share, other)
    return counts.canary * math.log(q / p) + counts.live * math.log((1 - q) / (1 - p))


def _share_of_events(share: float, ratio: float) -> float:
    """Return how many of the events are the canary's if they come `ratio` times as often with it."""
    return share * ratio / (share * ratio + 1 - share)


def log_rate(bad: int, total: int, *, allowed: float) -> float:
    """Return the log evidence that more than `allowed` of all are bad."""
    if not 0 < allowed < 1:
        return -math.inf if allowed >= 1 else math.inf if bad else 0.0
    others = [min(allowed * ratio, (allowed + 1) / 2) for ratio in RATIOS] + [0.5] * (allowed < 0.5)
    good = total - bad
    return log_mean(
        bad * math.log(other / allowed) + good * math.log((1 - other) / (1 - allowed)) for other in others
    )


def upper_rate(events: int, total: int, alpha: float) -> float:
    """Return the highest rate that the counts leave possible; wrong at any time with probability `alpha` at most."""
    if not total:
        return 1.0
    low, high = events / total, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _log_mixture(events, total) - _log_likelihood(events, total, middle) < math.log(1 / alpha):
            low = middle
        else:
            high = middle
    return high


def lower_rate(events: int, total: int, alpha: float) -> float:
    """Return the lowest rate that the counts leave possible."""
    return 1.0 - upper_rate(total - events, total, alpha) if total else 0.0


def _log_mixture(events: int, total: int) -> float:
    """Return the log likelihood of the counts, mixed over all rates by Beta(1/2, 1/2)."""
    return (
        math.lgamma(events + 0.5)
        + math.lgamma(total - events + 0.5)
        - math.lgamma(total + 1)
        - math.log(math.pi)
    )


def _log_likelihood(events: int, total: int, rate: float) -> float:
    if rate <= 0 or rate >= 1:
        certain = (rate <= 0 and not events) or (rate >= 1 and events == total)
        return 0.0 if certain else -math.inf
    return events * math.log(rate) + (total - events) * math.log(1 - rate)
