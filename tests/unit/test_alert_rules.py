"""What is counted, and how it is judged: objectives, shares, conditions; and that not known is not good."""

from __future__ import annotations

import math
import time

import msgspec
import pytest

from nightproof.base.alerting import CAUSES
from nightproof.base.conditions import Condition
from nightproof.base.failures import CATALOGUE
from nightproof.watch.alerts.counts import Series, Slowness, bucket_of, values_of
from nightproof.watch.alerts.judge import Verdict, judge, tail
from nightproof.watch.alerts.rules import Promise, Rule, rules_of
from nightproof.watch.meters import DURATION_BUCKETS_S, Totals

PROMISE = Promise(service="loans", availability=0.999, latency_p99_ms=250)
KEYS = {
    "page": ("availability_burning", "loans", "page"),
    "ticket": ("availability_burning", "loans", "ticket"),
    "timeout": ("model_timeout", "loans", "page"),
    "input": ("invalid_input", "loans", "ticket"),
    "internal": ("internal_error", "loans", "page"),
}


def series_of(*per_second: dict[str, int], step_s: float = 1.0, times: int = 1) -> Series:
    """Return a series that was fed these increments, one after the other, `times` over."""
    series, now_s, totals = Series(now_s=0.0), 0.0, dict[str, int]()
    for _ in range(times):
        for increments in per_second:
            now_s += step_s
            for name, count in increments.items():
                totals[name] = totals.get(name, 0) + count
            series.add(dict(totals), now_s=now_s)
    return series


def requests(good: int = 0, bad: int = 0, failure: str = "model_timeout") -> dict[str, int]:
    """Return one second's increments."""
    every = {"all": good + bad, "judged": good + bad, "bad": bad}
    return every | ({f"failed:{failure}": bad} if bad else {})


def verdict(key: str, series: Series | None, *conditions: Condition, now_s: float = 1e6) -> Verdict:
    """Judge one rule."""
    found = judge(
        rules_of([PROMISE]), {"loans": series} if series is not None else {}, conditions, now_s=now_s
    )
    return found[KEYS[key]]


def test_every_failure_mode_that_alerts_has_a_rule_for_the_server_and_for_each_service():
    rules = rules_of([PROMISE])

    named = {(rule.failure, rule.service) for rule in rules}
    burning = {"availability_burning", "latency_burning"}

    wanted = {code for code, one in CATALOGUE.items() if one.severity != "none"}
    assert {failure for failure, service in named if service == "loans"} == wanted
    assert {failure for failure, service in named if service == ""} == wanted - burning
    assert len({rule.key for rule in rules}) == len(rules)


def test_causes_are_failures_of_the_catalogue_and_never_stand_behind_themselves():
    reached = {symptom: set(causes) for symptom, causes in CAUSES.items()}
    for _ in CAUSES:
        for causes in reached.values():
            causes |= {deeper for cause in list(causes) for deeper in reached.get(cause, ())}

    assert {one for pair in CAUSES.items() for one in (pair[0], *pair[1])} <= set(CATALOGUE)
    assert [symptom for symptom, causes in reached.items() if symptom in causes] == []


def test_a_service_that_fails_every_request_burns_within_its_first_seconds():
    assert verdict("page", series_of(requests(bad=1), times=3)).judgement == "bad"


def test_a_single_failure_in_two_requests_a_day_is_chance_and_two_of_two_are_not():
    assert verdict("page", series_of(requests(good=1), requests(bad=1))).judgement == "good"
    assert verdict("page", series_of(requests(bad=1), requests(bad=1))).judgement == "bad"


def test_a_burn_just_above_the_factor_pages_and_just_below_it_does_not():
    above = series_of(requests(good=985, bad=15), times=400)
    below = series_of(requests(good=995, bad=5), times=400)

    assert verdict("page", above).judgement == "bad"
    assert verdict("page", below).judgement == "good"
    assert verdict("ticket", below).judgement == "bad", "five times the budget is for the morning"


