"""Stop a call of an upstream at every point where it waits: its connection closes, and each place comes back once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from nightproof.pipeline.upstreams import Chain
from nightproof.workers.upstream.values import UpstreamCall, UpstreamFault
from tests.chains import (
    HANG,
    Scripted,
    call_of,
    declared,
    fault_of,
    status,
    streamed,
    whole,
    whole_of,
    with_chain,
)

TURNS = 40
"""More turns of the loop than any of these calls takes."""


async def complete(chain: Chain, call: UpstreamCall) -> None:
    await chain.complete(call)


async def stream(chain: Chain, call: UpstreamCall) -> None:
    await whole_of(await chain.stream(call))


Ask = Callable[[Chain, UpstreamCall], Awaitable[None]]
Answers = Sequence[tuple[int, str, list[bytes]]]
CASES: dict[str, tuple[Ask, list[Answers], dict[str, Any]]] = {
    "a whole answer": (complete, [[whole()]], {}),
    "a stream": (stream, [[streamed("a", "b", "c")]], {}),
    "a stream that stalls": (stream, [[streamed("a", end=HANG)]], {}),
    "failed over": (complete, [[status(500)], [whole()]], {}),
    "a stream failed over": (stream, [[streamed(end=b"data: [DONE]\n\n")], [streamed("a")]], {}),
    "tried again": (complete, [[status(500), whole()]], {"retries_share": 1.0}),
    "hedged, the first hangs": (stream, [[streamed(end=HANG)], [streamed("a", "b")]], {"hedge_ms": 1}),
    "hedged, the second hangs": (stream, [[streamed("a")], [streamed(end=HANG)]], {"hedge_ms": 1}),
    "hedged, both fail": (complete, [[status(500)], [status(503)]], {"hedge_ms": 1, "retries_share": 0.0}),
}


async def stop_at(turn: int, chain: Chain, ask: Ask, call: UpstreamCall) -> None:
    """Cancel the asking after so many turns, and see what it does then."""
    task = asyncio.ensure_future(ask(chain, call))
    for number in range(turn):
        # Some turns last a little, so that a hedge and a back-off come due.
        await asyncio.sleep(0.002 if number in (6, 12) else 0)
    task.cancel()
    try:
        await task
    except (asyncio.CancelledError, UpstreamFault):
        pass


@pytest.mark.parametrize("case", CASES)
def test_a_call_that_is_stopped_anywhere_leaves_nothing_behind(case: str):
    ask, answers, over = CASES[case]

    for turn in range(TURNS):
        scripts = {f"u{at}": Scripted(*one) for at, one in enumerate(answers)}
        call = call_of()

        async def work(chain: Chain, turn: int = turn, call: UpstreamCall = call) -> None:
            await stop_at(turn, chain, ask, call)

        with_chain(
            work,
            *[declared("http://127.0.0.1:1/v1", name) for name in scripts],
            transport=lambda one, scripts=scripts: scripts[one.name],
            chance=0.0,
            **over,
        )

        assert [script.open for script in scripts.values()] == [0] * len(scripts)
        posts = sum(script.posts for script in scripts.values())
        assert len(call.attempts) == posts, "each attempt is told of once"


def test_who_stands_in_line_can_leave_at_any_turn_and_the_place_goes_to_the_next():
    for turn in range(TURNS):
        script = Scripted(whole())

        async def work(chain: Chain, turn: int = turn) -> list[str]:
            first = asyncio.ensure_future(chain.complete(call_of()))
            await asyncio.sleep(0)
            leaving = asyncio.ensure_future(chain.complete(call_of()))
            await asyncio.sleep(0)
            staying = asyncio.ensure_future(chain.complete(call_of()))
            for _ in range(turn):
                await asyncio.sleep(0)
            leaving.cancel()
            answers = await asyncio.gather(first, staying)
            await asyncio.gather(leaving, return_exceptions=True)
            return [answer.text for answer in answers]

        one = declared("http://127.0.0.1:1/v1", "u0", max_in_flight=1)

        assert with_chain(work, one, transport=lambda _, script=script: script) == ["hi", "hi"]


def test_a_probe_that_is_stopped_gives_its_place_back_to_the_breaker():
    script = Scripted(*[status(500)] * 5, whole())

    async def work(chain: Chain) -> list[str]:
        for _ in range(5):
            await fault_of(chain.complete(call_of()))
        states = [chain.snapshot()[0].breaker]
        async with asyncio.timeout(20):
            while chain.snapshot()[0].breaker == "open":
                await asyncio.sleep(0.02)
        for turn in range(1, 13):  # more than there are probes
            await stop_at(turn % 4, chain, complete, call_of())
        states.append(chain.snapshot()[0].breaker)
        for _ in range(3):
            await chain.complete(call_of())
        return [*states, chain.snapshot()[0].breaker]

    one = declared("http://127.0.0.1:1/v1", "u0")
    states = with_chain(work, one, transport=lambda _: script, chance=0.0, retries_share=0.0)

    assert states == ["open", "half_open", "closed"]


def test_a_stream_that_is_dropped_counts_as_neither_and_may_be_dropped_again():
    script = Scripted(streamed("a", end=HANG))
    call = call_of()

    async def work(chain: Chain) -> tuple[int, int]:
        answer = await chain.stream(call)
        inside = chain.snapshot()[0].in_flight
        await answer.aclose()
        await answer.aclose()
        assert [delta async for delta in answer] == []
        return inside, chain.snapshot()[0].calls

    assert with_chain(work, declared("http://127.0.0.1:1/v1", "u0"), transport=lambda _: script) == (1, 0)
    assert [(one.failure, one.is_given_up) for one in call.attempts] == [("", True)]
