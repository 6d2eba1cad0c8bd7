"""What a caller can do wrong with a body, over HTTP: a typed no that tells where, never a 5xx, always recorded."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.books import entries_of
from tests.serving import Served, run_nightproof

MATERIAL = Path(__file__).parent.parent / "material"
SUITE = [json.loads(line) for line in (MATERIAL / "json_test_suite.jsonl").read_text().splitlines()]
NAUGHTY = [json.loads(line)["text"] for line in (MATERIAL / "naughty_strings.jsonl").read_text().splitlines()]
PLANTED = "sk-planted-4711-do-not-repeat"
"""Put wherever a caller can put something: no answer, log line or leaf may hold it."""
ABSENT = object()


def _named(record: dict[str, Any]) -> str:
    """Name a record for a test's id, in every process alike."""
    return str({name: "absent" if value is ABSENT else value for name, value in record.items()})


def told(record: dict[str, Any]) -> dict[str, Any]:
    """Complete a record."""
    return {name: value for name, value in {"text": "a", **record}.items() if value is not ABSENT}


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """Return a refusal's document, which says of itself what the answer's head says."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["id"] == answer.headers["x-request-id"]
    return problem


def refused(answer: httpx.Response, status: int, failure: str, pointer: str | None = None) -> dict[str, Any]:
    """Assert a refusal by this name, at this field."""
    problem = problem_of(answer)
    assert (answer.status_code, problem["failure"]) == (status, failure), answer.text
    if pointer is not None:
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
    return problem


def written(age: timedelta) -> str:
    """Write a time of this age."""
    return (datetime.now(UTC) - age).isoformat()


# -- JSON -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite_answers(mirror: Served) -> dict[str, httpx.Response]:
    """Send every document of the suite as a body."""
    return {item["name"]: mirror.predict_bytes(base64.b64decode(item["content_b64"])) for item in SUITE}


def test_no_document_of_the_suite_ends_in_a_fault_of_ours(suite_answers: dict[str, httpx.Response]):
    answered = {name: answer.status_code for name, answer in suite_answers.items()}

    assert len(answered) == 202
    assert set(answered.values()) <= {200, 400, 422}, answered


def test_what_is_not_json_is_refused_as_such(suite_answers: dict[str, httpx.Response]):
    for item in SUITE:
        if item["expect"] == "reject":
            refused(suite_answers[item["name"]], 400, "malformed_request")


def test_what_is_json_is_refused_as_such_only_where_we_are_stricter(suite_answers: dict[str, httpx.Response]):
    """A key twice in one object is JSON by the standard, and refused by us."""
    stricter = {
        item["name"]
        for item in SUITE
        if item["expect"] == "accept" and suite_answers[item["name"]].status_code == 400
    }

    assert stricter
    assert all("duplicate" in name for name in stricter), stricter


def test_every_document_of_the_suite_has_exactly_one_record(
    mirror: Served, suite_answers: dict[str, httpx.Response]
):
    recorded = Counter(entry.id for entry in entries_of(mirror.state) if entry.kind == "request")

    assert {recorded[answer.headers["x-request-id"]] for answer in suite_answers.values()} == {1}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b'{"text":"a"} x', "line 1, column 14"),
        (b'{"text":"a"', "ends before"),
        (b'\xef\xbb\xbf{"text":"a"}', "byte order mark"),
        ('{"text":"a"}'.encode("utf-16"), "byte order mark"),
        ('{"text":"a"}'.encode("utf-16-le"), "UTF-16"),
        (b'{"text":"\xff"}', "not UTF-8"),
        (b'{"text":"\xc0\xaf"}', "not UTF-8"),
        (b'{"text":"\\ud800"}', "surrogate"),
        (b'{"text":"\\udc00\\ud800"}', "surrogate"),
        (b'{"text":"a","share":NaN}', "not JSON"),
        (b'{"text":"a","share":Infinity}', "not JSON"),
        (b'{"text":"a","share":-Infinity}', "not JSON"),
        (b'{"text":"a","share":1e999}', "too large"),
        (b'{"text":"a","text":"b"}', "repeats a key"),
        (b'{"text":"a","\\u0074ext":"b"}', "repeats a key"),
        (b'[{"text":"a"},{"text":"b","tags":{"k":"1","k":"2"}}]', "repeats a key"),
        (b'{"text":"a","count":' + b"9" * 401 + b"}", "too large"),
        (b'{"text":"a","wide":' + str(2**64).encode() + b"}", "64 bits"),
        (b'{"text":"a","wide":' + b"9" * 5_000 + b"}", "too large"),
        (b'{"text":"a","count":9007199254740993}', "2^53-1"),
        (b"[" * 100_000, "nested too deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b'{"tags":' * 70 + b"1" + b"}" * 70, "nested deeper"),
        (b"\x00" * 64, "UTF-16"),
        (bytes(range(256)), "UTF-16"),
        (b"\x1f\x8b\x08\x00" + b"x" * 60, "not UTF-8"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_a_body_that_cannot_be_taken_is_refused_with_the_reason(mirror: Served, body: bytes, says: str):
    problem = refused(mirror.predict_bytes(body), 400, "malformed_request")

    assert says in problem["detail"]


def test_an_integer_beyond_a_double_is_pointed_at(mirror: Served):
    one = mirror.predict_bytes(b'{"text":"a","count":9007199254740993}')
    listed = mirror.predict_bytes(b'[{"text":"a"},{"text":"a","count":-9007199254740993}]')

    refused(one, 400, "malformed_request", "/count")
    refused(listed, 400, "malformed_request", "/1/count")


@pytest.mark.parametrize("wide", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_a_field_that_declares_wide_integers_takes_them_exactly(mirror: Served, wide: int):
    one, many = mirror.predict(told({"wide": wide})), mirror.predict([told({"wide": wide})])

    assert one.json()["output"]["wide"] == wide
    assert many.json()["items"][0]["output"]["wide"] == wide


def test_a_body_full_of_keys_is_refused_in_time(mirror: Served):
    """170,000 keys in a mebibyte: read off the loop, and quickly."""
    body = b'{"text":"a","tags":{' + b",".join(b'"%x":1' % n for n in range(90_000)) + b"}}"
    began_s = time.monotonic()

    answer = mirror.predict_bytes(body)

    refused(answer, 422, "invalid_input")
    assert time.monotonic() - began_s < 2


# -- head -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_type": "application/jsonx"},
        {"content_type": "application/json; charset=utf-16"},
        {"content_type": 'application/json; charset="latin-1"'},
        {"content_encoding": "gzip"},
        {"content_encoding": "deflate, gzip"},
        {"content_encoding": "br"},
    ],
    ids=str,
)
def test_a_body_of_another_kind_is_not_read(mirror: Served, headers: dict[str, str]):
    refused(mirror.predict_bytes(b'{"text":"a"}', **headers), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": 'Application/JSON; Charset="UTF-8"'},
        {"content_type": "application/vnd.credit+json"},
        {"content_encoding": "identity"},
    ],
    ids=str,
)
def test_json_in_utf_8_is_read_however_it_says_so(mirror: Served, headers: dict[str, str]):
    assert mirror.predict_bytes(b'{"text":"a"}', **headers).status_code == 200


# -- size -----------------------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    """Return the memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4_096


