"""Hold values against a JSON Schema, and say what is wrong without repeating the caller's data.

Called wherever a service's declared types meet a caller or a model. Promises draft 2020-12 with formats
checked, patterns that run in time linear in the text, answers that stay quick however the value is built, and
errors made of words of the schema alone. Never fetches a reference, never changes a value, never echoes one.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, time
from math import inf, nextafter
from typing import Any, NamedTuple

import jsonschema_rs
import msgspec
from jsonschema_rs import RegexOptions, ValidationError
from jsonschema_rs import ValidationErrorKind as Wrong

from nightproof.base.errors import DeclarationError, FieldError
from nightproof.base.schemashape import (
    LIMITS,
    UNIONS,
    Json,
    close_objects,
    copied,
    declared_names,
    join,
    place_after,
    resolved,
    subschemas,
    wide_integer_pointers,
)
from nightproof.base.schemawords import SAYINGS, expected, one_of
from nightproof.base.strictjson import SAFE_INTEGER

__all__ = [
    "FieldError",
    "Schema",
    "close_objects",
    "compile",
    "declared_names",
    "wide_integer_pointers",
]

# Of a value with more parts than this only the first error is told: each one collected costs about 13 µs.
_MANY_PARTS = 1_000
_DEEPEST_UNION = 4

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NUMBERS = (float, int)  # and not bool, which is an int to Python only

_UNEXPLAINED = ("does not fit its schema", "other")

_Path = tuple[str | int, ...]


class Schema:
    """A compiled schema: `holds` is for the hot path, `errors` for the refusal."""

    __slots__ = ("_bounds", "_names", "_quick", "_root", "_telling")

    def __init__(self, schema: Json) -> None:
        lean, self._bounds = _lean(schema)
        self._quick = jsonschema_rs.Draft202012Validator(lean, **_OPTIONS)
        self._root = _without_contexts(schema)
        self._telling = jsonschema_rs.validator_map_for(self._root, **_OPTIONS)
        self._names = declared_names(schema)

    def __repr__(self) -> str:
        return f"<Schema of {len(self._names)} names>"

    def holds(self, value: Any) -> bool:
        """Say whether `value` fits, stopping at the first thing that does not."""
        return self._quick.is_valid(value) and (not self._bounds or self._is_within_bounds(value))

    def errors(self, value: Any, *, limit: int = 20) -> list[FieldError]:
        """Return what is wrong with `value`, at most `limit` places; empty exactly when it holds."""
        if self.holds(value):
            return []
        found: dict[FieldError, None] = {}  # the same words for the same place are said once
        for error in self._explain("#", value, ()):
            found[error] = None
            if len(found) >= limit:
                break
        return list(found) or [FieldError("", *_UNEXPLAINED)]

    def _is_within_bounds(self, record: Any) -> bool:
        if type(record) is not dict:
            return True
        for name, lowest, highest in self._bounds:
            number: Any = record.get(name)
            if type(number) in _NUMBERS and not lowest <= number <= highest:
                return False
        return True

    def _explain(self, place: str, value: Any, path: _Path) -> Iterator[FieldError]:
        """Yield the errors of `value` under the subschema at `place`; `path` leads to the value."""
        validator = self._telling.get(place)
        if validator is None:  # a reference in a spelling that only the library reads
            yield self._at(path, *_UNEXPLAINED)
            return
        for error in _found(validator, value):
            here = (*path, *error.instance_path)
            wrong: Any = error.kind
            union = _hidden_union({"not": wrong.schema}) if isinstance(wrong, Wrong.Not) else None
            if union is None:
                yield self._told(error, here)
            else:
                keyword, branches = union
                place_of_union = join(place_after(place, error.evaluation_path, self._root), "not", keyword)
                yield from self._explain_union(place_of_union, branches, error.instance, path=here)

    def _explain_union(
        self, place: str, branches: list[Any], value: Any, *, path: _Path
    ) -> Iterator[FieldError]:
        """Yield the errors of the branch that `value` was meant for, or one error that tells the choice."""
        forms = [_form(branch, self._root) for branch in branches]
        fitting = [index for index, form in enumerate(forms) if form.admits_type_of(value)]
        meant = [index for index in fitting if forms[index].admits_tags_of(value)]
        tag = _common_tag([forms[index] for index in fitting])
        if not fitting:
            yield self._at(path, expected(name for form in forms for name in form.types or ()), "type")
        elif len(meant) == 1 or len(fitting) == 1:
            yield from self._explain(join(place, (meant or fitting)[0]), value, path)
        elif tag and not meant:
            options = [option for index in fitting for option in forms[index].tags[tag]]
            yield self._at((*path, tag), one_of(options), "enum")
        elif tag and tag not in value and all(tag in forms[index].required for index in fitting):
            yield self._missing(path, tag)
        elif any(self._fits(join(place, index), value) for index in meant):
            yield self._at(path, "fits more than one of the allowed forms, must fit exactly one", "other")
        else:
            yield self._at(path, f"fits none of the {len(fitting)} allowed forms", "other")

    def _fits(self, place: str, value: Any) -> bool:
        validator = self._telling.get(place)
        return validator is not None and validator.is_valid(value)

    def _told(self, error: ValidationError, path: _Path) -> FieldError:
        """Put one error of the library into our words; its own would quote the value."""
        wrong: Any = error.kind
        if isinstance(wrong, Wrong.Required):
            return self._missing(path, wrong.property)
        if type(wrong) not in SAYINGS:
            return self._at(path, *_UNEXPLAINED)
        say, kind = SAYINGS[type(wrong)]
        return self._at(path, say(wrong), kind)

    def _missing(self, path: _Path, name: str) -> FieldError:
        parent = self._at(path, f"missing field '{name}'", "missing")
        return msgspec.structs.replace(parent, pointer=join(parent.pointer, name))

    def _at(self, path: _Path, detail: str, kind: str) -> FieldError:
        """Point at `path`, or at the last place on it before a key name that the caller made up."""
        for known, segment in enumerate(path):
            if isinstance(segment, str) and segment not in self._names:
                return FieldError(join("", *path[:known]), f"under one of its keys: {detail}", kind)
        return FieldError(join("", *path), detail, kind)


def compile(schema: Json) -> Schema:
    """Compile `schema`, or raise `DeclarationError` for the engineer who wrote it."""
    try:
        return Schema(schema)
    except ValidationError as error:
        hint = "Correct the declaration of this field."
        if isinstance(error.kind, Wrong.Referencing):
            hint = "Put the definition under $defs: references are never fetched."
        elif {"pattern", "patternProperties"} & set(error.instance_path):
            hint = "Patterns run in a linear engine: no look-around, no back-references, no huge repeats."
        place = join("", *error.instance_path) or "its top"
        text = f"The schema cannot be used, at {place}: {error.message}."
        raise DeclarationError(text, hint=hint) from error
    except ValueError as error:  # such as a set, which JSON cannot hold
        raise DeclarationError(f"The schema cannot be used: {error}.") from error


class _Bound(NamedTuple):
    """The limits of one numeric field of the record, both included."""

    name: str
    lowest: float
    highest: float


def _lean(schema: Json) -> tuple[Json, tuple[_Bound, ...]]:
    """Return a copy that validates faster, and the bounds taken out of it.

    The library compares with a whole limit in 0.05 µs, with a fractional one in 1.5 µs and more; Python takes
    0.08 µs. So 1.0 becomes 1, and fractional limits of the record's own fields are compared by us.
    """
    lean = {**copied(schema), "$schema": _DRAFT}
    for subschema in subschemas(lean):
        for keyword in LIMITS:
            limit = subschema.get(keyword)
            if isinstance(limit, float) and limit.is_integer() and abs(limit) <= SAFE_INTEGER:
                subschema[keyword] = int(limit)
    if lean.get("type", "object") != "object":
        return lean, ()
    fields = lean.get("properties", {}).items()
    taken = [_take_bound(name, _without_null(field)) for name, field in fields if isinstance(field, dict)]
    return lean, tuple(bound for bound in taken if bound)


def _without_null(field: Json) -> Json:
    """Return the number's schema in `anyOf: [number, null]`, or `field` itself."""
    branches = field.get("anyOf", ())
    if len(branches) == 2 and {"type": "null"} in branches:
        (other,) = (branch for branch in branches if branch != {"type": "null"})
        return other if isinstance(other, dict) else field
    return field


