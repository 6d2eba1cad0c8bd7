"""Estimate what a text costs in tokens, before an upstream says. No tokenizer: models differ, and loading one costs."""

from __future__ import annotations

from typing import Any

MESSAGE_TOKENS = 4
"""What each message costs beside its text."""
IMAGE_TOKENS = 800

_WRITTEN = bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("A"), ord("Z") + 1)) + b" \t\r\n"


def estimate(text: str) -> int:
    """Return about how many tokens a text is: four letters to one, two of anything else.

    >>> estimate("the quick brown fox jumps over the lazy dog")
    11
    """
    written = text.encode("utf-8", "surrogatepass")
    odd = len(written.translate(None, _WRITTEN))
    return (len(written) - odd + 3) // 4 + (odd + 1) // 2


def of_messages(messages: list[dict[str, Any]]) -> int:
    """Return about what these messages cost, in OpenAI's form; shapes that are none cost nothing."""
    total = 0
    for message in messages:
        total += MESSAGE_TOKENS
        content = message.get("content")
        if isinstance(content, str):
            total += estimate(content)
        elif isinstance(content, list):
            for part in content:
                text = part.get("text")
                total += estimate(text) if isinstance(text, str) else IMAGE_TOKENS
        for call in message.get("tool_calls") or ():
            total += estimate(str(call.get("function", ""))) + MESSAGE_TOKENS
    return total
