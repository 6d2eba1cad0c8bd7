"""Say in words what changes for callers from one release's schemas to another's: additive or breaking.

Inputs may become wider, outputs narrower; the other way round somebody's working program breaks. Pure: two pairs
of JSON Schemas in, a list of changes out. Never sees a value.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import orjson

from nightproof.base.schemashape import resolved
from nightproof.declare.fields import CONFIDENCE_WORD, FRESH_WORD, SUBJECT_WORD

Side = Literal["input", "output", "chat"]
Json = dict[str, Any]

_DEEPEST = 12
_LOWER = {
    "minimum": "the least value",
    "exclusiveMinimum": "the value that must be exceeded",
    "minLength": "the shortest length",
    "minItems": "the least number of items",
    "minProperties": "the least number of keys",
}
_UPPER = {
    "maximum": "the greatest value",
    "exclusiveMaximum": "the value that must not be reached",
    "maxLength": "the longest length",
    "maxItems": "the greatest number of items",
    "maxProperties": "the greatest number of keys",
}
_EXACT = {
    "pattern": "the pattern",
    "multipleOf": "the step",
    "format": "the format",
    "uniqueItems": "uniqueness",
}


class Change(msgspec.Struct, frozen=True):
    """One difference that a caller may notice."""

    kind: Literal["additive", "breaking"]
    side: Side
    pointer: str
    """Where, as a JSON pointer into the record; empty for the whole record."""
    text: str

    def __str__(self) -> str:
        return f"{self.side} {self.pointer or '/'}: {self.text}"


class _Gap(msgspec.Struct, frozen=True):
    """Something that one schema takes and the other does not."""

    pointer: str
    what: str
    taken_by: str
    """As the schema that takes more says it; empty if it says nothing."""
    refused_by: str


def compare(old_input: Json, old_output: Json, new_input: Json, new_output: Json) -> list[Change]:
    """Return what changes for callers, breaking changes first.

    >>> word = lambda least: {"type": "object", "properties": {"age": {"type": "integer", "minimum": least}}}
    >>> [str(one) for one in compare(word(0), {}, word(18), {})]
    ['input /age: the least value was 0 and is now 18, so what was taken is refused']
    """
    changes = [
        *_changes("input", "breaking", _gaps(new_input, old_input, is_output=False)),
        *_changes("input", "additive", _gaps(old_input, new_input, is_output=False)),
        *_changes("output", "breaking", _gaps(old_output, new_output, is_output=True)),
        *_changes("output", "additive", _gaps(new_output, old_output, is_output=True)),
        *_marks("input", SUBJECT_WORD, "Subject", old_input, new_input),
        *_marks("output", CONFIDENCE_WORD, "Confidence", old_output, new_output),
    ]
    said = {(one.side, one.pointer, one.kind): one for one in reversed(changes)}
    # A field that is new as a whole is said once, and a breaking change says all that its reverse would.
    broken = {(one.side, one.pointer) for one in said.values() if one.kind == "breaking"}
    kept = [
        one
        for one in reversed(list(said.values()))
        if one.kind == "breaking" or (one.side, one.pointer) not in broken
    ]
    return sorted(kept, key=lambda one: (one.kind != "breaking", one.side, one.pointer))


def _changes(side: Side, kind: Literal["additive", "breaking"], gaps: list[_Gap]) -> list[Change]:
    return [Change(kind, side, gap.pointer, _words(side, kind, gap)) for gap in gaps]


def _words(side: Side, kind: str, gap: _Gap) -> str:
    """Say a gap as a change in time: which of the two schemas is the old one follows from side and kind."""
    old_takes_more = (side == "input") == (kind == "breaking")
    old, new = (gap.taken_by, gap.refused_by) if old_takes_more else (gap.refused_by, gap.taken_by)
    end = {
        ("input", "breaking"): "so what was taken is refused",
        ("input", "additive"): "so more is taken",
        ("output", "breaking"): "so callers meet what they never met",
        ("output", "additive"): "so callers meet less",
    }[side, kind]
    if gap.what == "absent":
        return {
            ("input", "breaking"): "is now required, so requests without it are refused",
            ("input", "additive"): "is no longer required",
            ("output", "breaking"): "may now be missing, so callers who read it fail",
            ("output", "additive"): "is now always there",
        }[side, kind]
    if gap.what == "field":
        return {
            ("input", "breaking"): "is gone, so requests that send it are refused",
            ("input", "additive"): "is new and may be left out",
            ("output", "breaking"): "is gone, so callers who read it fail",
            ("output", "additive"): "is new",
        }[side, kind]
    return f"{gap.what} was {old or 'not set'} and is now {new or 'not set'}, {end}"


def _gaps(wide: Json, narrow: Json, *, is_output: bool) -> list[_Gap]:
    """Return what `narrow` allows and `wide` does not: nothing, where `wide` covers it."""
    return _compare(wide, narrow, _Roots(wide, narrow, is_output), "", 0)


class _Roots(msgspec.Struct, frozen=True):
    wide: Json
    narrow: Json
    is_output: bool


def _compare(wide: Any, narrow: Any, roots: _Roots, place: str, depth: int) -> list[_Gap]:
    wide, narrow = _read(wide, roots.wide), _read(narrow, roots.narrow)
    if depth > _DEEPEST or _same(wide, narrow, roots):
        return []
    wides, narrows = _ways(wide, roots.wide), _ways(narrow, roots.narrow)
    if len(wides) > 1 or len(narrows) > 1:
        found = []
        for way in narrows:
            tries = [_compare_one(other, way, roots, place, depth) for other in wides]
            if all(tries):
                # The nearest relative explains best: the way of the same type, with the fewest gaps.
                kin = [t for other, t in zip(wides, tries, strict=True) if _types(other) & _types(way)]
                found += (
                    sorted(kin, key=lambda gaps: len(gaps))[0]
                    if kin
                    else [_Gap(place, "the type", _saying(narrows), _saying(wides))]
                )
        return _once(found)
    return _compare_one(wide, narrow, roots, place, depth)


def _compare_one(wide: Json, narrow: Json, roots: _Roots, place: str, depth: int) -> list[_Gap]:
    """Compare two schemas that are no unions."""
    options = _options(narrow)
    if options is not None:
        return _compare_options(wide, options, place)
    if (allowed := _options(wide)) is not None:
        return [_Gap(place, "the set of values", "open", _listed(allowed))]
    if missing := _uncovered(_types(narrow), _types(wide)):
        said = _saying([narrow]) if len(missing) == len(_types(narrow)) else " or ".join(sorted(missing))
        return [_Gap(place, "the type", said, _saying([wide]))]
    found = _compare_bounds(wide, narrow, place)
    found += _compare_fresh(wide, narrow, place)
    if "object" in _types(narrow) or "properties" in narrow:
        found += _compare_objects(wide, narrow, roots, place, depth)
    if "items" in wide or "items" in narrow:
        found += _compare(wide.get("items", {}), narrow.get("items", {}), roots, f"{place}/*", depth + 1)
    if "prefixItems" in wide or "prefixItems" in narrow:
        pairs = zip(wide.get("prefixItems", ()), narrow.get("prefixItems", ()), strict=False)
        for number, (one, other) in enumerate(pairs):
            found += _compare(one, other, roots, f"{place}/{number}", depth + 1)
    return found


def _compare_options(wide: Json, options: list[Any], place: str) -> list[_Gap]:
    allowed = _options(wide)
    if allowed is None:
        types = _types(wide)
        strange = [one for one in options if types and not ({_type_of(one)} <= types | _implied(types))]
    else:
        strange = [one for one in options if not any(_equal(one, other) for other in allowed)]
    if not strange:
        return []
    refused = _listed(allowed) if allowed is not None else _saying([wide])
    return [_Gap(place, "the set of values", _listed(options), refused)]


def _compare_bounds(wide: Json, narrow: Json, place: str) -> list[_Gap]:
    found = []
    for word, said in (*_LOWER.items(), *_UPPER.items()):
        there, here = wide.get(word), narrow.get(word)
        if not isinstance(there, int | float):
            continue
        is_looser = not isinstance(here, int | float) or (here < there if word in _LOWER else here > there)
        if is_looser and not _bounded_otherwise(word, there, narrow):
            found.append(_Gap(place, said, _plain(here), _plain(there)))
    for word, said in _EXACT.items():
        there, here = wide.get(word), narrow.get(word)
        if there in (None, False) or there == here:
            continue
        if word == "multipleOf" and isinstance(here, int) and isinstance(there, int) and here % there == 0:
            continue
        found.append(_Gap(place, said, _plain(here), _plain(there)))
    return found


def _bounded_otherwise(word: str, bound: float, narrow: Json) -> bool:
    """Say whether the other kind of bound (exclusive or not) is as tight."""
    other = {"minimum": "exclusiveMinimum", "exclusiveMinimum": "minimum"}.get(word) or {
        "maximum": "exclusiveMaximum",
        "exclusiveMaximum": "maximum",
    }.get(word)
    here = narrow.get(other) if other else None
    if not isinstance(here, int | float):
        return False
    if word == "minimum":
        return here >= bound
    if word == "maximum":
        return here <= bound
    return here > bound if word == "exclusiveMinimum" else here < bound


def _compare_fresh(wide: Json, narrow: Json, place: str) -> list[_Gap]:
    there, here = wide.get(FRESH_WORD), narrow.get(FRESH_WORD)
    if not isinstance(there, dict) or there == here:
        return []
    here = here if isinstance(here, dict) else {}
    found = []
    for word, said in (
        ("max_age_s", "the greatest age in seconds"),
        ("ahead_s", "the time ahead in seconds"),
    ):
        limit, own = there.get(word), here.get(word)
        if limit is not None and (own is None or own > limit):
            found.append(_Gap(place, said, _plain(own), _plain(limit)))
    return found


def _compare_objects(wide: Json, narrow: Json, roots: _Roots, place: str, depth: int) -> list[_Gap]:
    there, here = wide.get("properties", {}), narrow.get("properties", {})
    required_there, required_here = set(wide.get("required", ())), set(narrow.get("required", ()))
    found = []
    for name in sorted(required_there - required_here):
        # In an output, a field that the other side does not know at all is gone, not optional.
        what = "field" if roots.is_output and name not in here else "absent"
        found.append(_Gap(f"{place}/{_escaped(name)}", what, "", ""))
    for name, schema in here.items():
        if name in there:
            found += _compare(there[name], schema, roots, f"{place}/{_escaped(name)}", depth + 1)
        elif not roots.is_output and _is_closed(wide):
            found.append(_Gap(f"{place}/{_escaped(name)}", "field", "", ""))
    if roots.is_output:
        gone = [name for name in there if name not in here and name not in required_there]
        found += [_Gap(f"{place}/{_escaped(name)}", "field", "", "") for name in gone]
    free_there, free_here = _free(wide), _free(narrow)
    if isinstance(free_here, dict) and isinstance(free_there, dict):
        found += _compare(free_there, free_here, roots, f"{place}/*", depth + 1)
    elif not roots.is_output and free_here is not False and free_there is False:
        found.append(_Gap(place, "whether other keys may be sent", "yes", "no"))
    return found


def _marks(side: Side, word: str, said: str, old: Json, new: Json) -> list[Change]:
    """Compare which field carries a mark that callers or records depend on."""
    before, after = _marked(old, word), _marked(new, word)
    if before == after or not before:
        return []
    text = f"was the {said} field; now it is {after or 'none'}"
    return [Change("breaking", side, before, text)]


def _marked(schema: Json, word: str) -> str:
    for name, field in schema.get("properties", {}).items():
        if isinstance(field, dict) and field.get(word):
            return f"/{_escaped(name)}"
    return ""


def _read(schema: Any, root: Json) -> Json:
    if isinstance(schema, bool):
        return {} if schema else {"enum": []}
    return resolved(schema, root) if isinstance(schema, dict) else {}


def _ways(schema: Json, root: Json) -> list[Json]:
    """Write unions out: `anyOf`, `oneOf` and lists of types are several schemas."""
    for word in ("anyOf", "oneOf"):
        if word in schema:
            beside = {
                key: part
                for key, part in schema.items()
                if key not in (word, "title", "description", "default")
            }
            ways = [way for part in schema[word] for way in _ways(_read(part, root), root)]
            return [{**beside, **way} for way in ways]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": kind} for kind in schema["type"]]
    return [schema]


def _same(wide: Json, narrow: Json, roots: _Roots) -> bool:
    """Say whether two schemas are the same text: with references, only where both texts are the same as a whole."""
    return wide == narrow and (
        "$ref" not in str(wide) or roots.wide.get("$defs") == roots.narrow.get("$defs")
    )


def _types(schema: Json) -> set[str]:
    kind = schema.get("type")
    if kind is None:
        options = _options(schema)
        return {_type_of(one) for one in options} if options else set()
    return {kind} if isinstance(kind, str) else set(kind)


def _implied(types: set[str]) -> set[str]:
    return {"integer"} if "number" in types else set()


def _uncovered(narrow: set[str], wide: set[str]) -> set[str]:
    if not wide:
        return set()
    return (narrow or {"anything"}) - wide - _implied(wide)


def _options(schema: Json) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    options = schema.get("enum")
    return options if isinstance(options, list) else None


def _free(schema: Json) -> Any:
    for word in ("additionalProperties", "unevaluatedProperties"):
        if word in schema:
            return schema[word]
    return True


def _is_closed(schema: Json) -> bool:
    return _free(schema) is False


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
    ):
        if isinstance(value, kind):
            return name
    return "object"


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _saying(ways: list[Json]) -> str:
    return " or ".join(dict.fromkeys(" or ".join(sorted(_types(way))) or "anything" for way in ways))


def _listed(values: list[Any]) -> str:
    shown = ", ".join(orjson.dumps(value).decode() for value in values[:12])
    return f"{{{shown}{', …' if len(values) > 12 else ''}}}"


def _plain(value: object) -> str:
    return "" if value is None else orjson.dumps(value).decode()


def _once(gaps: list[_Gap]) -> list[_Gap]:
    return list(dict.fromkeys(gaps))


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def breaking(changes: list[Change]) -> list[Change]:
    """Return those that break somebody's working program."""
    return [one for one in changes if one.kind == "breaking"]
