"""Learn a profile from rows: which signals to watch, their cells, and how they were filled. Needs numpy.

Runs in a child process. Types come from the schema first and from the data only where the schema leaves it open, and
are frozen: a category never becomes a number because a window happens to hold digits only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import orjson

from nightproof.base.profile import (
    Profile,
    Relations,
    Seasons,
    Side,
    Signal,
    TextSpace,
    segments_of,
)
from nightproof.watch.drift import measures, statistics
from nightproof.watch.drift.fields import Declared, fields_of
from nightproof.watch.drift.measures import Floats, Parsed, Reader

LEAST_ROWS = 100
MOST_ROWS = 20_000
MOST_VALUES = 2_000_000
"""Rows times fields of a reference that are read: what a child of a few hundred megabytes can hold."""
TOLERANCE = 0.01
NOISY_TOLERANCE = 0.02
_QUANTILES = (0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999, 1)
_TEXT_QUANTILES = (0, 0.01, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.99, 1)
_MASS = 0.05
_FEW_VALUES = 20
_USUAL_VALUES = 64
_USUAL_SHARE = 0.99
_MOST_KNOWN = 4_096
_TEXT_COMPONENTS = 12
_TEXT_ROWS = 1_000
_TEXTS_FITTED = 5_000
_MOST_RELATED = 256
_MOST_DIRECTIONS = 8
_DAY_S = 86_400.0
_BLOCKS = 20
_LEAST_BLOCK = 50
_ROWS_PER_SEGMENT = 100
_SEASON_RATIO = 2.0
"""Chi-square per degree of freedom from which segments of time count as different; chance gives about 1."""


class NotEnough(Exception):
    """There are too few rows to learn from."""


def learn(
    parsed: Parsed,
    *,
    service: str,
    digest: str,
    input_schema: dict[str, Any],
    output_schema: dict[str, Any],
    checks: Sequence[str],
    origin: str,
    made_us: int,
    times_s: Sequence[float] | None = None,
    block_rows: int = 500,
    answered_places: Sequence[int] | None = None,
) -> Profile:
    """Learn from rows in the order of their time. Raises NotEnough below a hundred of them.

    `answered_places` are the rows that the release was asked to answer; None: all of them.
    """
    rows = len(parsed.inputs)
    if rows < LEAST_ROWS:
        raise NotEnough(f"{rows} rows are fewer than {LEAST_ROWS}")
    answered = sum(output is not None for output in parsed.outputs)
    not_watched: dict[str, str] = {}
    signals: list[Signal] = []
    texts: list[TextSpace] = []
    sides: list[tuple[Side, dict[str, Any]]] = [("input", input_schema)]
    if answered >= LEAST_ROWS:
        sides.append(("output", output_schema))
    else:
        not_watched["output"] = "the release has not answered enough reference rows"
    for side, schema in sides:
        for pointer, declared in fields_of(schema).items():
            column = parsed.column(side, pointer)
            if side == "output":
                column = [
                    one for one, output in zip(column, parsed.outputs, strict=True) if output is not None
                ]
            made, space, why = plan_field(pointer, declared, column, side=side)
            signals += made
            if space is not None:
                texts.append(space)
            if why:
                not_watched[_feature(side, pointer)] = why
    signals += [_flag_signal(name) for name in checks]
    relations, related, why = relate(parsed, signals)
    signals += related
    if why:
        not_watched["relations"] = why
    draft = Profile(
        service=service,
        digest=digest,
        origin="live" if origin == "live" else "reference",
        made_us=made_us,
        rows=rows,
        answered_rows=answered,
        segment_rows=[rows],
        signals=signals,
        texts=texts,
        relations=relations,
        not_watched=not_watched,
    )
    return _fill(draft, parsed, times_s, block_rows, answered_places)


# -- which signals ----------------------------------------------------------------------------


def _feature(side: Side, pointer: str) -> str:
    return pointer if side == "input" else f"{side} {pointer}"


def plan_field(
    pointer: str, declared: Declared, column: list[Any], *, side: Side
) -> tuple[list[Signal], TextSpace | None, str]:
    """Choose the signals of one field; also a text's directions, and why something of it is not watched."""
    present = [value for value in column if value is not None]
    feature = _feature(side, pointer)
    if declared == "time":
        return [_presence(pointer, feature, side, present)], None, "a time: only whether it is there"
    if not present:
        return [_presence(pointer, feature, side, present)], None, "always missing in the reference"
    if declared == "list" or (declared == "other" and isinstance(present[0], list)):
        lengths = [float(len(value)) for value in present if isinstance(value, list)]
        return [_number(pointer, feature, side, np.array(lengths))], None, "a list: only its length"
    if declared == "number":
        distinct = set(present)
        if len(distinct) <= _FEW_VALUES and all(float(value).is_integer() for value in distinct):
            return [_category(pointer, feature, side, present)], None, ""
        values, _ = measures.as_numbers(present)
        return [_number(pointer, feature, side, values)], None, ""
    if declared == "text" and all(isinstance(value, str) for value in present):
        return _plan_text(pointer, feature, side, present, column)
    return [_category(pointer, feature, side, present)], None, ""


