"""Admission's choices, as pure functions of values and time."""

from __future__ import annotations

import math
from typing import Literal

Answer = Literal["in", "deadline_exceeded", "overloaded"]


def decide_admission(
    *,
    queue_s: float,
    own_s: float,
    remaining_s: float,
    wait_share: float,
    in_flight: int,
    most_in_flight: int,
    bytes_inside: int,
    most_bytes: int,
) -> Answer:
    """Say whether a request may come in: only if it is expected to be answered inside its deadline.

    `queue_s` is the expected time until its turn, and may take `wait_share` of what remains; the rest is
    margin for a retry and for what the estimate does not know. `own_s` is its own time in a worker.
    When a worker is free it always comes in: an estimate that is too high must not keep itself alive.
    Endless means that no worker is up, which is not for admission to judge: a fallback may still answer.
    """
    if remaining_s <= 0:
        return "deadline_exceeded"
    if in_flight >= most_in_flight or bytes_inside > most_bytes:
        return "overloaded"
    if queue_s <= 0 or math.isinf(queue_s):
        return "in"
    if own_s > remaining_s:
        return "deadline_exceeded"
    if queue_s > wait_share * remaining_s or queue_s + own_s > remaining_s:
        return "overloaded"
    return "in"


def next_arrival_s(due_s: float, *, now: float, interval_s: float, burst: int) -> tuple[float, float]:
    """Judge one request by GCRA and return (new due time, seconds to wait; 0 means conforming).

    Generic cell rate algorithm (ITU-T I.371): `due_s` is when the next request is due at the steady
    rate; up to `burst` requests may come early.
    """
    base = max(due_s, now)
    early_s = base - now
    allowed_s = (burst - 1) * interval_s
    if early_s > allowed_s + 1e-9:
        return due_s, early_s - allowed_s
    return base + interval_s, 0.0
