"""Read from a JSON Schema which fields a record has, down to the third level. Pure, and without numpy."""

from __future__ import annotations

from typing import Any, Literal

from nightproof.base.schemashape import resolved

Declared = Literal["number", "boolean", "text", "time", "list", "other"]
_DEEPEST = 3
_MOST_FIELDS = 1_000


def fields_of(schema: dict[str, Any]) -> dict[str, Declared]:
    """Return the leaves by JSON pointer, in the schema's order; objects are entered, lists are not."""
    found: dict[str, Declared] = {}

    def walk(node: Any, pointer: str, depth: int) -> None:
        for name, part in _whole(node, schema).get("properties", {}).items():
            place = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            kind = _kind(part, schema)
            if kind == "object" and depth < _DEEPEST:
                walk(part, place, depth + 1)
            elif len(found) < _MOST_FIELDS:
                found[place] = "other" if kind == "object" else kind

    walk(schema, "", 1)
    return found


def _whole(node: Any, root: dict[str, Any]) -> dict[str, Any]:
    """Return the node itself, or of "this or null" the this."""
    whole: dict[str, Any] = resolved(node, root)
    if "properties" in whole:
        return whole
    for word in ("anyOf", "oneOf", "allOf"):
        parts: list[dict[str, Any]] = [resolved(part, root) for part in whole.get(word, ())]
        real = [part for part in parts if part.get("type") != "null"]
        if len(real) == 1:
            return real[0]
    return whole


def _kind(
    node: Any, root: dict[str, Any]
) -> Literal["number", "boolean", "text", "time", "list", "other", "object"]:
    node = _whole(node, root)
    kinds = node.get("type")
    names = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind and kind != "null"]
    if not names and ("enum" in node or "const" in node):
        return "text"
    if names == ["object"] and "properties" in node:
        return "object"
    if names and set(names) <= {"number", "integer"}:
        return "number"
    if names == ["boolean"]:
        return "boolean"
    if names == ["array"]:
        return "list"
    if names == ["string"]:
        return "time" if node.get("format") in ("date-time", "date", "time", "duration") else "text"
    return "other"


def value_at(record: Any, steps: list[str]) -> Any:
    """Return what is at a place of a record; None where there is nothing."""
    for step in steps:
        if not isinstance(record, dict):
            return None
        record = record.get(step)
    return record


def steps_of(pointer: str) -> list[str]:
    """Return the steps of a JSON pointer."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