def _plan_text(
    pointer: str, feature: str, side: Side, present: list[str], column: list[Any]
) -> tuple[list[Signal], TextSpace | None, str]:
    counts = Counter(present)
    usual = sum(count for _, count in counts.most_common(_USUAL_VALUES))
    words = sum(len(value.split()) for value in present[:2_000]) / min(len(present), 2_000)
    if len(counts) <= _USUAL_VALUES or usual >= 0.5 * len(present):
        return [_category(pointer, feature, side, present)], None, ""
    if words < 3 and len(counts) <= 0.5 * len(present):
        return [_category(pointer, feature, side, present)], None, ""
    surface = measures.surface_of(present)
    signals = [
        _number(pointer, feature, side, surface[:, place], measure=name, quantiles=_TEXT_QUANTILES)
        for place, name in enumerate(measures.SURFACE)
    ]
    if words < 3:
        return signals, None, "its values hardly repeat: only their form"
    if len(present) < _TEXT_ROWS:
        return signals, None, f"words are watched from {_TEXT_ROWS} reference texts on: only the form"
    space = text_space(pointer, present)
    along = measures.TextReader(space).read(present)
    signals += [
        _number(pointer, feature, side, along[:, place], measure=f"words {place}", quantiles=_TEXT_QUANTILES)
        for place in range(space.components)
    ]
    return signals, space, ""


def _presence(pointer: str, feature: str, side: Side, present: list[Any]) -> Signal:
    """Watch whether something is there: every value is the one cell of others."""
    return Signal(
        name=feature, feature=feature, side=side, pointer=pointer, kind="category", tells_unseen=not present
    )


def _number(
    pointer: str,
    feature: str,
    side: Side,
    values: Floats,
    *,
    measure: str = "value",
    quantiles: Sequence[float] = _QUANTILES,
) -> Signal:
    return Signal(
        name=feature if measure == "value" else f"{feature} ({measure})",
        feature=feature,
        side=side,
        pointer=pointer,
        kind="number",
        measure=measure,
        edges=edges_of(values, quantiles),
        tolerance=TOLERANCE if measure == "value" else NOISY_TOLERANCE,
    )


def edges_of(values: Floats, quantiles: Sequence[float] = _QUANTILES) -> list[float]:
    """Cut at the quantiles, tails included, and around values that are a mass by themselves."""
    real = values[np.isfinite(values)]
    if not len(real):
        return [0.0]
    found = set(np.quantile(real, quantiles, method="lower").tolist())
    repeated, counts = np.unique(real, return_counts=True)
    for value in repeated[counts >= _MASS * len(real)].tolist():
        found |= {value, math.nextafter(value, math.inf)}
    top = float(real.max())
    found = {edge for edge in found if edge < top} | {float(real.min()), math.nextafter(top, math.inf)}
    return sorted(found)


def _category(pointer: str, feature: str, side: Side, present: list[Any]) -> Signal:
    counts = Counter(map(measures.category_key, present))
    usual: list[Any] = []
    covered = 0
    for value, count in counts.most_common(_USUAL_VALUES):
        if covered >= _USUAL_SHARE * len(present) or (count < 2 and len(counts) > 2):
            break
        usual.append(value)
        covered += count
    chosen = set(usual)
    others = [value for value in counts if value not in chosen]
    can_know = len(others) <= _MOST_KNOWN
    return Signal(
        name=feature,
        feature=feature,
        side=side,
        pointer=pointer,
        kind="category",
        values=[
            value.text if isinstance(value, measures.Text) else orjson.dumps(value).decode()
            for value in usual
        ],
        known=sorted(map(measures.hash_of, others)) if can_know else [],
        tells_unseen=can_know,
        once=sum(counts[value] == 1 for value in others) if can_know else 0,
    )


def _flag_signal(name: str) -> Signal:
    return Signal(
        name=f"check {name}",
        feature=f"check {name}",
        side="check",
        pointer=name,
        kind="category",
        measure="flagged",
        values=["false", "true"],
    )


