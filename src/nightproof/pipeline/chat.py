"""Conduct one chat: accept → admit → inspect → call → check → record → reply.

`serve` conducts around it as around a record: one ending, one record, one count. How an answer leaves in pieces is in
`chat_stream`; the steps are the same functions.
"""

from __future__ import annotations

from nightproof.pipeline.chat_accept import accept_chat
from nightproof.pipeline.chat_admit import admit_chat
from nightproof.pipeline.chat_answer import ask_upstream
from nightproof.pipeline.chat_degrade import degrade_chat
from nightproof.pipeline.chat_inspect import inspect
from nightproof.pipeline.chat_stream import answer_streamed
from nightproof.pipeline.chat_values import ChatRequest, Sink
from nightproof.pipeline.house import House
from nightproof.pipeline.story import Story


async def chat(story: Story, house: House, sink: Sink) -> None:
    """Have a chat answered: into the sink as it may leave where the caller wants it streamed, else into the story."""
    request = await accept_chat(story, house)
    story.mark("accept")
    if story.replay is not None:
        story.ending, story.failure = story.replay.ending, story.replay.failure
        return
    with admit_chat(request, story, house), request.chat:
        story.mark("admit")
        if request.ask.is_streamed:
            await answer_streamed(request, story, house, sink)
        else:
            await answer_whole(request, story, house)
        story.end_by_items()
        story.mark("check")


async def answer_whole(request: ChatRequest, story: Story, house: House) -> None:
    """Inspect, call, check, and fall back where that did not help; the item has an output or a failure then."""
    await inspect(request, story)
    story.mark("inspect")
    if not request.item.failure:
        await ask_upstream(request, story, house)
    await degrade_chat(request, story, house)
