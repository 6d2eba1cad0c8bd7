"""Read a request body as strict JSON, or refuse it with one stable reason.

Called by whatever takes bytes from a caller. Promises RFC 8259 and more: UTF-8 without a byte order mark, no
key twice in one object, no NaN or Infinity, no lone surrogate, no integer that a double would bend unless its
field asked for it, and bounded depth, in time linear in the size of the body. Never puts the caller's data
into a refusal, never waits.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from math import hypot
from typing import Any, Literal

import orjson

MAX_DEPTH = 64
SAFE_INTEGER = 2**53 - 1
LARGE_BYTES = 64 * 1024

Reason = Literal["empty", "encoding", "syntax", "duplicate_key", "number_range", "depth", "surrogate"]

# Far enough under 2^53 that the rounding of `hypot` cannot hide a number beyond it.
_PLAIN_REACH = 2.0**52
# orjson turns integers beyond 64 bits into doubles without a word; those doubles are at least this large.
_HUGE_FLOAT = 2.0**63
_LOWEST_INTEGER = -(2**63)
_HIGHEST_INTEGER = 2**64 - 1
_LONGEST_INTEGER = len(str(_LOWEST_INTEGER))

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_BLANK = b" \t\r\n"

# Both read only bodies that orjson accepted, and both are possessive: no input makes them go back.
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_STRINGS = re.compile(_STRING, re.DOTALL)
_LONG_INTEGERS = re.compile(_STRING + rb"|(?<![\d.eE+\-])(-?\d{19,}+)(?![.eE])", re.DOTALL)

_Tail = tuple[str, ...]
_Step = tuple[Any, str | int]  # (step before or None, segment): shared tails keep long paths cheap


class JsonRefused(ValueError):
    """The body is not JSON that we take: `reason` is stable, `detail` may hold positions, never the data."""

    def __init__(self, reason: Reason, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail
        self.pointer = pointer


def is_large(body: bytes) -> bool:
    """Say whether `parse` may take long enough to belong into a thread (about 0.1 s for 1 MiB)."""
    return len(body) > LARGE_BYTES


def parse(
    body: bytes,
    *,
    max_depth: int = MAX_DEPTH,
    wide_pointers: frozenset[str] = frozenset(),
    known_names: frozenset[str] = frozenset(),
) -> Any:
    """Return the value of `body`, or raise `JsonRefused`.

    At `wide_pointers` integers up to 64 bits are welcome: JSON pointers, in which `*` stands for any index or
    key and `**` for any number of segments.
    `known_names` are the key names of the schema: a refusal's pointer is left out where it needs any other.
    """
    refusal: JsonRefused | None = None
    tree: Any = None
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refusal = _explain(body, error)
    if refusal is not None:  # raised out here, so that no context carries the body along
        raise refusal

    # Outside strings each key has one colon, strings can only add some: equal counts prove no key was lost.
    colons = body.count(b":")
    if type(tree) is dict and colons == len(tree):
        try:
            if hypot(*tree.values()) < _PLAIN_REACH:
                return tree  # a flat record of small numbers
        except TypeError:
            pass  # something else than numbers in it: look closer

    keys, has_wide_integer, has_huge_float = _survey(tree, max_depth)
    if colons != keys and (repeats := _colons_outside_strings(body) - keys):
        raise JsonRefused("duplicate_key", f"an object repeats a key ({repeats} in the whole body)")
    if has_huge_float:
        _refuse_integers_beyond_64_bits(body)
    if has_wide_integer:
        _refuse_undeclared_wide_integers(tree, wide_pointers, known_names)
    return tree


def _survey(tree: Any, max_depth: int) -> tuple[int, bool, bool]:
    """Count the keys, and say whether an integer beyond 2^53-1 or a float of 2^63 and more is in the tree."""
    # Locals, since this loop runs over every value of every request.
    lowest, highest, least, huge = -SAFE_INTEGER, SAFE_INTEGER, -_HUGE_FLOAT, _HUGE_FLOAT
    keys = 0
    has_wide_integer = has_huge_float = False
    depth = 0
    level: list[Any] = [(tree,)]
    while level:
        if depth > max_depth:
            raise JsonRefused("depth", f"nested deeper than {max_depth} levels")
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                keys += len(node)
                node = node.values()
            for value in node:
                kind = type(value)
                if kind is float:
                    if not least < value < huge:
                        has_huge_float = True
                elif kind is str:
                    pass
                elif kind is int:
                    if not lowest <= value <= highest:
                        has_wide_integer = True
                elif kind is dict or kind is list:
                    below.append(value)
        level = below
        depth += 1
    return keys, has_wide_integer, has_huge_float


def _colons_outside_strings(body: bytes) -> int:
    """Count the colons between keys and values, exactly."""
    if b"\\" in body:
        return _STRINGS.sub(b"", body).count(b":")
    return b"".join(body.split(b'"')[::2]).count(b":")  # without escapes every second piece is outside


def _refuse_integers_beyond_64_bits(body: bytes) -> None:
    """Raise when a literal of digits alone does not fit 64 bits; `1e300` and `1.0` are floats and pass."""
    for match in _LONG_INTEGERS.finditer(body):
        literal = match[1]
        if literal is None:
            continue
        if len(literal) > _LONGEST_INTEGER or not _LOWEST_INTEGER <= int(literal) <= _HIGHEST_INTEGER:
            raise JsonRefused("number_range", f"the integer at byte {match.start()} does not fit 64 bits")


def _refuse_undeclared_wide_integers(tree: Any, wide: frozenset[str], known: frozenset[str]) -> None:
    """Raise when an integer beyond ±(2^53-1) stands where no field declares one."""
    for path, tails in _wide_integers(tree, _tails(wide)):
        if () not in tails:
            raise JsonRefused(
                "number_range",
                "an integer beyond ±(2^53-1), in a field that does not declare such integers",
                _pointer(path, known),
            )


def _wide_integers(tree: Any, wide: tuple[_Tail, ...]) -> Iterator[tuple[_Step | None, tuple[_Tail, ...]]]:
    """Yield the path of each wide integer with what is left there of the patterns that fit so far."""
    below: list[tuple[Any, _Step | None, tuple[_Tail, ...]]] = [(tree, None, wide)]
    while below:
        node, path, tails = below.pop()
        if type(node) is int and not -SAFE_INTEGER <= node <= SAFE_INTEGER:
            yield path, tails
        elif type(node) is dict:
            below += [(value, (path, key), _advance(tails, key)) for key, value in node.items()]
        elif type(node) is list:
            inside = _advance(tails, "*")
            below += [(value, (path, index), inside) for index, value in enumerate(node)]


def _advance(tails: tuple[_Tail, ...], segment: str) -> tuple[_Tail, ...]:
    """Return what is left of each pattern after one more segment."""
    rest: list[_Tail] = []
    for tail in tails:
        if tail and tail[0] in ("*", segment):
            rest.append(tail[1:])
        elif tail and tail[0] == "**":  # this segment and any number more, or it begins what follows
            rest += (tail, *_advance((tail[1:],), segment)) if tail[1:] else (tail, ())
    return tuple(dict.fromkeys(rest))


@lru_cache(maxsize=256)
def _tails(pointers: frozenset[str]) -> tuple[_Tail, ...]:
    """Split each pointer pattern into its segments."""
    return tuple(
        tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
        for pointer in pointers
    )


def _pointer(path: _Step | None, known: frozenset[str]) -> str | None:
    """Write `path` as a JSON pointer, or None when it holds a name that only the caller knows."""
    parts: list[str] = []
    while path is not None:
        path, segment = path
        if isinstance(segment, str) and segment not in known:
            return None
        parts.append(str(segment).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in reversed(parts))


def _explain(body: bytes, error: orjson.JSONDecodeError) -> JsonRefused:
    """Say why orjson refused `body`."""
    if not body.strip(_BLANK):
        return JsonRefused("empty", "the body is empty; send one JSON value")
    if body.startswith(_BYTE_ORDER_MARKS):
        return JsonRefused("encoding", "the body starts with a byte order mark; send plain UTF-8")
    if 0 in body[:2]:
        return JsonRefused("encoding", "the body looks like UTF-16 or UTF-32; send UTF-8")
    if (wrong_at := _first_byte_outside_utf8(body)) is not None:
        return JsonRefused("encoding", f"the body is not UTF-8 at byte {wrong_at}")

    # The words are orjson's; should it choose others, the reason falls back to syntax, never to acceptance.
    said = error.msg.lower()
    place = f"line {error.lineno}, column {error.colno}"
    if "surrogate" in said:
        return JsonRefused("surrogate", f"half of a surrogate pair is escaped at {place}")
    if "depth" in said or "recursion" in said:
        return JsonRefused("depth", f"nested too deep at {place}")
    if "infinity" in said:
        return JsonRefused("number_range", f"the number at {place} is too large for a double")
    if error.pos >= len(error.doc):
        return JsonRefused("syntax", "the body ends before its JSON value does")
    return JsonRefused("syntax", f"not JSON at {place}")


def _first_byte_outside_utf8(body: bytes) -> int | None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None