def text_space(pointer: str, texts: Sequence[str]) -> TextSpace:
    """Fit the directions along which the words of texts differ most (truncated SVD of hashed words)."""
    texts = texts[:: max(1, math.ceil(len(texts) / _TEXTS_FITTED))]
    hashed = measures.hashed_words(texts)
    occurs = (hashed > 0).sum(axis=0)
    weights = (np.log((1 + len(texts)) / (1 + occurs)) + 1).astype(np.float32)
    weighed = hashed * weights
    norms = np.linalg.norm(weighed, axis=1, keepdims=True)
    weighed /= np.where(norms > 0, norms, 1.0)
    _, vectors = np.linalg.eigh((weighed.T @ weighed).astype(np.float64))
    directions = np.ascontiguousarray(vectors[:, ::-1][:, :_TEXT_COMPONENTS].T.astype(np.float32))
    return TextSpace(pointer, measures.TEXT_BUCKETS, weights.tobytes(), directions.tobytes(), len(directions))


def relate(parsed: Parsed, signals: Sequence[Signal]) -> tuple[Relations | None, list[Signal], str]:
    """Find the directions along which the numeric inputs vary together, and how far rows lie beside them."""
    pointers = [
        one.pointer
        for one in signals
        if one.side == "input" and one.kind == "number" and one.measure == "value"
    ][:_MOST_RELATED]
    if len(pointers) < 2:
        return None, [], ""
    table = np.column_stack([measures.as_numbers(parsed.column("input", pointer))[0] for pointer in pointers])
    with np.errstate(invalid="ignore"):
        finite = np.where(np.isfinite(table), table, np.nan)
        low, high = np.nanquantile(finite, (0.01, 0.99), axis=0)
        clipped = np.clip(finite, low, high)
        centres, scales = np.nanmean(clipped, axis=0), np.nanstd(clipped, axis=0)
    kept = scales > 0
    if kept.sum() < 2:
        return None, [], ""
    if kept.sum() * 20 > len(table):
        return (
            None,
            [],
            f"how {int(kept.sum())} numbers go together needs {int(kept.sum()) * 20} reference rows",
        )
    pointers = [pointer for pointer, keep in zip(pointers, kept, strict=True) if keep]
    table, centres, scales = table[:, kept], centres[kept], scales[kept]
    with np.errstate(invalid="ignore"):
        standard = np.nan_to_num(np.clip((table - centres) / scales, -5.0, 5.0))
    values, vectors = np.linalg.eigh(np.cov(standard, rowvar=False))
    values, vectors = values[::-1], vectors[:, ::-1]
    explained = np.cumsum(values) / values.sum()
    count = min(_MOST_DIRECTIONS, len(pointers) - 1, int(np.searchsorted(explained, 0.8)) + 1)
    relations = Relations(
        pointers, centres.tolist(), scales.tolist(), np.ascontiguousarray(vectors[:, :count].T).tolist()
    )
    along = measures.related(table, centres, scales, np.array(relations.directions))
    made = []
    for place in range(count + 1):
        weights = np.abs(vectors[:, place]) if place < count else np.ones(len(pointers))
        strongest = [pointers[one] for one in np.argsort(-weights)[:3]]
        name = f"relation {place + 1}" if place < count else "relation rest"
        made.append(
            Signal(
                name=name,
                feature=f"{name} ({', '.join(strongest)})" if place < count else name,
                side="relation",
                pointer="",
                kind="number",
                measure=str(place),
                edges=edges_of(along[:, place], _TEXT_QUANTILES),
                tolerance=NOISY_TOLERANCE,
            )
        )
    return relations, made, ""


# -- how they were filled ---------------------------------------------------------------------


def _fill(
    draft: Profile,
    parsed: Parsed,
    times_s: Sequence[float] | None,
    block_rows: int,
    answered_places: Sequence[int] | None,
) -> Profile:
    """Count the reference, by seasons where it has any, and measure how much its blocks differ."""
    codes, answered = Reader(draft).codes(parsed)
    asked = np.ones(len(answered), dtype=bool)
    if answered_places is not None:
        asked[:] = False
        asked[list(answered_places)] = True
    counting: dict[Side, Any] = {"input": None, "relation": None, "output": answered, "check": asked}
    seasons = _seasons_of(codes, times_s, draft.signals)
    places = segment_places(seasons, times_s, len(parsed.inputs))
    segments = segments_of(seasons)
    return msgspec.structs.replace(
        draft,
        seasons=seasons,
        segment_rows=np.bincount(places, minlength=segments).tolist(),
        signals=[
            _filled(signal, row, counting[signal.side], places, segments, block_rows)
            for signal, row in zip(draft.signals, codes, strict=True)
        ],
    )


def _seasons_of(codes: Any, times_s: Sequence[float] | None, signals: Sequence[Signal]) -> Seasons:
    """Choose the segments of time that differ among themselves, where there are rows enough for each of them."""
    rows = codes.shape[1]
    ratios: dict[Seasons, float] = {
        seasons: _segments_differ(
            codes, segment_places(seasons, times_s, rows), segments_of(seasons), signals
        )
        for seasons in _possible_seasons(times_s)
        if rows >= _ROWS_PER_SEGMENT * segments_of(seasons)
    }
    differ = [seasons for seasons, ratio in ratios.items() if ratio > _SEASON_RATIO]
    if len(differ) == 2 and rows >= _ROWS_PER_SEGMENT * segments_of("hours_and_months"):
        return "hours_and_months"
    return max(differ, key=ratios.__getitem__, default="none")


