"""The law an auditor relies on: whatever single thing is changed in a log's file, verification finds it.

Each case takes a fresh copy of one good log, changes it behind the store's back, and verifies. What may be
changed unseen stands at the end, with its reason, and is shown to be so.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightproof.audit.record import Entry, make_entry
from nightproof.audit.seal import Signer, Verifier
from nightproof.audit.tree import TILE_WIDTH, Tree, leaf_hash
from nightproof.audit.vault import Part, Vault
from nightproof.audit.verify import Anchor, Verdict, verify
from nightproof.audit.writer import LogWriter
from nightproof.base.errors import NightproofError
from nightproof.storage.ledger_store import LedgerReader, LedgerStore
from nightproof.testing import MemoryVaultStore

LAW = settings(max_examples=60, deadline=None)
NOON_US = 1_800_000_000_000_000
RECORDS = 300
"""A full tile of 256, and an edge of 44."""
EXPIRED = range(20, 30)
"""Requests of another service, whose content is past its time and was dropped."""
RETENTION, ERASURE = 201, 211
"""The records that say what may be gone, and who was erased."""
SIGNER = Signer("example.com/log", bytes(range(32)))
VERIFIERS = [Verifier(SIGNER.vkey)]
_ENTRY = "seq id at_us kind service release caller ending failure idem leaf payload"
COLUMNS = {
    "schema": ("store", "version"),
    "entries": tuple(_ENTRY.split()),
    "subjects": ("subject", "seq"),
    "tiles": ("level", "place", "root", "hashes"),
    "checkpoints": ("size", "at_us", "root", "note"),
    "edge": ("one", "size", "hashes"),
    "meta": ("name", "value"),
}
PLACES = [
    (table, column)
    for table, columns in COLUMNS.items()
    for column in columns
    # Of one that is left out the database refuses any other value (CHECK one = 1); the other is at the end.
    if (table, column) not in (("edge", "one"), ("checkpoints", "at_us"))
]


class Log(NamedTuple):
    """A good log's file, and what an auditor holds beside it."""

    path: Path
    anchors: list[Anchor]
    """The checkpoint that was exported last."""


def entry_of(number: int, vault: Vault, *, is_forged: bool = False) -> Entry:
    """Build the entry of a place: requests of all sorts, and operators' acts between them."""
    entry_id, at_us = f"{number:011x}-{number:020x}", NOON_US + number * 1_000 + is_forged
    if number == RETENTION:
        facts = {"who": "op", "act": "expire", "service": "old", "before_us": at_us, "below_seq": RETENTION}
        return make_entry("retention", entry_id, at_us, facts)
    if number == ERASURE:
        erased = (vault.pseudonym("person 3"),)
        return make_entry("erasure", entry_id, at_us, {"who": "op", "act": "erase"}, subjects=erased)
    if number % 50 == 0:
        return make_entry("operator", entry_id, at_us, {"who": "op", "act": "keys.create", "made": "key_2"})
    subjects = (vault.pseudonym(f"person {number}"),) if number % 3 == 0 else ()
    sealed = vault.seal(
        [Part("content", b'{"items":[{"input":%d}]}' % number, subjects)],
        entry_id=entry_id,
        kind="request",
        caller="key_1",
        at_us=at_us,
    )
    facts = {
        "service": "old" if number in EXPIRED else "credit",
        "release": "r1",
        "key": "key_1",
        "ending": "refused" if number % 7 == 0 else "answered",
        "failure": "invalid_input" if number % 7 == 0 else "",
    }
    return make_entry(
        "request",
        entry_id,
        at_us,
        facts,
        payload=sealed.payload,
        idem=number.to_bytes(32, "big") if number % 5 == 0 else None,
        subjects=subjects,
        keys=sealed.new_keys,
    )


