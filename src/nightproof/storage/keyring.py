"""Keep API keys: who may call, with which role, for which services, until when.

The gateway asks `find` for every request; operators create and revoke through `steer.keys`, also from another
process while the server runs. Promises: a token is shown once and never stored, only its keyed BLAKE2b under a pepper
that lies in another file; a mistyped token costs no lookup; a revocation counts within a second. `find` does
no I/O and takes no lock.
"""

# ruff: noqa: S608 (statements are joined from our own constants; values are always bound)

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import threading
import zlib
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import msgspec

from nightproof.base.clock import iso_us, utc_us
from nightproof.base.errors import StateError
from nightproof.base.roles import Role
from nightproof.storage.sqlite import (
    NotFound,
    StorageUnavailable,
    checkpoint,
    faults_named,
    open_store,
    transaction,
)
from nightproof.storage.statefolder import sync_folder

VERSION = 1
PREFIX = "npk_live_"
DEFAULT_LIFE = timedelta(days=90)
LOOK_EVERY_S = 0.5

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [high + low for high in _BASE62 for low in _BASE62]
_CHANCE = 32
_SUM = 6
_LENGTH = len(PREFIX) + _CHANCE + _SUM
_DAY_US = 86_400_000_000
_STORE = "keyring"
_SCHEMA = """
CREATE TABLE keys(
  id TEXT PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  services TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  expires_us INTEGER,
  revoked_us INTEGER,
  last_used_day TEXT NOT NULL
) STRICT;
"""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key, without the key."""

    id: str
    name: str
    role: Role
    services: tuple[str, ...]
    """The services it may call; empty means all."""
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    last_used_day: str
    """ISO date, UTC; empty when it was never used."""

    def covers(self, service: str) -> bool:
        """Say whether the key may be used for this service."""
        return not self.services or service in self.services


def checksum(text: str) -> str:
    """Return the CRC-32 of a text as six base62 digits."""
    rest, low = divmod(zlib.crc32(text.encode()), 3_844)
    high, middle = divmod(rest, 3_844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def is_token(text: str) -> bool:
    """Say whether a text has the form and the checksum of one of our tokens. Costs no lookup."""
    return (
        len(text) == _LENGTH
        and text.startswith(PREFIX)
        and text.isascii()
        and text[-_SUM:] == checksum(text[:-_SUM])
    )


def new_token() -> str:
    """Draw a token: the prefix, 190 bits of chance, a checksum."""
    body = PREFIX + "".join(secrets.choice(_BASE62) for _ in range(_CHANCE))
    return body + checksum(body)


class Keyring:
    """All keys of a state folder. One lock guards the connection and the days of use to be written."""

    def __init__(self, database: Path, pepper: Path) -> None:
        self.path = database
        self._connection = open_store(
            database, store=_STORE, version=VERSION, statements=_SCHEMA, secure_delete=True
        )
        self._door = threading.Lock()
        self._is_closed = False
        self._looked_at_s = float("-inf")
        self._seen_version = -1
        self._by_digest: dict[bytes, KeyRecord] = {}
        self._used_on: dict[str, int] = {}
        """Day of the last use by key id, as `find` saw it; days are counted from 1970."""
        self._written_on: dict[str, int] = {}
        try:
            with self._door, faults_named(self._connection, self.path):
                has_keys = self._connection.execute("SELECT count(*) FROM keys").get > 0
                self._pepper = _pepper(pepper, may_create=not has_keys)
                self._load()
        except BaseException:
            self._connection.close(True)
            raise

    def create(
        self,
        role: Role,
        name: str = "",
        services: Iterable[str] = (),
        expires_in: timedelta | None = DEFAULT_LIFE,
        *,
        now_us: int | None = None,
    ) -> tuple[KeyRecord, str]:
        """Make a key; return its record and the token, which is not to be had again."""
        now_us = utc_us() if now_us is None else now_us
        token = new_token()
        record = KeyRecord(
            id=f"key_{secrets.token_hex(6)}",
            name=name,
            role=Role(role),
            services=tuple(services),
            created_us=now_us,
            expires_us=None if expires_in is None else now_us + int(expires_in.total_seconds() * 1_000_000),
            revoked_us=None,
            last_used_day="",
        )
        with self._door, transaction(self._connection, self.path):
            self._connection.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    self._digest(token),
                    record.name,
                    record.role.value,
                    msgspec.json.encode(record.services).decode(),
                    record.created_us,
                    record.expires_us,
                    None,
                    "",
                ),
            )
        self._settle()
        return record, token

    def list(self) -> tuple[KeyRecord, ...]:
        """Return all keys, also expired and revoked ones, the oldest first."""
        with self._door, faults_named(self._connection, self.path):
            found = self._connection.execute(f"SELECT {_COLUMNS} FROM keys ORDER BY created_us, rowid")
            return tuple(_record(row) for row in found)

    def revoke(self, key_id: str, *, now_us: int | None = None) -> KeyRecord:
        """End a key for good; return its record. Twice keeps the first time. Raises NotFound."""
        now_us = utc_us() if now_us is None else now_us
        with self._door, transaction(self._connection, self.path):
            self._connection.execute(
                "UPDATE keys SET revoked_us = ? WHERE id = ? AND revoked_us IS NULL", (now_us, key_id)
            )
            row = self._connection.execute(f"SELECT {_COLUMNS} FROM keys WHERE id = ?", (key_id,)).get
            if row is None:
                raise NotFound(f"There is no key {key_id}.", hint="`nightproof keys list` shows them.")
            record = _record(row)
        self._settle()
        return record

    def find(self, token: str, now_us: int) -> KeyRecord | None:
        """Return the record of a token that is good now, else None."""
        if len(token) != _LENGTH or not token.isascii():
            return None
        # The dict compares digests, not tokens, and nobody can choose a digest without the pepper: how long
        # the lookup takes tells a guesser nothing.
        record = self._by_digest.get(self._digest(token))
        if record is None or (record.expires_us is not None and record.expires_us <= now_us):
            return None
        self._used_on[record.id] = now_us // _DAY_US
        return record

    def refresh(self, now_s: float) -> bool:
        """Look for changes by other processes and write down days of use; return whether keys changed.

        The server's tick calls it as often as it likes: it looks at most every half second. When the store
        fails, what is known stays in use and StorageUnavailable or StorageOutcomeUnknown is raised.
        """
        if now_s - self._looked_at_s < LOOK_EVERY_S:
            return False
        self._looked_at_s = now_s
        with self._door, faults_named(self._connection, self.path):
            has_changed: bool = self._connection.pragma("data_version") != self._seen_version
            if has_changed:
                self._load()
        self._write_days()
        return has_changed

    def close(self) -> None:
        """Write the days of use and let go of the file. Closing twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        # A day of use that a full disk does not take is not worth a stop that fails.
        with contextlib.suppress(StorageUnavailable):
            self._write_days()
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()

    def _digest(self, token: str) -> bytes:
        # Keyed BLAKE2b (RFC 7693) is a MAC by itself, at a third of the price of HMAC-SHA-256 in OpenSSL 3.
        return hashlib.blake2b(token.encode(), key=self._pepper, digest_size=32).digest()

    def _settle(self) -> None:
        """After a change of ours: take it into use, and leave no trace of it in the log."""
        with self._door:
            with faults_named(self._connection, self.path):
                self._load()
            checkpoint(self._connection, self.path)

    def _load(self) -> None:
        # The version is read first: a change that comes in between is then seen once more, not missed.
        self._seen_version = self._connection.pragma("data_version")
        rows = self._connection.execute(f"SELECT digest, {_COLUMNS} FROM keys WHERE revoked_us IS NULL")
        # One assignment, so that `find` in another thread sees the old keys or the new ones.
        self._by_digest = {row[0]: _record(row[1:]) for row in rows}

    def _write_days(self) -> None:
        news = {
            key_id: day for key_id, day in self._used_on.copy().items() if self._written_on.get(key_id) != day
        }
        if not news:
            return
        with self._door, transaction(self._connection, self.path):
            for key_id, day in news.items():
                self._connection.execute(
                    "UPDATE keys SET last_used_day = ? WHERE id = ?", (_iso_day(day), key_id)
                )
        self._written_on |= news

    def __repr__(self) -> str:
        return f"<Keyring {len(self._by_digest)} keys in use>"


