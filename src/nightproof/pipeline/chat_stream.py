"""Let the answer of a chat leave in pieces: the same steps as for one that leaves whole, and two records.

Nothing leaves before a record says that the stream was opened, and the end of the stream is told only once its
ending is recorded. What the scanner holds back has not left: an answer that breaks before its first piece left can
still fall back; after that it ends with an error in the stream, and never as if it were whole.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec

from nightproof.audit.ledger import AuditUnavailable
from nightproof.audit.record import OPENED, make_entry
from nightproof.base.clock import monotonic_s, utc_us
from nightproof.checks.leaving import OutputScanner
from nightproof.checks.tool_calls import MalformedToolCall, ToolCallAssembler
from nightproof.pipeline.chat_answer import (
    ask_upstream,
    call_of,
    count_usage,
    estimated,
    is_held_whole,
    judge_further,
    may_leave,
    remember_good,
    scanner_of,
)
from nightproof.pipeline.chat_degrade import degrade_chat
from nightproof.pipeline.chat_inspect import facts_of, inspect
from nightproof.pipeline.chat_values import ChatAnswer, ChatRequest, Sink
from nightproof.pipeline.house import House
from nightproof.pipeline.story import Story
from nightproof.workers.upstream.values import Delta, StreamedAnswer, UpstreamCall, UpstreamFault

_encode = msgspec.json.Encoder().encode
_MOST_IN_A_ROW = 16
"""Pieces of one stream that are passed on before others have their turn: a millisecond or two."""


async def answer_streamed(request: ChatRequest, story: Story, house: House, sink: Sink) -> None:
    """Inspect, call, let the answer leave in pieces, and fall back while nothing has left."""
    await inspect(request, story)
    story.mark("inspect")
    if not request.item.failure:
        if is_held_whole(request):
            await ask_upstream(request, story, house)
        else:
            await _Streaming(request, story, house, sink).run()
    if not facts_of(story).has_left:
        await degrade_chat(request, story, house)


class _Streaming:
    """One answer on its way from the upstream to the caller, through the scanners."""

    def __init__(self, request: ChatRequest, story: Story, house: House, sink: Sink) -> None:
        self._request = request
        self._story = story
        self._house = house
        self._sink = sink
        self._item = request.item
        self._facts = facts_of(story)
        self._text = scanner_of(request)
        self._refusal: OutputScanner | None = None
        self._tools = ToolCallAssembler()
        self._left: list[str] = []
        self._refused: list[str] = []
        self._said_chars = 0
        self._finish_reason = ""
        self._is_counted = False
        self._is_held = False

    async def run(self) -> None:
        """Pass the answer on; the item has its output or a failure afterwards."""
        call = call_of(self._request, self._story)
        try:
            await self._ask(call)
        finally:
            self._facts.attempts += call.attempts

    async def _ask(self, call: UpstreamCall) -> None:
        began_s = monotonic_s()
        try:
            answer = await self._request.chat.chain.stream(call)
        except UpstreamFault as fault:
            self._item.failure, self._item.detail = fault.failure, fault.detail
            return
        begun_s = monotonic_s()
        self._facts.first_token_us = int((begun_s - began_s) * 1e6)
        self._facts.upstream, self._facts.model = answer.upstream, answer.model
        self._story.mark("call")
        try:
            async with aclosing(answer):
                await self._pass_on(answer)
        except UpstreamFault as fault:
            self._item.failure, self._item.detail = fault.failure, fault.detail
        except MalformedToolCall as error:
            self._item.failure, self._item.detail = "upstream_broken", f"a tool call is malformed: {error}"
        finally:
            # Also of a caller who left in the middle: what was said is paid, and what left is recorded.
            self._item.output = _encode(self._so_far())
            if not self._is_counted:
                usage = estimated(self._request, self._said_chars)
                count_usage(usage, self._request, self._story, self._house)
            self._facts.stream_us = int((monotonic_s() - begun_s) * 1e6)
            self._story.mark("stream")
            if self._facts.has_left:
                self._house.meters.chat.stream_closed(self._story.service)
        if self._item.failure:
            self._facts.withheld += self._held()
            return
        await self._end()

    async def _pass_on(self, answer: StreamedAnswer) -> None:
        in_a_row = 0
        async for delta in answer:
            in_a_row += 1
            if in_a_row >= _MOST_IN_A_ROW:
                # Where pieces are there already and nobody makes us wait, nobody else would have a turn.
                in_a_row = 0
                await asyncio.sleep(0)
            self._count(delta)
            if delta.tool_calls:
                self._tools.feed(delta.tool_calls)
            if delta.refusal:
                self._refusal = self._refusal or scanner_of(self._request)
                self._refused.append(self._refusal.feed(delta.refusal))
            if delta.text and (piece := self._text.feed(delta.text)):
                await self._leave(piece)
            if any(scanner.stopped for scanner in self._scanners()):
                return

    def _count(self, delta: Delta) -> None:
        self._said_chars += len(delta.text) + len(delta.refusal)
        if delta.finish_reason:
            self._finish_reason = self._facts.finish_reason = delta.finish_reason
        if delta.usage is not None and not self._is_counted:
            self._is_counted = True
            count_usage(delta.usage, self._request, self._story, self._house)

    async def _end(self) -> None:
        """Judge the answer as a whole, let the rest of it leave, and say how it ended."""
        rest = self._text.end()
        if self._refusal is not None:
            self._refused.append(self._refusal.end())
        whole = msgspec.structs.replace(self._so_far(), tool_calls=self._tools.calls())
        whole = msgspec.structs.replace(whole, content=whole.content + rest)
        if not may_leave(whole, self._scanners(), self._request, self._story, self._house):
            self._facts.withheld += self._held()
            return
        if await judge_further(whole, self._request, self._story) is None:
            return
        if rest and self._facts.has_left:
            await self._leave(rest)
        self._item.output = _encode(whole)
        remember_good(self._request)

    def _scanners(self) -> list[OutputScanner]:
        return [self._text] if self._refusal is None else [self._text, self._refusal]

    def _held(self) -> str:
        """Return what came and has not left."""
        return "".join(scanner.withheld for scanner in self._scanners())

    async def _leave(self, piece: str) -> None:
        """Send a piece on; where no opening can be recorded, all of it waits for the record of the whole."""
        self._left.append(piece)
        if not self._facts.has_left:
            if self._is_held or not await _record_opening(self._story, self._house):
                self._is_held = True
                return
            self._facts.has_left = True
            self._house.meters.chat.stream_opened(self._story.service)
            await self._sink.open()
        await self._sink.text(piece)

    def _so_far(self) -> ChatAnswer:
        usage = self._facts.usage
        return ChatAnswer(
            content="".join(self._left),
            refusal="".join(self._refused),
            finish_reason=self._finish_reason or "stop",
            input_tokens=usage.input_tokens if usage else 0,
            output_tokens=usage.output_tokens if usage else 0,
            model=self._facts.model,
        )


async def _record_opening(story: Story, house: House) -> bool:
    """Make durable that an answer is about to leave; say whether it is. Raises AuditOutcomeUnknown."""
    facts = {
        "service": story.service,
        "release": story.release,
        "key": story.caller.key_id if story.caller else "",
        "protocol": story.arrival.protocol,
    }
    try:
        await house.ledger.append(
            make_entry(OPENED, story.arrival.id, utc_us(), facts), others=house.limiter.in_flight
        )
    except AuditUnavailable:
        return False
    return True
