"""Walk JSON Schemas, and answer questions about their shape.

Called by `base/schema.py`, which hands the answers on. Promises to read what draft 2020-12 calls a schema and
nothing else: a default or an example is data, whatever it looks like. Never changes what it is given, never
validates a value.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nightproof.base.strictjson import SAFE_INTEGER

# Where a schema holds other schemas; everything else in it (defaults, examples, …) is plain data.
_MAPS = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLES = (
    *("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
UNIONS = ("anyOf", "oneOf")
LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_SAME_PLACE = ("allOf", "anyOf", "dependentSchemas", "else", "oneOf", "then")
_ELSEWHERE = ("$defs", "definitions", "if", "not", "propertyNames")
_LONGEST_REF_CHAIN = 32

Json = dict[str, Any]


def close_objects(schema: Json) -> Json:
    """Return a deep copy in which every object with declared fields refuses undeclared ones.

    A schema that speaks of `additionalProperties` keeps its word. Where one object is described by several
    schemas together (`allOf`, `properties` beside `anyOf`, …) none of the parts is closed, the whole is.
    """
    closed: Json = copied(schema)
    parts = _parts_of_wholes(closed)
    for subschema in subschemas(closed):
        if id(subschema) in parts or {"additionalProperties", "unevaluatedProperties"} & subschema.keys():
            continue
        if _is_whole_of_parts(subschema, closed) or _refers_to(subschema, closed, parts):
            subschema["unevaluatedProperties"] = False
        elif "properties" in subschema:
            subschema["additionalProperties"] = False
    return closed


def wide_integer_pointers(schema: Json) -> frozenset[str]:
    """Return where integers beyond ±(2^53-1) are declared, as pointers with `*` for any index or free key.

    A field declares them by a limit, an option or a constant out there. In recursive types `**` stands for
    any number of segments.
    """
    return frozenset(_wide_places(schema, schema, "", inside=frozenset()))


def declared_names(schema: Json) -> frozenset[str]:
    """Return every key name that the schema itself utters: these may be repeated to a caller."""
    names: set[str] = set()
    for subschema in subschemas(schema):
        names.update(subschema.get("properties", ()), subschema.get("required", ()))
        for name, others in subschema.get("dependentRequired", {}).items():
            names.update((name, *others))
    return frozenset(names)


def subschemas(schema: Any) -> Iterator[Json]:
    """Yield `schema` and every schema inside it."""
    if not isinstance(schema, dict):
        return  # true and false are schemas too, with nothing inside
    yield schema
    for keyword, part in schema.items():
        for child in held(keyword, part):
            yield from subschemas(child)


def held(keyword: str, part: Any) -> Iterable[Any]:
    """Return the schemas that `keyword` holds."""
    if keyword in _MAPS and isinstance(part, dict):
        return part.values()
    if keyword in _LISTS and isinstance(part, list):
        return part
    return (part,) if keyword in _SINGLES else ()


def copied(node: Any) -> Any:
    """Return a deep copy in which no part is shared, not even where the original shares some."""
    if isinstance(node, dict):
        return {name: copied(part) for name, part in node.items()}
    return [copied(part) for part in node] if isinstance(node, list | tuple) else node


def target(ref: Any, root: Json) -> Any:
    """Return what a reference within the schema points to, or an empty schema."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return {}
    node: Any = root
    for part in ref.split("/")[1:]:
        segment = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and segment.isdecimal() and int(segment) < len(node):
            node = node[int(segment)]
        elif isinstance(node, dict):
            node = node.get(segment, {})
        else:
            return {}
    return node


def resolved(schema: Any, root: Json) -> Json:
    """Follow references until there is something else to read."""
    for _ in range(_LONGEST_REF_CHAIN):
        if not isinstance(schema, dict):
            return {}
        if "$ref" not in schema or "type" in schema:
            return schema
        schema = target(schema["$ref"], root)
    return {}


def place_after(place: str, steps: Sequence[str | int], root: Json) -> str:
    """Return where `steps` of an evaluation lead from `place`, through references."""
    for step in steps:
        node = target(place, root)
        ref = node.get(step) if step == "$ref" and isinstance(node, dict) else None
        place = ref if isinstance(ref, str) else join(place, step)
    return place


def join(start: str, *segments: str | int) -> str:
    return start + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in segments)


