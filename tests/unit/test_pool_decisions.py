"""The pool's and admission's choices: tables, and simulations of a load with a clock of their own."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from nightproof.limits.decide import decide_admission, next_arrival_s
from nightproof.settings.settings import WorkerSettings
from nightproof.workers.afterwards import end_of, is_tried_out
from nightproof.workers.budget import RestartBudget
from nightproof.workers.decide import (
    BatchCost,
    ChildView,
    Kill,
    PoolLimits,
    Retire,
    Scale,
    Start,
    decide_children,
    forecast,
    golden_level,
    newest_first,
    next_backoff_s,
    next_scale,
)
from nightproof.workers.engine import Job
from nightproof.workers.over_time import OverTime
from nightproof.workers.suspects import REFUSALS, Suspects

MIB = 1024 * 1024
LIMITS = PoolLimits(load_timeout_s=10.0, ping_within_s=1.0, memory_bytes=100 * MIB, growth_bytes=10 * MIB)
NOW = 1_000.0


def child(slot: int, state: Any = "ready", **seen: Any) -> ChildView:
    """A worker that is well, but for what is said."""
    well = {"since_s": NOW, "pinged_s": None, "rss_bytes": 50 * MIB, "settled_rss_bytes": 50 * MIB}
    return ChildView(slot=slot, state=state, **{**well, **seen})


def decided(*children: ChildView, wanted: int) -> list[Any]:
    return decide_children(children, wanted=wanted, may_start=wanted, limits=LIMITS, now=NOW)


# -- what to do about each worker ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("ill", "expected"),
    [
        ({"state": "starting", "since_s": NOW - 10.1}, "load_timeout"),
        ({"state": "ready", "pinged_s": NOW - 1.1}, "silent"),
        ({"state": "busy", "pinged_s": NOW - 1.1}, "silent"),
        ({"state": "busy", "rss_bytes": 101 * MIB}, "memory_limit"),
    ],
)
def test_a_worker_that_is_ill_is_killed_and_replaced(ill: dict[str, Any], expected: str):
    actions = decided(child(1, **ill), child(2), wanted=2)

    assert actions == [Kill(1, expected), Start()]


@pytest.mark.parametrize(
    "well",
    [
        {"state": "starting", "since_s": NOW - 9.9},
        {"state": "ready", "pinged_s": NOW - 0.9},
        {"state": "busy", "since_s": NOW - 3_600},
        {"state": "ready", "settled_rss_bytes": 0, "rss_bytes": 99 * MIB},
    ],
)
def test_a_worker_within_its_limits_is_left_alone(well: dict[str, Any]):
    assert decided(child(1, **well), child(2), wanted=2) == []


def test_one_on_its_way_out_is_neither_killed_twice_nor_counted():
    assert decided(child(1, "leaving", pinged_s=NOW - 9), child(2), wanted=2) == [Start()]
    assert decided(child(1, "gone"), child(2), wanted=2) == [Start()]


def test_workers_that_grew_are_recycled_one_at_a_time():
    grown = {"rss_bytes": 61 * MIB}

    actions = decided(child(1, **grown), child(2, **grown), child(3), wanted=3)

    assert actions == [Retire(1, "memory_growth"), Start()]


def test_a_busy_worker_that_grew_may_finish_first():
    assert decided(child(1, "busy", rss_bytes=61 * MIB), child(2), wanted=2) == []


def test_the_only_worker_is_recycled_after_its_replacement_has_loaded():
    grown = child(1, rss_bytes=61 * MIB)

    assert decided(grown, wanted=1) == [Start()]
    assert decided(grown, child(2, "starting"), wanted=1) == []
    assert decided(grown, child(2), wanted=1) == [Retire(1, "memory_growth")]
    assert decided(child(1, "leaving"), child(2), wanted=1) == []


def test_idle_workers_beyond_the_wanted_number_go_the_newest_first():
    actions = decided(child(1), child(2, "busy"), child(3), child(4, "starting"), wanted=2)

    assert actions == [Retire(4, "surplus"), Retire(3, "surplus")]


def test_busy_workers_are_never_surplus():
    assert decided(child(1, "busy"), child(2, "busy"), wanted=1) == []


def test_an_empty_pool_is_filled():
    assert decided(wanted=3) == [Start(), Start(), Start()]


# -- how often to start -------------------------------------------------------------------------


def test_the_pause_doubles_up_to_its_most():
    pauses = [next_backoff_s(failures, first_s=0.1, most_s=1.0) for failures in range(8)]

    assert pauses == [0, 0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert next_backoff_s(10_000, first_s=0.1, most_s=1.0) == 1.0


def test_deaths_of_working_workers_are_replaced_at_once_within_the_budget():
    budget = RestartBudget(WorkerSettings(restarts=3, restart_window_s=60.0))

    budget.spend(NOW, while_loading=False)
    budget.spend(NOW, while_loading=False)

    assert budget.may_start(NOW, starting=0, loaded=1)
    assert not budget.loads_fail


def test_beyond_the_budget_one_worker_is_tried_now_and_then():
    budget = RestartBudget(WorkerSettings(restarts=3, restart_window_s=60.0, backoff_most_s=10.0))
    for _ in range(3):
        budget.spend(NOW, while_loading=False)

    assert budget.may_start(NOW, starting=0, loaded=0)
    assert budget.is_exhausted
    assert not budget.may_start(NOW + 9.9, starting=0, loaded=0)
    assert not budget.may_start(NOW + 10.1, starting=1, loaded=0)
    assert budget.may_start(NOW + 10.1, starting=0, loaded=0)
    assert budget.may_start(NOW + 61, starting=0, loaded=0)
    assert not budget.is_exhausted


def test_loads_that_fail_are_paused_and_told_from_loads_that_succeed():
    budget = RestartBudget(WorkerSettings(backoff_first_s=0.5))

    budget.spend(NOW, while_loading=True)
    assert budget.may_start(NOW, starting=0, loaded=0)
    budget.spend(NOW, while_loading=True)
    assert budget.loads_fail
    assert not budget.may_start(NOW + 0.4, starting=0, loaded=0)
    assert budget.may_start(NOW + 0.6, starting=0, loaded=0)

    budget.loaded()
    assert not budget.loads_fail


def test_beside_a_working_worker_one_loads_at_a_time():
    budget = RestartBudget(WorkerSettings())

    assert not budget.may_start(NOW, starting=1, loaded=1)
    assert budget.may_start(NOW, starting=1, loaded=0)
    assert not budget.may_start(NOW, starting=2, loaded=0)


# -- which record is to blame -------------------------------------------------------------------


def job(body: bytes = b'{"x":1}', *, at_s: float = NOW) -> Job:
    return Job(body, NOW + 60, None, queued_s=at_s, alone=True)


def test_kills_are_counted_by_the_record_whoever_sends_it_and_however_it_is_written():
    suspects = Suspects()
    first, second = job(b'{"x":1,"y":2}'), job(b'{ "y": 2, "x": 1 }')

    suspects.blame(first)
    assert suspects.standing_of(second, now=NOW) == "suspect"
    suspects.blame(second)

    assert suspects.standing_of(first, now=NOW) == "in_question"
    assert suspects.standing_of(job(b'{"x":2,"y":2}'), now=NOW) == "free"


def test_a_verdict_holds_for_what_is_inside_and_not_for_what_comes_after_a_release():
    suspects = Suspects()
    inside, later = job(at_s=NOW - 1), job(at_s=NOW + 1)
    suspects.blame(inside)
    suspects.blame(inside)

    suspects.condemn(inside, now=NOW)

    assert suspects.standing_of(inside, now=NOW) == "poison"
    assert suspects.standing_of(later, now=NOW) == "free"
    assert not suspects


def test_a_trial_goes_on_without_its_caller_but_not_for_ever():
    suspects = Suspects()
    one = job()
    assert not suspects.is_on_trial(one, now=NOW)

    suspects.blame(one)
    assert suspects.is_on_trial(one, now=NOW + 1)
    assert not suspects.is_on_trial(one, now=NOW + 60)

    suspects.blame(one)
    assert not suspects.is_on_trial(one, now=NOW + 1)


def ran_over_twice(one: Job) -> Suspects:
    suspects = Suspects()
    assert not suspects.ran_over([one], now=NOW), "once is chance"
    assert suspects.ran_over([one], now=NOW + 1)
    return suspects


def test_a_record_that_ran_over_its_time_alone_twice_is_told_so_whoever_sends_it():
    suspects = ran_over_twice(job(b'{"x":1,"y":2}'))
    again = Job(b'{"y":2,"x":1}', NOW + 60, None)

    suspects.note(again, now=NOW + 2)

    assert again.alone
    assert REFUSALS[suspects.standing_of(again, now=NOW + 2)].failure == "model_timeout"
    assert suspects.standing_of(job(b'{"x":2}'), now=NOW + 2) == "free"


def test_with_mates_or_as_a_rule_nobody_is_blamed_for_running_over():
    suspects = Suspects()
    rule = Job(b"{}", NOW + 60, None, rule=0)

    for _ in range(3):
        assert not suspects.ran_over([job(), job(b'{"x":2}')], now=NOW)
        assert not suspects.ran_over([rule], now=NOW)

    assert not suspects


def test_a_record_seen_to_run_over_once_runs_alone_and_is_tried():
    suspects = Suspects()
    suspects.ran_over([job()], now=NOW)
    again = Job(b'{"x":1}', NOW + 60, None)

    suspects.note(again, now=NOW + 1)

    assert again.alone
    assert suspects.standing_of(again, now=NOW + 1) == "free"


@pytest.mark.parametrize(
    ("asked_s", "is_quick", "proves", "refused_at_s", "tried_at_s"),
    [
        (NOW + 2, True, True, NOW + 299, NOW + 302),
        (NOW + 0.5, True, False, NOW + 29, NOW + 32),
        (None, True, False, NOW + 29, NOW + 32),
    ],
    ids=["golden cases in time", "asked before", "never asked"],
)
def test_golden_cases_in_time_prove_that_it_is_the_record(
    asked_s: float | None, is_quick: bool, proves: bool, refused_at_s: float, tried_at_s: float
):
    suspects = ran_over_twice(job())

    told = asked_s is not None and suspects.over_time.judge(asked_s, is_quick=is_quick)

    assert told == proves
    assert suspects.standing_of(job(), now=refused_at_s) == "over_time"
    assert suspects.standing_of(job(), now=tried_at_s) == "free"


def test_golden_cases_that_are_late_or_wrong_too_clear_the_record():
    """The machine is busy, or the model waits for something: whoever was there is not to blame."""
    suspects = ran_over_twice(job())

    assert not suspects.over_time.judge(NOW + 2, is_quick=False)

    assert suspects.standing_of(job(), now=NOW + 3) == "free"
    assert not suspects


def test_what_ran_over_long_ago_is_forgotten_and_counts_anew():
    suspects = ran_over_twice(job())
    suspects.over_time.judge(NOW + 2, is_quick=True)

    suspects.note(job(b'{"x":9}'), now=NOW + 400)

    assert not suspects
    assert not suspects.ran_over([job()], now=NOW + 401)


def test_a_record_that_is_answered_is_cleared_of_running_over():
    suspects = Suspects()
    suspects.ran_over([job()], now=NOW)

    suspects.clear(job())

    assert not suspects.ran_over([job()], now=NOW + 1)


def test_of_many_records_that_run_over_the_oldest_are_forgotten():
    over_time = OverTime()
    for number in range(1_200):
        over_time.blame(number.to_bytes(2, "big"), NOW)

    assert repr(over_time) == "<OverTime 1000>"


def test_an_answer_ends_the_suspicion():
    suspects = Suspects()
    one = job()
    suspects.blame(one)

    suspects.clear(one)

    assert suspects.standing_of(one, now=NOW) == "free"
    assert repr(suspects) == "<Suspects 0 in_question=0>"


# -- how many workers ---------------------------------------------------------------------------


def scaled(active: int, *, calm_since_s: float | None = None, **seen: Any) -> Scale:
    seen = {"wait_s": 0.0, "busy": 0.0, "patience_s": 0.1, "at_least": 1, "at_most": 4, "now": NOW, **seen}
    return next_scale(Scale(active, calm_since_s), **seen)


def test_the_number_follows_the_wait_with_hysteresis():
    assert scaled(1, wait_s=0.11) == Scale(2)
    assert scaled(4, wait_s=9.0) == Scale(4)
    assert scaled(2, wait_s=0.05, calm_since_s=NOW - 19) == Scale(2), (
        "neither late nor calm: calm starts over"
    )
    assert scaled(2, calm_since_s=None) == Scale(2, NOW)
    assert scaled(2, calm_since_s=NOW - 19) == Scale(2, NOW - 19)
    assert scaled(2, calm_since_s=NOW - 20) == Scale(1)
    assert scaled(1, calm_since_s=NOW - 99) == Scale(1)


def test_the_number_stays_between_its_bounds():
    assert scaled(0, at_least=2).active == 2
    assert scaled(9, at_most=4).active == 4


def test_no_worker_goes_whose_work_the_others_could_not_do():
    assert scaled(2, busy=0.6, calm_since_s=NOW - 20) == Scale(1)
    assert scaled(2, busy=0.8, calm_since_s=NOW - 20) == Scale(2)
    assert scaled(4, busy=2.0, calm_since_s=NOW - 20) == Scale(3)
    assert scaled(4, busy=2.2, calm_since_s=NOW - 20) == Scale(4)


class Simulated:
    """A pool of single-record workers, 20 ms each, behind one queue, ticked as the real one is."""

    STEP_S = 0.005
    SERVICE_STEPS = 4

    def __init__(self, at_most: int) -> None:
        self.at_most = at_most
        self.scale = Scale(1)
        self.busy = 0.0
        self.steps = 0  # whole steps, so that no rounding makes the service slower than it is
        self.queue: deque[int] = deque()
        self.running: list[int] = []
        self.changes: list[tuple[float, int]] = []
        self.longest_wait_s = 0.0

    def run(self, for_s: float, arrivals: Callable[[float], int]) -> None:
        """Go on for a while; `arrivals(now)` says how many come in a step."""
        for _ in range(round(for_s / self.STEP_S)):
            self.steps += 1
            self.queue.extend([self.steps] * arrivals(self.now))
            self.running = [end for end in self.running if end > self.steps]
            if self.steps % 20 == 0:
                self.busy += (len(self.running) - self.busy) * 0.1 / 5.0
                self._rescale()
            while self.queue:
                if len(self.running) >= self.scale.active:
                    self._rescale()
                if len(self.running) >= self.scale.active:
                    break
                waited_s = (self.steps - self.queue.popleft()) * self.STEP_S
                self.longest_wait_s = max(self.longest_wait_s, waited_s)
                self.running.append(self.steps + self.SERVICE_STEPS)

    @property
    def now(self) -> float:
        """The time in seconds."""
        return self.steps * self.STEP_S

    def _rescale(self) -> None:
        wait_s = (self.steps - self.queue[0]) * self.STEP_S if self.queue else 0.0
        before = self.scale.active
        self.scale = next_scale(
            self.scale,
            wait_s=wait_s,
            busy=self.busy,
            patience_s=0.1,
            at_least=1,
            at_most=self.at_most,
            now=self.now,
        )
        if self.scale.active != before:
            self.changes.append((round(self.now, 2), self.scale.active))


def steady(workers_worth: float) -> Callable[[float], int]:
    """Arrivals evenly spread, that keep so many workers busy."""
    owed = 0.0

    def arrivals(_: float) -> int:
        nonlocal owed
        owed += workers_worth / Simulated.SERVICE_STEPS
        whole = int(owed)
        owed -= whole
        return whole

    return arrivals


def by_chance(seed: int, workers_worth: Callable[[float], float]) -> Callable[[float], int]:
    """Arrivals by chance (Poisson), at a load that may change with time."""
    chance = random.Random(seed)

    def arrivals(now: float) -> int:
        mean = workers_worth(now) / Simulated.SERVICE_STEPS
        count, product = 0, chance.random()
        while product > math.exp(-mean):
            count += 1
            product *= chance.random()
        return count

    return arrivals


@pytest.mark.parametrize("load", [0.3, 0.9, 1.5, 2.5])
def test_a_steady_load_finds_its_number_of_workers_and_keeps_it(load: float):
    simulated = Simulated(at_most=4)

    simulated.run(300.0, steady(load))

    assert simulated.scale.active == math.ceil(load)
    assert len(simulated.changes) == math.ceil(load) - 1, "up, and never down and up again"


def test_a_burst_is_met_at_once_and_given_back_slowly():
    simulated = Simulated(at_most=4)
    simulated.run(30.0, steady(0.4))

    simulated.run(60.0, steady(3.5))
    up_s = simulated.changes[2][0] - 30.0
    simulated.run(120.0, steady(0.4))

    assert [number for _, number in simulated.changes] == [2, 3, 4, 3, 2, 1]
    assert up_s < 1.0
    downs = [at_s for at_s, _ in simulated.changes[3:]]
    assert all(after - before >= 20.0 for before, after in zip([90.0, *downs], downs, strict=False))


@pytest.mark.parametrize("seed", range(2))
def test_load_by_chance_near_a_worker_s_limit_does_not_flap(seed: int):
    simulated = Simulated(at_most=4)

    simulated.run(600.0, by_chance(seed, lambda now: 0.9))

    assert len(simulated.changes) <= 4, simulated.changes


def test_a_day_in_twenty_minutes_changes_the_number_a_few_times():
    simulated = Simulated(at_most=4)

    simulated.run(1_200.0, by_chance(7, lambda now: 1.6 - 1.5 * math.cos(now * math.tau / 1_200)))

    numbers = [number for _, number in simulated.changes]
    assert max(numbers) == 4
    assert simulated.scale.active == 1
    assert len(numbers) <= 12, simulated.changes
    assert simulated.longest_wait_s < 1.0


# -- what a batch costs, and when an answer comes -----------------------------------------------


def test_without_experience_a_batch_costs_nothing():
    assert BatchCost().estimate_s(64) == 0.0


def test_fixed_and_marginal_parts_are_learnt_from_batches_of_different_sizes():
    cost = BatchCost()
    for size in [1, 8, 3, 20, 5, 64, 2] * 6:
        cost.learn(size, 0.010 + 0.001 * size)

    assert cost.estimate_s(1) == pytest.approx(0.011, rel=0.01)
    assert cost.estimate_s(100) == pytest.approx(0.110, rel=0.01)


def test_batches_of_one_size_say_nothing_of_others():
    cost = BatchCost()
    for _ in range(50):
        cost.learn(4, 0.020)

    assert cost.estimate_s(1) == cost.estimate_s(64) == pytest.approx(0.020)


def test_a_model_that_becomes_slower_is_believed_within_a_few_dozen_batches():
    cost = BatchCost()
    for _ in range(200):
        cost.learn(1, 0.010)
    for _ in range(60):
        cost.learn(1, 0.050)

    assert cost.estimate_s(1) == pytest.approx(0.050, rel=0.05)


def test_noise_never_makes_a_part_negative():
    cost = BatchCost()
    for size, took_s in [(1, 0.05), (64, 0.01), (2, 0.05), (60, 0.01)] * 5:
        cost.learn(size, took_s)

    assert 0.0 <= cost.estimate_s(1) <= cost.estimate_s(64) < 0.1


@pytest.mark.parametrize(
    ("queued", "new", "workers", "max_batch", "busy_left_s", "expected"),
    [
        (0, 1, 1, 1, 0.0, (0.0, 0.02)),
        (0, 1, 2, 1, 0.01, (0.01, 0.02)),
        (9, 1, 2, 1, 0.0, (0.08, 0.02)),
        (9, 1, 2, 5, 0.0, (0.0, 0.02)),
        (10, 1, 2, 5, 0.0, (0.02, 0.02)),
        (0, 4, 2, 1, 0.0, (0.0, 0.04)),
        (5, 1, 0, 5, 0.0, (math.inf, 0.0)),
    ],
)
def test_the_forecast_counts_rounds_of_batches(
    queued: int,
    new: int,
    workers: int,
    max_batch: int,
    busy_left_s: float,
    expected: tuple[float, float],
):
    cost = BatchCost()
    cost.learn(1, 0.02)

    told = forecast(
        queued=queued, new=new, workers=workers, max_batch=max_batch, cost=cost, busy_left_s=busy_left_s
    )

    assert told == pytest.approx(expected)


def test_the_newest_go_first_only_when_the_oldest_are_nearly_lost():
    assert not newest_first(oldest_wait_s=0.70, budget_s=1.0)
    assert newest_first(oldest_wait_s=0.80, budget_s=1.0)


# -- admission ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "in"),
        ({"remaining_s": 0.0}, "deadline_exceeded"),
        ({"remaining_s": -1.0, "in_flight": 10}, "deadline_exceeded"),
        ({"in_flight": 10}, "overloaded"),
        ({"bytes_inside": 1_000}, "in"),
        ({"bytes_inside": 1_001}, "overloaded"),
        ({"queue_s": 0.5}, "in"),
        ({"queue_s": 0.51}, "overloaded"),
        ({"queue_s": 0.4, "own_s": 0.7}, "overloaded"),
        ({"queue_s": 0.1, "own_s": 1.1}, "deadline_exceeded"),
        ({"queue_s": 0.0, "own_s": 9.0}, "in"),
        ({"queue_s": math.inf}, "in"),
        ({"queue_s": math.inf, "in_flight": 10}, "overloaded"),
    ],
)
def test_only_what_will_be_answered_in_time_comes_in(changed: dict[str, float], expected: str):
    usual: dict[str, Any] = {
        "queue_s": 0.0,
        "own_s": 0.1,
        "remaining_s": 1.0,
        "wait_share": 0.5,
        "in_flight": 0,
        "most_in_flight": 10,
        "bytes_inside": 0,
        "most_bytes": 1_000,
    }

    assert decide_admission(**{**usual, **changed}) == expected


def test_a_quota_lets_a_burst_in_and_then_its_rate():
    due_s, waits = 0.0, []
    for at_s in [10.0, 10.0, 10.0, 10.0, 10.05, 10.1, 10.1]:
        due_s, wait_s = next_arrival_s(due_s, now=at_s, interval_s=0.1, burst=3)
        waits.append(round(wait_s, 6))

    assert waits == [0, 0, 0, 0.1, 0.05, 0, 0.1]


def test_who_waits_as_told_conforms():
    due_s, wait_s = next_arrival_s(0.0, now=5.0, interval_s=1 / 3, burst=1)
    due_s, wait_s = next_arrival_s(due_s, now=5.01, interval_s=1 / 3, burst=1)

    assert next_arrival_s(due_s, now=5.01 + wait_s, interval_s=1 / 3, burst=1)[1] == 0


def test_one_worker_that_errs_is_a_worker_and_two_in_a_row_are_the_release():
    assert [golden_level(wrong) for wrong in (0, 1, 2, 9)] == ["", "worker", "release", "release"]


def test_who_was_with_a_worker_that_the_system_killed_has_not_used_up_a_try_with_one_that_hangs():
    hung = end_of("model_timeout", by_us=True, cause="SIGKILL", broke_its_word=False)
    killed = end_of("model_crash", by_us=False, cause="SIGKILL", broke_its_word=False)

    assert (hung.failure, hung.counts_as) == ("model_timeout", "model_timeout")
    assert (killed.failure, killed.counts_as) == ("model_crash", "killed")
    assert not is_tried_out(["model_timeout", "killed", "killed"], "killed")
    assert is_tried_out(["model_timeout", "killed", "model_timeout"], "model_timeout")
    assert is_tried_out(["killed"] * 4 + ["model_crash", "model_timeout"], "model_timeout"), "six in all"


def test_only_what_ended_a_worker_from_inside_puts_its_record_under_suspicion():
    ends = {
        "exited": end_of("", by_us=False, cause="exit 3", broke_its_word=False),
        "killed by somebody": end_of("", by_us=False, cause="SIGKILL", broke_its_word=False),
        "spoke nonsense": end_of("", by_us=False, cause="SIGKILL", broke_its_word=True),
        "silent when asked": end_of("silent", by_us=True, cause="SIGKILL", broke_its_word=False),
        "over its time": end_of("model_timeout", by_us=True, cause="SIGKILL", broke_its_word=False),
    }

    assert [name for name, end in ends.items() if end.inside] == ["exited", "spoke nonsense"]
    assert [name for name, end in ends.items() if end.outside] == ["killed by somebody", "silent when asked"]


def test_a_batch_is_no_larger_than_ends_in_its_time():
    cost = BatchCost()
    assert cost.most_within(0.5, most=64) == 16, "nothing is known: not all at once"
    for size in (1, 4, 1, 4):
        cost.learn(size, 0.02 * size)
    assert cost.most_within(0.5, most=64) == 16, "four times the largest that ended"
    for size in (16, 1, 16):
        cost.learn(size, 0.02 * size)
    assert cost.most_within(0.5, most=64) in (24, 25)
    assert cost.most_within(0.01, most=64) == 1, "one record is always tried"


def test_a_model_whose_cost_does_not_grow_gets_its_largest_batch_after_a_few():
    cost = BatchCost()
    sizes = []
    for _ in range(4):
        size = cost.most_within(0.075, most=64)
        sizes.append(size)
        cost.learn(size, 0.0002)
    assert sizes == [16, 64, 64, 64]
