"""Keep profiles, detectors and alarms of the drift watch in `drift.db`, across restarts, bounded.

Called by `watch.drift.watcher`, through the runtime, never on the event loop. Promises: everything that may hold
callers' values (profiles, states, examples) is stored only as it is given, sealed; a state without its profile is
not returned; the oldest alarms go first.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec

from nightproof.storage.sqlite import checkpoint, faults_named, open_store, transaction

VERSION = 1
MOST_PROFILES = 200
MOST_ALARMS = 500

_STORE = "drift"
_SCHEMA = """
CREATE TABLE profiles(
  service TEXT NOT NULL, digest TEXT NOT NULL, at_us INTEGER NOT NULL, content BLOB NOT NULL,
  PRIMARY KEY (service, digest)
) STRICT;
CREATE TABLE states(
  service TEXT NOT NULL, digest TEXT NOT NULL, at_us INTEGER NOT NULL, content BLOB NOT NULL,
  PRIMARY KEY (service, digest)
) STRICT;
CREATE TABLE alarms(
  id INTEGER PRIMARY KEY,
  service TEXT NOT NULL, release TEXT NOT NULL, digest TEXT NOT NULL,
  at_us INTEGER NOT NULL, since_us INTEGER NOT NULL, ended_us INTEGER, signals TEXT NOT NULL
) STRICT;
CREATE TABLE examples(
  alarm INTEGER NOT NULL REFERENCES alarms(id) ON DELETE CASCADE,
  place INTEGER NOT NULL, signal TEXT NOT NULL, cell BLOB NOT NULL, content BLOB NOT NULL, subject BLOB,
  PRIMARY KEY (alarm, place)
) STRICT;
CREATE INDEX examples_subject ON examples(subject) WHERE subject IS NOT NULL;
"""


class StoredAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm as it is kept."""

    id: int
    service: str
    release: str
    digest: str
    at_us: int
    since_us: int
    ended_us: int | None
    signals: list[str]
    examples: int


class StoredExample(msgspec.Struct, frozen=True):
    """A sealed record that shows what moved."""

    signal: str
    cell: bytes
    content: bytes
    subject: bytes


class DriftStore:
    """The file `drift.db`. One lock guards its connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_store(
            path, store=_STORE, version=VERSION, statements=_SCHEMA, secure_delete=True
        )
        self._door = threading.Lock()

    def keep_profile(self, service: str, digest: str, content: bytes, *, at_us: int) -> None:
        """Keep a release's profile; what was kept of it before, and the state that goes with that, is gone."""
        with self._door, transaction(self._connection, self.path):
            self._connection.execute(
                "INSERT OR REPLACE INTO profiles VALUES (?, ?, ?, ?)", (service, digest, at_us, content)
            )
            self._connection.execute("DELETE FROM states WHERE service = ? AND digest = ?", (service, digest))
            self._connection.execute(
                "DELETE FROM profiles WHERE rowid IN"
                " (SELECT rowid FROM profiles ORDER BY at_us DESC LIMIT -1 OFFSET ?)",
                (MOST_PROFILES,),
            )
            self._connection.execute(
                "DELETE FROM states WHERE (service, digest) NOT IN (SELECT service, digest FROM profiles)"
            )
        self._settle()

    def find(self, service: str, digest: str) -> tuple[bytes, bytes]:
        """Return the kept profile and state of a release; empty where there is none."""
        with self._door, faults_named(self._connection, self.path):
            key = (service, digest)
            profile = self._connection.execute(
                "SELECT content FROM profiles WHERE service = ? AND digest = ?", key
            ).get
            state = self._connection.execute(
                "SELECT content FROM states WHERE service = ? AND digest = ?", key
            ).get
        if profile is None:
            return b"", b""
        return bytes(profile), bytes(state) if state is not None else b""

    def keep_state(self, service: str, digest: str, content: bytes, *, at_us: int) -> None:
        """Keep where the detector of a release stands."""
        with self._door, transaction(self._connection, self.path):
            self._connection.execute(
                "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", (service, digest, at_us, content)
            )
        self._settle()

    def raise_alarm(
        self,
        *,
        service: str,
        release: str,
        digest: str,
        at_us: int,
        since_us: int,
        signals: list[str],
        examples: list[StoredExample],
    ) -> int:
        """Keep an alarm with its examples; return its number."""
        with self._door, transaction(self._connection, self.path):
            number = self._connection.execute(
                "INSERT INTO alarms(service, release, digest, at_us, since_us, signals)"
                " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                (service, release, digest, at_us, since_us, "\n".join(signals)),
            ).get
            for place, one in enumerate(examples):
                self._connection.execute(
                    "INSERT INTO examples VALUES (?, ?, ?, ?, ?, ?)",
                    (number, place, one.signal, one.cell, one.content, one.subject or None),
                )
            self._connection.execute(
                "DELETE FROM alarms WHERE id IN (SELECT id FROM alarms ORDER BY id DESC LIMIT -1 OFFSET ?)",
                (MOST_ALARMS,),
            )
        self._settle()
        return int(number)

    def end_alarms(self, service: str, *, at_us: int) -> None:
        """Note that a service's standing alarms are over."""
        with self._door, transaction(self._connection, self.path):
            self._connection.execute(
                "UPDATE alarms SET ended_us = ? WHERE service = ? AND ended_us IS NULL", (at_us, service)
            )
        self._settle()

    def alarms(self, service: str, *, most: int = 20) -> list[StoredAlarm]:
        """Return a service's alarms, the newest first."""
        with self._door, faults_named(self._connection, self.path):
            found: list[Any] = self._connection.execute(
                "SELECT id, service, release, digest, at_us, since_us, ended_us, signals,"
                " (SELECT count(*) FROM examples WHERE alarm = alarms.id)"
                " FROM alarms WHERE service = ? ORDER BY id DESC LIMIT ?",
                (service, most),
            ).fetchall()
        return [
            StoredAlarm(
                id=row[0],
                service=row[1],
                release=row[2],
                digest=row[3],
                at_us=row[4],
                since_us=row[5],
                ended_us=row[6],
                signals=row[7].split("\n"),
                examples=row[8],
            )
            for row in found
        ]

    def examples(self, alarm: int) -> list[StoredExample]:
        """Return an alarm's examples, sealed."""
        with self._door, faults_named(self._connection, self.path):
            found: list[Any] = self._connection.execute(
                "SELECT signal, cell, content, subject FROM examples WHERE alarm = ? ORDER BY place", (alarm,)
            ).fetchall()
        return [StoredExample(row[0], bytes(row[1]), bytes(row[2]), bytes(row[3] or b"")) for row in found]

    def forget(self, subject: bytes) -> int:
        """Drop every example about a subject; return how many those were."""
        with self._door, transaction(self._connection, self.path):
            self._connection.execute("DELETE FROM examples WHERE subject = ?", (subject,))
            gone = int(self._connection.changes())
        self._settle()
        return gone

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()

    def _settle(self) -> None:
        with self._door:
            checkpoint(self._connection, self.path)
