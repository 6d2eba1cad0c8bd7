"""What a release's answers look like: which fields are watched and how, decided from the output schema.

Used by `Meters` on the event loop's thread. Numbers go into histograms with bounds fixed at release; values
that the schema names (booleans, `Literal`, enums) are counted by value; of free text and lists only the length
is measured, since their content may be the caller's. Promises a bounded number of fields, values and buckets,
whatever the schema or the model says. Never keeps an answer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from nightproof.base.schemashape import Json, resolved

Kind = Literal["number", "category", "length"]

OTHER = "_other"
"""Stands for every value beyond those that are counted one by one."""
MOST_FIELDS = 64
MOST_VALUES = 32
_DEEPEST = 4
_STEPS = 20
_MAGNITUDES = tuple(
    round(mantissa * 10.0**exponent, 6) for exponent in range(-3, 7) for mantissa in (1.0, 3.0)
)
LENGTH_BOUNDS = (
    0.0,
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1_000.0,
    2_000.0,
    5_000.0,
    10_000.0,
)


@dataclass(frozen=True)
class OutputField:
    """One watched field of the answers."""

    name: str
    """Its path, parts joined by a point."""
    path: tuple[str, ...]
    kind: Kind
    bounds: tuple[float, ...] = ()
    values: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OutputPlan:
    """What is watched of one release's answers."""

    fields: tuple[OutputField, ...] = ()
    left_out: int = 0
    """Fields beyond the bound: counted, so that nobody takes them for watched."""


def plan_of(
    schema: Json, *, confidence_field: str = "", sensitive: Sequence[str] = (), most_fields: int = MOST_FIELDS
) -> OutputPlan:
    """Decide from an output schema what is watched. The confidence has a meter of its own; what is marked
    `Sensitive` (JSON pointers, of which a `*` covers anything) is not counted by value.
    """
    hidden = [pointer.split("/")[1:] for pointer in sensitive]
    found = [
        field
        for field in _fields(schema, schema, ())
        if field.path != (confidence_field,) and not any(_covers(parts, field.path) for parts in hidden)
    ]
    return OutputPlan(tuple(found[:most_fields]), max(0, len(found) - most_fields))


def number_bounds(least: float | None, most: float | None, *, is_integer: bool) -> tuple[float, ...]:
    """Return bucket bounds for numbers: even steps in a declared range, else by magnitude on both sides of 0."""
    if least is not None and most is not None and least < most:
        if is_integer and most - least <= _STEPS:
            return tuple(float(value) for value in range(math.ceil(least), math.floor(most) + 1))
        step = (most - least) / _STEPS
        return (*(least + step * place for place in range(1, _STEPS)), float(most))
    if least is not None and least >= 0:
        return (0.0, *_MAGNITUDES)
    tens = _MAGNITUDES[::2]
    return (*(-bound for bound in reversed(tens)), 0.0, *tens)


class OutputCounts:
    """The distributions of one release's answers since it began to be watched."""

    __slots__ = ("answers", "numbers", "plan", "values")

    def __init__(self, plan: OutputPlan) -> None:
        self.plan = plan
        self.answers = 0
        self.numbers: dict[str, tuple[Sequence[float], list[int], list[float]]] = {}
        """By field: bounds, counts (the last above all bounds), and a list of one, the sum."""
        self.values: dict[str, dict[str, int]] = {}
        for field in plan.fields:
            if field.kind == "category":
                self.values[field.name] = {}
            else:
                self.numbers[field.name] = (field.bounds, [0] * (len(field.bounds) + 1), [0.0])

    def add(self, output: bytes) -> None:
        """Count one answer, given as JSON. What does not fit the plan is passed over: others judge it."""
        try:
            answer = orjson.loads(output)
        except orjson.JSONDecodeError:
            return
        self.answers += 1
        for field in self.plan.fields:
            value = _at(answer, field.path)
            if field.kind == "category":
                self._add_value(field, value)
            elif field.kind == "length":
                if isinstance(value, str | list | dict):
                    self._add_number(field, len(value))
            elif isinstance(value, int | float) and not isinstance(value, bool):
                self._add_number(field, value)

    def _add_number(self, field: OutputField, value: float) -> None:
        bounds, counts, total = self.numbers[field.name]
        counts[bisect_left(bounds, value)] += 1
        total[0] += value

    def _add_value(self, field: OutputField, value: Any) -> None:
        counts = self.values[field.name]
        word = word_of(value)
        if (
            value is not None
            and word not in counts
            and (word not in field.values or len(counts) >= MOST_VALUES)
        ):
            word = OTHER
        counts[word] = counts.get(word, 0) + 1


def word_of(value: Any) -> str:
    """Write a value that a schema names as a label: JSON's words for what is no text."""
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def _covers(pointer: Sequence[str], path: Sequence[str]) -> bool:
    """Say whether a pointer names a field, or something that holds it."""
    return len(pointer) <= len(path) and all(
        given in ("*", part) for given, part in zip(pointer, path, strict=False)
    )


def _at(answer: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if not isinstance(answer, dict):
            return None
        answer = answer.get(part)
    return answer


def _fields(schema: Any, root: Json, path: tuple[str, ...]) -> Iterator[OutputField]:
    """Walk the declared fields, in their order; an object inside is walked too, to a fixed depth."""
    branch = _without_null(resolved(schema, root), root)
    if "properties" in branch and len(path) < _DEEPEST:
        for name, field in branch["properties"].items():
            yield from _fields(field, root, (*path, name))
    elif path:
        found = _field(branch, path)
        if found is not None:
            yield found


def _field(schema: Json, path: tuple[str, ...]) -> OutputField | None:
    name = ".".join(path)
    named = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if schema.get("type") == "boolean":
        named = [False, True]
    if named is not None:
        return OutputField(name, path, "category", values=frozenset(word_of(value) for value in named))
    kind = schema.get("type")
    if kind in ("number", "integer"):
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        most = schema.get("maximum", schema.get("exclusiveMaximum"))
        bounds = number_bounds(least, most, is_integer=kind == "integer")
        return OutputField(name, path, "number", bounds)
    if kind in ("string", "array"):
        return OutputField(name, path, "length", LENGTH_BOUNDS)
    return None


def _without_null(schema: Json, root: Json) -> Json:
    """Return what an optional field is when it is there; a union of several is left as it is, unwatched."""
    for keyword in ("anyOf", "oneOf"):
        branches = [resolved(one, root) for one in schema.get(keyword, ())]
        real = [one for one in branches if one.get("type") != "null"]
        if len(real) == 1:
            return real[0]
    return schema
