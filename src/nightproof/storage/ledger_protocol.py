"""What every ledger store can do, whichever database it is.

Typed against by the audit room, by steer and by the command line; implemented by `ledger_store` (SQLite) and
`ledger_postgres`. Promises, of both: when `append` returns, everything in it survives a power cut; when it
raises StorageUnavailable, nothing of it is there; after StorageOutcomeUnknown the store is fenced and writes
nothing more, since a row may or may not be found at the next start. Rows are never changed and never deleted;
only the payload of a row may be dropped, for good. No implementation looks into a leaf, a payload or a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, runtime_checkable

from nightproof.storage.ledger_rows import Checkpoint, Head, Query, Row, StoredEntry, Tile


@runtime_checkable
class LedgerReading(Protocol):
    """What can be asked of a log. Not to be shared between threads."""

    def size(self) -> int:
        """Return the number of entries of the log: the highest seq and one, or 0."""

    def count(self) -> int:
        """Count the rows; another number than `size` says that some are gone."""

    def by_id(self, entry_id: str) -> list[StoredEntry]:
        """Return the entries of an id in the order they were written; a stream has two."""

    def by_idem(self, idem: bytes, not_before_us: int) -> StoredEntry | None:
        """Return the latest entry under an idempotency key that is not older than `not_before_us`."""

    def entries(self, first_seq: int = 0, most: int = 1_000) -> list[StoredEntry]:
        """Return up to `most` entries from `first_seq` on."""

    def all_entries(self, first_seq: int = 0) -> Iterator[StoredEntry]:
        """Go through all entries from `first_seq` on, without holding them all."""

    def leaves(self, first_seq: int, most: int = 1_000) -> list[bytes]:
        """Return up to `most` leaves from `first_seq` on."""

    def search(self, query: Query) -> list[StoredEntry]:
        """Return up to `query.most` entries that match all that is asked, by their time, or by their place.

        By place, the order in which they were written, where a subject is asked for: that is its index's order.
        """

    def of_kind(self, *kinds: str) -> Iterator[StoredEntry]:
        """Go through all entries of these kinds, oldest first; quick for every kind but `request`."""

    def tiles(self, level: int, first: int = 0, most: int = 100) -> list[Tile]:
        """Return up to `most` full tiles of a level from place `first` on."""

    def tile_roots(self, level: int, first: int = 0, most: int = 1_000) -> list[bytes]:
        """Return the roots of up to `most` full tiles of a level from place `first` on."""

    def tile_count(self, level: int) -> int:
        """Count the full tiles of a level."""

    def levels(self) -> int:
        """Return the number of levels that have a full tile."""

    def checkpoints(self, first_size: int = 0, most: int = 1_000) -> list[Checkpoint]:
        """Return up to `most` checkpoints of `first_size` entries or more, smallest first."""

    def last_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint over the most entries."""

    def checkpoint_at_or_after(self, size: int) -> Checkpoint | None:
        """Return the smallest checkpoint that covers `size` entries."""

    def edge(self) -> tuple[int, bytes]:
        """Return the leaf hashes behind the last full tile, as of the last checkpoint, and that checkpoint's size."""

    def subjects(self, first_seq: int, last_seq: int) -> list[tuple[int, bytes]]:
        """Return the pairs of seq and subject of these entries."""

    def all_subjects(self) -> Iterator[tuple[int, bytes]]:
        """Go through all pairs of seq and subject, by subject, without holding them; within a `snapshot`."""

    def count_subject(self, subject: bytes) -> int:
        """Count the entries about a subject."""

    def first_payload(self, service: str, before_us: int, below_seq: int) -> int | None:
        """Return the first request of a service, older than that, whose payload is there; None without one."""

    def oddities(self) -> list[str]:
        """Name tables, columns, indexes and triggers that are not ours, or are missing."""

    def meta(self) -> dict[str, str]:
        """Return everything that the log keeps under a name."""

    def read_meta(self, name: str) -> str | None:
        """Return what the log keeps under a name."""

    def quick_check(self) -> list[str]:
        """Let the database look for damage; return what it found, nothing when all is well."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Show the block the log as it is at one moment, whatever is appended meanwhile.

        A writer gives none while a batch is begun.
        """

    def close(self) -> None:
        """Let go of the database. Closing twice is fine."""


@runtime_checkable
class LedgerWriting(LedgerReading, Protocol):
    """What the log's one writer can do besides."""

    @property
    def is_fenced(self) -> bool:
        """Say whether an outcome was unknown, after which nothing more is written."""

    def begin(self) -> Head:
        """Take the log for one batch, to be ended by `append` or `abandon`; say where it stands."""

    def append(
        self,
        first_seq: int,
        rows: Sequence[Row],
        tiles: Sequence[Tile],
        root: bytes | None,
        checkpoint: Checkpoint | None,
        edge: bytes = b"",
    ) -> None:
        """Write all of it in one transaction and make it durable; return only then.

        `first_seq` is the first row's place and must be the log's size. `root` is the tree's root after the
        rows, where `begin` gave one. `edge` goes with a checkpoint: the leaf hashes behind the last full tile,
        so that each single record can be held to it. Ends what was begun, also where it raises.
        """

    def abandon(self) -> None:
        """Give back a batch that was begun, if there is one; nothing of it is written. Never raises."""

    def drop_payloads(
        self, service: str, before_us: int, below_seq: int, *, after_seq: int = -1, most: int = 1_000
    ) -> tuple[int, int]:
        """Drop for good the payloads of a service's requests, at most `most`, in one transaction.

        Only those of kind `request`, recorded before `before_us`, with `after_seq` < seq < `below_seq`.
        Return how many were dropped, and the seq to go on after; that is `below_seq` - 1 when none is left.
        Must not be called between `begin` and its end.
        """

    def write_meta(self, name: str, value: str) -> None:
        """Keep a value under a name, for good: a name that has one keeps it."""

    def checkpoint(self, mode: Literal["passive", "truncate"] = "passive") -> tuple[int, int]:
        """Move SQLite's write-ahead log into its file; return its pages and how many of them are moved.

        Nothing to do in a database that sees to it itself: (0, 0).
        """

    def wal_bytes(self) -> int:
        """Return the size of SQLite's write-ahead log; 0 in another database."""
