"""A chain of upstreams against a real server that lies: every fault has its name, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from nightproof.base.clock import monotonic_s
from nightproof.pipeline.upstreams import Chain
from nightproof.workers.upstream.values import Completion, UpstreamCall, UpstreamFault, Usage
from tests.chains import call_of, declared, fault_of, whole_of, with_chain
from tests.lying_upstream import TEXT, Liar, lying
from tests.serving import free_port


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    with lying() as one:
        yield one


def asked_whole(base_url: str, lie: str, **over: object) -> tuple[Completion | UpstreamFault, UpstreamCall]:
    """Ask one upstream that lies, without another try."""
    call = call_of()

    async def work(chain: Chain) -> Completion | UpstreamFault:
        try:
            return await chain.complete(call)
        except UpstreamFault as fault:
            return fault

    return with_chain(work, declared(base_url, lie, **over), retries_share=0.0), call


def asked_streamed(base_url: str, lie: str, **over: object) -> tuple[str, str | UpstreamFault, UpstreamCall]:
    """Ask one upstream for a stream; return the text that came and how it ended."""
    call = call_of()
    text = ""

    async def work(chain: Chain) -> str | UpstreamFault:
        nonlocal text
        reason = ""
        try:
            async for delta in await chain.stream(call):
                text += delta.text
                reason = delta.finish_reason
        except UpstreamFault as fault:
            return fault
        return reason

    end = with_chain(work, declared(base_url, lie, **over), retries_share=0.0)
    return text, end, call


def test_a_whole_answer_comes_with_what_the_upstream_says_of_it(liar: Liar):
    answer, call = asked_whole(liar.url, "ok")

    assert isinstance(answer, Completion)
    assert (answer.text, answer.finish_reason, answer.usage) == (TEXT, "stop", Usage(11, 7))
    assert (answer.upstream, answer.model) == ("ok", "ok-2026")
    assert [(one.upstream, one.failure) for one in call.attempts] == [("ok", "")]
    assert call.attempts[0].duration_us > 0


@pytest.mark.parametrize(
    "lie",
    [
        "ok",
        "bytewise",
        "dressed lf",
        "dressed crlf",
        "dressed cr",
        "null_id",
        "no_blank_after_done",
        "lingers",
    ],
)
def test_a_stream_is_put_together_whatever_its_bytes_are_cut_into(liar: Liar, lie: str):
    text, end, call = asked_streamed(liar.url, lie)

    assert (text, end) == (TEXT, "stop")
    assert [(one.failure, one.is_given_up) for one in call.attempts] == [("", False)]
    assert 0 < call.attempts[0].first_token_us <= call.attempts[0].duration_us


WHOLE = [
    ("closed", "upstream_broken", "it closed the connection without an answer", 0),
    ("reset", "upstream_broken", "it reset the connection", 0),
    ("status 429", "upstream_limited", "status 429, insufficient_quota", 429),
    ("status 429 2", "upstream_limited", "status 429, insufficient_quota", 429),
    ("status 500", "upstream_error", "status 500, insufficient_quota", 500),
    ("status 503 1", "upstream_error", "status 503, insufficient_quota", 503),
    ("status 529", "upstream_error", "status 529, insufficient_quota", 529),
    ("status 408", "upstream_timeout", "status 408, insufficient_quota", 408),
    ("status 504", "upstream_timeout", "status 504, insufficient_quota", 504),
    ("status 409", "upstream_error", "status 409, insufficient_quota", 409),
    ("status 400", "upstream_rejected", "status 400, insufficient_quota", 400),
    ("status 413", "upstream_rejected", "status 413, insufficient_quota", 413),
    ("status 422", "upstream_rejected", "status 422, insufficient_quota", 422),
    ("status 401", "upstream_error", "status 401, its key is refused: look at the secret", 401),
    (
        "status 403",
        "upstream_error",
        "status 403, the key may not use it: look at the secret and the model",
        403,
    ),
    ("status 404", "upstream_error", "status 404, no such model or path: look at base_url and model", 404),
    ("status 202", "upstream_broken", "status 202", 202),
    ("huge_error", "upstream_error", "status 500", 500),
    ("redirect", "upstream_error", "status 307: redirects are not followed", 307),
    ("hang", "upstream_timeout", "no answer within 300 ms", 0),
    ("drip_head", "upstream_timeout", "no answer within 300 ms", 0),
    ("not_http", "upstream_broken", "not HTTP (ClientResponseError)", 0),
    ("html", "upstream_broken", "its content is text/html, not application/json", 200),
    ("no_type", "upstream_broken", "its content is of no type, not application/json", 200),
    ("wrong_type", "upstream_broken", "its content is of another type, not application/json", 200),
    ("gzip", "upstream_broken", "its content is encoded, which was not asked for", 200),
    ("not_json", "upstream_broken", "it is not JSON, or ends early", 0),
    ("early_json", "upstream_broken", "it is not JSON, or ends early", 0),
    ("early_end", "upstream_broken", "the answer ends early", 0),
    ("array", "upstream_broken", "it is not the protocol's form", 0),
    ("bad_utf8", "upstream_broken", "it is not JSON, or ends early", 0),
    ("gigantic", "upstream_broken", "the answer is beyond 16777216 bytes", 0),
    ("two_choices", "upstream_broken", "there are several choices", 0),
    ("no_choice", "upstream_broken", "there is no choice", 0),
    ("no_finish", "upstream_broken", "it has no finish_reason", 0),
    ("odd_finish", "upstream_broken", "its finish_reason is none of the known", 0),
    ("error_200", "upstream_error", "an error with status 200, server_error", 0),
]


@pytest.mark.parametrize(("lie", "failure", "detail", "status"), WHOLE, ids=[row[0] for row in WHOLE])
def test_a_fault_of_a_whole_answer_has_its_name_and_tells_nothing_the_upstream_wrote(
    liar: Liar, lie: str, failure: str, detail: str, status: int
):
    total_ms = 300 if failure == "upstream_timeout" and not status else 5_000
    fault, call = asked_whole(liar.url, lie, total_ms=total_ms)

    assert isinstance(fault, UpstreamFault)
    assert (fault.failure, fault.detail, fault.status) == (failure, detail, status)
    assert [(one.failure, one.detail) for one in call.attempts] == [(failure, detail)]
    assert not fault.has_begun


BEFORE = [
    ("closed", "upstream_broken", "it closed the connection without an answer"),
    ("status 429 1", "upstream_limited", "status 429, insufficient_quota"),
    ("status 500", "upstream_error", "status 500, insufficient_quota"),
    ("hang", "upstream_timeout", "no first token within 400 ms"),
    ("role_only", "upstream_timeout", "no first token within 400 ms"),
    ("comments_only", "upstream_timeout", "no first token within 400 ms"),
    ("html", "upstream_broken", "its content is text/html, not text/event-stream"),
    ("array", "upstream_broken", "its content is application/json, not text/event-stream"),
    ("empty", "upstream_broken", "malformed stream: it ends early, without a done mark"),
    ("two_choices", "upstream_broken", "malformed stream: there are several choices"),
    ("gigantic", "upstream_broken", "malformed stream: a line or an event is beyond 1048576 bytes"),
    ("long_line", "upstream_broken", "malformed stream: a line or an event is beyond 1048576 bytes"),
    ("error_200", "upstream_error", "an error within the stream, server_error"),
]


@pytest.mark.parametrize(("lie", "failure", "detail"), BEFORE, ids=[row[0] for row in BEFORE])
def test_a_stream_that_fails_before_its_first_token_has_not_begun(
    liar: Liar, lie: str, failure: str, detail: str
):
    text, fault, call = asked_streamed(liar.url, lie)

    assert isinstance(fault, UpstreamFault)
    assert (text, fault.failure, fault.detail, fault.has_begun) == ("", failure, detail, False)
    assert [(one.failure, one.first_token_us) for one in call.attempts] == [(failure, 0)]


WITHIN = [
    ("hang_mid", "upstream_timeout", "nothing more within 400 ms"),
    ("reset_mid", "upstream_broken", "the answer ends early"),
    ("close_mid", "upstream_broken", "the answer ends early"),
    ("half_event", "upstream_broken", "malformed stream: it ends in the middle of a line"),
    ("truncated", "upstream_broken", "malformed stream: it ends early, without a done mark"),
    ("no_done", "upstream_broken", "malformed stream: it ends early, without a done mark"),
    ("no_finish", "upstream_broken", "malformed stream: it ends without a finish_reason"),
    ("odd_finish", "upstream_broken", "malformed stream: its finish_reason is none of the known"),
    ("malformed", "upstream_broken", "malformed stream: it is not JSON, or ends early"),
    ("bad_utf8", "upstream_broken", "malformed stream: it is not UTF-8"),
    ("after_finish", "upstream_broken", "malformed stream: it goes on after its finish_reason"),
    ("error_mid", "upstream_error", "an error within the stream, server_error"),
    ("raw_error_mid", "upstream_broken", "malformed stream: a line is no field of an event"),
]


@pytest.mark.parametrize(("lie", "failure", "detail"), WITHIN, ids=[row[0] for row in WITHIN])
def test_a_stream_that_breaks_after_its_first_token_never_looks_complete(
    liar: Liar, lie: str, failure: str, detail: str
):
    text, fault, call = asked_streamed(liar.url, lie)

    assert isinstance(fault, UpstreamFault)
    assert (fault.failure, fault.detail) == (failure, detail)
    assert [(one.failure, one.is_given_up) for one in call.attempts] == [(failure, False)]
    # Where all of it came in one read nothing was handed on, and it counts as not begun.
    assert fault.has_begun == bool(text) == (call.attempts[0].first_token_us > 0)


def test_nobody_listening_is_unreachable_in_the_systems_words():
    fault, _ = asked_whole(f"http://127.0.0.1:{free_port()}/v1", "ok")

    assert isinstance(fault, UpstreamFault)
    assert (fault.failure, fault.detail) == ("upstream_unreachable", "Connection refused")


def test_a_first_upstream_that_fails_is_passed_over_and_the_attempts_say_so(liar: Liar):
    call = call_of()

    async def work(chain: Chain) -> Completion:
        return await chain.complete(call)

    answer = with_chain(work, declared(liar.url, "status 500"), declared(liar.url, "ok"))

    assert (answer.upstream, answer.text) == ("ok", TEXT)
    assert [(one.upstream, one.failure) for one in call.attempts] == [
        ("status", "upstream_error"),
        ("ok", ""),
    ]


def test_a_hanging_stream_is_failed_over_before_its_first_token(liar: Liar):
    async def work(chain: Chain) -> tuple[str, str, float]:
        began_s = monotonic_s()
        text, _ = await whole_of(answer := await chain.stream(call_of()))
        return text, answer.upstream, monotonic_s() - began_s

    text, upstream, took_s = with_chain(work, declared(liar.url, "role_only"), declared(liar.url, "ok"))

    assert (text, upstream) == (TEXT, "ok")
    assert 0.4 <= took_s < 1.5


def test_what_the_upstream_rejects_is_asked_of_nobody_else(liar: Liar):
    before = liar.seen("ok").requests

    async def work(chain: Chain) -> UpstreamFault:
        return await fault_of(chain.complete(call_of()))

    fault = with_chain(work, declared(liar.url, "status 422"), declared(liar.url, "ok"))

    assert fault.failure == "upstream_rejected"
    assert liar.seen("ok").requests == before


def test_a_breaker_of_a_single_upstream_opens_and_closes_again(liar: Liar):
    liar.behave("alone", "status 500")

    async def work(chain: Chain) -> tuple[list[str], int, list[str]]:
        failures = [(await fault_of(chain.complete(call_of()))).failure for _ in range(8)]
        asked = liar.seen("alone").requests
        states = [chain.snapshot()[0].breaker]
        liar.behave("alone", "ok")
        async with asyncio.timeout(20):
            while chain.snapshot()[0].breaker == "open":
                await asyncio.sleep(0.05)
        states.append(chain.snapshot()[0].breaker)
        for _ in range(3):
            await chain.complete(call_of())
        states.append(chain.snapshot()[0].breaker)
        return failures, asked, states

    failures, asked, states = with_chain(work, declared(liar.url, "alone"), retries_share=0.0)

    assert failures == ["upstream_error"] * 5 + ["upstream_unreachable"] * 3
    assert asked == 5, "an open breaker costs nothing"
    assert states == ["open", "half_open", "closed"]
