"""Turn records into cells: one column of small integers per signal. Needs numpy: in the drift child only.

A `Reader` is made of a profile and reads batches of rows; `learn` makes profiles with the same functions, so that
what is learnt and what is counted later cannot differ. Never raises for a value: what is of another type than the
reference's goes to the cell of odd ones.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson

from nightproof.base.profile import Profile, Relations, Signal, TextSpace
from nightproof.watch.drift.fields import steps_of, value_at
from nightproof.watch.drift.wire import Row

TEXT_BUCKETS = 1_024
_WORD = re.compile(r"\w+")
_MOST_WORDS = 2_000
_MOST_CHARACTERS = 20_000
_TEXTS_AT_ONCE = 2_000
"""A row of hashed words has 4 kB: so many are held at once."""

Floats = np.ndarray[Any, np.dtype[np.float64]]
Codes = np.ndarray[Any, np.dtype[np.int16]]


class Parsed(msgspec.Struct):
    """Rows as values."""

    inputs: list[Any]
    outputs: list[Any]
    """None where there is no answer."""
    findings: list[list[str]]

    def column(self, side: str, pointer: str) -> list[Any]:
        """Return one field of all rows."""
        records = self.outputs if side == "output" else self.inputs
        steps = steps_of(pointer)
        if len(steps) == 1:
            name = steps[0]
            return [record.get(name) if type(record) is dict else None for record in records]
        return [value_at(record, steps) for record in records]


def parse(rows: Sequence[Row]) -> Parsed:
    """Read the rows' JSON; what cannot be read is an empty record."""
    return Parsed(
        [_loaded(row.input, {}) for row in rows],
        [_loaded(row.output, None) if row.output else None for row in rows],
        [row.findings for row in rows],
    )


def _loaded(body: bytes, otherwise: Any) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return otherwise


class Reader:
    """Reads rows of one release."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._lookups = [_lookup(signal) if signal.kind == "category" else None for signal in profile.signals]
        self._known = [frozenset(signal.known) for signal in profile.signals]
        self._edges = [np.array(signal.edges, dtype=np.float64) for signal in profile.signals]
        self._texts = {space.pointer: TextReader(space) for space in profile.texts}
        self._relations = None if profile.relations is None else _RelationReader(profile.relations)

    def codes(self, parsed: Parsed) -> tuple[Codes, Any]:
        """Return each row's cell of each signal, and which of the signals' rows count (outputs may be missing)."""
        rows = len(parsed.inputs)
        codes = np.zeros((len(self._profile.signals), rows), dtype=np.int16)
        answered = np.array([output is not None for output in parsed.outputs], dtype=bool)
        columns: dict[tuple[str, str], list[Any]] = {}
        numbers: dict[tuple[str, str], tuple[Floats, Any]] = {}
        texts: dict[tuple[str, str], Floats] = {}
        relations: Floats | None = None
        for place, signal in enumerate(self._profile.signals):
            if signal.side == "relation":
                if relations is None and self._relations is not None:
                    relations = self._relations.read(parsed)
                if relations is not None:
                    codes[place] = number_codes(relations[:, int(signal.measure)], self._edges[place])
                continue
            if signal.measure == "flagged":
                codes[place] = self._flags(parsed, signal, place)
                continue
            key = (signal.side, signal.pointer)
            if key not in columns:
                columns[key] = parsed.column(*key)
            column = columns[key]
            if signal.kind == "category":
                codes[place] = self._category_codes(column, signal, place)
            elif signal.measure == "value":
                if key not in numbers:
                    numbers[key] = as_numbers(column)
                values, odd = numbers[key]
                codes[place] = number_codes(values, self._edges[place])
                codes[place][odd] = signal.odd_cell
            else:
                if key not in texts:
                    texts[key] = self._text(column, signal.pointer)
                codes[place] = number_codes(texts[key][:, text_place(signal.measure)], self._edges[place])
        return codes, answered

    def _flags(self, parsed: Parsed, signal: Signal, place: int) -> Codes:
        lookup = self._lookups[place] or {}
        name = signal.pointer
        told = [
            lookup.get(any(one == name or one.startswith(f"{name}:") for one in findings), signal.odd_cell)
            for findings in parsed.findings
        ]
        return np.array(told, dtype=np.int16)

    def _text(self, column: list[Any], pointer: str) -> Floats:
        surface = surface_of(column)
        reader = self._texts.get(pointer)
        return surface if reader is None else np.hstack([surface, reader.read(column)])

    def _category_codes(self, column: list[Any], signal: Signal, place: int) -> Codes:
        lookup = self._lookups[place] or {}
        known = self._known[place]
        missing, odd = signal.missing_cell, signal.odd_cell
        other = len(signal.values)
        told: list[int] = []
        for value in column:
            if value is None:
                told.append(missing)
                continue
            try:
                found = lookup.get(value, -1)
            except TypeError:  # a list or a map
                value = category_key(value)
                found = lookup.get(value, -1)
            if found >= 0:
                told.append(found)
            elif not signal.tells_unseen or hash_of(value) in known:
                told.append(other)
            else:
                told.append(odd)
        return np.array(told, dtype=np.int16)


def _lookup(signal: Signal) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for place, value in enumerate(signal.values):
        found[category_key(orjson.loads(value))] = place
    return found


class Text(msgspec.Struct, frozen=True):
    """A list or a map as a category: its JSON, which is no text of the record's own."""

    text: str


def category_key(value: Any) -> Any:
    """Return what a value is counted under."""
    if isinstance(value, list | dict):
        return Text(_written(value).decode())
    return value


def hash_of(value: Any) -> int:
    """Return 32 bits that stand for a category."""
    return zlib.crc32(value.text.encode() if isinstance(value, Text) else _written(value))


