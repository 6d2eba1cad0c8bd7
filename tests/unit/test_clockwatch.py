"""A wall clock that jumps ahead is noticed, and not trusted until somebody says so."""

from __future__ import annotations

import pytest

from nightproof.steer.clockwatch import ClockWatch, Reading, ahead_s, read_clocks

HOUR_S = 3_600.0
NOON_US = 1_800_000_000_000_000


class Clocks:
    """Two clocks that are moved by hand."""

    def __init__(self) -> None:
        self.now = Reading(NOON_US, 100.0)

    def pass_s(self, seconds: float, *, jump_s: float = 0.0) -> None:
        """Let time pass, and let the wall clock jump besides."""
        self.now = Reading(self.now.wall_us + int((seconds + jump_s) * 1e6), self.now.uptime_s + seconds)

    def read(self) -> Reading:
        """Read both."""
        return self.now


@pytest.mark.parametrize(
    ("passed_s", "jump_s", "is_noticed"),
    [
        (0.0, 0.0, False),
        (30 * 24 * HOUR_S, 0.0, False),
        (HOUR_S, 0.9 * HOUR_S, False),
        (HOUR_S, 1.1 * HOUR_S, True),
        (0.0, 30 * 365 * 24 * HOUR_S, True),
        (HOUR_S, -24 * HOUR_S, False),
    ],
    ids=["nothing", "a month", "less than an hour", "more than an hour", "thirty years", "back"],
)
def test_only_a_jump_ahead_is_noticed(passed_s: float, jump_s: float, is_noticed: bool) -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks.read)

    clocks.pass_s(passed_s, jump_s=jump_s)

    assert watch.has_jumped is is_noticed


def test_a_clock_that_jumped_is_not_trusted_again_by_itself_but_by_who_has_looked() -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks.read)
    clocks.pass_s(60, jump_s=24 * HOUR_S)
    assert watch.has_jumped
    clocks.pass_s(60, jump_s=-24 * HOUR_S)
    assert watch.has_jumped, "some of what was written meanwhile bears the wrong time"

    watch.trust()

    assert not watch.has_jumped
    assert repr(watch) == "<ClockWatch ahead by 0 s>"


def test_the_real_clocks_go_together() -> None:
    first = read_clocks()
    assert abs(ahead_s(first, read_clocks())) < 60
