"""First step of a chat request: know the caller, read what is asked, find the release that answers.

The same gates in the same order as for a record, but for one: the service's name is in the body (`model`), so the
body is read before the service is known. What the text says is not looked at here; that is the checks' (`inspect`).
"""

from __future__ import annotations

import asyncio
import os

from nightproof.base import strictjson
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import FieldError, Refusal
from nightproof.base.values import Caller
from nightproof.checks.canary import draw_canary
from nightproof.declare.chat_description import ChatDescription
from nightproof.pipeline.accept import (
    claim_key,
    deadline_of,
    find_service,
    identify,
    refusal_of_json,
    refuse_if_closed,
)
from nightproof.pipeline.chat_values import ChatAsk, ChatFacts, ChatRelease, ChatRequest
from nightproof.pipeline.choose import choose, choose_by_subject
from nightproof.pipeline.house import House, ServedRelease, ServedService
from nightproof.pipeline.story import Item, Story

_CANARY_BYTES = 10
_CANARY_S = 60.0
_ALWAYS_TAKEN = frozenset({"max_tokens", "max_completion_tokens"})
"""A caller may always ask for less."""


async def accept_chat(story: Story, house: House) -> ChatRequest:
    """Take a chat request in. The story knows caller, service, release and body afterwards, as far as it came."""
    arrival = story.arrival
    caller = identify(story, house)
    if arrival.fault is not None:
        raise arrival.fault
    refuse_if_closed(story, house)
    body = await arrival.read_body(house.settings.receiving.body_bytes)
    story.body = body
    ask = await _read(body, story)
    arrival.service, arrival.version = ask.service, ask.version
    served = find_service(story, house, caller)
    story.deadline_s = deadline_of(story, served)
    subject = house.vault.pseudonym(ask.user) if ask.user else b""
    release = _release(served, story, caller, subject)
    chat = chat_of(release, story)
    _refuse_beyond(ask, chat.description, len(body))
    if arrival.idempotency_key:
        await claim_key(story, house, caller)
    item = Item(0, body, findings=[], subject=subject)
    if story.replay is None:  # a repeated reply is the first record's, with all that belongs to it
        story.items = [item]
        story.chat = ChatFacts(attempts=[], findings=[], is_streamed=ask.is_streamed)
    return ChatRequest(
        served=served,
        release=release,
        chat=chat,
        caller=caller,
        item=item,
        deadline_s=story.deadline_s,
        size_bytes=len(body),
        boundary=boundary_of(body, house),
        canary=canary_of(chat),
        ask=ask,
        approved=arrival.approved,
    )


def chat_of(release: ServedRelease, story: Story) -> ChatRelease:
    """Return what the release answers chats with. Raises Refusal where it answers records."""
    if release.chat is None or release.chat.description.is_typed:
        raise Refusal(
            f"Service {story.service!r} answers records, not chats.",
            failure="unknown_service",
            hint=f"Send its record to POST /services/{story.service}/predict.",
        )
    return release.chat


def canary_of(chat: ChatRelease) -> str:
    """Return the canary of this minute. To make what finds it costs more than the rest of an exchange."""
    now = monotonic_s()
    if now >= chat.canary_until_s:
        chat.canary, chat.canary_until_s = draw_canary(os.urandom(_CANARY_BYTES)), now + _CANARY_S
    return chat.canary


def boundary_of(body: bytes, house: House) -> str:
    """Return what marks untrusted parts in this request: nobody can know it who has a part in the body.

    Keyed, and of the body, so that the same request makes the same task: a prompt that ends workers is known again.
    """
    return house.vault.mac(b"boundary\0" + body)[:12].hex()


async def _read(body: bytes, story: Story) -> ChatAsk:
    read = story.arrival.read_chat
    if read is None:
        raise RuntimeError("a chat request came by a protocol that does not read chats")
    try:
        if strictjson.is_large(body):
            return await asyncio.to_thread(read, body)
        return read(body)
    except strictjson.JsonRefused as error:
        raise refusal_of_json(error) from None


def _release(served: ServedService, story: Story, caller: Caller, subject: bytes) -> ServedRelease:
    if served.split is None and not story.arrival.version:
        return served.live
    release = choose(served, story, caller)
    if not story.arrival.version and served.split is not None and served.split.unit == "subject":
        return choose_by_subject(served, story, subject)
    return release


def _refuse_beyond(ask: ChatAsk, chat: ChatDescription, size_bytes: int) -> None:
    """Refuse what this release does not take, whatever the protocol knows."""
    if size_bytes > chat.max_prompt_bytes:
        raise Refusal(
            f"The request has {size_bytes} bytes; this service takes {chat.max_prompt_bytes}.",
            failure="oversized_request",
            hint="Send a shorter conversation.",
        )
    if ask.has_images and not chat.images:
        raise Refusal(
            "This service takes no images.",
            failure="invalid_input",
            hint="Send text only.",
            errors=[FieldError("/messages", "holds an image", "image")],
        )
    fixed = [name for name in ask.extras if name not in chat.caller_parameters and name not in _ALWAYS_TAKEN]
    if fixed:
        raise Refusal(
            f"The release of this service sets {', '.join(sorted(fixed))}; callers do not.",
            failure="malformed_request",
            hint="Leave it out.",
            errors=[FieldError(f"/{name}", "is not the caller's to set", "fixed") for name in sorted(fixed)],
        )
