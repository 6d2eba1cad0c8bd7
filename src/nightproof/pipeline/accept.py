"""First step: know the caller, read the body, and refuse what cannot be right before it costs anything.

Cheap gates come before costly ones: identity, role, service, then the body, strict JSON, schema,
freshness, quarantine, idempotency. Returns the request; raises Refusal with a name of the catalogue.
"""

from __future__ import annotations

import asyncio
import re

import msgspec
import orjson

from nightproof.base import strictjson
from nightproof.base.clock import utc_now
from nightproof.base.errors import Fault, FieldError, Refusal
from nightproof.base.fingerprint import fingerprint_of
from nightproof.base.masking import subject_of
from nightproof.base.roles import Action, allows
from nightproof.base.values import Caller
from nightproof.checks.input import InputChecks
from nightproof.pipeline.choose import choose, choose_by_subject
from nightproof.pipeline.house import House, ServedRelease, ServedService
from nightproof.pipeline.story import Decoded, Item, Story

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_PARSE_HINT = "Send one JSON object, or a list of them, in UTF-8."


class Request(msgspec.Struct, eq=False):
    """A request that may be admitted."""

    served: ServedService
    release: ServedRelease
    caller: Caller
    items: list[Item]
    deadline_s: float
    size_bytes: int
    standing: int = 0
    """How many of its records may be answered; the others were refused."""


async def accept(story: Story, house: House) -> Request:
    """Take the request in. The story knows caller, service, body and records afterwards, as far as it came."""
    arrival = story.arrival
    caller = identify(story, house)
    if arrival.fault is not None:
        raise arrival.fault
    served = find_service(story, house, caller)
    story.deadline_s = deadline_of(story, served)
    refuse_if_closed(story, house)
    body = await arrival.read_body(house.settings.receiving.body_bytes)
    story.body = body
    is_choice = served.split is not None or arrival.version
    release = choose(served, story, caller) if is_choice else served.live
    if arrival.idempotency_key:
        await claim_key(story, house, caller)
        if story.replay is not None:
            return Request(served, release, caller, [], story.deadline_s, len(body))
    decoded = await _decode(body, story, release)
    if is_choice and not arrival.version and served.split is not None and served.split.unit == "subject":
        chosen = choose_by_subject(served, story, _first_subject(decoded, release, house))
        if chosen is not release:
            release = chosen
            decoded = await _decode(body, story, release)
    if arrival.decode is not None:
        story.deadline_s = deadline_of(story, served)  # the protocol's body may carry a deadline of its own
    story.many = decoded.many
    story.items = [Item(place, record, findings=[]) for place, record in enumerate(decoded.inputs)]
    if strictjson.is_large(body):
        standing = await asyncio.to_thread(_check_records, story, decoded, release, house)
    else:
        standing = _check_records(story, decoded, release, house)
    return Request(served, release, caller, story.items, story.deadline_s, len(body), standing)


def refuse_if_closed(story: Story, house: House) -> None:
    """Take nothing new while the server stops, or while what was answered could not be recorded."""
    if house.draining:
        raise Refusal(
            "The server is stopping and takes no new requests.",
            failure="shutting_down",
            hint="Retry; another instance, or the next start, answers.",
            retry_after_s=1.0,
        )
    if house.storage_low and not _may_spill(story, house):
        raise Fault(
            "The disk is full, so no answer could be recorded.",
            failure="audit_unavailable",
            hint="Retry in a moment; the operator is told.",
            retry_after_s=5.0,
        )
    if not house.ledger.is_writable and not (_may_spill(story, house) or house.ledger.should_try):
        raise Fault(
            "The audit log cannot be written, so no answer could go out.",
            failure="audit_unavailable",
            hint="Retry in a moment; the operator is told.",
            retry_after_s=1.0,
        )


def _first_subject(decoded: Decoded, release: ServedRelease, house: House) -> bytes:
    """Return the pseudonym of the person that the first record is about; nothing where it names none."""
    pointers = release.engine.description.subject_pointers
    subject = subject_of(decoded.values[0], pointers) if pointers and decoded.values else None
    return b"" if subject is None else house.vault.pseudonym(subject)


