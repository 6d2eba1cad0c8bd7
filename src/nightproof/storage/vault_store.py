"""Keep the data keys that seal content, each wrapped by another key: the file `vault.db`, apart from the log.

Written by the ledger's writer thread (new keys, before the content they lock) and by operators' verbs. Promises:
when `add` returns, the keys survive a power cut; when `destroy_subject` returns, no trace of the subject's keys
is left in the file or its write-ahead log. Never sees a key in the clear.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import apsw

from nightproof.base.errors import StateError
from nightproof.storage.sqlite import faults_named, open_store, transaction

VERSION = 1
_STORE = "vault"
_SCHEMA = """
CREATE TABLE epochs(number INTEGER PRIMARY KEY, made_us INTEGER NOT NULL, wrapped BLOB NOT NULL) STRICT;
CREATE TABLE keys(
  kid BLOB PRIMARY KEY,
  epoch INTEGER NOT NULL,
  subject BLOB,
  made_us INTEGER NOT NULL,
  wrapped BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_subject ON keys(subject) WHERE subject IS NOT NULL;
CREATE TABLE secrets(name TEXT PRIMARY KEY, wrapped BLOB NOT NULL) STRICT;
CREATE TABLE destroyed(at_us INTEGER NOT NULL, keys INTEGER NOT NULL) STRICT;
"""


class WrappedKey(NamedTuple):
    """A data key as it is kept."""

    kid: bytes
    """Its name, 8 random bytes."""
    epoch: int
    """The key of keys that wraps it."""
    subject: bytes | None
    """Pseudonym of the one person whose content it seals; None where it seals other content."""
    made_us: int
    wrapped: bytes


class Epoch(NamedTuple):
    """A key of keys, wrapped by the master key."""

    number: int
    made_us: int
    wrapped: bytes


class VaultStoring(Protocol):
    """Where wrapped keys are kept. May be used from several threads."""

    def add(self, keys: Sequence[WrappedKey]) -> None:
        """Keep new keys; they are durable at return. Raises StorageUnavailable or StorageOutcomeUnknown."""

    def get(self, kid: bytes) -> WrappedKey | None:
        """Return a key; None where it never was, or is destroyed."""

    def destroy_subject(self, subject: bytes, at_us: int, *, made_by_us: int | None = None) -> int:
        """Destroy a subject's keys for good, all or those made until then; return how many. Again counts 0."""

    def destroyed(self) -> int:
        """Return a number that grows with each destruction, whoever did it."""

    def epochs(self) -> list[Epoch]:
        """Return all keys of keys, the oldest first."""

    def add_epoch(self, epoch: Epoch) -> None:
        """Keep a new key of keys."""

    def rewrap(self, epochs: Sequence[Epoch], secrets: Mapping[str, bytes]) -> None:
        """Replace what the master key wraps, all of it or nothing."""

    def secret(self, name: str) -> bytes | None:
        """Return a wrapped secret."""

    def secrets(self) -> dict[str, bytes]:
        """Return all wrapped secrets."""

    def keep_secret(self, name: str, wrapped: bytes) -> bytes:
        """Keep a wrapped secret unless there is one of that name; return the one that is kept."""

    def close(self) -> None:
        """Let go of the store. Closing twice is fine."""


class VaultStore:
    """The vault of a state folder. One lock guards its connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_store(
            path, store=_STORE, version=VERSION, statements=_SCHEMA, secure_delete=True
        )
        self._door = threading.Lock()

    def add(self, keys: Sequence[WrappedKey]) -> None:
        """Keep new keys; they are durable at return."""
        with self._door, transaction(self._connection, self.path):
            self._connection.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?)", keys)
        self._settle(only_above_pages=1_000)

    def get(self, kid: bytes) -> WrappedKey | None:
        """Return a key; None where it never was, or is destroyed."""
        with self._door, faults_named(self._connection, self.path):
            row = self._connection.execute("SELECT * FROM keys WHERE kid = ?", (kid,)).get
        return None if row is None else WrappedKey(*row)

    def destroy_subject(self, subject: bytes, at_us: int, *, made_by_us: int | None = None) -> int:
        """Destroy a subject's keys; the file's own bytes and its write-ahead log are cleaned too.

        Raises StateError where a reader of the file keeps old pages alive: then ask again.
        """
        with self._door:
            with transaction(self._connection, self.path):
                self._connection.execute(
                    "DELETE FROM keys WHERE subject = ?1 AND (?2 IS NULL OR made_us <= ?2)",
                    (subject, made_by_us),
                )
                gone = self._connection.changes()
                if gone:
                    self._connection.execute("INSERT INTO destroyed VALUES (?, ?)", (at_us, gone))
            with faults_named(self._connection, self.path):
                try:
                    # Pages with the wrapped keys are still in the log's file until it is emptied.
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                except apsw.BusyError as error:
                    raise StateError(
                        f"{self.path} is being read, so the traces of destroyed keys are not yet wiped.",
                        hint="The keys are gone for us; ask for the erasure once more.",
                    ) from error
        return int(gone)

    def destroyed(self) -> int:
        """Return a number that grows with each destruction."""
        with self._door, faults_named(self._connection, self.path):
            return int(self._connection.execute("SELECT count(*) FROM destroyed").get)

    def epochs(self) -> list[Epoch]:
        """Return all keys of keys, the oldest first."""
        with self._door, faults_named(self._connection, self.path):
            return [Epoch(*row) for row in self._connection.execute("SELECT * FROM epochs ORDER BY number")]

    def add_epoch(self, epoch: Epoch) -> None:
        """Keep a new key of keys."""
        with self._door, transaction(self._connection, self.path):
            self._connection.execute("INSERT INTO epochs VALUES (?, ?, ?)", epoch)

    def rewrap(self, epochs: Sequence[Epoch], secrets: Mapping[str, bytes]) -> None:
        """Replace what the master key wraps, all of it or nothing."""
        with self._door, transaction(self._connection, self.path):
            for number, _, wrapped in epochs:
                self._connection.execute("UPDATE epochs SET wrapped = ? WHERE number = ?", (wrapped, number))
            for name, wrapped in secrets.items():
                self._connection.execute("UPDATE secrets SET wrapped = ? WHERE name = ?", (wrapped, name))
        self._settle()

    def secret(self, name: str) -> bytes | None:
        """Return a wrapped secret."""
        with self._door, faults_named(self._connection, self.path):
            found = self._connection.execute("SELECT wrapped FROM secrets WHERE name = ?", (name,)).get
        return None if found is None else bytes(found)

    def secrets(self) -> dict[str, bytes]:
        """Return all wrapped secrets."""
        with self._door, faults_named(self._connection, self.path):
            return dict(self._connection.execute("SELECT name, wrapped FROM secrets"))

    def keep_secret(self, name: str, wrapped: bytes) -> bytes:
        """Keep a wrapped secret unless there is one of that name; return the one that is kept."""
        with self._door, transaction(self._connection, self.path):
            self._connection.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, wrapped))
            return bytes(self._connection.execute("SELECT wrapped FROM secrets WHERE name = ?", (name,)).get)

    def close(self) -> None:
        """Let go of the file."""
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()

    def _settle(self, *, only_above_pages: int = 0) -> None:
        """Move the write-ahead log into the file when it has grown; nothing waits for that."""
        with self._door:
            try:
                pages, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                if pages > only_above_pages:
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.Error:
                return  # what was committed stands; the next one moves it
