"""Third and fourth step of a chat: have the chain answer, and judge what it says before anybody hears it.

Knows one release and one request; whether the answer leaves whole or in pieces is its conductors'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import orjson

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.checks.canary import prompt_with_canary
from nightproof.checks.chat_tasks import Finding
from nightproof.checks.leaving import OutputScanner
from nightproof.checks.leaving_json import scan_json
from nightproof.checks.tool_calls import canonical_arguments, judge_tools
from nightproof.pipeline.chat_inspect import facts_of, look_over
from nightproof.pipeline.chat_shape import fits_asked_schema
from nightproof.pipeline.chat_values import ChatAnswer, ChatRequest
from nightproof.pipeline.house import House
from nightproof.pipeline.story import Story
from nightproof.workers.upstream.values import Completion, UpstreamCall, UpstreamFault, Usage


class Looked(Protocol):
    """What was found in a text that has been looked at whole."""

    @property
    def stopped(self) -> str:
        """Why it may not leave; empty where it may."""

    @property
    def findings(self) -> list[Finding]:
        """Everything that was found."""


_encode = msgspec.json.Encoder().encode
_CHARS_PER_TOKEN = 4
_ERRORS_TOLD = 10


async def ask_upstream(request: ChatRequest, story: Story, house: House) -> None:
    """Have the request's release answer, and judge what it says; the item has an output or a failure then.

    An answer that does not fit its schema is sent back with what is wrong, as often as the service says.
    """
    item, repairs_left = request.item, request.chat.description.repairs
    call = call_of(request, story)
    while True:
        completion = await complete(call, request, story, house)
        story.mark("call" if not facts_of(story).repairs else "repair")
        answer = None if completion is None else judge_whole(completion, request, story, house)
        if answer is None:
            return
        fitting = await judge_further(answer, request, story)
        if fitting is not None:
            item.output = _encode(fitting)
            remember_good(request)
            return
        if item.failure != "invalid_output" or not repairs_left:
            return
        repairs_left -= 1  # its own: the records of a list do not use up each other's
        call = _repaired(call, answer, request, story)


def _repaired(call: UpstreamCall, answer: ChatAnswer, request: ChatRequest, story: Story) -> UpstreamCall:
    """Send an answer back with what is wrong in it."""
    item = request.item
    told = "; ".join(f"{error.pointer or '/'}: {error.detail}" for error in item.errors[:_ERRORS_TOLD])
    facts_of(story).repairs += 1
    story.decisions.append("repair: the answer did not fit its schema")
    item.failure, item.detail, item.errors = "", "", ()
    return msgspec.structs.replace(
        call,
        messages=[
            *call.messages,
            {"role": "assistant", "content": answer.content},
            {
                "role": "user",
                "content": f"This does not fit the schema: {told or item.detail}. Answer again, with the JSON alone.",
            },
        ],
        attempts=[],
    )


def remember_good(request: ChatRequest) -> None:
    """Keep a good answer for the next time that the same is asked and nobody answers."""
    kept = request.release.last_good
    if kept is not None:
        kept.keep(question_of(request), request.item.output, now=monotonic_s())


def question_of(request: ChatRequest) -> bytes:
    """Return what makes two questions the same: not that one of them is streamed."""
    asked = [request.ask.messages, request.ask.extras, orjson.Fragment(bytes(request.record))]
    return orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)


async def complete(call: UpstreamCall, request: ChatRequest, story: Story, house: House) -> Completion | None:
    """Ask the chain; None where no upstream answered and the item says why."""
    item, facts = request.item, facts_of(story)
    try:
        completion = await request.chat.chain.complete(call)
    except UpstreamFault as fault:
        item.failure, item.detail = fault.failure, fault.detail
        return None
    finally:
        facts.attempts += call.attempts
        call.attempts = []
    facts.upstream, facts.model = completion.upstream, completion.model
    facts.finish_reason = completion.finish_reason
    count_usage(completion.usage, request, story, house)
    return completion


def call_of(request: ChatRequest, story: Story) -> UpstreamCall:
    """Make what is sent: the operator's prompt with the canary, then the caller's messages as the checks left them."""
    chat, arrival = request.chat.description, story.arrival
    messages = request.messages
    if chat.prompt:
        prompt = prompt_with_canary(chat.prompt, request.canary)
        content = f"{prompt}\n\n{request.spotlight}" if request.spotlight else prompt
        system = {"role": "system", "content": content}
        messages = [system, *messages]
    extras: dict[str, Any] = {**chat.parameters, **request.ask.extras}
    asked = extras.pop("max_completion_tokens", None) or extras.pop("max_tokens", None)
    most = chat.max_output_tokens
    extras["max_tokens"] = min(asked, most) if isinstance(asked, int) else most
    return UpstreamCall(
        messages=messages,
        extras=extras,
        deadline_s=request.deadline_s,
        request_id=arrival.id,
        traceparent="",
        attempts=[],
    )


def scanner_of(request: ChatRequest) -> OutputScanner:
    """Return what looks at one answer, or one part of it, as it leaves."""
    return OutputScanner(request.chat.rules, canary=request.canary, prompt=request.chat.shadow)


def judge_whole(
    completion: Completion, request: ChatRequest, story: Story, house: House
) -> ChatAnswer | None:
    """Let what may leave of a whole answer leave; None where it is withheld and the item says why."""
    looked = []
    texts = ["", ""]
    for place, text in enumerate((completion.text, completion.refusal)):
        if text:
            texts[place], found = _scanned(text, request, is_json=not place and is_json_asked(request))
            looked.append(found)
    answer = ChatAnswer(
        content=texts[0],
        refusal=texts[1],
        tool_calls=completion.tool_calls,
        finish_reason=completion.finish_reason,
        input_tokens=completion.usage.input_tokens,
        output_tokens=completion.usage.output_tokens,
        model=completion.model,
    )
    if not may_leave(answer, looked, request, story, house):
        facts_of(story).withheld = completion.text or orjson.dumps(completion.tool_calls).decode()
        return None
    return answer


def _scanned(text: str, request: ChatRequest, *, is_json: bool) -> tuple[str, Looked]:
    """Return what may leave of a whole text, and what was found; of JSON by what it means, not how it is written."""
    if is_json and (found := scan_json(text, lambda: scanner_of(request))) is not None:
        return found.text, found
    scanner = scanner_of(request)
    return scanner.feed(text) + scanner.end(), scanner


def may_leave(
    answer: ChatAnswer, looked: Sequence[Looked], request: ChatRequest, story: Story, house: House
) -> bool:
    """Judge an answer whose texts have been scanned: stopped, empty, or with tools that may not be called.

    The same for streamed and whole answers: it is asked once all of it is there.
    """
    item, facts = request.item, facts_of(story)
    facts.is_refusal = bool(answer.refusal)
    for scanner in looked:
        # That a part is empty is no finding: there may be a tool call, or a refusal, in place of a text.
        found = [finding for finding in scanner.findings if finding.check != "empty"]
        facts.findings += found
        item.findings = [*item.findings, *(finding.check for finding in found)]
        if scanner.stopped:
            item.failure, item.detail = "unsafe_output", scanner.stopped
            return False
    if answer.tool_calls:
        return _may_call(answer, request, story, house)
    if not (answer.content.strip() or answer.refusal):
        item.failure, item.detail = "invalid_output", "the answer is empty"
        return False
    if answer.finish_reason == "length":
        item.findings = [*item.findings, "truncated"]
    return True


def _may_call(answer: ChatAnswer, request: ChatRequest, story: Story, house: House) -> bool:
    item, facts, chat = request.item, facts_of(story), request.chat.description
    verdict = judge_tools(
        answer.tool_calls,
        request.ask.extras.get("tools", []),
        chat.tools,
        chat.other_tools,
        is_tainted=facts.is_tainted,
        approved=lambda name, arguments: approval_of(name, arguments, story, house) in request.approved,
        scanner=lambda: scanner_of(request),
    )
    facts.findings += verdict.findings
    item.findings = [*item.findings, *(finding.check for finding in verdict.findings)]
    if verdict.denied:
        place, name, why = verdict.denied[0]
        item.failure, item.detail = "tool_denied", f"call {place} of {name}: {why}"
        return False
    if verdict.needs_approval:
        place, name, why = verdict.needs_approval[0]
        item.failure, item.detail = "tool_denied", f"call {place} of {name}: {why}"
        facts.approvals = [
            approval_of(
                answer.tool_calls[at]["function"]["name"],
                canonical_arguments(answer.tool_calls[at]),
                story,
                house,
            )
            for at, _, _ in verdict.needs_approval
        ]
        return False
    return True


def approval_of(name: str, arguments: bytes, story: Story, house: House) -> str:
    """Return what a person's yes to one tool call with these very arguments is written as, for this caller."""
    key_id = story.caller.key_id if story.caller else ""
    scope = f"approve\0{key_id}\0{story.service}\0{name}\0".encode()
    return house.vault.mac(scope + hashlib.sha256(arguments).digest())[:16].hex()


