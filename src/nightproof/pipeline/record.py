"""Fifth step: one record, durable, then the counters. The single writer of both.

Every ending of every request comes through here exactly once. Refusals that anyone can send in masses
(no valid key, shed, over quota) are counted into shared summaries, so that the log does not grow with
an attack; everything else has its own entry, and nobody is answered before it is on the disk.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from nightproof.audit.ledger import AuditOutcomeUnknown, AuditUnavailable
from nightproof.audit.record import Entry, make_entry
from nightproof.audit.vault import Part
from nightproof.base.errors import Fault, Refusal
from nightproof.base.failures import CATALOGUE
from nightproof.base.values import Reply
from nightproof.pipeline.chat_record import chat_content, chat_facts, rows_of, tries_of
from nightproof.pipeline.house import House
from nightproof.pipeline.reply import reply_of
from nightproof.pipeline.story import Item, Story
from nightproof.watch.log import Sparing
from nightproof.watch.telemetry import ItemTrace, Queue, Trace

if TYPE_CHECKING:
    from nightproof.pipeline.chat_values import ChatFacts

WHOLE = "content"
"""The content's one part: `{"items":[{"input","output"}],"reply",…}`."""
REST = "rest"
"""Of content split by subject: what belongs to no single record. The records are the parts `items/<place>`."""
_KEPT_BODY_BYTES = 64 * 1024
_MOST_SUMMARY_KEYS = 10_000
_MOST_TRACED = 16
"""Records of a list that have spans of their own."""
_DETAIL_IS_OURS = frozenset({"model_error", "model_out_of_memory", "invalid_output"})
"""Failures whose detail is a kind and a place, or words of the schema; others may quote the service's author."""
_failures = Sparing()
_reply_encoder = msgspec.json.Encoder()


async def record(story: Story, house: House) -> None:
    """Make the story's entry durable and count it. A story that cannot be recorded ends by that failure."""
    if _is_shared(story):
        count_shed(
            house, story.failure, story.service, story.caller.key_id if story.caller else story.arrival.client
        )
    else:
        try:
            await _keep(story, house)
        except (AuditUnavailable, AuditOutcomeUnknown) as fault:
            if house.starting and story.failure == "model_unavailable":
                # The log is not open yet, and nothing is answered: counted, it is told for what it is.
                count_shed(house, story.failure, story.service, story.caller.key_id if story.caller else "")
            else:
                _end_unrecorded(story, house, fault)
    _finish(story, house)


async def _keep(story: Story, house: House) -> None:
    """Make the entry durable in the ledger; of a service that says so, in the spill where the ledger says no."""
    entry = entry_of(story, house)
    spill = house.spill
    may_spill = spill is not None and story.service in house.spilling_services and not story.idem
    if may_spill and not house.ledger.should_try:
        await _keep_beside(entry, story, house)
        return
    story.appended = house.ledger.append(entry, others=house.limiter.in_flight)
    try:
        # An idempotency key is held until the entry can be found, even if its caller leaves meanwhile.
        await (asyncio.shield(story.appended) if story.idem else story.appended)
    except AuditUnavailable:
        if not may_spill:
            raise
        await _keep_beside(entry, story, house)


async def _keep_beside(entry: Entry, story: Story, house: House) -> None:
    """Make the entry durable in the spill. A caller who leaves does not stop it: it is written, and counts, once."""
    written = asyncio.ensure_future(house.spill.append(entry))  # type: ignore[union-attr]
    story.appended = written
    try:
        await asyncio.shield(written)
    except asyncio.CancelledError:
        if not written.done():
            service = story.service
            written.add_done_callback(lambda done: _count_failed(done, house, "audit_unavailable", service))
        raise


def record_abandoned(story: Story, house: House) -> None:
    """Record a request whose caller has left. Nobody waits for the entry, so nobody awaits it here."""
    if story.appended is not None:
        _finish_without_its_caller(story, house, story.appended)
        return
    cut_by = story.arrival.cut_by()
    if cut_by is not None:
        story.end_by(Refusal("The request took too long to arrive.", failure=cut_by))
    else:
        story.end_by(
            Refusal("The caller closed the connection before the answer was ready.", failure="caller_gone")
        )
        story.ending = "abandoned"
    if story.caller is None:
        count_shed(house, story.failure, story.service, story.arrival.client)
    else:
        # Cancelled, it is recorded all the same: only the waiting is off. A ledger that is closed says no at once.
        if not house.ledger.append(entry_of(story, house)).cancel():
            count_shed(house, "audit_unavailable", story.service, "")
    _finish(story, house)


def _end_unrecorded(story: Story, house: House, fault: Fault) -> None:
    """End a story by its ledger's fault: no answer goes out unrecorded, whatever it was."""
    story.items = []
    story.end_by(fault)
    story.ending = "failed"
    _count_lost(fault, house, story.failure, story.service)


