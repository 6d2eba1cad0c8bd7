"""The drift child's own work, without its process: a release is watched row by row, learnt, capped, and told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from nightproof.base.frames import FRAME_MOST_BYTES, FrameReader, framed
from nightproof.base.profile import Profile
from nightproof.storage.reference_file import NoReference, read_reference
from nightproof.watch.drift import wire
from nightproof.watch.drift.child import Child, Watching
from nightproof.watch.drift.detector import Rules
from nightproof.watch.drift.wire import Row

INPUT = {"properties": {"x": {"type": "number"}, "kind": {"type": "string"}}}
OUTPUT = {"properties": {"y": {"type": "boolean"}}}
RELEASE = wire.Release("s", "d", INPUT, OUTPUT)
DAY_US = 86_400_000_000


def rows(count: int, *, shift: float = 0.0, seed: int = 1, caller: str = "key") -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        Row(
            json.dumps({"x": x + shift, "kind": "abc"[place % 3]}).encode(),
            json.dumps({"y": x > 0}).encode(),
            caller=caller,
        )
        for place, x in enumerate(rng.normal(size=count).tolist())
    ]


def watching(**named: Any) -> Watching:
    rules = Rules(promise_s=1_000.0, window_rows=200, window_s=1.0)
    order = {"profile": b"", "state": b"", "learn_rows": 600, "caller_rows": 0} | named
    return Watching(wire.Watch(RELEASE, rules, **order))


def take(watched: Watching, given: list[Row], *, elapsed_s: float = 1.0, now_us: int = DAY_US) -> list[Any]:
    return list(watched.take(wire.Rows("s", "d", given, elapsed_s, now_us)))


def learnt() -> tuple[Watching, bytes]:
    watched = watching()
    built, told = take(watched, rows(600))
    assert isinstance(built, wire.Built)
    assert isinstance(told, wire.Told)
    return watched, built.profile


def test_a_profile_is_learnt_from_the_first_rows():
    watched = watching()

    (early,) = take(watched, rows(100), elapsed_s=6)
    built, told = take(watched, rows(500, seed=2))

    assert (early.about.origin, early.filling) == ("learning", 100)
    profile = msgspec.msgpack.decode(built.profile, type=Profile)
    assert (profile.origin, profile.rows, profile.answered_rows) == ("live", 600, 600)
    assert told.about.origin == "live"


def test_what_moves_is_told_with_records_that_show_it():
    watched, _ = learnt()

    (told,) = take(watched, rows(200, shift=3.0, seed=3))

    assert told.raised
    assert told.alarm is not None
    assert told.alarm.signals[0] == "/x"
    example = next(one for one in told.examples if one.signal == "/x")
    assert json.loads(example.input)["x"] > 1.5
    assert example.cell.startswith("above") or float(example.cell.partition(" ")[0]) > 1
    assert told.report[0].moved


def test_a_state_goes_over_to_the_next_child():
    first, profile = learnt()
    (told,) = take(first, rows(200, shift=3.0, seed=3))

    second = watching(profile=profile, state=told.state)

    assert second.told().alarm == told.alarm
    assert second.told().alarms == 1


@pytest.mark.parametrize("state", [b"", b"nonsense", msgspec.msgpack.encode({"digest": "d"})])
def test_a_state_that_cannot_be_read_begins_anew(state: bytes):
    _, profile = learnt()

    watched = watching(profile=profile, state=state)

    assert watched.told().alarms == 0


def test_one_callers_rows_can_be_capped():
    _, profile = learnt()
    watched = watching(profile=profile, caller_rows=50)

    take(watched, [*rows(150, shift=3.0, caller="bulk"), *rows(100, seed=5, caller="other")])

    assert watched.told().filling == 100
    assert watched.told().skipped == 150


def test_a_clock_that_steps_back_and_forth_closes_no_window_twice_and_breaks_nothing():
    watched, _ = learnt()
    told = []
    for place, now_us in enumerate((5 * DAY_US, DAY_US, 0, 9_000 * DAY_US, 2 * DAY_US)):
        told += take(watched, rows(100, seed=place + 10), elapsed_s=0.6, now_us=now_us)

    assert watched.told().windows == 2
    assert watched.told().alarms == 0
    assert all(not one.raised for one in told)


def test_few_rows_a_day_say_nothing_for_many_days():
    watched, _ = learnt()

    for day in range(19):
        take(watched, rows(10, shift=3.0, seed=day), elapsed_s=86_400.0, now_us=day * DAY_US)

    assert watched.told().windows == 0
    assert watched.told().alarm is None


def test_rows_that_cannot_be_read_are_counted_and_break_nothing():
    watched, _ = learnt()

    take(watched, [Row(b"not json"), Row(b"[1,2]"), Row(b"7", b"{"), Row(b"{}", b"null")])

    assert watched.told().filling == 4


def test_the_building_child_reads_a_reference_and_takes_the_releases_answers(tmp_path: Path):
    rng = np.random.default_rng(4)
    count = 400
    parquet.write_table(
        arrow.table(
            {
                "x": [
                    None if place % 50 == 0 else float(x) for place, x in enumerate(rng.normal(size=count))
                ],
                "kind": ["abc"[place % 3] for place in range(count)],
                "target": list(range(count)),
            }
        ),
        tmp_path / "reference.parquet",
    )
    child = Child(None)  # type: ignore[arg-type]

    (drafted,) = child._do(wire.Build(RELEASE, str(tmp_path), 150, 100))
    assert isinstance(drafted, wire.Drafted)
    outputs = [b'{"y":true}' if place % 2 else b"" for place in range(len(drafted.inputs))]
    (built,) = child._do(wire.Finish(outputs, [[] for _ in outputs], 5))

    assert len(drafted.inputs) == 150
    assert json.loads(drafted.inputs[0]) == {"x": None, "kind": "a"}
    assert isinstance(built, wire.Built)
    profile = msgspec.msgpack.decode(built.profile, type=Profile)
    assert (profile.rows, profile.answered_rows, profile.made_us) == (400, 75, 5)
    assert not any(signal.side == "output" for signal in profile.signals), "75 answers are too few to go by"
    missing = next(signal for signal in profile.signals if signal.name == "/x")
    assert missing.counts[0][missing.missing_cell] == 8


def test_a_reference_of_too_many_rows_is_thinned_evenly(tmp_path: Path):
    parquet.write_table(arrow.table({"x": list(range(10_000))}), tmp_path / "reference.parquet")

    found = read_reference(tmp_path, fields=["x"], time_field=None, most=1_000)

    assert [row["x"] for row in found.records] == list(range(0, 10_000, 10))


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda path: None, "has no reference.parquet"),
        (lambda path: path.write_bytes(b"PAR1 nonsense PAR1"), "cannot be read"),
        (lambda path: parquet.write_table(arrow.table({"z": [1]}), path), "no column that is a field"),
        (
            lambda path: parquet.write_table(arrow.table({"x": arrow.array([], arrow.int64())}), path),
            "no rows",
        ),
    ],
)
def test_a_reference_that_cannot_serve_says_why(tmp_path: Path, write: Any, why: str):
    write(tmp_path / "reference.parquet")

    with pytest.raises(NoReference, match=why):
        read_reference(tmp_path, fields=["x"], time_field=None, most=1_000)


def test_frames_are_cut_wherever_the_stream_breaks():
    stream = framed(b"one") + framed(b"") + framed(b"three")
    reader = FrameReader()

    found = [body for place in range(len(stream)) for body in reader.feed(stream[place : place + 1])]

    assert found == [b"one", b"", b"three"]


def test_a_frame_beyond_the_limit_is_refused_before_it_is_held():
    with pytest.raises(ValueError, match="beyond"):
        FrameReader().feed((FRAME_MOST_BYTES + 1).to_bytes(4, "big"))


def test_what_is_told_survives_the_way_through_a_frame():
    watched, _ = learnt()
    told = watched.told()

    (body,) = FrameReader().feed(wire.frame(told))

    assert wire.read_from_child(body) == told
