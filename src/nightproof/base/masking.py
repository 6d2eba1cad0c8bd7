"""Find marked fields in a JSON Schema, and hide or read their values in records of that schema.

Used by `declare` (once per release), by the pipeline (whom a record is about) and by whoever shows content.
Pointers are JSON pointers (RFC 6901) with `*` for every member of a list or map. Pure; never raises for a record
of another form, since refused records are shown too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MASK = "•••"
_DEEPEST = 32


def marked_pointers(schema: dict[str, Any], word: str) -> list[str]:
    """Return pointers to the fields whose schema carries the word, references followed, in the schema's order."""
    found: dict[str, None] = {}
    definitions = schema.get("$defs", {})

    def walk(node: Any, pointer: str, inside: tuple[str, ...]) -> None:
        if not isinstance(node, dict) or pointer.count("/") > _DEEPEST:
            return
        if node.get(word):
            found[pointer] = None
            return
        reference = node.get("$ref", "")
        name = reference.rpartition("/")[2]
        if reference and name not in inside:
            walk(definitions.get(name), pointer, (*inside, name))
        for field, part in node.get("properties", {}).items():
            walk(part, f"{pointer}/{_escaped(field)}", inside)
        for part in (node.get("items"), node.get("additionalProperties"), *node.get("prefixItems", ())):
            walk(part, f"{pointer}/*", inside)
        for choice in ("anyOf", "oneOf", "allOf"):
            for part in node.get(choice, ()):
                walk(part, pointer, inside)

    walk(schema, "", ())
    return list(found)


def mask(value: Any, pointers: Sequence[str]) -> Any:
    """Return the value with what the pointers name replaced by a mask; the value itself stays as it is."""
    for pointer in pointers:
        value = _masked(value, pointer.split("/")[1:])
    return value


def _masked(value: Any, steps: list[str]) -> Any:
    if not steps:
        return value if value is None else MASK
    step, rest = _unescaped(steps[0]), steps[1:]
    if isinstance(value, dict):
        if steps[0] == "*":
            return {name: _masked(one, rest) for name, one in value.items()}
        if step in value:
            return {**value, step: _masked(value[step], rest)}
    elif isinstance(value, list) and steps[0] == "*":
        return [_masked(one, rest) for one in value]
    return value


def with_text(value: Any, pointer: str, text: str) -> Any:
    """Return the value with another text in place of the one at a pointer (without `*`); None where none is there."""
    if not pointer:
        return text if isinstance(value, str) else None
    step, _, rest = pointer[1:].partition("/")
    rest = f"/{rest}" if "/" in pointer[1:] else ""
    if isinstance(value, dict):
        name = _unescaped(step)
        below = with_text(value.get(name), rest, text)
        return None if below is None else {**value, name: below}
    if isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
        below = with_text(value[int(step)], rest, text)
        return None if below is None else [*value[: int(step)], below, *value[int(step) + 1 :]]
    return None


def texts_at(value: Any, pointers: Sequence[str]) -> list[str]:
    """Return what the pointers name, each value below them as the text that would be quoted; the longest first."""
    found: set[str] = set()

    def gather(part: Any) -> None:
        if isinstance(part, dict):
            for one in part.values():
                gather(one)
        elif isinstance(part, list):
            for one in part:
                gather(one)
        elif part is not None and not isinstance(part, bool):
            found.add(str(part))

    def walk(part: Any, steps: list[str]) -> None:
        if not steps:
            gather(part)
        elif isinstance(part, dict):
            for one in part.values() if steps[0] == "*" else [part.get(_unescaped(steps[0]))]:
                walk(one, steps[1:])
        elif isinstance(part, list) and steps[0] == "*":
            for one in part:
                walk(one, steps[1:])

    for pointer in pointers:
        walk(value, pointer.split("/")[1:])
    return sorted(found, key=len, reverse=True)


def subject_of(value: Any, pointers: Sequence[str]) -> str | None:
    """Return whom a record is about, also where it does not fit its schema; None where it names nobody."""
    for pointer in pointers:
        found = value
        for step in pointer.split("/")[1:]:
            found = found.get(_unescaped(step)) if isinstance(found, dict) else None
        if isinstance(found, str) and found:
            return found
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
    return None


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
