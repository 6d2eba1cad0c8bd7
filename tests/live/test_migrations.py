"""A ledger of the first form, its content in the clear, is taken over: whole, sealed, or not at all.

The old form is written here as the Nightproof of that time wrote it, and killed with its last entries still in the
write-ahead log, so that content in the clear lies in both files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

from nightproof.audit.adopt import adopt
from nightproof.audit.reconcile import reconcile
from nightproof.audit.record import make_entry
from nightproof.audit.seal import Signer, Verifier
from nightproof.audit.vault import Vault
from nightproof.audit.verify import verify
from nightproof.audit.writer import LogWriter
from nightproof.base.errors import StateError
from nightproof.storage.ledger_rows import Query, Row
from nightproof.storage.ledger_store import Adopt, LedgerReader, LedgerStore, StoredV1
from nightproof.storage.sqlite import APPLICATION_ID
from nightproof.storage.statefolder import StateFolder
from nightproof.storage.vault_store import VaultStore
from tests.serving import ROOT, run_nightproof, serving

NOON_US = 1_700_000_000_000_000
SIGNER = Signer("example.com/log", bytes(range(32)))
SECRET = b"the words of caller"
REQUESTS = 600
"""More than two tiles of the tree, and more than one page of the takeover."""
FIRST_SCHEMA = """
CREATE TABLE schema(store TEXT NOT NULL, version INTEGER NOT NULL) STRICT;
CREATE TABLE entries(
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL,
  at_us INTEGER NOT NULL,
  kind TEXT NOT NULL,
  idem BLOB,
  leaf BLOB NOT NULL,
  payload BLOB
) STRICT;
CREATE INDEX entries_id ON entries(id);
CREATE INDEX entries_idem ON entries(idem) WHERE idem IS NOT NULL;
INSERT INTO schema VALUES ('ledger', 1);
"""


# -- the first form -----------------------------------------------------------------------------


def old_entry(seq: int, kind: str, payload: bytes | None = None, **facts: Any) -> StoredV1:
    """Build an entry as the first form had it: no run in the leaf, no digest of the content."""
    entry_id, at_us = f"{seq:011x}-{seq:020x}", NOON_US + seq * 1_000
    leaf = json.dumps(
        {"v": 1, "kind": kind, "id": entry_id, "at": at_us, **facts}, sort_keys=True, separators=(",", ":")
    )
    idem = seq.to_bytes(32, "big") if seq % 5 == 0 and payload is not None else None
    return StoredV1(seq, entry_id, at_us, kind, idem, leaf.encode(), payload)


def old_request(seq: int) -> StoredV1:
    """Build a request: answered, or refused for its input."""
    facts: dict[str, Any] = {
        "service": "mirror", "release": "dev-0123456", "protocol": "native", "key": f"key_{seq % 3}",
        "ending": "answered", "failure": "", "decisions": [], "stages_us": {"accept": 428, "call": 563},
        "batch": 1, "predict_us": 169, "queue_us": 28, "worker": 14515,
    }  # fmt: skip
    if seq % 7 == 0:
        facts |= {"ending": "refused", "failure": "invalid_input", "pointers": ["/text"]}
        content: dict[str, Any] = {"items": [{"input": {"text": 7}, "detail": ""}], "detail": words(seq)}
    else:
        content = {"items": [{"input": {"text": words(seq)}, "output": {"text": words(seq), "run": 1}}]}
    return old_entry(seq, "request", json.dumps(content).encode(), **facts)


def words(seq: int) -> str:
    """Return what a caller said: nothing of it may be left in the clear."""
    return f"{SECRET.decode()} {seq}"


def old_entries() -> list[StoredV1]:
    """Return a log of two runs: one killed, one that said goodbye."""
    entries = [old_entry(0, "operator", act="keys.create", who="local", key="key_0", role="predict")]

    def add(kind: str, **facts: Any) -> None:
        entries.append(old_entry(len(entries), kind, **facts))

    for run in range(2):
        add("start", pid=100 + run, unclean=False, version="0.1.0")
        if run:
            add("recovery", last_seq=len(entries) - 2)
        entries.extend(old_request(seq) for seq in range(len(entries), len(entries) + REQUESTS // 2))
        lines = [{"count": 3, "failure": "unauthenticated", "service": "", "whose": "127.0.0.1"}]
        add("summary", count=3, lines=lines)
    add("stop", arrivals=REQUESTS // 2 + 3, endings={"answered": 257, "refused": 46})
    return entries


def write_old(path: Path) -> list[StoredV1]:
    """Write the old log as its killed server leaves it: half in the file, half in the write-ahead log."""
    entries = old_entries()
    live = path.with_name("live.db")
    with closing(apsw.Connection(str(live))) as db:
        db.pragma("journal_mode", "wal")
        db.pragma("application_id", APPLICATION_ID)
        db.pragma("wal_autocheckpoint", 0)
        db.execute(FIRST_SCHEMA)
        insert = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)"
        db.executemany(insert, entries[:300])
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        db.executemany(insert, entries[300:])
        for end in ("", "-wal"):
            shutil.copy(f"{live}{end}", f"{path}{end}")
    live.unlink()
    assert SECRET in path.read_bytes()
    assert SECRET in Path(f"{path}-wal").read_bytes()
    return entries


def read_old(path: Path) -> tuple[list[StoredV1], tuple[str, int], set[str]]:
    """Return what an old log holds, its form, and its tables, as its own Nightproof would find them."""
    with closing(sqlite3.connect(path)) as db:
        entries = [StoredV1(*row) for row in db.execute("SELECT * FROM entries ORDER BY seq")]
        (form,) = db.execute("SELECT * FROM schema").fetchall()
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return entries, form, tables


# -- the takeover -------------------------------------------------------------------------------


class Place(NamedTuple):
    """A folder with an old log, and a vault to seal its content."""

    ledger: Path
    old: list[StoredV1]
    keys: VaultStore
    vault: Vault

    def adopt(self, old: StoredV1) -> Row:
        """Take one entry over, as the server does."""
        return adopt(old, self.vault, self.keys)

    def in_the_clear(self) -> list[str]:
        """Name the files in which content can be read."""
        return [file.name for file in self.ledger.parent.iterdir() if SECRET in file.read_bytes()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An old log, not yet taken over."""
    ledger = tmp_path / "ledger.db"
    old = write_old(ledger)
    with closing(VaultStore(tmp_path / "vault.db")) as keys:
        yield Place(ledger, old, keys, Vault(keys, bytes(32), now_us=NOON_US))


