"""What the steps of a chat request hand on: what was asked, what a release answers with, what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from nightproof.watch.drift.prompts import PromptSeen
from nightproof.workers.upstream.values import Attempt, Usage

if TYPE_CHECKING:  # what these bring along is not loaded by a server without a chat service
    from nightproof.base.values import Caller
    from nightproof.checks.chat_tasks import Finding
    from nightproof.checks.leaving import CompiledRules
    from nightproof.checks.prompt_shadow import PromptShadow
    from nightproof.declare.chat_description import ChatDescription
    from nightproof.pipeline.house import ServedRelease, ServedService
    from nightproof.pipeline.story import Item
    from nightproof.pipeline.upstreams import Chain
    from nightproof.watch.drift.prompts import PromptSeen


class ChatAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A chat request as its protocol reads it: of the right shape, and nothing more."""

    service: str
    version: str = ""
    messages: list[dict[str, Any]]
    extras: dict[str, Any] = {}
    """What else is sent on, by the names of OpenAI's API: temperature, tools, response_format, …"""
    user: str = ""
    """Whom the conversation is with, where the caller says so."""
    is_streamed: bool = False
    wants_usage: bool = False
    """A streamed answer ends with its token counts."""
    has_images: bool = False


class ChatAnswer(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What may leave, as the reply's output: the protocol gives it its form."""

    content: str = ""
    tool_calls: list[dict[str, Any]] = []
    refusal: str = ""
    finish_reason: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    """As the upstream names what answered."""


class ChatRelease(msgspec.Struct, eq=False):
    """What a loaded release needs to answer chats, compiled once."""

    description: ChatDescription
    chain: Chain
    rules: CompiledRules
    shadow: PromptShadow
    canary: str = ""
    """What the prompt carries now and no answer may: drawn anew every minute, so that upstreams can keep the prompt."""
    canary_until_s: float = 0.0
    inside: int = 0
    """Exchanges that are with it now: it is not ended before they are."""

    def __enter__(self) -> None:
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


class ChatFacts(msgspec.Struct, eq=False):
    """What happened on the way of one exchange, for its record, its traces and the meters."""

    attempts: list[Attempt] = []
    findings: list[Finding] = []
    redacted: dict[int, dict[str, str]] = {}
    """By the item's place: what the model was to read in place of its texts, by their pointers."""
    usage: Usage | None = None
    cost: float = 0.0
    upstream: str = ""
    model: str = ""
    finish_reason: str = ""
    first_token_us: int = 0
    is_streamed: bool = False
    is_tainted: bool = False
    """It holds untrusted content: documents or tool results."""
    repairs: int = 0
    bypassed: list[str] = []
    """Checks that gave no verdict and counted as passed."""
    check_us: dict[str, int] = {}
    withheld: str = ""
    """What the upstream said and nobody was told."""
    approvals: list[str] = []
    """Of tool calls that were held back: what a person's yes is written as."""
    stream_us: int = 0
    """From the first token to the last; 0 of an answer that came whole."""
    is_refusal: bool = False
    """The model itself said no."""
    seen: PromptSeen | None = None
    """What the drift watch is shown of it; None of a record, and where the checks gave no verdict."""
    has_left: bool = False
    """A part of the answer is on its way to the caller."""


class ChatRequest(msgspec.Struct, eq=False, kw_only=True):
    """A chat request that may be admitted."""

    served: ServedService
    release: ServedRelease
    chat: ChatRelease
    caller: Caller
    item: Item
    deadline_s: float
    size_bytes: int
    boundary: str
    canary: str
    ask: ChatAsk
    approved: frozenset[str] = frozenset()
    messages: list[dict[str, Any]] = []
    """What the upstream is sent, once the checks have seen it; without the system prompt."""
    spotlight: str = ""
    """What the marks around untrusted parts mean, to be said below the system prompt."""
    record: msgspec.Raw = msgspec.Raw(b"null")
    """Of a typed service: its input."""


class Sink(Protocol):
    """Where a streamed answer leaves: given by the gateway, which knows the protocol."""

    async def open(self) -> None:
        """Send the head of the answer. Its record is durable by then."""

    async def text(self, piece: str) -> None:
        """Send a piece; waits while the caller does not read."""
