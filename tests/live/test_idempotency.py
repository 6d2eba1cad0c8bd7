"""Idempotency-Key: one key and one body are one run of the model and one answer, however often they are sent."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.books import leaves_of
from tests.serving import Served, serving, wait_until


@pytest.fixture
def key() -> str:
    """Draw a key nobody has used."""
    return str(uuid.uuid4())


def is_replayed(answer: httpx.Response) -> bool:
    """Say whether an answer claims to be a repeated one."""
    return answer.headers.get("idempotent-replayed") == "true"


def runs(served: Served, text: str) -> int:
    """Count how often the model has answered this text before now."""
    return int(served.predict({"text": text}).json()["output"]["run"]) - 1


def conflict(answer: httpx.Response) -> int:
    """Return the status of a refusal by the key."""
    assert answer.json()["failure"] == "idempotency_conflict", answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code


def test_the_same_key_and_body_get_the_recorded_answer_again(mirror: Served, key: str):
    first = mirror.predict({"text": key}, idempotency_key=key)
    again = mirror.predict({"text": key}, idempotency_key=key)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert (is_replayed(first), is_replayed(again)) == (False, True)
    assert runs(mirror, key) == 1


def test_a_repeated_answer_has_a_record_of_its_own_that_names_the_first(mirror: Served, key: str):
    first = mirror.predict({"text": "a"}, idempotency_key=key)
    again = mirror.predict({"text": "a"}, idempotency_key=key)

    assert again.json()["id"] == first.json()["id"] == first.headers["x-request-id"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    (leaf,) = leaves_of(mirror.state, again.headers["x-request-id"])
    assert leaf["ending"] == "answered"
    assert leaf["decisions"] == [f"replayed:{first.json()['id']}"]


def test_the_same_key_with_another_body_is_a_conflict(mirror: Served, key: str):
    mirror.predict({"text": "a"}, idempotency_key=key)

    other = mirror.predict({"text": "b"}, idempotency_key=key)
    same_again = mirror.predict({"text": "a"}, idempotency_key=key)

    assert conflict(other) == 422
    assert other.json()["retryable"] is False
    assert "retry-after" not in other.headers
    assert is_replayed(same_again)


def test_while_the_first_runs_the_second_is_told_to_wait(mirror: Served, key: str):
    body = {"text": "slow", "slow_ms": 500}
    answers: list[httpx.Response] = []
    first = threading.Thread(target=lambda: answers.append(mirror.predict(body, idempotency_key=key)))
    first.start()
    wait_until(lambda: mirror.status()["in_flight"] == 1)

    second = mirror.predict(body, idempotency_key=key)
    first.join(10)
    third = mirror.predict(body, idempotency_key=key)

    assert conflict(second) == 409
    assert second.json()["retryable"] is True
    assert answers[0].status_code == 200
    assert is_replayed(third)
    assert third.content == answers[0].content


def test_two_hundred_at_once_are_one_run(mirror: Served, key: str):
    body = {"text": key, "slow_ms": 200}

    async def send_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        headers = {**mirror.headers, "idempotency-key": key}
        async with httpx.AsyncClient(
            base_url=mirror.base_url, headers=headers, timeout=30, limits=limits
        ) as many:
            return await asyncio.gather(
                *(many.post("/services/mirror/predict", json=body) for _ in range(200))
            )

    answers = asyncio.run(send_all())
    last = mirror.predict(body, idempotency_key=key)

    answered = [answer for answer in answers if answer.status_code == 200]
    assert all(conflict(answer) == 409 for answer in answers if answer.status_code != 200)
    assert sum(not is_replayed(answer) for answer in answered) == 1
    assert {answer.content for answer in [*answered, last]} == {last.content}
    assert runs(mirror, key) == 1


def test_a_final_refusal_is_repeated(mirror: Served, key: str):
    first = mirror.predict({"text": "a", "count": -1}, idempotency_key=key)
    again = mirror.predict({"text": "a", "count": -1}, idempotency_key=key)

    assert (first.status_code, again.status_code) == (422, 422)
    assert again.json() == first.json()
    assert again.headers["content-type"] == "application/problem+json"
    assert (is_replayed(first), is_replayed(again)) == (False, True)


def test_a_refused_body_that_is_no_json_is_repeated_too(mirror: Served, key: str):
    first = mirror.predict_bytes(b'{"text":', idempotency_key=key)
    again = mirror.predict_bytes(b'{"text":', idempotency_key=key)

    assert (first.status_code, again.status_code) == (400, 400)
    assert again.json() == first.json()
    assert is_replayed(again)


@pytest.mark.parametrize(
    ("record", "first_headers", "first_status"),
    [
        ({"text": "late", "slow_ms": 200}, {"x_request_timeout_ms": "20"}, 504),
        ({"text": "fails at first", "fail_first": True}, {}, 502),
        ({"text": "a"}, {"content_type": "text/plain"}, 415),
    ],
    ids=["deadline", "model error", "wrong head"],
)
def test_what_may_go_better_is_tried_again(
    mirror: Served, key: str, record: dict[str, Any], first_headers: dict[str, str], first_status: int
):
    first = mirror.predict(record, idempotency_key=key, **first_headers)
    again = mirror.predict(record, idempotency_key=key)
    third = mirror.predict(record, idempotency_key=key)

    assert first.status_code == first_status
    assert (again.status_code, is_replayed(again)) == (200, False)
    assert (third.content, is_replayed(third)) == (again.content, True)


def test_a_caller_who_left_may_come_again(mirror: Served, key: str):
    body = json.dumps({"text": "left", "slow_ms": 300}).encode()
    lines = [f"{name}: {value}" for name, value in mirror.headers.items()]
    head = "\r\n".join([
        "POST /services/mirror/predict HTTP/1.1", f"host: {mirror.host}",
        f"idempotency-key: {key}", f"content-length: {len(body)}", *lines, "", "",
    ])  # fmt: skip
    with socket.create_connection(("127.0.0.1", mirror.port), timeout=5) as caller:
        caller.sendall(head.encode() + body)
        wait_until(lambda: mirror.status()["in_flight"] == 1)
    wait_until(lambda: mirror.status()["in_flight"] == 0)

    again = mirror.predict_bytes(body, idempotency_key=key)

    assert (again.status_code, is_replayed(again)) == (200, False)


def test_a_list_is_repeated_with_each_of_its_items(mirror: Served, key: str):
    records = [{"text": "a"}, {"text": 7}, {"text": "forbidden"}, {"text": "b"}]

    first = mirror.predict(records, idempotency_key=key)
    again = mirror.predict(records, idempotency_key=key)

    assert [item.get("failure") for item in first.json()["items"]] == [
        None,
        "invalid_input",
        "invalid_input",
        None,
    ]
    assert again.content == first.content
    assert is_replayed(again)


def test_a_key_in_quotes_is_the_same_key(mirror: Served, key: str):
    first = mirror.predict({"text": "a"}, idempotency_key=f'"{key}"')
    again = mirror.predict({"text": "a"}, idempotency_key=key)

    assert is_replayed(again)
    assert again.content == first.content


@pytest.mark.parametrize("bad", ["x" * 256, "two words", '""', "caf\u00e9".encode(), b"\x7f"], ids=repr)
def test_what_cannot_be_a_key_is_refused(mirror: Served, bad: str | bytes):
    answer = mirror.client.post(
        "/services/mirror/predict", json={"text": "a"}, headers={"idempotency-key": bad}
    )

    assert (answer.status_code, answer.json()["failure"]) == (400, "malformed_request")


def test_two_keys_are_no_key(mirror: Served, key: str):
    headers = [("idempotency-key", key), ("idempotency-key", "other")]

    answer = mirror.client.post("/services/mirror/predict", json={"text": "a"}, headers=headers)

    assert (answer.status_code, answer.json()["failure"]) == (400, "malformed_request")


def test_the_longest_key_is_taken(mirror: Served, key: str):
    long = (key * 8)[:255]

    assert mirror.predict({"text": "a"}, idempotency_key=long).status_code == 200
    assert is_replayed(mirror.predict({"text": "a"}, idempotency_key=long))


def test_a_key_belongs_to_its_caller(mirror: Served, key: str):
    other = mirror.operate("POST", "/admin/keys", {"role": "predict"}).json()["key"]

    mine = mirror.predict({"text": "a"}, idempotency_key=key)
    his = mirror.predict({"text": "b"}, idempotency_key=key, authorization=f"Bearer {other}")

    assert mine.json()["output"]["text"] == "a"
    assert his.json()["output"]["text"] == "b"
    assert not is_replayed(his)


def test_a_key_belongs_to_its_protocol(mirror: Served, key: str):
    """The same bytes mean another thing on another route, so they are another body."""
    mirror.predict({"text": "a"}, idempotency_key=key)

    answer = mirror.client.post(
        "/v2/models/mirror/infer", json={"text": "a"}, headers={"idempotency-key": key}
    )

    assert (answer.status_code, answer.headers["nightproof-failure"]) == (422, "idempotency_conflict")


def test_without_a_key_each_request_runs(mirror: Served, key: str):
    first, second = mirror.predict({"text": key}), mirror.predict({"text": key})

    assert first.json()["id"] != second.json()["id"]
    assert (first.json()["output"]["run"], second.json()["output"]["run"]) == (1, 2)


def test_answers_are_remembered_across_a_restart(state: Path, key: str):
    with serving("mirror", state, "--set", "drain_wait_s=0") as served:
        caller = served.key
        first = served.predict({"text": "before"}, idempotency_key=key)
        refused = served.predict({"text": 7}, idempotency_key=f"{key}-refused")
    with serving("mirror", state, "--set", "drain_wait_s=0") as served:
        as_before = {"authorization": f"Bearer {caller}"}
        again = served.predict({"text": "before"}, idempotency_key=key, **as_before)
        refused_again = served.predict({"text": 7}, idempotency_key=f"{key}-refused", **as_before)
        other = served.predict({"text": "after"}, idempotency_key=key, **as_before)

        assert again.content == first.content
        assert is_replayed(again)
        assert refused_again.json() == refused.json()
        assert conflict(other) == 422
        assert runs(served, "before") == 0
