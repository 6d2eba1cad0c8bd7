"""Open SQLite so that a commit that returned is durable, and name what the disk does to us.

Used by every store of this room. Promises: each pragma is read back before a connection is handed out; a
fault is `StorageUnavailable` only where it is certain that nothing was written. Never retries, never
repairs, never hides an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import apsw

from nightproof.base.errors import NightproofError, StateError

OLDEST_SQLITE = (3, 51, 3)
"""Before this one, two connections that write or checkpoint at once could corrupt a WAL database."""
APPLICATION_ID = int.from_bytes(b"NPRF", "big")
BUSY_WAIT_MS = 5_000


class StorageUnavailable(NightproofError):
    """The store refused: full, read-only, locked or gone. Nothing was written; it may recover by itself."""

    code: ClassVar[str] = "audit_unavailable"


class StorageOutcomeUnknown(NightproofError):
    """The store failed where it is neither certain that the rows are kept nor that they are not."""

    code: ClassVar[str] = "audit_outcome_unknown"


class NotFound(NightproofError):
    """The store holds no such thing."""


_REFUSALS = frozenset(
    {
        apsw.SQLITE_FULL,
        apsw.SQLITE_READONLY,
        apsw.SQLITE_BUSY,
        apsw.SQLITE_LOCKED,
        apsw.SQLITE_CANTOPEN,
        apsw.SQLITE_PERM,
    }
)
# A write that the kernel refused outright. The frame that would have made the commit valid is incomplete, its
# checksum fails, so recovery can never find it. EIO is not here: it says nothing about what was written.
_REFUSED_WRITES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


def fault_of(
    error: apsw.Error, connection: apsw.Connection, path: Path
) -> StorageUnavailable | StorageOutcomeUnknown:
    """Say which of the two kinds an error of SQLite is. What is not known to be harmless is not.

    A sync that fails leaves the commit in the log's file: absent for every live connection, and there again
    after a crash. So does a shared-memory file that cannot grow, since that comes after the sync.
    """
    result = getattr(error, "result", 0)
    extended = getattr(error, "extendedresult", 0)
    is_refused_write = extended == apsw.SQLITE_IOERR_WRITE and connection.system_errno in _REFUSED_WRITES
    if result in _REFUSALS or is_refused_write:
        reason = os.strerror(connection.system_errno) if is_refused_write else str(error)
        return StorageUnavailable(
            f"{path} cannot be written: {reason}.",
            hint="Free space, or make the file writable; nothing was lost.",
        )
    return StorageOutcomeUnknown(
        f"{path} failed ({code_name(error)}): {error}.",
        hint="Look at the disk and the kernel's log; the server must be started again.",
    )


def code_name(error: apsw.Error) -> str:
    """Name SQLite's own code of an error."""
    extended = getattr(error, "extendedresult", 0)
    name = apsw.mapping_extended_result_codes.get(extended) or apsw.mapping_result_codes.get(extended & 0xFF)
    return str(name) if name else type(error).__name__


@contextmanager
def faults_named(connection: apsw.Connection, path: Path) -> Iterator[None]:
    """Turn errors of SQLite inside the block into our two kinds."""
    try:
        yield
    except apsw.Error as error:
        raise fault_of(error, connection, path) from error


