"""Keep the log's entries in PostgreSQL, so that several gateways write one log: one order, no gaps.

The same protocol as the SQLite store, for the same rooms. Each batch locks the head row, inserts and commits; the
head carries the log's size and root, so that a writer takes in what others wrote before it goes on. A connection
lost before the commit was sent is a no. One lost in the commit can be asked about, unlike a failed sync of a local
file: PostgreSQL itself ends with a panic where its disk is in doubt, so what it shows after that is what stands.
"""

# ruff: noqa: S608 (statements are joined from our own constants; values are always bound)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import psycopg

from nightproof.base.errors import StateError
from nightproof.storage import migrations
from nightproof.storage.ledger_rows import Checkpoint, Head, Query, Row, StoredEntry, Tile
from nightproof.storage.ledger_store import VERSION, WINDOW_ROWS, conditions
from nightproof.storage.postgres import Connection, connect, fault_of, faults_named, where
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable

SCHEMA = "nightproof"
_COLUMNS = "seq, id, at_us, kind, service, release, caller, ending, failure, idem, leaf, payload"
_MOST_ROWS = 256
_EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
_PAGE_ROWS = 5_000
_ASK_AGAIN = 3
_MIGRATION_LOCK = 0x4E505246
_TABLES = {
    "schema": ("store", "version"),
    "head": ("one", "size", "root"),
    "entries": tuple(_COLUMNS.split(", ")),
    "subjects": ("subject", "seq"),
    "tiles": ("level", "place", "root", "hashes"),
    "checkpoints": ("size", "at_us", "root", "note"),
    "edge": ("one", "size", "hashes"),
    "meta": ("name", "value"),
}


