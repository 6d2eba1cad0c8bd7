"""Keep records that were set aside: what they were, why, and until when they are refused.

The pipeline holds a poison record here and asks once for the fingerprints that are refused; operators list,
show, release and replay through `steer`. Promises: the input is stored only through `seal`; an entry that has
expired is refused no longer, and can still be looked at; the store keeps `most` entries, the oldest go first.
"""

# ruff: noqa: S608 (statements are joined from our own constants; values are always bound)

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

from nightproof.base.clock import utc_us
from nightproof.storage.sqlite import (
    NotFound,
    checkpoint,
    faults_named,
    open_database,
    prepare_schema,
    transaction,
)

VERSION = 2
HELD_S = 3_600.0
MOST_ENTRIES = 1_000

State = Literal["held", "released", "replayed"]
Seal = Callable[[bytes, bytes], bytes]
"""Turns content, about a subject or (empty) about nobody, into what is stored."""
Unseal = Callable[[bytes], bytes]

_STORE = "quarantine"
_SCHEMA = """
CREATE TABLE entries(
  id TEXT PRIMARY KEY,
  service TEXT NOT NULL,
  release TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  reason TEXT NOT NULL,
  at_us INTEGER NOT NULL,
  expires_us INTEGER NOT NULL,
  state TEXT NOT NULL,
  input BLOB NOT NULL,
  subject BLOB
) STRICT;
CREATE UNIQUE INDEX entries_held ON entries(service, release, fingerprint) WHERE state = 'held';
"""
_COLUMNS = "id, service, release, fingerprint, reason, at_us, expires_us, state"
_HOLD = f"""
INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, 'held', ?, ?)
ON CONFLICT (service, release, fingerprint) WHERE state = 'held'
DO UPDATE SET reason = excluded.reason, at_us = excluded.at_us, expires_us = excluded.expires_us
RETURNING {_COLUMNS}
"""
_FORGET = """
DELETE FROM entries WHERE id IN (SELECT id FROM entries ORDER BY at_us DESC, rowid DESC LIMIT -1 OFFSET ?)
"""
_LIST = f"""
SELECT {_COLUMNS} FROM entries WHERE ?1 IS NULL OR service = ?1 ORDER BY at_us DESC, rowid DESC LIMIT ?2
"""
_ACTIVE = """
SELECT fingerprint FROM entries WHERE service = ? AND release = ? AND state = 'held' AND expires_us > ?
"""


class QuarantineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A record set aside, without its input."""

    id: str
    service: str
    release: str
    fingerprint: bytes
    """SHA-256 of the input's canonical form."""
    reason: str
    """Code of the failure catalogue."""
    at_us: int
    expires_us: int
    state: State

    def is_refused(self, now_us: int) -> bool:
        """Say whether requests with this input are refused now."""
        return self.state == "held" and now_us < self.expires_us