def test_an_outage_of_an_hour_ago_pages_no_more_once_the_short_window_is_clean():
    series = series_of(*[requests(bad=10)] * 300, *[requests(good=10)] * 1_900)

    assert series.window(3_600).get("bad") == 3_000
    assert verdict("page", series).judgement == "good"


def test_an_outage_after_a_clean_hour_pages_within_a_minute():
    series = series_of(*[requests(good=100)] * 3_600, *[requests(bad=100)] * 55)

    assert verdict("page", series).judgement == "bad"


def test_no_requests_at_all_are_not_known_to_be_good():
    assert verdict("page", None).judgement == "unknown"
    assert verdict("page", series_of(requests(good=5), {}, step_s=4_000)).judgement == "unknown"


def test_the_latency_objective_counts_what_lies_above_the_first_bucket_that_reaches_it():
    counts = [0] * (len(DURATION_BUCKETS_S) + 1)
    counts[bucket_of(250, DURATION_BUCKETS_S)] = 90  # at most 250 ms
    counts[bucket_of(250, DURATION_BUCKETS_S) + 1] = 10
    totals = Totals(requests={("loans", "r1", "answered", ""): 100}, told_durations={"loans": counts})

    values = values_of(totals, Slowness().add(totals, [PROMISE]))["loans"]

    assert (values["timed"], values["slow"]) == (100, 10)


def durations(*, fast: int, medium: int) -> Totals:
    """Return totals with requests of up to 250 ms, and some of up to 500 ms."""
    counts = [0] * (len(DURATION_BUCKETS_S) + 1)
    counts[bucket_of(250, DURATION_BUCKETS_S)], counts[bucket_of(500, DURATION_BUCKETS_S)] = fast, medium
    return Totals(told_durations={"loans": counts})


def test_a_release_that_promises_more_is_not_held_to_what_was_answered_before_it():
    loose, strict = (msgspec.structs.replace(PROMISE, latency_p99_ms=limit_ms) for limit_ms in (500.0, 250.0))
    slowness, series = Slowness(), Series(now_s=0.0)

    for second in range(1, 401):
        totals = durations(fast=second * 100, medium=min(second, 300) * 50)
        promise = loose if second <= 300 else strict
        series.add(values_of(totals, slowness.add(totals, [promise]))["loans"], now_s=float(second))

    assert series.window(300.0).get("timed") > 0
    assert series.window(300.0).get("slow") == 0


def test_a_first_promise_of_latency_holds_from_when_it_is_made():
    none = msgspec.structs.replace(PROMISE, latency_p99_ms=None)
    slowness = Slowness()

    slowness.add(durations(fast=0, medium=900), [none])
    counted = slowness.add(durations(fast=90, medium=910), [PROMISE])

    assert counted["loans"] == {"timed": 100, "slow": 10}


@pytest.mark.parametrize(
    ("ending", "failure", "judged", "bad"),
    [
        ("answered", "", 1, 0),
        ("degraded", "model_timeout", 1, 0),
        ("failed", "model_timeout", 1, 1),
        ("refused", "overloaded", 1, 1),
        ("refused", "invalid_input", 0, 0),
        ("refused", "quota_exceeded", 0, 0),
        ("refused", "shutting_down", 0, 0),
        ("abandoned", "caller_gone", 0, 0),
    ],
)
def test_only_what_failed_by_our_doing_counts_against_the_objective(ending, failure, judged, bad):
    values = values_of(Totals(requests={("loans", "r1", ending, failure): 1}))["loans"]

    assert (values.get("judged", 0), values.get("bad", 0)) == (judged, bad)


def test_a_model_that_hangs_for_every_caller_alerts_by_its_second_timeout():
    assert verdict("timeout", series_of(requests(bad=1))).judgement != "bad"
    assert verdict("timeout", series_of(requests(bad=1), times=2)).judgement == "bad"


