"""Keep the ledger's entries: append durably, read back.

`LedgerStore` is called by the one writer thread of the audit room; `LedgerReader` by anyone else, one per
thread. Promises: when `append` returns, every row survives a power cut; when it raises StorageUnavailable,
none of them is there; after StorageOutcomeUnknown the store is fenced and writes nothing more, since a row
may or may not be found at the next start. Never looks into a leaf or a payload, never updates, never deletes.
"""

# ruff: noqa: S608 (statements are joined from our own constants; values are always bound)

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

from nightproof.storage.sqlite import (
    StorageOutcomeUnknown,
    StorageUnavailable,
    fault_of,
    faults_named,
    open_database,
    prepare_schema,
    require_schema,
)

VERSION = 1
MOST_ROWS = 64
"""Most rows of one statement; a larger batch takes several, in one transaction."""

_STORE = "ledger"
_SCHEMA = """
CREATE TABLE entries(
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL,
  at_us INTEGER NOT NULL,
  kind TEXT NOT NULL,
  idem BLOB,
  leaf BLOB NOT NULL,
  payload BLOB
) STRICT;
CREATE INDEX entries_id ON entries(id);
CREATE INDEX entries_idem ON entries(idem) WHERE idem IS NOT NULL;
"""
_COLUMNS = "seq, id, at_us, kind, idem, leaf, payload"
# One step of SQLite gives up the interpreter lock and has to win it back, so a batch is one statement that
# commits by itself. A statement of each size is prepared once: its price is about 1 µs per row.
_INSERT = [
    f"INSERT INTO entries VALUES {', '.join(['(?, ?, ?, ?, ?, ?, ?)'] * n)}" for n in range(MOST_ROWS + 1)
]

Row = tuple[int, str, int, str, bytes | None, bytes, bytes | None]
"""seq, id, at_us, kind, idem, leaf, payload."""


class Entry(NamedTuple):
    """A row as it is read back."""

    seq: int
    id: str
    at_us: int
    kind: str
    idem: bytes | None
    leaf: bytes
    payload: bytes | None