class QuarantineStore:
    """The file `quarantine.db`. One lock guards its connection."""

    def __init__(
        self,
        path: Path,
        *,
        seal: Seal = lambda content, subject: content,
        unseal: Unseal = lambda sealed: sealed,
        most: int = MOST_ENTRIES,
    ) -> None:
        self.path = path
        self._connection = open_database(path, secure_delete=True)
        try:
            _seal_first_form(self._connection, path, seal)
            prepare_schema(self._connection, path, store=_STORE, version=VERSION, statements=_SCHEMA)
        except BaseException:
            self._connection.close(True)
            raise
        self._door = threading.Lock()
        self._seal = seal
        self._unseal = unseal
        self._most = most

    def hold(
        self,
        *,
        service: str,
        release: str,
        fingerprint: bytes,
        reason: str,
        input_bytes: bytes,
        subject: bytes = b"",
        held_s: float = HELD_S,
        now_us: int | None = None,
    ) -> QuarantineEntry:
        """Set a record aside; one that is held already is held anew, under its old id."""
        now_us = utc_us() if now_us is None else now_us
        expires_us = now_us + int(held_s * 1_000_000)
        with self._door, transaction(self._connection, self.path):
            row = self._connection.execute(
                _HOLD,
                (
                    f"q_{secrets.token_hex(6)}",
                    service,
                    release,
                    fingerprint,
                    reason,
                    now_us,
                    expires_us,
                    self._seal(input_bytes, subject),
                    subject or None,
                ),
            ).get
            self._connection.execute(_FORGET, (self._most,))
        self._settle()
        return _entry(row)

    def list(self, service: str | None = None, *, most: int = 100) -> tuple[QuarantineEntry, ...]:
        """Return entries, the newest first, of one service or of all."""
        with self._door, faults_named(self._connection, self.path):
            found = self._connection.execute(_LIST, (service, most))
            return tuple(_entry(row) for row in found)

    def show(self, entry_id: str) -> tuple[QuarantineEntry, bytes]:
        """Return an entry with its input in clear. Raises NotFound."""
        with self._door, faults_named(self._connection, self.path):
            row = self._connection.execute(
                f"SELECT {_COLUMNS}, input FROM entries WHERE id = ?", (entry_id,)
            ).get
        if row is None:
            raise _not_found(entry_id)
        return _entry(row[:-1]), self._unseal(row[-1])

    def release(self, entry_id: str) -> QuarantineEntry:
        """Let requests with this input through again. Raises NotFound."""
        return self._move(entry_id, "released")

    def mark_replayed(self, entry_id: str) -> QuarantineEntry:
        """Note that the record was run again and answered; it is refused no longer. Raises NotFound."""
        return self._move(entry_id, "replayed")

    def active_fingerprints(self, service: str, release: str, now_us: int) -> frozenset[bytes]:
        """Return the fingerprints that are refused now, for the caller to keep in memory."""
        with self._door, faults_named(self._connection, self.path):
            found = self._connection.execute(_ACTIVE, (service, release, now_us))
            return frozenset(row[0] for row in found)

    def forget(self, subject: bytes) -> int:
        """Drop everything about a subject; return how many entries that were."""
        with self._door, transaction(self._connection, self.path):
            self._connection.execute("DELETE FROM entries WHERE subject = ?", (subject,))
            gone = int(self._connection.changes())
        self._settle()
        return gone

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()

    def _move(self, entry_id: str, state: State) -> QuarantineEntry:
        with self._door, transaction(self._connection, self.path):
            row = self._connection.execute(
                f"UPDATE entries SET state = ? WHERE id = ? RETURNING {_COLUMNS}", (state, entry_id)
            ).get
            if row is None:
                raise _not_found(entry_id)
        self._settle()
        return _entry(row)

    def _settle(self) -> None:
        with self._door:
            checkpoint(self._connection, self.path)


def _seal_first_form(connection: apsw.Connection, path: Path, seal: Seal) -> None:
    """Seal what a file of the first form holds in the clear."""
    with faults_named(connection, path):
        if connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'schema'").get == 0:
            return
        if connection.execute("SELECT version FROM schema").get != 1:
            return
    with transaction(connection, path):
        connection.execute("ALTER TABLE entries ADD COLUMN subject BLOB")
        held: list[Any] = connection.execute("SELECT id, input FROM entries").fetchall()
        for entry_id, content in held:
            connection.execute("UPDATE entries SET input = ? WHERE id = ?", (seal(content, b""), entry_id))
        connection.execute("UPDATE schema SET version = 2")


def _entry(row: tuple[object, ...]) -> QuarantineEntry:
    return msgspec.convert(dict(zip(_COLUMNS.split(", "), row, strict=True)), QuarantineEntry)


def _not_found(entry_id: str) -> NotFound:
    return NotFound(
        f"There is no quarantine entry {entry_id}.", hint="`nightproof quarantine list` shows them."
    )
