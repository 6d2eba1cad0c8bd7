"""One call of the feedback route, conducted as a prediction is, with the same endings and the same record.

accept → take → record → reply. Each label is a record of its own: counted, set aside, known already, or refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from nightproof.base import strictjson
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import Fault, FieldError, Refusal
from nightproof.base.labels import GivenLabel, LabelOutcome
from nightproof.pipeline.accept import find_service, identify, refuse_if_closed
from nightproof.pipeline.house import House, ServedService
from nightproof.pipeline.story import Item, Story

PROTOCOL = "feedback"
_MOST_LABELS = 1_000
_KNOWN = frozenset({"id", "item", "label"})


async def take_labels(story: Story, house: House) -> None:
    """Take the labels of one request in: the work of its route, which `serve` conducts."""
    arrival = story.arrival
    caller = identify(story, house)
    if arrival.fault is not None:
        raise arrival.fault
    served = find_service(story, house, caller)
    story.counted_as = f"{served.name}/feedback"
    story.watcher = None  # a label says nothing of how a release answers, and is no record for a shadow
    refuse_if_closed(story, house)
    if house.feedback is None:
        raise Fault(
            "Labels cannot be kept now.",
            failure="audit_unavailable",
            hint="Send them again later; a label that is known already does no harm.",
            retry_after_s=5.0,
        )
    house.limiter.spend_quota(caller.key_id, now=monotonic_s())
    story.body = await arrival.read_body(house.settings.receiving.body_bytes)
    if strictjson.is_large(story.body):
        labels, story.many = await asyncio.to_thread(_decode, story.body)
    else:
        labels, story.many = _decode(story.body)
    feedback, description = house.feedback, served.live.engine.description
    # Whom a label is about is known when its prediction is found. Until then it is recorded without its content,
    # which else would be sealed for nobody, and stay when that person is erased.
    is_about_somebody = bool(description.subject_pointers)
    story.items = [
        Item(place, _told(one, whole=not is_about_somebody), findings=[]) for place, one in enumerate(labels)
    ]
    story.mark("accept")
    expected = _expected_error(served, house)
    outcomes = await asyncio.wrap_future(
        feedback.offer(labels, description=description, caller=caller, expected_error=expected)
    )
    story.admitted = True
    for item, label, outcome in zip(story.items, labels, outcomes, strict=True):
        _end(item, label, outcome)
    story.end_by_items()
    story.mark("check")


def _expected_error(served: ServedService, house: House) -> float | None:
    """Return how often the release says of itself that it is wrong; None where it does not say."""
    if house.drift is None:
        return None
    confidence = house.drift.mean_confidence(served.name)
    return None if confidence is None else 1 - confidence


def _told(label: GivenLabel, *, whole: bool) -> bytes:
    """Say for the record what was given."""
    told: dict[str, Any] = {"id": label.request, "item": label.item}
    return orjson.dumps(told | {"label": label.label} if whole else told)


def _end(item: Item, label: GivenLabel, outcome: LabelOutcome) -> None:
    if outcome.subject:
        item.subject, item.input = outcome.subject, _told(label, whole=True)
    if outcome.became == "refused":
        item.failure, item.detail, item.errors = outcome.failure, outcome.detail, list(outcome.errors)
        return
    told: dict[str, Any] = {"request": label.request, "item": label.item, "label": outcome.became}
    item.output = orjson.dumps(told)


def _decode(body: bytes) -> tuple[list[GivenLabel], bool]:
    """Read `{"id", "item", "label"}`, or a list of them."""
    try:
        value = strictjson.parse(body)
    except strictjson.JsonRefused as error:
        raise Refusal(
            f"The body is not JSON that can be taken: {error.detail}.",
            failure="malformed_request",
            hint='Send {"id": "…", "label": {…}}, or a list of them.',
            errors=[FieldError(error.pointer or "", error.detail, error.reason)],
        ) from None
    many = isinstance(value, list)
    given = value if many else [value]
    if not given:
        raise _misshapen("", "holds no label")
    if len(given) > _MOST_LABELS:
        raise Refusal(
            f"The list holds {len(given)} labels; {_MOST_LABELS} are taken at once.",
            failure="oversized_request",
            hint="Send it in parts.",
        )
    return [_label(one, f"/{place}" if many else "") for place, one in enumerate(given)], many


def _label(value: Any, pointer: str) -> GivenLabel:
    if not isinstance(value, dict):
        raise _misshapen(pointer, "is not an object")
    if unknown := value.keys() - _KNOWN:
        raise _misshapen(pointer, f"has {len(unknown)} fields beside id, item and label")
    request, item, label = value.get("id"), value.get("item", 0), value.get("label")
    if not isinstance(request, str):
        raise _misshapen(f"{pointer}/id", "is not the id of a request")
    if isinstance(item, bool) or not isinstance(item, int):
        raise _misshapen(f"{pointer}/item", "is not a place in the request's list")
    if not isinstance(label, dict):
        raise _misshapen(f"{pointer}/label", "is not an object of output fields")
    return GivenLabel(request, item, label)


def _misshapen(pointer: str, detail: str) -> Refusal:
    return Refusal(
        "The body is not a label, nor a list of them.",
        failure="invalid_input",
        hint='Send {"id": "the answer\'s x-request-id", "label": {"field": "right value"}}.',
        errors=[FieldError(pointer, detail, "value_error")],
    )
