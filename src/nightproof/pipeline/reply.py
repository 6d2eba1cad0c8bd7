"""Last step: the only place that shapes what a caller is told. Protocols give it bytes, nothing more."""

from __future__ import annotations

import msgspec

from nightproof.base.failures import CATALOGUE
from nightproof.base.values import ItemReply, Reply
from nightproof.pipeline.story import Item, Story

_WITHHELD = {
    "invalid_output": "The model's answer did not fit the service's schema and was withheld.",
    "unsafe_output": "A check of the service withheld the model's answer.",
    "low_confidence": "The model was not sure enough and no fallback was left.",
    "model_timeout": "The model did not answer in its time.",
    "model_crash": "The model's process ended while it held this record.",
    "model_error": "The model, or a check of the service, raised an exception.",
    "model_out_of_memory": "The model ran out of memory on this record.",
    "model_unavailable": "No worker of the service is ready.",
    "deadline_exceeded": "The deadline passed before an answer was ready.",
    "shutting_down": "The server stopped before an answer was ready.",
    "injection_suspected": "A check of the service took a part of the input for instructions to the model.",
    "hidden_text": "The text holds characters that nobody can see and the model would read.",
    "personal_data": "The input holds personal data or a secret, which this service does not pass on.",
    "check_failed": "A check of the service gave no verdict, so nothing went in or out.",
    "budget_exceeded": "The budget of tokens or cost is used up.",
    "upstream_unreachable": "The upstream that answers for this service cannot be reached.",
    "upstream_timeout": "The upstream that answers for this service did not answer in its time.",
    "upstream_limited": "The upstream that answers for this service takes no more calls for now.",
    "upstream_error": "The upstream that answers for this service failed.",
    "upstream_broken": "The upstream's answer broke off or was malformed, and was withheld.",
    "upstream_rejected": "The upstream that answers for this service does not take this request.",
    "tool_denied": "The model called a tool that it may not call here; the call was withheld.",
}
_HINTS = {
    "deadline_exceeded": "Retry, or allow more time with x-request-timeout-ms.",
    "model_unavailable": "Retry in a moment; the operator is told.",
    "hidden_text": "Send the text without tag, bidirectional and zero-width characters.",
    "personal_data": "Leave it out, or put a placeholder in its place.",
    "check_failed": "Retry in a moment; the operator is told.",
    "budget_exceeded": "Retry after the given delay; ask the operator for a larger budget.",
    "upstream_unreachable": "Retry in a moment; the operator is told.",
    "upstream_timeout": "Retry, or ask for less: a shorter prompt, fewer tokens.",
    "upstream_limited": "Retry after the given delay.",
    "upstream_error": "Retry in a moment; the operator is told.",
    "upstream_broken": "Retry: nothing of the answer counts.",
    "upstream_rejected": "Look at length, parameters, tools and images; the same request is refused again.",
}


def reply_of(story: Story) -> Reply:
    """Turn a finished story into the reply to its caller."""
    if story.replay is not None:
        return msgspec.structs.replace(story.replay, replayed=True, stages_us=story.stages_us)
    reply = Reply(
        id=story.arrival.id,
        service=story.service,
        release=story.release,
        ending=story.ending,
        many=story.many,
        failure=story.failure,
        stages_us=story.stages_us,
    )
    if story.fault is not None:
        fault = story.fault
        reply.status, reply.detail, reply.hint = fault.status, fault.text, fault.hint
        reply.errors, reply.retry_after_s = list(fault.errors), fault.retry_after_s
    else:
        reply.items = [_item_reply(item) for item in story.items]
        if story.ending in ("refused", "failed"):
            first = next(item for item in story.items if item.failure == story.failure)
            reply.detail = _told(first)
            reply.hint = _HINTS.get(story.failure, "")
            reply.errors = story.errors_told(first)
    if not reply.retry_after_s and reply.failure and CATALOGUE[reply.failure].retryable:
        reply.retry_after_s = 1.0
    return reply


def _item_reply(item: Item) -> ItemReply:
    if item.failure:
        return ItemReply(failure=item.failure, detail=_told(item), errors=list(item.errors))
    return ItemReply(output=msgspec.Raw(item.output), degraded=item.degraded)


def _told(item: Item) -> str:
    """Say what happened to a record; a worker's own words stay inside, since user code may have written them."""
    return _WITHHELD.get(item.failure) or CATALOGUE[item.failure].title + "."
