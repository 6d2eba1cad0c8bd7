"""The values that every ledger store takes and gives back, whichever database it is.

Used by the SQLite and the PostgreSQL store and by the audit room above them. Plain values; no I/O.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """An entry to be written. Its sequence number is its place: the first one's is given with the batch."""

    id: str
    at_us: int
    kind: str
    service: str
    release: str
    caller: str
    """Id of the API key, or who acted; empty where nobody is known."""
    ending: str
    failure: str
    idem: bytes | None
    """HMAC of caller, service and idempotency key; None where none was sent."""
    leaf: bytes
    """What the tree hashes; names every other column but the payload, of which it holds the SHA-256."""
    payload: bytes | None
    """The sealed content."""
    subjects: tuple[bytes, ...] = ()
    """Pseudonyms of the data subjects, 16 bytes each."""


class StoredEntry(NamedTuple):
    """An entry as it is read back."""

    seq: int
    id: str
    at_us: int
    kind: str
    service: str
    release: str
    caller: str
    ending: str
    failure: str
    idem: bytes | None
    leaf: bytes
    payload: bytes | None


class Tile(NamedTuple):
    """A full tile of the tree: 256 hashes of one level, after C2SP tlog-tiles.

    Level 0 holds leaf hashes; each hash of level n + 1 is the root of a full tile of level n.
    """

    level: int
    place: int
    root: bytes
    """Merkle root of the tile's 256 hashes, 32 bytes: kept so that a proof need not read the tile."""
    hashes: bytes
    """256 × 32 bytes."""


class Checkpoint(NamedTuple):
    """A signed statement of the log's size and root."""

    size: int
    at_us: int
    root: bytes
    note: bytes
    """The C2SP signed note, UTF-8."""


class Head(NamedTuple):
    """Where the log stands when a writer takes it."""

    size: int
    root: bytes | None
    """What the last writer left; None where only one writer can be, which knows it itself."""


class Query(NamedTuple):
    """What to look for. Empty fields do not narrow; times are half-open: `since_us` ≤ at < `until_us`."""

    since_us: int | None = None
    until_us: int | None = None
    kind: str = ""
    caller: str = ""
    service: str = ""
    release: str = ""
    ending: str = ""
    failure: str = ""
    subject: bytes = b""
    newest_first: bool = True
    before_seq: int | None = None
    """Go on from there, in the order asked for: smaller seqs with `newest_first`, else larger ones."""
    most: int = 100