def _count_lost(fault: BaseException, house: House, failure: str, service: str) -> None:
    """Count what is not in the log. What may arrive there yet would stand in the books twice: it is waited for."""
    later = fault.later if isinstance(fault, AuditOutcomeUnknown) else None
    if later is None:
        count_shed(house, failure, service, "")
    else:
        later.add_done_callback(lambda done: _count_failed(done, house, failure, service))


def _count_failed(done: asyncio.Future[Any], house: House, failure: str, service: str) -> None:
    """Count an entry that failed with nobody waiting."""
    if not done.cancelled() and (fault := done.exception()) is not None:
        _count_lost(fault, house, failure, service)


def _finish_without_its_caller(story: Story, house: House, appended: asyncio.Future[Any]) -> None:
    """Finish a story whose caller left while the record was on its way: the ending is the recorded one."""
    if appended.done():
        fault = None if appended.cancelled() else appended.exception()
        if isinstance(fault, Fault):
            _end_unrecorded(story, house, fault)
    elif story.idem:
        idem, story.idem = story.idem, b""
        appended.add_done_callback(lambda done: _let_go(done, idem, house))
    _finish(story, house)


def _let_go(done: asyncio.Future[int], idem: bytes, house: House) -> None:
    """Free an idempotency key once the entry is durable; count an entry that failed with nobody waiting."""
    house.running_keys.discard(idem)
    _count_failed(done, house, "audit_unavailable", "")


def _finish(story: Story, house: House) -> None:
    story.mark("record")
    if story.ending != "answered" and story.items:
        _log_failures(story)
    house.running_keys.discard(story.idem)
    house.meters.count_story(
        service=story.counted_as or story.service,
        release=story.release,
        ending=story.ending,
        failure=story.failure,
        duration_s=story.marked_s - story.began_s,
        stages_us=story.stages_us,
        items=story.items,
    )
    if story.chat is not None and story.caller is not None:
        chat = story.chat
        house.meters.chat.count_chat(story.service, chat, is_refusal=chat.is_refusal)
    if story.watcher is not None:
        story.watcher.seen(story)
    if house.traces is not None:
        _trace(story, house.traces, house)
    if house.drift is not None and story.items and story.caller is not None:
        seen = story.items if story.chat is None else rows_of(story)
        house.drift.take(story.service, story.release, seen, story.caller.key_id)


def _trace(story: Story, traces: Queue, house: House) -> None:
    """Let the request be traced: names, ids and times, if the second's budget has room for it."""
    arrival, context = story.arrival, story.arrival.context
    trace_id = arrival.trace_id or arrival.id.replace("-", "0")
    sampled = None if context is None else context.sampled
    if not traces.wants(
        trace_id, parent_sampled=sampled, answered=story.ending == "answered", now=story.marked_s
    ):
        return
    items = [
        ItemTrace(
            item.queue_us, item.predict_us, item.batch_size, item.worker_pid, item.handed_s, item.attempts,
            item.failure,
        )
        for item in story.items[:_MOST_TRACED]
    ]  # fmt: skip
    traces.put(
        Trace(
            id=arrival.id,
            trace_id=trace_id,
            parent_id="" if context is None else context.parent_id,
            state="" if context is None else context.state,
            service=story.service,
            release=story.release,
            protocol=arrival.protocol,
            ending=story.ending,
            failure=story.failure,
            began_us=story.began_us,
            duration_us=int((story.marked_s - story.began_s) * 1e6),
            stages_us=tuple(story.stages_us),
            items=tuple(items),
            records=len(story.items),
            attempts=() if story.chat is None else tries_of(story, house),
        )
    )


def _log_failures(story: Story) -> None:
    """Log what our side could not answer, or only by a fallback: names, kinds and places, never content."""
    for item in story.items:
        failure = item.failure or (item.degraded.failure if item.degraded is not None else "")
        if failure and CATALOGUE[failure].statuses[0] >= 500:
            _failures.log(
                "request_failed" if item.failure else "request_degraded",
                (story.service, failure),
                now=story.marked_s,
                id=story.arrival.id,
                service=story.service,
                release=story.release,
                failure=failure,
                detail=item.detail if failure in _DETAIL_IS_OURS else "",
            )
            return


def _is_shared(story: Story) -> bool:
    """Say whether the ending shares a summary: the caller is unknown, or it was shed before admission."""
    if story.caller is None:
        return True
    if story.admitted or not story.failure:
        return False
    # What is refused for want of space must not use it up.
    return CATALOGUE[story.failure].shed or story.failure == "audit_unavailable"


def count_shed(house: House, failure: str, service: str, whose: str) -> None:
    """Count an ending into the next summary entry; the number of distinct lines is bounded."""
    line = (failure, service, whose)
    if line not in house.summaries and len(house.summaries) >= _MOST_SUMMARY_KEYS:
        line = (failure, service, "others")
    house.summaries[line] += 1


