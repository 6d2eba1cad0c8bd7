"""Conduct records for a chat service with typed input and output: the native route, answered by an LLM.

A record becomes the user's message by the service's template, the answer becomes the output type, and one that does
not fit is sent back with what is wrong. Records of a list are asked one beside the other, a few at a time.
"""

from __future__ import annotations

import asyncio

import msgspec

from nightproof.base.errors import Refusal
from nightproof.pipeline.accept import Request, accept
from nightproof.pipeline.chat import answer_whole
from nightproof.pipeline.chat_accept import boundary_of, canary_of
from nightproof.pipeline.chat_admit import admit_chat
from nightproof.pipeline.chat_values import ChatAnswer, ChatAsk, ChatFacts, ChatRequest
from nightproof.pipeline.check import judge
from nightproof.pipeline.house import House
from nightproof.pipeline.story import Item, Story

_AT_ONCE = 8
"""Records of one request that are with the upstream at the same time."""


async def predict_by_chat(story: Story, house: House) -> None:
    """Have the records of a request answered by the service's chat."""
    request = await accept(story, house)
    story.mark("accept")
    if story.replay is not None:
        story.ending, story.failure = story.replay.ending, story.replay.failure
        return
    chat = request.release.chat
    if chat is None or not chat.description.is_typed:
        raise Refusal(
            f"Service {story.service!r} answers chats, not records.",
            failure="unknown_service",
            hint="POST /v1/chat/completions with its name as the model.",
        )
    story.chat = ChatFacts(attempts=[], findings=[])
    asked = [_of_item(request, item, house) for item in request.items if not item.failure]
    with admit_chat(asked[0], story, house), chat:
        story.mark("admit")
        places = asyncio.Semaphore(_AT_ONCE)

        async def answer(one: ChatRequest) -> None:
            async with places:
                await answer_whole(one, story, house)
            _take_output(one)

        if len(asked) == 1:
            await answer(asked[0])
        else:
            async with asyncio.TaskGroup() as group:
                for one in asked:
                    group.create_task(answer(one))
        story.end_by_items()
        story.mark("check")


def _of_item(request: Request, item: Item, house: House) -> ChatRequest:
    release = request.release
    if release.chat is None:
        raise RuntimeError("a release without a chat was asked to chat")
    return ChatRequest(
        served=request.served,
        release=release,
        chat=release.chat,
        caller=request.caller,
        item=item,
        deadline_s=request.deadline_s,
        size_bytes=request.size_bytes,
        boundary=boundary_of(item.input, house),
        canary=canary_of(release.chat),
        ask=ChatAsk(service=request.served.name, messages=[]),
        record=msgspec.Raw(item.input),
    )


def _take_output(request: ChatRequest) -> None:
    """Take the answer's text as the record's output, if it holds outside the worker too."""
    item = request.item
    if item.failure:
        return
    said = msgspec.json.decode(item.output, type=ChatAnswer)
    if said.refusal or said.tool_calls:
        item.failure, item.detail = "invalid_output", "the model refused, or called a tool"
        item.output = b""
        return
    item.output = said.content.encode()
    judge(item, request.release.output_checks)
