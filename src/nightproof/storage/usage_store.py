"""The file `usage.db`: what keys and services have used of their token and cost budgets today.

Written every few seconds and at the stop, so that a restart gives nobody a new budget; a kill forgets the last few
seconds. Holds counts by service and key id, and no content.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from nightproof.storage.sqlite import checkpoint, faults_named, open_store, transaction

VERSION = 1
_STORE = "usage"
_SCHEMA = """
CREATE TABLE used(
  service TEXT NOT NULL,
  key TEXT NOT NULL,
  counts BLOB NOT NULL,
  PRIMARY KEY (service, key)
) STRICT, WITHOUT ROWID;
"""
_KEEP = "INSERT INTO used VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET counts = excluded.counts"

Line = tuple[str, str, bytes]
"""Service, key id (empty: the service as a whole), and the counts as `limits.budget` writes them."""


class UsageStore:
    """The open file. One lock guards its connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_store(path, store=_STORE, version=VERSION, statements=_SCHEMA)
        self._door = threading.Lock()

    def keep(self, lines: Iterable[Line]) -> None:
        """Write counts in place of those before. Raises StorageUnavailable, and then none of them is there."""
        with self._door, transaction(self._connection, self.path):
            self._connection.executemany(_KEEP, lines)

    def lines(self) -> list[Line]:
        """Return what was kept."""
        with self._door, faults_named(self._connection, self.path):
            rows = self._connection.execute("SELECT service, key, counts FROM used")
            return [(service, key, bytes(counts)) for service, key, counts in rows]

    def forget(self, keys: Iterable[tuple[str, str]]) -> None:
        """Remove lines that say nothing any more."""
        with self._door, transaction(self._connection, self.path):
            self._connection.executemany("DELETE FROM used WHERE service = ? AND key = ?", keys)

    def close(self) -> None:
        """Close the file."""
        with self._door:
            checkpoint(self._connection, self.path)
            self._connection.close()