async def judge_further(answer: ChatAnswer, request: ChatRequest, story: Story) -> ChatAnswer | None:
    """Hold a whole answer against the schema that was asked for, its type, and the user's own checks.

    Returns it as it may leave: of a typed service as its type writes it. None where the item says what is wrong.
    """
    item, chat = request.item, request.chat.description
    asked = request.ask.extras.get("response_format")
    is_text = not answer.tool_calls and not answer.refusal
    if asked is not None and is_text and (wrong := fits_asked_schema(answer.content, asked)):
        item.failure, item.detail = "invalid_output", wrong
    elif (chat.is_typed and is_text) or chat.has_output_functions:
        verdict = await look_over(request, answer, story)
        if verdict is not None and verdict.failure:
            item.failure, item.detail, item.errors = verdict.failure, verdict.detail, verdict.errors
        elif verdict is not None and chat.is_typed and is_text:
            answer = msgspec.structs.replace(answer, content=bytes(verdict.output).decode())
    if item.failure:
        facts_of(story).withheld = answer.content
        return None
    return answer


def is_held_whole(request: ChatRequest) -> bool:
    """Say whether an answer can only be judged once all of it is there, so that a stream is held until then."""
    return request.chat.description.has_output_functions or is_json_asked(request)


def is_json_asked(request: ChatRequest) -> bool:
    """Say whether the answer is to be read as JSON."""
    asked = request.ask.extras.get("response_format") or {}
    return request.chat.description.is_typed or asked.get("type", "text") != "text"


