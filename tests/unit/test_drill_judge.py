"""The judges of drills: each verdict can be lost, and by what was seen alone. Pure, with recorded observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nightproof.drills import judge
from nightproof.drills.observed import Call, Claim, Marks, Observations, Records, Sample, Told, Verdict
from nightproof.drills.promise import Promise

PROMISE = Promise(
    shelter="covered",
    may_fail=("model_error",),
    answer_within_s=0.8,
    recorded_as="model_error",
    alert="model_error",
    alert_within_s=10.0,
    recover_within_s=15.0,
)
MARKS = Marks(fault_s=2.0, undone_s=6.0, steady_s=6.5, ended_s=9.0)
NAMED = {"model_error": 1}
FIRED = Told(
    at_s=4.5,
    alertname="NightproofModelError",
    failure="model_error",
    service="credit",
    severity="page",
    state="firing",
)


def crowd(**told: Any) -> list[Call]:
    """Return ten calls a second for nine seconds; what is told is of the calls in the middle of the fault."""
    calls = []
    for number in range(90):
        at_s = number / 10
        more = told if 3.0 <= at_s < 5.0 else {}
        calls.append(Call(**{"sent_s": at_s, "took_s": 0.02, "status": 200, "id": str(number), **more}))
    return calls


GOOD = Observations(
    marks=MARKS,
    calls=crowd(ending="degraded", failure="model_error", by="constant"),
    told=[FIRED],
    samples=[Sample(at_s=at, is_up=True, is_ready=True, workers_ready=3) for at in range(9)],
    records=Records(acknowledged=90, failures={"model_error": 20}),
)


def seen(**changed: Any) -> Observations:
    """Return what a drill saw at which all held, but for what is changed."""
    return msgspec.structs.replace(GOOD, **changed)


def verdict(aspect: str, observations: Observations, promise: Promise = PROMISE) -> Verdict:
    """Judge, and return one aspect's verdict."""
    return next(one for one in judge.judge(promise, observations) if one.aspect == aspect)


def test_all_four_hold_where_what_was_promised_is_seen():
    verdicts = judge.judge(PROMISE, GOOD)

    assert [(one.aspect, one.word) for one in verdicts] == [
        ("contained", "held"),
        ("recorded", "held"),
        ("alerted", "held"),
        ("recovered", "held"),
    ]
    assert [one.seconds for one in verdicts] == [1.02, None, 2.5, 0.5]


@pytest.mark.parametrize(
    ("aspect", "change", "says"),
    [
        ("contained", lambda: {"calls": crowd(ending="hung", took_s=5.0)}, "20 callers were never answered"),
        ("contained", lambda: {"calls": crowd(ending="lost")}, "20 connections were cut"),
        ("contained", lambda: {"calls": crowd(ending="failed", failure="internal_error")}, "20 × internal_error"),
        ("contained", lambda: {"calls": crowd(ending="failed", status=500)}, "20 × status 500"),
        ("contained", lambda: {"calls": crowd(ending="failed", failure="model_error")}, "20 of 46 callers"),
        ("contained", lambda: {"calls": crowd(ending="degraded", took_s=0.9)}, "waited 0.90 s"),
        ("contained", lambda: {"calls": []}, "no call was made"),
        ("recorded", lambda: {"records": Records(acknowledged=90, missing=1, failures=NAMED)}, "1 of 90"),
        ("recorded", lambda: {"records": Records(is_verified=False, verified="record 7", failures=NAMED)}, "record 7"),
        ("recorded", lambda: {"records": Records(balances=False, balance="5 lack", failures=NAMED)}, "5 lack"),
        ("recorded", lambda: {"records": Records(acknowledged=90)}, "no record names model_error"),
        ("alerted", lambda: {"told": []}, "did not arrive in 7 s"),
        ("alerted", lambda: {"told": [msgspec.structs.replace(FIRED, at_s=1.0)]}, "did not arrive"),
        ("alerted", lambda: {"told": [msgspec.structs.replace(FIRED, at_s=13.0)]}, "it took 11.0 s"),
        ("alerted", lambda: {"told": [msgspec.structs.replace(FIRED, severity="ticket")]}, "it is a ticket"),
        ("alerted", lambda: {"told": [msgspec.structs.replace(FIRED, alertname="Other")]}, "it is called Other"),
        ("alerted", lambda: {"told": [msgspec.structs.replace(FIRED, failure="overloaded")]}, "did not arrive"),
        ("recovered", lambda: {"marks": msgspec.structs.replace(MARKS, steady_s=25.0, ended_s=26.0)}, "it took 19.0 s"),
        ("recovered", lambda: {"still_firing": ("NightproofModelError",)}, "NightproofModelError did not end"),
    ],
)  # fmt: skip
def test_each_verdict_can_be_lost(aspect: str, change: Callable[[], dict[str, Any]], says: str):
    found = verdict(aspect, seen(**change()))

    assert (found.word, says in found.seen) == ("fell short", True), found.seen


