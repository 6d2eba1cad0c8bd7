"""What a chat adds to its record: numbers and names to the leaf, what was said and withheld to the sealed content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from nightproof.pipeline.chat_values import ChatFacts

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
