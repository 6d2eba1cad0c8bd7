"""Derive everything again from what is stored, and name the first record that does not hold.

Called by `nightproof audit verify` and by tests. Reads in order, in constant memory, in one snapshot; writes
nothing, needs no key but the public one. Promises that a single change of any stored value, a record deleted,
inserted, moved or cut off behind a checkpoint that somebody holds, is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b, sha256
from secrets import token_bytes
from typing import Any, Final

import msgspec
import orjson

from nightproof.audit.seal import NoteRefused, ParsedCheckpoint, Verifier, parse_checkpoint
from nightproof.audit.tree import Tree, leaf_hash
from nightproof.storage.ledger_protocol import LedgerReading
from nightproof.storage.ledger_rows import Checkpoint, StoredEntry

_PAGE: Final = 2_000
_MOST_FINDINGS = 100
_LEAST: Final = -(2**63)
_BUCKETS: Final = 4_096
_MOST_LOOKED_INTO: Final = 8
_META: Final = {"origin", "vkey"}
_RETENTION_KINDS = ("retention",)
_ERASURE_KINDS = ("erasure",)


class Finding(msgspec.Struct, frozen=True):
    """Something that does not hold."""

    kind: str
    """leaf, columns, payload, missing_payload, subjects, sequence, tile, checkpoint, anchor, meta, database."""
    text: str
    seq: int | None = None
    id: str = ""


class Verdict(msgspec.Struct, kw_only=True):
    """What verification found."""

    ok: bool
    records: int
    root: str
    """Hex of the Merkle root over all records."""
    origin: str
    checkpoints: int
    signed: int
    """Records under the last signed checkpoint."""
    unsigned: int
    """Records behind it: they are whole, and not yet signed for."""
    anchors: int
    erased: int
    expired: int
    first_bad: Finding | None
    findings: list[Finding]
    counts: dict[str, int]
    """All findings by kind, also those that are not listed."""


Progress = Callable[[int, int], None]
"""Called with records done and records in all."""


class Anchor(msgspec.Struct, frozen=True):
    """A checkpoint that somebody outside the log holds."""

    where: str
    note: bytes


class _Findings:
    def __init__(self) -> None:
        self.listed: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.first: Finding | None = None

    def add(self, kind: str, text: str, seq: int | None = None, entry_id: str = "") -> None:
        found = Finding(kind, text, seq, entry_id)
        self.counts[kind] += 1
        if len(self.listed) < _MOST_FINDINGS:
            self.listed.append(found)
        if (
            seq is not None and (self.first is None or self.first.seq is None or seq < self.first.seq)
        ) or self.first is None:
            self.first = found


class _Allowed:
    """What the log itself says may be missing: contents past their time, and whom it has erased."""

    def __init__(self, reader: LedgerReading) -> None:
        self._expired: dict[str, list[tuple[int, int, int]]] = {}
        """By service: before which time, below which and before which record; none says less than another."""
        self.erased_in: dict[str, int] = {}
        for entry in reader.of_kind(*_RETENTION_KINDS):
            facts = _facts(entry.leaf)
            service, before_us, below = facts.get("service"), facts.get("before_us"), facts.get("below_seq")
            if isinstance(service, str) and isinstance(before_us, int) and isinstance(below, int):
                self._add(service, (before_us, below, entry.seq))
        for entry in reader.of_kind(*_ERASURE_KINDS):
            for subject in _subjects_of(_facts(entry.leaf)):
                self.erased_in[subject] = entry.seq

    def _add(self, service: str, new: tuple[int, int, int]) -> None:
        """Keep what reaches further than the others: of years of hourly retention one or two are left."""
        held = self._expired.setdefault(service, [])
        if not any(_reaches(one, new) for one in held):
            held[:] = [one for one in held if not _reaches(new, one)]
            held.append(new)

    def to_be_gone(self, service: str, at_us: int, seq: int) -> bool:
        """Say whether a record's content may be gone."""
        return any(
            at_us < before_us and seq < below and seq < written
            for before_us, below, written in self._expired.get(service, ())
        )

    def is_erased(self, subjects: Sequence[str], seq: int) -> bool:
        """Say whether one of the people whom a record is about was erased after it."""
        return any(self.erased_in.get(subject, -1) > seq for subject in subjects)


