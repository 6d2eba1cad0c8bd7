"""Counters and histograms: bounded in their labels, and sums that hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nightproof.watch.health import Health, Thrift
from nightproof.watch.meters import Meters
from nightproof.watch.outputs import OutputField, OutputPlan
from nightproof.watch.resources import next_places

COLOURS = OutputPlan((OutputField("colour", ("colour",), "category", values=frozenset({"red"})),))


def item(output: bytes = b'{"colour":"red"}', **more: Any) -> Any:
    plain = {
        "output": output, "failure": "", "degraded": None, "confidence": None,
        "batch_size": 1, "queue_us": 10, "findings": [],
    }  # fmt: skip
    return SimpleNamespace(**{**plain, **more})


def count(meters: Meters, *items: Any, release: str = "r", duration_s: float = 0.01) -> None:
    meters.arrived()
    meters.count_story(
        service="a",
        release=release,
        ending="answered",
        failure="",
        duration_s=duration_s,
        stages_us=[],
        items=items,
    )


def page(meters: Meters) -> list[str]:
    text, _ = meters.render(list, openmetrics=False)
    return [line for line in text.decode().splitlines() if not line.startswith("#")]


def test_answers_are_counted_by_their_value_once_looked_into():
    meters = Meters()
    meters.watch_outputs("a", "r", COLOURS)

    count(meters, item(), item(), item(b'{"colour":"blue"}'))

    told = [line for line in page(meters) if line.startswith("nightproof_output_values_total")]
    assert sorted(told) == [
        'nightproof_output_values_total{field="colour",release="r",service="a",value="_other"} 1.0',
        'nightproof_output_values_total{field="colour",release="r",service="a",value="red"} 2.0',
    ]


def test_what_the_model_did_not_answer_itself_is_no_output_of_it():
    meters = Meters()
    meters.watch_outputs("a", "r", COLOURS)

    count(meters, item(degraded=("model_error", "constant")), item(failure="low_confidence"), item(b""))

    assert not [line for line in page(meters) if line.startswith("nightproof_output_values_total")]
    assert "nightproof_outputs_passed_over_total 0.0" in page(meters)


def test_more_answers_than_can_be_looked_into_are_passed_over_and_said():
    meters = Meters()
    meters.watch_outputs("a", "r", COLOURS)

    count(meters, *[item() for _ in range(700)])
    count(meters, item(b'{"colour":"' + b"x" * 20_000 + b'"}'), release="unknown")

    assert "nightproof_outputs_passed_over_total 201.0" in page(meters)


def test_only_the_newest_releases_of_a_service_keep_their_series():
    meters = Meters()
    for number in range(20):
        meters.watch_outputs("a", f"r{number}", COLOURS)
        count(meters, item(confidence=0.5), release=f"r{number}")
        meters.look_into_outputs()

    told = [line for line in page(meters) if line.startswith("nightproof_output_values_total")]
    assert len(told) == 4
    assert all(meters.watches("a", f"r{number}") == (number >= 16) for number in range(20))


def test_a_check_with_endless_names_makes_a_bounded_number_of_series():
    meters = Meters()

    for number in range(5_000):
        count(meters, item(findings=[f"finding {number}"]))

    told = [line for line in page(meters) if line.startswith("nightproof_findings_total")]
    assert len(told) == 201
    assert sum(float(line.rpartition(" ")[2]) for line in told) == 5_000


def test_the_last_minute_is_what_the_ticks_have_closed():
    meters = Meters()
    count(meters, item())
    assert meters.snapshot().services == {}

    meters.tick()
    count(meters, item(), duration_s=0.1)
    meters.tick()

    recent = meters.snapshot().services["a"]
    assert recent.endings == {"answered": 2}
    assert recent.p50_ms == pytest.approx(10, rel=0.2)
    assert recent.p99_ms == pytest.approx(100, rel=0.2)


def test_totals_only_grow_and_their_sum_is_what_arrived():
    meters = Meters()
    for _ in range(10):
        count(meters, item())

    totals = meters.totals()

    assert totals.arrivals == 10 == sum(totals.requests.values()) == sum(totals.durations["a"])
    assert totals.batches["a"][1] == 10


def test_watching_tells_its_own_cost():
    meters = Meters()
    for _ in range(3_000):
        count(meters, item())
    meters.spent("history", 0.5)

    cost = meters.totals().own_s

    assert 0 < cost["counting"] < 5
    assert cost["history"] == 0.5


def test_a_worker_keeps_its_place_and_a_new_one_takes_the_lowest_that_is_free():
    first = next_places({}, [101, 102, 103])
    second = next_places(first, [101, 103, 104])

    assert first == {101: 1, 102: 2, 103: 3}
    assert second == {101: 1, 103: 3, 104: 2}


def test_a_thousand_restarts_need_no_more_places_than_there_are_workers():
    places: dict[int, int] = {}
    for pid in range(1_000):
        places = next_places(places, [pid, pid + 1, pid + 2])

    assert sorted(places.values()) == [1, 2, 3]


def test_a_component_remembers_since_when_and_other_rooms_are_asked_too():
    health = Health()
    health.ask_also(lambda seen: [seen.see("upstream:llm", ok=False, why="refused", needed=False)])

    first = health.see("disk", ok=True)
    again = health.see("disk", ok=True)
    (other,) = health.others()

    assert first.since == again.since
    assert (other.name, other.why) == ("upstream:llm", "refused")


def test_what_costs_is_done_afresh_until_a_tenth_of_the_time_is_spent():
    thrift = Thrift()
    fresh = 0
    for turn in range(1_000):  # asked a hundred times a second for ten seconds
        if thrift.may_spend(turn * 0.01):
            thrift.spent(0.05)
            fresh += 1

    assert 20 <= fresh <= 25
    assert thrift.may_spend(60.0)
