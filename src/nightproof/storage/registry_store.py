"""Remember the releases of every service, which one is live, which one is on trial, and who did what and why.

Called by the releases room, by `steer` and by `runtime`. Promises: at most one live release per service and one
trial beside it; every change is one durable transaction with its line of history; a change that says on what it
was decided (`expected`) is refused where somebody else was quicker; a label never changes its bytes. Decides
nothing: what may go live is judged above.
"""

# ruff: noqa: S608 (statements are joined from our own constants; values are always bound)

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import apsw
import msgspec

from nightproof.base.clock import utc_us
from nightproof.base.errors import NightproofError, StateError
from nightproof.storage.sqlite import (
    NotFound,
    checkpoint,
    faults_named,
    open_database,
    open_store,
    transaction,
)

VERSION = 3

Act = Literal[
    "registered",
    "shadow",
    "canary",
    "canary_step",
    "live",
    "rollback",
    "rolled_back",
    "canary_worse",
    "canary_undecided",
    "withdrawn",
    "held",
    "unheld",
    "unlatched",
]
"""What can happen to a release. `rollback` is an operator's, `rolled_back` is by itself."""
SwitchAct = Literal["live", "rollback", "rolled_back"]
TrialKind = Literal["canary", "shadow"]
TrialEnd = Literal["canary_worse", "canary_undecided", "withdrawn"]

_STORE = "registry"
_TRIALS = """
CREATE TABLE trials(
  service TEXT PRIMARY KEY,
  label TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('canary', 'shadow')),
  plan TEXT NOT NULL,
  since_us INTEGER NOT NULL,
  FOREIGN KEY (service, label) REFERENCES releases(service, label)
) STRICT;
"""
_PROBATIONS = """
CREATE TABLE probations(
  service TEXT PRIMARY KEY,
  label TEXT NOT NULL,
  seen TEXT NOT NULL,
  FOREIGN KEY (service, label) REFERENCES releases(service, label)
) STRICT;
"""
_SCHEMA = f"""
CREATE TABLE releases(
  service TEXT NOT NULL,
  label TEXT NOT NULL,
  digest TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  live INTEGER NOT NULL CHECK (live IN (0, 1)),
  held TEXT NOT NULL DEFAULT '',
  latched TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (service, label)
) STRICT;
CREATE UNIQUE INDEX releases_live ON releases(service) WHERE live = 1;
CREATE TABLE history(
  at INTEGER PRIMARY KEY,
  service TEXT NOT NULL,
  label TEXT NOT NULL,
  digest TEXT NOT NULL,
  at_us INTEGER NOT NULL,
  act TEXT NOT NULL,
  origin TEXT NOT NULL DEFAULT '',
  who TEXT NOT NULL DEFAULT '',
  why TEXT NOT NULL DEFAULT '',
  recorded INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX history_service ON history(service, at);
CREATE INDEX history_unrecorded ON history(at) WHERE recorded = 0;
{_TRIALS}{_PROBATIONS}"""
_STEPS = {
    1: f"""
ALTER TABLE releases ADD COLUMN held TEXT NOT NULL DEFAULT '';
ALTER TABLE releases ADD COLUMN latched TEXT NOT NULL DEFAULT '';
ALTER TABLE history ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE history ADD COLUMN who TEXT NOT NULL DEFAULT '';
ALTER TABLE history ADD COLUMN why TEXT NOT NULL DEFAULT '';
ALTER TABLE history ADD COLUMN recorded INTEGER NOT NULL DEFAULT 1;
CREATE INDEX history_unrecorded ON history(at) WHERE recorded = 0;
{_TRIALS}""",
    2: _PROBATIONS,
}
"""By version: what brings a file of it to the next one. What an older Nightproof did counts as recorded."""
_RELEASE = "service, label, digest, created_us, live, held, latched"
_HISTORY = "at, service, label, digest, at_us, act, origin, who, why"
_TRIAL = "service, label, kind, plan, since_us"
_MOST_WHY = 1_000