def _segments_differ(codes: Any, places: Any, segments: int, signals: Sequence[Signal]) -> float:
    """Return how far the most seasonal signal's spread over the segments is from chance, which gives about 1."""
    largest = 0.0
    for signal, row in zip(signals, codes, strict=True):
        table = np.bincount(places * signal.cells + row, minlength=segments * signal.cells)
        table = table.reshape(segments, signal.cells).astype(np.float64)
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        kept = expected >= 5
        df = kept.sum() - kept.any(axis=0).sum() - kept.any(axis=1).sum() + 1
        if df > 0:
            x2 = float((((table - expected) ** 2)[kept] / expected[kept]).sum())
            largest = max(largest, x2 / df)
    return largest


def _possible_seasons(times_s: Sequence[float] | None) -> list[Seasons]:
    if times_s is None or len(times_s) < 2:
        return []
    span_s = max(times_s) - min(times_s)
    found: list[Seasons] = ["hours"] if span_s >= 14 * _DAY_S else []
    return [*found, "months"] if span_s >= 360 * _DAY_S else found


def segment_places(seasons: Seasons, times_s: Sequence[float] | None, rows: int) -> Any:
    """Return each row's segment: four-hour blocks of working days and of weekends, months, or both; in UTC."""
    if seasons == "none" or times_s is None:
        return np.zeros(rows, dtype=np.int64)
    times = np.asarray(times_s, dtype=np.float64)
    days = np.floor(times / _DAY_S).astype(np.int64)
    hours = ((times - days * _DAY_S) // 14_400).astype(np.int64)
    weekend = ((days + 3) % 7 >= 5).astype(np.int64)  # 1970 began on a Thursday
    by_hour = weekend * 6 + hours
    if seasons == "hours":
        return by_hour
    months = times.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12
    return months if seasons == "months" else months * 12 + by_hour


def segment_now(seasons: Seasons, now: datetime) -> int:
    """Return the segment of one moment."""
    return int(segment_places(seasons, [now.astimezone(UTC).timestamp()], 1)[0])


def _filled(signal: Signal, codes: Any, answered: Any, places: Any, segments: int, block_rows: int) -> Signal:
    if answered is not None:
        codes, places = codes[answered], places[answered]
    cells = signal.cells
    counts = np.bincount(places * cells + codes, minlength=segments * cells).reshape(segments, cells)
    inflation = _inflation(signal, codes, places, counts, block_rows)
    filled = _with_unseen(signal, counts.tolist())
    return msgspec.structs.replace(signal, counts=filled, inflation=inflation)


def _with_unseen(signal: Signal, counts: list[list[int]]) -> list[list[int]]:
    """Count as never seen what would have been, had it not been in the reference itself (Good and Turing).

    A value that occurs once was new when it came; so are as many of the rows to come.
    """
    once = signal.once
    if signal.kind == "number" or not once:
        return counts
    total = sum(one[-3] for one in counts)
    for one in counts:
        share = round(once * one[-3] / total) if total else 0
        one[-1] += share
        one[-3] -= share
    return counts


def _inflation(signal: Signal, codes: Any, places: Any, counts: Any, block_rows: int) -> float:
    """Replay the reference in blocks, each against the rest: how much more do they differ than chance?"""
    rows = len(codes)
    size = min(block_rows, rows // 5)
    if size < _LEAST_BLOCK:
        return 1.0
    starts = range(0, rows - size + 1, max(size, (rows - size) // _BLOCKS or 1))
    segments, cells = counts.shape
    found: list[tuple[float, int]] = []
    for start in starts:
        part = slice(start, start + size)
        block = np.bincount(places[part] * cells + codes[part], minlength=segments * cells).reshape(
            segments, cells
        )
        rest = (counts - block).tolist()
        observed = block.sum(axis=0).tolist()
        reference, _ = statistics.weighed_reference(rest, block.sum(axis=1).tolist())
        kept_o, kept_r = statistics.merged(observed, reference, is_ordered=signal.kind == "number")
        df = len(kept_o) - 1
        if df > 0:
            found.append((statistics.chi2_statistic(kept_o, kept_r), df))
    if len(found) < 3:
        return 1.0
    degrees = sum(df for _, df in found)
    mean = sum(x2 for x2, _ in found) / degrees
    inflation = mean if mean > 1 + 3 * math.sqrt(2 / degrees) else 1.0
    if inflation > 1.0:
        least = 1 / (4 * len(found))
        while any(statistics.chi2_tail(x2 / inflation, df) < least for x2, df in found):
            inflation *= 1.2
    return inflation