def _may_spill(story: Story, house: House) -> bool:
    """Say whether the answer may be kept beside the ledger: not one that an Idempotency-Key must find again."""
    if story.arrival.idempotency_key:
        return False
    return house.spill is not None and story.service in house.spilling_services and house.spill.has_room


def identify(story: Story, house: House) -> Caller:
    """Return who calls. Raises Refusal for a key that is none."""
    token = story.arrival.token
    if token is None:
        raise Refusal(
            "The request carries no API key.",
            failure="unauthenticated",
            hint="Send it as `Authorization: Bearer <key>`; `nightproof keys create --role predict` makes one.",
        )
    caller = house.find_caller(token)
    if caller is None:
        raise Refusal(
            "The API key is unknown, expired or revoked.",
            failure="unauthenticated",
            hint="Ask the operator for a new one: `nightproof keys create --role predict`.",
        )
    story.caller = caller
    return caller


def find_service(story: Story, house: House, caller: Caller) -> ServedService:
    """Return the service that is called. Raises Refusal where the caller may not, or there is none."""
    name = story.arrival.service
    if not allows(caller.role, Action.PREDICT):
        raise Refusal(
            f"A key of role {caller.role.value!r} may not call services.",
            failure="forbidden",
            hint="Use a key of role predict.",
        )
    served = house.services.get(name)
    if served is None and house.starting:
        raise Fault(
            "The server is starting; its services are still loading.",
            failure="model_unavailable",
            hint="Retry in a moment.",
            retry_after_s=1.0,
        )
    if served is None:
        raise Refusal(
            "No service of this name is served here.",
            failure="unknown_service",
            hint=f"Served: {', '.join(sorted(house.services))}.",
        )
    story.service = name
    story.release = served.live.label
    story.watcher = served.watcher
    if caller.services and name not in caller.services:
        raise Refusal(
            f"This key may not call service {name!r}.",
            failure="forbidden",
            hint="Ask the operator for a key that covers it.",
        )
    return served


def deadline_of(story: Story, served: ServedService) -> float:
    """Return the absolute deadline: the service's, lowered by the caller's if that is shorter."""
    budget_ms = float(served.live.engine.description.deadline_ms)
    asked_ms = story.arrival.timeout_ms
    if asked_ms is not None and asked_ms < budget_ms:
        budget_ms = asked_ms
        story.decisions.append(f"deadline:{asked_ms:g}ms by caller")
    return story.began_s + budget_ms / 1_000


async def _decode(body: bytes, story: Story, release: ServedRelease) -> Decoded:
    description = release.engine.description
    decode = story.arrival.decode
    try:
        if decode is None:
            if strictjson.is_large(body):
                decoded = await asyncio.to_thread(decode_native, body, release.input_checks)
            else:
                decoded = decode_native(body, release.input_checks)
        elif strictjson.is_large(body):
            decoded = await asyncio.to_thread(decode, body, description)
        else:
            decoded = decode(body, description)
    except strictjson.JsonRefused as error:
        raise refusal_of_json(error) from None
    if len(decoded.inputs) > description.max_items:
        raise Refusal(
            f"The list holds {len(decoded.inputs)} records; this service takes {description.max_items}.",
            failure="oversized_request",
            hint="Send it in parts.",
        )
    return decoded


def refusal_of_json(error: strictjson.JsonRefused) -> Refusal:
    """Make the refusal of a body that is no strict JSON."""
    return Refusal(
        f"The body is not JSON that can be taken: {error.detail}.",
        failure="malformed_request",
        hint=_PARSE_HINT,
        errors=[FieldError(error.pointer or "", error.detail, error.reason)],
    )


