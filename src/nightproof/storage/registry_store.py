"""Remember the releases of every service, and which one is live.

Called by the releases room and by `runtime`. Promises: at most one live release per service; every change is
one transaction with its line of history; a label never changes its bytes. Decides nothing: what may go live
is judged above.
"""

# ruff: noqa: S608 (statements are joined from our own constants; values are always bound)

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

import msgspec

from nightproof.base.clock import utc_us
from nightproof.base.errors import StateError
from nightproof.storage.sqlite import NotFound, checkpoint, faults_named, open_store, transaction

VERSION = 1

Act = Literal["registered", "live"]

_STORE = "registry"
_SCHEMA = """
CREATE TABLE releases(
  service TEXT NOT NULL,
  label TEXT NOT NULL,
  digest TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  live INTEGER NOT NULL CHECK (live IN (0, 1)),
  PRIMARY KEY (service, label)
) STRICT;
CREATE UNIQUE INDEX releases_live ON releases(service) WHERE live = 1;
CREATE TABLE history(
  at INTEGER PRIMARY KEY,
  service TEXT NOT NULL,
  label TEXT NOT NULL,
  digest TEXT NOT NULL,
  at_us INTEGER NOT NULL,
  act TEXT NOT NULL
) STRICT;
CREATE INDEX history_service ON history(service, at);
"""
_RELEASE = "service, label, digest, created_us, live"
_HISTORY = "service, label, digest, at_us, act"


class RegisteredRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release by name and content."""

    service: str
    label: str
    digest: str
    created_us: int
    live: bool


class RegistryAct(msgspec.Struct, frozen=True, kw_only=True):
    """One line of history."""

    service: str
    label: str
    digest: str
    at_us: int
    act: Act


class RegistryStore:
    """The file `registry.db`. One lock guards its connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_store(path, store=_STORE, version=VERSION, statements=_SCHEMA)
        self._door = threading.Lock()

    def register(
        self, service: str, label: str, digest: str, *, now_us: int | None = None
    ) -> RegisteredRelease:
        """Enter a release. The same bytes again change nothing; other bytes under its label: StateError."""
        now_us = utc_us() if now_us is None else now_us
        with self._door, transaction(self._connection, self.path):
            known = self._find(service, label)
            if known is None:
                self._connection.execute(
                    "INSERT INTO releases VALUES (?, ?, ?, ?, 0)", (service, label, digest, now_us)
                )
                self._note(service, label, digest, now_us, "registered")
            elif known.digest != digest:
                raise StateError(
                    f"{service} has a release {label} with other content ({known.digest[:8]}).",
                    hint="A label names one content for good; choose another label.",
                )
        self._settle()
        return known or RegisteredRelease(
            service=service, label=label, digest=digest, created_us=now_us, live=False
        )

    def set_live(self, service: str, label: str, *, now_us: int | None = None) -> RegisteredRelease:
        """Make a registered release the live one. Raises NotFound."""
        now_us = utc_us() if now_us is None else now_us
        with self._door, transaction(self._connection, self.path):
            wanted = self._find(service, label)
            if wanted is None:
                raise NotFound(
                    f"{service} has no release {label}.", hint="Register it first, or look at the history."
                )
            if not wanted.live:
                self._connection.execute(
                    "UPDATE releases SET live = 0 WHERE service = ? AND live = 1", (service,)
                )
                self._connection.execute(
                    "UPDATE releases SET live = 1 WHERE service = ? AND label = ?", (service, label)
                )
                self._note(service, label, wanted.digest, now_us, "live")
        self._settle()
        return msgspec.structs.replace(wanted, live=True)

    def find(self, service: str, label: str) -> RegisteredRelease | None:
        """Return a release by name."""
        with self._door, faults_named(self._connection, self.path):
            return self._find(service, label)

    def of_digest(self, digest: str) -> tuple[RegisteredRelease, ...]:
        """Return the releases with this content, the oldest first."""
        with self._door, faults_named(self._connection, self.path):
            found = self._connection.execute(
                f"SELECT {_RELEASE} FROM releases WHERE digest = ? ORDER BY created_us, rowid", (digest,)
            )
            return tuple(one for row in found if (one := _release(row)) is not None)

    def services(self) -> tuple[str, ...]:
        """Return the names of all services that have a release."""
        with self._door, faults_named(self._connection, self.path):
            return tuple(
                str(row[0]) for row in self._connection.execute("SELECT DISTINCT service FROM releases")
            )

    def kept(self, service: str) -> tuple[RegisteredRelease, ...]:
        """Return the releases whose bundles must stay: live, and the one before."""
        previous = self.previous(service)
        return tuple(
            one
            for one in self.releases(service)
            if one.live or (previous is not None and one.label == previous.label)
        )

    def live(self, service: str) -> RegisteredRelease | None:
        """Return the live release of a service."""
        with self._door, faults_named(self._connection, self.path):
            return _release(
                self._connection.execute(
                    f"SELECT {_RELEASE} FROM releases WHERE service = ? AND live = 1", (service,)
                ).get
            )

    def previous(self, service: str) -> RegisteredRelease | None:
        """Return the release that was live last before the live one: where a rollback leads."""
        with self._door, faults_named(self._connection, self.path):
            return _release(
                self._connection.execute(
                    f"SELECT {_RELEASE} FROM history JOIN releases USING (service, label, digest) "
                    f"WHERE service = ? AND act = 'live' AND live = 0 ORDER BY at DESC LIMIT 1",
                    (service,),
                ).get
            )

    def releases(self, service: str) -> tuple[RegisteredRelease, ...]:
        """Return all releases of a service, the newest first."""
        with self._door, faults_named(self._connection, self.path):
            found = self._connection.execute(
                f"SELECT {_RELEASE} FROM releases WHERE service = ? ORDER BY created_us DESC, rowid DESC",
                (service,),
            )
            return tuple(one for row in found if (one := _release(row)) is not None)

    def history(self, service: str, *, most: int = 100) -> tuple[RegistryAct, ...]:
        """Return what was done to a service's releases, the newest first."""
        with self._door, faults_named(self._connection, self.path):
            found = self._connection.execute(
                f"SELECT {_HISTORY} FROM history WHERE service = ? ORDER BY at DESC LIMIT ?", (service, most)
            )
            return tuple(
                msgspec.convert(dict(zip(_HISTORY.split(", "), row, strict=True)), RegistryAct)
                for row in found
            )

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()

    def _find(self, service: str, label: str) -> RegisteredRelease | None:
        return _release(
            self._connection.execute(
                f"SELECT {_RELEASE} FROM releases WHERE service = ? AND label = ?", (service, label)
            ).get
        )

    def _note(self, service: str, label: str, digest: str, now_us: int, act: Act) -> None:
        self._connection.execute(
            f"INSERT INTO history({_HISTORY}) VALUES (?, ?, ?, ?, ?)", (service, label, digest, now_us, act)
        )

    def _settle(self) -> None:
        with self._door:
            checkpoint(self._connection, self.path)


def _release(row: tuple[object, ...] | None) -> RegisteredRelease | None:
    if row is None:
        return None
    return msgspec.convert(dict(zip(_RELEASE.split(", "), row, strict=True)), RegisteredRelease, strict=False)