def verify(
    reader: LedgerReading,
    verifiers: Sequence[Verifier],
    *,
    anchors: Sequence[Anchor] = (),
    progress: Progress = lambda done, of: None,
) -> Verdict:
    """Verify a whole log. The reader is used by this thread only and stays open."""
    with reader.snapshot():
        return _Verification(reader, verifiers, anchors, progress).verdict()


class _Verification:
    def __init__(
        self,
        reader: LedgerReading,
        verifiers: Sequence[Verifier],
        anchors: Sequence[Anchor],
        progress: Progress,
    ) -> None:
        self._reader = reader
        self._verifiers = verifiers
        self._progress = progress
        self._findings = _Findings()
        self._allowed = _Allowed(reader)
        self._size = reader.size()
        self._origin = reader.read_meta("origin") or ""
        self._tree = Tree()
        self._subjects = _SubjectSums(self._size)
        self._erased = self._expired = 0
        self._anchors = self._read_anchors(anchors)
        self._notes = _Stored(reader)
        self._signed = 0
        self._is_astray = False
        self._has_gap = False
        self._edge = reader.edge()

    def verdict(self) -> Verdict:
        add = self._findings.add
        for text in self._reader.quick_check():
            add("database", f"The database is damaged: {text}.")
        self._judge_meta()
        self._judge_records()
        self._judge_what_is_left()
        first = self._findings.first
        return Verdict(
            ok=first is None,
            records=self._size,
            root=self._tree.root().hex(),
            origin=self._origin,
            checkpoints=self._notes.taken,
            signed=self._signed,
            unsigned=self._size - self._signed,
            anchors=len(self._anchors),
            erased=self._erased,
            expired=self._expired,
            first_bad=first,
            findings=self._findings.listed,
            counts=dict(self._findings.counts),
        )

    def _judge_meta(self) -> None:
        kept = self._reader.meta()
        for name in sorted(kept.keys() - _META):
            self._findings.add("meta", f"The log keeps {name[:40]!r}, which is none of ours.")
        for name in sorted(_META - kept.keys()) if self._size else ():
            self._findings.add("meta", f"The log has lost its {name} (table meta).")
        for verifier in self._verifiers:
            if self._origin and verifier.name != self._origin:
                self._findings.add(
                    "meta", f"The log is {self._origin!r}, and the trusted key is that of {verifier.name!r}."
                )
        if "vkey" in kept and self._verifiers:
            try:
                known = {(one.name, one.key_id) for one in self._verifiers}
                own = Verifier(kept["vkey"])
                if (own.name, own.key_id) not in known:
                    self._findings.add("meta", "The log names another public key than the trusted one.")
            except NoteRefused as error:
                self._findings.add("meta", f"The log's own public key does not hold: {error.text}")

    def _read_anchors(self, anchors: Sequence[Anchor]) -> list[tuple[str, ParsedCheckpoint]]:
        read: list[tuple[str, ParsedCheckpoint]] = []
        for anchor in anchors:
            try:
                read.append((anchor.where, parse_checkpoint(anchor.note, self._verifiers)))
            except NoteRefused as error:
                self._findings.add("anchor", f"{anchor.where}: {error.text}")
        for where, one in read:
            if self._origin and one.origin != self._origin:
                self._findings.add(
                    "anchor", f"{where}: this is the log {self._origin!r}, not {one.origin!r}."
                )
            if one.size > self._size:
                self._findings.add(
                    "anchor",
                    f"{where} holds a checkpoint over {one.size} records, and the log has {self._size}: "
                    "it was cut off, or replaced by an older copy.",
                    self._size,
                )
        return sorted(read, key=lambda pair: pair[1].size)

    def _judge_records(self) -> None:
        """Go through all records once: columns, contents, tree, and each checkpoint where its size is reached."""
        seq = 0
        stops = self._stops()
        stop = next(stops, None)
        while stop is not None and stop <= 0:
            self._judge_at(stop)
            stop = next(stops, None)
        while seq < self._size:
            page = self._reader.entries(seq, _PAGE)
            if not page:
                self._findings.add("sequence", f"The records from {seq} on are missing.", seq)
                self._has_gap = True
                break
            hashes: list[bytes] = []
            for entry in page:
                if entry.seq != seq:
                    self._findings.add(
                        "sequence", f"Record {seq} is missing; the next one is {entry.seq}.", seq
                    )
                    self._grow(hashes)
                    self._size = seq  # what stands behind a gap has lost its place
                    self._has_gap = True
                    return
                self._judge(entry)
                hashes.append(leaf_hash(entry.leaf))
                seq += 1
                while stop is not None and stop <= seq:
                    self._grow(hashes)
                    hashes = []
                    if stop == seq:
                        self._judge_at(stop)
                    stop = next(stops, None)
            self._grow(hashes)
            self._progress(seq, self._size)

    def _grow(self, hashes: list[bytes]) -> None:
        before = self._tree.size
        for tile in self._tree.append(hashes):
            stored = self._reader.tiles(tile.level, tile.place, 1)
            if not stored:
                self._findings.add("tile", f"Tile {tile.level}/{tile.place} of the tree is missing.")
            elif stored[0] != tile:
                bad = before
                first = tile.place << (8 * (tile.level + 1))
                if tile.level == 0:
                    bad = first + next(
                        (
                            at
                            for at in range(256)
                            if stored[0].hashes[at * 32 : at * 32 + 32] != tile.hashes[at * 32 : at * 32 + 32]
                        ),
                        0,
                    )
                    self._findings.add(
                        "tile",
                        f"Record {bad} is not the one that the tree was made over (tile 0/{tile.place}).",
                        bad,
                    )
                else:
                    self._findings.add("tile", f"Tile {tile.level}/{tile.place} does not hold its records.")

    def _judge(self, entry: StoredEntry) -> None:
        seq, entry_id = entry.seq, entry.id
        add = self._findings.add
        try:
            facts = orjson.loads(entry.leaf)
            get = facts.get
        except (orjson.JSONDecodeError, AttributeError):
            add("leaf", f"The leaf of record {seq} cannot be read.", seq, entry_id)
            return
        idem = get("idem")
        if (
            get("id") != entry_id
            or get("at") != entry.at_us
            or get("kind") != entry.kind
            or get("service", "") != entry.service
            or get("release", "") != entry.release
            or (get("key") or get("who", "")) != entry.caller
            or get("ending", "") != entry.ending
            or get("failure", "") != entry.failure
            or (None if entry.idem is None else entry.idem.hex()) != idem
        ):
            add("columns", f"A column of record {seq} differs from its leaf.", seq, entry_id)
        payload, expected = entry.payload, get("ct")
        if payload is not None:
            if expected is None:
                add("payload", f"Record {seq} has content that its leaf does not know.", seq, entry_id)
            elif len(payload) != get("ct_bytes") or sha256(payload).hexdigest() != expected:
                add(
                    "payload", f"The content of record {seq} is not the one that was recorded.", seq, entry_id
                )
        elif expected is not None:
            if self._allowed.to_be_gone(entry.service, entry.at_us, seq):
                self._expired += 1
            else:
                add(
                    "missing_payload",
                    f"The content of record {seq} is gone without a record of it.",
                    seq,
                    entry_id,
                )
        if "sub" in facts:
            for subject in _named_in(facts):
                self._subjects.add(seq, subject, 1)
            if self._allowed.erased_in and self._allowed.is_erased(_subjects_of(facts), seq):
                self._erased += 1

    def _judge_subjects(self) -> None:
        """Hold the index of subjects to the leaves: read it once, and look into the places that differ."""
        size, outside = self._tree.size, 0
        for seq, subject in self._reader.all_subjects():
            if 0 <= seq < size:
                self._subjects.add(seq, subject, -1)
            elif not self._has_gap and outside < _MOST_FINDINGS:
                outside += 1
                self._findings.add("subjects", f"The index of subjects names {seq}, which is no record.", seq)
        for at, places in enumerate(self._subjects.differing()):
            first, last = places[0], min(places[-1], size - 1)
            if at >= _MOST_LOOKED_INTO:
                self._findings.add("subjects", f"The index of subjects differs among {first} to {last}.")
                continue
            stored = set(self._reader.subjects(first, last))
            for seq, _ in sorted(self._named(first, last) ^ stored)[:_MOST_FINDINGS]:
                self._findings.add("subjects", f"The index of subjects differs from record {seq}.", seq)

    def _named(self, first: int, last: int) -> set[tuple[int, bytes]]:
        """Return the pairs that the leaves from one record to another name."""
        named: set[tuple[int, bytes]] = set()
        while first <= last and (page := self._reader.entries(first, min(_PAGE, last + 1 - first))):
            named |= {(one.seq, subject) for one in page for subject in _named_in(_facts(one.leaf))}
            first = page[-1].seq + 1
        return named

    def _stops(self) -> Iterator[int]:
        """Yield the sizes at which a root is to be compared, in order, each once."""
        anchored = iter([one.size for _, one in self._anchors])
        signed = self._notes.sizes()
        left, right = next(anchored, None), next(signed, None)
        last = -1
        while left is not None or right is not None:
            if right is None or (left is not None and left <= right):
                stop, left = left, next(anchored, None)
            else:
                stop, right = right, next(signed, None)
            if stop is not None and stop > last:
                last = stop
                yield stop

    def _judge_at(self, size: int) -> None:
        root = self._tree.root()
        for where, anchor in self._anchors:
            if anchor.size == size and anchor.root != root:
                self._findings.add(
                    "anchor", f"The first {size} records are not those over which {where} holds a checkpoint."
                )
        if self._edge[0] == size:
            self._judge_edge(size)
        stored = self._notes.take(size)
        if stored is not None:
            self._judge_checkpoint(stored, root)

    def _judge_edge(self, size: int) -> None:
        """Hold each record behind the last full tile to the hash that was stored with the last checkpoint."""
        stored, derived = self._edge[1], self._tree.edge[: size % 256 * 32]
        first = size - size % 256
        if self._tree.size < first:
            return  # the tiles say what is missing
        for at in range(0, max(len(stored), len(derived)), 32):
            if stored[at : at + 32] != derived[at : at + 32]:
                seq = first + at // 32
                self._findings.add(
                    "leaf", f"Record {seq} is not the one over which the checkpoint was signed.", seq
                )
                return

    def _judge_checkpoint(self, stored: Checkpoint, root: bytes) -> None:
        size = stored.size
        try:
            said = parse_checkpoint(stored.note, self._verifiers)
        except NoteRefused as error:
            self._findings.add(
                "checkpoint", f"The checkpoint over {size} records does not hold: {error.text}"
            )
            return
        if (said.size, said.root) != (size, stored.root) or (self._origin and said.origin != self._origin):
            self._findings.add(
                "checkpoint", f"The checkpoint over {size} records says something else than its note."
            )
        elif said.root != root:
            if not self._is_astray:
                self._is_astray = True  # every later root differs too: that says nothing new
                self._findings.add(
                    "checkpoint",
                    f"A record from {self._signed} to {size - 1} is not the one over which the checkpoint was signed.",
                )
        else:
            self._signed = size

    def _judge_what_is_left(self) -> None:
        if self._edge[0] > self._tree.size:
            self._judge_edge(self._edge[0])
        last = self._notes.last
        if self._edge[0] != last:
            self._findings.add(
                "checkpoint",
                f"The last checkpoint is over {last} records, and one over {self._edge[0]} was signed: "
                "it was taken away or moved.",
            )
        for size in self._notes.impossible:
            self._findings.add("checkpoint", f"A checkpoint over {size} records is stored.")
        for size in self._notes.behind(self._size):
            self._findings.add(
                "checkpoint",
                f"A checkpoint over {size} records is stored, and the log has {self._size}: its tail was cut off.",
                self._size,
            )
        if not self._has_gap:
            self._count_rows()
        self._judge_subjects()
        level, width = 0, self._size // 256
        levels = self._reader.levels()
        wanted = 0
        while width or level < levels:
            there = self._reader.tile_count(level)
            if there != width:
                self._findings.add(
                    "tile", f"Level {level} of the tree has {there} full tiles, and should have {width}."
                )
            wanted += width > 0
            level, width = level + 1, width // 256
        if levels != wanted:
            self._findings.add("tile", f"The tree has tiles on {levels} levels, and should have {wanted}.")
        for text in self._reader.oddities():
            self._findings.add("database", text)

    def _count_rows(self) -> None:
        """Find rows that stand outside of the log: they would be found by a search, and shown."""
        rows = self._reader.count()
        if rows != self._size:
            self._findings.add("sequence", f"The log has {self._size} records, and {rows} are stored.")


