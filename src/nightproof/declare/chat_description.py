"""A chat service as data: what the server process knows of a release that answers with somebody's LLM.

Plain data, so it crosses process borders like the `Description` that carries it. The prompt, the upstreams with
their models and parameters, and the checks are part of the release: they canary and roll back with it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

CheckAction = Literal["refuse", "flag", "redact", "off"]
"""What is done with a finding: a typed no, a note in the record, the text taken out, nothing."""
WhenFails = Literal["closed", "open"]
"""What a check that gives no verdict in its time counts as: a refusal, or a pass that is counted and alerted."""
AfterUntrusted = Literal["allow", "approve", "refuse"]
"""What becomes of a tool call in a conversation that has read untrusted content."""


class UpstreamDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One place that answers: an OpenAI-compatible API, or a command that serves one."""

    name: str
    base_url: str
    """`http(s)://host[:port]/path`, without `/chat/completions`; of a command, `{port}` is its port."""
    model: str
    secret: str = ""
    """Where its key is: `env:NAME` or `file:PATH`; never the key itself. Empty: none is sent."""
    command: list[str] = []
    """Program and arguments that `serve` starts and supervises; `{port}` is a free port on loopback."""
    connect_ms: int = 2_000
    first_token_ms: int = 10_000
    idle_ms: int = 15_000
    total_ms: int = 60_000
    http2: bool = False
    proxy: str = ""
    """`http://host:port` that calls go through; none of the environment is used. HTTP/1.1 only."""
    private: bool = False
    """Its public name may come to an address of a private network."""
    max_in_flight: int = 256
    input_price: float = 0.0
    """Per million tokens, in the currency of the service's budget."""
    output_price: float = 0.0
    parameters: dict[str, Any] = {}
    """Sent to this upstream only, over the service's own."""


class ToolDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the service knows of a tool that callers declare."""

    name: str
    has_side_effect: bool = True
    after_untrusted: AfterUntrusted = "approve"
    parameters: dict[str, Any] | None = None
    """JSON Schema of its arguments, over the one that the request declares; None: the request's."""


class InputCheckDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One built-in check of what comes in."""

    action: CheckAction
    budget_ms: float = 50.0
    """Of a built-in check processor time, for each 16,384 characters begun; of an adapter time on the wall's clock."""
    when_fails: WhenFails = "closed"
    threshold: float = 0.0
    """Score from which it finds something; 0: the check's own, or the site's calibration."""
    adapter: str = ""
    """Of an adapter: `http://…` of a remote service, or `module:function` in the service's folder."""


class OutputRules(msgspec.Struct, frozen=True, kw_only=True):
    """What may leave, of every answer, streamed or not."""

    allowed_hosts: list[str] = []
    """Hosts that links and images may point to; `*.example.com` names all below. None: no link is live."""
    banned: list[str] = []
    """Regular expressions (RE2) that no answer may hold."""
    html: Literal["remove", "allow"] = "remove"
    bare_hosts: Literal["inert", "keep"] = "inert"
    """What becomes of `example.com` without a scheme, which some clients make a link of. Code holds many words that
    look like one (`user.id`): keep them where the client does not make links of plain text."""
    prompt_leak: Literal["withhold", "flag", "off"] = "withhold"
    """What is done when an answer repeats the system prompt."""
    sayable: list[str] = []
    """Passages of the system prompt that answers may repeat word for word, such as opening hours."""
    secrets: Literal["withhold", "redact", "flag", "off"] = "withhold"
    personal: Literal["withhold", "redact", "flag", "off"] = "flag"
    max_chars: int = 262_144
    hold_back_chars: int = 256
    """Most that is held back of a stream until it is known to be safe."""


class BudgetDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What callers and the service as a whole may use; 0: no limit."""

    tokens_per_minute: int = 0
    """Of each key."""
    tokens_per_day: int = 0
    """Of each key."""
    cost_per_day: float = 0.0
    """Of each key."""
    service_tokens_per_day: int = 0
    service_cost_per_day: float = 0.0


class ChatDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a service a chat service."""

    prompt: str
    """The system prompt: the operator's, never joined with anybody's text."""
    upstreams: list[UpstreamDescription]
    """In order of preference."""
    template: str = ""
    """Of a service with typed input: the user's message, with `{field}` for its fields."""
    is_typed: bool = False
    """It has a typed input and output, and answers records on the native route: its types hold for every caller."""
    repairs: int = 0
    """How often an answer that does not fit the output's schema is sent back with what is wrong."""
    parameters: dict[str, Any] = {}
    """Sent with every call; a caller's own come over those named in `caller_parameters` only."""
    caller_parameters: list[str] = []
    caller_system: Literal["as_user", "refuse"] = "as_user"
    """What becomes of a caller's system and developer messages: the prompt is the operator's, so they are sent as
    the user's own words, or refused."""
    images: bool = False
    """Whether image parts are passed on; they are refused otherwise."""
    max_prompt_bytes: int = 262_144
    max_input_tokens: int = 0
    """Estimated; 0: only the bytes are counted."""
    max_output_tokens: int = 4_096
    """Always sent as a limit, and a caller's is lowered to it."""
    hedge_ms: int = 0
    """With which delay a second upstream is asked as well, if the first has said nothing; 0: never."""
    retries_share: float = 0.1
    """Of first tries, that may be tried again."""
    spotlight: bool = True
    """Mark untrusted parts (documents, tool results) as data before the model reads them."""
    input_checks: dict[str, InputCheckDescription] = {}
    """Built-in checks by name: hidden_text, injection_rules, injection_model, personal, secrets, and adapters."""
    output: OutputRules = OutputRules()
    tools: list[ToolDescription] = []
    other_tools: AfterUntrusted = "approve"
    """For tools that the service does not name."""
    budget: BudgetDescription = BudgetDescription()
    currency: str = "USD"
    has_output_functions: bool = False
    """The user's own output checks: they see whole answers, so a stream is held until they have spoken."""
