"""The pool's choices, as pure functions of values and time. The pool carries them out.

Tested by tables and by simulation (`tests/unit/test_pool_decisions.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

State = Literal["starting", "ready", "busy", "leaving", "gone"]


@dataclass(frozen=True, kw_only=True)
class ChildView:
    """One worker as the decisions see it."""

    slot: int
    state: State
    since_s: float
    """When it took this state."""
    pinged_s: float | None
    """When a ping went out that has not come back."""
    rss_bytes: int
    settled_rss_bytes: int
    """Memory after its first answers, the base of growth; 0 while unknown."""


@dataclass(frozen=True)
class Start:
    """Start one more worker."""


@dataclass(frozen=True)
class Kill:
    """End this worker now."""

    slot: int
    reason: str


@dataclass(frozen=True)
class Retire:
    """Let this idle worker go: it grew, or is one too many."""

    slot: int
    reason: str


Action = Start | Kill | Retire


@dataclass(frozen=True, kw_only=True)
class PoolLimits:
    """What the pool holds its workers to."""

    load_timeout_s: float
    ping_within_s: float
    memory_bytes: int
    growth_bytes: int


def decide_children(
    children: Sequence[ChildView], *, wanted: int, may_start: int, limits: PoolLimits, now: float
) -> list[Action]:
    """Say what to do about every worker: who is hung, too large or one too many, and how many to start."""
    actions: list[Action] = []
    staying = 0
    loaded = sum(child.state in ("ready", "busy") for child in children)
    retiring = False
    for child in children:
        if child.state == "gone":
            continue
        if child.state == "leaving":
            continue
        if child.state == "starting" and now - child.since_s > limits.load_timeout_s:
            actions.append(Kill(child.slot, "load_timeout"))
        elif child.pinged_s is not None and now - child.pinged_s > limits.ping_within_s:
            actions.append(Kill(child.slot, "silent"))
        elif child.rss_bytes > limits.memory_bytes:
            actions.append(Kill(child.slot, "memory_limit"))
        elif (
            child.state == "ready"
            and not retiring
            and child.settled_rss_bytes
            and child.rss_bytes - child.settled_rss_bytes > limits.growth_bytes
        ):
            retiring = True  # one at a time
            if loaded > 1:
                actions.append(Retire(child.slot, "memory_growth"))
            else:
                staying += 1
                wanted += 1  # its replacement loads first: recycling never empties the pool
        else:
            staying += 1
    if staying > wanted:
        idle = [child.slot for child in children if child.state in ("ready", "starting")]
        told = {action.slot for action in actions if not isinstance(action, Start)}
        surplus = [slot for slot in reversed(idle) if slot not in told]
        actions += [Retire(slot, "surplus") for slot in surplus[: staying - wanted]]
    actions += [Start()] * max(0, min(wanted - staying, may_start))
    return actions


GoldenLevel = Literal["", "worker", "release"]
_WRONG_FOR_A_RELEASE = 2


def golden_level(wrong_in_a_row: int) -> GoldenLevel:
    """Say whose fault wrong golden answers are: one worker's, or the release's once its replacement errs too."""
    if not wrong_in_a_row:
        return ""
    return "release" if wrong_in_a_row >= _WRONG_FOR_A_RELEASE else "worker"


def next_backoff_s(failures_in_a_row: int, *, first_s: float, most_s: float) -> float:
    """Return the pause before the next start: none after one failure, then doubling up to `most_s`."""
    if failures_in_a_row <= 1:
        return 0.0
    return min(most_s, first_s * 2.0 ** min(failures_in_a_row - 2, 30))


@dataclass(frozen=True)
class Scale:
    """How many workers answer, and since when the queue has been calm."""

    active: int
    calm_since_s: float | None = None


_CALM_FOR_S = 20.0
_CALM_SHARE = 0.1
_BUSY_SHARE = 0.7


def next_scale(
    scale: Scale, *, wait_s: float, busy: float, patience_s: float, at_least: int, at_most: int, now: float
) -> Scale:
    """Follow the queue's wait with hysteresis: up at once past `patience_s`, down by one per calm 20 s.

    `busy` is how many workers were running a batch lately, on average. Calm means a wait under a tenth
    of the patience, and work that one worker fewer would do at 70 % at most: a queue that is empty
    because there are enough workers is no reason to have fewer. Anything between holds the number.
    """
    active = min(max(scale.active, at_least), at_most)
    if wait_s > patience_s and active < at_most:
        return Scale(active + 1)
    is_calm = wait_s < patience_s * _CALM_SHARE and busy <= _BUSY_SHARE * (active - 1)
    if not is_calm or active <= at_least:
        return Scale(active)
    if scale.calm_since_s is None:
        return Scale(active, now)
    if now - scale.calm_since_s >= _CALM_FOR_S:
        return Scale(active - 1)
    return Scale(active, scale.calm_since_s)


class Forecast(NamedTuple):
    """When an engine expects to answer new jobs, in seconds from now."""

    queue_s: float
    """Until their turn: what is running and what is queued before them. Zero means that a worker is free."""
    own_s: float
    """Their own time in a worker."""


class BatchCost:
    """Learn what a batch of n records costs: fixed part plus n × marginal part, in seconds.

    Exponentially weighted least squares over the last few dozen batches, with both parts held at zero
    or above. While all batches have the same size the marginal part cannot be told from the fixed one;
    the whole cost is then taken as fixed, which errs on the side of admitting.
    """

    _KEEP = 0.95
    _FIRST = 16
    _GROWTH = 4

    def __init__(self) -> None:
        self._weight = self._n = self._nn = self._d = self._nd = 0.0
        self._fixed_s = self._marginal_s = 0.0
        self._largest = 0

    def learn(self, size: int, duration_s: float) -> None:
        """Take in one finished batch."""
        self._largest = max(self._largest, size)
        keep = self._KEEP
        self._weight = self._weight * keep + 1.0
        self._n = self._n * keep + size
        self._nn = self._nn * keep + size * size
        self._d = self._d * keep + duration_s
        self._nd = self._nd * keep + size * duration_s
        self._fit()

    def estimate_s(self, size: int) -> float:
        """Return the expected duration of a batch of that size; 0 while nothing is known."""
        return self._fixed_s + self._marginal_s * size

    def most_within(self, within_s: float, *, most: int) -> int:
        """Return the largest batch, up to `most`, that is expected to end within a time; at least 1.

        Never more than a few times the largest that has ended so far: what a crowd costs is learnt before it is met.
        """
        size = min(most, max(self._FIRST, self._GROWTH * self._largest))
        if self._marginal_s > 0:
            size = min(size, int((within_s - self._fixed_s) / self._marginal_s))
        return max(1, size)

    def _fit(self) -> None:
        mean_n, mean_d = self._n / self._weight, self._d / self._weight
        variance = self._nn / self._weight - mean_n * mean_n
        if variance < 1e-9:
            self._fixed_s, self._marginal_s = mean_d, 0.0
            return
        marginal = max(0.0, (self._nd / self._weight - mean_n * mean_d) / variance)
        fixed = mean_d - marginal * mean_n
        if fixed < 0.0:
            fixed, marginal = 0.0, mean_d / mean_n
        self._fixed_s, self._marginal_s = fixed, marginal


def forecast(
    *, queued: int, new: int, workers: int, max_batch: int, cost: BatchCost, busy_left_s: float
) -> Forecast:
    """Say when `new` jobs behind `queued` others would be answered. Without workers the queue is endless."""
    if workers <= 0:
        return Forecast(math.inf, 0.0)
    per_round = max_batch * workers
    own_rounds = math.ceil(new / per_round)
    rounds = math.ceil((queued + new) / per_round)
    own_s = own_rounds * cost.estimate_s(min(max_batch, math.ceil(new / workers)))
    before_s = (rounds - own_rounds) * cost.estimate_s(max_batch) if rounds > own_rounds else 0.0
    return Forecast(busy_left_s + before_s, own_s)


def newest_first(*, oldest_wait_s: float, budget_s: float) -> bool:
    """Say whether to serve the newest first: the oldest has used up most of its time already.

    Adaptive LIFO, after Maurer, "Fail at Scale" (2015): when admission has been too hopeful, the oldest
    are the ones that would be dead on arrival. Until then the order of arrival is kept.
    """
    return oldest_wait_s > 0.75 * budget_s