def refused_before_its_end(served: Served, framing: str, begun: bytes) -> None:
    """Begin a request of 100 MB: the answer is there when only `begun` was sent, and the rest is not kept."""
    head = f"POST /services/mirror/predict HTTP/1.1\r\nhost: {served.host}\r\n{framing}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in served.headers.items())
    before_bytes = resident_bytes(served.process.pid)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as caller:
        caller.sendall(head.encode() + b"\r\n" + begun)
        answer = caller.recv(65_536)
        try:
            for _ in range(99):
                caller.sendall(bytes(1_000_000))
        except ConnectionError:
            pass  # nor need it be read
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"failure":"oversized_request"' in answer
    assert resident_bytes(served.process.pid) - before_bytes < 20_000_000


def test_100_mb_are_refused_by_their_announced_length(mirror: Served):
    refused_before_its_end(mirror, "content-length: 100000000", b"")


def test_100_mb_in_chunks_are_refused_at_the_limit(mirror: Served):
    begun = b"".join(b"10000\r\n" + bytes(65_536) + b"\r\n" for _ in range(16)) + b"5f00000\r\n "

    refused_before_its_end(mirror, "transfer-encoding: chunked", begun)


def test_a_body_of_exactly_the_limit_is_read(mirror: Served):
    body = b'{"text":"a"}'
    just_in = mirror.predict_bytes(body + b" " * (1_048_576 - len(body)))
    just_out = mirror.predict_bytes(body + b" " * (1_048_577 - len(body)))

    assert just_in.status_code == 200
    refused(just_out, 413, "oversized_request")


