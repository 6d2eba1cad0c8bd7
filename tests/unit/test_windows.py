"""Windows of time: seconds become minutes become hours, and nothing is lost or counted twice on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightproof.watch.history import _encoder as encoder
from nightproof.watch.history import decode, merge_stored, windows_between
from nightproof.watch.meters import Meters, Totals
from nightproof.watch.windows import (
    FINE_BOUNDS_S,
    KEEP,
    Span,
    Window,
    dense,
    merge,
    next_beat,
    quantile,
    roll_up,
    slower_than,
    span_for,
    sparse,
)

windows = st.builds(
    Window,
    st.integers(0, 20_000),
    st.just(1),
    st.sampled_from(["", "a", "b"]),
    st.just(1),
    st.dictionaries(st.sampled_from(["answered", "failed"]), st.integers(0, 9)),
    st.dictionaries(st.sampled_from(["duration"]), st.dictionaries(st.integers(0, 95), st.integers(1, 9))),
    st.dictionaries(
        st.sampled_from(["queue"]), st.integers(0, 9).map(lambda value: Span(1, value, value, value))
    ),
)


def counted(many: list[Window], scope: str, name: str) -> int:
    return sum(one.counts.get(name, 0) for one in many if one.scope == scope)


@given(st.lists(windows, max_size=40), st.randoms())
def test_hours_made_of_minutes_are_hours_made_of_seconds_in_any_order(many: list[Window], chance):
    shuffled = list(many)
    chance.shuffle(shuffled)

    assert roll_up(roll_up(shuffled, 60), 3_600) == roll_up(many, 3_600)


@given(st.lists(windows, max_size=40))
def test_rolling_up_keeps_every_count_and_every_second(many: list[Window]):
    hours = roll_up(many, 3_600)

    assert sum(one.seconds for one in hours) == len(many)
    for scope in ("", "a", "b"):
        assert counted(hours, scope, "answered") == counted(many, scope, "answered")


@given(windows, windows)
def test_what_is_stored_merges_like_what_is_in_memory(one: Window, other: Window):
    merged = decode(merge_stored(encoder.encode(one), encoder.encode(other)))

    assert merged == merge(one, other)


@given(st.lists(st.floats(0.2, 0.6), min_size=10, max_size=200), st.floats(0, 1))
def test_however_late_the_looks_no_second_is_skipped_or_counted_twice(pauses: list[float], phase: float):
    last_s = now = 1_000.0 + phase
    seen: list[int] = []
    for pause_s in pauses:
        now += pause_s
        seconds, last_s, began_ago_s = next_beat(last_s, now)
        if seconds:
            began_s = now - began_ago_s - phase
            assert seconds == 1
            seen.append(round(began_s))
            assert abs(began_s - seen[-1]) < 1e-6, "on the beat"

    assert seen == list(range(1_000, 1_000 + len(seen)))


def test_a_server_that_was_held_up_makes_one_window_of_what_it_missed():
    assert next_beat(10.0, 14.5) == (4, 14.0, 4.5)
    assert next_beat(10.0, 10.9) == (0, 10.0, pytest.approx(0.9))


def test_gauges_keep_their_peaks():
    calm, peak = (
        Window(at, 1, "a", gauges={"queue": Span(1, value, value, value)})
        for at, value in ((0, 1.0), (1, 9.0))
    )

    (minute,) = roll_up([calm, peak], 60)

    assert minute.gauges["queue"] == Span(2, 10.0, 1.0, 9.0)
    assert minute.gauges["queue"].mean == 5.0


@given(st.lists(st.floats(0.0001, 60), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_exact_to_one_bucket(values: list[float], share: float):
    counts = [0] * (len(FINE_BOUNDS_S) + 1)
    for value in values:
        counts[next(place for place, bound in enumerate(FINE_BOUNDS_S) if value <= bound)] += 1
    true = sorted(values)[max(0, -(-int(share * 1_000) * len(values) // 1_000) - 1)]

    told = quantile(counts, FINE_BOUNDS_S, share)

    assert told is not None
    assert true <= told <= true * 2**0.25 * 1.0001 or told == FINE_BOUNDS_S[0]


def test_of_nothing_there_is_no_quantile():
    assert quantile([0, 0], [1.0], 0.5) is None


def test_above_the_last_bound_the_last_bound_stands():
    assert quantile([0, 3], [1.0], 0.5) == 1.0


def test_sparse_and_dense_are_each_others_way_back():
    before, now = [1, 0, 2, 0], [1, 5, 2, 1]

    assert sparse(now, before) == {1: 5, 3: 1}
    assert dense(sparse(now, None), 4) == now


@pytest.mark.parametrize(
    ("since_s", "span_s"), [(60, 1), (900, 1), (901, 60), (86_400, 60), (86_401, 3_600), (1e9, 3_600)]
)
def test_the_finest_span_that_reaches_back_is_shown(since_s: float, span_s: int):
    assert span_for(since_s) == span_s


def test_the_spans_kept_are_a_quarter_hour_a_day_and_ninety_days():
    assert {span_s: span_s * count for span_s, count in KEEP.items()} == {
        1: 900,
        60: 86_400,
        3_600: 90 * 86_400,
    }


def story(meters: Meters, ending: str, failure: str = "", duration_s: float = 0.01) -> None:
    meters.arrived()
    meters.count_story(
        service="a",
        release="r",
        ending=ending,
        failure=failure,
        duration_s=duration_s,
        stages_us=[("call", 100)],
        items=[],
    )


def test_between_two_looks_in_which_nothing_happened_there_is_nothing_but_the_time():
    meters = Meters()
    story(meters, "answered")

    (server,) = windows_between(meters.totals(), meters.totals(), {}, at_s=7)

    assert server == Window(7, 1, "")


def test_what_happened_between_two_looks_is_in_the_window_of_its_service_and_of_the_server():
    meters = Meters()
    before: Totals = meters.totals()
    story(meters, "answered")
    story(meters, "failed", "model_timeout")
    meters.count_event("worker_gone", service="a", reason="model_timeout")

    server, mine = windows_between(before, meters.totals(), {"a": {"queue_depth": 3.0}}, at_s=7)

    assert server.counts == {
        "arrivals": 2,
        "answered": 1,
        "failed": 1,
        "failure.model_timeout": 1,
        "event.worker_gone": 1,
    }
    assert mine.counts == {"answered": 1, "failed": 1, "failure.model_timeout": 1, "event.worker_gone": 1}
    assert sum(mine.histograms["duration"].values()) == 1, "failures do not count as quick answers"
    assert mine.gauges == {"queue_depth": Span(1, 3.0, 3.0, 3.0)}


@pytest.mark.parametrize(("limit", "above"), [(0.5, 8), (1.0, 6), (1.5, 4), (2.0, 2), (9.0, 2)])
def test_what_is_slower_than_a_limit_is_counted_to_a_part_of_a_bucket(limit: float, above: int):
    assert slower_than(limit, [4, 4, 2], [1.0, 2.0]) == above
