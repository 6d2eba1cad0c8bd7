"""A chain of upstreams against a real server that lies: every fault has its name, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from nightproof import __version__
from nightproof.base.clock import monotonic_s
from nightproof.base.deadlines import Deadlines
from nightproof.base.errors import DeclarationError
from nightproof.declare.chat_description import ChatDescription, UpstreamDescription
from nightproof.drills.liar import TEXT, Liar, lying
from nightproof.pipeline.upstreams import Chain, Upstreams, transports
from nightproof.workers.upstream.values import Completion, UpstreamCall, UpstreamFault, Usage
from tests.chains import Scripted, call_of, declared, fault_of, status, whole, whole_of, with_chain
from tests.serving import free_port, wait_until


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
        assert not chain.snapshot()[0].open_since_s
        failures = [(await fault_of(chain.complete(call_of()))).failure for _ in range(8)]
        asked = liar.seen("alone").requests
        states = [chain.snapshot()[0].breaker]
        told = chain.snapshot()[0]
        assert told.open_since_s
        assert (told.last_failure, told.last_detail) == ("upstream_error", "status 500, insufficient_quota")
        liar.behave("alone", "ok")
        async with asyncio.timeout(20):
            while chain.snapshot()[0].breaker == "open":
                await asyncio.sleep(0.05)
        states.append(chain.snapshot()[0].breaker)
        assert chain.snapshot()[0].open_since_s, "it was not seen to answer yet"
        for _ in range(3):
            await chain.complete(call_of())
        states.append(chain.snapshot()[0].breaker)
        assert not chain.snapshot()[0].open_since_s
        return failures, asked, states

    failures, asked, states = with_chain(work, declared(liar.url, "alone"), retries_share=0.0)

    assert failures == ["upstream_error"] * 5 + ["upstream_unreachable"] * 3
    assert asked == 5, "an open breaker costs nothing"
    assert states == ["open", "half_open", "closed"]


def asked_of(
    *upstreams: UpstreamDescription, **over: Any
) -> tuple[Completion | UpstreamFault, UpstreamCall, float]:
    """Ask a chain for a whole answer; return how it ended, the call, and how long it took."""
    call = call_of()

    async def work(chain: Chain) -> tuple[Completion | UpstreamFault, float]:
        began_s = monotonic_s()
        try:
            ended: Completion | UpstreamFault = await chain.complete(call)
        except UpstreamFault as fault:
            ended = fault
        return ended, monotonic_s() - began_s

    ended, took_s = with_chain(work, *upstreams, **over)
    return ended, call, took_s


def test_a_single_upstream_is_tried_again_within_its_budget_and_not_beyond(liar: Liar):
    liar.behave("again", "status 500")
    call_each = [call_of() for _ in range(4)]

    async def work(chain: Chain) -> list[str]:
        return [(await fault_of(chain.complete(call))).failure for call in call_each]

    with_chain(work, declared(liar.url, "again"), chance=0.0, retries_share=0.1)
    tried = [len(call.attempts) for call in call_each]

    assert tried == [3, 2, 1, 1], "at most three tries; then the breaker is open"
    assert liar.seen("again").requests == 5


def test_retries_are_a_share_of_the_calls_after_a_first_burst():
    script = Scripted(*[status(500), whole(), whole()] * 40)

    async def work(chain: Chain) -> int:
        ended = [await asyncio.gather(chain.complete(call_of()), return_exceptions=True) for _ in range(60)]
        return sum(isinstance(one, UpstreamFault) for (one,) in ended)

    one = declared("http://127.0.0.1:1/v1", "scripted")
    failed = with_chain(work, one, transport=lambda _: script, chance=0.0, retries_share=0.1)

    assert 10 < script.posts - 60 <= 10 + 6, "a burst of ten and a tenth"
    assert failed > 0, "the rest is told its first fault"


@pytest.mark.parametrize("told", ["1", "400ms"])
def test_a_short_retry_after_is_waited_for_and_nobody_asks_meanwhile(liar: Liar, told: str):
    name = f"paused-{told}"
    liar.behave(name, f"status 429 {told}")

    async def work(chain: Chain) -> tuple[float, float, int]:
        began_s = monotonic_s()
        first = asyncio.ensure_future(chain.complete(call_of()))
        while not (pause_s := chain.snapshot()[0].pause_s):
            await asyncio.sleep(0.01)
        asked = liar.seen(name).requests
        liar.behave(name, "ok")
        await asyncio.gather(first, chain.complete(call_of()))
        return pause_s, monotonic_s() - began_s, asked

    pause_s, took_s, asked = with_chain(work, declared(liar.url, name))
    told_s = 0.4 if told == "400ms" else 1.0

    assert 0 < pause_s <= told_s
    assert asked == 1
    assert told_s <= took_s < told_s + 3


def test_a_long_retry_after_is_told_and_not_waited_for(liar: Liar):
    fault, call, took_s = asked_of(declared(liar.url, "status 429 30"))

    assert isinstance(fault, UpstreamFault)
    assert (fault.failure, len(call.attempts)) == ("upstream_limited", 1)
    assert 29 < fault.retry_after_s <= 30
    assert took_s < 2


def test_while_the_first_is_paused_the_second_answers_and_the_first_is_not_asked(liar: Liar):
    liar.behave("busy", "status 503 60")

    async def work(chain: Chain) -> list[str]:
        return [(await chain.complete(call_of())).upstream for _ in range(3)]

    assert with_chain(work, declared(liar.url, "busy"), declared(liar.url, "ok")) == ["ok"] * 3
    assert liar.seen("busy").requests == 1


def test_a_hanging_first_upstream_leaves_time_for_the_next_within_the_deadline(liar: Liar):
    answer, call, took_s = asked_of(declared(liar.url, "hang", total_ms=60_000), declared(liar.url, "ok"))

    assert isinstance(answer, Completion)
    assert [one.failure for one in call.attempts] == ["upstream_timeout", ""]
    assert call.attempts[0].detail == "no answer in the time that was left"
    assert 3.5 <= took_s < 4.9, "three quarters of five seconds"


def test_nobody_waits_beyond_the_deadline_of_a_call(liar: Liar):
    async def work(chain: Chain) -> tuple[UpstreamFault, float, str]:
        began_s = monotonic_s()
        fault = await fault_of(chain.complete(call_of(within_s=0.3)))
        return fault, monotonic_s() - began_s, chain.snapshot()[0].breaker

    fault, took_s, breaker = with_chain(work, declared(liar.url, "hang", total_ms=60_000))

    assert (fault.failure, fault.was_cut, breaker) == ("upstream_timeout", True, "closed")
    assert 0.3 <= took_s < 0.8


def test_callers_with_short_deadlines_open_no_breaker(liar: Liar):
    async def work(chain: Chain) -> tuple[set[str], str, int]:
        faults = [await fault_of(chain.complete(call_of(within_s=0.05))) for _ in range(12)]
        return {fault.failure for fault in faults}, chain.snapshot()[0].breaker, chain.snapshot()[0].limit

    assert with_chain(work, declared(liar.url, "slow 300")) == ({"upstream_timeout"}, "closed", 16)


def test_a_caller_who_leaves_mid_stream_closes_the_upstreams_connection_at_once(liar: Liar):
    before = liar.seen("tokens 1000 20").gone

    async def work(chain: Chain) -> None:
        async def reads() -> None:
            async for _ in await chain.stream(call_of()):
                begun.set()

        begun = asyncio.Event()
        caller = asyncio.ensure_future(reads())
        await begun.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        async with asyncio.timeout(2):
            while liar.seen("tokens 1000 20").gone == before:
                await asyncio.sleep(0.02)

    with_chain(work, declared(liar.url, "tokens 1000 20"))

    assert liar.seen("tokens 1000 20").inside == 0


def test_an_answer_that_was_timed_out_closes_the_connection_too(liar: Liar):
    before = liar.seen("hang").gone

    asked_whole(liar.url, "hang", total_ms=100)

    wait_until(lambda: liar.seen("hang").gone == before + 1, within_s=5)


def test_comments_keep_a_stream_alive_between_tokens(liar: Liar):
    text, end, _ = asked_streamed(liar.url, "comments_mid 1000", idle_ms=300)

    assert (text, end) == (TEXT, "stop")


def test_a_caller_who_reads_slowly_does_not_run_down_the_upstreams_clock(liar: Liar):
    """Or a few of them would open the breaker for everybody else."""
    call = call_of(within_s=20.0)

    async def work(chain: Chain) -> tuple[int, str, str]:
        stream, tokens, reason = await chain.stream(call), 0, ""
        async for delta in stream:
            if not tokens:
                await asyncio.sleep(2.0)
            tokens += 1
            reason = delta.finish_reason
        return tokens, reason, chain.snapshot()[0].last_failure

    tokens, reason, failure = with_chain(work, declared(liar.url, "tokens 400 4", total_ms=1_500))

    assert (reason, failure) == ("stop", "")
    assert tokens >= 400


def test_a_stream_ends_at_its_total_time_however_alive_it_is(liar: Liar):
    text, fault, call = asked_streamed(liar.url, "tokens 1000 20", total_ms=500)

    assert isinstance(fault, UpstreamFault)
    assert (fault.failure, fault.detail, fault.has_begun) == (
        "upstream_timeout",
        "not whole within 500 ms",
        True,
    )
    assert text.startswith("w0 w1 ")
    assert call.attempts[0].duration_us >= 500_000


def test_a_broken_stream_counts_against_its_upstream(liar: Liar):
    async def work(chain: Chain) -> str:
        for _ in range(5):
            answer = await chain.stream(call_of())
            await fault_of(whole_of(answer))
        return chain.snapshot()[0].breaker

    assert with_chain(work, declared(liar.url, "hang_mid", idle_ms=50)) == "open"


def test_a_hedge_answers_when_the_first_says_nothing_and_the_loser_is_dropped(liar: Liar):
    before = liar.seen("hang").gone
    answer, call, took_s = asked_of(declared(liar.url, "hang"), declared(liar.url, "ok"), hedge_ms=100)

    assert isinstance(answer, Completion)
    assert answer.upstream == "ok"
    assert 0.1 <= took_s < 1.0
    assert sorted((one.upstream, one.failure, one.is_given_up) for one in call.attempts) == [
        ("hang", "", True),
        ("ok", "", False),
    ]
    wait_until(lambda: liar.seen("hang").gone == before + 1, within_s=5)


def test_a_hedge_is_not_asked_where_the_first_answers_in_time_or_the_budget_is_spent(liar: Liar):
    before = liar.seen("second").requests
    liar.behave("second", "ok")

    quick, _, _ = asked_of(declared(liar.url, "ok"), declared(liar.url, "second"), hedge_ms=300)
    slow, _, _ = asked_of(
        declared(liar.url, "slow 400"), declared(liar.url, "second"), hedge_ms=50, retries_share=0.0
    )

    assert [isinstance(one, Completion) and one.upstream for one in (quick, slow)] == ["ok", "slow"]
    assert liar.seen("second").requests == before


def test_a_streamed_hedge_wins_with_its_first_token(liar: Liar):
    async def work(chain: Chain) -> tuple[str, str]:
        answer = await chain.stream(call_of())
        return answer.upstream, (await whole_of(answer))[0]

    upstreams = [declared(liar.url, "role_only", first_token_ms=4_000), declared(liar.url, "ok")]

    assert with_chain(work, *upstreams, hedge_ms=50) == ("ok", TEXT)


def test_no_more_calls_are_inside_than_the_limit_and_the_others_stand_in_line(liar: Liar):
    async def work(chain: Chain) -> tuple[int, set[str], int]:
        calls = [asyncio.ensure_future(chain.complete(call_of())) for _ in range(12)]
        while not (in_line := chain.snapshot()[0].in_line):
            await asyncio.sleep(0)
        answers = await asyncio.gather(*calls)
        return in_line, {answer.text for answer in answers}, liar.seen("slow 50").most_inside

    assert with_chain(work, declared(liar.url, "slow 50", max_in_flight=4)) == (8, {TEXT}, 4)


def test_what_stands_in_line_too_long_is_told_that_the_upstream_is_full(liar: Liar):
    async def work(chain: Chain) -> tuple[UpstreamFault, int]:
        inside = asyncio.ensure_future(chain.complete(call_of()))
        await asyncio.sleep(0.05)
        fault = await fault_of(chain.complete(call := call_of(within_s=0.4)))
        inside.cancel()
        await asyncio.gather(inside, return_exceptions=True)
        return fault, len(call.attempts)

    fault, attempts = with_chain(work, declared(liar.url, "slow 3000", max_in_flight=1), retries_share=0.0)

    assert (fault.failure, fault.detail, attempts) == (
        "upstream_limited",
        "not asked: all 1 places are taken",
        1,
    )


def test_a_full_first_upstream_is_passed_over_after_a_moment(liar: Liar):
    async def work(chain: Chain) -> tuple[str, float]:
        inside = asyncio.ensure_future(chain.complete(call_of()))
        await asyncio.sleep(0.05)
        began_s = monotonic_s()
        answer = await chain.complete(call_of())
        took_s = monotonic_s() - began_s
        inside.cancel()
        await asyncio.gather(inside, return_exceptions=True)
        return answer.upstream, took_s

    upstream, took_s = with_chain(
        work, declared(liar.url, "slow 3000", max_in_flight=1), declared(liar.url, "ok")
    )

    assert upstream == "ok"
    assert 0.25 <= took_s < 1.0


def test_connections_are_kept_and_one_that_was_closed_meanwhile_costs_the_call_nothing(liar: Liar):
    async def work(chain: Chain) -> tuple[int, list[str]]:
        for _ in range(20):
            await chain.complete(call_of())
            await whole_of(await chain.stream(call_of()))
        kept = liar.open_connections()
        liar.hang_up()
        return kept, [(await chain.complete(call_of())).text for _ in range(3)]

    kept, answers = with_chain(work, declared(liar.url, "ok"), retries_share=0.0)

    assert kept == 1
    assert answers == [TEXT] * 3


def test_what_is_sent_is_the_call_with_the_upstreams_own_on_top(liar: Liar):
    liar.behave("sent", "ok")
    call = call_of(request_id="r-1", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    call.extras = {"temperature": 0.5, "max_tokens": 10, "seed": 1, "model": "theirs", "stream": True}

    async def work(chain: Chain) -> None:
        await chain.complete(call)

    one = declared(
        liar.url, "sent", secret="env:UPSTREAM_KEY", parameters={"temperature": 0.1, "seed": None, "top_k": 3}
    )
    with_chain(work, one, environ={"UPSTREAM_KEY": "sk-1", "HTTP_PROXY": "http://127.0.0.1:1"})
    seen = liar.seen("sent")

    assert seen.path == "/v1/chat/completions"
    assert seen.body == {
        "model": "sent", "messages": call.messages, "temperature": 0.1, "max_tokens": 10, "top_k": 3, "stream": False,
    }  # fmt: skip
    assert seen.headers is not None
    assert {
        name: seen.headers.get(name)
        for name in ("authorization", "user-agent", "x-request-id", "traceparent")
    } == {
        "authorization": "Bearer sk-1",
        "user-agent": f"nightproof/{__version__}",
        "x-request-id": "r-1",
        "traceparent": call.traceparent,
    }
    assert seen.headers["accept-encoding"] == "identity"


def test_a_stream_asks_for_its_usage_and_an_upstream_that_does_not_know_that_can_be_spared(liar: Liar):
    liar.behave("asks", "ok")
    liar.behave("spared", "ok")

    async def work(chain: Chain) -> None:
        await whole_of(await chain.stream(call_of()))

    with_chain(work, declared(liar.url, "asks"))
    with_chain(work, declared(liar.url, "spared", parameters={"stream_options": None}))

    asks, spared = liar.seen("asks").body, liar.seen("spared").body
    assert asks is not None
    assert (asks["stream"], asks["stream_options"]) == (True, {"include_usage": True})
    assert spared is not None
    assert "stream_options" not in spared


def test_proxies_of_the_environment_are_not_used_and_a_declared_one_is(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")

    direct, _, _ = asked_of(declared(liar.url, "ok"))
    through, _, _ = asked_of(declared("http://api.example.com/v1", "ok", proxy=liar.url.removesuffix("/v1")))

    assert isinstance(direct, Completion)
    assert isinstance(through, Completion)
    assert liar.seen("ok").path == "http://api.example.com/v1/chat/completions"


def test_a_redirect_is_not_followed_and_its_target_sees_nothing(liar: Liar):
    liar.behave("elsewhere", "ok")
    fault, _, _ = asked_of(declared(liar.url, f"redirect {liar.url}/chat/completions"), retries_share=0.0)

    assert isinstance(fault, UpstreamFault)
    assert (fault.failure, fault.status) == ("upstream_error", 307)
    assert liar.seen("elsewhere").requests == 0


@pytest.mark.parametrize("http2", [False, True])
def test_a_certificate_is_always_verified(tmp_path: Path, http2: bool):
    authority, stranger = trustme.CA(), trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    made = {
        "good": authority.issue_cert("127.0.0.1", "localhost"),
        "wrong host": authority.issue_cert("other.example.com"),
        "stranger": stranger.issue_cert("127.0.0.1"),
        "expired": authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)),
    }
    ended = {}
    for name, cert in made.items():
        pem = tmp_path / f"{name.replace(' ', '_')}.pem"
        cert.private_key_and_cert_chain_pem.write_to_path(str(pem))
        with lying(pem) as one:
            ended[name], _, _ = asked_of(
                declared(one.url, "ok", http2=http2), transport=transports(trusting), retries_share=0.0
            )

    assert isinstance(ended.pop("good"), Completion)
    for fault in ended.values():
        assert isinstance(fault, UpstreamFault)
        assert (fault.failure, fault.detail) == ("upstream_unreachable", "TLS: CERTIFICATE_VERIFY_FAILED")


@pytest.mark.parametrize("http2", [False, True])
def test_a_name_that_does_not_resolve_or_leads_inside_is_not_reached(liar: Liar, http2: bool):
    port = liar.port
    unknown, _, _ = asked_of(declared("http://nowhere.invalid/v1", "ok", http2=http2), retries_share=0.0)
    inside, _, _ = asked_of(
        declared(f"http://169.254.169.254:{port}/v1", "ok", http2=http2), retries_share=0.0
    )

    assert isinstance(unknown, UpstreamFault)
    assert (unknown.failure, unknown.detail) == ("upstream_unreachable", "its name is not known")
    assert isinstance(inside, UpstreamFault)
    assert (inside.failure, inside.detail) == (
        "upstream_unreachable",
        "its name came to an address that it may not have",
    )


@pytest.mark.parametrize("http2", [False, True])
def test_a_public_name_that_comes_to_a_private_address_is_reached_only_where_it_is_declared(
    liar: Liar, http2: bool
):
    # `127.0.0.0x1` is no address as we read them, has a dot, and the system's resolver makes 127.0.0.1 of it.
    where = f"http://127.0.0.0x1:{liar.port}/v1"
    refused, _, _ = asked_of(declared(where, "ok", http2=http2), retries_share=0.0)
    declared_so, _, _ = asked_of(declared(where, "ok", http2=http2, private=True), retries_share=0.0)

    assert isinstance(refused, UpstreamFault)
    assert (refused.failure, refused.detail) == (
        "upstream_unreachable",
        "its name came to an address that it may not have",
    )
    assert isinstance(declared_so, Completion)


def test_a_connection_that_nobody_accepts_ends_in_its_own_time():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        held = []
        for _ in range(4):  # the queue of connections fills up, and what comes then hears nothing
            held.append(socket.socket())
            held[-1].setblocking(False)
            held[-1].connect_ex(full.getsockname())
        fault, _, took_s = asked_of(
            declared(f"http://127.0.0.1:{full.getsockname()[1]}/v1", "ok", connect_ms=200), retries_share=0.0
        )
        for one in held:
            one.close()

    assert isinstance(fault, UpstreamFault)
    assert (fault.failure, fault.detail) == ("upstream_unreachable", "no connection within 200 ms")
    assert took_s < 1.5


def test_two_releases_share_what_is_known_of_an_upstream_and_the_last_one_closes_it(liar: Liar):
    liar.behave("shared", "status 500")

    async def all_of_it() -> list[str]:
        house = Upstreams(Deadlines())
        described = ChatDescription(prompt="", upstreams=[declared(liar.url, "shared")], retries_share=0.0)
        other = ChatDescription(prompt="2", upstreams=[declared(liar.url, "shared", max_in_flight=8)])
        first, second = house.chain(described), house.chain(other)
        for _ in range(5):
            await fault_of(first.complete(call_of()))
        states = [second.snapshot()[0].breaker, str(second.snapshot()[0].limit)]
        await first.aclose()
        states.append((await fault_of(second.complete(call_of()))).detail)
        await second.aclose()
        return [*states, repr(house)]

    assert asyncio.run(all_of_it()) == ["open", "8", "not asked: its breaker is open", "<Upstreams 0>"]


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"base_url": "ftp://example.com"}, "is no http(s) URL"),
        ({"base_url": "example.com/v1"}, "is no http(s) URL"),
        ({"base_url": "http://example.com:99999/v1"}, "is no http(s) URL"),
        ({"base_url": "http://[::1/v1"}, "is no http(s) URL"),
        ({"base_url": "https://example.com/v1?key=1"}, "is no http(s) URL"),
        ({"base_url": "https://user:pass@example.com/v1"}, "is no http(s) URL"),
        (
            {"base_url": "http://api.example.com/v1", "secret": "env:KEY"},
            "would be sent its key over plain HTTP",
        ),
        (
            {"base_url": "https://api.example.com/v1", "secret": "env:NOT_SET"},
            "The secret env:NOT_SET is not set",
        ),
        (
            {"base_url": "https://api.example.com/v1", "proxy": "http://p:1", "http2": True},
            "do not go together",
        ),
    ],
)
def test_what_is_declared_wrong_is_refused_at_the_start(over: dict[str, Any], told: str):
    async def work(chain: Chain) -> None:
        raise AssertionError("not to be reached")

    one = UpstreamDescription(**{"name": "a", "base_url": "", "model": "m", **over})
    with pytest.raises(DeclarationError) as refused:
        with_chain(work, one, environ={"KEY": "sk-1"})

    assert told in str(refused.value)
    assert "pass" not in str(refused.value).replace("passed", "")


@pytest.mark.parametrize("lie", ["ok", "status 500", "hang_mid", "truncated", "early_json", "role_only"])
def test_http2_behaves_as_http1_does(tmp_path: Path, liar: Liar, lie: str):
    first = asked_streamed(liar.url, lie)
    second = asked_streamed(liar.url, lie, http2=True)

    def told(ended: tuple[str, str | UpstreamFault, UpstreamCall]) -> tuple[str, str, str]:
        _, end, call = ended
        return (end if isinstance(end, str) else end.failure), call.attempts[0].failure, ended[0]

    assert told(first)[:2] == told(second)[:2]
    assert lie != "ok" or told(second)[2] == TEXT
