"""The audit log opened for use: its one writer, its vault of keys, and readers.

A server's writer is a process of its own (`steer/log_program.py`), a verb's a thread.

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
from nightproof.audit.links import ProcessLink, ThreadLink
from nightproof.audit.messages import FromWriter, Link, Open, Opened, Sealed
from nightproof.audit.record import Entry, make_entry
from nightproof.audit.seal import Signer, new_private_key
from nightproof.audit.vault import Vault
from nightproof.audit.witness import check_anchors
from nightproof.audit.writer import LogWriter
from nightproof.audit.writing import OpenLog
from nightproof.base.clock import utc_us
from nightproof.base.ids import RequestIds
from nightproof.settings.carry import write_settings
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
        on_writer_lost: Callable[[str], None] = lambda why: None,
        is_apart: bool = False,
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
        self.vault_store = open_vault_store(settings, state)
        try:
            self.vault = Vault(self.vault_store, master, now_us=utc_us())
        except BaseException:
            self.vault_store.close()
            raise
        self._master = master
        self._is_apart = is_apart
        self.ledger = Ledger(
            self._link,
            settings.ledger,
            on_fence=on_fence,
            on_lost=on_lost,
            on_state=on_state,
            on_opened=self._opened,
            on_sealed=self._sealed,
            on_written=self._written,
            on_writer_lost=on_writer_lost,
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

    def _link(self) -> Link:
        if not self._is_apart:
            return ThreadLink(
                lambda tell: open_log(self.settings, self.state, self.vault, self.vault_store, tell),
                self.settings.ledger,
            )
        return ProcessLink(
            ["-m", "nightproof.steer.log_program"],
            lambda: Open(write_settings(self.settings), self._master),
            lock_fd=self.state.lock_fd,
        )

    def _opened(self, opened: Opened) -> None:
        self._signer = Signer(opened.origin, self.vault.secret("signing_key", new_private_key))
        self.last_checkpoint = opened.checkpoint

    def _sealed(self, checkpoint: Checkpoint) -> None:
        self.last_checkpoint = checkpoint

    def _written(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.keys:
                self.vault.kept(entry.keys)


def open_log(
    settings: Settings,
    state: StateFolder,
    vault: Vault,
    vault_store: VaultStoring,
    tell: Callable[[FromWriter], None],
) -> OpenLog:
    """Open and judge the log for its writer. Raises StateError where it must not be written."""
    store = _open_store(settings, state, vault, vault_store)

    def sealed(checkpoint: Checkpoint) -> None:
        """Keep the newest checkpoint beside the log too: a tail cut off the database is noticed by it."""
        try:
            replace_file(state.anchor, checkpoint.note)
        except OSError:
            pass  # a full disk says so in health; the note is in the log
        tell(Sealed(checkpoint))

    try:
        origin = _kept(store, "origin", f"nightproof.local/{os.urandom(8).hex()}")
        signer = Signer(origin, vault.secret("signing_key", new_private_key))
        if _kept(store, "vkey", signer.vkey) != signer.vkey:
            raise VaultLocked(
                "The log was signed by another key than the vault holds.",
                hint="Restore the vault.db (or master key) that belongs to this ledger.",
            )
        _keep_vkey(state, signer.vkey)
        check_anchors(store, signer.vkey, state, settings.witness)
        writer = LogWriter(
            store,
            keep_keys=vault_store.add,
            signer=signer,
            seal_every_s=settings.ledger.seal_every_s,
            on_sealed=sealed,
        )
    except BaseException:
        store.close()
        raise
    return OpenLog(writer, origin, signer.vkey)


def _open_store(
    settings: Settings, state: StateFolder, vault: Vault, vault_store: VaultStoring
) -> LedgerWriting:
    if settings.ledger.url:
        from nightproof.storage.ledger_postgres import PostgresLedger

        return PostgresLedger(settings.ledger.url)
    return LedgerStore(state.ledger_db, adopt=lambda old: adopt(old, vault, vault_store))


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


def open_vault_store(settings: Settings, state: StateFolder) -> VaultStoring:
    """Open the vault's store that these settings name."""
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