# -- schema ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "pointer"),
    [
        ({"text": ABSENT}, "/text"),
        ({"text": None}, "/text"),
        ({"text": 7}, "/text"),
        ({"text": ["a"]}, "/text"),
        ({"text": "x" * 100_001}, "/text"),
        ({"count": "3"}, "/count"),
        ({"count": 3.5}, "/count"),
        ({"count": True}, "/count"),
        ({"count": None}, "/count"),
        ({"count": -1}, "/count"),
        ({"count": 1_001}, "/count"),
        ({"share": "0.5"}, "/share"),
        ({"share": True}, "/share"),
        ({"share": 1.0000001}, "/share"),
        ({"share": -1e-300}, "/share"),
        ({"share": 1e308}, "/share"),
        ({"flag": 1}, "/flag"),
        ({"flag": "true"}, "/flag"),
        ({"flag": None}, "/flag"),
        ({"colour": "mauve"}, "/colour"),
        ({"colour": "RED"}, "/colour"),
        ({"colour": ""}, "/colour"),
        ({"code": "123456789"}, "/code"),
        ({"wide": 2**63}, "/wide"),
        ({"wide": 1e300}, "/wide"),
        ({"tags": []}, "/tags"),
        ({"tags": {"k": 1}}, "/tags"),
        ({"as_of": 1_700_000_000}, "/as_of"),
        ({"as_of": "yesterday"}, "/as_of"),
        ({"as_of": "2026-02-30T00:00:00Z"}, "/as_of"),
        ({"as_of": "9999-12-31T23:59:60Z"}, "/as_of"),
        ({"as_of": "-0001-01-01T00:00:00Z"}, "/as_of"),
        ({"as_of": "2026-01-01T00:00:00"}, "/as_of"),
        ({"more": 1}, ""),
        ({"__proto__": {}}, ""),
        ({"__class__": "x"}, ""),
        ({"constructor": 1}, ""),
        ({"$ref": "#/$defs/Told"}, ""),
    ],
    ids=lambda value: _named(value)[:32] if isinstance(value, dict) else None,
)
def test_a_record_that_does_not_fit_is_refused_where_it_does_not(
    mirror: Served, record: dict[str, Any], pointer: str
):
    refused(mirror.predict(told(record)), 422, "invalid_input", pointer)


@pytest.mark.parametrize(
    "body", [None, 7, "a", True, 1.5, [None], [7], ["a"], [[]], [[{"text": "a"}]]], ids=repr
)
def test_what_is_no_record_is_refused(mirror: Served, body: Any):
    problem = refused(mirror.predict_bytes(json.dumps(body).encode()), 422, "invalid_input")

    assert problem["errors"] == [
        {"pointer": "/0" if isinstance(body, list) else "", "detail": "expected an object"}
    ]


def test_every_wrong_field_is_told(mirror: Served):
    problem = refused(
        mirror.predict({"count": "x", "share": 2, "colour": 7, "more": 1}), 422, "invalid_input"
    )

    assert {error["pointer"] for error in problem["errors"]} == {"", "/count", "/share", "/colour", "/text"}


def test_what_is_unusual_is_answered_and_noted(mirror: Served):
    answer = mirror.predict(told({"size": 101}))

    assert answer.status_code == 200
    (entry,) = [e for e in entries_of(mirror.state) if e.id == answer.json()["id"]]
    assert json.loads(entry.leaf)["findings"] == ["unusual:/size"]


def test_the_services_own_check_refuses(mirror: Served):
    problem = refused(mirror.predict(told({"text": "forbidden"})), 422, "invalid_input", "")

    assert problem["errors"][0]["detail"] == "the text is forbidden"


# -- control characters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "pointer"),
    [
        ({"text": "a\0b"}, "/text"),
        ({"text": "\x1b[2J"}, "/text"),
        ({"text": "bell\a"}, "/text"),
        ({"text": "back\b"}, "/text"),
        ({"text": "form\f"}, "/text"),
        ({"text": "unit\x1f"}, "/text"),
        ({"tags": {"k": "\0"}}, "/tags"),
        ({"tags": {"\0": "v"}}, "/tags"),
    ],
    ids=repr,
)
def test_control_characters_in_free_text_are_refused(mirror: Served, record: dict[str, Any], pointer: str):
    one, many = mirror.predict(told(record)), mirror.predict([told({}), told(record)])

    problem = refused(one, 422, "invalid_input", pointer)
    assert "control character" in problem["errors"][0]["detail"]
    assert [item.get("failure") for item in many.json()["items"]] == [None, "invalid_input"]


