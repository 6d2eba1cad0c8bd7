"""What the server process asks of a chat release's worker, and what it is told: JSON in, JSON out.

Input checks (normalisation, rules, the classifier, the user's own functions) and the user's output checks run in
workers: no text of a caller's can hold the event loop up, and a check that hangs costs a worker, not the server.
Both are jobs of the release's pool like any record: batched, on a clock, retried after a crash.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nightproof.base.errors import FieldError


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that a check found; never the text itself."""

    check: str
    """hidden_text, injection_rules, injection_model, personal, secrets, size, or the name of the user's function."""
    rule: str = ""
    """Which rule, kind or class, for example `ignore_instructions` or `iban`."""
    view: str = ""
    """In which form of the text: plain, folded, base64, …"""
    score: float = 0.0
    pointer: str = ""
    """JSON pointer into the request, for example `/messages/1/content`."""
    action: str = "flag"
    """What was done: refuse, flag, redact, bypassed."""


class InputTask(msgspec.Struct, tag="input", tag_field="task"):
    """Look at what came in, and make what the model will read of it."""

    messages: list[dict[str, Any]]
    """The caller's, in OpenAI's form, already of the right shape; of a typed service empty."""
    boundary: str
    """96 random bits in hex: what marks untrusted parts in this request."""
    record: msgspec.Raw = msgspec.Raw(b"null")
    """Of a typed service: its input."""
    tools: list[dict[str, Any]] = []


class InputVerdict(msgspec.Struct, omit_defaults=True):
    """What the checks say of an input."""

    failure: str = ""
    """Of the catalogue; empty where it may go on."""
    detail: str = ""
    errors: list[FieldError] = []
    findings: list[Finding] = []
    messages: list[dict[str, Any]] = []
    """To be sent: redacted where the service says so, untrusted parts marked. Without the system prompt."""
    redacted: dict[str, str] = {}
    """What became of each text that was redacted, by its JSON pointer: the record shows that in its place."""
    spotlight: str = ""
    """To be added below the system prompt where it is not empty: what this request's marks mean."""
    is_tainted: bool = False
    """The conversation holds untrusted content: documents or tool results."""
    bypassed: list[str] = []
    """Checks that gave no verdict and count as passed."""
    check_us: dict[str, int] = {}
    """Each check's own time."""
    tokens: int = 0
    """Estimate of what the messages cost, before the upstream says."""
    scores: dict[str, float] = {}
    """What each check that scores said of the user's last message, whether or not that was a finding."""


class OutputTask(msgspec.Struct, tag="output", tag_field="task"):
    """Look at a whole answer: parse it into the typed output, and ask the user's own checks."""

    messages: list[dict[str, Any]]
    text: str
    tool_calls: list[dict[str, Any]] = []
    record: msgspec.Raw = msgspec.Raw(b"null")


class OutputVerdict(msgspec.Struct, omit_defaults=True):
    """What they say of it."""

    failure: str = ""
    detail: str = ""
    errors: list[FieldError] = []
    findings: list[Finding] = []
    output: msgspec.Raw = msgspec.Raw(b"null")
    """Of a typed service: the answer as its output type writes it."""


ChatTask = InputTask | OutputTask
task_decoder = msgspec.json.Decoder(ChatTask)
task_encoder = msgspec.json.Encoder()
input_verdict_decoder = msgspec.json.Decoder(InputVerdict)
output_verdict_decoder = msgspec.json.Decoder(OutputVerdict)
