"""What is asked of an upstream and what it answers, whatever its transport and its quirks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call. Where the upstream says nothing that can be true, it is our own estimate."""

    input_tokens: int
    output_tokens: int
    is_estimated: bool = False


class Attempt(msgspec.Struct, frozen=True):
    """One try at one upstream, for the record and the meters."""

    upstream: str
    model: str
    failure: str = ""
    """Empty: it answered."""
    detail: str = ""
    """Kinds and numbers only: a status, a class of error; never what the upstream wrote."""
    duration_us: int = 0
    first_token_us: int = 0
    is_given_up: bool = False
    """It neither answered nor failed: its caller went, or another upstream was quicker."""
    began_s: float = 0.0
    """On the monotonic clock; 0 where nobody noted it."""
    is_hedge: bool = False
    """It was asked beside another one that had said nothing yet."""


class UpstreamCall(msgspec.Struct, eq=False, kw_only=True):
    """One request to be sent. Its model, and parameters of the upstream's own, are put in by the upstream."""

    messages: list[dict[str, Any]]
    extras: dict[str, Any]
    """Everything else of the body: temperature, tools, response_format, max_tokens, …"""
    deadline_s: float
    """On the monotonic clock: nobody waits beyond it, whatever the upstream's own clocks allow."""
    request_id: str = ""
    traceparent: str = ""
    attempts: list[Attempt] = []
    """Filled on the way."""


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of a streamed answer."""

    text: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    """As the protocol streams them: `index`, and pieces of `id`, `function.name`, `function.arguments`."""
    refusal: str = ""
    finish_reason: str = ""
    usage: Usage | None = None


class Completion(msgspec.Struct, kw_only=True):
    """A whole answer."""

    text: str = ""
    tool_calls: list[dict[str, Any]] = []
    refusal: str = ""
    finish_reason: str = "stop"
    usage: Usage = Usage(0, 0, is_estimated=True)
    upstream: str = ""
    model: str = ""
    """As the upstream names what answered."""


class UpstreamFault(Exception):
    """A call did not end in a whole answer; `failure` is the catalogue's name of why."""

    def __init__(
        self,
        failure: str,
        detail: str,
        *,
        status: int = 0,
        retry_after_s: float = 0.0,
        has_begun: bool = False,
        was_cut: bool = False,
    ) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure = failure
        self.detail = detail
        self.status = status
        """What the upstream answered; 0 where it did not."""
        self.retry_after_s = retry_after_s
        self.has_begun = has_begun
        """A part of the answer had come: another upstream may not go on in its place."""
        self.was_cut = was_cut
        """The time was over that this call had, not the upstream's own clock."""


class StreamedAnswer(Protocol):
    """An answer that has begun: its first piece is there, so there is no failing over any more."""

    @property
    def upstream(self) -> str:
        """Who answers, by its declared name."""

    @property
    def model(self) -> str:
        """As the upstream names what answers."""

    def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield the pieces; the last has a finish_reason. Raises UpstreamFault where it breaks or stalls."""

    async def aclose(self) -> None:
        """Drop the call: the upstream sees the connection close. Never raises."""