def test_one_timeout_in_a_thousand_requests_is_no_alert_and_five_in_a_hundred_are():
    assert verdict("timeout", series_of(requests(good=999, bad=1), times=60)).judgement == "good"
    assert verdict("timeout", series_of(requests(good=95, bad=5), times=10)).judgement == "bad"


def test_answers_of_a_fallback_count_as_the_failure_that_they_stand_in_for():
    totals = Totals(requests={("loans", "r1", "degraded", "model_timeout"): 9})

    assert values_of(totals)["loans"]["failed:model_timeout"] == 9


def test_callers_mistakes_alert_only_when_they_are_many_of_many():
    few = series_of(requests(good=90, bad=10, failure="invalid_input"), times=30)
    many = series_of(requests(good=50, bad=50, failure="invalid_input"), times=30)

    assert verdict("input", few).judgement == "good"
    assert verdict("input", many).judgement == "bad"


def test_one_fault_of_ours_is_one_too_many():
    assert (
        verdict("internal", series_of(requests(good=9_999, bad=1, failure="internal_error"))).judgement
        == "bad"
    )


def test_a_share_is_well_again_only_after_good_requests_were_seen():
    failed = [requests(bad=5)] * 4
    silent = series_of(*failed, *[{}] * 400)
    mended = series_of(*failed, *[requests(good=5)] * 70)
    tried = series_of(*failed, requests(good=6), *[{}] * 40)
    flaky = series_of(*[requests(good=9, bad=1)] * 30, requests(good=9), *[{}] * 400)

    assert verdict("timeout", series_of(*failed)).judgement == "bad"
    assert verdict("timeout", silent).judgement == "unknown"
    assert verdict("timeout", mended).judgement == "good"
    assert verdict("timeout", tried).judgement == "good", "six good ones after it failed always"
    assert verdict("timeout", flaky).judgement == "unknown", "nine good ones in a row are usual there"


def test_a_condition_is_bad_and_a_room_that_cannot_be_asked_is_not_good():
    here = Condition(failure="model_timeout", service="loans", since_s=10.0, detail="because")
    rules = [Rule(failure="disk_low", service="", severity="page")]

    assert verdict("timeout", None, here) == Verdict("bad", "because", is_condition=True)
    assert judge(rules, {}, [], now_s=0.0, unread=["disk_low"])[rules[0].key].judgement == "unknown"
    assert judge(rules, {}, [], now_s=0.0)[rules[0].key].judgement == "good"


def test_windows_stay_right_while_points_thin_out():
    series = Series(now_s=0.0)
    for second in range(1, 30_001):
        series.add({"all": second}, now_s=float(second))

    errors = {
        span: abs(series.window(span).get("all") - span) / span for span in (60, 300, 1_800, 3_600, 21_600)
    }

    assert max(errors.values()) <= 1 / 12, errors
    assert len(series) < 700


def test_counts_go_on_across_a_restart_and_a_clock_that_stepped_back_brings_no_negative_counts():
    series = Series(now_s=1_000.0)

    series.restore([(100.0, {"all": 7}), (700.0, {"all": 9}), (2_000.0, {"all": 50})], now_s=1_000.0)
    series.add({"all": 1}, now_s=1_001.0)

    assert series.newest["all"] == 10
    assert series.window(300.0).get("all") == 1
    assert series.window(86_400.0).get("all") == 3


def test_the_tail_is_that_of_the_binomial_distribution():
    exact = sum(math.comb(20, k) * 0.1**k * 0.9 ** (20 - k) for k in range(5, 21))

    assert tail(5, 20, 0.1) == pytest.approx(exact)
    assert tail(1, 1, 0.01) == pytest.approx(0.01)
    assert tail(0, 5, 0.1) == 1.0
    assert 0 < tail(11_000, 1_000_000, 0.01) < 1e-12
    began_s = time.process_time()
    assert tail(10**8, 10**9, 0.01) == 0.0
    assert time.process_time() - began_s < 0.1, "too unlikely for a number, and at once"