def _conjuncts(schema: Json) -> list[list[Any]]:
    """Return the groups of schemas that describe the same value as `schema` does, together."""
    groups = [[part] for part in schema.get("allOf", ())]
    groups += [schema[keyword] for keyword in UNIONS if keyword in schema]
    groups += [[schema[keyword] for keyword in ("then", "else") if keyword in schema]]
    groups += [[part] for part in schema.get("dependentSchemas", {}).values()]
    return [group for group in groups if group]


def _is_whole_of_parts(schema: Json, root: Json) -> bool:
    """Say whether several schemas describe one object here, so that none may be closed alone."""
    groups = len(_conjuncts(schema)) + ("properties" in schema) + ("$ref" in schema)
    return groups > 1 and any("properties" in part for part in (schema, *_same_value(schema, root)))


def _parts_of_wholes(root: Json) -> set[int]:
    """Return the identities of the schemas that must stay open; conditions and negations among them."""
    parts: set[int] = set()
    for subschema in subschemas(root):
        if _is_whole_of_parts(subschema, root):
            parts.update(map(id, _same_value(subschema, root)))
        for keyword in ("if", "not"):
            condition = subschema.get(keyword)
            if isinstance(condition, dict):
                parts.update(map(id, (condition, *_same_value(condition, root))))
    return parts


def _same_value(schema: Json, root: Json) -> list[Json]:
    """Return all schemas, through references, that apply to the same value as `schema`; without itself."""
    found: dict[int, Json] = {}
    pending: list[Any] = [schema]
    while pending:
        node = pending.pop()
        inner = [part for group in _conjuncts(node) for part in group]
        if "$ref" in node:
            inner.append(target(node["$ref"], root))
        for part in inner:
            if isinstance(part, dict) and id(part) not in found:
                found[id(part)] = part
                pending.append(part)
    found.pop(id(schema), None)
    return list(found.values())


def _refers_to(schema: Json, root: Json, parts: set[int]) -> bool:
    """Say whether `schema` is a plain use of a definition that had to stay open."""
    return "$ref" in schema and id(target(schema["$ref"], root)) in parts


def _wide_places(schema: Any, root: Json, place: str, *, inside: frozenset[str]) -> Iterator[str]:
    """Yield the place of every wide integer at and below `schema`.

    `inside` holds the references that lead here, so that recursive types end. The places below one come again
    at any depth, which `**` stands for.
    """
    if not isinstance(schema, dict):
        return
    if _declares_wide_integer(schema):
        yield place
    ref = schema.get("$ref")
    if isinstance(ref, str) and ref not in inside:
        is_recursive = _is_recursive(ref, root)
        for found in _wide_places(target(ref, root), root, place, inside=inside | {ref}):
            yield found
            if is_recursive:
                yield place + "/**" + found.removeprefix(place)
    for keyword, part in schema.items():
        if keyword == "properties":
            for name, field in part.items():
                yield from _wide_places(field, root, join(place, name), inside=inside)
        elif keyword not in _ELSEWHERE:
            below = place if keyword in _SAME_PLACE else place + "/*"
            for child in held(keyword, part):
                yield from _wide_places(child, root, below, inside=inside)


def _is_recursive(ref: str, root: Json) -> bool:
    """Say whether what `ref` points to leads back to it."""
    entered: set[str] = set()
    pending = [target(ref, root)]
    while pending:
        inner = {part["$ref"] for part in subschemas(pending.pop()) if isinstance(part.get("$ref"), str)}
        pending += [target(each, root) for each in inner - entered]
        entered |= inner
    return ref in entered


def _declares_wide_integer(schema: Json) -> bool:
    options = [*schema.get("enum", ()), schema.get("const")]
    if any(type(option) is int and abs(option) > SAFE_INTEGER for option in options):
        return True
    types = schema.get("type", ())
    if "integer" not in ((types,) if isinstance(types, str) else types):
        return False
    reach = {keyword: abs(schema.get(keyword, 0)) for keyword in LIMITS}
    inclusive = max(reach["minimum"], reach["maximum"])
    exclusive = max(reach["exclusiveMinimum"], reach["exclusiveMaximum"])
    return bool(inclusive > SAFE_INTEGER or exclusive > SAFE_INTEGER + 1)