@contextmanager
def transaction(connection: apsw.Connection, path: Path) -> Iterator[None]:
    """Run the block as one write transaction: all of it is durable, or none of it is there."""
    with faults_named(connection, path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # SQLite has already rolled back after some errors, and not after others.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def refuse_old_sqlite(version: str) -> None:
    """Raise StateError where the linked SQLite has the WAL-reset race."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SQLITE:
        raise StateError(
            f"The linked SQLite is {version}, and databases can be corrupted by it.",
            hint="Install apsw 3.51.3 or newer from its wheel.",
        )


def open_database(
    path: Path,
    *,
    read_only: bool = False,
    is_copy: bool = False,
    secure_delete: bool = False,
    statements: int = 64,
) -> apsw.Connection:
    """Open the database with our pragmas, each read back; create it (mode 0600) unless `read_only`.

    `is_copy` says that nobody writes to the file while it is read, so that nothing need be made beside it.
    `secure_delete` overwrites what is deleted, for files that hold keys. `statements` is how many prepared
    statements are kept. Raises StateError where the file is not ours, damaged, or cannot be opened.
    """
    refuse_old_sqlite(apsw.sqlite_lib_version())
    if not read_only:
        _create_private(path)
    connection: apsw.Connection | None = None
    try:
        flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        name = str(path)
        is_fixed = read_only and _is_whole_copy(path, is_copy=is_copy)
        if is_fixed:
            flags |= apsw.SQLITE_OPEN_URI
            name = f"{path.absolute().as_uri()}?immutable=1"
        connection = apsw.Connection(name, flags=flags, statementcachesize=statements)
        connection.set_busy_timeout(BUSY_WAIT_MS)
        _refuse_foreign(connection, path)
        _apply_pragmas(connection, path, read_only=read_only, is_fixed=is_fixed, secure_delete=secure_delete)
    except apsw.Error as error:
        if connection is not None:
            connection.close(True)
        raise StateError(
            f"{path} cannot be opened ({code_name(error)}): {error}.",
            hint="Look at its permissions and the disk; restore it from a backup if it is damaged.",
        ) from error
    except StateError:
        if connection is not None:
            connection.close(True)
        raise
    return connection


def _is_whole_copy(path: Path, *, is_copy: bool) -> bool:
    """Say whether the file is a copy, or where nothing can be written, with nothing beside it to read.

    Whoever has the database open, has both files beside it.
    """
    if not path.exists():
        return False
    if is_copy and not os.path.exists(f"{path}-wal") and not os.path.exists(f"{path}-shm"):
        return True
    if os.access(path.parent, os.W_OK):
        return False
    try:
        return os.stat(f"{path}-wal").st_size == 0
    except FileNotFoundError:
        return True


def _create_private(path: Path) -> None:
    # SQLite gives its -wal and -shm files the mode of the database, so the mode is set before it is opened.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StateError(
            f"{path} cannot be opened for writing: {error.strerror}.",
            hint="Give the server its own writable state folder.",
        ) from error


def _refuse_foreign(connection: apsw.Connection, path: Path) -> None:
    found = int(connection.pragma("application_id"))
    is_new = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if found != APPLICATION_ID and not (found == 0 and is_new):
        raise StateError(
            f"{path} is a database of another program.", hint="Name another state folder with --state."
        )


def _apply_pragmas(
    connection: apsw.Connection, path: Path, *, read_only: bool, is_fixed: bool, secure_delete: bool
) -> None:
    wanted: dict[str, Any] = {
        "synchronous": 2,  # FULL: one sync of the log per commit
        "wal_autocheckpoint": 0,  # a checkpoint inside a commit is a pause inside a request
        "mmap_size": 0,  # an I/O error must be an error, not a signal
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "secure_delete": int(secure_delete),
    }
    if not read_only:
        connection.pragma("journal_mode", "wal")
        if int(connection.pragma("application_id")) == 0:
            connection.pragma("application_id", APPLICATION_ID)
    for name, value in wanted.items():
        connection.pragma(name, value)
    wanted |= {"busy_timeout": BUSY_WAIT_MS, "application_id": APPLICATION_ID}
    if not is_fixed:  # of a file that is said not to change SQLite keeps no journal
        wanted["journal_mode"] = "wal"
    for name, value in wanted.items():
        found = connection.pragma(name)
        if found != value:
            raise StateError(
                f"{path}: SQLite keeps {name} at {found!r} and not {value!r}.",
                hint="Its file system does not support it; name another state folder with --state.",
            )


def prepare_schema(
    connection: apsw.Connection,
    path: Path,
    *,
    store: str,
    version: int,
    statements: str,
    steps: Mapping[int, str] | None = None,
) -> None:
    """Create the tables of a new file, or refuse a file of another store or of a newer Nightproof.

    `steps` brings an older file up: by version, the statements that lead to the next one. All of them in the
    same transaction, so that a file is of the old form or of the new one, whatever ends the process meanwhile.
    """
    with transaction(connection, path):
        if connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'schema'").get == 0:
            connection.execute("CREATE TABLE schema(store TEXT NOT NULL, version INTEGER NOT NULL) STRICT")
            connection.execute(statements)
            connection.execute("INSERT INTO schema VALUES (?, ?)", (store, version))
        elif steps:
            found, have = connection.execute("SELECT store, version FROM schema").get
            while found == store and have < version and have in steps:
                connection.execute(steps[have])
                have += 1
                connection.execute("UPDATE schema SET version = ?", (have,))
    require_schema(connection, path, store=store, version=version)


def require_schema(connection: apsw.Connection, path: Path, *, store: str, version: int) -> None:
    """Raise StateError unless the file is this store's, in this version."""
    try:
        found = connection.execute("SELECT store, version FROM schema").get
    except apsw.SQLError as error:
        raise StateError(
            f"{path} holds no {store}.", hint="Start the server once on this state folder."
        ) from error
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise StateError(
            f"{path} does not say what it holds (table schema): it was damaged or changed.",
            hint="Restore it from a backup; see the runbook audit_tampered.",
        )
    if found != (store, version):
        raise StateError(
            f"{path} is {found[0]!r} in version {found[1]}, and {store!r} in version {version} is wanted.",
            hint="Use the Nightproof that made it, or name another state folder with --state.",
        )


def open_store(
    path: Path,
    *,
    store: str,
    version: int,
    statements: str,
    secure_delete: bool = False,
    steps: Mapping[int, str] | None = None,
) -> apsw.Connection:
    """Open a store's own file, ready for use; nothing stays open where that fails."""
    connection = open_database(path, secure_delete=secure_delete)
    try:
        prepare_schema(connection, path, store=store, version=version, statements=statements, steps=steps)
    except BaseException:
        connection.close(True)
        raise
    return connection


def checkpoint(connection: apsw.Connection, path: Path) -> None:
    """Move the write-ahead log into the file and empty it, if there is room and no reader in the way.

    Called after a commit, which stands in any case: what cannot be moved now is moved the next time.
    """
    try:
        with faults_named(connection, path):
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except StorageUnavailable:
        return
