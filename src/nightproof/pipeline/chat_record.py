"""What a chat adds to its record: numbers and names to the leaf, what was said and withheld to the sealed content.

And what the traces and the drift watch take of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from nightproof.watch.genai import attempt_traces, endpoint_of
from nightproof.watch.telemetry import AttemptTrace

if TYPE_CHECKING:
    from nightproof.pipeline.chat_values import ChatFacts
    from nightproof.pipeline.house import House
    from nightproof.pipeline.story import Story
    from nightproof.watch.drift.watcher import Answered

_MOST_ATTEMPTS = 16
_MOST_FINDINGS = 100


def chat_facts(facts: ChatFacts) -> dict[str, Any]:
    """Return what the leaf says: no text of anybody's. Money is whole millionths, since a leaf holds no fractions."""
    told: dict[str, Any] = {
        "attempts": [
            [one.upstream, one.model, one.failure, one.detail, one.duration_us]
            for one in facts.attempts[:_MOST_ATTEMPTS]
        ],
        "upstream": facts.upstream,
        "model": facts.model,
        "finish": facts.finish_reason,
        "streamed": facts.is_streamed,
    }
    if facts.usage is not None:
        told["tokens"] = [facts.usage.input_tokens, facts.usage.output_tokens]
        told["estimated"] = facts.usage.is_estimated
    if facts.cost:
        told["cost_millionths"] = round(facts.cost * 1e6)
    if facts.first_token_us:
        told["first_token_us"] = facts.first_token_us
    if facts.is_tainted:
        told["tainted"] = True
    if facts.repairs:
        told["repairs"] = facts.repairs
    if facts.bypassed:
        told["bypassed"] = facts.bypassed
    if facts.findings:
        told["found"] = sorted({f"{one.check}:{one.rule}:{one.action}" for one in facts.findings})[:20]
    if facts.has_left:
        told["left"] = True
    return told


def chat_content(facts: ChatFacts) -> dict[str, Any]:
    """Return what is sealed: every finding with its place, and what the upstream said that nobody was told."""
    content: dict[str, Any] = {}
    if facts.findings:
        content["findings"] = msgspec.to_builtins(facts.findings[:_MOST_FINDINGS])
    if facts.withheld:
        content["withheld"] = facts.withheld
    return content


def rows_of(story: Story) -> Sequence[Answered]:
    """Return what the drift watch takes of a chat: what was said, or the record of a service with typed input."""
    if story.chat is not None and story.chat.seen is not None:
        return [story.chat.seen]
    return story.items if story.arrival.read_chat is None else ()


def tries_of(story: Story, house: House) -> tuple[AttemptTrace, ...]:
    """Make the traces of a chat's tries at upstreams."""
    facts, served = story.chat, house.services.get(story.service)
    if facts is None or served is None:
        return ()
    release = served.find(story.release) or served.live
    upstreams = release.chat.description.upstreams if release.chat is not None else []
    call_us = 0
    for stage, took_us in story.stages_us:
        if stage == "call":
            break
        call_us += took_us
    return attempt_traces(
        facts,
        {one.name: endpoint_of(one.base_url) for one in upstreams},
        began_s=story.began_s,
        began_us=story.began_us,
        call_us=call_us,
    )
