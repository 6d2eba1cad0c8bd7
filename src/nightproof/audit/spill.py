"""The spill: where the records of services that ask for it go while the ledger cannot be written.

Called by the pipeline's record step instead of the ledger, and by the tick to merge. Promises: an entry is durable
when `append` returns; it is merged into the ledger in its order and unchanged, once, also after a kill at any
point; a `spill` entry then names what came that way. Bounded in bytes and time: after that, its services refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from nightproof.audit.ledger import AuditUnavailable, Ledger
from nightproof.audit.record import Entry, make_entry
from nightproof.audit.vault import Vault
from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.errors import StateError
from nightproof.base.ids import RequestIds
from nightproof.storage.ledger_rows import Row
from nightproof.storage.spill_file import SpillFile
from nightproof.storage.sqlite import StorageUnavailable
from nightproof.storage.vault_store import WrappedKey

_PURPOSE = "spill"
_IDS_NAMED = 500
_HINT = "Retry with an Idempotency-Key; the operator is told."

RecordedOf = Callable[[Sequence[str]], Awaitable[set[str]]]
"""Say which of these ids the ledger holds."""


class _Frame(msgspec.Struct, array_like=True):
    row: Row
    keys: list[WrappedKey]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Frame)


class Spill:
    """Takes entries while the ledger says no. All fields are touched on the event loop's thread."""

    def __init__(self, file: SpillFile, vault: Vault, *, most_bytes: int, within_s: float) -> None:
        self._file = file
        self._vault = vault
        self._most_bytes = most_bytes
        self._within_s = within_s
        self._door = asyncio.Lock()
        self._since_s: float | None = monotonic_s() if file.size_bytes else None
        self.count = 0
        """Entries taken by this run, since the last merge."""

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to merge."""
        return self._file.size_bytes == 0

    @property
    def size_bytes(self) -> int:
        """The bytes that wait to be merged."""
        return self._file.size_bytes

    @property
    def has_room(self) -> bool:
        """Say whether an entry would be taken now."""
        in_time = self._since_s is None or monotonic_s() - self._since_s < self._within_s
        return in_time and self._file.size_bytes < self._most_bytes

    async def append(self, entry: Entry) -> None:
        """Keep an entry durably. Raises AuditUnavailable where the spill is full, too old, or fails."""
        if not self.has_room:
            raise AuditUnavailable("The audit log and its spill take no entries at present.", hint=_HINT)
        try:
            async with self._door:
                await asyncio.to_thread(self._append, entry)
        except (StorageUnavailable, StateError) as error:
            raise AuditUnavailable(
                "Neither the audit log nor its spill could be written.", hint=_HINT
            ) from error
        if self._since_s is None:
            self._since_s = monotonic_s()
        self.count += 1

    def _append(self, entry: Entry) -> None:
        content = _encode(_Frame(entry.row, list(entry.keys)))
        self._file.append(self._vault.seal_bytes(content, purpose=_PURPOSE))

    async def merge(self, ledger: Ledger, recorded_of: RecordedOf, ids: RequestIds) -> int:
        """Bring everything into the ledger, in order; return how many entries. Raises what the ledger raises.

        What is there already, from a merge that was cut short, is passed over.
        """
        async with self._door:
            frames = await asyncio.to_thread(self._file.frames)
            entries, damaged = await asyncio.to_thread(self._opened, frames)
            known = await recorded_of([entry.row.id for entry in entries])
            new = [entry for entry in entries if entry.row.id not in known]
            await asyncio.gather(*(ledger.append(entry) for entry in new))
            names = [entry.row.id for entry in new]
            for at in range(0, max(1, len(names)), _IDS_NAMED):
                facts = {
                    "spilled": names[at : at + _IDS_NAMED],
                    "count": len(names[at : at + _IDS_NAMED]),
                    "passed_over": len(entries) - len(new) if at == 0 else 0,
                    "damaged": damaged if at == 0 else 0,
                    "torn_bytes": self._file.torn_bytes if at == 0 else 0,
                }
                await ledger.append(make_entry("spill", ids.draw(), utc_us(), facts))
            await asyncio.to_thread(self._file.clear)
            self._since_s = None
            self.count = 0
        return len(new)

    def _opened(self, frames: Sequence[bytes]) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        damaged = 0
        for frame in frames:
            try:
                found = _decoder.decode(self._vault.open_bytes(frame, purpose=_PURPOSE))
            except (StateError, msgspec.DecodeError, msgspec.ValidationError):
                damaged += 1
                continue
            entries.append(Entry(found.row, tuple(found.keys)))
        return entries, damaged

    def close(self) -> None:
        """Let go of the file; what is in it is merged at the next start."""
        self._file.close()

    def __repr__(self) -> str:
        return f"<Spill {self.count} entries, {self.size_bytes} bytes>"