def _take_bound(name: str, field: Json) -> _Bound | None:
    """Move the limits of a number out of `field` when one of them is fractional."""
    limits = {keyword: field[keyword] for keyword in LIMITS if keyword in field}
    may_be_number = field.get("type", "number") in ("number", "integer")
    if not may_be_number or all(isinstance(limit, int) for limit in limits.values()):
        return None
    if any(isinstance(limit, int) and abs(limit) > SAFE_INTEGER for limit in limits.values()):
        return None  # such a limit has no exact double
    for keyword in limits:
        del field[keyword]
    above = nextafter(limits["exclusiveMinimum"], inf) if "exclusiveMinimum" in limits else -inf
    below = nextafter(limits["exclusiveMaximum"], -inf) if "exclusiveMaximum" in limits else inf
    return _Bound(name, max(above, limits.get("minimum", -inf)), min(below, limits.get("maximum", inf)))


def _without_contexts(schema: Json) -> Json:
    """Return a copy that finds the same faults, but hides each union behind a double negation.

    The library explains a failed union by all errors of all branches. With recursive types that doubles at
    every level of the value, and a long list in an optional field costs an error an item. Behind `not` it
    only decides, in linear time; `Schema` then picks the branch to explain.
    """
    telling = {**copied(schema), "$schema": _DRAFT}
    found = list(subschemas(telling))
    has_union = any(keyword in subschema for subschema in found for keyword in UNIONS)
    for subschema in found:
        for keyword in UNIONS:
            if keyword in subschema:
                hidden = {"not": {"not": {keyword: subschema.pop(keyword)}}}
                subschema["allOf"] = [*subschema.get("allOf", ()), hidden]
        if has_union:  # what a hidden branch evaluates is not seen outside: these would accuse the innocent
            subschema.pop("unevaluatedProperties", None)
            subschema.pop("unevaluatedItems", None)
    return telling


