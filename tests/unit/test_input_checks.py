"""Control characters in the texts of a record: refused in free text, left to the schema elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import orjson
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from nightproof.base.schema import close_objects
from nightproof.checks.input import InputChecks


class Inner(BaseModel):
    note: str | None = None


class Record(BaseModel):
    text: str = ""
    either: str | int = 0
    listed: list[str] = []
    inner: Inner = Inner()
    inners: list[Inner] = []
    free: dict[str, str] = {}
    anything: Any = None
    code: str = Field(default="", pattern="^.*")
    option: Literal["a\0b", "c"] = "c"


CHECKS = InputChecks(SimpleNamespace(input_schema=close_objects(TypeAdapter(Record).json_schema())))  # type: ignore[arg-type]


def pointers(record: dict[str, Any]) -> list[str]:
    """Return where a record, which fits its schema, holds what it may not."""
    assert CHECKS.holds(record)
    return [error.pointer for error in CHECKS.control(record, orjson.dumps(record))]


@pytest.mark.parametrize(
    ("record", "where"),
    [
        ({"text": "\0"}, ["/text"]),
        ({"either": "\x1b"}, ["/either"]),
        ({"listed": ["a", "\b", "c"]}, ["/listed/1"]),
        ({"inner": {"note": "\f"}}, ["/inner/note"]),
        ({"inners": [{}, {"note": "\x01"}]}, ["/inners/1/note"]),
        ({"free": {"k": "\x1f"}}, ["/free"]),
        ({"free": {"\x1f": "v"}}, ["/free"]),
        ({"anything": "\x0b"}, ["/anything"]),
        ({"text": "\0", "inner": {"note": "\0"}}, ["/text", "/inner/note"]),
    ],
    ids=repr,
)
def test_a_control_character_is_found_wherever_text_is_free(record: dict[str, Any], where: list[str]):
    assert sorted(pointers(record)) == sorted(where)


@pytest.mark.parametrize(
    "record",
    [
        {"text": 'tab\tline\nreturn\r quote" back\\slash \x7f \u2028 \u202e'},
        {"text": "\\u0000 and \\b, written out"},
        {"code": "\0"},
        {"option": "a\0b"},
        {"either": 7, "anything": 7},
    ],
    ids=repr,
)
def test_what_a_field_declares_and_what_only_looks_so_is_left_alone(record: dict[str, Any]):
    assert pointers(record) == []


def test_the_error_tells_what_it_is_and_not_what_was_sent():
    (error,) = CHECKS.control({"text": "secret\0"}, b'{"text":"secret\\u0000"}')

    assert (error.pointer, error.detail, error.kind) == ("/text", "holds a control character", "control")


def test_a_lower_case_escape_is_an_escape_too():
    assert CHECKS.control({"text": "\x1f"}, b'{"text":"\\u001F"}')
    assert CHECKS.control({"text": "\x1f"}, b'{"text":"\\u001f"}')
