"""The operator's verbs on quarantine: list, show, release, replay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson

from nightproof.base.clock import iso_us, monotonic_s, utc_us
from nightproof.base.masking import mask
from nightproof.storage.quarantine import QuarantineEntry, QuarantineStore
from nightproof.workers.engine import Engine, Job, Waiter

_REPLAY_WITHIN_S = 30.0


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A quarantined record as operators see it, without its content."""

    id: str
    service: str
    release: str
    reason: str
    at: str
    expires: str
    state: str
    refused_now: bool


def held(entry: QuarantineEntry) -> Held:
    """Show one entry."""
    return Held(
        id=entry.id,
        service=entry.service,
        release=entry.release,
        reason=entry.reason,
        at=iso_us(entry.at_us),
        expires=iso_us(entry.expires_us),
        state=entry.state,
        refused_now=entry.is_refused(utc_us()),
    )


def list_all(store: QuarantineStore, service: str | None = None) -> list[Held]:
    """Show all entries, the newest first."""
    return [held(entry) for entry in store.list(service)]


def show(
    store: QuarantineStore, entry_id: str, sensitive_of: Callable[[str, str], Sequence[str]]
) -> dict[str, Any]:
    """Show one entry with its input, sensitive fields masked. The caller records that it was read. Raises NotFound."""
    entry, content = store.show(entry_id)
    shown = mask(orjson.loads(content), sensitive_of(entry.service, entry.release))
    return {**msgspec.to_builtins(held(entry)), "input": shown}


def release(store: QuarantineStore, entry_id: str) -> Held:
    """Let the record through again. Raises NotFound."""
    return held(store.release(entry_id))


async def replay(store: QuarantineStore, entry_id: str, engine: Engine) -> dict[str, Any]:
    """Run the record through the live release again, alone; let it through if it is answered. Raises NotFound.

    It may end up to two workers again: the spares are there for that.
    """
    _, content = store.show(entry_id)
    waiter = Waiter(asyncio.get_running_loop().create_future())
    job = Job(content, monotonic_s() + _REPLAY_WITHIN_S, waiter, alone=True)
    waiter.add(job)
    engine.submit([job])
    try:
        await asyncio.wait_for(waiter.future, _REPLAY_WITHIN_S)
    except TimeoutError:
        waiter.give_up("deadline_exceeded")
    outcome = waiter.outcomes[0]
    if outcome.failure:
        return {"id": entry_id, "answered": False, "failure": outcome.failure}
    store.mark_replayed(entry_id)
    return {"id": entry_id, "answered": True, "output": orjson.loads(outcome.output)}