def entry_of(story: Story, house: House) -> Entry:
    """Build the ledger entry of a story: a small leaf, and the sealed content apart."""
    arrival = story.arrival
    reply = reply_of(story) if story.idem and _is_final(story) else None
    key_id = story.caller.key_id if story.caller else ""
    facts: dict[str, Any] = {
        "service": story.service,
        "release": story.release,
        "protocol": arrival.protocol,
        "key": key_id,
        "ending": story.ending,
        "failure": story.failure,
        "decisions": story.decisions,
        "stages_us": dict(story.stages_us),
    }
    if arrival.trace_id:
        facts["trace"] = arrival.trace_id
    if story.chat is not None:
        facts["chat"] = chat_facts(story.chat)
    if len(story.items) == 1:
        facts |= _item_facts(story.items[0])
    elif story.items:
        facts["items"] = (
            [_item_facts(item) for item in story.items] if len(story.items) <= 16 else len(story.items)
        )
    subjects = tuple(dict.fromkeys(item.subject for item in story.items if item.subject))
    sealed = house.vault.seal(
        _parts(story, reply, subjects),
        entry_id=arrival.id,
        kind="request",
        caller=key_id,
        at_us=story.began_us,
    )
    return make_entry(
        "request",
        arrival.id,
        story.began_us,
        facts,
        payload=sealed.payload,
        idem=story.idem if reply is not None else None,
        subjects=subjects,
        keys=sealed.new_keys,
    )


def _item_facts(item: Item) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "batch": item.batch_size,
        "predict_us": item.predict_us,
        "queue_us": item.queue_us,
    }
    if item.attempts > 1:
        facts["attempts"] = item.attempts
    if item.failure:
        facts["failure"] = item.failure
        facts["pointers"] = [error.pointer for error in item.errors][:20]
    if item.degraded is not None:
        facts["degraded"] = [item.degraded.failure, item.degraded.by]
    if item.findings:
        facts["findings"] = item.findings[:20]
    if item.worker_pid:
        facts["worker"] = item.worker_pid
    return facts


def _parts(story: Story, reply: Reply | None, subjects: tuple[bytes, ...]) -> list[Part]:
    """Split the content by whose it is: one part, or of several subjects one per record and one for the rest.

    The rest (the reply, what was told) can be opened only while nobody of them is erased.
    """
    if len(story.items) == 1 and story.ending == "answered" and reply is None and story.chat is None:
        # The usual case, by joining what is JSON already.
        item = story.items[0]
        return [Part(WHOLE, b'{"items":[{"input":%b,"output":%b}]}' % (item.input, item.output), subjects)]
    content: dict[str, Any] = {}
    if story.chat is not None:
        content |= chat_content(story.chat)
    if story.items and len(subjects) <= 1:
        content["items"] = [_item_content(item, story.chat) for item in story.items]
    elif not story.items and story.body:
        content["body_b64"] = base64.b64encode(story.body[:_KEPT_BODY_BYTES]).decode()
        content["body_bytes"] = len(story.body)
    if story.fault is not None:
        content["detail"] = story.fault.text
        content["errors"] = [[error.pointer, error.detail] for error in story.fault.errors]
    if reply is not None:
        content["reply"] = orjson.Fragment(_reply_encoder.encode(reply))
        content["idem_body"] = (
            story.idem_body.hex()
        )  # sealed: who can guess a body must not find it in the leaf
    if len(subjects) <= 1:
        return [Part(WHOLE, orjson.dumps(content), subjects)]
    parts = [
        Part(
            f"items/{item.place}",
            orjson.dumps(_item_content(item, story.chat)),
            (item.subject,) if item.subject else (),
        )
        for item in story.items
    ]
    return [*parts, Part(REST, orjson.dumps(content), subjects)]


def _item_content(item: Item, chat: ChatFacts | None) -> dict[str, Any]:
    content: dict[str, Any] = {"input": orjson.Fragment(item.input)}
    if chat is not None and item.place in chat.redacted:
        content["redacted"] = chat.redacted[item.place]
    if item.output and item.failure == "invalid_output":
        content["output_text"] = item.output.decode("utf-8", "replace")  # kept, and perhaps not even JSON
    elif item.output:
        content["output"] = orjson.Fragment(item.output)
    if item.failure:
        content["detail"] = item.detail
        content["errors"] = [[error.pointer, error.detail] for error in item.errors]
    return content


def _is_final(story: Story) -> bool:
    """Say whether the same request would end the same way again: only then is its reply kept to be repeated."""
    if story.ending in ("answered", "degraded"):
        return True
    return story.ending == "refused" and bool(story.failure) and not CATALOGUE[story.failure].retryable


def internal_error(error: BaseException) -> Fault:
    """Name an exception that nobody expected. Its text stays out: it may carry the caller's data."""
    return Fault(
        "A fault in the server ended the request.",
        failure="internal_error",
        hint="The operator finds it in the log by the request's id.",
    )
