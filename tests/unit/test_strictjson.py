"""Strict JSON: what is taken, what is refused, under which reason, and in what time."""

import base64
import json
from pathlib import Path
from time import thread_time
from typing import Any

import orjson
import pytest

from nightproof.base.strictjson import MAX_DEPTH, JsonRefused, is_large, parse

SUITE = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "material" / "json_test_suite.jsonl").read_text().splitlines()
]

STRICTER_THAN_THE_SUITE = {
    "y_object_duplicated_key.json": "duplicate_key",  # RFC 8259: names should be unique; we insist
    "y_object_duplicated_key_and_value.json": "duplicate_key",  # the same value twice is still twice
}

MIB = 1 << 20
SAFE = 2**53 - 1


def refused(body: bytes, **options: Any) -> JsonRefused:
    with pytest.raises(JsonRefused) as caught:
        parse(body, **options)
    return caught.value


@pytest.mark.parametrize("item", SUITE, ids=lambda item: item["name"])
def test_every_item_of_the_json_test_suite_ends_as_it_should(item: dict[str, str]):
    body = base64.b64decode(item["content_b64"])

    try:
        value, reason = parse(body), None
    except JsonRefused as refusal:
        value, reason = None, refusal.reason

    if item["expect"] == "accept":
        assert reason == STRICTER_THAN_THE_SUITE.get(item["name"])
        assert reason or value == json.loads(body)
    elif item["expect"] == "reject":
        assert reason
    else:
        assert reason or value is not None


def test_the_suite_is_whole():
    assert len(SUITE) == 202
    assert {item["expect"] for item in SUITE} == {"accept", "reject", "implementation-defined", "transform"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b" \r\n\t ", "empty"),
        (b"\xef\xbb\xbf{}", "encoding"),
        ("{}".encode("utf-16"), "encoding"),
        ("[1]".encode("utf-16-le"), "encoding"),
        ("[1]".encode("utf-16-be"), "encoding"),
        ("[1]".encode("utf-32-be"), "encoding"),
        (b'["\xff"]', "encoding"),
        (b'["\xed\xa0\x80"]', "encoding"),
        (b'["\xc0\xaf"]', "encoding"),
        (b"{", "syntax"),
        (b'{"a":1}x', "syntax"),
        (b'{"a":1,}', "syntax"),
        (b"{'a':1}", "syntax"),
        (b"[01]", "syntax"),
        (b"[+1]", "syntax"),
        (b"[NaN]", "syntax"),
        (b"[Infinity]", "syntax"),
        (b"[-Infinity]", "syntax"),
        (b'["a\x00"]', "syntax"),
        (b"\x80\x81\x82\x83", "encoding"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":1,"\\u0061":1}', "duplicate_key"),
        (b'[{"a":{"b":":","b":2}}]', "duplicate_key"),
        (b'{"":1,"":1}', "duplicate_key"),
        (b"[1e999]", "number_range"),
        (b"[-1e999]", "number_range"),
        (b"[1.7976931348623159e308]", "number_range"),
        (b"[9007199254740992]", "number_range"),
        (b"[-9007199254740992]", "number_range"),
        (b"[18446744073709551616]", "number_range"),
        (b"[-9223372036854775809]", "number_range"),
        (b"[" + b"9" * 300 + b"]", "number_range"),
        (b"[" + b"9" * 5000 + b"]", "number_range"),
        (b'["\\ud800"]', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        (b'{"\\udc00":1}', "surrogate"),
        (b"[" * 100_000 + b"]" * 100_000, "depth"),
        (b"[" * 100_000, "depth"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "depth"),
    ],
)
def test_each_refusal_has_its_reason(body: bytes, reason: str):
    assert refused(body).reason == reason


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"0", 0),
        (b" null ", None),
        (b"{}", {}),
        (b"[]", []),
        (b'{"a":true,"b":1,"c":0.5}', {"a": True, "b": 1, "c": 0.5}),
        (b"[9007199254740991,-9007199254740991]", [SAFE, -SAFE]),
        (b"[1e300,1E25,-1e300]", [1e300, 1e25, -1e300]),
        (b"[12345678901234567890123.0]", [12345678901234567890123.0]),
        (b"[1.12345678901234567890123]", [1.12345678901234567890123]),
        (b"[1e-00000000000000000000000001,1e300]", [0.1, 1e300]),
        (b"[1e-99999]", [0.0]),
        (b"[0." + b"1" * 400 + b"]", [0.1111111111111111]),
        (b'{"9999999999999999999999":"99999999999999999999","x":1e300}',
         {"9999999999999999999999": "99999999999999999999", "x": 1e300}),
        (b'{"a:b":":","c\\":":"\\\\","d\\\\":"\\":"}', {"a:b": ":", 'c":': "\\", "d\\": '":'}),
        (b'["\\ud83d\\ude00"]', ["\U0001f600"]),
        (b'["\\u0000"]', ["\x00"]),
        (b'[{"a":1},{"a":1}]', [{"a": 1}, {"a": 1}]),
        (b'{"a":{"a":{"a":1}}}', {"a": {"a": {"a": 1}}}),
    ],
)  # fmt: skip
def test_what_is_good_comes_back_as_it_was(body: bytes, value: Any):
    assert parse(body) == value


def test_depth_is_counted_in_levels_of_lists_and_objects():
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH

    assert parse(deepest)
    assert refused(b"[" + deepest + b"]").reason == "depth"
    assert parse(b"1", max_depth=0) == 1
    assert parse(b'{"a":1}', max_depth=1) == {"a": 1}
    assert refused(b'{"a":[]}', max_depth=1).reason == "depth"