class _SubjectSums:
    """The difference between the subjects that leaves name and those of the index, in constant memory.

    The index stands in the order of people, the log in that of time, and neither can be held. What both sides
    have adds up to nothing: each pair counts as its keyed hash, added for a leaf and taken away for the index,
    in a sum for each stretch of the log. The key is drawn anew for each run, so nobody can make up pairs whose
    hashes add up to those of others.
    """

    def __init__(self, size: int) -> None:
        self._key = token_bytes(16)
        self._width = max(1, -(-size // _BUCKETS))
        self._sums: dict[int, int] = {}

    def add(self, seq: int, subject: bytes, sign: int) -> None:
        """Count a pair: `sign` 1 where a leaf names it, -1 where the index does."""
        told = blake2b(b"%d " % seq + subject, key=self._key, digest_size=16).digest()
        at = seq // self._width
        self._sums[at] = self._sums.get(at, 0) + sign * int.from_bytes(told)

    def differing(self) -> list[range]:
        """Return the stretches in which the two sides are not the same, in order."""
        return [
            range(at * self._width, (at + 1) * self._width) for at in sorted(self._sums) if self._sums[at]
        ]


class _Stored:
    """The stored checkpoints, read in pages as the records are gone through."""

    def __init__(self, reader: LedgerReading) -> None:
        self._reader = reader
        self._held: dict[int, Checkpoint] = {}
        self.taken = 0
        self.impossible: list[int] = []
        """Sizes that no checkpoint can be over."""
        newest = reader.last_checkpoint()
        self.last = 0 if newest is None else newest.size

    def sizes(self) -> Iterator[int]:
        at = _LEAST
        while page := self._reader.checkpoints(at, 1_000):
            for one in page:
                if one.size > 0:
                    self._held[one.size] = one
                    yield one.size
                else:
                    self.impossible.append(one.size)
            at = page[-1].size + 1

    def take(self, size: int) -> Checkpoint | None:
        found = self._held.pop(size, None)
        self.taken += found is not None
        return found

    def behind(self, size: int) -> list[int]:
        """Return sizes of checkpoints over more records than there are."""
        return [one.size for one in self._reader.checkpoints(size + 1, 10)]


def _facts(leaf: bytes) -> dict[str, Any]:
    try:
        facts = orjson.loads(leaf)
    except orjson.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _subjects_of(facts: dict[str, Any]) -> list[str]:
    """Return the pseudonyms that a leaf names; none where it was replaced by something else."""
    named = facts.get("sub", [])
    return [one for one in named if isinstance(one, str)] if isinstance(named, list) else []


def _named_in(facts: dict[str, Any]) -> set[bytes]:
    """Return the pseudonyms that a leaf names, as the index holds them."""
    return {bytes.fromhex(one) for one in _subjects_of(facts) if _is_hex(one)}


def _reaches(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    """Say whether what may be gone by the other may be gone by this one too."""
    return one[0] >= other[0] and one[1] >= other[1] and one[2] >= other[2]


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True