@pytest.mark.parametrize(
    "text", ["tab\there", "line\nline", "\r\n", "back\\slash", "\\u0000 written out", "\\b"]
)
def test_lines_tabs_and_backslashes_are_no_control_characters(mirror: Served, text: str):
    assert mirror.predict(told({"text": text})).json()["output"]["text"] == text


def test_a_field_whose_pattern_allows_control_characters_takes_them(mirror: Served):
    assert mirror.predict(told({"code": "a\0b\x1b"})).json()["output"]["code"] == "a\0b\x1b"


def test_naughty_strings_come_back_as_they_were_sent(mirror: Served):
    """Zero-width, right-to-left, zalgo, emoji, script and shell fragments: data, nothing else."""
    answers = [
        mirror.predict([told({"text": text}) for text in half]) for half in (NAUGHTY[:154], NAUGHTY[154:])
    ]
    items = [item for answer in answers for item in answer.json()["items"]]

    assert len(items) == len(NAUGHTY) == 308
    for text, item in zip(NAUGHTY, items, strict=True):
        if any(sign < " " and sign not in "\t\n\r" for sign in text):
            assert item["failure"] == "invalid_input"
        else:
            assert item["output"]["text"] == text


# -- freshness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "age",
    [timedelta(days=29, hours=23, minutes=59), timedelta(hours=1), timedelta(minutes=-4)],
    ids=str,
)
def test_a_time_inside_its_window_is_taken(mirror: Served, age: timedelta):
    assert mirror.predict(told({"as_of": written(age)})).status_code == 200


@pytest.mark.parametrize("zone", ["+00:00", "Z", "z"])
def test_a_time_is_taken_in_each_of_its_spellings(mirror: Served, zone: str):
    as_of = written(timedelta(hours=1)).replace("+00:00", zone)
    as_of = as_of.lower() if zone == "z" else as_of

    assert mirror.predict(told({"as_of": as_of})).status_code == 200


def test_the_window_is_measured_across_time_zones(mirror: Served):
    young = (datetime.now(UTC) + timedelta(hours=14)).strftime("%Y-%m-%dT%H:%M:%S+14:00")
    old = (datetime.now(UTC) - timedelta(days=30, hours=11)).strftime("%Y-%m-%dT%H:%M:%S-12:00")

    assert mirror.predict(told({"as_of": young})).status_code == 200
    assert mirror.predict(told({"as_of": old})).status_code == 200


@pytest.mark.parametrize("age", [timedelta(days=30, seconds=2), timedelta(minutes=-6)], ids=str)
def test_a_time_outside_its_window_is_stale(mirror: Served, age: timedelta):
    refused(mirror.predict(told({"as_of": written(age)})), 422, "stale_input", "/as_of")


@pytest.mark.parametrize(
    "as_of", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
)
def test_the_ends_of_the_calendar_are_stale(mirror: Served, as_of: str):
    refused(mirror.predict(told({"as_of": as_of})), 422, "stale_input", "/as_of")


# -- lists ----------------------------------------------------------------------------------------------


def test_one_bad_record_of_a_hundred_is_refused_alone(mirror: Served):
    records = [told({"text": f"number {n}"}) for n in range(100)]
    records[42]["count"] = -1

    answer = mirror.predict(records)

    items = answer.json()["items"]
    assert answer.status_code == 200
    assert items[42] == {
        "failure": "invalid_input",
        "detail": "The input does not fit the schema.",
        "errors": [{"pointer": "/count", "detail": "must be at least 0"}],
    }
    said = [item["output"]["text"] for place, item in enumerate(items) if place != 42]
    assert said == [f"number {n}" for n in range(100) if n != 42]
    shown = run_nightproof("audit", "show", answer.json()["id"], "--json", "--state", str(mirror.state))
    (entry,) = json.loads(shown.stdout)
    inside = entry["content"]["items"]
    assert len(inside) == 100
    assert "output" not in inside[42]


def test_each_record_of_a_list_ends_by_its_own_failure(mirror: Served):
    records = [
        told({}),
        told({"count": -1}),
        told({"as_of": "1970-01-01T00:00:00Z"}),
        told({"text": "forbidden"}),
    ]

    items = mirror.predict(records).json()["items"]

    assert [item.get("failure") for item in items] == [None, "invalid_input", "stale_input", "invalid_input"]


