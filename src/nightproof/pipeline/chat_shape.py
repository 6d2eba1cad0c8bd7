"""Hold a structured answer against the JSON schema that its caller asked for (`response_format`)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from nightproof.base import schema as json_schema
from nightproof.base import strictjson
from nightproof.base.errors import DeclarationError, FieldError, Refusal

_MOST_SCHEMA_BYTES = 65_536
_TOLD = 3


def refuse_wrong_format(asked: object) -> None:
    """Raise Refusal for a `response_format` that could not be held to."""
    asked = asked if isinstance(asked, dict) else {}
    kind = asked.get("type")
    if kind in ("text", "json_object"):
        return
    if kind == "json_schema":
        try:
            _compiled(_written(asked))
            return
        except (DeclarationError, TypeError, KeyError, ValueError) as error:
            detail = (
                error.text if isinstance(error, DeclarationError) else "is not a JSON schema that can be used"
            )
    else:
        detail = "has another type than text, json_object or json_schema"
    raise Refusal(
        "The response_format cannot be used.",
        failure="malformed_request",
        hint='Send {"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}.',
        errors=[FieldError("/response_format", detail, "response_format")],
    )


def fits_asked_schema(text: str, asked: dict[str, Any]) -> str:
    """Return what is wrong with an answer that should be JSON; empty where it holds."""
    if asked.get("type") not in ("json_object", "json_schema"):
        return ""
    try:
        value = strictjson.parse(text.encode())
    except strictjson.JsonRefused as error:
        return f"the answer is not JSON: {error.detail}"
    if asked["type"] == "json_object":
        return "" if isinstance(value, dict) else "the answer is JSON, but no object"
    schema = _compiled(_written(asked))
    if schema.holds(value):
        return ""
    return "; ".join(f"{one.pointer or '/'} {one.detail}" for one in schema.errors(value)[:_TOLD])


def _written(asked: dict[str, Any]) -> bytes:
    written = orjson.dumps(asked["json_schema"].get("schema", {}), option=orjson.OPT_SORT_KEYS)
    if len(written) > _MOST_SCHEMA_BYTES:
        raise ValueError("too large")
    return written


@lru_cache(maxsize=256)
def _compiled(written: bytes) -> json_schema.Schema:
    return json_schema.compile(orjson.loads(written))