_COLUMNS = "id, name, role, services, created_us, expires_us, revoked_us, last_used_day"


def _record(row: tuple[object, ...]) -> KeyRecord:
    names = _COLUMNS.split(", ")
    return msgspec.convert(
        {**dict(zip(names, row, strict=True)), "services": msgspec.json.decode(str(row[3]))}, KeyRecord
    )


def _iso_day(day: int) -> str:
    return iso_us(day * _DAY_US)[:10]


def _pepper(path: Path, *, may_create: bool) -> bytes:
    """Read the pepper, or make it where there are no keys yet that another one would orphan."""
    try:
        if may_create and not path.exists():
            _create_pepper(path)
        found = path.stat()
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise StateError(
                f"{path} can be read by other users.", hint=f"Run: chmod 600 {path}; then renew all keys."
            )
        pepper = path.read_bytes()
    except OSError as error:
        raise StateError(
            f"{path} cannot be read: {error.strerror}; without it no key can be recognised.",
            hint="Put it back from a backup, or remove keyring.db and create new keys.",
        ) from error
    if len(pepper) != 32:
        raise StateError(
            f"{path} is damaged.", hint="Put it back from a backup, or remove it and keyring.db."
        )
    return pepper


def _create_pepper(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        # Unlike a rename, a link never replaces what another process was quicker to make.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    sync_folder(path.parent)
