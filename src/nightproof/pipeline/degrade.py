"""Between check and record: try the declared fallbacks, in order, for records that have no answer yet.

Only for failures of our side (5xx): what the caller did wrong is refused, not papered over. A fallback's
answer passes the same checks. What does not need a worker works even when the deadline is there.
"""

from __future__ import annotations

from nightproof.base.clock import monotonic_s
from nightproof.base.failures import CATALOGUE
from nightproof.base.values import Degraded
from nightproof.declare.describe import FallbackDescription
from nightproof.pipeline.accept import Request
from nightproof.pipeline.call import ask
from nightproof.pipeline.check import judge
from nightproof.pipeline.house import ServedRelease
from nightproof.pipeline.story import Item, Story

_LEAST_TIME_S = 0.002


async def degrade(request: Request, story: Story) -> None:
    """Answer failed items by the first fallback that can."""
    ways = request.release.engine.description.fallbacks
    if not ways:
        return
    for number, way in enumerate(ways):
        open_items = [
            item for item in request.items if item.failure and CATALOGUE[item.failure].statuses[0] >= 500
        ]
        if not open_items:
            return
        await _try(way, number, open_items, request, story)


async def _try(
    way: FallbackDescription, number: int, items: list[Item], request: Request, story: Story
) -> None:
    standby = request.served.before(request.release)
    if way.kind == "constant":
        for item in items:
            _answer(item, way.answer, way.kind, story, release=request.release)
    elif way.kind == "last_good":
        kept = request.release.last_good
        for item in items:
            output = kept.find(item.input, now=monotonic_s()) if kept is not None else None
            if output is not None:
                _answer(item, output, way.kind, story, release=request.release)
    elif way.kind == "rule":
        await _ask(request.release, items, request, story, kind=way.kind, rule=number)
    elif standby is not None:
        await _ask(standby, items, request, story, kind=way.kind, rule=-1)
    else:
        story.decisions.append("fallback:previous_release has none")


async def _ask(
    release: ServedRelease, items: list[Item], request: Request, story: Story, *, kind: str, rule: int
) -> None:
    """Have a worker answer: by a rule, or by the standby release."""
    if not release.engine.is_ready() or request.deadline_s - monotonic_s() < _LEAST_TIME_S:
        story.decisions.append(f"fallback:{kind} had no worker or no time")
        return
    _, outcomes = await ask(release, [item.input for item in items], request.deadline_s, rule=rule)
    for item, outcome in zip(items, outcomes, strict=True):
        if outcome.failure:
            story.decisions.append(f"fallback:{kind} {outcome.failure}")
        else:
            _answer(item, outcome.output, kind, story, release=request.release)


def _answer(item: Item, output: bytes, kind: str, story: Story, *, release: ServedRelease) -> None:
    """Take a fallback's answer if it keeps what the live release promises, whoever gave it."""
    failure, detail, confidence, withheld = item.failure, item.detail, item.confidence, item.output
    item.failure, item.detail, item.output = "", "", output
    judge(item, release.output_checks)
    item.confidence = confidence  # what is watched is the model's own
    if item.failure:
        story.decisions.append(f"fallback:{kind} {item.failure}")
        item.failure, item.detail, item.output = failure, detail, withheld
        return
    item.degraded = Degraded(failure, kind)
    item.errors = ()
    story.decisions.append(f"degraded:{item.place} {failure} by {kind}" + (f" ({detail})" if detail else ""))