def test_an_old_log_is_taken_over_with_all_its_entries(place: Place) -> None:
    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        new = list(store.all_entries())
        damage, oddities = store.quick_check(), store.oddities()
        by_idem = store.by_idem(place.old[10].idem or b"", 0)
        refused = store.search(Query(failure="invalid_input", caller="key_1", most=1_000))

    assert [(one.seq, one.id, one.at_us, one.kind, one.idem) for one in new] == [
        (one.seq, one.id, one.at_us, one.kind, one.idem) for one in place.old
    ]
    assert (damage, oddities) == ([], [])
    assert by_idem is not None
    assert by_idem.seq == 10
    expected = [
        one.seq for one in place.old if one.kind == "request" and one.seq % 7 == 0 and one.seq % 3 == 1
    ]
    assert [one.seq for one in reversed(refused)] == expected


def test_the_facts_stay_as_they_were_and_the_leaf_says_that_it_was_adopted(place: Place) -> None:
    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        new = [json.loads(one.leaf) for one in store.all_entries()]

    for old, facts in zip(place.old, new, strict=True):
        before = json.loads(old.leaf)
        assert facts["adopted"] is True
        assert facts["v"] == 2
        assert {name: facts[name] for name in before} == {**before, "v": 2}


def test_content_is_sealed_and_can_be_read_by_who_has_the_keys(place: Place) -> None:
    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        new = list(store.all_entries())

    for old, entry in zip(place.old, new, strict=True):
        if old.payload is None:
            assert entry.payload is None
        else:
            assert entry.payload is not None
            opened = place.vault.open(entry.payload, entry_id=entry.id, kind=entry.kind)
            assert opened.parts == {"content": old.payload}
    assert sum(one.payload is not None for one in new) == REQUESTS


def test_nothing_in_the_clear_is_left_in_any_file(place: Place) -> None:
    before = place.in_the_clear()

    with closing(LedgerStore(place.ledger, adopt=place.adopt)):
        while_open = place.in_the_clear()

    assert sorted(before) == ["ledger.db", "ledger.db-wal"]
    assert while_open == []
    assert place.in_the_clear() == []


def test_a_log_that_was_taken_over_verifies_and_goes_on(place: Place) -> None:
    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        store.write_meta("origin", SIGNER.name)
        store.write_meta("vkey", SIGNER.vkey)
        log = LogWriter(store, keep_keys=place.vault.keep, signer=SIGNER, seal_every_s=3_600.0)
        first = log.write([make_entry("start", "next", NOON_US, {})])
        log.seal()
        tiles = store.tile_count(0)

    with closing(LedgerReader(place.ledger)) as reader:
        verdict = verify(reader, [Verifier(SIGNER.vkey)])

    assert first == len(place.old)
    assert tiles == len(place.old) // 256 == 2
    assert verdict.ok, verdict.findings
    assert (verdict.records, verdict.signed) == (len(place.old) + 1, len(place.old) + 1)


