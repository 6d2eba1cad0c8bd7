"""The audit log opened for use: its one writer, its vault of keys, and readers.

Opened by `runtime` for a server, and by the command line where no server has the state folder. Promises: the
signing key, the log's name and its public key are made once and then kept; nothing is written to a log that is
smaller than, or differs from, what a witness holds of it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from nightproof.audit.adopt import adopt
from nightproof.audit.ledger import Ledger, State
from nightproof.audit.record import make_entry
from nightproof.audit.seal import Signer, new_private_key
from nightproof.audit.vault import Vault
from nightproof.audit.witness import check_anchors
from nightproof.audit.writer import LogWriter
from nightproof.base.clock import utc_us
from nightproof.base.ids import RequestIds
from nightproof.settings.settings import Settings
from nightproof.storage.ledger_protocol import LedgerReading, LedgerWriting
from nightproof.storage.ledger_rows import Checkpoint
from nightproof.storage.ledger_store import LedgerReader, LedgerStore
from nightproof.storage.master_key import VaultLocked, read_master_key
from nightproof.storage.statefolder import StateFolder, replace_file, write_durably
from nightproof.storage.vault_store import VaultStore, VaultStoring

WHOLE_RECORD = ""
"""The pointer to a whole record."""


class Archive:
    """The writer, the vault and the names of one log. `start` before use, `stop` in the end."""

    def __init__(
        self,
        settings: Settings,
        state: StateFolder,
        *,
        on_fence: Callable[[str], None] = lambda why: None,
        on_lost: Callable[[int], None] = lambda entries: None,
        on_state: Callable[[State, str], None] = lambda now, why: None,
    ) -> None:
        self.settings = settings
        self.state = state
        self.ids = RequestIds()
        master = read_master_key(
            os.environ,
            state.path,
            command=settings.vault.master_key_command,
            file=settings.vault.master_key_file,
        )
        self.vault_store = _vault_store(settings, state)
        try:
            self.vault = Vault(self.vault_store, master, now_us=utc_us())
        except BaseException:
            self.vault_store.close()
            raise
        self.ledger = Ledger(
            self._open_log, settings.ledger, on_fence=on_fence, on_lost=on_lost, on_state=on_state
        )
        self.last_checkpoint: Checkpoint | None = None
        """The newest one, durable in the log."""
        self._signer: Signer | None = None

    @property
    def signer(self) -> Signer:
        """The key that signs checkpoints and exports, under the log's name. Only after `start`."""
        if self._signer is None:
            raise RuntimeError("the archive has not started")
        return self._signer

    @property
    def origin(self) -> str:
        """The log's name, in every checkpoint."""
        return self.signer.name

    @property
    def vkey(self) -> str:
        """The public key that checkpoints verify with."""
        return self.signer.vkey

    async def start(self) -> None:
        """Open the log for writing. Raises StateError where it must not be written."""
        await self.ledger.start()

    async def stop(self) -> None:
        """Commit and sign what is waiting, and close."""
        await self.ledger.stop()
        self.vault_store.close()

    def reader(self) -> LedgerReading:
        """Open a reader of the log, for one thread; the caller closes it."""
        return open_reader(self.settings, self.state)

    def sensitive_of(self, service: str, release: str) -> list[str]:
        """Return pointers to the fields of a release that are shown masked: to everything where nobody knows them.

        Of a request that no release was chosen for, the fields of all its service's releases.
        """
        known = self.state.declared().sensitive
        if release:
            return known.get(f"{service} {release}", [WHOLE_RECORD])
        every = [pointers for named, pointers in known.items() if named.partition(" ")[0] == service]
        return sorted({pointer for pointers in every for pointer in pointers}) if every else [WHOLE_RECORD]

    async def note(self, kind: str, **facts: Any) -> None:
        """Record something about the server, or an operator's act; return when it is durable.

        Raises AuditUnavailable where it cannot be recorded, AuditOutcomeUnknown where nobody can say.
        """
        await self.ledger.append(make_entry(kind, self.ids.draw(), utc_us(), facts))

    def _open_log(self) -> LogWriter:
        """Open and judge the log; runs on the writer's thread."""
        store = self._open_store()
        try:
            origin = _kept(store, "origin", f"nightproof.local/{os.urandom(8).hex()}")
            signer = Signer(origin, self.vault.secret("signing_key", new_private_key))
            if _kept(store, "vkey", signer.vkey) != signer.vkey:
                raise VaultLocked(
                    "The log was signed by another key than the vault holds.",
                    hint="Restore the vault.db (or master key) that belongs to this ledger.",
                )
            self._signer = signer
            _keep_vkey(self.state, signer.vkey)
            check_anchors(store, signer.vkey, self.state, self.settings.witness)
            self.last_checkpoint = store.last_checkpoint()
            return LogWriter(
                store,
                keep_keys=self.vault.keep,
                signer=signer,
                seal_every_s=self.settings.ledger.seal_every_s,
                on_sealed=self._sealed,
            )
        except BaseException:
            store.close()
            raise

    def _open_store(self) -> LedgerWriting:
        url = self.settings.ledger.url
        if url:
            from nightproof.storage.ledger_postgres import PostgresLedger

            return PostgresLedger(url)
        return LedgerStore(self.state.ledger_db, adopt=lambda old: adopt(old, self.vault, self.vault_store))

    def _sealed(self, checkpoint: Checkpoint) -> None:
        """Keep the newest checkpoint beside the log too: a tail cut off the database is noticed by it."""
        self.last_checkpoint = checkpoint
        try:
            replace_file(self.state.anchor, checkpoint.note)
        except OSError:
            pass  # a full disk says so in health; the note is in the log


@asynccontextmanager
async def archive_of(settings: Settings, state: StateFolder) -> AsyncIterator[Archive]:
    """Open the archive while no server has the state folder. Raises StateTaken where one has."""
    state.lock()
    try:
        archive = Archive(settings, state)
        await archive.start()
        try:
            yield archive
        finally:
            await archive.stop()
    finally:
        state.unlock()


def open_reader(settings: Settings, state: StateFolder) -> LedgerReading:
    """Open a reader of the log that these settings name, without lock or record."""
    if settings.ledger.url:
        from nightproof.storage.ledger_postgres import PostgresReader

        return PostgresReader(settings.ledger.url)
    return LedgerReader(state.ledger_db)


def _vault_store(settings: Settings, state: StateFolder) -> VaultStoring:
    if settings.ledger.url:
        from nightproof.storage.vault_postgres import VaultPostgres

        return VaultPostgres(settings.ledger.url)
    return VaultStore(state.vault_db)


def _kept(store: LedgerWriting, name: str, value: str) -> str:
    """Return what the log keeps under a name; keep this where it is new."""
    found = store.read_meta(name)
    if found is None:
        store.write_meta(name, value)
        found = store.read_meta(name)
    return found or value


def _keep_vkey(state: StateFolder, vkey: str) -> None:
    """Write the public key beside the log once: verification starts from it."""
    if not state.vkey.exists():
        write_durably(state.vkey, f"{vkey}\n".encode())
