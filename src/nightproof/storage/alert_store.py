"""Keep alerts, what is still to be told, silences, and the counts that windows are cut from.

The file `alerts.db`. Called by `steer.oncall` from a thread. Promises: a change of state and what it has receivers
told are one transaction, so a restart in the middle neither loses nor doubles an alert; what waits for a receiver
comes out in the order it went in. Everything is bytes here; what they mean is known above.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightproof.storage.sqlite import checkpoint, faults_named, open_store, transaction

VERSION = 1

_STORE = "alerts"
_SCHEMA = """
CREATE TABLE alerts(key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE outbox(
  receiver TEXT NOT NULL,
  id TEXT NOT NULL,
  at INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  waited_s REAL NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (receiver, id)
) STRICT;
CREATE TABLE unrecorded(id TEXT PRIMARY KEY, at INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE silences(id TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE counts(service TEXT NOT NULL, at_us INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX counts_at ON counts(at_us);
"""
_PUT_ALERT = "INSERT INTO alerts VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body"
_PUT_SILENCE = "INSERT INTO silences VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
_NEXT = "SELECT coalesce(max(at), 0) + 1 FROM {table}"


class PutAlert(msgspec.Struct, frozen=True):
    """Keep an alert's present state."""

    key: str
    body: bytes


class DropAlert(msgspec.Struct, frozen=True):
    """Forget an alert that is over."""

    key: str


class PutParcel(msgspec.Struct, frozen=True):
    """Keep what a receiver is to be told."""

    receiver: str
    id: str
    body: bytes


class TouchParcel(msgspec.Struct, frozen=True):
    """Note how often, and for how long, a parcel was tried."""

    receiver: str
    id: str
    attempts: int
    waited_s: float


class DropParcel(msgspec.Struct, frozen=True):
    """Forget a parcel: it arrived, or was given up."""

    receiver: str
    id: str


class PutUnrecorded(msgspec.Struct, frozen=True):
    """Keep what the audit log is still to be told."""

    id: str
    body: bytes


class DropUnrecorded(msgspec.Struct, frozen=True):
    """Forget what the audit log has been told."""

    id: str


class PutSilence(msgspec.Struct, frozen=True):
    """Keep a silence."""

    id: str
    body: bytes


class DropSilence(msgspec.Struct, frozen=True):
    """Forget a silence."""

    id: str


class PutCounts(msgspec.Struct, frozen=True):
    """Keep one point of a service's counts, and drop those older than `keep_from_us`."""

    service: str
    at_us: int
    body: bytes
    keep_from_us: int


Change = (
    PutAlert
    | DropAlert
    | PutParcel
    | TouchParcel
    | DropParcel
    | PutUnrecorded
    | DropUnrecorded
    | PutSilence
    | DropSilence
    | PutCounts
)


class KeptParcel(msgspec.Struct, frozen=True):
    """A parcel as it was kept."""

    receiver: str
    id: str
    attempts: int
    waited_s: float
    body: bytes


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the run before left."""

    alerts: Sequence[bytes]
    parcels: Sequence[KeptParcel]
    unrecorded: Sequence[tuple[str, bytes]]
    silences: Sequence[bytes]
    counts: Sequence[tuple[str, int, bytes]]


class AlertStore:
    """The file `alerts.db`. One lock guards its connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_store(path, store=_STORE, version=VERSION, statements=_SCHEMA)
        self._door = threading.Lock()

    def apply(self, changes: Iterable[Change]) -> None:
        """Make these changes durable, all or none. Raises StorageUnavailable or StorageOutcomeUnknown."""
        with self._door, transaction(self._connection, self.path):
            for change in changes:
                self._apply(change)
        with self._door:
            checkpoint(self._connection, self.path)

    def read(self) -> Kept:
        """Return everything that is kept."""
        with self._door, faults_named(self._connection, self.path):
            run = self._connection.execute
            return Kept(
                alerts=[row[0] for row in run("SELECT body FROM alerts")],
                parcels=[
                    KeptParcel(*row)
                    for row in run("SELECT receiver, id, attempts, waited_s, body FROM outbox ORDER BY at")
                ],
                unrecorded=list(run("SELECT id, body FROM unrecorded ORDER BY at")),
                silences=[row[0] for row in run("SELECT body FROM silences")],
                counts=list(run("SELECT service, at_us, body FROM counts ORDER BY rowid")),
            )

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()

    def _apply(self, change: Change) -> None:
        match change:
            case PutAlert(key, body):
                self._run(_PUT_ALERT, key, body)
            case DropAlert(key):
                self._run("DELETE FROM alerts WHERE key = ?", key)
            case PutParcel(receiver, parcel_id, body):
                at = self._connection.execute(_NEXT.format(table="outbox")).get
                self._run(
                    "INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, 0, 0.0, ?)", receiver, parcel_id, at, body
                )
            case TouchParcel(receiver, parcel_id, attempts, waited_s):
                self._run(
                    "UPDATE outbox SET attempts = ?, waited_s = ? WHERE receiver = ? AND id = ?",
                    attempts,
                    waited_s,
                    receiver,
                    parcel_id,
                )
            case DropParcel(receiver, parcel_id):
                self._run("DELETE FROM outbox WHERE receiver = ? AND id = ?", receiver, parcel_id)
            case PutUnrecorded(entry_id, body):
                at = self._connection.execute(_NEXT.format(table="unrecorded")).get
                self._run("INSERT OR IGNORE INTO unrecorded VALUES (?, ?, ?)", entry_id, at, body)
            case DropUnrecorded(entry_id):
                self._run("DELETE FROM unrecorded WHERE id = ?", entry_id)
            case PutSilence(silence_id, body):
                self._run(_PUT_SILENCE, silence_id, body)
            case DropSilence(silence_id):
                self._run("DELETE FROM silences WHERE id = ?", silence_id)
            case PutCounts(service, at_us, body, keep_from_us):
                self._run("INSERT INTO counts VALUES (?, ?, ?)", service, at_us, body)
                self._run("DELETE FROM counts WHERE at_us < ? OR at_us > ?", keep_from_us, at_us)

    def _run(self, statement: str, *values: Any) -> None:
        self._connection.execute(statement, values)
