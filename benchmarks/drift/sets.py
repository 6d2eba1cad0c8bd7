"""Public data sets as references and windows: shuffled, where nothing may be found, and in their own order.

The files are not part of this repository; a set whose file is not there is left out, and the report says so.
"""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.drift import truth
from benchmarks.drift.population import Row
from nightproof.watch.drift import detector, learn, measures

FOLDER = Path(os.environ.get("DRIFT_SETS", Path(__file__).parents[3] / "shared" / "data" / "tabular"))
WINDOW_ROWS = 500


@dataclass(frozen=True)
class TableSet:
    """A table with what is known of its order."""

    name: str
    rows: list[Row]
    schema: dict[str, Any]
    times_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Verdicts:
    """What the windows of a set gave."""

    name: str
    order: str
    reference_rows: int
    windows: int
    alarms: int
    first: int | None
    """Window of the first alarm, from 1."""
    fields: list[str]
    seasons: str


def load() -> tuple[list[TableSet], dict[str, str]]:
    """Return the sets that are there, and why others are not."""
    found, missing = [], {}
    for name, file in (
        ("adult", "adult_train_raw.csv"),
        ("churn", "churn_with_missing.csv"),
        ("elec2", "elec2.csv"),
        ("beijing", "beijing_pm25_2010_2012.csv"),
        ("taxis", "nyc_taxis_2019_03.csv"),
    ):
        path = FOLDER / file
        if path.is_file():
            found.append(_read(name, path))
        else:
            missing[name] = f"{file} is not in {FOLDER.name}/; DRIFT_SETS names its folder"
    return found, missing


def _read(name: str, path: Path) -> TableSet:
    with path.open(encoding="utf-8", newline="") as file:
        raw = [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(file)]
    dropped = {"row", "No", "pickup", "dropoff", "CustomerId", "RowNumber", "customerid", "rownumber"}
    names = [one for one in raw[0] if one not in dropped]
    columns: dict[str, list[Any]] = {}
    properties: dict[str, Any] = {}
    for column in names:
        values = [None if row[column] in ("", "?", "NA", "nan") else row[column] for row in raw]
        try:
            columns[column] = [None if one is None else float(one) for one in values]
            properties[column] = {"type": "number"}
        except ValueError:
            columns[column] = values
            properties[column] = {"type": "string"}
    rows = [dict(zip(names, one, strict=True)) for one in zip(*columns.values(), strict=True)]
    times: list[float] = []
    if name == "beijing":
        times = [
            datetime(
                int(row["year"]), int(row["month"]), int(row["day"]), int(row["hour"]), tzinfo=UTC
            ).timestamp()
            for row in raw
        ]
        for gone in ("year", "month", "day", "hour"):
            properties.pop(gone)
            for row in rows:
                row.pop(gone)
    if name == "elec2":
        start = datetime(1996, 5, 7, tzinfo=UTC)  # half-hours of New South Wales
        times = [(start + timedelta(minutes=30 * place)).timestamp() for place in range(len(rows))]
        for gone in ("date", "day", "period"):
            if properties.pop(gone, None) is not None:
                for row in rows:
                    row.pop(gone)
    return TableSet(name, rows, {"properties": properties}, times)


def shuffled(table: TableSet, seed: int = 11) -> tuple[TableSet, list[Row], list[list[Row]]]:
    """Cut a set at random into a reference (half, at most 5,000) and windows: nothing may be found."""
    rows = list(table.rows)
    random.Random(seed).shuffle(rows)
    cut = min(5_000, len(rows) // 2)
    return table, rows[:cut], list(_windows(rows[cut:]))


def _windows(rows: list[Row]) -> Iterator[list[Row]]:
    for start in range(0, len(rows) - WINDOW_ROWS + 1, WINDOW_ROWS):
        yield rows[start : start + WINDOW_ROWS]


def judge(table: TableSet, reference: list[Row], windows: list[list[Row]]) -> Verdicts:
    """Watch windows whose time plays no part."""
    profile = truth.profile_of(reference, table.schema)
    return _watch(table.name, "shuffled", profile, [(window, None) for window in windows])


def in_order(table: TableSet, *, with_times: bool) -> Verdicts:
    """Take the first half of a set as the reference, with or without its times, and watch the second."""
    cut = len(table.rows) // 2
    profile = learn.learn(
        truth.parsed(table.rows[:cut]),
        service=table.name,
        digest=table.name,
        input_schema=table.schema,
        output_schema={},
        checks=[],
        origin="reference",
        made_us=0,
        times_s=table.times_s[:cut] if with_times and table.times_s else None,
    )
    windows = []
    for start in range(cut, len(table.rows) - WINDOW_ROWS + 1, WINDOW_ROWS):
        part = slice(start, start + WINDOW_ROWS)
        places = (
            learn.segment_places(profile.seasons, table.times_s[part], WINDOW_ROWS) if table.times_s else None
        )
        windows.append((table.rows[part], places))
    return _watch(table.name, "in order, with times" if with_times else "in order", profile, windows)


def _watch(name: str, order: str, profile: Any, windows: list[tuple[list[Row], Any]]) -> Verdicts:
    reader, rules = measures.Reader(profile), truth.rules()
    state = detector.fresh_state(profile, rules)
    first, fields = None, []
    for at, (rows, places) in enumerate(windows):
        codes, answered = reader.codes(truth.parsed(rows))
        count = len(profile.segment_rows)
        window = msgspec.structs.replace(
            detector.fresh_counts(profile),
            rows=len(rows),
            segments=[len(rows)] if places is None else np.bincount(places, minlength=count).tolist(),
            elapsed_s=1.0,
            began_us=at + 1,
            ended_us=at + 2,
            cells=measures.counted(codes, profile.signals, answered),
        )
        alarm = detector.advance(state, window, profile, rules)
        if alarm is not None and first is None:
            first, fields = at + 1, alarm.signals[:6]
    return Verdicts(name, order, profile.rows, len(windows), state.alarms, first, fields, profile.seasons)
