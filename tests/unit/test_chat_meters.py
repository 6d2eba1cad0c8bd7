"""What chat services use is counted once, under a bounded number of names."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from nightproof.base.clock import monotonic_s
from nightproof.checks.chat_tasks import Finding
from nightproof.declare.chat_description import BudgetDescription
from nightproof.watch.chat_meters import BYPASS_SHOWN_S, ChatMeters, again_of, budget_gauge, budget_shares
from nightproof.watch.meters import Meters
from nightproof.workers.upstream.values import Attempt, Usage


class Exchange(msgspec.Struct, kw_only=True):
    """The facts of one exchange, as the pipeline has them."""

    attempts: list[Attempt] = []
    usage: Usage | None = None
    cost: float = 0.0
    upstream: str = ""
    first_token_us: int = 0
    findings: list[Finding] = []
    bypassed: list[str] = []
    check_us: dict[str, int] = {}
    withheld: str = ""


def answered(**more: Any) -> Exchange:
    attempt = Attempt("main", "m-1", duration_us=1_100_000, first_token_us=100_000)
    plain: dict[str, Any] = {
        "attempts": [attempt], "usage": Usage(40, 11), "cost": 0.002, "upstream": "main", "first_token_us": 120_000,
    }  # fmt: skip
    return Exchange(**{**plain, **more})


def page(meters: Meters) -> dict[str, float]:
    """Return every sample of the chat families by its name with labels in their order."""
    text, _ = meters.render(list, openmetrics=False)
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_an_exchange_is_counted_by_upstream_and_model():
    meters = Meters()

    meters.chat.count_chat("desk", answered())
    meters.chat.count_chat("desk", answered(), is_refusal=True)

    told = page(meters)
    who = 'model="m-1",service="desk",upstream="main"'
    assert told[f'nightproof_chat_tokens_total{{kind="input",{who}}}'] == 80
    assert told[f'nightproof_chat_tokens_total{{kind="output",{who}}}'] == 22
    assert told[f"nightproof_chat_cost_total{{{who}}}"] == pytest.approx(0.004)
    assert told[f'nightproof_upstream_attempts_total{{failure="",{who}}}'] == 2
    assert told['nightproof_chat_exchanges_total{service="desk"}'] == 2
    assert told['nightproof_chat_refusals_total{service="desk"}'] == 1
    assert told[f"nightproof_upstream_output_token_seconds_sum{{{who}}}"] == pytest.approx(0.2)
    assert told[f"nightproof_upstream_first_token_seconds_count{{{who}}}"] == 2
    assert told['nightproof_chat_first_token_seconds_sum{service="desk"}'] == pytest.approx(0.24)


def test_checks_are_counted_by_name_rule_and_what_was_done():
    meters = Meters()
    found = Finding("injection_rules", rule="ignore_instructions", action="refuse")

    meters.chat.count_chat(
        "desk",
        Exchange(findings=[found], check_us={"injection_rules": 400}, bypassed=["adapter"], withheld="six…"),
    )

    told = page(meters)
    what = 'action="refuse",check="injection_rules",rule="ignore_instructions",service="desk"'
    assert told[f"nightproof_chat_findings_total{{{what}}}"] == 1
    assert told['nightproof_check_duration_seconds_count{check="injection_rules",service="desk"}'] == 1
    assert told['nightproof_checks_bypassed_total{check="adapter",service="desk"}'] == 1
    assert told['nightproof_chat_withheld_characters_total{service="desk"}'] == 4


def test_a_try_that_was_not_made_has_no_duration_and_one_given_up_is_no_answer():
    meters = Meters()
    shut = Attempt("main", "m-1", failure="upstream_unreachable", detail="not asked: its breaker is open")
    dropped = Attempt("main", "m-1", duration_us=50, is_given_up=True)

    meters.chat.count_chat("desk", Exchange(attempts=[shut, dropped]))

    told = page(meters)
    who = 'model="m-1",service="desk",upstream="main"'
    assert told[f'nightproof_upstream_attempts_total{{failure="upstream_unreachable",{who}}}'] == 1
    assert told[f'nightproof_upstream_attempts_total{{failure="_given_up",{who}}}'] == 1
    durations = [
        name for name in told if name.startswith("nightproof_upstream_attempt_duration_seconds_count")
    ]
    assert durations == [f'nightproof_upstream_attempt_duration_seconds_count{{failure="_given_up",{who}}}']


def test_names_from_outside_make_a_bounded_number_of_series():
    meters = Meters()

    for number in range(700):
        attempt = Attempt(f"u{number}", f"model {number}", failure=f"made up {number}", duration_us=1)
        meters.chat.count_chat(
            "desk",
            Exchange(
                attempts=[attempt],
                usage=Usage(1, 1),
                upstream=f"u{number}",
                findings=[Finding(f"check {number}", rule=f"rule {number}")],
                bypassed=[f"check {number}"],
                check_us={f"check {number}": 1},
            ),
        )

    told = page(meters)
    attempts = [name for name in told if name.startswith("nightproof_upstream_attempts_total")]
    findings = [name for name in told if name.startswith("nightproof_chat_findings_total")]
    checks = [
        name for name in told if re.match(r"nightproof_check(s_bypassed_total|_duration_seconds_count)", name)
    ]
    assert len(attempts) == 101
    assert all('failure="_other"' in name for name in attempts)
    assert len(findings) == 501
    assert len(checks) == 2 * 201
    assert sum(told[name] for name in attempts) == sum(told[name] for name in findings) == 700


def attempts(*tries: tuple[str, str] | Attempt) -> list[Attempt]:
    return [one if isinstance(one, Attempt) else Attempt(*(one[0], "m"), failure=one[1]) for one in tries]


@pytest.mark.parametrize(
    ("tries", "again"),
    [
        (attempts(), {}),
        (attempts(("a", "")), {}),
        (attempts(("a", "upstream_error"), ("a", "")), {"retry": 1}),
        (attempts(("a", "upstream_error"), ("b", "")), {"failover": 1}),
        (
            attempts(("a", "upstream_limited"), ("a", "upstream_error"), ("b", "")),
            {"retry": 1, "failover": 1},
        ),
        (attempts(Attempt("b", "m", is_hedge=True, began_s=2.0), Attempt("a", "m", began_s=1.0)), {"hedge": 1}),
        (attempts(Attempt("b", "m"), Attempt("a", "m", is_given_up=True)), {"hedge": 1}),
    ],
)  # fmt: skip
def test_tries_after_the_first_have_their_names(tries: list[Attempt], again: dict[str, int]):
    assert again_of(tries) == again


def test_streams_that_leave_are_counted_while_they_do():
    meters = Meters()

    meters.chat.stream_opened("desk")
    meters.chat.stream_opened("desk")
    meters.chat.stream_closed("desk")

    assert page(meters)['nightproof_chat_streams_open{service="desk"}'] == 1


def test_a_bypassed_check_is_told_for_a_while_and_no_longer():
    meters = ChatMeters()

    meters.count_chat("desk", Exchange(bypassed=["adapter"]))

    now_s = monotonic_s()
    assert list(meters.bypassed(now_s=now_s)) == [("desk", "adapter")]
    assert meters.bypassed(now_s=now_s + BYPASS_SHOWN_S + 1) == {}


def test_the_last_minute_of_a_service_is_told_and_its_totals_stay():
    meters = ChatMeters()
    for _ in range(30):
        meters.count_chat("desk", answered())

    now = meters.recent(now_s=monotonic_s())["desk"]
    later = meters.recent(now_s=monotonic_s() + 120)["desk"]

    assert (now.exchanges, now.output_tokens_per_s) == (30, 30 * 11 / 60)
    assert now.first_token_p50_ms == pytest.approx(120, rel=0.2)
    assert (later.exchanges, later.first_token_p50_ms) == (0, None)
    assert later.output_tokens == now.output_tokens == 330
    assert later.cost == pytest.approx(0.06)


class Used(msgspec.Struct):
    tokens_today: int = 0
    tokens_this_minute: int = 0
    cost_today: float = 0.0


def test_of_budgets_per_key_the_least_that_any_has_left_is_told():
    budget = BudgetDescription(tokens_per_day=1_000, service_cost_per_day=8.0)

    shares = budget_shares(budget, Used(cost_today=2.0), [Used(tokens_today=100), Used(tokens_today=1_300)])

    assert shares == {"key_tokens_per_day": 0.0, "service_cost_per_day": 0.75}
    (sample, other) = budget_gauge({"desk": shares}).samples
    assert sample.labels == {"service": "desk", "budget": "key_tokens_per_day"}
    assert other.value == 0.75
