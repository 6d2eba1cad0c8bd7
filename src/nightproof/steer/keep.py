"""Keep and destroy: erasure of a person, retention, legal holds, rotation of keys. Each act is recorded first.

Called by operators' routes, by the command line where no server runs, and by the server's tick. Promises: the
record of an erasure is durable before a key is destroyed; nothing under a legal hold is destroyed by time; leaves
are never touched, so the log verifies as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import orjson

from nightproof.audit.record import make_entry
from nightproof.base.clock import iso_us, utc_us
from nightproof.base.errors import Refusal
from nightproof.steer.archive import Archive
from nightproof.steer.clockwatch import ClockWatch
from nightproof.storage.ledger_protocol import LedgerReading

_DAY_US = 86_400_000_000
_BATCH = 500
_PAUSE_S = 0.02
_EMPTYING_TRIES = 50
EVERYTHING = ""
"""A hold on every service."""


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did."""

    subject: str
    """The pseudonym, in hex."""
    keys: int
    """Data keys destroyed; 0 where there were none, or no more."""
    records: int
    """Records about the person, whose content is closed for good."""
    quarantined: int


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A legal hold that stands."""

    service: str
    """Empty: every service."""
    reason: str
    by: str
    since: str


class Expired(msgspec.Struct, frozen=True, kw_only=True):
    """What a look for content past its time did."""

    dropped: dict[str, int]
    """Contents destroyed, by service."""
    held: list[str]
    """Services under a hold, of which nothing was destroyed."""


async def erase(
    archive: Archive, who: str, subject: str, *, forget: Callable[[bytes], int] = lambda pseudonym: 0
) -> Erased:
    """Close everything about a person for good. Again is fine. `forget` drops what other rooms hold of them."""
    if not subject.strip():
        raise Refusal(
            "No subject is named.", failure="invalid_input", hint="Give the value of the Subject field."
        )
    pseudonym = archive.vault.pseudonym(subject)
    archive.vault.forget(pseudonym)  # what comes from now on gets a key of its own
    records = await asyncio.to_thread(_count, archive, pseudonym)
    # Everything that was sealed before is in the log, with its keys in the vault, when this is durable.
    await archive.ledger.append(
        make_entry(
            "erasure",
            archive.ids.draw(),
            utc_us(),
            {"who": who, "act": "erase", "records": records},
            subjects=(pseudonym,),
        )
    )
    keys = await asyncio.to_thread(archive.vault.erase, pseudonym, utc_us())
    quarantined = await asyncio.to_thread(forget, pseudonym)
    return Erased(subject=pseudonym.hex(), keys=keys, records=records, quarantined=quarantined)


async def reapply_erasures(archive: Archive) -> int:
    """Erase again whom the log says it has erased: a vault that came back from a backup holds their keys once more.

    Return how many keys were destroyed. Quick where there are none.
    """

    def work() -> int:
        gone = 0
        reader = archive.reader()
        try:
            for entry in reader.of_kind("erasure"):
                for subject in orjson.loads(entry.leaf).get("sub", ()):
                    gone += archive.vault.erase_made_before(bytes.fromhex(subject), entry.at_us)
        finally:
            reader.close()
        return gone

    gone = await asyncio.to_thread(work)
    if gone:
        await archive.note("operator", who="server", act="erase.reapplied", keys=gone)
    return gone


async def expire(
    archive: Archive, who: str, keep_days: Mapping[str, float], *, now_us: int | None = None
) -> Expired:
    """Destroy content past its service's time, in bounded batches; services under a hold keep theirs."""
    now_us = utc_us() if now_us is None else now_us
    standing = await asyncio.to_thread(holds, archive)
    held = {hold.service for hold in standing}
    dropped: dict[str, int] = {}
    kept: list[str] = []
    for service, days in sorted(keep_days.items()):
        before_us = now_us - int(days * _DAY_US)
        if EVERYTHING in held or service in held:
            kept.append(service)
            continue
        below = await archive.ledger.do("size")
        first = await asyncio.to_thread(_first_to_expire, archive, service, before_us, below)
        if first is None:
            continue
        await archive.note(
            "retention", who=who, act="expire", service=service, before_us=before_us, below_seq=below
        )
        dropped[service] = await _drop(archive, service, before_us, below, after=first - 1)
    return Expired(dropped=dropped, held=kept)


