"""Keep labels that came afterwards, and what is known of their sources, in `feedback.db`.

Called by `steer.feedback`, never on the event loop. Promises: a label's content is stored only as it is given,
sealed; one label per prediction; the store keeps `most` labels of a service, the oldest go first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nightproof.storage.sqlite import checkpoint, faults_named, open_store, transaction

VERSION = 1
_STORE = "feedback"
_SCHEMA = """
CREATE TABLE labels(
  service TEXT NOT NULL, request TEXT NOT NULL, item INTEGER NOT NULL,
  release TEXT NOT NULL, source TEXT NOT NULL, at_us INTEGER NOT NULL, answered_us INTEGER NOT NULL,
  correct INTEGER, error REAL, confidence REAL,
  digest BLOB NOT NULL, record BLOB NOT NULL, content BLOB NOT NULL, subject BLOB,
  state TEXT NOT NULL, why TEXT NOT NULL,
  PRIMARY KEY (service, request, item)
) STRICT;
CREATE INDEX labels_newest ON labels(service, release, state, at_us);
CREATE INDEX labels_record ON labels(service, source, record);
CREATE INDEX labels_subject ON labels(subject) WHERE subject IS NOT NULL;
CREATE TABLE sources(
  service TEXT NOT NULL, source TEXT NOT NULL, known BLOB NOT NULL,
  PRIMARY KEY (service, source)
) STRICT;
"""


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A label as it is kept."""

    request: str
    item: int
    release: str
    source: str
    at_us: int
    answered_us: int
    correct: bool | None
    error: float | None
    confidence: float | None
    digest: bytes
    """Keyed, of the label's content."""
    record: bytes
    """Keyed, of the input that it is about."""
    content: bytes
    """Sealed."""
    subject: bytes
    state: str
    why: str


class FeedbackStore:
    """The file `feedback.db`. One lock guards its connection; `at_once` groups what belongs together."""

    def __init__(self, path: Path, *, most: int) -> None:
        self.path = path
        self._most = most
        self._connection = open_store(
            path, store=_STORE, version=VERSION, statements=_SCHEMA, secure_delete=True
        )
        self._door = threading.RLock()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Make everything in the block durable together, or nothing of it."""
        with self._door:
            with transaction(self._connection, self.path):
                yield
            checkpoint(self._connection, self.path)

    def digest_of(self, service: str, request: str, item: int) -> tuple[bytes, str] | None:
        """Return the digest and state of the label that a prediction has already; None if it has none."""
        with self._door, faults_named(self._connection, self.path):
            row: Any = self._connection.execute(
                "SELECT digest, state FROM labels WHERE service = ? AND request = ? AND item = ?",
                (service, request, item),
            ).get
        return None if row is None else (bytes(row[0]), str(row[1]))

    def keep(self, service: str, label: Label) -> None:
        """Keep a label. Called within `at_once`."""
        self._connection.execute(
            "INSERT INTO labels VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                service, label.request, label.item, label.release, label.source, label.at_us, label.answered_us,
                None if label.correct is None else int(label.correct), label.error, label.confidence,
                label.digest, label.record, label.content, label.subject or None, label.state, label.why,
            ),
        )  # fmt: skip

    def trim(self, service: str) -> None:
        """Let the oldest labels go beyond what is kept. Called within `at_once`."""
        self._connection.execute(
            "DELETE FROM labels WHERE rowid IN (SELECT rowid FROM labels WHERE service = ?"
            " ORDER BY at_us DESC, rowid DESC LIMIT -1 OFFSET ?)",
            (service, self._most),
        )

    def count_record(self, service: str, source: str, record: bytes) -> int:
        """Count a source's labels about the very same record."""
        with self._door, faults_named(self._connection, self.path):
            return int(
                self._connection.execute(
                    "SELECT count(*) FROM labels WHERE service = ? AND source = ? AND record = ?",
                    (service, source, record),
                ).get
            )

    def newest(self, service: str, release: str, *, most: int) -> list[tuple[Any, ...]]:
        """Return source, correct, error, confidence, at and answered of counted labels, the newest first."""
        with self._door, faults_named(self._connection, self.path):
            return list(
                self._connection.execute(
                    "SELECT source, correct, error, confidence, at_us, answered_us FROM labels"
                    " WHERE service = ? AND release = ? AND state = 'counted'"
                    " ORDER BY at_us DESC, rowid DESC LIMIT ?",
                    (service, release, most),
                )
            )

    def counts(self, service: str) -> dict[tuple[str, str], int]:
        """Count a service's labels by source and state."""
        with self._door, faults_named(self._connection, self.path):
            found: list[Any] = self._connection.execute(
                "SELECT source, state, count(*) FROM labels WHERE service = ? GROUP BY source, state",
                (service,),
            ).fetchall()
        return {(row[0], row[1]): row[2] for row in found}

    def move(self, service: str, source: str, *, old: str, new: str, why: str, from_us: int = 0) -> int:
        """Give a source's labels in one state another; return how many. Called within `at_once`."""
        self._connection.execute(
            "UPDATE labels SET state = ?, why = ? WHERE service = ? AND source = ? AND state = ? AND at_us >= ?",
            (new, why, service, source, old, from_us),
        )
        return int(self._connection.changes())

    def disagreements(self, service: str, source: str) -> tuple[int, int]:
        """Return a source's counted labels that can be right or wrong, and how many contradict the release."""
        with self._door, faults_named(self._connection, self.path):
            row: Any = self._connection.execute(
                "SELECT count(correct), coalesce(sum(correct = 0), 0) FROM labels"
                " WHERE service = ? AND source = ? AND state = 'counted'",
                (service, source),
            ).get
        return int(row[0]), int(row[1])

    def sources(self, service: str) -> list[bytes]:
        """Return what is known of a service's sources."""
        with self._door, faults_named(self._connection, self.path):
            found: list[Any] = self._connection.execute(
                "SELECT known FROM sources WHERE service = ? ORDER BY source", (service,)
            ).fetchall()
        return [bytes(row[0]) for row in found]

    def keep_source(self, service: str, source: str, known: bytes) -> None:
        """Keep what is known of a source. Called within `at_once`."""
        self._connection.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", (service, source, known))

    def services(self) -> list[str]:
        """Name the services that have sources."""
        with self._door, faults_named(self._connection, self.path):
            found: list[Any] = self._connection.execute("SELECT DISTINCT service FROM sources").fetchall()
        return [row[0] for row in found]

    def forget(self, subject: bytes) -> int:
        """Drop every label about a subject; return how many those were."""
        with self.at_once():
            self._connection.execute("DELETE FROM labels WHERE subject = ?", (subject,))
            return int(self._connection.changes())

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()
