"""Check a record before it costs anything: schema, control characters, freshness, and what is usual."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from nightproof.base import schema as json_schema
from nightproof.base.errors import FieldError
from nightproof.base.schemashape import copied, subschemas
from nightproof.declare.describe import Description
from nightproof.declare.fields import FRESH_WORD, USUAL_WORD

Path = tuple[str, ...]

# NUL and its kin, without tab, line feed and carriage return. JSON has to write each of them as an escape.
_CONTROL_ESCAPE = re.compile(rb"\\(?:[bf]|u00[01])")
_NO_CONTROL = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F]*$"
_SAYS_WHICH_TEXTS = frozenset(("pattern", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"))


class InputChecks:
    """A release's input checks, compiled once from its schema."""

    def __init__(self, description: Description) -> None:
        schema = description.input_schema
        self._schema = json_schema.compile(schema)
        self.holds: Callable[[Any], bool] = self._schema.holds
        self._fresh = [
            (path, rule["max_age_s"], rule["ahead_s"]) for path, rule in marked_fields(schema, FRESH_WORD)
        ]
        usual = _usual_schema(marked_fields(schema, USUAL_WORD))
        self._usual = json_schema.compile(usual) if usual else None
        self._without_control = json_schema.compile(_refusing_control(schema))
        wide = json_schema.wide_integer_pointers(schema)
        # A list's records stand one level deeper than the schema says.
        self.wide_integers = wide | {f"/*{pointer}" for pointer in wide}
        self.known_names = json_schema.declared_names(schema)

    def errors(self, record: Any) -> list[FieldError]:
        """Say what is wrong with a record that does not hold."""
        return self._schema.errors(record)

    def control(self, record: Any, written: bytes) -> list[FieldError]:
        """Return the texts with control characters that no field declares; `written` is the record's JSON.

        A field with a pattern or a list of options has said which texts it takes, and is left to the schema.
        """
        if b"\\" not in written or _CONTROL_ESCAPE.search(written) is None:
            return []  # nearly every record: one scan of its bytes
        errors = self._without_control.errors(record)
        return [FieldError(error.pointer, "holds a control character", "control") for error in errors]

    def stale(self, record: Any, now: datetime) -> list[FieldError]:
        """Return the fields declared Fresh whose time is outside its window."""
        found = []
        for path, max_age_s, ahead_s in self._fresh:
            written = _at(record, path)
            if not isinstance(written, str):
                continue  # absent or null: the schema says whether it may be
            pointer = "/" + "/".join(path)
            try:
                moment = datetime.fromisoformat(written.upper())  # RFC 3339 has t and z too
            except ValueError:
                found.append(FieldError(pointer, "not a time that can be read", "format"))
                continue
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            age_s = (now - moment).total_seconds()
            if age_s > max_age_s:
                found.append(FieldError(pointer, f"older than {_span(max_age_s)}", "stale"))
            elif -age_s > ahead_s:
                found.append(FieldError(pointer, f"more than {_span(ahead_s)} in the future", "stale"))
        return found

    @property
    def has_fresh(self) -> bool:
        """Say whether any field is declared Fresh."""
        return bool(self._fresh)

    def unusual(self, record: Any) -> list[str]:
        """Name the fields whose value is outside what is usual, as findings."""
        if self._usual is None or self._usual.holds(record):
            return []
        return [f"unusual:{error.pointer}" for error in self._usual.errors(record)]


def marked_fields(schema: dict[str, Any], word: str) -> list[tuple[Path, Any]]:
    """Find the fields that carry a mark, through `$ref`s, with the path to each. Lists are not entered."""
    found: list[tuple[Path, Any]] = []
    definitions = schema.get("$defs", {})

    def visit(part: Any, path: Path, depth: int) -> None:
        if not isinstance(part, dict) or depth > 16:
            return
        if word in part and path:
            found.append((path, part[word]))
            return
        reference = part.get("$ref", "")
        if reference.startswith("#/$defs/"):
            visit(definitions.get(reference.removeprefix("#/$defs/")), path, depth + 1)
        for choice in part.get("anyOf", []):
            visit(choice, path, depth + 1)
        for name, field in part.get("properties", {}).items():
            visit(field, (*path, name), depth + 1)

    visit(schema, (), 0)
    return found


def _refusing_control(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which every free text, and every free key, must be without control characters."""
    strict: dict[str, Any] = copied(schema)
    for part in list(subschemas(strict)):
        kinds = part.get("type", "string")
        if not _SAYS_WHICH_TEXTS & part.keys() and "string" in (
            (kinds,) if isinstance(kinds, str) else kinds
        ):
            part["pattern"] = _NO_CONTROL
        if part.get("additionalProperties", False) is not False and "propertyNames" not in part:
            part["propertyNames"] = {"pattern": _NO_CONTROL}
    return strict


def _usual_schema(fields: Sequence[tuple[Path, Any]]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path, usual in fields:
        part = root
        for name in path:
            part = part.setdefault("properties", {}).setdefault(name, {})
        choices = dict(usual)
        if "enum" in choices:
            choices["enum"] = [*choices["enum"], None]  # a gap is for the schema to judge
        part.update(choices)
    return root


def _at(record: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(record, dict):
            return None
        record = record.get(name)
    return record


def _span(seconds: float) -> str:
    for size, word in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:g} {word}"
    return f"{seconds:g} seconds"
