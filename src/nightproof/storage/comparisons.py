"""Keep what a shadow or a replay has found so far, and sealed examples of what it answered otherwise.

Called by `parts` and by `steer`. Promises: progress and the counts that belong to it change in one transaction, so
that a run which was cut short goes on where it was, and counts no record twice. Counts and examples are sealed before
they come here; nothing here opens them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from nightproof.base.clock import utc_us
from nightproof.storage.sqlite import NotFound, checkpoint, faults_named, open_store, transaction

VERSION = 1
_STORE = "comparisons"
_SCHEMA = """
CREATE TABLE runs(
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('replay', 'shadow')),
  service TEXT NOT NULL,
  label TEXT NOT NULL,
  began_us INTEGER NOT NULL,
  state TEXT NOT NULL,
  done INTEGER NOT NULL,
  wanted INTEGER NOT NULL,
  cursor INTEGER NOT NULL,
  counts BLOB NOT NULL
) STRICT;
CREATE TABLE examples(
  run TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  sealed BLOB NOT NULL,
  PRIMARY KEY (run, number)
) STRICT;
"""
_RUN = "id, kind, service, label, began_us, state, done, wanted, cursor, counts"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison: how far it is, and what it has counted."""

    id: str
    kind: str
    service: str
    label: str
    began_us: int
    state: str
    """running, paused, finished or failed: and why."""
    done: int
    wanted: int
    cursor: int
    """The log's place below which the next page begins."""
    counts: bytes
    """Sealed: they name values of inputs and outputs."""


class Comparisons:
    """The file `comparisons.db`. One lock guards its connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_store(
            path, store=_STORE, version=VERSION, statements=_SCHEMA, secure_delete=True
        )
        self._door = threading.Lock()

    def begin(
        self,
        run_id: str,
        *,
        kind: str,
        service: str,
        label: str,
        wanted: int,
        counts: bytes,
        cursor: int = -1,
    ) -> Run:
        """Begin a run."""
        run = Run(
            id=run_id,
            kind=kind,
            service=service,
            label=label,
            began_us=utc_us(),
            state="running",
            done=0,
            wanted=wanted,
            cursor=cursor,
            counts=counts,
        )
        with self._door, transaction(self._connection, self.path):
            self._connection.execute(
                f"INSERT INTO runs({_RUN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own names
                msgspec.structs.astuple(run),
            )
        return run

    def keep(self, run: Run, examples: Sequence[bytes] = (), *, most: int = 50) -> None:
        """Keep how far a run is, with its counts, and examples up to `most` of them."""
        with self._door, transaction(self._connection, self.path):
            self._connection.execute(
                "UPDATE runs SET state = ?, done = ?, cursor = ?, counts = ? WHERE id = ?",
                (run.state, run.done, run.cursor, run.counts, run.id),
            )
            known = int(
                self._connection.execute("SELECT count(*) FROM examples WHERE run = ?", (run.id,)).get or 0
            )
            for number, sealed in enumerate(examples[: max(0, most - known)], start=known):
                self._connection.execute("INSERT INTO examples VALUES (?, ?, ?)", (run.id, number, sealed))
        with self._door:
            checkpoint(self._connection, self.path)

    def find(self, run_id: str) -> Run:
        """Return a run. Raises NotFound."""
        with self._door, faults_named(self._connection, self.path):
            row = self._connection.execute(f"SELECT {_RUN} FROM runs WHERE id = ?", (run_id,)).get  # noqa: S608
        if row is None:
            raise NotFound(f"There is no replay {run_id}.", hint="Begin one with `nightproof replay`.")
        return msgspec.convert(dict(zip(_RUN.split(", "), row, strict=True)), Run)

    def newest(self, *, kind: str, service: str, label: str = "") -> Run | None:
        """Return the newest run of a kind."""
        with self._door, faults_named(self._connection, self.path):
            row = self._connection.execute(
                f"SELECT {_RUN} FROM runs WHERE kind = ? AND service = ? AND (? = '' OR label = ?) "  # noqa: S608
                "ORDER BY began_us DESC, rowid DESC LIMIT 1",
                (kind, service, label, label),
            ).get
        return None if row is None else msgspec.convert(dict(zip(_RUN.split(", "), row, strict=True)), Run)

    def examples(self, run_id: str) -> list[bytes]:
        """Return a run's examples, sealed."""
        with self._door, faults_named(self._connection, self.path):
            found = self._connection.execute(
                "SELECT sealed FROM examples WHERE run = ? ORDER BY number", (run_id,)
            )
            return [bytes(row[0]) for row in found]

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._door, faults_named(self._connection, self.path):
            self._connection.close()
