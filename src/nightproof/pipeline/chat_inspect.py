"""Between admit and call of a chat request: the release's workers look at what came in, and make what is sent of it.

One job holds all input checks: normalisation, rules, classifier, personal data and the user's own functions, on one
clock. A worker that dies or runs over gives no verdict, and no verdict is a no.
"""

from __future__ import annotations

import msgspec

from nightproof.base.clock import monotonic_s
from nightproof.base.fingerprint import fingerprint_of
from nightproof.checks.chat_tasks import (
    InputTask,
    InputVerdict,
    OutputTask,
    OutputVerdict,
    input_verdict_decoder,
    output_verdict_decoder,
    task_encoder,
)
from nightproof.pipeline.call import ask, take
from nightproof.pipeline.chat_values import ChatAnswer, ChatFacts, ChatRequest
from nightproof.pipeline.story import Item, Story
from nightproof.watch.drift.prompts import prompt_seen

_NO_VERDICT = frozenset(
    {"model_timeout", "model_crash", "model_error", "model_out_of_memory", "invalid_output"}
)
"""How a job can end without an answer: of a check that is no verdict, whatever happened to its worker."""


async def inspect(request: ChatRequest, story: Story) -> None:
    """Have the input looked at; the request has its messages afterwards, or its item a failure."""
    item, facts = request.item, facts_of(story)
    task = task_encoder.encode(
        InputTask(
            messages=request.ask.messages,
            boundary=request.boundary,
            record=request.record,
            tools=request.ask.extras.get("tools", []),
        )
    )
    written = await _run(task, request, item, "input checks")
    if written is None:
        return
    verdict: InputVerdict = input_verdict_decoder.decode(written)
    facts.is_tainted = verdict.is_tainted
    facts.bypassed, facts.check_us = verdict.bypassed, verdict.check_us
    facts.findings += verdict.findings
    if verdict.redacted:
        facts.redacted[item.place] = verdict.redacted
    if request.ask.messages:
        facts.seen = prompt_seen(
            request.ask.messages,
            scores=verdict.scores,
            checks_flagged=[finding.check for finding in verdict.findings],
            subject=item.subject,
        )
    request.messages, request.spotlight = verdict.messages, verdict.spotlight
    if verdict.failure:
        item.failure, item.detail, item.errors = verdict.failure, verdict.detail, verdict.errors
        return
    most = request.chat.description.max_input_tokens
    if 0 < most < verdict.tokens:
        item.failure = "oversized_request"
        item.detail = f"about {verdict.tokens} tokens; this service takes {most}"


async def look_over(request: ChatRequest, answer: ChatAnswer, story: Story) -> OutputVerdict | None:
    """Have a whole answer looked at by the user's checks and its type; None where they gave no verdict."""
    task = task_encoder.encode(
        OutputTask(
            messages=request.ask.messages,
            text=answer.content,
            tool_calls=answer.tool_calls,
            record=request.record,
        )
    )
    written = await _run(task, request, request.item, "output checks")
    if written is None:
        return None
    verdict: OutputVerdict = output_verdict_decoder.decode(written)
    facts_of(story).findings += verdict.findings
    request.item.findings = [*request.item.findings, *(finding.check for finding in verdict.findings)]
    return verdict


async def _run(task: bytes, request: ChatRequest, item: Item, what: str) -> bytes | None:
    """Have a worker do a task; None where the item has a failure in place of an answer."""
    release = request.release
    if not release.engine.is_ready() and not release.engine.has_hope():
        item.failure, item.detail = "model_unavailable", f"no worker is ready for the {what}"
        return None
    if release.poison and fingerprint_of(task) in release.poison:
        item.failure = "poison_input"
        item.detail = "This input ended two workers and is in quarantine."
        return None
    within_s = release.engine.description.predict_timeout_ms / 1_000
    kept = item.input
    jobs, outcomes = await ask(release, [task], min(request.deadline_s, monotonic_s() + 2 * within_s))
    take(item, jobs[0], outcomes[0])
    written, item.input, item.output = item.output, kept, b""
    if item.failure in _NO_VERDICT:
        item.failure, item.detail = "check_failed", f"{what}: {item.failure}"
    elif item.failure == "deadline_exceeded" and monotonic_s() < request.deadline_s:
        item.failure, item.detail = "check_failed", f"{what}: no worker was free in their time"
    if item.failure:
        return None
    try:
        msgspec.json.decode(written, type=msgspec.Raw)
    except msgspec.DecodeError:
        item.failure, item.detail = "check_failed", f"{what}: the worker's verdict cannot be read"
        return None
    return written


def facts_of(story: Story) -> ChatFacts:
    """Return the facts of a story that is a chat's."""
    if story.chat is None:
        raise RuntimeError("the story is no chat's")
    return story.chat