def _written(value: Any) -> bytes:
    """Write a value as JSON; what orjson does not take (integers beyond 64 bits) in Python's own words."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return repr(value).encode("utf-8", "backslashreplace")


def as_numbers(column: list[Any]) -> tuple[Floats, Any]:
    """Return a column as floats, NaN where nothing is, and which rows hold something else than a number."""
    try:
        if not any(isinstance(value, str) for value in column):
            values = np.array(column, dtype=np.float64)
            if values.ndim == 1:
                return values, np.zeros(len(column), dtype=bool)
    except (TypeError, ValueError, OverflowError):
        pass  # one by one, then
    values = np.full(len(column), np.nan)
    odd = np.zeros(len(column), dtype=bool)
    for place, value in enumerate(column):
        if isinstance(value, int | float):
            try:
                values[place] = float(value)
            except OverflowError:
                values[place] = math.inf if value > 0 else -math.inf
        elif isinstance(value, list):
            values[place] = len(value)
        elif value is not None:
            odd[place] = True
    return values, odd


def number_codes(values: Floats, edges: Floats) -> Codes:
    """Return the cells of numbers: below, the bins, above, missing."""
    codes = np.searchsorted(edges, values, side="right").astype(np.int16)
    codes[np.isnan(values)] = len(edges) + 1
    return codes


# -- texts ------------------------------------------------------------------------------------

SURFACE = ("length", "digits", "not_ascii", "capitals", "symbols", "word_length")


def text_place(measure: str) -> int:
    """Return the column of a measure among a text's numbers."""
    return (
        SURFACE.index(measure) if measure in SURFACE else len(SURFACE) + int(measure.removeprefix("words "))
    )


def surface_of(column: Sequence[Any]) -> Floats:
    """Measure each text's surface; NaN where there is no text."""
    found = np.full((len(column), len(SURFACE)), np.nan)
    for place, text in enumerate(column):
        if not isinstance(text, str):
            continue
        size = len(text)
        if not size:
            found[place] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            continue
        part = text[:_MOST_CHARACTERS]
        length = len(part)
        digits = sum(map(str.isdigit, part))
        capitals = sum(map(str.isupper, part))
        letters = sum(map(str.isalpha, part))
        spaces = sum(map(str.isspace, part))
        foreign = 0 if part.isascii() else sum(character > "\x7f" for character in part)
        words = len(part.split()) or 1
        found[place] = (
            math.log1p(size),
            digits / length,
            foreign / length,
            capitals / length,
            (length - digits - letters - spaces) / length,
            (length - spaces) / words,
        )
    return found


def hashed_words(column: Sequence[Any], buckets: int = TEXT_BUCKETS) -> Any:
    """Count each text's words in buckets, float32, dampened."""
    found = np.zeros((len(column), buckets), dtype=np.float32)
    for place, text in enumerate(column):
        if isinstance(text, str):
            words = _WORD.findall(text[:_MOST_CHARACTERS].lower())[:_MOST_WORDS]
            if words:
                hashes = [zlib.crc32(word.encode()) % buckets for word in words]
                found[place] = np.log1p(np.bincount(hashes, minlength=buckets))
    return found


class TextReader:
    """Reads the words of one field's texts."""

    def __init__(self, space: TextSpace) -> None:
        self._weights = np.frombuffer(space.weights, dtype=np.float32)
        self._directions = np.frombuffer(space.directions, dtype=np.float32).reshape(
            space.components, space.buckets
        )

    def read(self, column: Sequence[Any]) -> Floats:
        """Return each text's place along the directions; NaN where there is no text."""
        parts = [
            self._read_some(column[start : start + _TEXTS_AT_ONCE])
            for start in range(0, len(column), _TEXTS_AT_ONCE)
        ]
        return np.vstack(parts) if parts else np.zeros((0, len(self._directions)))

    def _read_some(self, column: Sequence[Any]) -> Floats:
        weighed = hashed_words(column, len(self._weights)) * self._weights
        norms = np.linalg.norm(weighed, axis=1, keepdims=True)
        weighed = weighed / np.where(norms > 0, norms, 1.0)
        found: Floats = (weighed @ self._directions.T).astype(np.float64)
        found[[not isinstance(text, str) for text in column]] = np.nan
        return found


# -- relations --------------------------------------------------------------------------------


class _RelationReader:
    def __init__(self, relations: Relations) -> None:
        self._relations = relations
        self._centres = np.array(relations.centres)
        self._scales = np.array(relations.scales)
        self._directions = np.array(relations.directions)

    def read(self, parsed: Parsed) -> Floats:
        columns = [as_numbers(parsed.column("input", pointer))[0] for pointer in self._relations.pointers]
        return related(np.column_stack(columns), self._centres, self._scales, self._directions)


def related(table: Floats, centres: Floats, scales: Floats, directions: Floats) -> Floats:
    """Return each row's place along the directions, and the logarithm of how far it lies beside all of them."""
    with np.errstate(invalid="ignore", over="ignore"):
        standard = np.nan_to_num(np.clip((table - centres) / scales, -5.0, 5.0), nan=0.0)
    along = standard @ directions.T
    beside = np.linalg.norm(standard - along @ directions, axis=1)
    return np.column_stack([along, np.log(beside + 1e-3)])


def counted(codes: Codes, signals: Sequence[Signal], answered: Any) -> list[list[int]]:
    """Count the cells of each signal; of what is answered, only over rows that have an answer."""
    every = bool(answered.all())
    return [
        np.bincount(
            row if every or signal.side != "output" else row[answered], minlength=signal.cells
        ).tolist()
        for row, signal in zip(codes, signals, strict=True)
    ]
