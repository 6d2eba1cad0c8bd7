"""Second step: a place now, or a reasoned no. Never admits what cannot finish in its deadline."""

from __future__ import annotations

from nightproof.base.clock import monotonic_s
from nightproof.limits.limiter import Place
from nightproof.pipeline.accept import Request
from nightproof.pipeline.house import House
from nightproof.pipeline.story import Story


def admit(request: Request, story: Story, house: House) -> Place:
    """Grant the request its place; the caller of this gives it back. Raises Refusal otherwise."""
    now = monotonic_s()
    house.limiter.spend_quota(request.caller.key_id, now=now)
    forecast = request.release.engine.forecast(request.standing)
    overflow = request.served.overflow
    if (
        overflow is not None
        and request.release is request.served.live
        and forecast.queue_s > request.served.overflow_share * (request.deadline_s - now)
        and overflow.engine.is_ready()
    ):
        # Just switched: what the new release's first worker cannot take in time, the one that was live does.
        request.release = overflow
        story.release = overflow.label
        story.decisions.append(f"overflow:{overflow.label}")
        forecast = overflow.engine.forecast(request.standing)
    place = house.limiter.grant(
        request.served.name,
        size_bytes=request.size_bytes,
        queue_s=forecast.queue_s,
        own_s=forecast.own_s,
        remaining_s=request.deadline_s - now,
    )
    story.admitted = True
    return place
