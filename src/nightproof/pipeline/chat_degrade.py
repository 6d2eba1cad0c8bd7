"""Between check and record of a chat: the declared fallbacks, in order, while nothing has left yet.

Another upstream and another model are the chain's own; here is what is left when all of them failed, or when what
they said may not leave. Only for failures of our side (5xx), as for records, and always marked.
"""

from __future__ import annotations

import msgspec
import orjson

from nightproof.base.clock import monotonic_s
from nightproof.base.failures import CATALOGUE
from nightproof.base.values import Degraded
from nightproof.checks.leaving import OutputScanner
from nightproof.pipeline.chat_answer import ask_upstream, question_of
from nightproof.pipeline.chat_inspect import inspect
from nightproof.pipeline.chat_values import ChatAnswer, ChatRequest
from nightproof.pipeline.house import House, ServedRelease
from nightproof.pipeline.story import Story

_LEAST_TIME_S = 0.05


async def degrade_chat(request: ChatRequest, story: Story, house: House) -> None:
    """Answer a failed exchange by the first fallback that can."""
    item = request.item
    for way in request.release.engine.description.fallbacks:
        if not item.failure or CATALOGUE[item.failure].statuses[0] < 500:
            return
        if way.kind == "constant":
            _answer(constant_answer(way.answer), way.kind, request, story)
        elif way.kind == "last_good" and request.release.last_good is not None:
            output = request.release.last_good.find(question_of(request), now=monotonic_s())
            if output is not None:
                _answer(output, way.kind, request, story)
        elif way.kind == "previous_release":
            await _ask_previous(request, story, house)


def constant_answer(declared: bytes) -> bytes:
    """Return a declared constant as an answer: the text, or the JSON of the output type."""
    value = orjson.loads(declared)
    return msgspec.json.encode(ChatAnswer(content=value if isinstance(value, str) else declared.decode()))


async def _ask_previous(request: ChatRequest, story: Story, house: House) -> None:
    before = request.served.before(request.release)
    if before is None or before.chat is None:
        story.decisions.append("fallback:previous_release has none")
        return
    if request.deadline_s - monotonic_s() < _LEAST_TIME_S:
        story.decisions.append("fallback:previous_release had no time")
        return
    item = request.item
    failure, detail = item.failure, item.detail
    again = _of_release(request, before)
    item.failure, item.detail = "", ""
    # Its own checks look at the input too: what the live release's workers could not say, these may.
    with before.chat:
        await inspect(again, story)
        if not item.failure:
            await ask_upstream(again, story, house)
    if item.failure:
        story.decisions.append(f"fallback:previous_release {item.failure}")
        item.failure, item.detail, item.output = failure, detail, b""
        return
    _mark(failure, detail, "previous_release", request, story)


def _of_release(request: ChatRequest, release: ServedRelease) -> ChatRequest:
    if release.chat is None:
        raise RuntimeError("a release without a chat was asked to chat")
    return msgspec.structs.replace(request, release=release, chat=release.chat)


def _answer(output: bytes, kind: str, request: ChatRequest, story: Story) -> None:
    """Take a fallback's answer, if what it says may leave like any other."""
    item = request.item
    said = msgspec.json.decode(output, type=ChatAnswer)
    scanner = OutputScanner(request.chat.rules, canary=request.canary, prompt=request.chat.shadow)
    text = scanner.feed(said.content) + scanner.end()
    if scanner.stopped:
        story.decisions.append(f"fallback:{kind} {scanner.stopped}")
        return
    failure, detail = item.failure, item.detail
    item.failure, item.detail = "", ""
    item.output = msgspec.json.encode(msgspec.structs.replace(said, content=text))
    _mark(failure, detail, kind, request, story)


def _mark(failure: str, detail: str, kind: str, request: ChatRequest, story: Story) -> None:
    item = request.item
    item.degraded, item.errors = Degraded(failure, kind), ()
    story.decisions.append(f"degraded:{item.place} {failure} by {kind}" + (f" ({detail})" if detail else ""))