class _Postgres:
    """What can be asked of the log, through whichever connection."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._url = url
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
        return self._select("WHERE id = %s ORDER BY seq", entry_id)

    def by_idem(self, idem: bytes, not_before_us: int) -> StoredEntry | None:
        """Return the latest entry under an idempotency key that is not older than `not_before_us`."""
        found = self._select("WHERE idem = %s AND at_us >= %s ORDER BY seq DESC LIMIT 1", idem, not_before_us)
        return found[0] if found else None

    def entries(self, first_seq: int = 0, most: int = 1_000) -> list[StoredEntry]:
        """Return up to `most` entries from `first_seq` on."""
        return self._select("WHERE seq >= %s ORDER BY seq LIMIT %s", first_seq, most)

    def all_entries(self, first_seq: int = 0) -> Iterator[StoredEntry]:
        """Go through all entries from `first_seq` on, without holding them all."""
        while page := self.entries(first_seq):
            yield from page
            first_seq = page[-1].seq + 1

    def leaves(self, first_seq: int, most: int = 1_000) -> list[bytes]:
        """Return up to `most` leaves from `first_seq` on."""
        found = self._all("SELECT leaf FROM entries WHERE seq >= %s ORDER BY seq LIMIT %s", first_seq, most)
        return [row[0] for row in found]

    def search(self, query: Query) -> list[StoredEntry]:
        """Return up to `query.most` entries that match all that is asked, by their time, or by their place."""
        conditioned, values = conditions(query, placeholder="%s")
        order = "DESC" if query.newest_first else "ASC"
        if query.subject:
            found = self._all(
                f"SELECT {_COLUMNS} FROM subjects JOIN entries USING (seq) WHERE {' AND '.join(conditioned)}"
                f" ORDER BY subjects.seq {order} LIMIT %s",
                *values,
                query.most,
            )
            return [StoredEntry(*row) for row in found]
        if query.before_seq is not None:
            start = self.entries(query.before_seq, 1)
            if not start:
                return []
            sign = "<" if query.newest_first else ">"
            conditioned.append(f"(at_us, seq) {sign} (%s, %s)")
            values += [start[0].at_us, start[0].seq]
        condition = f"WHERE {' AND '.join(conditioned)}" if conditioned else ""
        return self._select(f"{condition} ORDER BY at_us {order}, seq {order} LIMIT %s", *values, query.most)

    def of_kind(self, *kinds: str) -> Iterator[StoredEntry]:
        """Go through all entries of these kinds, oldest first; quick for every kind but `request`."""
        quick = " AND kind <> 'request'" if "request" not in kinds else ""
        after = -1
        while page := self._select(
            f"WHERE kind = ANY(%s){quick} AND seq > %s ORDER BY seq LIMIT 500", list(kinds), after
        ):
            yield from page
            after = page[-1].seq

    def tiles(self, level: int, first: int = 0, most: int = 100) -> list[Tile]:
        """Return up to `most` full tiles of a level from place `first` on."""
        found = self._all(
            "SELECT level, place, root, hashes FROM tiles"
            " WHERE level = %s AND place >= %s AND place < %s ORDER BY place",
            level,
            first,
            first + most,
        )
        return [Tile(*row) for row in found]

    def tile_roots(self, level: int, first: int = 0, most: int = 1_000) -> list[bytes]:
        """Return the roots of up to `most` full tiles of a level from place `first` on."""
        found = self._all(
            "SELECT root FROM tiles WHERE level = %s AND place >= %s AND place < %s ORDER BY place",
            level,
            first,
            first + most,
        )
        return [row[0] for row in found]

    def tile_count(self, level: int) -> int:
        """Count the full tiles of a level."""
        return int(self._one("SELECT count(*) FROM tiles WHERE level = %s", level))

    def levels(self) -> int:
        """Return the number of levels that have a full tile."""
        return int(self._one("SELECT count(DISTINCT level) FROM tiles"))

    def edge(self) -> tuple[int, bytes]:
        """Return the leaf hashes behind the last full tile, as of the last checkpoint, and that checkpoint's size."""
        found = self._all("SELECT size, hashes FROM edge")
        return (int(found[0][0]), bytes(found[0][1])) if found else (0, b"")

    def checkpoints(self, first_size: int = 0, most: int = 1_000) -> list[Checkpoint]:
        """Return up to `most` checkpoints of `first_size` entries or more, smallest first."""
        return self._checkpoints("WHERE size >= %s ORDER BY size LIMIT %s", first_size, most)

    def last_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint over the most entries."""
        found = self._checkpoints("ORDER BY size DESC LIMIT 1")
        return found[0] if found else None

    def checkpoint_at_or_after(self, size: int) -> Checkpoint | None:
        """Return the smallest checkpoint that covers `size` entries."""
        found = self._checkpoints("WHERE size >= %s ORDER BY size LIMIT 1", size)
        return found[0] if found else None

    def read_meta(self, name: str) -> str | None:
        """Return what the log keeps under a name."""
        found = self._one("SELECT value FROM meta WHERE name = %s", name)
        return None if found is None else str(found)

    def meta(self) -> dict[str, str]:
        """Return everything that the log keeps under a name."""
        return {str(name): str(value) for name, value in self._all("SELECT name, value FROM meta")}

    def subjects(self, first_seq: int, last_seq: int) -> list[tuple[int, bytes]]:
        """Return the pairs of seq and subject of these entries."""
        found = self._all(
            "SELECT seq, subject FROM subjects WHERE seq BETWEEN %s AND %s", first_seq, last_seq
        )
        return [(int(seq), bytes(subject)) for seq, subject in found]

    def all_subjects(self) -> Iterator[tuple[int, bytes]]:
        """Go through all pairs of seq and subject, by subject, without holding them; within a `snapshot`."""
        with faults_named(self._url), self._connection.cursor(name="all_subjects") as cursor:
            cursor.itersize = _PAGE_ROWS
            cursor.execute("SELECT seq, subject FROM subjects ORDER BY subject, seq")
            for seq, subject in cursor:
                yield int(seq), bytes(subject)

    def count_subject(self, subject: bytes) -> int:
        """Count the entries about a subject."""
        return int(self._one("SELECT count(*) FROM subjects WHERE subject = %s", subject))

    def first_payload(self, service: str, before_us: int, below_seq: int) -> int | None:
        """Return the first request of a service, older than that, whose payload is there; None without one."""
        found = self._one(
            "SELECT seq FROM entries WHERE service = %s AND at_us < %s AND seq < %s AND kind = 'request'"
            " AND payload IS NOT NULL ORDER BY at_us, seq LIMIT 1",
            service,
            before_us,
            below_seq,
        )
        return None if found is None else int(found)

    def oddities(self) -> list[str]:
        """Name tables, columns and triggers that are not ours, or are missing; and a head that is not the log's."""
        told: list[str] = []
        found = self._all(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s"
            " ORDER BY table_name, ordinal_position",
            SCHEMA,
        )
        present: dict[str, list[str]] = {}
        for table, column in found:
            present.setdefault(str(table), []).append(str(column))
        for table in sorted({*present, *_TABLES}):
            if table not in _TABLES:
                told.append(f"The table {table!r} is none of ours.")
            elif tuple(present.get(table, ())) != _TABLES[table]:
                told.append(f"The table {table} is missing, or has other columns than it should.")
        for (name,) in self._all(
            "SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
            " WHERE relnamespace = %s::regnamespace AND NOT tgisinternal",
            SCHEMA,
        ):
            told.append(f"The trigger {name!r} is none of ours.")
        if self._all("SELECT store, version FROM schema") != [("ledger", VERSION)]:
            told.append("The table schema says another form than this one.")
        head = self._all("SELECT size FROM head")
        if head != [(self.size(),)]:
            told.append(f"The head row does not say that the log has {self.size()} entries.")
        return told

    def quick_check(self) -> list[str]:
        """Return nothing: PostgreSQL has no check of a whole table without an extension; reading it is one."""
        return []

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Show the block the log as it is at one moment, whatever is appended meanwhile."""
        self._all("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        finally:
            with suppress(StorageUnavailable):
                self._all("ROLLBACK")

    def close(self) -> None:
        """Let go of the database. Closing twice is fine."""
        with suppress(psycopg.Error):
            self._connection.close()

    def _checkpoints(self, rest: str, *values: int) -> list[Checkpoint]:
        return [
            Checkpoint(*row)
            for row in self._all(f"SELECT size, at_us, root, note FROM checkpoints {rest}", *values)
        ]

    def _select(self, rest: str, *values: Any) -> list[StoredEntry]:
        return [StoredEntry(*row) for row in self._all(f"SELECT {_COLUMNS} FROM entries {rest}", *values)]

    def _all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with faults_named(self._url):
            done = self._connection.execute(statement.encode(), values or None)
            return done.fetchall() if done.description is not None else []

    def _one(self, statement: str, *values: Any) -> Any:
        found = self._all(statement, *values)
        return found[0][0] if found else None


class PostgresReader(_Postgres):
    """Read a log that gateways write. Not to be shared between threads."""

    def __init__(self, url: str) -> None:
        connection = connect(url, read_only=True)
        try:
            connection.execute(f"SET search_path TO {SCHEMA}")
            _require_schema(connection, url)
        except BaseException:
            connection.close()
            raise
        super().__init__(url, connection)


class PostgresLedger(_Postgres):
    """The one connection of a gateway that writes; belongs to its writer."""

    def __init__(self, url: str) -> None:
        super().__init__(url, _open_for_writing(url))
        self._fence: StorageOutcomeUnknown | None = None
        self._is_begun = False

    @property
    def is_fenced(self) -> bool:
        """Say whether an outcome was unknown, after which nothing more is written."""
        return self._fence is not None

    def begin(self) -> Head:
        """Lock the log's head for one batch; connect again where the connection was lost meanwhile."""
        self._refuse_if_fenced()
        if self._connection.closed:
            self._connection = _open_for_writing(self._url)
        try:
            self._connection.execute("BEGIN")
            self._is_begun = True
            row = self._connection.execute("SELECT size, root FROM head FOR UPDATE").fetchone()
        except psycopg.Error as error:
            self.abandon()
            raise fault_of(error, self._url) from error
        if row is None:
            self.abandon()
            raise StorageOutcomeUnknown(
                f"The log at {where(self._url)} has no head row.", hint="Run `nightproof audit verify`."
            )
        return Head(int(row[0]), bytes(row[1]))

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
        try:
            self._write(first_seq, rows, tiles, root, checkpoint, edge)
        except psycopg.Error as error:
            self.abandon()
            raise fault_of(error, self._url) from error
        except BaseException:
            self.abandon()
            raise
        try:
            self._connection.execute("COMMIT")
            self._is_begun = False
        except psycopg.Error as error:
            self._is_begun = False
            self._connection.close()
            self._find_out(first_seq, rows, error)

    def _write(
        self,
        first_seq: int,
        rows: Sequence[Row],
        tiles: Sequence[Tile],
        root: bytes | None,
        checkpoint: Checkpoint | None,
        edge: bytes,
    ) -> None:
        connection = self._connection
        with connection.pipeline():
            for at in range(0, len(rows), _MOST_ROWS):
                part = rows[at : at + _MOST_ROWS]
                marks = ", ".join(["(" + ", ".join(["%s"] * 12) + ")"] * len(part))
                values = [
                    value
                    for seq, row in enumerate(part, first_seq + at)
                    for value in (seq, *map(_storable, row[:-1]))
                ]
                connection.execute(f"INSERT INTO entries VALUES {marks}".encode(), values)
            cursor = connection.cursor()
            subjects = [(subject, seq) for seq, row in enumerate(rows, first_seq) for subject in row.subjects]
            if subjects:
                cursor.executemany("INSERT INTO subjects VALUES (%s, %s) ON CONFLICT DO NOTHING", subjects)
            if tiles:
                cursor.executemany("INSERT INTO tiles VALUES (%s, %s, %s, %s)", tiles)
            if checkpoint is not None:
                connection.execute(
                    "INSERT INTO checkpoints VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", checkpoint
                )
                connection.execute(
                    "INSERT INTO edge VALUES (1, %s, %s) ON CONFLICT (one) DO UPDATE"
                    " SET size = excluded.size, hashes = excluded.hashes",
                    (checkpoint.size, edge),
                )
            if root is not None:
                connection.execute("UPDATE head SET size = %s, root = %s", (first_seq + len(rows), root))

    def _find_out(self, first_seq: int, rows: Sequence[Row], error: psycopg.Error) -> None:
        """Ask the server whether the batch stands. Return if it does; raise what is then known if it does not."""
        for _ in range(_ASK_AGAIN):
            try:
                self._connection = _open_for_writing(self._url)
                # The head row's lock says that the lost transaction is over, one way or the other.
                self._connection.execute("BEGIN")
                self._connection.execute("SELECT size FROM head FOR UPDATE")
                found = [
                    row[0]
                    for row in self._connection.execute(
                        "SELECT id FROM entries WHERE seq >= %s ORDER BY seq LIMIT %s", (first_seq, len(rows))
                    ).fetchall()
                ]
                self._connection.execute("ROLLBACK")
            except (psycopg.Error, StorageUnavailable):
                continue
            if rows and found == [row.id for row in rows]:
                return
            if rows and not set(found) & {row.id for row in rows}:
                raise fault_of(error, self._url) from error
            break
        self._fence = fault_of(error, self._url, in_commit=True)  # type: ignore[assignment]
        raise self._fence from error  # type: ignore[misc]

    def abandon(self) -> None:
        """Give back a batch that was begun, if there is one; nothing of it is written. Never raises."""
        if not self._is_begun:
            return
        self._is_begun = False
        try:
            self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self.close()  # the server ends what a closed connection had begun

    def drop_payloads(
        self, service: str, before_us: int, below_seq: int, *, after_seq: int = -1, most: int = 1_000
    ) -> tuple[int, int]:
        """Drop for good payloads of a service's requests, in one bounded transaction.

        Return how many were dropped, and the seq to go on after; that is `below_seq` - 1 when none is left.
        """
        self._refuse_if_fenced()
        last = min(below_seq - 1, after_seq + WINDOW_ROWS)
        found = self._all(
            "UPDATE entries SET payload = NULL WHERE seq IN (SELECT seq FROM entries WHERE seq > %s AND seq <= %s"
            " AND service = %s AND at_us < %s AND kind = 'request' AND payload IS NOT NULL ORDER BY seq LIMIT %s)"
            " RETURNING seq",
            after_seq,
            last,
            service,
            before_us,
            most,
        )
        return len(found), (max(row[0] for row in found) if len(found) == most else last)

    def write_meta(self, name: str, value: str) -> None:
        """Keep a value under a name, for good: a name that has one keeps it."""
        self._refuse_if_fenced()
        self._all("INSERT INTO meta VALUES (%s, %s) ON CONFLICT DO NOTHING", name, value)

    def checkpoint(self, mode: Literal["passive", "truncate"] = "passive") -> tuple[int, int]:
        """Do nothing: PostgreSQL sees to its own log."""
        return 0, 0

    def wal_bytes(self) -> int:
        """Return 0: PostgreSQL sees to its own log."""
        return 0

    def _refuse_if_fenced(self) -> None:
        if self._fence is not None:
            raise StorageOutcomeUnknown(self._fence.text, hint=self._fence.hint)