def test_a_list_of_bad_records_is_refused_as_a_whole_and_points_into_it(mirror: Served):
    problem = refused(mirror.predict([told({"count": -1}), {"text": 7}]), 422, "invalid_input")

    assert [error["pointer"] for error in problem["errors"]] == ["/0/count", "/1/text"]


def test_a_list_refused_by_the_services_own_check_points_into_it_too(mirror: Served):
    problem = refused(mirror.predict([told({"text": "forbidden"})] * 2), 422, "invalid_input")

    assert [error["pointer"] for error in problem["errors"]] == ["/0", "/1"]


def test_a_list_of_a_thousand_wrong_things_is_answered_in_time(mirror: Served):
    wrong = {"text": 7, "count": "x", "share": 2, "flag": 1, "colour": 7, "code": 7, "wide": "x", "tags": 7}
    began_s = time.monotonic()

    problem = refused(mirror.predict([wrong] * 200), 422, "invalid_input")

    assert len(problem["errors"]) == 50
    assert time.monotonic() - began_s < 2


def test_a_list_that_is_too_long_or_empty_is_refused(mirror: Served):
    refused(mirror.predict([told({})] * 201), 413, "oversized_request")
    refused(mirror.predict([]), 422, "invalid_input")
    assert mirror.predict([told({})] * 200).status_code == 200


# -- nothing is echoed ----------------------------------------------------------------------------------


def test_what_a_caller_sends_is_never_repeated_to_him_logged_or_in_a_leaf(mirror: Served):
    planted = PLANTED.encode()
    bodies = [
        json.dumps(body).encode()
        for body in (
            {PLANTED: 1, "text": "a"}, {"text": "a", "colour": PLANTED}, {"text": "a", "count": PLANTED},
            {"text": "a", "code": PLANTED}, {"text": "a", "as_of": PLANTED}, {"text": "a", "tags": {PLANTED: 7}},
            {"text": "a", "tags": {PLANTED: PLANTED + "\0"}}, {"text": PLANTED + "\0"}, PLANTED, [PLANTED],
            {"text": PLANTED, "count": -1}, [{"text": PLANTED, PLANTED: PLANTED}], {"text": "a", "wide": PLANTED},
            {"text": PLANTED + " fails", "fail_first": True},
        )
    ]  # fmt: skip
    bodies += [
        planted, b'{"' + planted + b'":1,"' + planted + b'":2}', b'{"' + planted + b'":9007199254740993}',
        b'{"text":"a","tags":{"' + planted + b'":9007199254740993}}', b'{"text":"' + planted + b'\xff"}',
        b'{"text":"' + planted, b'{"' + planted + b'\\ud800":1}', b"[" * 100 + b'"' + planted + b'"' + b"]" * 100,
    ]  # fmt: skip
    heads = [
        {"content_type": PLANTED}, {"content_type": f"application/json; charset={PLANTED}"},
        {"content_encoding": PLANTED}, {"x_request_timeout_ms": PLANTED}, {"idempotency_key": f"{PLANTED} {PLANTED}"},
        {"authorization": f"Bearer {PLANTED}"}, {"authorization": PLANTED}, {"user_agent": PLANTED},
        {"x_request_id": PLANTED}, {"traceparent": PLANTED}, {"x_forwarded_for": PLANTED}, {"cookie": PLANTED},
    ]  # fmt: skip
    paths = [f"/services/{PLANTED}/predict", f"/{PLANTED}", f"/problems/{PLANTED}", f"/docs/{PLANTED}",
             f"/runbooks/{PLANTED}", f"/v2/models/{PLANTED}/infer", f"/admin/{PLANTED}"]  # fmt: skip

    answers = [mirror.predict_bytes(body) for body in bodies]
    answers += [mirror.predict_bytes(b'{"text":"a"}', **head) for head in heads]
    answers += [mirror.client.post(path, json={}) for path in paths]
    answers += [mirror.client.get(path) for path in paths]

    for answer in answers:
        assert PLANTED not in answer.text
        assert PLANTED not in str(answer.headers)
    assert all(answer.status_code >= 400 for answer in answers[: len(bodies)])
    assert PLANTED not in mirror.log.read_text()
    assert PLANTED not in mirror.metrics()
    assert not [entry.seq for entry in entries_of(mirror.state) if planted in entry.leaf]
