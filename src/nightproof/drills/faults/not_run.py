"""Drills of the catalogue that are listed and not run on a service with a model, each with the reason."""

from __future__ import annotations

from nightproof.drills.drill import NotRun

_CHAT = "it needs a chat service; this one runs a model"


def _chat(name: str, group: str, breaks: str, *proves: str, frameworks: tuple[str, ...] = ()) -> NotRun:
    return NotRun(
        name=name,
        group=group,
        breaks=breaks,
        proves=proves,
        why=_CHAT,
        word="not applicable",
        frameworks=frameworks,
    )


DRILLS: list[NotRun] = [
    NotRun(
        name="internal_error",
        group="processes",
        breaks="an exception that nobody expected, in the server itself",
        proves=("internal_error",),
        why="no way from outside is known that ends in a fault of the server; each one that is found becomes a test",
    ),
    NotRun(
        name="reading_fails",
        group="monitoring",
        breaks="a part of the server cannot be asked for its state",
        proves=("watch_blind",),
        why="no way from outside is known that keeps a part from being asked without ending it",
    ),
    NotRun(
        name="read_only_state",
        group="dependencies",
        breaks="the state folder becomes read-only under the running server",
        proves=("audit_unavailable",),
        why="it takes root to mount a file system read-only; disk_full refuses the same writes",
    ),
    _chat("prompt_injection", "security", "instructions where data belongs", "injection_suspected",
          frameworks=("OWASP LLM01", "ATLAS AML.T0051")),
    _chat("hidden_text", "security", "text that nobody can see", "hidden_text", frameworks=("OWASP LLM01",)),
    _chat("personal_data", "security", "personal data and secrets in a prompt", "personal_data",
          frameworks=("OWASP LLM02",)),
    _chat("check_fails", "security", "a check that raises, or runs over its time", "check_failed", "check_bypassed"),
    _chat("tool_denied", "security", "a tool call that is not declared", "tool_denied", frameworks=("OWASP LLM06",)),
    _chat("token_budget", "load", "a key uses up its tokens", "budget_exceeded",
          frameworks=("OWASP LLM10", "ATLAS AML.T0034")),
    _chat("upstream_refused", "dependencies", "the upstream takes no connection", "upstream_unreachable",
          "upstream_down"),
    _chat("upstream_hangs", "dependencies", "the upstream never answers", "upstream_timeout"),
    _chat("upstream_429", "dependencies", "the upstream limits us", "upstream_limited"),
    _chat("upstream_500", "dependencies", "the upstream answers with errors", "upstream_error"),
    _chat("upstream_reset", "dependencies", "the upstream hangs up in the middle of an answer", "upstream_broken"),
    _chat("upstream_rejects", "dependencies", "the upstream says that the request is wrong", "upstream_rejected"),
    _chat("upstream_command_killed", "processes", "the program that serves the model is killed",
          "upstream_command_failed"),
]  # fmt: skip
