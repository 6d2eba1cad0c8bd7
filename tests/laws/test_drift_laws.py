"""What must hold of the drift watch for any data: counts merge, readers take anything, samples stay small."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from benchmarks.drift import truth
from hypothesis import given, settings
from hypothesis import strategies as st

from nightproof.watch import feedback
from nightproof.watch.drift import detector, measures, statistics
from nightproof.watch.drift.watcher import Sample
from nightproof.watch.drift.wire import Row

SCHEMA: dict[str, Any] = {
    "properties": {
        "number": {"type": "number"},
        "choice": {"type": "string"},
        "flag": {"type": "boolean"},
        "list": {"type": "array"},
        "inner": {"type": "object", "properties": {"deep": {"type": "number"}}},
    }
}


def _reference() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [
        {
            "number": float(rng.normal()),
            "choice": f"c{int(rng.integers(9))}",
            "flag": bool(rng.integers(2)),
            "list": [0] * int(rng.integers(30)),
            "inner": {"deep": float(rng.normal())},
        }
        for _ in range(400)
    ]


PROFILE = truth.profile_of(_reference(), SCHEMA)
READER = measures.Reader(PROFILE)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
records = st.fixed_dictionaries({}, optional=dict.fromkeys(SCHEMA["properties"], json_values)) | json_values


@settings(deadline=None, max_examples=150)
@given(st.lists(records, min_size=1, max_size=12))
def test_any_json_at_all_finds_a_cell(rows: list[Any]):
    codes, answered = READER.codes(truth.parsed(rows))

    for signal, row in zip(PROFILE.signals, codes, strict=True):
        assert ((row >= 0) & (row < signal.cells)).all()
    assert [sum(one) for one in measures.counted(codes, PROFILE.signals, answered)] == [
        0 if signal.side == "output" else len(rows) for signal in PROFILE.signals
    ]


@settings(deadline=None, max_examples=50)
@given(st.lists(records, min_size=2, max_size=20), st.data())
def test_counting_in_parts_and_adding_is_counting_at_once(rows: list[Any], data: st.DataObject):
    cut = data.draw(st.integers(1, len(rows) - 1))

    def counted(part: list[Any]) -> detector.Counts:
        codes, answered = READER.codes(truth.parsed(part))
        return msgspec.structs.replace(
            detector.fresh_counts(PROFILE),
            rows=len(part),
            segments=[len(part)],
            cells=measures.counted(codes, PROFILE.signals, answered),
        )

    total = counted(rows[:cut])
    detector.add(total, counted(rows[cut:]))

    assert total == counted(rows)


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)), min_size=1, max_size=30),
    st.booleans(),
    st.floats(1.0, 50.0),
)
def test_a_p_value_is_one_for_any_counts(cells: list[tuple[int, int]], is_ordered: bool, inflation: float):
    observed, reference = [a for a, _ in cells], [b for _, b in cells]

    p = statistics.differ_p(observed, reference, tolerance=0.01, inflation=inflation, is_ordered=is_ordered)

    assert 0.0 <= p <= 1.0
    assert statistics.effect(observed, reference) <= 1.0 + 1e-9
    assert statistics.psi(observed, reference) >= 0.0


class _Item(msgspec.Struct):
    input: bytes
    output: bytes = b"{}"
    failure: str = ""
    findings: list[str] = []
    batch_size: int = 1
    subject: bytes = b""
    confidence: float | None = None
    degraded: object | None = None


@given(st.integers(0, 3_000), st.integers(1, 50))
def test_a_sample_is_bounded_and_made_of_what_came(count: int, most: int):
    sample = Sample(most)

    for place in range(count):
        sample.add(_Item(b"%d" % place), "key")

    kept = [int(row.input) for row in sample.rows]
    assert len(kept) == min(count, most)
    assert len(set(kept)) == len(kept)
    assert isinstance(sample.take_all(), list)
    assert sample.rows == []


def test_every_row_has_the_same_chance_to_be_in_the_sample():
    early = 0
    for _ in range(2_000):
        sample = Sample(10)
        for place in range(100):
            sample.add(_Item(b"%d" % place), "key")
        early += sum(int(row.input) < 50 for row in sample.rows)

    assert 0.48 < early / 20_000 < 0.52


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_the_range_of_a_share_holds_the_share_itself(right: int, wrong: int):
    low, high = feedback.sequence_range(right, right + wrong)

    assert 0.0 <= low <= high <= 1.0
    if right + wrong:
        assert low <= right / (right + wrong) <= high


def test_the_range_misses_the_truth_at_no_time_in_nineteen_of_twenty_runs():
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(200):
        right = np.cumsum(rng.random(300) < 0.8)
        missed += any(
            not low <= 0.8 <= high
            for low, high in (
                feedback.sequence_range(int(right[total - 1]), total) for total in range(5, 301, 5)
            )
        )

    assert missed / 200 <= 0.07


def test_rows_survive_the_way_to_the_child():
    row = Row(b"{}", b"[]", ["a"], "key", b"s")

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=Row) == row