def test_what_is_not_as_before_is_not_restored():
    marks = msgspec.structs.replace(MARKS, steady_s=None)

    never = verdict("recovered", seen(marks=marks))
    not_undone = verdict("recovered", seen(not_restored="the lock: OSError"))

    assert (never.word, not_undone.word) == ("not restored", "not restored")
    assert "the lock" in not_undone.seen
    assert judge.worst(["held", "fell short", "not restored"]) == "not restored"


@pytest.mark.parametrize("aspect", ["contained", "recorded", "alerted", "recovered"])
def test_a_claim_of_the_drill_s_own_that_does_not_hold_loses_its_verdict(aspect: Any):
    claims = [Claim(aspect=aspect, what="exit code", promised="70", seen="0", holds=False)]

    words = {one.aspect: one.word for one in judge.judge(PROMISE, seen(claims=claims))}

    assert words.pop(aspect) == "fell short"
    assert set(words.values()) == {"held"}


def test_nobody_is_to_be_woken_where_no_alert_is_promised():
    quiet = msgspec.structs.replace(PROMISE, alert="", no_alert_why="a caller's mistake")

    assert verdict("alerted", GOOD, quiet).word == "not applicable"


def test_a_promise_of_the_model_s_own_answer_does_not_take_a_fallback_s_for_it():
    own = msgspec.structs.replace(PROMISE, shelter="all")

    assert verdict("contained", GOOD, own).word == "fell short"
    assert verdict("contained", GOOD, msgspec.structs.replace(own, harmed_at_most=0.5)).word == "held"


def test_named_failures_are_what_a_service_without_fallback_promises():
    named = msgspec.structs.replace(PROMISE, shelter="named")
    failing = seen(calls=crowd(ending="failed", failure="model_error"))

    assert verdict("contained", failing, named).word == "held"
    assert (
        verdict("contained", seen(calls=crowd(ending="failed", failure="overloaded")), named).word
        == "fell short"
    )


def test_wrong_answers_are_those_that_the_same_input_did_not_get_before():
    right = [Call(sent_s=n / 10, took_s=0.01, asked=n % 2, output=f"right {n % 2}") for n in range(20)]
    wrong = [
        Call(sent_s=2 + n / 10, took_s=0.01, asked=n % 2, output="wrong" if n < 3 else f"right {n % 2}")
        for n in range(10)
    ]

    assert judge.harm(wrong, before=right).wrong == 3
    assert judge.harm(wrong, before=wrong[5:]).wrong == 3


@pytest.mark.parametrize(
    ("calls", "samples", "steady"),
    [
        (crowd(), GOOD.samples, True),
        (crowd(ending="degraded"), GOOD.samples, False),
        (crowd(took_s=2.0), GOOD.samples, False),
        (crowd()[:5], GOOD.samples, False),
        (crowd(), [], False),
        (crowd(), [Sample(at_s=8.0, is_up=True, is_ready=False, workers_ready=3)], False),
        (crowd(), [Sample(at_s=8.0, is_up=True, is_ready=True, workers_ready=2)], False),
    ],
)
def test_steady_is_what_answers_by_itself_in_time_with_all_its_workers(
    calls: Any, samples: Any, steady: bool
):
    assert judge.is_steady(calls, samples, since_s=3.0, workers=3, within_s=0.3) is steady


def test_claims_about_figures_say_what_was_missed():
    late = judge.claim_at_most("recovered", "ready again", promised=20.0, seen=31.5, unit=" s")
    never = judge.claim_at_most("recovered", "ready again", promised=20.0, seen=None, unit=" s")
    few = judge.claim_at_least("contained", "answered", promised=40.0, seen=12.0)
    some = judge.claim_all(
        "contained", "told", [("a", "400"), ("b", "500")], promised="400", good=lambda told: told == "400"
    )
    none = judge.claim_all("contained", "told", [], promised="400", good=lambda told: True)

    assert [one.holds for one in (late, never, few, some, none)] == [False] * 5
    assert (late.seen, never.seen) == ("31.5 s", "not seen")
    assert some.seen == "1 of 2 not: b → 500"
