"""Trace context by the standard's rules, and a queue that drops rather than waits."""

from __future__ import annotations

import pytest

from nightproof.watch.telemetry import (
    Budget,
    Choice,
    Context,
    Queue,
    Sampler,
    Trace,
    choose,
    read_context,
    sampler_of,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def test_a_valid_context_is_read_with_its_state():
    assert read_context(VALID, "congo=t61rcWkgMzE, rojo@tenant=00f067") == Context(
        TRACE, SPAN, True, "congo=t61rcWkgMzE,rojo@tenant=00f067"
    )
    assert read_context(f"00-{TRACE}-{SPAN}-00") == Context(TRACE, SPAN, False)
    assert read_context(f"cc-{TRACE}-{SPAN}-03-what-the-future-adds") == Context(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-0x",
        f"{VALID}\n",
    ],
)
def test_an_invalid_parent_is_no_context_and_its_state_goes_with_it(parent: str):
    assert read_context(parent, "congo=t61rcWkgMzE") is None


@pytest.mark.parametrize(
    "state",
    [
        "no sign of equality",
        "UPPER=1",
        "a=1,a=2",
        "a=" + "x" * 257,
        ",".join(f"k{number}=1" for number in range(33)),
        "a=1\x00",
        "a=gr\xfc\xdfe",
        "x" * 600 + "=1",
    ],
)
def test_a_state_that_breaks_the_rules_is_dropped_and_the_trace_goes_on(state: str):
    assert read_context(VALID, state) == Context(TRACE, SPAN, True, "")


def trace(number: int = 0) -> Trace:
    return Trace(
        f"id{number}", TRACE, "", "", "a", "r", "native", "answered", "", 0, 10, (("call", 5),), (), 1
    )  # fmt: skip


def test_a_full_queue_drops_and_counts_and_never_waits():
    queue = Queue(per_s=1_000, most=10, sampler=Sampler(True, 1.0))

    for number in range(25):
        if queue.wants(TRACE, parent_sampled=None, answered=True, now=7.0):
            queue.put(trace(number))

    assert queue.snapshot().waiting == 10
    assert queue.snapshot().dropped == {"queue": 15}
    assert [one.id for one in queue.take(3)] == ["id0", "id1", "id2"]


def test_a_flood_of_answers_leaves_room_for_what_went_wrong():
    budget = Budget(10)

    answers = sum(budget.may_take(answered=True, now=3.0) for _ in range(1_000))
    others = sum(budget.may_take(answered=False, now=3.9) for _ in range(1_000))

    assert (answers, others) == (5, 5)
    assert budget.may_take(answered=True, now=4.0)


def test_beyond_the_second_budget_traces_are_dropped_by_rate():
    queue = Queue(per_s=4, most=100, sampler=Sampler(True, 1.0))

    wanted = sum(queue.wants(TRACE, parent_sampled=None, answered=True, now=1.0) for _ in range(10))

    assert wanted == 2
    assert queue.snapshot().dropped == {"rate": 8}


@pytest.mark.parametrize(
    ("environment", "sampler"),
    [
        ({}, Sampler(True, 1.0)),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, Sampler(False, 1.0)),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampler(False, 0.0)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Sampler(True, 0.0)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, Sampler(False, 0.25)),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"},
            Sampler(True, 1.0),
        ),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"}, Sampler(False, 1.0)),
        ({"OTEL_TRACES_SAMPLER": "of our own"}, Sampler(False, 1.0)),
    ],
)
def test_the_standards_samplers_are_known(environment: dict[str, str], sampler: Sampler):
    assert sampler_of(environment) == sampler


def test_the_caller_decides_where_his_choice_is_asked_for():
    asks, insists = Sampler(True, 1.0), Sampler(False, 0.0)

    assert not asks.keeps(TRACE, False)
    assert Sampler(True, 0.0).keeps(TRACE, True)
    assert not insists.keeps(TRACE, True)


def test_a_share_keeps_about_that_share_and_always_the_same_traces():
    ids = [f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}" for number in range(1, 4_001)]

    kept = [one for one in ids if Sampler(True, 0.25).keeps(one, None)]

    assert 800 < len(kept) < 1_200
    assert kept == [one for one in ids if Sampler(True, 0.25).keeps(one, None)]


@pytest.mark.parametrize(
    ("environment", "choice"),
    [
        ({}, Choice()),
        (ENDPOINT, Choice(True, True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, Choice(True, False)),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, Choice(True, False)),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "True"}, Choice()),
    ],
)
def test_the_standards_variables_say_what_is_sent(environment: dict[str, str], choice: Choice):
    assert choose(environment) == choice


def test_a_protocol_that_is_not_spoken_is_said_and_not_guessed():
    choice = choose({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})

    assert not choice.traces
    assert "grpc" in choice.why_not