@pytest.mark.parametrize("literal", [2**53, -(2**53), 2**63, 2**64 - 1, -(2**63)])
def test_a_field_that_declares_wider_integers_gets_them(literal: int):
    body = b'{"id":%d,"lines":[{"n":1},{"n":%d}],"free":{"x":%d}}' % (literal, literal, literal)
    wide = frozenset({"/id", "/lines/*/n", "/free/*"})

    assert parse(body, wide_pointers=wide)["lines"][1]["n"] == literal
    for left_out in wide:
        assert refused(body, wide_pointers=wide - {left_out}).reason == "number_range"


def test_a_wide_field_takes_64_bits_and_no_more():
    wide = frozenset({"/id"})

    assert refused(b'{"id":18446744073709551616}', wide_pointers=wide).reason == "number_range"
    assert refused(b'{"id":-9223372036854775809}', wide_pointers=wide).reason == "number_range"


def test_a_wide_pointer_reaches_its_own_place_only():
    body = b'{"a":{"id":9007199254740993}}'

    assert refused(body, wide_pointers=frozenset({"/id", "/a", "", "/a/id/x"})).reason == "number_range"
    assert parse(b'{"a/b":{"~":9007199254740993}}', wide_pointers=frozenset({"/a~1b/~0"}))
    assert parse(b"9007199254740993", wide_pointers=frozenset({""})) == 2**53 + 1


def test_two_stars_reach_any_depth():
    wide = frozenset({"/tree/**/id"})

    assert parse(b'{"tree":{"id":9007199254740993}}', wide_pointers=wide)
    assert parse(b'{"tree":{"left":{"id":1,"left":[{"id":9007199254740993}]}}}', wide_pointers=wide)
    assert refused(b'{"tree":{"left":{"n":9007199254740993}}}', wide_pointers=wide).reason == "number_range"
    assert refused(b'{"id":9007199254740993}', wide_pointers=wide).reason == "number_range"
    assert parse(b'{"any":[[9007199254740993]]}', wide_pointers=frozenset({"/any/**"}))


def test_a_refused_integer_is_pointed_at_through_known_names_only():
    body = b'{"lines":[{"n":1},{"n":9007199254740993}],"secret":5}'

    assert refused(body, known_names=frozenset({"lines", "n"})).pointer == "/lines/1/n"
    assert refused(body, known_names=frozenset({"lines"})).pointer is None
    assert refused(body).pointer is None
    assert refused(b"[[9007199254740993]]").pointer == "/0/0"


@pytest.mark.parametrize(
    "body",
    [
        b'{"sesame":1,"sesame":2}',
        b'{"sesame":9007199254740993}',
        b'{"sesame":99999999999999999999}',
        b'{"sesame":1e999}',
        b'{"sesame":sesame}',
        b'{"sesame":"\\ud800"}',
        b'{"sesame":"\xff"}',
        b'{"sesame',
        b"sesame" * 1000,
    ],
)
def test_a_refusal_never_repeats_the_body(body: bytes):
    refusal = refused(body)

    told = f"{refusal} {refusal.detail} {refusal.pointer} {refusal.args}"
    assert "sesame" not in told
    assert "999" not in told
    assert refusal.__context__ is None
    assert refusal.__cause__ is None


def test_a_large_body_is_one_of_more_than_64_kib():
    assert not is_large(b" " * 65_536)
    assert is_large(b" " * 65_537)


MANY_KEYS = b"{" + b",".join(b'"%05x":1' % n for n in range(100_000)) + b"}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" * MIB, "depth"),
        (b"[" + b",".join([b"[]"] * (MIB // 3)) + b"]", None),
        (MANY_KEYS, None),
        (b"{" + b",".join([b'"a":1'] * 170_000) + b"}", "duplicate_key"),
        (b'{"a":"' + b":" * MIB + b'"}', None),
        (b'{"a":"' + b"\\\\" * (MIB // 2) + b':"}', None),
        (b'{"a":"' + b'\\"' * (MIB // 2) + b':"}', None),
        (b'{"a":"' + b"\\u0022" * (MIB // 6) + b':"}', None),
        (b"[" + b",".join([b'"\\":"'] * (MIB // 6)) + b"]", None),
        (b"[1e300" + b",1" * (MIB // 2) + b"]", None),
        (b"[1e300,0." + b"1" * MIB + b"]", None),
        (b"[1e300,1e-" + b"1" * MIB + b"]", None),
        (b"[" + b"1" * MIB + b"]", "number_range"),
        (b"[" + b",".join([b"9007199254740993"] * (MIB // 17)) + b"]", "number_range"),
        (b" " * MIB, "empty"),
        (b'"' + b"a" * MIB + b"\xff", "encoding"),
    ],
    ids=lambda part: part[:12].decode(errors="replace") if isinstance(part, bytes) else part,
)
def test_the_worst_mebibyte_takes_linear_time(body: bytes, reason: str | None):
    """Each takes under 0.15 s on a quiet core; anything that goes back over its steps would take minutes."""
    started = thread_time()
    try:
        parse(body)
        ended = None
    except JsonRefused as refusal:
        ended = refusal.reason
    took_s = thread_time() - started

    assert ended == reason
    assert took_s < 2


def test_a_flat_record_costs_little_more_than_reading_it():
    """The quick way is 1.5 µs for 30 numbers; the factor leaves room for a busy machine."""
    body = orjson.dumps({f"feature_{n:02d}": n * 1.37 for n in range(30)})

    def cost_s(read: Any) -> float:
        best = 1.0
        for _ in range(50):
            started = thread_time()
            for _ in range(20):
                read(body)
            best = min(best, thread_time() - started)
        return best

    assert cost_s(parse) < 5 * cost_s(orjson.loads)