class Changed(NightproofError):
    """Somebody else changed the service's releases since the decision was taken; nothing was done."""


class RegisteredRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release by name and content."""

    service: str
    label: str
    digest: str
    created_us: int
    live: bool
    held: str = ""
    """Why it is kept whatever happens; empty: it is not."""
    latched: str = ""
    """Why it was taken back by itself; it does not go live again without being told to."""


class RegistryAct(msgspec.Struct, frozen=True, kw_only=True):
    """One line of history."""

    at: int
    """Its place: rising, over all services."""
    service: str
    label: str
    digest: str
    at_us: int
    act: Act
    origin: str = ""
    """The release that was live before, where the act made another one live."""
    who: str = ""
    why: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A release beside the live one: as canary or as shadow."""

    service: str
    label: str
    kind: TrialKind
    plan: str
    """How it goes on, as JSON; the registry keeps it and does not read it."""
    since_us: int


class RegistryStore:
    """The file `registry.db`. One lock guards the connection that changes it, another one that which looks.

    Two of them, since the event loop looks: it must not wait for a commit on a disk that stands still.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_store(path, store=_STORE, version=VERSION, statements=_SCHEMA, steps=_STEPS)
        try:
            self._looking = open_database(path)
        except BaseException:
            self._connection.close(True)
            raise
        self._door, self._look_door = threading.Lock(), threading.Lock()

    # -- acts ---------------------------------------------------------------------------------

    def register(
        self,
        service: str,
        label: str,
        digest: str,
        *,
        who: str = "",
        why: str = "",
        now_us: int | None = None,
    ) -> RegisteredRelease:
        """Enter a release. The same bytes again change nothing; other bytes under its label: StateError."""
        now_us = utc_us() if now_us is None else now_us
        with self._change():
            known = _find(self._connection, service, label)
            if known is None:
                self._connection.execute(
                    "INSERT INTO releases(service, label, digest, created_us, live) VALUES (?, ?, ?, ?, 0)",
                    (service, label, digest, now_us),
                )
                self._note(service, label, digest, now_us, "registered", who=who, why=why)
            elif known.digest != digest:
                raise StateError(
                    f"{service} has a release {label} with other content ({known.digest[:8]}).",
                    hint="A label names one content for good; choose another label.",
                )
        return known or RegisteredRelease(
            service=service, label=label, digest=digest, created_us=now_us, live=False
        )

    def set_live(
        self,
        service: str,
        label: str,
        *,
        act: SwitchAct = "live",
        who: str = "",
        why: str = "",
        latch: str = "",
        expected: int | None = None,
        now_us: int | None = None,
    ) -> RegisteredRelease:
        """Make a registered release the live one; durable when this returns. Raises NotFound or Changed.

        `expected` is the `generation` on which this was decided. `latch` says why the release that was live is
        not to come back by itself. A trial of the release that goes live has reached its end.
        """
        now_us = utc_us() if now_us is None else now_us
        # Durable with the commit. The next change moves it into the file: a rollback does not wait for that.
        with self._change(is_urgent=True):
            wanted = self._must_find(service, label)
            self._refuse_changed(service, expected)
            before = _live(self._connection, service)
            if not wanted.live:
                self._connection.execute(
                    "UPDATE releases SET live = 0, latched = iif(?, ?, latched) WHERE service = ? AND live = 1",
                    (bool(latch), latch, service),
                )
                self._connection.execute(
                    "UPDATE releases SET live = 1 WHERE service = ? AND label = ?", (service, label)
                )
                self._connection.execute(
                    "DELETE FROM trials WHERE service = ? AND label = ?", (service, label)
                )
                self._connection.execute("DELETE FROM probations WHERE service = ?", (service,))
                origin = before.label if before is not None else ""
                self._note(service, label, wanted.digest, now_us, act, origin=origin, who=who, why=why)
        return msgspec.structs.replace(wanted, live=True)

    def begin_trial(
        self,
        service: str,
        label: str,
        kind: TrialKind,
        plan: str,
        *,
        who: str = "",
        why: str = "",
        expected: int | None = None,
        now_us: int | None = None,
    ) -> Trial:
        """Put a release beside the live one. Raises NotFound or Changed."""
        now_us = utc_us() if now_us is None else now_us
        with self._change():
            wanted = self._must_find(service, label)
            self._refuse_changed(service, expected)
            self._connection.execute(
                "INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?)", (service, label, kind, plan, now_us)
            )
            self._note(service, label, wanted.digest, now_us, kind, who=who, why=why)
        return Trial(service=service, label=label, kind=kind, plan=plan, since_us=now_us)

    def move_trial(
        self,
        service: str,
        plan: str,
        *,
        who: str = "",
        why: str = "",
        expected: int | None = None,
        now_us: int | None = None,
    ) -> Trial:
        """Take a canary to its next step. Raises NotFound or Changed."""
        now_us = utc_us() if now_us is None else now_us
        with self._change():
            self._refuse_changed(service, expected)
            trial = self._must_have_trial(service)
            self._connection.execute(
                "UPDATE trials SET plan = ?, since_us = ? WHERE service = ?", (plan, now_us, service)
            )
            digest = self._must_find(service, trial.label).digest
            self._note(service, trial.label, digest, now_us, "canary_step", who=who, why=why)
        return msgspec.structs.replace(trial, plan=plan, since_us=now_us)

    def end_trial(
        self,
        service: str,
        act: TrialEnd,
        *,
        who: str = "",
        why: str = "",
        latch: str = "",
        expected: int | None = None,
        now_us: int | None = None,
    ) -> Trial:
        """Take the release on trial away again; the live one stays live. Raises NotFound or Changed."""
        now_us = utc_us() if now_us is None else now_us
        with self._change():
            self._refuse_changed(service, expected)
            trial = self._must_have_trial(service)
            self._connection.execute("DELETE FROM trials WHERE service = ?", (service,))
            if latch:
                self._connection.execute(
                    "UPDATE releases SET latched = ? WHERE service = ? AND label = ?",
                    (latch, service, trial.label),
                )
            digest = self._must_find(service, trial.label).digest
            self._note(service, trial.label, digest, now_us, act, who=who, why=why)
        return trial

    def hold(
        self, service: str, label: str, why: str, *, who: str = "", now_us: int | None = None
    ) -> RegisteredRelease:
        """Keep a release whatever happens; an empty `why` lets it go again. Raises NotFound."""
        now_us = utc_us() if now_us is None else now_us
        with self._change():
            wanted = self._must_find(service, label)
            if wanted.held != why:
                self._connection.execute(
                    "UPDATE releases SET held = ? WHERE service = ? AND label = ?", (why, service, label)
                )
                self._note(
                    service, label, wanted.digest, now_us, "held" if why else "unheld", who=who, why=why
                )
        return msgspec.structs.replace(wanted, held=why)

    def unlatch(
        self, service: str, label: str, *, who: str = "", why: str = "", now_us: int | None = None
    ) -> RegisteredRelease:
        """Let a release that was taken back by itself go live again. Raises NotFound."""
        now_us = utc_us() if now_us is None else now_us
        with self._change():
            wanted = self._must_find(service, label)
            if wanted.latched:
                self._connection.execute(
                    "UPDATE releases SET latched = '' WHERE service = ? AND label = ?", (service, label)
                )
                self._note(service, label, wanted.digest, now_us, "unlatched", who=who, why=why)
        return msgspec.structs.replace(wanted, latched="")

    def keep_probation(self, service: str, label: str, seen: str) -> None:
        """Keep what was seen of the live release since it went live; nothing where another one is live by now.

        `seen` is JSON; the registry does not read it. It is no act: history and `generation` stay as they are.
        """
        with self._change():
            self._connection.execute(
                "INSERT OR REPLACE INTO probations SELECT service, label, ? FROM releases "
                "WHERE service = ? AND label = ? AND live = 1",
                (seen, service, label),
            )

    def mark_recorded(self, at: int) -> None:
        """Note that the audit log has the history up to and with this line."""
        with self._change():
            self._connection.execute("UPDATE history SET recorded = 1 WHERE recorded = 0 AND at <= ?", (at,))

    # -- looking ------------------------------------------------------------------------------

    def find(self, service: str, label: str) -> RegisteredRelease | None:
        """Return a release by name."""
        with self._look() as looking:
            return _find(looking, service, label)

    def of_digest(self, digest: str) -> tuple[RegisteredRelease, ...]:
        """Return the releases with this content, the oldest first."""
        with self._look() as looking:
            found = looking.execute(
                f"SELECT {_RELEASE} FROM releases WHERE digest = ? ORDER BY created_us, rowid", (digest,)
            )
            return tuple(one for row in found if (one := _release(row)) is not None)

    def services(self) -> tuple[str, ...]:
        """Return the names of all services that have a release."""
        with self._look() as looking:
            return tuple(str(row[0]) for row in looking.execute("SELECT DISTINCT service FROM releases"))

    def live(self, service: str) -> RegisteredRelease | None:
        """Return the live release of a service."""
        with self._look() as looking:
            return _live(looking, service)

    def previous(self, service: str) -> RegisteredRelease | None:
        """Return where a rollback without a name leads: the release that was live before the live one.

        Promotions pile up and a rollback takes from the pile, so that two rollbacks in a row lead two releases
        back and never forward again. What was taken back by itself is passed over.
        """
        with self._look() as looking:
            pile: list[str] = []
            for label, act in looking.execute(
                "SELECT label, act FROM history WHERE service = ? AND act IN ('live', 'rollback', 'rolled_back') "
                "ORDER BY at",
                (service,),
            ):
                if act != "live" and label in pile:
                    del pile[len(pile) - pile[::-1].index(label) :]
                else:
                    pile.append(str(label))
            live = _live(looking, service)
            for label in reversed(pile):
                known = _find(looking, service, label)
                if known is not None and not known.latched and (live is None or label != live.label):
                    return known
            return None

    def trial(self, service: str) -> Trial | None:
        """Return the release on trial beside the live one."""
        with self._look() as looking:
            return _trial(looking, service)

    def probation(self, service: str, label: str) -> str:
        """Return what was kept of a release's probation; empty where nothing was."""
        with self._look() as looking:
            found = looking.execute(
                "SELECT seen FROM probations WHERE service = ? AND label = ?", (service, label)
            ).get
        return str(found or "")

    def generation(self, service: str) -> int:
        """Return the place of the last change, on which a decision is taken; registering changes nothing."""
        with self._look() as looking:
            return _generation(looking, service)

    def kept(self, service: str) -> tuple[RegisteredRelease, ...]:
        """Return the releases whose bundles must stay: live, standby, on trial, held."""
        previous, trial = self.previous(service), self.trial(service)
        labels = {one.label for one in (previous, trial) if one is not None}
        return tuple(one for one in self.releases(service) if one.live or one.held or one.label in labels)

    def releases(self, service: str) -> tuple[RegisteredRelease, ...]:
        """Return all releases of a service, the newest first."""
        with self._look() as looking:
            found = looking.execute(
                f"SELECT {_RELEASE} FROM releases WHERE service = ? ORDER BY created_us DESC, rowid DESC",
                (service,),
            )
            return tuple(one for row in found if (one := _release(row)) is not None)

    def history(self, service: str, *, most: int = 100) -> tuple[RegistryAct, ...]:
        """Return what was done to a service's releases, the newest first."""
        with self._look() as looking:
            found = looking.execute(
                f"SELECT {_HISTORY} FROM history WHERE service = ? ORDER BY at DESC LIMIT ?", (service, most)
            )
            return tuple(_act(row) for row in found)

    def unrecorded(self, *, most: int = 100) -> tuple[RegistryAct, ...]:
        """Return the lines of history that the audit log does not have yet, the oldest first."""
        with self._look() as looking:
            found = looking.execute(
                f"SELECT {_HISTORY} FROM history WHERE recorded = 0 ORDER BY at LIMIT ?", (most,)
            )
            return tuple(_act(row) for row in found)

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._look() as looking:
            looking.close()
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()

    # -- inside -------------------------------------------------------------------------------

    @contextmanager
    def _change(self, *, is_urgent: bool = False) -> Iterator[None]:
        """Hold the door for one transaction; afterwards, unless it is urgent, move what it wrote into the file."""
        with self._door:
            with transaction(self._connection, self.path):
                yield
            if not is_urgent:
                checkpoint(self._connection, self.path)

    @contextmanager
    def _look(self) -> Iterator[apsw.Connection]:
        with self._look_door, faults_named(self._looking, self.path):
            yield self._looking

    def _must_find(self, service: str, label: str) -> RegisteredRelease:
        found = _find(self._connection, service, label)
        if found is None:
            raise NotFound(
                f"{service} has no release {label}.", hint="Register it first, or look at the history."
            )
        return found

    def _must_have_trial(self, service: str) -> Trial:
        trial = _trial(self._connection, service)
        if trial is None:
            raise NotFound(f"No release of {service} is on trial.", hint="Look at `nightproof history`.")
        return trial

    def _refuse_changed(self, service: str, expected: int | None) -> None:
        if expected is None or _generation(self._connection, service) == expected:
            return
        row = self._connection.execute(
            f"SELECT {_HISTORY} FROM history WHERE service = ? AND act <> 'registered' ORDER BY at DESC LIMIT 1",
            (service,),
        ).get
        last = _act(row)
        raise Changed(
            f"{service} was changed meanwhile: {last.act} {last.label} by {last.who or 'the server'}.",
            hint="Look at `nightproof history`, and decide again.",
        )

    def _note(
        self,
        service: str,
        label: str,
        digest: str,
        now_us: int,
        act: Act,
        *,
        origin: str = "",
        who: str = "",
        why: str = "",
    ) -> None:
        self._connection.execute(
            "INSERT INTO history(service, label, digest, at_us, act, origin, who, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (service, label, digest, now_us, act, origin, who, why[:_MOST_WHY]),
        )