def write_log(path: Path, signer: Signer, *, forged: int = -1) -> bytes:
    """Write a log as the server does: batches, a checkpoint after some and one at the end; return that one."""
    vault = Vault(MemoryVaultStore(), bytes(32), now_us=NOON_US)
    with closing(LedgerStore(path)) as store:
        store.write_meta("origin", signer.name)
        store.write_meta("vkey", signer.vkey)
        log = LogWriter(store, keep_keys=vault.keep, signer=signer, seal_every_s=3_600.0)
        for first in range(0, RECORDS, 25):
            numbers = range(first, first + 25)
            log.write([entry_of(number, vault, is_forged=number == forged) for number in numbers])
            if first % 100 == 0:
                log.seal()
        log.seal()
        store.drop_payloads("old", NOON_US + RETENTION * 1_000, RETENTION)
        last = store.last_checkpoint()
        assert last is not None
        store.checkpoint("truncate")
    return last.note


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Give a good log, and its last checkpoint as it was exported."""
    path = tmp_path_factory.mktemp("good") / "ledger.db"
    return Log(path, [Anchor("checkpoint.note", write_log(path, SIGNER))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that takes one copy after another."""
    return tmp_path_factory.mktemp("copies")


@contextmanager
def spoilt(good: Log, folder: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to a fresh copy of the log, which `judged` reads afterwards."""
    for left in folder.glob("ledger.db*"):
        left.unlink()
    path = Path(shutil.copy(good.path, folder / "ledger.db"))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        yield db


def judged(folder: Path, anchors: list[Anchor] | None = None) -> Verdict:
    """Verify the log in a folder as an auditor would."""
    with closing(LedgerReader(folder / "ledger.db")) as reader:
        return verify(reader, VERIFIERS, anchors=anchors or [])


def assert_found(
    folder: Path, anchors: list[Anchor], seq: int = -1, *, excused: bool = False
) -> Verdict | None:
    """Assert that the log does not hold, and that the record is named as the first bad one.

    None where the file cannot even be read as a log, and that is said. The record that says what may be gone
    excuses others: where it is changed, those may be named before it.
    """
    try:
        verdict = judged(folder, anchors)
    except NightproofError:
        assert seq == -1, "a record is to be named, whatever it is"
        return None
    assert not verdict.ok
    assert verdict.first_bad is not None
    if seq == RETENTION or excused:
        assert seq in {one.seq for one in verdict.findings}, verdict.findings
    elif seq >= 0:
        assert verdict.first_bad.seq == seq, verdict.findings
    return verdict


def row_key(table: str) -> str:
    """Name the columns that name a row."""
    keys = {"entries": "seq", "subjects": "seq, subject", "tiles": "level, place"}
    return keys.get(table, "rowid")


def flip(db: sqlite3.Connection, table: str, column: str, row: int, *, at: int, bits: int) -> int | None:
    """Change one byte of a stored value, the row and the byte taken modulo what there is.

    Return the seq of the record that it stands in, -1 where it stands in none; None where nothing was changed,
    since the database itself refuses the new value: a row of that key is there.
    """
    key = row_key(table)
    rows = db.execute(
        f"SELECT {key}, typeof({column}),"
        f" CASE typeof({column}) WHEN 'integer' THEN {column} ELSE CAST({column} AS BLOB) END"
        f" FROM {table} WHERE length({column}) > 0 ORDER BY {key}"
    ).fetchall()
    *where, kind, value = rows[row % len(rows)]
    raw = value.to_bytes(8, "big", signed=True) if kind == "integer" else value
    at %= len(raw)
    raw = raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]
    new = int.from_bytes(raw, "big", signed=True) if kind == "integer" else raw
    try:
        db.execute(
            f"UPDATE {table} SET {column} = {'CAST(? AS TEXT)' if kind == 'text' else '?'}"
            f" WHERE {' AND '.join(f'{name} IS ?' for name in key.split(', '))}",
            (new, *where),
        )
    except sqlite3.IntegrityError:
        return None
    return int(where[0]) if table == "entries" else -1


def shift(db: sqlite3.Connection, *, above: int, by: int) -> None:
    """Move all records behind a place, with what is known of their subjects."""
    for table in ("entries", "subjects"):
        db.execute(f"UPDATE {table} SET seq = -seq - 1000 WHERE seq > ?", (above,))
        db.execute(f"UPDATE {table} SET seq = -seq - 1000 + ? WHERE seq <= -1000", (by,))


def insert(db: sqlite3.Connection, seq: int, *, like: int) -> None:
    """Put a copy of a record at a place."""
    row = db.execute("SELECT * FROM entries WHERE seq = ?", (like,)).fetchone()
    db.execute(f"INSERT INTO entries VALUES ({', '.join('?' * len(row))})", (seq, *row[1:]))


def cut(db: sqlite3.Connection, size: int) -> None:
    """Bring the log back to what it was when it had `size` records, without a trace in it."""
    db.execute("DELETE FROM entries WHERE seq >= ?", (size,))
    db.execute("DELETE FROM subjects WHERE seq >= ?", (size,))
    db.execute("DELETE FROM tiles WHERE (place + 1) * ? > ?", (TILE_WIDTH, size))
    db.execute("DELETE FROM checkpoints WHERE size > ?", (size,))
    db.execute("DELETE FROM edge")
    (sealed,) = db.execute("SELECT max(size) FROM checkpoints").fetchone()
    if sealed is not None:
        tree = Tree()
        leaves = db.execute("SELECT leaf FROM entries WHERE seq < ? ORDER BY seq", (sealed,))
        tree.append([leaf_hash(leaf) for (leaf,) in leaves])
        db.execute("INSERT INTO edge VALUES (1, ?, ?)", (sealed, tree.edge))


def test_the_good_log_holds(good: Log) -> None:
    verdict = judged(good.path.parent, good.anchors)

    assert verdict.ok, verdict.findings
    assert (verdict.records, verdict.signed, verdict.unsigned) == (RECORDS, RECORDS, 0)
    assert (verdict.checkpoints, verdict.anchors) == (4, 1)
    assert (verdict.expired, verdict.erased) == (len(EXPIRED), 1)
    with closing(LedgerReader(good.path)) as reader:
        assert reader.tile_count(0) == RECORDS // TILE_WIDTH


def test_the_law_is_held_to_every_table_and_column_there_is(good: Log) -> None:
    with closing(sqlite3.connect(good.path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {
            table: tuple(row[1] for row in db.execute(f"PRAGMA table_info({table})")) for table in tables
        }

    assert found == COLUMNS


@pytest.mark.parametrize(("table", "column"), PLACES, ids=[f"{one}.{other}" for one, other in PLACES])
def test_one_byte_changed_in_any_stored_value_is_found(
    good: Log, tmp_path: Path, table: str, column: str
) -> None:
    changed: list[int] = []

    @settings(max_examples=60, deadline=None)
    @given(row=st.integers(0, 10**6), at=st.integers(0, 10**6), bits=st.integers(1, 255))
    def law(row: int, at: int, bits: int) -> None:
        with spoilt(good, tmp_path) as db:
            seq = flip(db, table, column, row, at=at, bits=bits)
        if seq is not None:
            changed.append(seq)
            assert_found(tmp_path, good.anchors, seq)

    law()

    assert changed


@pytest.mark.parametrize("name", ["origin", "vkey"])
@pytest.mark.parametrize("bits", [1, 32], ids=["sign", "case"])
def test_one_bit_changed_anywhere_in_the_logs_name_or_key_is_found(
    good: Log, tmp_path: Path, name: str, bits: int
) -> None:
    row, length = (0, len(SIGNER.name)) if name == "origin" else (1, len(SIGNER.vkey))
    unseen = []

    for at in range(length):
        with spoilt(good, tmp_path) as db:
            assert flip(db, "meta", "value", row, at=at, bits=bits) == -1
        if judged(tmp_path).ok:
            unseen.append(at)

    assert unseen == []


@LAW
@given(
    column=st.sampled_from(COLUMNS["entries"]),
    one=st.integers(0, RECORDS - 1),
    other=st.integers(0, RECORDS - 1),
)
def test_two_records_that_swap_a_column_or_their_places_are_found(
    good: Log, folder: Path, column: str, one: int, other: int
) -> None:
    """With `seq` the two records change places as a whole."""
    first, second = sorted((one, other))
    with spoilt(good, folder) as db:
        read = f"SELECT {column} FROM entries WHERE seq = ?"
        (left,), (right,) = db.execute(read, (first,)).fetchone(), db.execute(read, (second,)).fetchone()
        if left == right:
            return
        if column == "seq":
            for old, new in ((first, -1), (second, first), (-1, second)):
                db.execute("UPDATE entries SET seq = ? WHERE seq = ?", (new, old))
        else:
            write = f"UPDATE entries SET {column} = ? WHERE seq = ?"
            db.executemany(write, [(right, first), (left, second)])

    assert_found(folder, good.anchors, first, excused=second == RETENTION)


@LAW
@given(seq=st.integers(0, RECORDS - 1), column=st.sampled_from(["idem", "payload"]), is_empty=st.booleans())
def test_content_or_a_key_that_is_taken_out_of_a_record_is_found(
    good: Log, folder: Path, seq: int, column: str, is_empty: bool
) -> None:
    new = b"" if is_empty else None
    with spoilt(good, folder) as db:
        (old,) = db.execute(f"SELECT {column} FROM entries WHERE seq = ?", (seq,)).fetchone()
        if old == new:
            return
        db.execute(f"UPDATE entries SET {column} = ? WHERE seq = ?", (new, seq))

    assert_found(folder, good.anchors, seq)


@LAW
@given(seq=st.integers(0, RECORDS - 1), closes_up=st.booleans())
def test_a_record_that_is_taken_out_is_found(good: Log, folder: Path, seq: int, closes_up: bool) -> None:
    with spoilt(good, folder) as db:
        db.execute("DELETE FROM entries WHERE seq = ?", (seq,))
        if closes_up:
            db.execute("DELETE FROM subjects WHERE seq = ?", (seq,))
            shift(db, above=seq, by=-1)

    assert_found(folder, good.anchors, seq, excused=seq < RETENTION and closes_up)


@LAW
@given(seq=st.integers(0, RECORDS - 1), model=st.integers(0, RECORDS - 2))
def test_a_record_that_is_put_between_others_is_found(good: Log, folder: Path, seq: int, model: int) -> None:
    """The new one is a copy of another record, right in all its columns.

    Not of the last one: next to that, it is the same as a record behind the last checkpoint (see the end).
    """
    with spoilt(good, folder) as db:
        subjects = db.execute("SELECT subject FROM subjects WHERE seq = ?", (model,)).fetchall()
        shift(db, above=seq - 1, by=1)
        insert(db, seq, like=model + (model >= seq))
        db.executemany("INSERT INTO subjects VALUES (?, ?)", [(*one, seq) for one in subjects])

    # A copy of the record that it pushes aside leaves its own place as it was: the next one is the first bad.
    assert_found(folder, good.anchors, seq + (model == seq))


@pytest.mark.parametrize("seq", [-1, -(2**63), RECORDS + 1, 2**62])
def test_a_record_that_is_put_where_none_can_be_is_found(good: Log, tmp_path: Path, seq: int) -> None:
    """It would be found by its id, and shown: so it counts."""
    with spoilt(good, tmp_path) as db:
        insert(db, seq, like=7)

    assert_found(tmp_path, good.anchors)


@pytest.mark.parametrize(
    "leaf", ['{"sub":7}', '{"sub":[[]]}', '{"sub":[7]}', '{"sub":{"a":1}}', "[]", "7", ""]
)
@pytest.mark.parametrize("kind", ["erasure", "retention", "request"])
def test_a_record_whose_leaf_is_replaced_by_nonsense_is_found(
    good: Log, tmp_path: Path, kind: str, leaf: str
) -> None:
    """A verifier reads what somebody else wrote: it says so, whatever that is."""
    with spoilt(good, tmp_path) as db:
        db.execute("UPDATE entries SET kind = ?, leaf = CAST(? AS BLOB) WHERE seq = 7", (kind, leaf))

    assert_found(tmp_path, good.anchors, 7)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM schema",
        "DELETE FROM subjects WHERE seq = 33",
        "DELETE FROM tiles",
        "DELETE FROM checkpoints WHERE size = 300",
        "DELETE FROM checkpoints",
        "DELETE FROM edge",
        "DELETE FROM meta WHERE name = 'origin'",
        "DELETE FROM meta WHERE name = 'vkey'",
        "INSERT INTO schema VALUES ('ledger', 2)",
        "INSERT INTO subjects VALUES (zeroblob(16), 33)",
        "INSERT INTO subjects VALUES (zeroblob(16), 34)",
        "INSERT INTO subjects VALUES (zeroblob(16), -1)",
        "INSERT INTO subjects VALUES (zeroblob(16), 300)",
        "INSERT INTO tiles SELECT 0, 1, root, hashes FROM tiles",
        "INSERT INTO tiles SELECT 0, -1, root, hashes FROM tiles",
        "INSERT INTO tiles SELECT 1, 0, root, hashes FROM tiles",
        "INSERT INTO tiles SELECT 2, 0, root, hashes FROM tiles",
        "INSERT INTO tiles SELECT -1, 0, root, hashes FROM tiles",
        "INSERT INTO checkpoints SELECT 301, at_us, root, note FROM checkpoints WHERE size = 300",
        "INSERT INTO checkpoints SELECT 150, at_us, root, note FROM checkpoints WHERE size = 300",
        "INSERT INTO checkpoints SELECT 0, at_us, root, note FROM checkpoints WHERE size = 300",
        "INSERT INTO checkpoints SELECT -1, at_us, root, note FROM checkpoints WHERE size = 300",
        "INSERT INTO meta VALUES ('another', 'value')",
        "CREATE TABLE another(value)",
        "CREATE TRIGGER another AFTER INSERT ON entries BEGIN DELETE FROM subjects; END",
        "DROP INDEX entries_kind",
        "ALTER TABLE meta ADD COLUMN another TEXT",
        "DROP TABLE edge",
    ],
)
def test_a_row_or_a_table_too_many_or_too_few_is_found(good: Log, tmp_path: Path, statement: str) -> None:
    with spoilt(good, tmp_path) as db:
        db.execute(statement)

    assert_found(tmp_path, good.anchors)


@LAW
@given(
    seqs=st.sets(st.integers(0, RECORDS - 1), min_size=1, max_size=4),
    buckets=st.sampled_from([1, 3, 16, 4_096]),
    is_swap=st.booleans(),
)
def test_what_the_index_of_subjects_says_of_another_person_is_named_whatever_the_logs_length(
    good: Log, folder: Path, seqs: set[int], buckets: int, is_swap: bool
) -> None:
    """A long log is compared in stretches of many records, as this one is with few of them."""
    with spoilt(good, folder) as db, pytest.MonkeyPatch.context() as patch:
        patch.setattr("nightproof.audit.verify._BUCKETS", buckets)
        first, last = min(seqs), max(seqs)
        if is_swap:
            read = "SELECT subject FROM subjects WHERE seq = ?"
            pair = [db.execute(read, (seq,)).fetchone() for seq in (first, last)]
            if None in pair or first == last:
                return
            for seq, (subject,) in zip((last, first), pair, strict=True):
                db.execute("UPDATE subjects SET subject = ? WHERE seq = ?", (subject, seq))
        else:
            db.executemany("INSERT INTO subjects VALUES (zeroblob(16), ?)", [(seq,) for seq in seqs])

        found = assert_found(folder, good.anchors, first)

    assert found is not None
    assert {one.seq for one in found.findings} == ({first, last} if is_swap else seqs)
    assert set(found.counts) == {"subjects"}


@LAW
@given(size=st.integers(0, RECORDS - 1))
def test_a_tail_that_was_cut_off_without_a_trace_is_found_by_the_exported_checkpoint(
    good: Log, folder: Path, size: int
) -> None:
    with spoilt(good, folder) as db:
        cut(db, size)

    found = assert_found(folder, good.anchors, size, excused=size <= RETENTION)
    assert found is not None
    assert "checkpoint.note" in str(found.findings)


@pytest.mark.parametrize("seq", [0, 120, 255, 256, RECORDS - 1])
def test_a_history_that_was_written_anew_is_found_by_the_exported_checkpoint(
    good: Log, tmp_path: Path, seq: int
) -> None:
    """Somebody who has the signing key changes a record, makes tree and checkpoints anew, and signs them."""
    write_log(tmp_path / "ledger.db", SIGNER, forged=seq)

    assert judged(tmp_path).ok, "it is without fault in itself"
    found = assert_found(tmp_path, good.anchors)
    assert found is not None
    assert found.counts == {"anchor": 1}


def test_another_log_in_its_place_is_found(tmp_path: Path) -> None:
    write_log(tmp_path / "ledger.db", Signer("example.com/other", bytes(32)))

    found = assert_found(tmp_path, [])
    assert found is not None
    assert found.counts["meta"] >= 1


def test_a_log_signed_by_another_key_under_the_same_name_is_found(tmp_path: Path) -> None:
    write_log(tmp_path / "ledger.db", Signer(SIGNER.name, bytes(32)))

    found = assert_found(tmp_path, [])
    assert found is not None
    assert found.counts["checkpoint"] >= 1


# -- what may be changed unseen, and why -------------------------------------------------------


def test_the_time_of_a_checkpoint_may_change_since_nothing_reads_it(good: Log, tmp_path: Path) -> None:
    """`checkpoints.at_us` stands in no note and no verb reads it: it proves nothing, so it can hide nothing."""
    with spoilt(good, tmp_path) as db:
        db.execute("UPDATE checkpoints SET at_us = at_us + 1")

    assert judged(tmp_path, good.anchors) == judged(good.path.parent, good.anchors)


def test_an_older_checkpoint_may_go_since_the_last_one_covers_what_it_covered(
    good: Log, tmp_path: Path
) -> None:
    with spoilt(good, tmp_path) as db:
        db.execute("DELETE FROM checkpoints WHERE size = (SELECT min(size) FROM checkpoints)")

    found, whole = judged(tmp_path, good.anchors), judged(good.path.parent, good.anchors)

    assert found.ok
    assert (found.root, found.signed) == (whole.root, whole.signed)
    assert found.checkpoints == whole.checkpoints - 1, "the verdict counts them"


def test_what_is_put_behind_the_last_checkpoint_is_told_to_be_unsigned(good: Log, tmp_path: Path) -> None:
    """So looks the log of a server that was killed: records for which nobody has signed yet."""
    with spoilt(good, tmp_path) as db:
        insert(db, RECORDS, like=50)

    found = judged(tmp_path, good.anchors)

    assert found.ok
    assert (found.signed, found.unsigned) == (RECORDS, 1)


def test_a_tail_cut_off_without_a_trace_needs_the_exported_checkpoint_to_be_found(
    good: Log, tmp_path: Path
) -> None:
    """An older state of a log is a good log: only somebody outside can know that there was more."""
    with spoilt(good, tmp_path) as db:
        cut(db, 225)

    assert judged(tmp_path).ok
    assert not judged(tmp_path, good.anchors).ok
