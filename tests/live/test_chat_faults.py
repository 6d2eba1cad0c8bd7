"""What becomes of chats when the upstream fails, the caller goes or reads slowly, the server is killed."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chats import Chatting, chatting
from tests.live.test_alerts import QUICK as ALERTS
from tests.receivers import hook
from tests.serving import run_nightproof, serving, wait_until

LONG = "Tell me about the lights. [[long 400]]"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chatting]:
    """Serve a chat with one upstream and no fallback."""
    with chatting("chat", tmp_path_factory.mktemp("alone") / "state") as chat:
        yield chat


@pytest.fixture(scope="module")
def backed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chatting]:
    """Serve a chat with two upstreams and a constant."""
    with chatting(
        "chat", tmp_path_factory.mktemp("backed") / "state", upstreams=2, CHAT_FALLBACK="1"
    ) as chat:
        yield chat


BEFORE_IT_BEGINS = {
    "status 500": "upstream_error",
    "status 503": "upstream_error",
    "status 401": "upstream_error",
    "status 404": "upstream_error",
    "status 400": "upstream_rejected",
    "status 429": "upstream_limited",
    "reset": "upstream_broken",
    "garbage": "upstream_broken",
}
"""What the upstream does, by the name that the caller is told."""


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("act", sorted(BEFORE_IT_BEGINS))
def test_an_upstream_that_fails_at_once_is_an_error_of_its_name(tmp_path: Path, act: str, is_streamed: bool):
    failure = BEFORE_IT_BEGINS[act]
    with chatting("chat", tmp_path / "state") as chat:
        text = f"Hello [[{act}]]"
        if is_streamed:
            streamed = chat.stream(text)
            error, request_id, status = streamed.error, streamed.id, streamed.status
            assert not streamed.looks_complete
        else:
            answer = chat.ask(text)
            error, request_id, status = (
                answer.json()["error"],
                answer.headers["x-request-id"],
                answer.status_code,
            )
        assert error is not None
        assert error["code"] == failure
        assert 400 <= status < 600
        record = chat.record(request_id)
        assert record["facts"]["failure"] == failure
        assert [one[0] for one in record["facts"]["chat"]["attempts"]][:1] == ["first"]


@pytest.mark.parametrize("act", ["cut", "half", "stall"])
def test_a_stream_that_breaks_ends_with_an_error_and_never_looks_whole(alone: Chatting, act: str):
    streamed = alone.stream(f"Tell me about the lights and the long way home. [[{act}]]")
    assert streamed.status == 200
    assert streamed.error is not None
    assert streamed.error["code"] in ("upstream_broken", "upstream_timeout")
    assert not streamed.looks_complete
    opened, ended = alone.entries(streamed.id)
    assert (opened["kind"], ended["kind"]) == ("opened", "request")
    assert ended["facts"]["ending"] == "failed"
    assert ended["content"]["items"][0]["output"]["content"] == streamed.text


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("act", ["status 500", "reset", "garbage", "hang", "empty"])
def test_another_upstream_answers_while_nothing_has_left(backed: Chatting, act: str, is_streamed: bool):
    backed.first.control(act)
    try:
        if is_streamed:
            streamed = backed.stream("Hello there")
            text, request_id = streamed.text, streamed.id
            assert streamed.is_done
        else:
            answer = backed.ask("Hello there")
            text, request_id = (
                answer.json()["choices"][0]["message"]["content"],
                answer.headers["x-request-id"],
            )
    finally:
        backed.first.control()
    assert "Hello!" in text or "at sea" in text
    facts = backed.record(request_id)["facts"]
    assert facts["ending"] in ("answered", "degraded")


def test_with_every_upstream_down_the_constant_answers_and_says_so(backed: Chatting):
    for upstream in backed.upstreams:
        upstream.control("status 500")
    try:
        whole = backed.ask("Hello")
        streamed = backed.stream("Hello")
    finally:
        for upstream in backed.upstreams:
            upstream.control()
    assert "at sea" in whole.json()["choices"][0]["message"]["content"]
    assert whole.json()["nightproof"]["degraded"]["by"] == "constant"
    assert whole.headers["nightproof-degraded"].endswith("by=constant")
    assert "at sea" in streamed.text
    assert streamed.is_done
    assert streamed.headers["nightproof-degraded"].endswith("by=constant")


def test_a_breaker_opens_tells_of_itself_and_closes_again(tmp_path: Path):
    with chatting("chat", tmp_path / "state", upstreams=2) as chat:
        chat.first.control("status 500")
        for _ in range(12):
            assert chat.ask("Hello").status_code == 200
        seen = chat.first.seen["calls"]
        assert seen < 12, "it is not asked while its breaker is open"
        assert 'nightproof_condition{failure="upstream_down",service="chat"} 1.0' in chat.served.metrics()
        chat.first.control()

        def is_asked_again() -> bool:
            assert chat.ask("Hello").status_code == 200
            return 'nightproof_condition{failure="upstream_down"' not in chat.served.metrics()

        wait_until(is_asked_again)
        assert chat.first.seen["calls"] > seen


def test_a_caller_who_leaves_ends_the_upstreams_call_and_is_recorded_with_what_left(alone: Chatting):
    gone = alone.first.seen["gone"]
    asked = {
        "model": "chat",
        "messages": [{"role": "user", "content": "Tell me all. [[pace 20]] the lights of the coast"}],
        "stream": True,
    }
    asked["messages"][0]["content"] = "Tell me all. [[pace 5]]"  # type: ignore[index]
    with alone.served.client.stream("POST", "/v1/chat/completions", json=asked) as response:
        request_id = response.headers["x-request-id"]
        next(response.iter_lines())
    wait_until(lambda: alone.first.seen["gone"] > gone)
    wait_until(lambda: len(alone.entries(request_id)) == 2)
    record = alone.record(request_id)
    assert record["facts"]["ending"] == "abandoned"
    assert record["facts"]["failure"] == "caller_gone"
    assert record["facts"]["chat"]["tokens"][0] > 0


def test_a_caller_who_does_not_read_holds_a_bounded_amount(tmp_path: Path):
    with chatting("chat", tmp_path / "state", CHAT_DEADLINE_MS="30000", CHAT_CLOCK_MS="15000") as chat:
        before = _memory_bytes(chat.served.process.pid)
        callers = [_ask_and_do_not_read(chat, "Say all. [[long 60000]]") for _ in range(8)]
        try:
            wait_until(lambda: chat.first.seen["calls"] >= 8)
            time.sleep(1.0)
            assert _memory_bytes(chat.served.process.pid) - before < 64 << 20
            assert chat.ask("Hello").status_code == 200, "others are answered meanwhile"
        finally:
            for caller in callers:
                caller.close()
        wait_until(lambda: "nightproof_in_flight 0.0" in chat.served.metrics())


def _ask_and_do_not_read(chat: Chatting, text: str) -> socket.socket:
    body = json.dumps(
        {"model": "chat", "messages": [{"role": "user", "content": text}], "stream": True}
    ).encode()
    caller = socket.create_connection(("127.0.0.1", chat.served.port))
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    caller.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (chat.served.key.encode(), len(body), body)
    )
    return caller


def _memory_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) * 1_024


def test_a_killed_server_leaves_no_stream_that_looks_whole_and_names_those_it_had_begun(tmp_path: Path):
    with chatting("chat", tmp_path / "state") as chat, ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(_stream_until_cut, chat) for _ in range(8)]
        wait_until(lambda: chat.served.metrics().count("nightproof_chat_streams_open") > 0)
        wait_until(lambda: _streams_open(chat) == 8)
        chat.served.process.send_signal(signal.SIGKILL)
        begun = [stream.result(30) for stream in streams]
        assert all(not is_done for _, is_done in begun)
        ids = {request_id for request_id, _ in begun}
        with serving(tmp_path / "chat", tmp_path / "state", env={"CHAT_SECRET": "sk-x"}) as again:
            found = run_nightproof(
                "audit", "search", "--kind", "recovery", "--json", "--state", str(again.state)
            )
            entry = json.loads(found.stdout)["records"][0]
            shown = run_nightproof("audit", "show", entry["id"], "--json", "--state", str(again.state))
            assert set(json.loads(shown.stdout)[0]["facts"]["unfinished"]) == ids
            assert run_nightproof("audit", "verify", "--state", str(again.state)).returncode == 0


def _streams_open(chat: Chatting) -> float:
    lines = [
        one for one in chat.served.metrics().splitlines() if one.startswith("nightproof_chat_streams_open{")
    ]
    return sum(float(one.rpartition(" ")[2]) for one in lines)


def _stream_until_cut(chat: Chatting) -> tuple[str, bool]:
    asked = {
        "model": "chat",
        "messages": [{"role": "user", "content": "Tell me all. [[pace 4]]"}],
        "stream": True,
    }
    headers = {"authorization": f"Bearer {chat.served.key}"}
    is_done, request_id = False, ""
    try:
        with httpx.stream(
            "POST", f"{chat.served.base_url}/v1/chat/completions", json=asked, headers=headers, timeout=30
        ) as response:
            request_id = response.headers["x-request-id"]
            for line in response.iter_lines():
                is_done |= line == "data: [DONE]"
    except httpx.TransportError:
        pass
    return request_id, is_done


def test_a_stop_lets_streams_end(tmp_path: Path):
    with chatting("chat", tmp_path / "state") as chat, ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(_stream_until_cut, chat) for _ in range(4)]
        wait_until(lambda: _streams_open(chat) == 4)
        assert chat.served.stop() == 0
        assert [is_done for _, is_done in (stream.result(30) for stream in streams)] == [True] * 4


IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}


def _chat_body(content: Any) -> bytes:
    return json.dumps({"model": "chat", "messages": [{"role": "user", "content": content}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model": "chat"}',
        b'{"model": "chat", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b"\xff\xfe",
        _chat_body("x" * 300_000),
        _chat_body([IMAGE]),
    ],
    ids=["empty", "list", "no messages", "surrogate", "utf-16", "300 kB", "image"],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_and_recorded(alone: Chatting, body: bytes):
    calls = alone.first.seen["calls"]
    answer = alone.served.client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert 400 <= answer.status_code < 500
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"]
    assert alone.record(answer.headers["x-request-id"])["facts"]["ending"] == "refused"
    assert alone.first.seen["calls"] == calls


@pytest.mark.parametrize("kind", ["application/json; charset=latin-1", "text/plain"])
def test_a_chat_in_another_charset_or_type_is_refused(alone: Chatting, kind: str):
    answer = alone.served.client.post(
        "/v1/chat/completions", content=_chat_body("Hello"), headers={"content-type": kind}
    )
    plain = alone.served.client.post(
        "/v1/chat/completions",
        content=_chat_body("Hello"),
        headers={"content-type": "application/json; charset=UTF-8"},
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert plain.status_code == 200


def test_a_prompt_of_ten_megabytes_is_refused_while_others_are_answered(alone: Chatting):
    big: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "x" * (10 << 20)}]}
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(alone.served.client.post, "/v1/chat/completions", json=big)
        assert alone.ask("Hello").status_code == 200
        assert refused.result(30).status_code == 413


def test_a_token_budget_is_kept_over_a_restart(tmp_path: Path):
    with chatting("chat", tmp_path / "state", CHAT_TOKENS_PER_MINUTE="40") as chat:
        answer = chat.ask("Hello")
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-tokens"] == "40"
        refused = chat.ask("Hello")
        if refused.status_code == 200:  # a minute has ended in between
            refused = chat.ask("Hello")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "budget_exceeded"
        assert int(refused.headers["retry-after"]) >= 1


def test_the_key_of_an_upstream_is_in_no_file_and_no_answer(alone: Chatting):
    answers = [alone.ask("Hello").text, alone.ask("Hello [[status 401]]").text, alone.served.metrics()]
    from tests.chats import SECRET

    for file in alone.served.state.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in "".join(answers) + alone.served.log.read_text()


def test_a_dead_upstream_pages_with_its_runbook_and_the_page_ends_when_it_is_back(tmp_path: Path):
    with hook() as pager:
        flags = (*ALERTS, "--set", f"notify.webhook={pager.url}")
        with chatting("chat", tmp_path / "state", *flags, upstreams=2) as chat:
            chat.first.process.send_signal(signal.SIGSTOP)
            try:
                for _ in range(8):
                    assert chat.ask("Hello").status_code == 200, "the second one answers"
                wait_until(lambda: pager.alerts("firing", "NightproofUpstreamDown"))
                (told,) = pager.alerts("firing", "NightproofUpstreamDown")[:1]
                assert told["labels"]["service"] == "chat"
                assert told["annotations"]["runbook_url"].endswith("/runbooks/upstream_down")
            finally:
                chat.first.process.send_signal(signal.SIGCONT)

            def is_over() -> bool:
                assert chat.ask("Hello").status_code == 200
                return bool(pager.alerts("resolved", "NightproofUpstreamDown"))

            wait_until(is_over, within_s=90)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_the_same_idempotency_key_repeats_the_answer_and_asks_nobody_again(
    alone: Chatting, is_streamed: bool
):
    asked = {
        "model": "chat",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": is_streamed,
    }
    headers = {"idempotency-key": f"once-{is_streamed}"}
    first = alone.served.client.post("/v1/chat/completions", json=asked, headers=headers)
    calls = alone.first.seen["calls"]
    again = alone.served.client.post("/v1/chat/completions", json=asked, headers=headers)
    assert alone.first.seen["calls"] == calls
    assert again.headers["idempotent-replayed"] == "true"
    assert "Hello!" in first.text
    assert "Hello! I help" in again.text
    assert again.text.endswith("data: [DONE]\n\n") is is_streamed
    record = alone.record(again.headers["x-request-id"])
    assert not (record["content"] or {}).get("items"), "the first record holds what was said"
