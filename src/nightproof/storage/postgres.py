"""Connect to PostgreSQL so that a commit that returned is durable, and name what the network and the server do to us.

Shared by the stores of this room that PostgreSQL can keep. Promises: settings that would make a commit a lie are
refused at open; no wait is without end; a fault is `StorageUnavailable` only where nothing was committed for certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from nightproof.base.errors import SettingError, StateError
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]
OLDEST_SERVER = 130_000
CONNECT_WITHIN_S = 5
_OPTIONS = (
    "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s "
    "-c synchronous_commit=on -c application_name=nightproof"
)
_MUST_BE_ON = ("fsync", "full_page_writes", "synchronous_commit")


def connect(url: str, *, read_only: bool = False) -> Connection:
    """Open a connection with bounded waits. Raises StorageUnavailable where the server cannot be reached."""
    try:
        connection = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_WITHIN_S,
            options=_OPTIONS,
            keepalives=1,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=15_000,
            prepare_threshold=1,
        )
    except psycopg.ProgrammingError as error:
        raise SettingError(
            "ledger.url is no address of a PostgreSQL database.",
            hint="Write postgresql://user@host:5432/database; see docs/audit.md.",
        ) from error
    except psycopg.Error as error:
        raise StorageUnavailable(
            f"PostgreSQL at {where(url)} cannot be reached: {_first_line(error)}.",
            hint="Start it, or look at address, user and pg_hba.conf.",
        ) from error
    try:
        _refuse_unsafe(connection, url)
        if read_only:
            connection.read_only = True
            connection.execute("SET default_transaction_read_only = on")
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_unsafe(connection: Connection, url: str) -> None:
    if connection.info.server_version < OLDEST_SERVER:
        raise StateError(
            f"PostgreSQL at {where(url)} is version {connection.info.server_version // 10_000}.",
            hint="Use 13 or newer.",
        )
    for name in _MUST_BE_ON:
        row = connection.execute(f"SHOW {name}").fetchone()
        if row is None or row[0] == "off":
            raise StateError(
                f"PostgreSQL at {where(url)} has {name} off, so a commit may be lost.",
                hint=f"Set {name} = on; the audit log needs commits that last.",
            )


def where(url: str) -> str:
    """Name an address without its password."""
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "the address given"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def fault_of(
    error: psycopg.Error, url: str, *, in_commit: bool = False
) -> StorageUnavailable | StorageOutcomeUnknown:
    """Say which of the two kinds an error is. Before a commit was sent nothing can stand; after it, who knows."""
    if in_commit and not isinstance(error, psycopg.errors.IntegrityError):
        return StorageOutcomeUnknown(
            f"PostgreSQL at {where(url)} was lost while it committed: {_first_line(error)}.",
            hint="Look at the server's log; this server must be started again.",
        )
    return StorageUnavailable(
        f"PostgreSQL at {where(url)} refused: {_first_line(error)}.",
        hint="Look at the server and its disk; nothing was lost.",
    )


@contextmanager
def faults_named(url: str) -> Iterator[None]:
    """Turn errors of the driver inside the block into ours; nothing in the block commits."""
    try:
        yield
    except psycopg.Error as error:
        raise fault_of(error, url) from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".")
