"""The judge of canaries and the probation: what they say, how often they are wrong, and that they can say no.

Simulations with seeded chance and no clock: each plays requests one after the other and looks every few of them, as
the server's tick does.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from nightproof.releases.judge import METRICS, Judgement, Rules, UnknownMetric, judge
from nightproof.releases.probation import Counted, Terms, rule, terms_of
from nightproof.releases.routing import Split, arm_of, place_of, steps_from
from nightproof.releases.sequential import Arms, log_arms, log_rate, lower_rate, upper_rate
from nightproof.releases.tally import Seen, Tally

RULES = Rules(least_s=0.0, most_s=math.inf)
Play = Callable[[random.Random], dict[str, object]]


def like_live(
    chance: random.Random,
    *,
    errors: float = 0.002,
    slow: float = 1.0,
    less_sure: float = 0.0,
    yes: float = 0.4,
) -> dict[str, object]:
    """Play one request: log-normal latency around 10 ms, confidence around 0.8, two outputs."""
    if chance.random() < errors:
        return {"failed": True}
    return {
        "duration_s": slow * chance.lognormvariate(-4.6, 0.4),
        "confidence": min(1.0, max(0.0, chance.gauss(0.8 - less_sure, 0.1))),
        "outputs": (("approve", chance.random() < yes), ("score", chance.random())),
    }


def trial(
    seed: int,
    canary: Play,
    *,
    live: Play = like_live,
    requests: int = 6_000,
    share: float = 0.2,
    rules: Rules = RULES,
) -> tuple[Judgement, int]:
    """Play a canary until there is a verdict, or the requests are used up; look every 50."""
    chance = random.Random(seed)
    tally = Tally(share, rules.slack)
    for number in range(1, requests + 1):
        arm = "canary" if chance.random() < share else "live"
        tally.add(Seen(arm=arm, **(canary if arm == "canary" else live)(chance)))  # type: ignore[arg-type]
        if number % 50 == 0:
            told = judge(tally.picture(), rules, step_s=number / 100)
            if told.verdict != "not_enough_data":
                return told, number
    return told, requests


def verdicts(count: int, canary: Play, **named: object) -> Counter[str]:
    """Play several trials and count their verdicts."""
    return Counter(trial(seed, canary, **named)[0].verdict for seed in range(count))  # type: ignore[arg-type]


WORSE: dict[str, Play] = {
    "errors": lambda chance: like_live(chance, errors=0.05),
    "latency": lambda chance: like_live(chance, slow=2.0),
    "confidence": lambda chance: like_live(chance, less_sure=0.15),
    "outputs": lambda chance: like_live(chance, yes=0.0),
    "fallbacks": lambda chance: {"degraded": True} if chance.random() < 0.05 else like_live(chance),
    "refusals": lambda chance: {"refused": True} if chance.random() < 0.05 else like_live(chance),
    "output_checks": lambda chance: {**like_live(chance), "flagged": chance.random() < 0.05},
}


@pytest.mark.parametrize("metric", METRICS)
def test_a_release_made_worse_on_purpose_is_found_by_its_metric(metric: str):
    """The negative control: a gate that cannot fail is none."""
    told, requests = trial(3, WORSE[metric])

    assert told.verdict == "worse"
    assert metric in {one.metric for one in told.findings if one.verdict == "worse"}
    assert requests < 3_000


@pytest.mark.parametrize("metric", METRICS)
def test_a_worse_release_is_found_nearly_always(metric: str):
    found = verdicts(10, WORSE[metric], rules=Rules(least_s=math.inf))

    assert found["worse"] >= 9


def test_a_release_that_is_the_same_is_hardly_ever_called_worse():
    """Two hundred trials of 3,000 requests, with sixty looks each: at most 1 % are promised to be wrong."""
    never_pass = Rules(least_s=math.inf)

    found = verdicts(200, like_live, requests=3_000, rules=never_pass)

    assert found["worse"] <= 5, "1 % of 200 is 2; more than 5 would come once in 60 such tests"


def test_a_release_that_is_the_same_passes_and_one_that_is_worse_does_not():
    """What is told to be not worse is no worse than the margin allows."""
    same = verdicts(10, like_live, requests=12_000)
    beyond_the_margin = verdicts(10, lambda chance: like_live(chance, errors=0.04), requests=12_000)

    assert same["not_worse"] >= 8
    assert beyond_the_margin["not_worse"] == 0


def test_a_better_release_is_not_held_up():
    better = verdicts(10, lambda chance: like_live(chance, errors=0.0, slow=0.5), requests=12_000)

    assert better["not_worse"] >= 8
    assert better["worse"] == 0


def test_a_world_that_gets_worse_is_not_the_canarys_fault():
    """The error rate drifts for both: each error is the canary's by the split's own chance, and nothing follows."""
    chance = random.Random(7)
    tally = Tally(0.2, RULES.slack)
    for number in range(6_000):
        arm = "canary" if chance.random() < 0.2 else "live"
        rate = 0.001 if number < 3_000 else 0.3
        tally.add(Seen(arm=arm, **like_live(chance, errors=rate)))  # type: ignore[arg-type]

        if number % 100 == 0:
            assert judge(tally.picture(), Rules(least_s=math.inf), step_s=1.0).verdict == "not_enough_data"


def test_one_person_who_asks_a_thousand_times_is_one_piece_of_evidence():
    """A canary split by subject: the requests of one share a fate."""
    tally = Tally(0.2, RULES.slack)
    for number in range(1, 2_000):
        tally.add(Seen(arm="live", unit=number % 50 + 10, **like_live(random.Random(number))))  # type: ignore[arg-type]
        tally.add(Seen(arm="canary", unit=1, failed=True))

    told = judge(tally.picture(), RULES, step_s=1_000.0)

    assert tally.picture().steps[0].events["errors"][0] == 1
    assert told.verdict == "not_enough_data"


def test_without_requests_there_is_no_verdict_and_in_the_end_an_end():
    tally = Tally(0.05, RULES.slack)
    rules = Rules(most_s=60.0)

    early, late = (judge(tally.picture(), rules, step_s=step_s) for step_s in (59.0, 61.0))

    assert (early.verdict, early.is_overdue) == ("not_enough_data", False)
    assert (late.verdict, late.is_overdue) == ("not_enough_data", True)


def test_a_step_lasts_at_least_as_long_as_the_rules_say():
    told, _ = trial(1, like_live, requests=12_000)
    assert told.verdict == "not_worse"

    too_soon, _ = trial(1, like_live, requests=12_000, rules=Rules(least_s=121.0))
    too_few, _ = trial(1, like_live, requests=12_000, rules=Rules(least_s=0.0, least_requests=10_000))

    assert too_soon.verdict == too_few.verdict == "not_enough_data"


@pytest.mark.parametrize("name", ["error", "latency_p99", "", "Errors"])
def test_a_metric_that_nobody_measures_is_an_error_and_never_a_pass(name: str):
    with pytest.raises(UnknownMetric, match="Nothing is measured under the name"):
        Rules(metrics=("errors", name))


def test_nothing_to_judge_by_is_an_error_too():
    with pytest.raises(UnknownMetric):
        Rules(metrics=())


def test_evidence_of_earlier_steps_adds_up():
    one, two = [Arms(0.05, 3, 2)], [Arms(0.05, 3, 2), Arms(0.5, 9, 1)]

    assert log_arms(two) > log_arms(one) > 0


def test_a_text_that_never_changes_has_no_distribution():
    """A version's name in the answer is another one with every release."""
    tally = Tally(0.5, RULES.slack)
    for number in range(600):
        arm = "canary" if number % 2 else "live"
        tally.add(Seen(arm=arm, duration_s=0.01, outputs=(("by", arm), ("flag", True))))

    assert tally.picture().names["outputs"] == ("flag=true", "flag=(other)")


