"""Say what is wrong with a value in words of its schema.

Called by `base/schema.py`. Promises one short sentence and a kind for each way in which a value can fail.
Never repeats a value or a key that the caller made up; what it shows of the schema it cuts to a length.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from jsonschema_rs import ValidationErrorKind as Wrong

_MOST_OPTIONS_SHOWN = 10
_LONGEST_TEXT_SHOWN = 100

_TYPE_WORDS = {  # in the order in which they are told
    "number": "a number",
    "integer": "a whole number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_FORMAT_WORDS = {
    "date": "a date such as 2026-01-31",
    "date-time": "a date and time with its offset, such as 2026-01-31T03:00:00Z",
    "duration": "a duration such as PT15M",
    "email": "an e-mail address",
    "hostname": "a host name",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "time": "a time with its offset, such as 03:00:00Z",
    "uri": "a URI with its scheme",
    "uuid": "a UUID with its hyphens",
}


def expected(types: Iterable[str]) -> str:
    """Write `expected a number or null`."""
    named = set(types)
    if "number" in named:
        named.discard("integer")
    words = [word for name, word in _TYPE_WORDS.items() if name in named] or ["another type"]
    return "expected " + " or ".join((", ".join(words[:-1]), words[-1]) if words[1:] else words)


def one_of(options: list[Any]) -> str:
    """List the allowed values; they are the schema's."""
    shown = [
        _cut(json.dumps(option, ensure_ascii=False, default=str)) for option in options[:_MOST_OPTIONS_SHOWN]
    ]
    if len(options) == 1:
        return f"must be {shown[0]}"
    more = f" or one of {len(options) - len(shown)} more" if len(options) > len(shown) else ""
    return f"must be one of {', '.join(shown)}{more}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT_SHOWN else text[: _LONGEST_TEXT_SHOWN - 1] + "…"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _unknown(wrong: Any) -> str:
    """Say how many undeclared fields there are; their names are the caller's."""
    number = len(wrong.unexpected)
    return "unknown field" if number == 1 else f"{number} unknown fields"


SAYINGS: dict[type, tuple[Callable[[Any], str], str]] = {
    Wrong.Type: (lambda wrong: expected(wrong.types), "type"),
    Wrong.AdditionalProperties: (_unknown, "unknown"),
    Wrong.UnevaluatedProperties: (_unknown, "unknown"),
    Wrong.FalseSchema: (lambda _: "is not allowed", "unknown"),
    Wrong.Minimum: (lambda wrong: f"must be at least {wrong.limit}", "range"),
    Wrong.Maximum: (lambda wrong: f"must be at most {wrong.limit}", "range"),
    Wrong.ExclusiveMinimum: (lambda wrong: f"must be more than {wrong.limit}", "range"),
    Wrong.ExclusiveMaximum: (lambda wrong: f"must be less than {wrong.limit}", "range"),
    Wrong.MultipleOf: (lambda wrong: f"must be a multiple of {wrong.multiple_of}", "range"),
    Wrong.Enum: (lambda wrong: one_of(wrong.options), "enum"),
    Wrong.Constant: (lambda wrong: one_of([wrong.expected_value]), "enum"),
    Wrong.Format: (lambda wrong: f"expected {_FORMAT_WORDS.get(wrong.format, _cut(wrong.format))}", "format"),
    Wrong.Pattern: (lambda wrong: f"does not match the pattern {_cut(wrong.pattern)}", "pattern"),
    Wrong.MinLength: (lambda wrong: f"must have at least {_count(wrong.limit, 'character')}", "length"),
    Wrong.MaxLength: (lambda wrong: f"must have at most {_count(wrong.limit, 'character')}", "length"),
    Wrong.MinItems: (lambda wrong: f"must have at least {_count(wrong.limit, 'item')}", "length"),
    Wrong.MaxItems: (lambda wrong: f"must have at most {_count(wrong.limit, 'item')}", "length"),
    Wrong.AdditionalItems: (lambda wrong: f"must have at most {_count(wrong.limit, 'item')}", "length"),
    Wrong.UnevaluatedItems: (lambda _: "has more items than allowed", "length"),
    Wrong.MinProperties: (lambda wrong: f"must have at least {_count(wrong.limit, 'field')}", "length"),
    Wrong.MaxProperties: (lambda wrong: f"must have at most {_count(wrong.limit, 'field')}", "length"),
    Wrong.UniqueItems: (lambda _: "must not have the same item twice", "other"),
    Wrong.PropertyNames: (lambda _: "has a key of a form that is not allowed", "other"),
    Wrong.Contains: (lambda _: "lacks an item that must be in it", "other"),
    Wrong.Not: (lambda _: "is of a form that is not allowed", "other"),
}