def test_the_books_of_old_runs_are_kept_apart(place: Place) -> None:
    """A run that was killed and a run that stopped are two, and neither is the one that took the log over."""
    with closing(LedgerStore(place.ledger, adopt=place.adopt)):
        pass

    with closing(LedgerReader(place.ledger)) as reader:
        told = reconcile(reader)

    assert told.ok, told.why
    assert [(run.state, run.recorded) for run in told.runs] == [
        ("killed", REQUESTS // 2 + 3),
        ("stopped", REQUESTS // 2 + 3),
    ]


def test_taking_over_again_changes_nothing(place: Place) -> None:
    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        first = list(store.all_entries())

    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        second = list(store.all_entries())

    assert first == second


# -- when it does not work ----------------------------------------------------------------------


def test_who_cannot_seal_leaves_an_old_log_alone(place: Place) -> None:
    for opened in (LedgerStore, LedgerReader):
        with pytest.raises(StateError, match=r"older form|version 1"):
            opened(place.ledger)

    assert read_old(place.ledger) == (place.old, ("ledger", 1), {"schema", "entries"})


def failing_at(place: Place, seq: int, error: Exception) -> Adopt:
    """Return a takeover that raises at an entry."""

    def some(old: StoredV1) -> Row:
        if old.seq == seq:
            raise error
        return place.adopt(old)

    return some


@pytest.mark.parametrize("seq", [0, 400, 550])
@pytest.mark.parametrize(
    "error", [StateError("The vault is full.", hint="Wait."), OSError("no disk"), RuntimeError("our mistake")]
)
def test_a_takeover_that_fails_half_way_leaves_the_old_log_whole(
    place: Place, seq: int, error: Exception
) -> None:
    with pytest.raises(type(error), match=str(error)):
        LedgerStore(place.ledger, adopt=failing_at(place, seq, error))
    left = read_old(place.ledger)
    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        then = [one.id for one in store.all_entries()]

    assert left == (place.old, ("ledger", 1), {"schema", "entries"})
    assert then == [one.id for one in place.old]
    assert place.in_the_clear() == []


def take_over_and_die(folder: Path, *, before: str) -> None:
    """Take the log over as the server does, and be killed before the first statement that begins like that."""

    def trace(cursor: object, statement: str, bindings: object) -> bool:
        if statement.startswith(before):
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def watch(connection: apsw.Connection) -> None:
        if connection.filename.endswith("ledger.db"):
            connection.exec_trace = trace

    keys = VaultStore(folder / "vault.db")
    vault = Vault(keys, bytes(32), now_us=NOON_US)
    apsw.connection_hooks.append(watch)
    LedgerStore(folder / "ledger.db", adopt=lambda old: adopt(old, vault, keys))


def killed(folder: Path, *, before: str) -> None:
    """Have a process of its own do that."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.live.test_migrations", str(folder), before],
        capture_output=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("before", ["INSERT INTO entries VALUES", "DROP TABLE entries_v1", "COMMIT"])
def test_a_takeover_that_is_killed_leaves_the_old_log_whole(place: Place, before: str) -> None:
    killed(place.ledger.parent, before=before)
    copy = place.ledger.parent / "copy"
    copy.mkdir()
    for end in ("", "-wal"):
        shutil.copy(f"{place.ledger}{end}", copy / f"ledger.db{end}")

    left = read_old(copy / "ledger.db")
    shutil.rmtree(copy)
    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        then = [one.id for one in store.all_entries()]

    assert left == (place.old, ("ledger", 1), {"schema", "entries"})
    assert then == [one.id for one in place.old]
    assert place.in_the_clear() == []


def test_a_takeover_killed_before_the_old_pages_are_wiped_is_finished_by_the_next_start(place: Place) -> None:
    killed(place.ledger.parent, before="VACUUM")
    after_the_kill = place.in_the_clear()

    with closing(LedgerStore(place.ledger, adopt=place.adopt)) as store:
        then = [one.id for one in store.all_entries()]

    assert after_the_kill, "the kill came too late to show anything"
    assert then == [one.id for one in place.old]
    assert place.in_the_clear() == []


# -- a server -----------------------------------------------------------------------------------


@pytest.fixture
def old_state(state: Path) -> Callable[[], list[StoredV1]]:
    """Make a state folder with an old log in it."""

    def make() -> list[StoredV1]:
        return write_old(StateFolder.open(state).ledger_db)

    return make


def test_a_server_starts_on_an_old_state_folder(state: Path, old_state: Callable[[], list[StoredV1]]) -> None:
    old = old_state()
    one = next(entry for entry in old if entry.kind == "request" and entry.seq % 7)

    with serving("mirror", state) as served:
        answer = served.predict({"text": "a new one"})
        shown = run_nightproof("audit", "show", one.id, "--reveal", "--state", str(state))
        found = run_nightproof("audit", "search", "--id", one.id, "--json", "--state", str(state))
        assert served.stop() == 0
    verified = run_nightproof("audit", "verify", "--json", "--state", str(state))

    assert answer.status_code == 200
    assert shown.returncode == 0, shown.stderr
    assert words(one.seq) in shown.stdout
    assert [record["seq"] for record in json.loads(found.stdout)["records"]] == [one.seq]
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["signed"] > len(old)
    with closing(LedgerReader(state / "ledger.db")) as reader:
        ids = [entry.id for entry in reader.all_entries()]
    assert ids[: len(old)] == [entry.id for entry in old]
    assert answer.json()["id"] in ids[len(old) :]
    assert [file for file in state.rglob("*") if file.is_file() and SECRET in file.read_bytes()] == []


if __name__ == "__main__":
    take_over_and_die(Path(sys.argv[1]), before=sys.argv[2])