class _Ledger:
    """What can be asked of the ledger's file, through whichever connection."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self.path = path
        self._connection = connection

    def last_seq(self) -> int:
        """Return the highest seq, or -1 for an empty ledger."""
        with faults_named(self._connection, self.path):
            found = self._connection.execute("SELECT max(seq) FROM entries").get
        return -1 if found is None else int(found)

    def count(self) -> int:
        """Count the rows."""
        with faults_named(self._connection, self.path):
            return int(self._connection.execute("SELECT count(*) FROM entries").get)

    def by_id(self, request_id: str) -> list[Entry]:
        """Return the entries of a request in the order they were written; a stream has two."""
        return self._select("WHERE id = ? ORDER BY seq", request_id)

    def by_idem(self, idem: bytes, not_before_us: int) -> Entry | None:
        """Return the latest entry under an idempotency key that is not older than `not_before_us`."""
        found = self._select("WHERE idem = ? AND at_us >= ? ORDER BY seq DESC LIMIT 1", idem, not_before_us)
        return found[0] if found else None

    def entries(self, first_seq: int = 0, *, most: int = 1_000) -> list[Entry]:
        """Return up to `most` entries from `first_seq` on."""
        return self._select("WHERE seq >= ? ORDER BY seq LIMIT ?", first_seq, most)

    def all_entries(self, first_seq: int = 0) -> Iterator[Entry]:
        """Go through all entries from `first_seq` on, without holding them or the file."""
        while page := self.entries(first_seq):
            yield from page
            first_seq = page[-1].seq + 1

    def quick_check(self) -> list[str]:
        """Let SQLite read the whole file for damage; return what it found, nothing when all is well."""
        with faults_named(self._connection, self.path):
            found = [str(row[0]) for row in self._connection.execute("PRAGMA quick_check")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with faults_named(self._connection, self.path):
            self._connection.close()

    def _select(self, rest: str, *values: int | str | bytes) -> list[Entry]:
        with faults_named(self._connection, self.path):
            found = self._connection.execute(f"SELECT {_COLUMNS} FROM entries {rest}", values)
            return [Entry(*row) for row in found]


class LedgerReader(_Ledger):
    """Read a ledger that another thread or process writes. Not to be shared between threads."""

    def __init__(self, path: Path) -> None:
        connection = open_database(path, read_only=True)
        try:
            require_schema(connection, path, store=_STORE, version=VERSION)
        except BaseException:
            connection.close(True)
            raise
        super().__init__(path, connection)


class LedgerStore(_Ledger):
    """The one that writes. Holds the only read-write connection to the file."""

    def __init__(self, path: Path) -> None:
        connection = open_database(path, statements=MOST_ROWS + 32)
        try:
            prepare_schema(connection, path, store=_STORE, version=VERSION, statements=_SCHEMA)
        except BaseException:
            connection.close(True)
            raise
        super().__init__(path, connection)
        self._identity = _identity(path)
        self._fence: StorageOutcomeUnknown | None = None

    @property
    def is_fenced(self) -> bool:
        """Say whether an outcome was unknown, after which nothing more is written."""
        return self._fence is not None

    def append(self, rows: Sequence[Row]) -> None:
        """Write all rows in one transaction and make them durable; return only then."""
        self._refuse_if_fenced()
        try:
            if len(rows) <= MOST_ROWS:
                if rows:
                    self._insert(rows)
                return
            self._connection.execute("BEGIN IMMEDIATE")
            for at in range(0, len(rows), MOST_ROWS):
                self._insert(rows[at : at + MOST_ROWS])
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            fault = self._fault(error)
            self._undo()
            raise fault from error
        except BaseException:
            # A row of a wrong form: our own mistake, and no reason to leave a transaction open.
            self._undo()
            raise

    def checkpoint(self, mode: Literal["passive", "truncate"] = "passive") -> tuple[int, int]:
        """Move the write-ahead log into the file; return its pages and how many of them are moved.

        `truncate` also empties the log's file, and moves nothing while a reader is in the way. On
        StorageUnavailable nothing is lost: the rows stay in the log. Raises StorageOutcomeUnknown also where
        the file was deleted or replaced.
        """
        self._refuse_if_fenced()
        if _identity(self.path) != self._identity:
            moved_away = StorageOutcomeUnknown(
                f"{self.path} was deleted or replaced while in use.",
                hint="What was written since is lost with it; restore a backup and start again.",
            )
            self._raise_fence(moved_away)
            raise moved_away
        chosen = apsw.SQLITE_CHECKPOINT_PASSIVE if mode == "passive" else apsw.SQLITE_CHECKPOINT_TRUNCATE
        try:
            pages, moved = self._connection.wal_checkpoint(mode=chosen)
        except apsw.BusyError:
            return 0, 0
        except apsw.Error as error:
            raise self._fault(error) from error
        return pages, moved

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log's file."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return 0

    def _insert(self, rows: Sequence[Row]) -> None:
        self._connection.execute(_INSERT[len(rows)], tuple(chain.from_iterable(rows)))

    def _undo(self) -> None:
        # SQLite has already rolled back after some errors, and not after others.
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except apsw.Error as error:
                raise self._fault(error) from error

    def _fault(self, error: apsw.Error) -> StorageUnavailable | StorageOutcomeUnknown:
        fault = fault_of(error, self._connection, self.path)
        if isinstance(fault, StorageOutcomeUnknown):
            self._raise_fence(fault)
        return fault

    def _raise_fence(self, fault: StorageOutcomeUnknown) -> None:
        self._fence = fault
        # Closing must not decide what the fault left open: recovery judges the log as it is.
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _refuse_if_fenced(self) -> None:
        if self._fence is not None:
            raise StorageOutcomeUnknown(self._fence.text, hint=self._fence.hint)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