def test_reasons_name_no_values():
    told, _ = trial(3, lambda chance: {**like_live(chance), "outputs": (("approve", "Jane Doe"),)})

    assert told.verdict == "worse"
    assert "Jane" not in told.why


# ---- the arithmetic


def test_what_a_rate_can_be_holds_at_every_look():
    """A thousand sequences, looked at after every request: the bound is left by few at any time."""
    left = 0
    for seed in range(300):
        chance, events = random.Random(seed), 0
        for total in range(1, 200):
            events += chance.random() < 0.1
            if upper_rate(events, total, 0.05) < 0.1 or lower_rate(events, total, 0.05) > 0.1:
                left += 1
                break

    assert left / 300 <= 0.1, "two bounds of 5 % each"


@pytest.mark.parametrize(("events", "total"), [(0, 10), (3, 10), (10, 10), (50, 1_000)])
def test_the_bounds_hold_the_rate_between_them(events: int, total: int):
    low, high = lower_rate(events, total, 0.05), upper_rate(events, total, 0.05)

    assert 0.0 <= low <= events / total <= high <= 1.0


def test_no_counts_leave_everything_possible():
    assert (lower_rate(0, 0, 0.05), upper_rate(0, 0, 0.05)) == (0.0, 1.0)


def test_evidence_against_an_allowed_rate_grows_above_it_and_falls_below():
    assert log_rate(10, 100, allowed=0.001) > 10
    assert log_rate(0, 1_000, allowed=0.01) < 0
    assert log_rate(1, 10, allowed=1.0) == -math.inf


