"""Breaker, retry budget and adaptive limit of an upstream: tables of what they say at what time."""

from __future__ import annotations

import pytest

from nightproof.limits.breaker import Breaker, BreakerRules, Pass
from nightproof.limits.concurrency import Concurrency
from nightproof.limits.retry_budget import RetryBudget


def enter(breaker: Breaker, now: float) -> Pass:
    """Enter a breaker that lets one in."""
    given = breaker.enter(now)
    assert given is not None
    return given


def fail(breaker: Breaker, now: float, times: int = 1, *, chance: float = 0.5) -> None:
    """Have calls fail one after the other."""
    for _ in range(times):
        breaker.failed(enter(breaker, now), now=now, chance=chance)


def succeed(breaker: Breaker, now: float, times: int = 1) -> None:
    """Have calls succeed one after the other."""
    for _ in range(times):
        breaker.succeeded(enter(breaker, now), now=now)


def test_a_single_target_with_hardly_any_traffic_opens_after_five_failures_in_a_row():
    breaker = Breaker()
    for at in range(4):
        fail(breaker, at * 100.0)
    succeed(breaker, 450.0)
    for at in range(4):
        fail(breaker, 500.0 + at * 100.0)
    assert breaker.state(900.0) == "closed", "a success between them starts the row anew"

    fail(breaker, 901.0)

    assert breaker.state(901.0) == "open"
    assert breaker.enter(901.0) is None


@pytest.mark.parametrize(
    ("calls", "failures", "state"),
    [(19, 18, "closed"), (20, 9, "closed"), (20, 10, "open"), (40, 19, "closed"), (40, 21, "open")],
)
def test_under_traffic_half_of_the_calls_in_the_window_must_fail(calls: int, failures: int, state: str):
    breaker = Breaker(BreakerRules(in_a_row=1_000))
    succeed(breaker, 10.0, calls - failures)
    for _ in range(failures):
        given = breaker.enter(11.0)
        if given is not None:
            breaker.failed(given, now=11.0, chance=0.5)

    assert breaker.state(11.5) == state


def test_what_is_older_than_the_window_no_longer_counts():
    breaker = Breaker(BreakerRules(in_a_row=1_000))
    fail(breaker, 0.0, 19)
    succeed(breaker, 31.0)
    fail(breaker, 31.0, 9)

    assert breaker.counts(31.0) == (10, 9)
    assert breaker.state(31.0) == "closed"


@pytest.mark.parametrize(("chance", "opens_again_s"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0)])
def test_it_stays_open_for_its_time_and_its_jitter(chance: float, opens_again_s: float):
    breaker = Breaker()
    fail(breaker, 100.0, 5, chance=chance)

    assert breaker.wait_s(100.0) == pytest.approx(opens_again_s)
    assert breaker.state(100.0 + opens_again_s - 0.01) == "open"
    assert breaker.state(100.0 + opens_again_s) == "half_open"


def test_half_open_lets_three_probes_in_and_closes_when_all_are_good():
    breaker = Breaker()
    fail(breaker, 0.0, 5)

    probes = [breaker.enter(5.0) for _ in range(4)]

    assert [probe is not None for probe in probes] == [True, True, True, False]
    assert breaker.wait_s(5.0) == 1.0
    for probe in probes[:3]:
        assert probe is not None
        breaker.succeeded(probe, now=5.1)
    assert breaker.state(5.1) == "closed"
    assert breaker.counts(5.1) == (0, 0), "what was before is over"


def test_one_bad_probe_opens_it_for_twice_as_long_up_to_a_minute():
    breaker = Breaker()
    fail(breaker, 0.0, 5)
    now, waits_s = 0.0, []
    for _ in range(6):
        waits_s.append(breaker.wait_s(now))
        now += waits_s[-1]
        fail(breaker, now)

    assert waits_s == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


@pytest.mark.parametrize(("quiet_s", "opens_for_s"), [(10.0, 10.0), (31.0, 5.0)])
def test_one_that_fails_again_soon_after_closing_opens_for_longer(quiet_s: float, opens_for_s: float):
    breaker = Breaker()
    fail(breaker, 0.0, 5)
    succeed(breaker, 5.0, 3)
    fail(breaker, 5.0 + quiet_s, 5)

    assert breaker.wait_s(5.0 + quiet_s) == opens_for_s


