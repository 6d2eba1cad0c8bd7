"""Strict JSON: what was written comes back, a key given twice never passes, odd strings never hinder."""

from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nightproof.base.strictjson import JsonRefused, parse

SAFE = 2**53 - 1
# Often colons, quotes and backslashes: what the count of keys could stumble over.
ODD = st.text(st.sampled_from(':"\\{}[],u0061e.+-\n\x00é😀'), max_size=8)
TEXT = ODD | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-SAFE, SAFE)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
LAW = settings(max_examples=100, deadline=None)


def written(value: Any, choice: st.DataObject | None = None) -> bytes:
    """Write `value` as JSON, its strings in spellings that `choice` makes."""
    match value:
        case dict():
            pairs = (written(key, choice) + b":" + written(part, choice) for key, part in value.items())
            return b"{" + b",".join(pairs) + b"}"
        case list():
            return b"[" + b",".join(written(part, choice) for part in value) + b"]"
        case str() if choice is not None:
            return spelled(value, choice)
        case _:
            return orjson.dumps(value)


def spelled(text: str, choice: st.DataObject) -> bytes:
    """Write `text` with any of its characters as an escape."""
    escaped = choice.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    characters = (
        escape(character) if is_escaped else orjson.dumps(character).decode()[1:-1]
        for character, is_escaped in zip(text, escaped, strict=True)
    )
    return f'"{"".join(characters)}"'.encode()


def escape(character: str) -> str:
    """Write one character as its UTF-16 units."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Return every object in `value` that has a key."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    found = [value] if isinstance(value, dict) and value else []
    return found + [each for part in inner for each in objects_in(part)]


@LAW
@given(VALUE)
def test_what_was_written_comes_back(value: Any):
    assert parse(orjson.dumps(value)) == value


@LAW
@given(VALUE, st.data())
def test_any_spelling_of_the_strings_comes_back(value: Any, data: st.DataObject):
    assert parse(written(value, data)) == value


@LAW
@given(VALUE, st.data())
def test_a_key_given_twice_is_refused_wherever_and_however_it_is_spelled(value: Any, data: st.DataObject):
    value = [value, {"a": 1, ":": ":"}]
    target = data.draw(st.sampled_from(objects_in(value)))
    key = data.draw(st.sampled_from(sorted(target)))
    again = spelled(key, data) + b":" + written(data.draw(VALUE), data)
    marker = "\ue000marker\ue000"
    assume(marker not in target)
    target[marker] = 0

    body = written(value, None).replace(orjson.dumps(marker) + b":0", again)

    with pytest.raises(JsonRefused) as caught:
        parse(body)
    assert caught.value.reason == "duplicate_key"


@LAW
@given(st.lists(ODD, max_size=6), st.data())
def test_odd_strings_never_look_like_a_second_key(texts: list[str], data: st.DataObject):
    value = {text: [text, {text: text}] for text in texts}

    assert parse(written(value, data)) == value


@LAW
@given(VALUE, st.integers(SAFE + 1, 2**70) | st.integers(-(2**70), -SAFE - 1))
def test_an_integer_beyond_the_safe_ones_is_refused_beside_anything(value: Any, wide: int):
    body = b'{"first":' + orjson.dumps(value) + b',"n":%d}' % wide

    with pytest.raises(JsonRefused) as caught:
        parse(body)
    assert caught.value.reason == "number_range"
    fits = -(2**63) <= wide < 2**64
    if fits:
        assert parse(body, wide_pointers=frozenset({"/n"}))["n"] == wide
    else:
        with pytest.raises(JsonRefused):
            parse(body, wide_pointers=frozenset({"/n", "/*"}))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text('{}[]:,"\\0123456789eE.+-untrfalsd ', max_size=40).map(str.encode))
def test_any_bytes_are_read_as_orjson_does_or_refused(body: bytes):
    try:
        value = parse(body)
    except JsonRefused:
        return

    assert value == orjson.loads(body)