def _found(validator: jsonschema_rs.Validator, value: Any) -> list[ValidationError]:
    """Return the errors of a small value, or the first of a big one."""
    if not _has_many_parts(value):
        return list(validator.iter_errors(value))
    try:
        validator.validate(value)
    except ValidationError as error:
        return [error]
    return []


def _has_many_parts(value: Any) -> bool:
    parts = 0
    rest = [value]
    while rest:
        node = rest.pop()
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        parts += len(inner)
        if parts > _MANY_PARTS:
            return True
        rest.extend(inner)
    return False


def _hidden_union(schema: Any) -> tuple[str, list[Any]] | None:
    """Return the union that `_without_contexts` hid in `schema`, with its keyword."""
    match schema:
        case {"not": {"not": {"anyOf": list(branches)}}}:
            return "anyOf", branches
        case {"not": {"not": {"oneOf": list(branches)}}}:
            return "oneOf", branches
    return None


class _Form(NamedTuple):
    """What tells one branch of a union from the others: its types, and its fields with fixed values."""

    types: frozenset[str] | None
    tags: Mapping[str, list[Any]]
    required: frozenset[str]

    def admits_type_of(self, value: Any) -> bool:
        return self.types is None or not self.types.isdisjoint(_types_of(value))

    def admits_tags_of(self, value: Any) -> bool:
        if not isinstance(value, dict):
            return True
        return all(value[name] in options for name, options in self.tags.items() if name in value)


def _form(branch: Any, root: Json) -> _Form:
    schema = resolved(branch, root)
    fields = {name: resolved(field, root) for name, field in schema.get("properties", {}).items()}
    return _Form(
        types=_types_admitted(schema, root),
        tags={name: values for name, field in fields.items() if (values := _fixed_values(field))},
        required=frozenset(schema.get("required", ())),
    )


def _types_admitted(schema: Json, root: Json, depth: int = 0) -> frozenset[str] | None:
    """Return the JSON types that `schema` can hold for, or None for any."""
    if types := schema.get("type"):
        return frozenset([types] if isinstance(types, str) else types)
    if options := _fixed_values(schema):
        return frozenset(name for option in options for name in _types_of(option)[:1])
    for part in schema.get("allOf", ()):
        if (union := _hidden_union(part)) and depth < _DEEPEST_UNION:
            inner = [_types_admitted(resolved(branch, root), root, depth + 1) for branch in union[1]]
            return None if None in inner else frozenset().union(*filter(None, inner))
    return None


def _fixed_values(schema: Json) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))


def _common_tag(forms: list[_Form]) -> str | None:
    """Return the first field that has fixed values in every form."""
    if not forms:
        return None
    return next((name for name in forms[0].tags if all(name in form.tags for form in forms)), None)


def _types_of(value: Any) -> tuple[str, ...]:
    """Return the JSON types that `value` counts as, the narrowest first."""
    if isinstance(value, float) and value.is_integer():
        return ("integer", "number")
    return _TYPES.get(type(value), ())


_TYPES: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}


_CLOCK = r"\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)"
_TIME = re.compile(_CLOCK, re.ASCII)
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]" + _CLOCK, re.ASCII)


def _is_time(text: str) -> bool:
    """Say whether `text` is an RFC 3339 time; without the leap second, which no Python type can hold."""
    return _TIME.fullmatch(text) is not None and _is_read_by(time.fromisoformat, text)


def _is_date_time(text: str) -> bool:
    """Say whether `text` is an RFC 3339 date and time; without the leap second and the year 0."""
    return _DATE_TIME.fullmatch(text) is not None and _is_read_by(datetime.fromisoformat, text)


def _is_read_by(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text.upper())
    except ValueError:
        return False
    return True


_OPTIONS: dict[str, Any] = {
    "formats": {"date-time": _is_date_time, "time": _is_time},
    "validate_formats": True,
    "pattern_options": RegexOptions(),
    "offline": True,
}
