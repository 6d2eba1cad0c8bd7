"""Keep wrapped data keys in PostgreSQL, for gateways that share a log; a schema apart from the log's.

The same protocol as `VaultStore`. Promises the same, but for one thing: what a destroyed key left on PostgreSQL's
disk (dead tuples, its write-ahead log, backups) is the database administrator's to see to; docs/audit.md says how.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg

from nightproof.storage.postgres import Connection, connect, fault_of
from nightproof.storage.sqlite import StorageUnavailable
from nightproof.storage.vault_store import Epoch, WrappedKey

SCHEMA = "nightproof_keys"
_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.epochs(number integer PRIMARY KEY, made_us bigint NOT NULL, wrapped bytea NOT NULL);
CREATE TABLE IF NOT EXISTS {SCHEMA}.keys(
  kid bytea PRIMARY KEY, epoch integer NOT NULL, subject bytea, made_us bigint NOT NULL, wrapped bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS keys_subject ON {SCHEMA}.keys(subject) WHERE subject IS NOT NULL;
CREATE TABLE IF NOT EXISTS {SCHEMA}.secrets(name text PRIMARY KEY, wrapped bytea NOT NULL);
CREATE TABLE IF NOT EXISTS {SCHEMA}.destroyed(at_us bigint NOT NULL, keys integer NOT NULL);
"""
_LOCK = 0x4E50524B


class VaultPostgres:
    """The vault of gateways that share a database. One lock guards its connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._door = threading.Lock()
        self._connection = self._opened()

    def add(self, keys: Sequence[WrappedKey]) -> None:
        """Keep new keys; they are durable at return."""
        self._write(
            lambda connection: connection.cursor().executemany(
                "INSERT INTO keys VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING", keys
            )
        )

    def get(self, kid: bytes) -> WrappedKey | None:
        """Return a key; None where it never was, or is destroyed."""
        found = self._read("SELECT kid, epoch, subject, made_us, wrapped FROM keys WHERE kid = %s", kid)
        return WrappedKey(*found[0]) if found else None

    def destroy_subject(self, subject: bytes, at_us: int, *, made_by_us: int | None = None) -> int:
        """Destroy a subject's keys for good, all or those made until then; return how many. Again counts 0."""

        def destroy(connection: Connection) -> int:
            latest = made_by_us if made_by_us is not None else (1 << 62)
            done = connection.execute(
                "DELETE FROM keys WHERE subject = %s AND made_us <= %s", (subject, latest)
            )
            gone = done.rowcount
            if gone:
                connection.execute("INSERT INTO destroyed VALUES (%s, %s)", (at_us, gone))
            return gone

        gone: int = self._write(destroy)
        if gone:
            with suppress(StorageUnavailable):
                self._read("VACUUM keys")  # so that the dead rows' space is used again soon
        return gone

    def destroyed(self) -> int:
        """Return a number that grows with each destruction, whoever did it."""
        return int(self._read("SELECT count(*) FROM destroyed")[0][0])

    def epochs(self) -> list[Epoch]:
        """Return all keys of keys, the oldest first."""
        return [
            Epoch(*row) for row in self._read("SELECT number, made_us, wrapped FROM epochs ORDER BY number")
        ]

    def add_epoch(self, epoch: Epoch) -> None:
        """Keep a new key of keys."""
        self._write(
            lambda connection: connection.execute(
                "INSERT INTO epochs VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", epoch
            )
        )

    def rewrap(self, epochs: Sequence[Epoch], secrets: Mapping[str, bytes]) -> None:
        """Replace what the master key wraps, all of it or nothing."""

        def replace(connection: Connection) -> None:
            for number, _, wrapped in epochs:
                connection.execute("UPDATE epochs SET wrapped = %s WHERE number = %s", (wrapped, number))
            for name, wrapped in secrets.items():
                connection.execute("UPDATE secrets SET wrapped = %s WHERE name = %s", (wrapped, name))

        self._write(replace)

    def secret(self, name: str) -> bytes | None:
        """Return a wrapped secret."""
        found = self._read("SELECT wrapped FROM secrets WHERE name = %s", name)
        return bytes(found[0][0]) if found else None

    def secrets(self) -> dict[str, bytes]:
        """Return all wrapped secrets."""
        return {
            str(name): bytes(wrapped) for name, wrapped in self._read("SELECT name, wrapped FROM secrets")
        }

    def keep_secret(self, name: str, wrapped: bytes) -> bytes:
        """Keep a wrapped secret unless there is one of that name; return the one that is kept."""
        self._write(
            lambda connection: connection.execute(
                "INSERT INTO secrets VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, wrapped)
            )
        )
        return bytes(self._read("SELECT wrapped FROM secrets WHERE name = %s", name)[0][0])

    def close(self) -> None:
        """Let go of the database. Closing twice is fine."""
        with self._door, suppress(psycopg.Error):
            self._connection.close()

    def _opened(self) -> Connection:
        connection = connect(self._url)
        try:
            found = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.destroyed",)).fetchone()
            if found is None or found[0] is None:
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                    connection.execute(_TABLES.encode())
            connection.execute(f"SET search_path TO {SCHEMA}".encode())
        except psycopg.Error as error:
            connection.close()
            raise fault_of(error, self._url) from error
        return connection

    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._door:
            try:
                done = self._ready().execute(statement.encode(), values or None)
                return done.fetchall() if done.description is not None else []
            except psycopg.Error as error:
                raise fault_of(error, self._url) from error

    def _write(self, act: Any) -> Any:
        """Run one transaction. Each of ours may be run again, so a lost commit is a no: nothing was acknowledged."""
        with self._door:
            try:
                connection = self._ready()
                with connection.transaction():
                    return act(connection)
            except psycopg.Error as error:
                raise fault_of(error, self._url) from error

    def _ready(self) -> Connection:
        if self._connection.closed:
            self._connection = self._opened()
        return self._connection