def _open_for_writing(url: str) -> Connection:
    connection = connect(url)
    try:
        with faults_named(url):
            _bring_up(connection)
            connection.execute(f"SET search_path TO {SCHEMA}")
            _require_schema(connection, url)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up(connection: Connection) -> None:
    """Create the tables where they are new; one gateway does so while the others wait."""
    found = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.schema",)).fetchone()
    if found is not None and found[0] is not None:
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.execute(f"SET LOCAL search_path TO {SCHEMA}")
        found = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.schema",)).fetchone()
        if found is not None and found[0] is not None:
            return
        connection.execute(migrations.rendered("postgresql", 0, VERSION).encode())
        connection.execute("DROP TABLE entries_v1")
        connection.execute("INSERT INTO schema VALUES ('ledger', %s)", (VERSION,))
        connection.execute("INSERT INTO head VALUES (1, 0, %s)", (_EMPTY,))


def _require_schema(connection: Connection, url: str) -> None:
    try:
        found = connection.execute("SELECT store, version FROM schema").fetchone()
    except psycopg.errors.UndefinedTable:
        found = None
    if found is None:
        raise StateError(
            f"There is no log at {where(url)}.", hint="Start a server with this ledger.url once."
        )
    if found != ("ledger", VERSION):
        raise StateError(
            f"The log at {where(url)} has form {found[1]}, and {VERSION} is wanted.",
            hint="Use the Nightproof that made it.",
        )


def _storable(value: Any) -> Any:
    # PostgreSQL's text cannot hold a NUL; none of ours does, but a caller's text may be among them one day.
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
