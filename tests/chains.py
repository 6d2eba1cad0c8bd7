"""Chains of upstreams for tests: declared in a line, run on a loop, always whole afterwards."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nightproof.base.clock import monotonic_s
from nightproof.base.deadlines import Deadlines
from nightproof.declare.chat_description import ChatDescription, UpstreamDescription
from nightproof.pipeline.upstreams import Chain, Upstreams
from nightproof.workers.upstream.values import StreamedAnswer, UpstreamCall, UpstreamFault

T = TypeVar("T")
Work = Callable[[Chain], Awaitable[T]]


def declared(base_url: str, model: str, **over: Any) -> UpstreamDescription:
    """Declare an upstream, named as its model's first word."""
    clocks = {"connect_ms": 500, "first_token_ms": 400, "idle_ms": 400, "total_ms": 5_000}
    return UpstreamDescription(name=model.split()[0], base_url=base_url, model=model, **(clocks | over))


def call_of(text: str = "Hello", *, within_s: float = 5.0, **over: Any) -> UpstreamCall:
    """Return a call that ends in time."""
    messages = [{"role": "user", "content": text}]
    return UpstreamCall(messages=messages, extras={}, deadline_s=monotonic_s() + within_s, **over)


def with_chain(
    work: Work[T],
    *upstreams: UpstreamDescription,
    context: ssl.SSLContext | None = None,
    chance: float = 0.5,
    **over: Any,
) -> T:
    """Run work with a chain; afterwards nothing is inside, in line, or left running."""

    async def all_of_it() -> T:
        house = Upstreams(Deadlines(), context=context, chance=lambda: chance)
        chain = house.chain(ChatDescription(prompt="", upstreams=list(upstreams), **over))
        try:
            done = await work(chain)
        finally:
            inside = [(one.name, one.in_flight, one.in_line) for one in chain.snapshot()]
            await chain.aclose()
            await house.close()
            await asyncio.sleep(0)
        assert inside == [(one.name, 0, 0) for one in upstreams]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return done

    return asyncio.run(all_of_it())


async def whole_of(answer: StreamedAnswer) -> tuple[str, str]:
    """Read a stream to its end; return its text and its finish_reason."""
    text, reason = "", ""
    async for delta in answer:
        assert not reason, "nothing comes after the end"
        text += delta.text
        reason = delta.finish_reason
    return text, reason


async def fault_of(answering: Awaitable[Any]) -> UpstreamFault:
    """Return the fault that it ends with."""
    try:
        got = await answering
    except UpstreamFault as fault:
        return fault
    raise AssertionError(f"it answered: {got}")
