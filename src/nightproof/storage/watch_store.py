"""The file `watch.db`: windows of the meters, so that the night can be looked at in the morning.

Written by `watch.history` from a thread, in small batches. Promises: a batch is in it whole or not at all;
windows of the same time and scope are merged, whatever the clock does; the file stays under its size, and the
oldest windows go first; a damaged file is set aside under another name and a new one begun. It is no audit
log: after a power cut the last seconds may be missing, which saves a sync per batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import apsw
import msgspec

from nightproof.base.clock import utc_us
from nightproof.base.errors import StateError
from nightproof.storage.sqlite import (
    StorageOutcomeUnknown,
    StorageUnavailable,
    checkpoint,
    faults_named,
    open_database,
    prepare_schema,
    transaction,
)

VERSION = 1
Merge = Callable[[bytes, bytes], bytes]
"""Makes one window of two, as they are stored."""

_STORE = "watch"
_PAGE_BYTES = 4_096
_CHECKPOINT_EVERY = 12
_BUSY_WAIT_MS = 1_000
_TRIES = 9
"""How often a tenth of the oldest windows is given up for a batch."""
_NOT_OURS = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError)
_SCHEMA = """
CREATE TABLE windows(
  seq INTEGER PRIMARY KEY,
  span_s INTEGER NOT NULL,
  scope TEXT NOT NULL,
  at_s INTEGER NOT NULL,
  data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX windows_place ON windows(span_s, scope, at_s);
CREATE INDEX windows_order ON windows(span_s, scope, seq);
"""
_FIND = "SELECT seq, data FROM windows WHERE span_s = ? AND scope = ? AND at_s = ?"
_ADD = "INSERT INTO windows(span_s, scope, at_s, data) VALUES (?, ?, ?, ?)"
_CHANGE = "UPDATE windows SET data = ? WHERE seq = ?"
# By the order of writing and not by time: a clock that once stood in the next century must not empty the file.
_FORGET = """
DELETE FROM windows WHERE seq IN (
  SELECT seq FROM windows WHERE span_s = ?1 AND scope = ?2 ORDER BY seq DESC LIMIT -1 OFFSET ?3)
"""
_FORGET_OLDEST = """
DELETE FROM windows WHERE seq IN (
  SELECT seq FROM windows ORDER BY seq LIMIT max(1, (SELECT count(*) FROM windows) / 10))
"""
_SELECT = """
SELECT data FROM windows WHERE span_s = ?1 AND at_s >= ?2 AND at_s <= ?3 AND (?4 IS NULL OR scope = ?4)
ORDER BY at_s, scope
"""


class StoredWindow(msgspec.Struct, frozen=True):
    """One window on its way to the file."""

    span_s: int
    scope: str
    at_s: int
    data: bytes


class WatchStore:
    """The open file. One lock guards its connection."""

    def __init__(
        self, path: Path, *, merge: Merge, keep: Mapping[int, int], most_bytes: int, read_only: bool = False
    ) -> None:
        self.path = path
        self._merge = merge
        self._keep = dict(keep)
        self._is_read_only = read_only
        self._batches = 0
        self._connection = open_database(path, read_only=read_only)
        try:
            if not read_only:
                prepare_schema(self._connection, path, store=_STORE, version=VERSION, statements=_SCHEMA)
                _refuse_damage(self._connection, path)
                self._connection.set_busy_timeout(_BUSY_WAIT_MS)
                self._connection.pragma("synchronous", 1)
                self._connection.pragma("max_page_count", max(64, most_bytes // _PAGE_BYTES))
        except BaseException:
            self._connection.close(True)
            raise
        self._door = threading.Lock()

    def add(self, windows: Iterable[StoredWindow]) -> None:
        """Write a batch; raises StorageUnavailable or StorageOutcomeUnknown, and then nothing of it is there."""
        batch = list(windows)
        with self._door:
            for is_last_try in (*[False] * _TRIES, True):
                try:
                    self._write(batch)
                    break
                except StorageUnavailable:
                    if is_last_try or not self._is_at_its_size(batch):
                        raise
                    with transaction(self._connection, self.path):
                        self._connection.execute(_FORGET_OLDEST)
            self._batches += 1
            if self._batches % _CHECKPOINT_EVERY == 0:
                checkpoint(self._connection, self.path)

    def select(self, span_s: int, *, since_s: int, until_s: int, scope: str | None = None) -> list[bytes]:
        """Return the windows of a span that begin in a time, oldest first."""
        with self._door, faults_named(self._connection, self.path):
            return [
                bytes(row[0]) for row in self._connection.execute(_SELECT, (span_s, since_s, until_s, scope))
            ]

    def count(self) -> int:
        """Return how many windows there are."""
        with self._door, faults_named(self._connection, self.path):
            return int(self._connection.execute("SELECT count(*) FROM windows").get)

    def size_bytes(self) -> int:
        """Return how much room file and log take."""
        return sum(part.stat().st_size for part in (self.path, _beside(self.path, "-wal")) if part.exists())

    def close(self) -> None:
        """Close the file."""
        with self._door:
            if not self._is_read_only:
                checkpoint(self._connection, self.path)
            self._connection.close(True)

    def _write(self, batch: list[StoredWindow]) -> None:
        with transaction(self._connection, self.path):
            touched = set()
            for one in batch:
                known = self._connection.execute(_FIND, (one.span_s, one.scope, one.at_s)).fetchone()
                if known is None:
                    self._connection.execute(_ADD, (one.span_s, one.scope, one.at_s, one.data))
                    touched.add((one.span_s, one.scope))
                else:
                    self._connection.execute(_CHANGE, (self._merge(bytes(known[1]), one.data), known[0]))
            for span_s, scope in touched:
                self._connection.execute(_FORGET, (span_s, scope, self._keep.get(span_s, 1_000)))

    def _is_at_its_size(self, batch: list[StoredWindow]) -> bool:
        """Say whether it was our own limit that refused the batch, and not the disk's."""
        most, pages = self._connection.pragma("max_page_count"), self._connection.pragma("page_count")
        wanted = 2 * sum(len(one.data) + len(one.scope) + 64 for one in batch) // _PAGE_BYTES + 16
        return int(pages) + wanted >= int(most)


def open_or_begin_anew(
    path: Path, *, merge: Merge, keep: Mapping[int, int], most_bytes: int
) -> tuple[WatchStore, str]:
    """Open the file, or set a damaged or foreign one aside and begin a new one.

    Returns the store and, where that happened, the name of what was set aside. Raises StateError where the
    disk takes no file at all: that passes, so nothing is set aside for it.
    """
    try:
        return WatchStore(path, merge=merge, keep=keep, most_bytes=most_bytes), ""
    except StateError as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, _NOT_OURS):
            raise
        aside = _set_aside(path)
    except (StorageUnavailable, StorageOutcomeUnknown) as error:
        if not isinstance(error.__cause__, _NOT_OURS):
            raise StateError(error.text, hint=error.hint) from error
        aside = _set_aside(path)
    return WatchStore(path, merge=merge, keep=keep, most_bytes=most_bytes), aside


def _refuse_damage(connection: apsw.Connection, path: Path) -> None:
    with faults_named(connection, path):
        found = connection.execute("PRAGMA quick_check(1)").get
    if found != "ok":
        raise StateError(f"{path} is damaged: {found}.", hint="It is set aside and a new one begun.")


def _set_aside(path: Path) -> str:
    """Rename the file out of the way; of those set aside before, none is kept: they are no records."""
    for old in path.parent.glob(f"{path.name}.damaged-*"):
        old.unlink(missing_ok=True)
    aside = path.with_name(f"{path.name}.damaged-{utc_us() // 1_000_000}")
    path.rename(aside)
    for ending in ("-wal", "-shm"):
        _beside(path, ending).unlink(missing_ok=True)
    return aside.name


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