async def expire_by_clock(
    archive: Archive, clock: ClockWatch, keep_days: Mapping[str, float]
) -> Expired | None:
    """Expire as the server does by itself; None, and nothing destroyed, while its clock is not to be trusted."""
    if not clock.has_jumped:
        return await expire(archive, "server", keep_days)
    return None


async def _drop(archive: Archive, service: str, before_us: int, below: int, *, after: int) -> int:
    """Drop contents step by step, so that commits of requests go between."""
    total = 0
    while after < below - 1:
        gone, after = await archive.ledger.do(
            "drop_payloads",
            service=service,
            before_us=before_us,
            below_seq=below,
            after_seq=after,
            most=_BATCH,
        )
        total += gone
        await asyncio.sleep(_PAUSE_S)
    # What was overwritten in the file still stands in its write-ahead log: emptied, or content would outlive its end.
    for _ in range(_EMPTYING_TRIES):
        if await archive.ledger.do("empty_log"):
            break
        await asyncio.sleep(_PAUSE_S)
    return total


def _first_to_expire(archive: Archive, service: str, before_us: int, below: int) -> int | None:
    """Return the first record whose content is past its time and still there; None where there is none."""
    reader = archive.reader()
    try:
        return reader.first_payload(service, before_us, below)
    finally:
        reader.close()


async def hold(archive: Archive, who: str, service: str, reason: str) -> Hold:
    """Stop the destruction by time of a service's content, or of all."""
    if not reason.strip():
        raise Refusal(
            "A hold needs its reason.", failure="invalid_input", hint="Name the case with --reason."
        )
    await archive.note("hold", who=who, act="hold", service=service, reason=reason[:500])
    return Hold(service=service, reason=reason[:500], by=who, since=iso_us(utc_us()))


async def unhold(archive: Archive, who: str, service: str) -> None:
    """End a hold. Raises Refusal where none stands."""
    standing = await asyncio.to_thread(holds, archive)
    if service not in {one.service for one in standing}:
        raise Refusal(
            f"No hold stands on {service or 'everything'}.",
            failure="invalid_input",
            hint="See `nightproof audit holds`.",
        )
    await archive.note("hold", who=who, act="unhold", service=service)


def holds(archive: Archive) -> list[Hold]:
    """Read from the log which holds stand."""
    reader = archive.reader()
    try:
        return holds_in(reader)
    finally:
        reader.close()


def holds_in(reader: LedgerReading) -> list[Hold]:
    """Read from a log which holds stand."""
    standing: dict[str, Hold] = {}
    for entry in reader.of_kind("hold"):
        facts = orjson.loads(entry.leaf)
        if facts.get("act") == "unhold":
            standing.pop(entry.service, None)
        else:
            standing[entry.service] = Hold(
                service=entry.service,
                reason=str(facts.get("reason", "")),
                by=entry.caller,
                since=iso_us(entry.at_us),
            )
    return list(standing.values())


async def rotate(archive: Archive, who: str, *, new_master: bytes | None = None) -> int:
    """Begin a new key of keys, and wrap all of them by another master key if one is given; return its number."""
    await archive.note("key_rotation", who=who, act="rotate", master_changed=new_master is not None)
    number = await asyncio.to_thread(archive.vault.rotate_epoch, utc_us())
    if new_master is not None:
        await asyncio.to_thread(archive.vault.change_master, new_master)
    return number


def _count(archive: Archive, pseudonym: bytes) -> int:
    reader = archive.reader()
    try:
        return reader.count_subject(pseudonym)
    finally:
        reader.close()
