"""Keep the log's entries in SQLite: append durably, read back, find again.

`LedgerStore` is called by the log's one writer; `LedgerReader` by anyone else, one per
thread. Promises: when `append` returns, every row survives a power cut; when it raises StorageUnavailable,
none of them is there; after StorageOutcomeUnknown the store is fenced and writes nothing more, since a row
may or may not be found at the next start. Never looks into a leaf or a payload; the one change of a row is that
its payload may be dropped, for good.
"""

# ruff: noqa: S608 (statements are joined from our own constants; values are always bound)

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import apsw

from nightproof.base.errors import StateError
from nightproof.storage import migrations
from nightproof.storage.ledger_rows import Checkpoint, Head, Query, Row, StoredEntry, Tile
from nightproof.storage.sqlite import (
    BUSY_WAIT_MS,
    StorageOutcomeUnknown,
    StorageUnavailable,
    fault_of,
    faults_named,
    open_database,
    require_schema,
    transaction,
)

VERSION = 2
MOST_ROWS = 64
"""Most rows of one statement; a larger batch takes several, in one transaction."""
_CHECK_CACHE_KIB = 65_536
WINDOW_ROWS = 20_000
"""Most records that one step of `drop_payloads` looks at."""

_STORE = "ledger"
_COLUMNS = "seq, id, at_us, kind, service, release, caller, ending, failure, idem, leaf, payload"
_NAMES = _COLUMNS.split(", ")
_TEXTS = ("id", "kind", "service", "release", "caller", "ending", "failure")
_WIDTH = 12
# One step of SQLite gives up the interpreter lock and has to win it back, so a batch is one statement that
# commits by itself. A statement of each size is prepared once: its price is about 1 µs per row.
_INSERT = [
    f"INSERT INTO entries VALUES {', '.join(['(' + ', '.join('?' * _WIDTH) + ')'] * n)}"
    for n in range(MOST_ROWS + 1)
]
_RAW_COLUMNS = ", ".join(f"CAST({name} AS BLOB)" if name in _TEXTS else name for name in _COLUMNS.split(", "))
_TABLES = {
    "schema": ("store", "version"),
    "entries": tuple(_NAMES),
    "subjects": ("subject", "seq"),
    "tiles": ("level", "place", "root", "hashes"),
    "checkpoints": ("size", "at_us", "root", "note"),
    "edge": ("one", "size", "hashes"),
    "meta": ("name", "value"),
}
_INDEXES = frozenset(
    f"entries_{name}" for name in ("id", "idem", "caller", "service", "at", "failure", "kind")
)


class StoredV1(NamedTuple):
    """An entry as the first form kept it, its content in the clear."""

    seq: int
    id: str
    at_us: int
    kind: str
    idem: bytes | None
    leaf: bytes
    payload: bytes | None


Adopt = Callable[[StoredV1], Row]
"""Turns an entry of the first form into one of the present form."""