def test_a_cancelled_probe_gives_its_place_back_and_a_cancelled_call_counts_as_neither():
    breaker = Breaker()
    fail(breaker, 0.0, 4)
    breaker.cancelled(enter(breaker, 0.0))
    assert breaker.counts(0.0) == (4, 4)
    fail(breaker, 0.0)
    for _ in range(10):
        breaker.cancelled(enter(breaker, 5.0))

    succeed(breaker, 5.0, 3)

    assert breaker.state(5.0) == "closed"


def test_what_a_call_of_an_earlier_time_saw_changes_nothing():
    breaker = Breaker()
    slow_good, slow_bad = enter(breaker, 0.0), enter(breaker, 0.0)
    fail(breaker, 0.0, 5)
    breaker.succeeded(slow_good, now=1.0)
    assert breaker.state(1.0) == "open"
    probe = enter(breaker, 5.0)
    breaker.failed(slow_bad, now=5.5, chance=0.5)
    assert breaker.state(5.5) == "half_open"

    breaker.succeeded(probe, now=5.6)
    succeed(breaker, 5.6, 2)

    assert breaker.state(5.6) == "closed"


def test_retries_are_a_share_of_first_tries_after_a_first_burst():
    budget = RetryBudget(0.1, burst=2.0, trickle_per_s=0.0)
    spent = [budget.spend(now=0.0) for _ in range(3)]
    for _ in range(25):
        budget.earn()
    more = [budget.spend(now=0.0) for _ in range(3)]

    assert (spent, more) == ([True, True, False], [True, True, False])


def test_a_quiet_service_can_try_again_now_and_then_and_one_that_wants_no_retries_never():
    quiet = RetryBudget(0.1, burst=10.0, trickle_per_s=0.1)
    for _ in range(10):
        assert quiet.spend(now=0.0)
    none = RetryBudget(0.0)

    assert [quiet.spend(now=now) for now in (5.0, 10.1, 10.2)] == [False, True, False]
    assert not none.has_room(now=0.0)
    assert not none.has_room(now=1e9)


def test_the_limit_grows_while_it_is_in_use_and_calls_succeed():
    limit = Concurrency()
    limit.enter()
    limit.leave("refused", now=0.0)
    grown = []
    for _ in range(3):
        while limit.enter():
            pass
        for _ in range(limit.in_flight):
            limit.leave("good", now=0.0)
        grown.append(limit.limit)
    idle = Concurrency()
    for _ in range(1_000):
        idle.enter()
        idle.leave("good", now=0.0)

    assert grown == [12, 14, 16]
    assert idle.limit == 16, "what is not in use says nothing"


def test_until_its_first_cut_the_limit_doubles_with_each_round_of_answers():
    limit = Concurrency(most=256)
    grown = []
    for _ in range(4):
        new = 0
        while limit.enter():
            new += 1
        for _ in range(new):
            limit.answered()
        grown.append(limit.limit)
    limit.leave("refused", now=1.0)
    limit.enter()
    limit.answered()

    assert grown == [34, 70, 142, 256]
    assert limit.limit == 179


@pytest.mark.parametrize(("signal", "limit"), [("refused", 11), ("slow", 14), ("none", 16)])
def test_the_limit_falls_by_what_the_upstream_shows_once_a_second(signal: str, limit: int):
    limited = Concurrency()
    for _ in range(5):
        limited.enter()
        limited.leave(signal, now=10.0)  # type: ignore[arg-type]

    assert limited.limit == limit


def test_the_limit_stays_within_its_bounds_and_takes_new_ones():
    low = Concurrency()
    for at in range(100):
        low.enter()
        low.leave("refused", now=float(at * 2))
    one = Concurrency(most=1)
    held = Concurrency()
    held.hold_to(4)

    assert (low.limit, one.limit, held.limit) == (2, 1, 4)
    assert (one.enter(), one.enter()) == (True, False)