# ---- the probation

TERMS = Terms(allowed_bad=0.001)


def probation(seed: int, bad_share: float, *, requests: int = 60_000, terms: Terms = TERMS) -> int:
    """Play a fresh release at 100 requests/s, looked at four times a second; return the request of the rollback."""
    chance, counted, first = random.Random(seed), Counted(failures={}), 0
    for number in range(1, requests + 1):
        is_bad = chance.random() < bad_share
        first = first or (number if is_bad else 0)
        counted.add(failure="invalid_output" if is_bad else "", duration_s=0.01, slow_s=None)
        if number % 25 == 0 and rule(counted, terms, since_s=number / 100).standing == "broken":
            return number - first
    return 0


@pytest.mark.parametrize("bad_share", [0.02, 0.1, 1.0])
def test_a_bad_release_is_found_within_five_seconds_of_its_first_failure(bad_share: float):
    """At 100 requests/s: five seconds are 500 requests. Nine of ten times, and the others soon after."""
    took = sorted(probation(seed, bad_share) for seed in range(40))

    assert 0 < took[35] <= 500
    assert took[-1] <= 1_000


def test_a_release_that_keeps_its_objective_is_left_alone_for_the_whole_probation():
    back = [probation(seed, 0.001, requests=20_000) for seed in range(60)]

    assert sum(one > 0 for one in back) <= 3, "0.5 % of 60 is 0.3, where the objective is just kept"


def test_what_was_so_before_is_not_the_new_releases_fault():
    """The one before failed in 3 % of cases, for a reason outside: 3 % again is no reason to go back, 10 % is."""
    terms = terms_of(
        availability=0.999, latency_p99_ms=None, before=(300, 10_000), false_alarm=0.005, for_s=600.0
    )

    assert not any(probation(seed, 0.03, requests=5_000, terms=terms) for seed in range(10))
    assert all(probation(seed, 0.15, requests=5_000, terms=terms) for seed in range(10))


def test_a_release_that_is_only_slower_than_promised_breaks_its_objective():
    terms = terms_of(
        availability=0.999, latency_p99_ms=100.0, before=(0, 500), false_alarm=0.005, for_s=600.0
    )
    counted = Counted(failures={})
    for number in range(200):
        counted.add(failure="", duration_s=0.2 if number % 10 == 0 else 0.01, slow_s=terms.slow_s)

    ruling = rule(counted, terms, since_s=2.0)

    assert ruling.standing == "broken"
    assert ruling.why.startswith("latency: 20 of 200 answers took longer than 0.1 s")


@pytest.mark.parametrize(("before", "is_broken"), [((0, 500), True), ((60, 500), False), ((500, 500), False)])
def test_a_release_that_is_as_slow_as_the_one_before_is_not_to_blame(
    before: tuple[int, int], is_broken: bool
):
    terms = terms_of(
        availability=0.999,
        latency_p99_ms=100.0,
        before=(0, 500),
        slow_before=before,
        false_alarm=0.005,
        for_s=600.0,
    )
    counted = Counted(failures={})
    for number in range(2_000):
        slow = before == (500, 500) or number % 10 == 0
        counted.add(failure="", duration_s=0.2 if slow else 0.01, slow_s=terms.slow_s)

    assert (rule(counted, terms, since_s=2.0).standing == "broken") == is_broken


def test_a_probation_ends():
    assert rule(Counted(total=10, failures={}), TERMS, since_s=600.0).standing == "passed"
    assert rule(Counted(total=10, failures={}), TERMS, since_s=599.0).standing == "watched"


# ---- who gets which


def test_a_unit_keeps_its_release_and_stays_with_the_canary_while_the_share_grows():
    units = [str(number).encode() for number in range(2_000)]
    shares = (0.05, 0.2, 0.5)

    met = [
        {unit for unit in units if arm_of(unit, Split(share, "subject", b"salt")) == "canary"}
        for share in shares
    ]

    assert met[0] < met[1] < met[2]
    for share, found in zip(shares, met, strict=True):
        assert abs(len(found) / 2_000 - share) < 0.04


def test_another_trial_meets_other_units_first():
    one, other = ([place_of(str(unit).encode(), salt) < 0.5 for unit in range(200)] for salt in (b"a", b"b"))

    assert one != other
    assert all(0 <= place_of(bytes([number]), b"a") < 1 for number in range(256))


def test_a_canary_begins_at_its_share_and_takes_the_larger_steps():
    assert steps_from(0.1, (0.05, 0.2, 0.5)) == (0.1, 0.2, 0.5)
    assert steps_from(0.6, (0.05, 0.2, 0.5)) == (0.6,)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        steps_from(1.0, ())
