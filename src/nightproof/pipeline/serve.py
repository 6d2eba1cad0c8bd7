"""Conduct one request: accept → admit → call → check → record → reply. Straight, and to one ending.

Whatever happens on the way, the request is recorded once and counted once, and its place is given back
once: also when its caller leaves in the middle, which cancels this coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nightproof.base.errors import Fault
from nightproof.base.values import Reply
from nightproof.pipeline.accept import accept
from nightproof.pipeline.admit import admit
from nightproof.pipeline.call import call
from nightproof.pipeline.check import check
from nightproof.pipeline.degrade import degrade
from nightproof.pipeline.house import House
from nightproof.pipeline.record import internal_error, record, record_abandoned
from nightproof.pipeline.reply import reply_of
from nightproof.pipeline.story import Arrival, Story
from nightproof.watch.log import log_unexpected

Work = Callable[[Story, House], Awaitable[None]]


async def predict(story: Story, house: House) -> None:
    """Have the records of a request answered."""
    request = await accept(story, house)
    story.mark("accept")
    if story.replay is not None:
        story.ending, story.failure = story.replay.ending, story.replay.failure
        return
    with admit(request, story, house):
        story.mark("admit")
        await call(request)
        story.mark("call")
        check(request)
        await degrade(request, story)
        story.end_by_items()
        story.mark("check")


async def serve(arrival: Arrival, house: House, *, work: Work = predict) -> Reply:
    """Answer one request. Returns a reply in every case but one: a cancelled caller gets none.

    `work` is what lies between arrival and record, for the routes that ask for something else than a prediction.
    """
    story = Story.of(arrival)
    house.meters.arrived()
    try:
        try:
            await work(story, house)
        except Fault as fault:
            story.end_by(fault)
        except Exception as error:  # noqa: BLE001
            # The border of law 2: an exception nobody named becomes internal_error, is logged and pages.
            log_unexpected(error, request_id=arrival.id, service=story.service)
            story.items = []
            story.end_by(internal_error(error))
            story.ending = "failed"
        await record(story, house)
    except asyncio.CancelledError:
        record_abandoned(story, house)
        raise
    return reply_of(story)
