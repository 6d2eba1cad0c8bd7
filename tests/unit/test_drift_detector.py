"""The drift watch's truth on small runs with fixed seeds: silent without drift, quick with it, right about which."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from benchmarks.drift import streams, truth

from nightproof.base.profile import Profile
from nightproof.watch.drift import detector, learn, measures
from nightproof.watch.drift.wire import Row

DAY_S = 86_400.0


def numbers_profile(columns: int, rows: int = 1_000, seed: int = 3, **named: Any) -> Profile:
    rng = np.random.default_rng(seed)
    names = [f"x{place}" for place in range(columns)]
    table = rng.normal(size=(rows, columns)).tolist()
    schema = {"properties": {name: {"type": "number"} for name in names}}
    return truth.profile_of([dict(zip(names, row, strict=True)) for row in table], schema)


def window_of(profile: Profile, rows: list[dict[str, Any]], *, elapsed_s: float = 1.0, at: int = 0) -> Any:
    codes, answered = measures.Reader(profile).codes(truth.parsed(rows))
    return msgspec.structs.replace(
        detector.fresh_counts(profile),
        rows=len(rows),
        segments=[len(rows)] + [0] * (len(profile.segment_rows) - 1),
        elapsed_s=elapsed_s,
        began_us=at + 1,
        ended_us=at + 2,
        cells=measures.counted(codes, profile.signals, answered),
    )


# -- truth ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "windows"), [(200, 150), (500, 250)])
def test_windows_without_drift_raise_no_alarm(rows: int, windows: int):
    found = truth.silence(windows, rows, seed=17)

    assert found.alarms == 0
    assert found.most_evidence < 0.5


@pytest.mark.parametrize(
    ("change", "within"),
    [
        ("age + 0.5 sd", 1),
        ("10 % of education missing", 1),
        ("hours x 60 on 20 % of rows", 1),
        ("hours x 60 on 5 % of rows", 10),
        ("age + 0.25 sd", 10),
        ("5 % of jobs never seen", 4),
    ],
)
def test_a_change_is_found_in_time_and_under_its_own_name(change: str, within: int):
    found = truth.find(change, repeats=3, most_windows=within, seed=23)

    assert all(windows is not None and windows <= within for windows in found.windows), found
    assert found.named == 3
    assert found.strangers == 0


@pytest.mark.parametrize("name", streams.STREAMS)
def test_published_streams_are_watched_without_a_miss(name: str):
    found, _ = streams.run(name, 40_000, seed=2)

    assert found.mdr == 0.0
    assert found.false_alarms == 0
    assert found.mtd == streams.RULES.window_rows


def test_a_change_that_no_column_shows_alone_is_found():
    """Two columns swap signs together: each looks as before, the pair does not."""
    rng = np.random.default_rng(4)

    def rows(sign: float) -> list[dict[str, float]]:
        first = rng.normal(size=1_000)
        return [{"a": a, "b": sign * a + e} for a, e in zip(first, rng.normal(0, 0.2, 1_000), strict=True)]

    profile = truth.profile_of(rows(1.0), {"properties": {"a": {"type": "number"}, "b": {"type": "number"}}})
    state = detector.fresh_state(profile, truth.rules())

    alarm = detector.advance(state, window_of(profile, rows(-1.0)[:500]), profile, truth.rules())

    assert alarm is not None
    assert {name.partition(" ")[0] for name in alarm.signals} == {"relation"}


# -- the promise ------------------------------------------------------------------------------


def test_evidence_grows_no_faster_than_the_time_that_the_promise_gives():
    """M less the weights is a martingale: with e-values of mean 1, M is the sum of weights on average."""
    rng = np.random.default_rng(9)
    ends = []
    for _ in range(4_000):
        m = 0.0
        for e in rng.choice([0.5, 1.5], size=40):
            m = (m + 0.001) * e
        ends.append(m)

    assert np.mean(ends) == pytest.approx(0.04, rel=0.15)


def test_a_window_after_a_long_silence_is_not_given_the_time_of_the_silence():
    profile = numbers_profile(2)
    rules = detector.Rules(promise_s=30 * DAY_S, window_rows=1, window_s=0.0, multiples=(1,))
    state = detector.fresh_state(profile, rules)
    rng = np.random.default_rng(1)
    rows = [{"x0": a, "x1": b} for a, b in rng.normal(size=(300, 2)).tolist()]

    detector.advance(state, window_of(profile, rows, elapsed_s=29 * DAY_S), profile, rules)

    assert state.alarm is None
    assert state.scales[0].weight_sum <= detector.MOST_WEIGHT


def test_a_window_needs_both_its_rows_and_its_time():
    rules = detector.Rules(window_rows=500, window_s=10.0)

    def full(rows: int, elapsed_s: float) -> bool:
        return detector.is_full(detector.Counts(rows=rows, elapsed_s=elapsed_s), rules)

    assert not full(499, 10 * DAY_S)
    assert not full(1_000_000, 9.9)
    assert full(500, 10.0)


def test_an_alarm_ends_after_three_windows_without_evidence():
    profile = numbers_profile(2)
    rules = truth.rules()
    state = detector.fresh_state(profile, rules)
    rng = np.random.default_rng(2)

    def window(shift: float) -> Any:
        rows = [{"x0": a + shift, "x1": b} for a, b in rng.normal(size=(500, 2)).tolist()]
        return window_of(profile, rows)

    raised = detector.advance(state, window(1.0), profile, rules)
    stands = []
    for _ in range(24):
        detector.advance(state, window(0.0), profile, rules)
        stands.append(state.alarm is not None)

    assert raised is not None
    assert raised.signals[0] == "/x0"
    assert stands[0]
    assert not stands[-1]
    assert state.alarms == 1


def test_a_drift_that_stays_is_one_alarm_and_keeps_its_beginning():
    profile = numbers_profile(2)
    rules = truth.rules()
    state = detector.fresh_state(profile, rules)
    rng = np.random.default_rng(2)
    raised = []
    for at in range(6):
        rows = [{"x0": a + 1.0, "x1": b} for a, b in rng.normal(size=(500, 2)).tolist()]
        raised.append(detector.advance(state, window_of(profile, rows, at=at * 10), profile, rules))

    assert [one is not None for one in raised] == [True, False, False, False, False, False]
    assert state.alarms == 1
    assert state.alarm is not None
    assert state.alarm.since_us == 1
    assert "/x1" not in state.alarm.signals


def test_a_field_that_joins_a_standing_drift_is_news():
    profile = numbers_profile(2)
    rules = truth.rules()
    state = detector.fresh_state(profile, rules)
    rng = np.random.default_rng(2)

    def window(first: float, second: float) -> Any:
        rows = [{"x0": a + first, "x1": b + second} for a, b in rng.normal(size=(500, 2)).tolist()]
        return window_of(profile, rows)

    detector.advance(state, window(1.0, 0.0), profile, rules)
    news = detector.advance(state, window(1.0, 1.0), profile, rules)

    assert news is not None
    assert {"/x0", "/x1"} <= set(news.signals)
    assert state.alarms == 1


def test_the_reference_of_seasons_is_compared_hour_by_hour():
    """By day one thing, by night another: a window of the night alone is no drift where the profile knows hours."""
    rng = np.random.default_rng(6)
    hours = np.arange(24 * 28 * 4) / 4
    is_night = (hours % 24) < 8
    values = np.where(is_night, rng.normal(5, 1, len(hours)), rng.normal(0, 1, len(hours)))
    profile = learn.learn(
        truth.parsed([{"x": float(one)} for one in values]),
        service="s",
        digest="d",
        input_schema={"properties": {"x": {"type": "number"}}},
        output_schema={},
        checks=[],
        origin="reference",
        made_us=0,
        times_s=(hours * 3_600).tolist(),
        block_rows=200,
    )
    night = window_of(profile, [{"x": float(one)} for one in rng.normal(5, 1, 500)])
    night.segments = [250, 250, *[0] * (len(profile.segment_rows) - 2)]
    state = detector.fresh_state(profile, truth.rules())

    alarm = detector.advance(state, night, profile, truth.rules())

    assert profile.seasons == "hours"
    assert alarm is None
    night.segments = [0, 0, 0, 500, *[0] * (len(profile.segment_rows) - 4)]
    assert detector.advance(state, night, profile, truth.rules()) is not None


def test_rows_that_hang_together_are_taken_for_fewer():
    rng = np.random.default_rng(8)
    slow = np.repeat(rng.normal(size=100), 50)  # each value fifty times in a row
    quick = rng.normal(size=5_000)
    profile = truth.profile_of(
        [{"slow": float(a), "quick": float(b)} for a, b in zip(slow, quick, strict=True)],
        {"properties": {"slow": {"type": "number"}, "quick": {"type": "number"}}},
    )
    inflation = {signal.name: signal.inflation for signal in profile.signals}

    assert inflation["/slow"] > 10
    assert inflation["/quick"] == pytest.approx(1.0, abs=0.3)


# -- faults -----------------------------------------------------------------------------------


def test_five_hundred_features_fit_into_little_memory_and_one_of_them_is_found():
    names = [f"x{place}" for place in range(500)]
    rng = np.random.default_rng(5)
    schema = {"properties": {name: {"type": "number"} for name in names}}

    def rows(count: int) -> list[dict[str, Any]]:
        return [dict(zip(names, row, strict=True)) for row in rng.normal(size=(count, 500)).tolist()]

    profile = truth.profile_of(rows(1_000), schema)
    state = detector.fresh_state(profile, truth.rules())
    spoiled = [{**row, "x77": row["x77"] + 1.0} for row in rows(500)]

    alarm = None
    for _ in range(4):
        alarm = alarm or detector.advance(state, window_of(profile, spoiled), profile, truth.rules())

    assert alarm is not None
    assert alarm.signals == ["/x77"]
    assert len(msgspec.msgpack.encode(state)) < 300_000
    assert len(msgspec.msgpack.encode(profile)) < 500_000
    assert "rows" in profile.not_watched["relations"]


def test_a_million_categories_take_bounded_memory():
    rows = [{"id": f"user{place * 7919 % 1_000_003}"} for place in range(20_000)]

    profile = truth.profile_of(rows, {"properties": {"id": {"type": "string"}}})

    assert len(msgspec.msgpack.encode(profile)) < 20_000
    assert {signal.kind for signal in profile.signals} == {"number"}
    assert "hardly repeat" in profile.not_watched["/id"]


def test_a_long_tail_of_categories_does_not_alarm_for_having_one():
    """Values that were never seen come all the time: as often as the reference lets one expect."""
    rng = np.random.default_rng(3)

    def rows(count: int) -> list[dict[str, str]]:
        return [{"city": f"c{one}"} for one in rng.zipf(1.5, count)]

    profile = truth.profile_of(rows(5_000), {"properties": {"city": {"type": "string"}}})
    state = detector.fresh_state(profile, truth.rules())
    for _ in range(60):
        detector.advance(state, window_of(profile, rows(500)), profile, truth.rules())

    assert profile.signals[0].kind == "category"
    assert profile.signals[0].once > 0
    assert state.alarms == 0


@pytest.mark.parametrize(
    ("reference", "live"),
    [
        ([None] * 300, ["here", "now"] * 150),  # always missing, and then not
        ([7.5] * 300, [8.5] * 300),  # constant, and then another
        ([1.5, 2.5, 9.25] * 100, [None] * 300),  # there, and then gone
        (["a", "b", "c"] * 100, ["7", "8", "9"] * 100),  # letters, and then digits
    ],
)
def test_a_feature_that_changes_its_use_is_found(reference: list[Any], live: list[Any]):
    kind = "string" if any(isinstance(one, str) for one in [*reference, *live]) else "number"
    schema = {"properties": {"x": {"anyOf": [{"type": kind}, {"type": "null"}]}}}
    profile = truth.profile_of([{"x": one} for one in reference], schema)
    state = detector.fresh_state(profile, truth.rules())

    same = detector.advance(
        state, window_of(profile, [{"x": one} for one in reference]), profile, truth.rules()
    )
    other = detector.advance(state, window_of(profile, [{"x": one} for one in live]), profile, truth.rules())

    assert same is None
    assert other is not None
    assert other.signals == ["/x"]


def test_a_number_that_comes_as_a_text_goes_to_the_odd_ones_and_raises_nothing():
    profile = numbers_profile(2)
    rows = [{"x0": "seven", "x1": [1, 2]}, {"x0": True, "x1": 10**400}, {"x0": {"a": 1}}, {}]

    codes, _ = measures.Reader(profile).codes(truth.parsed(rows))

    first = profile.signals[0]
    assert codes[0][0] == first.odd_cell
    assert codes[0][3] == first.missing_cell


def test_a_restart_in_the_middle_changes_nothing():
    profile = numbers_profile(3)
    rules = truth.rules()
    rng = np.random.default_rng(12)
    windows = [
        window_of(
            profile, [{"x0": a + 0.25, "x1": b, "x2": c} for a, b, c in rng.normal(size=(300, 3)).tolist()]
        )
        for _ in range(12)
    ]
    whole, cut = detector.fresh_state(profile, rules), detector.fresh_state(profile, rules)

    for window in windows:
        detector.advance(whole, window, profile, rules)
        cut = msgspec.msgpack.decode(msgspec.msgpack.encode(cut), type=detector.State)
        assert detector.fits(cut, profile, rules)
        detector.advance(cut, window, profile, rules)

    assert cut == whole


def test_a_state_of_another_profile_does_not_fit():
    rules = truth.rules()
    state = detector.fresh_state(numbers_profile(3), rules)

    assert not detector.fits(state, numbers_profile(4), rules)
    assert not detector.fits(state, numbers_profile(3), msgspec.structs.replace(rules, multiples=(1, 4)))


def test_too_few_rows_teach_nothing():
    with pytest.raises(learn.NotEnough):
        truth.profile_of([{"x": 1.0}] * 99, {"properties": {"x": {"type": "number"}}})


def test_texts_are_watched_by_their_form_and_their_words():
    rng = np.random.default_rng(2)

    def text(words: list[str]) -> str:
        return " ".join(rng.choice(words, 12).tolist())

    loans = ["loan", "rate", "month", "house", "car", "income", "bank", "repay", "please", "amount"]
    sums = ["prove", "that", "integral", "of", "x", "equals", "sine", "limit", "zero", "theorem"]
    schema = {"properties": {"note": {"type": "string"}}}
    profile = truth.profile_of([{"note": text(loans)} for _ in range(1_200)], schema)
    state = detector.fresh_state(profile, truth.rules())
    quiet = detector.advance(
        state, window_of(profile, [{"note": text(loans)} for _ in range(500)]), profile, truth.rules()
    )
    mixed = [{"note": text(sums if place % 5 == 0 else loans)} for place in range(500)]
    alarm = None
    for _ in range(4):
        alarm = alarm or detector.advance(state, window_of(profile, mixed), profile, truth.rules())

    assert quiet is None
    assert len(profile.texts) == 1
    assert alarm is not None
    assert all(name.startswith("/note") for name in alarm.signals)


def test_answers_and_checks_are_watched_like_inputs():
    rng = np.random.default_rng(2)

    def rows(count: int, share: float) -> list[Row]:
        made = []
        for x, y in zip(rng.normal(size=count), rng.random(count), strict=True):
            output = msgspec.json.encode(
                {"approve": bool(y < share), "confidence": float(0.5 + abs(y - 0.5))}
            )
            made.append(Row(b'{"x":%f}' % x, output, ["too_large"] if y < share / 2 else []))
        return made

    profile = learn.learn(
        measures.parse(rows(2_000, 0.3)),
        service="s",
        digest="d",
        input_schema={"properties": {"x": {"type": "number"}}},
        output_schema={"properties": {"approve": {"type": "boolean"}, "confidence": {"type": "number"}}},
        checks=["too_large"],
        origin="reference",
        made_us=0,
    )
    codes, answered = measures.Reader(profile).codes(measures.parse(rows(500, 0.6)))
    window = msgspec.structs.replace(
        detector.fresh_counts(profile),
        rows=500,
        segments=[500],
        elapsed_s=1.0,
        began_us=1,
        ended_us=2,
        cells=measures.counted(codes, profile.signals, answered),
    )
    state = detector.fresh_state(profile, truth.rules())
    alarm = detector.advance(state, window, profile, truth.rules())

    assert {signal.side for signal in profile.signals} == {"input", "output", "check"}
    assert alarm is not None
    assert set(alarm.signals) == {"output /approve", "check too_large"}


def test_rows_without_an_answer_count_for_inputs_only():
    profile = numbers_profile(1)
    output_schema = {"properties": {"y": {"type": "number"}}}
    rows = [Row(b'{"x0":0.1}', b'{"y":%d.5}' % (place % 40)) for place in range(400)]
    profile = learn.learn(
        measures.parse(rows),
        service="s",
        digest="d",
        input_schema={"properties": {"x0": {"type": "number"}}},
        output_schema=output_schema,
        checks=[],
        origin="reference",
        made_us=0,
    )
    codes, answered = measures.Reader(profile).codes(measures.parse([Row(b'{"x0":0.1}'), *rows[:9]]))

    counted = measures.counted(codes, profile.signals, answered)

    assert [sum(cells) for cells in counted] == [10, 9]


def test_the_report_shows_the_cells_of_what_moved_only():
    profile = numbers_profile(3)
    state = detector.fresh_state(profile, truth.rules())
    rng = np.random.default_rng(1)
    rows = [{"x0": a + 2, "x1": b, "x2": c} for a, b, c in rng.normal(size=(500, 3)).tolist()]
    detector.advance(state, window_of(profile, rows), profile, truth.rules())

    first, *others = detector.report(state, profile)

    assert (first.name, first.moved) == ("/x0", True)
    assert sum(first.live) == pytest.approx(1.0)
    assert len(first.labels) == len(first.live) == len(first.reference)
    assert first.effect > 0.5
    assert all(not one.labels for one in others if not one.moved)


def test_scores_of_streams_count_false_alarms_and_delays():
    found = streams.score(20_000, [5_000, 10_000, 15_000], [2_000, 5_500, 6_000, 15_100])

    assert dataclasses.asdict(found) == {
        "rows": 20_000,
        "drifts": 3,
        "detected": 2,
        "false_alarms": 2,
        "mtfa": 4_000.0,
        "mtd": 300.0,
        "mdr": pytest.approx(1 / 3),
        "mtr": pytest.approx(4_000 / 300 * 2 / 3),
    }
    assert math.isinf(streams.score(10_000, [5_000], []).mtd)
