"""Chains of upstreams for tests: declared in a line, run on a loop, always whole afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from nightproof.base.clock import monotonic_s
from nightproof.base.deadlines import Deadlines
from nightproof.declare.chat_description import ChatDescription, UpstreamDescription
from nightproof.pipeline.upstreams import Chain, TransportMaker, Upstreams
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
    transport: TransportMaker | None = None,
    environ: Mapping[str, str] = {},
    chance: float = 0.5,
    **over: Any,
) -> T:
    """Run work with a chain; afterwards nothing is inside, in line, or left running."""

    async def all_of_it() -> T:
        house = Upstreams(Deadlines(), environ=environ, transport=transport, chance=lambda: chance)
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


class ScriptedReply:
    """An answer whose pieces come one turn of the loop apart; counts whether it was let go."""

    def __init__(self, transport: Scripted, status: int, kind: str, pieces: list[bytes]) -> None:
        self._transport = transport
        self._pieces = pieces
        self._headers = {"content-type": kind}
        self.status = status
        self._is_open = True

    def header(self, name: str) -> str:
        return self._headers.get(name, "")

    async def read(self) -> bytes:
        assert self._is_open, "nothing is read of what was let go"
        await asyncio.sleep(0)
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if piece == HANG:
            await asyncio.get_running_loop().create_future()
        return piece

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._transport.open -= 1


HANG = b"(nothing more comes)"


class Scripted:
    """A transport that answers from a list, one turn of the loop after the other, and counts what is open."""

    def __init__(self, *answers: tuple[int, str, list[bytes]]) -> None:
        self._answers = list(answers)
        self.open = 0
        self.posts = 0

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, connect_s: float
    ) -> ScriptedReply:
        self.posts += 1
        for _ in range(3):
            await asyncio.sleep(0)
        status, kind, pieces = self._answers[min(self.posts, len(self._answers)) - 1]
        self.open += 1
        return ScriptedReply(self, status, kind, list(pieces))

    async def aclose(self) -> None:
        assert self.open == 0, "every answer was let go"


def whole(text: str = "hi") -> tuple[int, str, list[bytes]]:
    """Script a whole answer, in two pieces."""
    body = b'{"choices":[{"message":{"content":"%s"},"finish_reason":"stop"}]}' % text.encode()
    return 200, "application/json", [body[:9], body[9:]]


def event(delta: str, finish: str = "null") -> bytes:
    """Script an event of a stream."""
    return b'data: {"choices":[{"delta":%s,"finish_reason":%s}]}\n\n' % (delta.encode(), finish.encode())


def streamed(*texts: str, end: bytes = b"") -> tuple[int, str, list[bytes]]:
    """Script a stream: whole, or with another end."""
    pieces = [event(f'{{"content":"{text}"}}') for text in texts]
    last = [end] if end else [event("{}", '"stop"'), b"data: [DONE]\n\n"]
    return 200, "text/event-stream", [event('{"role":"assistant"}'), *pieces, *last]


def status(code: int) -> tuple[int, str, list[bytes]]:
    """Script an answer that is only a status."""
    return code, "text/plain", [b"no"]
