"""Second step of a chat request: quota, budgets, and a place; or a reasoned no."""

from __future__ import annotations

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.limits.limiter import Place
from nightproof.pipeline.chat_values import ChatRequest
from nightproof.pipeline.house import House
from nightproof.pipeline.story import Story


def admit_chat(request: ChatRequest, story: Story, house: House) -> Place:
    """Grant the request its place; the caller of this gives it back. Raises Refusal otherwise."""
    now = monotonic_s()
    house.limiter.spend_quota(request.caller.key_id, now=now)
    house.budgets.refuse_beyond(
        request.served.name, request.caller.key_id, request.chat.description.budget, at_us=utc_us()
    )
    forecast = request.release.engine.forecast(1)
    place = house.limiter.grant(
        request.served.name,
        size_bytes=request.size_bytes,
        queue_s=forecast.queue_s,
        own_s=forecast.own_s,
        remaining_s=request.deadline_s - now,
    )
    story.admitted = True
    return place
