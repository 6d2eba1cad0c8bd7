"""The only place that reads the time.

Durations and deadlines use `monotonic_s`; what is written down for people and auditors uses `utc_us`.
Rooms that decide take `now` as an argument, so that tests pass any time they like.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

monotonic_s = time.monotonic
"""Seconds on a clock that never steps; the same clock as the event loop's."""


def precise_us() -> int:
    """Return whole microseconds of a clock that never steps, fine enough for what takes a few of them."""
    return time.perf_counter_ns() // 1_000


def worked_us() -> int:
    """Return whole microseconds that the calling thread has been on a processor: no wait of anybody's counts."""
    return time.thread_time_ns() // 1_000


def utc_us() -> int:
    """Return the wall clock as whole microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


def monotonic_of(at_us: int) -> float:
    """Return a moment of the wall clock on the monotonic one: right as far as the wall clock was not set since."""
    return monotonic_s() - (utc_us() - at_us) / 1e6


def utc_now() -> datetime:
    """Return the wall clock as an aware datetime, UTC."""
    return datetime.now(UTC)


def iso_us(at_us: int) -> str:
    """Write microseconds since 1970 as an ISO 8601 text with the zone `Z`."""
    return (
        datetime.fromtimestamp(at_us / 1_000_000, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def uptime_s() -> float:
    """Return seconds since the machine was booted, sleep included: a second opinion on the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