class _Ledger:
    """What can be asked of the ledger's file, through whichever connection."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self.path = path
        self._connection = connection

    def size(self) -> int:
        """Return the number of entries of the log: the highest seq and one, or 0."""
        found = self._one("SELECT max(seq) FROM entries")
        return 0 if found is None else int(found) + 1

    def count(self) -> int:
        """Count the rows; another number than `size` says that some are gone."""
        return int(self._one("SELECT count(*) FROM entries"))

    def by_id(self, entry_id: str) -> list[StoredEntry]:
        """Return the entries of an id in the order they were written; a stream has two."""
        return self._select("WHERE id = ? ORDER BY seq", entry_id)

    def by_idem(self, idem: bytes, not_before_us: int) -> StoredEntry | None:
        """Return the latest entry under an idempotency key that is not older than `not_before_us`."""
        found = self._select("WHERE idem = ? AND at_us >= ? ORDER BY seq DESC LIMIT 1", idem, not_before_us)
        return found[0] if found else None

    def entries(self, first_seq: int = 0, most: int = 1_000) -> list[StoredEntry]:
        """Return up to `most` entries from `first_seq` on."""
        return self._select("WHERE seq >= ? ORDER BY seq LIMIT ?", first_seq, most)

    def all_entries(self, first_seq: int = 0) -> Iterator[StoredEntry]:
        """Go through all entries from `first_seq` on, without holding them or the file."""
        while page := self.entries(first_seq):
            yield from page
            first_seq = page[-1].seq + 1

    def leaves(self, first_seq: int, most: int = 1_000) -> list[bytes]:
        """Return up to `most` leaves from `first_seq` on."""
        found = self._all("SELECT leaf FROM entries WHERE seq >= ? ORDER BY seq LIMIT ?", first_seq, most)
        return [row[0] for row in found]

    def search(self, query: Query) -> list[StoredEntry]:
        """Return up to `query.most` entries that match all that is asked, by their time, or by their place."""
        where, values = conditions(query, placeholder="?")
        order = "DESC" if query.newest_first else "ASC"
        if query.subject:
            # CROSS JOIN holds SQLite to the order of the subject's index: a page is read and nothing behind it.
            return self._select_from(
                f"SELECT {_COLUMNS} FROM subjects CROSS JOIN entries USING (seq)",
                f"WHERE {' AND '.join(where)} ORDER BY subjects.seq {order} LIMIT ?",
                *values,
                query.most,
            )
        if query.before_seq is not None:
            start = self.entries(query.before_seq, 1)
            if not start:
                return []
            sign = "<" if query.newest_first else ">"
            where.append(f"(at_us, seq) {sign} (?, ?)")
            values += [start[0].at_us, start[0].seq]
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        return self._select(f"{condition} ORDER BY at_us {order}, seq {order} LIMIT ?", *values, query.most)

    def of_kind(self, *kinds: str) -> Iterator[StoredEntry]:
        """Go through all entries of these kinds, oldest first; quick for every kind but `request`."""
        # The literal condition lets the partial index be used.
        quick = " AND kind <> 'request'" if "request" not in kinds else ""
        marks = ", ".join("?" * len(kinds))
        after = -1
        while page := self._select(
            f"WHERE kind IN ({marks}){quick} AND seq > ? ORDER BY seq LIMIT 500", *kinds, after
        ):
            yield from page
            after = page[-1].seq

    def tiles(self, level: int, first: int = 0, most: int = 100) -> list[Tile]:
        """Return up to `most` full tiles of a level from place `first` on."""
        found = self._all(
            "SELECT level, place, root, hashes FROM tiles WHERE level = ? AND place >= ? AND place < ? ORDER BY place",
            level,
            first,
            first + most,
        )
        return [Tile(*row) for row in found]

    def tile_roots(self, level: int, first: int = 0, most: int = 1_000) -> list[bytes]:
        """Return the roots of up to `most` full tiles of a level from place `first` on."""
        found = self._all(
            "SELECT root FROM tiles WHERE level = ? AND place >= ? AND place < ? ORDER BY place",
            level,
            first,
            first + most,
        )
        return [row[0] for row in found]

    def tile_count(self, level: int) -> int:
        """Count the full tiles of a level."""
        return int(self._one("SELECT count(*) FROM tiles WHERE level = ?", level))

    def levels(self) -> int:
        """Return the number of levels that have a full tile."""
        return int(self._one("SELECT count(DISTINCT level) FROM tiles"))

    def edge(self) -> tuple[int, bytes]:
        """Return the leaf hashes behind the last full tile, as of the last checkpoint, and that checkpoint's size."""
        found = self._all("SELECT size, hashes FROM edge")
        return (int(found[0][0]), bytes(found[0][1])) if found else (0, b"")

    def checkpoints(self, first_size: int = 0, most: int = 1_000) -> list[Checkpoint]:
        """Return up to `most` checkpoints of `first_size` entries or more, smallest first."""
        return self._checkpoints("WHERE size >= ? ORDER BY size LIMIT ?", first_size, most)

    def last_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint over the most entries."""
        found = self._checkpoints("ORDER BY size DESC LIMIT 1")
        return found[0] if found else None

    def checkpoint_at_or_after(self, size: int) -> Checkpoint | None:
        """Return the smallest checkpoint that covers `size` entries."""
        found = self._checkpoints("WHERE size >= ? ORDER BY size LIMIT 1", size)
        return found[0] if found else None

    def read_meta(self, name: str) -> str | None:
        """Return what the log keeps under a name."""
        return self.meta().get(name)

    def meta(self) -> dict[str, str]:
        """Return everything that the log keeps under a name."""
        try:
            return dict(self._all("SELECT name, value FROM meta"))
        except UnicodeDecodeError:
            found = self._all("SELECT CAST(name AS BLOB), CAST(value AS BLOB) FROM meta")
            return {_told(name): _told(value) for name, value in found}

    def subjects(self, first_seq: int, last_seq: int) -> list[tuple[int, bytes]]:
        """Return the pairs of seq and subject of these entries."""
        found = self._all("SELECT seq, subject FROM subjects WHERE seq BETWEEN ? AND ?", first_seq, last_seq)
        return [(int(seq), bytes(subject)) for seq, subject in found]

    def all_subjects(self) -> Iterator[tuple[int, bytes]]:
        """Go through all pairs of seq and subject, by subject, without holding them."""
        with faults_named(self._connection, self.path):
            yield from self._connection.execute("SELECT seq, subject FROM subjects ORDER BY subject, seq")

    def count_subject(self, subject: bytes) -> int:
        """Count the entries about a subject."""
        return int(self._one("SELECT count(*) FROM subjects WHERE subject = ?", subject))

    def first_payload(self, service: str, before_us: int, below_seq: int) -> int | None:
        """Return the first request of a service, older than that, whose payload is there; None without one."""
        found = self._one(
            "SELECT seq FROM entries WHERE service = ? AND at_us < ? AND seq < ? AND kind = 'request'"
            " AND payload IS NOT NULL ORDER BY at_us, seq LIMIT 1",
            service,
            before_us,
            below_seq,
        )
        return None if found is None else int(found)

    def oddities(self) -> list[str]:
        """Name tables, columns, indexes and triggers that are not ours, or are missing."""
        told: list[str] = []
        present = {(row[0], row[1]) for row in self._all("SELECT type, name FROM sqlite_schema")}
        expected = {("table", name) for name in _TABLES} | {("index", name) for name in _INDEXES}
        for kind, name in sorted(expected - present):
            told.append(f"The {kind} {name} is missing.")
        for kind, name in sorted(present - expected):
            if not name.startswith("sqlite_"):
                told.append(f"The {kind} {name!r} is none of ours.")
        for table, columns in _TABLES.items():
            if ("table", table) in present:
                found = tuple(row[1] for row in self._all(f"PRAGMA table_info({table})"))
                if found != columns:
                    told.append(f"The table {table} has other columns than it should.")
        if self._all("SELECT CAST(store AS BLOB), version FROM schema") != [(_STORE.encode(), VERSION)]:
            told.append("The table schema says another form than this one.")
        return told

    def quick_check(self) -> list[str]:
        """Let SQLite read the whole file for damage, indexes too; return what it found, nothing when all is well."""
        # It looks each record up in each index: of 10 million in 51 s of CPU, with the usual 2 MB in 74.
        usual = self._one("PRAGMA cache_size")
        self._all(f"PRAGMA cache_size = {-_CHECK_CACHE_KIB}")
        try:
            found = [str(row[0]) for row in self._all("PRAGMA integrity_check")]
        finally:
            self._all(f"PRAGMA cache_size = {usual}")
            self._all("PRAGMA shrink_memory")
        return [] if found == ["ok"] else found

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Show the block the log as it is at one moment, whatever is appended meanwhile."""
        self._all("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._all("ROLLBACK")

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with faults_named(self._connection, self.path):
            self._connection.close()

    def _checkpoints(self, rest: str, *values: int) -> list[Checkpoint]:
        return [
            Checkpoint(*row)
            for row in self._all(f"SELECT size, at_us, root, note FROM checkpoints {rest}", *values)
        ]

    def _select(self, rest: str, *values: int | str | bytes) -> list[StoredEntry]:
        return self._select_from(f"SELECT {_COLUMNS} FROM entries", rest, *values)

    def _select_from(self, source: str, rest: str, *values: int | str | bytes) -> list[StoredEntry]:
        try:
            return [StoredEntry(*row) for row in self._all(f"{source} {rest}", *values)]
        except UnicodeDecodeError:
            # Somebody wrote into the file: the row is given as far as it can be, so that it can be named.
            raw = source.replace(_COLUMNS, _RAW_COLUMNS)
            return [_entry_of_raw(row) for row in self._all(f"{raw} {rest}", *values)]

    def _all(self, statement: str, *values: int | str | bytes | None) -> list[tuple[Any, ...]]:
        with faults_named(self._connection, self.path):
            return self._connection.execute(statement, values).fetchall()

    def _one(self, statement: str, *values: int | str | bytes | None) -> Any:
        with faults_named(self._connection, self.path):
            return self._connection.execute(statement, values).get


def _entry_of_raw(row: tuple[Any, ...]) -> StoredEntry:
    values: list[Any] = [
        _told(value) if name in _TEXTS else value for name, value in zip(_NAMES, row, strict=True)
    ]
    return StoredEntry(*values)


def _told(text: bytes) -> str:
    """Return stored text; of what is no UTF-8 something that says so, which is no text that we write."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "not UTF-8: " + text.decode(errors="backslashreplace")


def conditions(query: Query, *, placeholder: str) -> tuple[list[str], list[Any]]:
    """Return the conditions of a query and their values, for a database with these placeholders."""
    where: list[str] = []
    values: list[Any] = []
    if query.subject:
        where.append(f"subject = {placeholder}")
        values.append(query.subject)
        if query.before_seq is not None:
            where.append(f"subjects.seq {'<' if query.newest_first else '>'} {placeholder}")
            values.append(query.before_seq)
    for name in ("kind", "caller", "service", "release", "ending", "failure"):
        wanted = getattr(query, name)
        if wanted:
            where.append(f"{name} = {placeholder}")
            values.append(wanted)
            if name == "failure":
                where.append("failure <> ''")  # so that the partial index may be used
            elif name == "kind" and wanted != "request":
                where.append("kind <> 'request'")
    if query.since_us is not None:
        where.append(f"at_us >= {placeholder}")
        values.append(query.since_us)
    if query.until_us is not None:
        where.append(f"at_us < {placeholder}")
        values.append(query.until_us)
    return where, values


class LedgerReader(_Ledger):
    """Read a ledger that another thread or process writes, or a copy of one. Not to be shared between threads."""

    def __init__(self, path: Path, *, is_copy: bool = False) -> None:
        connection = open_database(path, read_only=True, is_copy=is_copy)
        try:
            require_schema(connection, path, store=_STORE, version=VERSION)
        except BaseException:
            connection.close(True)
            raise
        super().__init__(path, connection)


class LedgerStore(_Ledger):
    """The one that writes. Holds the only read-write connection to the file."""

    def __init__(self, path: Path, *, adopt: Adopt | None = None) -> None:
        connection = open_database(path, secure_delete=True, statements=MOST_ROWS + 64)
        try:
            _bring_up(connection, path, adopt)
            require_schema(connection, path, store=_STORE, version=VERSION)
        except BaseException:
            connection.close(True)
            raise
        super().__init__(path, connection)
        self._identity = _identity(path)
        self._fence: StorageOutcomeUnknown | None = None
        self._size = self.size()

    @property
    def is_fenced(self) -> bool:
        """Say whether an outcome was unknown, after which nothing more is written."""
        return self._fence is not None

    def begin(self) -> Head:
        """Say where the log stands; nobody else can write to it, so this costs nothing."""
        self._refuse_if_fenced()
        return Head(self._size, None)

    def append(
        self,
        first_seq: int,
        rows: Sequence[Row],
        tiles: Sequence[Tile] = (),
        root: bytes | None = None,
        checkpoint: Checkpoint | None = None,
        edge: bytes = b"",
    ) -> None:
        """Write all of it in one transaction and make it durable; return only then."""
        self._refuse_if_fenced()
        if first_seq != self._size:
            raise ValueError(f"the log has {self._size} entries, and {first_seq} is not the next one")
        subjects = [(subject, seq) for seq, row in enumerate(rows, first_seq) for subject in row.subjects]
        try:
            if len(rows) <= MOST_ROWS and not (tiles or subjects or checkpoint):
                if rows:
                    self._insert(first_seq, rows)
            else:
                self._connection.execute("BEGIN IMMEDIATE")
                for at in range(0, len(rows), MOST_ROWS):
                    self._insert(first_seq + at, rows[at : at + MOST_ROWS])
                if subjects:
                    self._connection.executemany("INSERT OR IGNORE INTO subjects VALUES (?, ?)", subjects)
                if tiles:
                    self._connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", tiles)
                if checkpoint is not None:
                    self._connection.execute(
                        "INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?, ?)", checkpoint
                    )
                    self._connection.execute(
                        "INSERT OR REPLACE INTO edge VALUES (1, ?, ?)", (checkpoint.size, edge)
                    )
                self._connection.execute("COMMIT")
        except apsw.Error as error:
            fault = self._fault(error)
            self._undo()
            raise fault from error
        except BaseException:
            # A row of a wrong form: our own mistake, and no reason to leave a transaction open.
            self._undo()
            raise
        self._size = first_seq + len(rows)

    def abandon(self) -> None:
        """Give back a batch that was begun; `begin` took nothing, and `append` undoes itself."""

    def drop_payloads(
        self, service: str, before_us: int, below_seq: int, *, after_seq: int = -1, most: int = 1_000
    ) -> tuple[int, int]:
        """Drop for good payloads of a service's requests, in one bounded transaction.

        Return how many were dropped, and the seq to go on after; that is `below_seq` - 1 when none is left.
        """
        self._refuse_if_fenced()
        last = min(below_seq - 1, after_seq + WINDOW_ROWS)
        with transaction(self._connection, self.path):
            found: list[Any] = self._connection.execute(
                "SELECT seq FROM entries WHERE seq > ? AND seq <= ? AND service = ? AND at_us < ?"
                " AND kind = 'request' AND payload IS NOT NULL ORDER BY seq LIMIT ?",
                (after_seq, last, service, before_us, most),
            ).fetchall()
            self._connection.executemany("UPDATE entries SET payload = NULL WHERE seq = ?", found)
        return len(found), (found[-1][0] if len(found) == most else last)

    def write_meta(self, name: str, value: str) -> None:
        """Keep a value under a name, for good: a name that has one keeps it."""
        self._refuse_if_fenced()
        with transaction(self._connection, self.path):
            self._connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))

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
            # Somebody who reads for minutes must not hold up commits: it is asked for again later instead.
            self._connection.set_busy_timeout(0)
            pages, moved = self._connection.wal_checkpoint(mode=chosen)
        except apsw.BusyError:
            return 0, 0
        except apsw.Error as error:
            raise self._fault(error) from error
        finally:
            self._connection.set_busy_timeout(BUSY_WAIT_MS)
        return pages, moved

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log's file."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return 0

    def _insert(self, first_seq: int, rows: Sequence[Row]) -> None:
        # The last field of a row, its subjects, has a table of its own.
        numbered = [(seq, *row[:-1]) for seq, row in enumerate(rows, first_seq)]
        self._connection.execute(_INSERT[len(rows)], tuple(chain.from_iterable(numbered)))

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


def _bring_up(connection: apsw.Connection, path: Path, adopt: Adopt | None) -> None:
    """Create the tables of a new file, or take an older form into the present one; whole, or not at all."""
    have = 0
    with faults_named(connection, path):
        if connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'schema'").get:
            store, have = connection.execute("SELECT store, version FROM schema").get
            if store != _STORE or have >= VERSION:
                return  # `require_schema` judges it
    if have == 1 and adopt is None:
        raise StateError(
            f"{path} is of an older form.",
            hint="Start the server once on this state folder: it takes it over.",
        )
    before = _digest(connection) if have >= VERSION else b""
    with transaction(connection, path):
        connection.execute(migrations.rendered("sqlite", have, VERSION))
        connection.execute("DELETE FROM schema")
        connection.execute("INSERT INTO schema VALUES (?, ?)", (_STORE, VERSION))
        if have == 1 and adopt is not None:
            _adopt_all(connection, adopt)
        connection.execute("DROP TABLE entries_v1")
        if before and _digest(connection) != before:
            raise StateError(
                f"{path}: a migration changed stored bytes.", hint="Nothing was changed; report this."
            )
    if have == 1:
        # Deleted pages still hold what was in the clear: the file is written anew without them.
        with faults_named(connection, path):
            connection.execute("VACUUM")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _adopt_all(connection: apsw.Connection, adopt: Adopt) -> None:
    """Write each old entry in the present form. The tree over them is made by whoever writes next."""
    after = -1
    statement = "SELECT seq, id, at_us, kind, idem, leaf, payload FROM entries_v1 WHERE seq > ? ORDER BY seq LIMIT 500"
    while page := cast("list[Any]", connection.execute(statement, (after,)).fetchall()):
        rows = [(one[0], *adopt(StoredV1(*one))[:-1]) for one in page]
        connection.executemany(_INSERT[1], rows)
        after = page[-1][0]


def _digest(connection: apsw.Connection) -> bytes:
    """Return a digest over every leaf and payload."""
    told = sha256()
    for seq, leaf, payload in connection.execute("SELECT seq, leaf, payload FROM entries ORDER BY seq"):
        told.update(b"%d %d " % (seq, len(leaf)) + leaf + (payload or b"-"))
    return told.digest()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
