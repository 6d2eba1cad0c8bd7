"""Requests for a service whose meaning nobody told us: from its golden cases, and from its input's schema.

Good ones are golden inputs. Marked ones differ from all of those in one field, so that the model can be told to
misbehave on them alone. Bad ones break the schema in a way that is known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from nightproof.base.clock import utc_now
from nightproof.declare.describe import Description
from nightproof.declare.fields import FRESH_WORD
from nightproof.declare.folder import read_golden

_STEPS = (1, -1, 2, -2, 3, -3, 5, -5, 7, -7, 11, -11)


class Marked(NamedTuple):
    """An input that no golden case has, and what tells it from them."""

    record: dict[str, Any]
    field: str
    value: Any


class Inputs:
    """What to ask a service."""

    def __init__(self, folder: Path, declared: Description) -> None:
        self._folder = folder
        self._declared = declared
        self._schema = declared.input_schema
        self._definitions: dict[str, Any] = self._schema.get("$defs", {})

    def good(self) -> list[dict[str, Any]]:
        """Return the golden inputs, their times written for now."""
        return [json.loads(case.input) for case in read_golden(self._folder, utc_now())]

    def fields(self) -> dict[str, dict[str, Any]]:
        """Return the fields at the top of the input, references resolved."""
        found = {}
        for name, field in self._schema.get("properties", {}).items():
            reference = str(field.get("$ref", "")).rpartition("/")[2]
            found[name] = {**self._definitions.get(reference, {}), **field}
        return found

    def marked(self) -> Iterator[Marked]:
        """Propose inputs that fit the schema and that no golden case has; a service's own checks may refuse some."""
        good = self.good()
        if not good:
            return
        for name, field in self.fields().items():
            taken = [record.get(name) for record in good]
            for record in good[:3]:
                for value in _values(record.get(name), field):
                    if value not in taken and _fits(value, field):
                        yield Marked({**record, name: value}, name, value)

    def far(self) -> Iterator[dict[str, Any]]:
        """Propose inputs at the ends of what the schema allows, one field at a time."""
        for name, field in self.fields().items():
            for end in (field.get("maximum"), field.get("minimum")):
                if end is not None:
                    yield from ({**record, name: end} for record in self.good()[:5])

    def broken(self) -> dict[str, Any]:
        """Return inputs that do not fit, by what is wrong with them."""
        good = self.good()
        if not good:
            return {}
        record, required = good[0], self._schema.get("required", [])
        found: dict[str, Any] = {"unknown field": {**record, "nightproof_drill": 1}}
        if required:
            name = required[0]
            found["missing field"] = {key: value for key, value in record.items() if key != name}
            found["null"] = {**record, name: None}
            found["another type"] = {**record, name: {"an": "object"}}
        for name, field in self.fields().items():
            if "maximum" in field or "minimum" in field:
                out = field["maximum"] + 1 if "maximum" in field else field["minimum"] - 1
                found["out of range"] = {**record, name: out}
            if "enum" in field:
                found["unknown category"] = {**record, name: "no such category"}
            if field.get("type") in ("integer", "number"):
                found["number as text"] = {**record, name: str(record.get(name, 1))}
        return found

    def stale(self) -> dict[str, Any] | None:
        """Return an input whose time is too old; None where no field must be fresh."""
        good = self.good()
        for name, field in self.fields().items():
            if FRESH_WORD in field and good:
                age = timedelta(seconds=field[FRESH_WORD]["max_age_s"] + 3_600)
                return {**good[0], name: (utc_now() - age).isoformat()}
        return None

    def drifted(self, count: int) -> list[dict[str, Any]]:
        """Return inputs that fit the schema and lie where the data was not; none where no number has room."""
        good = self.good()
        for name, field in self.fields().items():
            if field.get("type") not in ("integer", "number") or "enum" in field:
                continue
            values = [float(record[name]) for record in good if isinstance(record.get(name), int | float)]
            low, high = field.get("minimum", -math.inf), field.get("maximum", math.inf)
            if not values:
                continue
            span = max(1.0, max(values) - min(values))
            far = max(values) + 3 * span
            if far > high or far < low:
                continue
            step = span / max(1, count)
            moved = [far + step * place for place in range(count)]
            moved = [value for value in moved if low <= value <= high]
            whole = field.get("type") == "integer"
            return [
                {**good[n % len(good)], name: int(value) if whole else value} for n, value in enumerate(moved)
            ]
        return []


def _values(base: Any, field: Mapping[str, Any]) -> Iterator[Any]:
    kind = field.get("type")
    if "enum" in field or "const" in field:
        return
    if kind == "integer" and isinstance(base, int) and not isinstance(base, bool):
        yield from (base + step for step in _STEPS)
    elif kind == "number" and isinstance(base, int | float) and not isinstance(base, bool):
        yield from (round(float(base) + step * 0.125, 6) for step in _STEPS)
    elif kind == "string" and isinstance(base, str) and "format" not in field and "pattern" not in field:
        yield from (f"drill {step}" for step in range(1, 6))


def _fits(value: Any, field: Mapping[str, Any]) -> bool:
    if isinstance(value, str):
        return bool(field.get("minLength", 0) <= len(value) <= field.get("maxLength", 1 << 20))
    return bool(
        field.get("minimum", -math.inf) <= value <= field.get("maximum", math.inf)
        and field.get("exclusiveMinimum", -math.inf) < value < field.get("exclusiveMaximum", math.inf)
    )
