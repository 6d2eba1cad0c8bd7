"""Keep what the drift watch must not lose, sealed, and show operators what it found.

Called by the runtime and by `gateway/admin.py`. Works beside the event loop: storing and sealing happen in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson

from nightproof.audit.vault import Vault
from nightproof.base.clock import iso_us, utc_us
from nightproof.base.errors import StateError
from nightproof.base.masking import mask
from nightproof.storage.drift_store import DriftStore, StoredExample
from nightproof.watch.drift import wire
from nightproof.watch.log import log

_PURPOSE = "drift"


class ShownExample(msgspec.Struct, frozen=True, kw_only=True):
    """A record that shows what moved, its sensitive fields masked."""

    signal: str
    cell: str
    input: Any


class ShownAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """One alarm of a service."""

    id: int
    release: str
    at: str
    since: str
    ended: str | None
    signals: list[str]
    examples: list[ShownExample]


class DriftDesk:
    """What the watcher keeps things with (its `Keeper`), and what operators ask."""

    def __init__(
        self,
        store: DriftStore,
        vault: Vault,
        *,
        note: Callable[..., Awaitable[None]],
        sensitive_of: Callable[[str, str], list[str]],
    ) -> None:
        self._store = store
        self._vault = vault
        self._note = note
        self._sensitive_of = sensitive_of

    async def find(self, service: str, digest: str) -> tuple[bytes, bytes]:
        """Return the kept profile and state; empty where there is none, or none that can be read."""

        def read() -> tuple[bytes, bytes]:
            profile, state = self._store.find(service, digest)
            try:
                return self._opened(profile), self._opened(state)
            except StateError as error:
                log("drift_profile_unreadable", level="warning", service=service, why=error.text)
                return b"", b""

        return await asyncio.to_thread(read)

    async def keep_profile(self, service: str, digest: str, profile: bytes) -> None:
        """Keep a profile, and record that there is one."""

        def keep() -> None:
            self._store.keep_profile(service, digest, self._sealed(profile), at_us=utc_us())

        await asyncio.to_thread(keep)
        await self._note("profile", service=service, digest=digest)

    async def keep_state(self, service: str, digest: str, state: bytes) -> None:
        """Keep a detector's state."""

        def keep() -> None:
            self._store.keep_state(service, digest, self._sealed(state), at_us=utc_us())

        await asyncio.to_thread(keep)

    async def raised(self, told: wire.Told, release: str) -> None:
        """Keep an alarm with its examples, and record it."""
        alarm = told.alarm
        if alarm is None:
            return

        def keep() -> int:
            examples = [
                StoredExample(
                    one.signal,
                    self._sealed(one.cell.encode(), one.subject),
                    self._sealed(one.input, one.subject),
                    one.subject,
                )
                for one in told.examples
            ]
            return self._store.raise_alarm(
                service=told.service,
                release=release,
                digest=told.digest,
                at_us=alarm.at_us,
                since_us=alarm.since_us,
                signals=alarm.signals,
                examples=examples,
            )

        number = await asyncio.to_thread(keep)
        await self._note(
            "drift",
            event="raised",
            service=told.service,
            release=release,
            alarm=number,
            since_us=alarm.since_us,
            signals=alarm.signals,
        )

    async def ended(self, service: str, release: str) -> None:
        """Keep that the alarm is over, and record it."""
        await asyncio.to_thread(lambda: self._store.end_alarms(service, at_us=utc_us()))
        await self._note("drift", event="over", service=service, release=release)

    def alarms(self, service: str, *, with_examples: bool) -> list[ShownAlarm]:
        """Return a service's alarms, the newest first; examples of what moved where they are asked for."""
        return [
            ShownAlarm(
                id=one.id,
                release=one.release,
                at=iso_us(one.at_us),
                since=iso_us(one.since_us),
                ended=iso_us(one.ended_us) if one.ended_us else None,
                signals=one.signals,
                examples=self._examples(service, one.release, one.id)
                if with_examples and one.examples
                else [],
            )
            for one in self._store.alarms(service)
        ]

    def _examples(self, service: str, release: str, alarm: int) -> list[ShownExample]:
        hidden = self._sensitive_of(service, release)
        shown = []
        for one in self._store.examples(alarm):
            try:
                record = orjson.loads(self._opened(one.content))
                cell = self._opened(one.cell).decode()
            except (StateError, orjson.JSONDecodeError):
                continue  # erased since
            is_hidden = _is_hidden(one.signal.partition(" (")[0], hidden)
            shown.append(
                ShownExample(signal=one.signal, cell="" if is_hidden else cell, input=mask(record, hidden))
            )
        return shown

    def forget(self, subject: bytes) -> int:
        """Drop every example about an erased person."""
        return self._store.forget(subject)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _sealed(self, content: bytes, subject: bytes = b"") -> bytes:
        return self._vault.seal_bytes(content, purpose=_PURPOSE, subject=subject)

    def _opened(self, sealed: bytes) -> bytes:
        return self._vault.open_bytes(sealed, purpose=_PURPOSE) if sealed else b""


def masked_reports(signals: list[Any], hidden: list[str]) -> list[Any]:
    """Hide the values of sensitive fields in what is shown of signals: their cells lose their names."""
    return [
        msgspec.structs.replace(one, labels=[f"value {place}" for place in range(len(one.labels))])
        if _is_hidden(one.feature, hidden)
        else one
        for one in signals
    ]


def _is_hidden(feature: str, hidden: list[str]) -> bool:
    """Say whether a feature is a sensitive field, or lies in one; all do where the whole record is hidden."""
    field = feature.removeprefix("output ")
    return any(field == pointer or field.startswith(f"{pointer}/") for pointer in hidden)