def count_usage(usage: Usage, request: ChatRequest, story: Story, house: House) -> None:
    """Count what a call has cost, for the record and the budgets; several calls of one exchange add up."""
    facts, chat = facts_of(story), request.chat.description
    upstream = next((one for one in chat.upstreams if one.name == facts.upstream), chat.upstreams[0])
    cost = (
        usage.input_tokens * upstream.input_price + usage.output_tokens * upstream.output_price
    ) / 1_000_000
    before = facts.usage or Usage(0, 0)
    facts.usage = Usage(
        before.input_tokens + usage.input_tokens,
        before.output_tokens + usage.output_tokens,
        before.is_estimated or usage.is_estimated,
    )
    facts.cost += cost
    house.budgets.count(
        story.service,
        request.caller.key_id,
        tokens=usage.input_tokens + usage.output_tokens,
        cost=cost,
        at_us=utc_us(),
    )


def estimated(request: ChatRequest, output_chars: int) -> Usage:
    """Estimate what a call has cost whose upstream never said."""
    sent = sum(len(str(message.get("content") or "")) for message in request.messages)
    sent += len(request.chat.description.prompt)
    return Usage(sent // _CHARS_PER_TOKEN + 1, output_chars // _CHARS_PER_TOKEN, is_estimated=True)