def _find(connection: apsw.Connection, service: str, label: str) -> RegisteredRelease | None:
    return _release(
        connection.execute(
            f"SELECT {_RELEASE} FROM releases WHERE service = ? AND label = ?", (service, label)
        ).get
    )


def _live(connection: apsw.Connection, service: str) -> RegisteredRelease | None:
    return _release(
        connection.execute(f"SELECT {_RELEASE} FROM releases WHERE service = ? AND live = 1", (service,)).get
    )


def _trial(connection: apsw.Connection, service: str) -> Trial | None:
    row = connection.execute(f"SELECT {_TRIAL} FROM trials WHERE service = ?", (service,)).get
    return None if row is None else msgspec.convert(dict(zip(_TRIAL.split(", "), row, strict=True)), Trial)


def _generation(connection: apsw.Connection, service: str) -> int:
    found = connection.execute(
        "SELECT max(at) FROM history WHERE service = ? AND act <> 'registered'", (service,)
    ).get
    return int(found or 0)


def _release(row: tuple[object, ...] | None) -> RegisteredRelease | None:
    if row is None:
        return None
    return msgspec.convert(dict(zip(_RELEASE.split(", "), row, strict=True)), RegisteredRelease, strict=False)


def _act(row: tuple[object, ...]) -> RegistryAct:
    return msgspec.convert(dict(zip(_HISTORY.split(", "), row, strict=True)), RegistryAct)