def decode_native(body: bytes, checks: InputChecks) -> Decoded:
    """Read a native body: one record, or a list of records. Raises JsonRefused or Refusal."""
    value = strictjson.parse(body, wide_pointers=checks.wide_integers, known_names=checks.known_names)
    if isinstance(value, list):
        if not value:
            raise Refusal(
                "The list holds no record.", failure="invalid_input", hint="Send at least one record."
            )
        return Decoded(value, [orjson.dumps(record) for record in value], many=True)
    return Decoded([value], [body], many=False)


def _check_records(story: Story, decoded: Decoded, release: ServedRelease, house: House) -> int:
    """Refuse each record that does not hold; if none holds, the request as a whole. Return how many hold."""
    checks = release.input_checks
    pointers = release.engine.description.subject_pointers
    now = utc_now() if checks.has_fresh else None
    standing = 0
    for item, value in zip(story.items, decoded.values, strict=True):
        if pointers and (subject := subject_of(value, pointers)) is not None:
            item.subject = house.vault.pseudonym(subject)
        if not checks.holds(value):
            item.failure, item.errors = "invalid_input", checks.errors(value)
        elif control := checks.control(value, item.input):
            item.failure, item.errors = "invalid_input", control
        elif now is not None and (stale := checks.stale(value, now)):
            item.failure, item.errors = "stale_input", stale
        elif release.poison and fingerprint_of(item.input) in release.poison:
            item.failure = "poison_input"
            item.detail = "This record ended two workers and is in quarantine."
        else:
            item.findings = checks.unusual(value)
            standing += 1
    if not standing:
        raise refusal_of(story)
    return standing


def refusal_of(story: Story) -> Refusal:
    """Make the refusal of a request of which no record stands: by the first one's failure."""
    first = next(item for item in story.items if item.failure)
    text = {
        "invalid_input": "The input does not fit the service's schema.",
        "stale_input": "The input carries a time that is not fresh.",
        "poison_input": "This record ended two workers and is in quarantine.",
    }.get(first.failure, first.detail or "The input was refused.")
    hint = {
        "invalid_input": f"See /openapi.json for the schema of {story.service!r}.",
        "stale_input": "Send current data; the field's window is in /openapi.json.",
        "poison_input": "Do not send it again; the operator sees it with `nightproof quarantine list`.",
    }.get(first.failure, "")
    return Refusal(text, failure=first.failure, hint=hint, errors=story.errors_told(first))


async def claim_key(story: Story, house: House, caller: Caller) -> None:
    """Look the idempotency key up: recorded before, running now, or ours to run."""
    key = story.arrival.idempotency_key
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Refusal(
            "The Idempotency-Key is not 1 to 255 visible ASCII characters.",
            failure="malformed_request",
            hint="Use a UUID.",
        )
    scope = f"{caller.key_id}\0{story.service}\0{key}".encode()
    # Keyed, both: what a caller sent must not be guessed from the log once its content is gone.
    story.idem = house.vault.mac(b"key\0" + scope)
    story.idem_body = house.vault.mac(b"body\0" + story.arrival.protocol.encode() + b"\0" + story.body)
    if story.idem in house.running_keys:
        story.idem = b""  # not ours: it must not be given back when this one ends
        raise Refusal(
            "The first request with this Idempotency-Key is still running.",
            failure="idempotency_conflict",
            status=409,
            hint="Wait for it, then send the same again.",
            retry_after_s=1.0,
        )
    idem = story.idem
    house.running_keys.add(idem)  # before anything is awaited: two at once must not both be the first
    try:
        recorded = await house.find_recorded(idem)
    except BaseException:
        house.running_keys.discard(idem)
        story.idem = b""
        raise
    if recorded is None:
        return
    house.running_keys.discard(idem)
    story.idem = b""
    story.body = b""  # the first record holds it, sealed for whom it is about; this one needs no copy
    if recorded.body != story.idem_body:
        raise Refusal(
            "This Idempotency-Key was used before with another body.",
            failure="idempotency_conflict",
            status=422,
            hint="Use a new key for a new request.",
        )
    story.replay = recorded.reply
    story.decisions.append(f"replayed:{recorded.reply.id}")
