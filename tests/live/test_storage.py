"""The stores on real files: full disks, kills, failing syncs, second servers, changed bytes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from nightproof.base.errors import DeclarationError, StateError
from nightproof.storage import bundles
from nightproof.storage.ledger_rows import Row
from nightproof.storage.ledger_store import MOST_ROWS, LedgerReader, LedgerStore
from nightproof.storage.quarantine import QuarantineStore
from nightproof.storage.registry_store import RegistryStore
from nightproof.storage.sqlite import (
    NotFound,
    StorageOutcomeUnknown,
    open_database,
    refuse_old_sqlite,
    transaction,
)
from nightproof.storage.statefolder import StateFolder, StateTaken, file_system_of, is_network

NOON_US = 1_800_000_000_000_000


def rows(first: int, count: int, *, payload: bytes = b"{}", idem: bytes | None = None) -> list[Row]:
    return [
        Row(
            f"id-{seq}",
            NOON_US + seq,
            "request",
            "credit",
            "v1",
            "key",
            "answered",
            "",
            idem,
            b"leaf",
            payload,
        )
        for seq in range(first, first + count)
    ]


def python(program: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a program that uses our package in a process of its own."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(program: str, *arguments: object, before: tuple[str, ...] = ()) -> list[str]:
    with python(program, *arguments, before=before) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out.split("\n")[:-1]


# ---- the ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LedgerStore]:
    opened = LedgerStore(tmp_path / "ledger.db")
    yield opened
    opened.close()


@pytest.mark.parametrize("count", [1, 2, 37, MOST_ROWS, MOST_ROWS + 1, 3 * MOST_ROWS + 5])
def test_a_batch_of_any_size_is_written_whole(ledger: LedgerStore, count: int):
    ledger.append(0, rows(0, count))

    assert ledger.count() == count
    assert ledger.size() == count
    assert [(one.seq, *one[1:]) for one in ledger.all_entries()] == [
        (seq, *row[:-1]) for seq, row in enumerate(rows(0, count))
    ]


def test_an_empty_ledger_answers(ledger: LedgerStore):
    ledger.append(0, [])

    assert (ledger.size(), ledger.count()) == (0, 0)
    assert ledger.by_id("id-0") == []
    assert ledger.by_idem(b"k", 0) is None
    assert ledger.quick_check() == []


def test_entries_are_found_by_id_and_the_latest_by_idempotency_key(ledger: LedgerStore):
    ledger.append(0, rows(0, 3, idem=b"key"))
    ledger.append(3, [rows(1, 1)[0]._replace(at_us=NOON_US + 3, kind="closed", payload=None)])

    latest = ledger.by_idem(b"key", NOON_US)

    assert [one.seq for one in ledger.by_id("id-1")] == [1, 3]
    assert latest is not None
    assert latest.seq == 2
    assert ledger.by_idem(b"key", NOON_US + 3) is None
    assert ledger.by_idem(b"other", 0) is None


def test_looking_up_by_key_or_id_does_not_go_through_all_rows(ledger: LedgerStore, tmp_path: Path):
    reader = open_database(tmp_path / "ledger.db", read_only=True)
    plans = [
        str(reader.execute(f"EXPLAIN QUERY PLAN SELECT * FROM entries WHERE {where}", values).get)
        for where, values in (
            ("idem = ? AND at_us >= ? ORDER BY seq DESC LIMIT 1", (b"k", 0)),
            ("id = ? ORDER BY seq", ("x",)),
        )
    ]
    reader.close()

    assert all("USING INDEX" in plan and "TEMP B-TREE" not in plan for plan in plans), plans


def test_a_batch_with_one_bad_row_leaves_nothing_and_no_open_transaction(ledger: LedgerStore):
    batch = rows(0, MOST_ROWS + 10)
    batch[-1] = batch[-1]._replace(leaf=object())  # type: ignore[arg-type]

    with pytest.raises(TypeError):
        ledger.append(0, batch)
    ledger.append(0, rows(0, 1))

    assert ledger.count() == 1


def test_a_seq_that_is_taken_fences_the_writer(ledger: LedgerStore, tmp_path: Path):
    ledger.append(0, rows(0, 5))
    other = LedgerStore(tmp_path / "ledger.db")
    other.append(5, rows(5, 1))
    other.close()

    with pytest.raises(StorageOutcomeUnknown, match="SQLITE_CONSTRAINT"):
        ledger.append(5, rows(5, 3))
    with pytest.raises(StorageOutcomeUnknown):
        ledger.append(6, rows(6, 1))

    assert ledger.is_fenced
    assert ledger.count() == 6


def test_a_batch_for_another_place_is_our_own_mistake_and_writes_nothing(ledger: LedgerStore):
    ledger.append(0, rows(0, 5))

    with pytest.raises(ValueError, match="not the next one"):
        ledger.append(4, rows(4, 3))

    assert (ledger.count(), ledger.is_fenced) == (5, False)


def test_a_reader_in_another_connection_sees_what_was_appended(ledger: LedgerStore, tmp_path: Path):
    reader = LedgerReader(tmp_path / "ledger.db")
    ledger.append(0, rows(0, 2))

    seen = [one.seq for one in reader.entries()]
    ledger.append(2, rows(2, 1))
    then = reader.size()
    reader.close()

    assert (seen, then) == ([0, 1], 3)


def test_a_reader_opens_a_ledger_that_nobody_serves_and_cannot_write_it(ledger: LedgerStore, tmp_path: Path):
    ledger.append(0, rows(0, 2))
    ledger.close()

    reader = LedgerReader(tmp_path / "ledger.db")
    found = reader.count()
    reader.close()
    connection = open_database(tmp_path / "ledger.db", read_only=True)
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM entries")
    connection.close()

    assert found == 2


def test_a_checkpoint_empties_the_log_and_loses_nothing(ledger: LedgerStore, tmp_path: Path):
    ledger.append(0, rows(0, 200, payload=b"x" * 500))
    grown = ledger.wal_bytes()

    pages, moved = ledger.checkpoint("passive")
    ledger.checkpoint("truncate")

    assert pages == moved > 10
    assert grown > 100_000
    assert ledger.wal_bytes() == 0
    assert ledger.count() == 200


def test_a_reader_in_the_way_only_puts_a_checkpoint_off(ledger: LedgerStore, tmp_path: Path):
    ledger.append(0, rows(0, 10))
    reader = open_database(tmp_path / "ledger.db", read_only=True)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM entries").get == 10
    ledger.append(10, rows(10, 10))

    pages, moved = ledger.checkpoint("passive")
    reader.close()

    assert moved < pages
    assert ledger.checkpoint("passive") == (pages, pages)


def test_who_reads_for_long_does_not_hold_up_the_writer_that_would_empty_the_log(
    ledger: LedgerStore, tmp_path: Path
):
    """Else a verification of minutes would stop every commit, and fence the ledger."""
    ledger.append(0, rows(0, 10))
    reader = open_database(tmp_path / "ledger.db", read_only=True)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM entries").get == 10
    ledger.append(10, rows(10, 10))

    began_s = time.monotonic()
    ledger.checkpoint("truncate")
    took_s = time.monotonic() - began_s
    was_left = ledger.wal_bytes()
    reader.close()
    ledger.checkpoint("truncate")

    assert took_s < 1.0
    assert was_left > 0
    assert ledger.wal_bytes() == 0, "and it can be emptied later"


def test_a_ledger_that_was_deleted_while_in_use_is_noticed(ledger: LedgerStore, tmp_path: Path):
    ledger.append(0, rows(0, 1))
    (tmp_path / "ledger.db").unlink()

    with pytest.raises(StorageOutcomeUnknown, match="deleted or replaced"):
        ledger.checkpoint()
    with pytest.raises(StorageOutcomeUnknown):
        ledger.append(1, rows(1, 1))


def test_every_pragma_holds_and_the_files_are_private(ledger: LedgerStore, tmp_path: Path):
    ledger.append(0, rows(0, 1))
    connection = open_database(tmp_path / "ledger.db")
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "mmap_size": 0,
        "busy_timeout": 5000,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "secure_delete": 0,
    }

    found = {name: connection.pragma(name) for name in wanted}
    connection.close()

    assert found == wanted
    assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {0o600}


def test_an_old_sqlite_is_refused():
    with pytest.raises(StateError, match=r"SQLite is 3\.51\.2"):
        refuse_old_sqlite("3.51.2")

    refuse_old_sqlite("3.51.3")
    refuse_old_sqlite("3.54.1")


def test_files_that_are_not_ours_are_refused(tmp_path: Path):
    (tmp_path / "text.db").write_text("not a database at all, " * 100)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE theirs(a)")
    other.close()
    QuarantineStore(tmp_path / "quarantine.db").close()

    for name, words in (
        ("text.db", "SQLITE_NOTADB"),
        ("other.db", "another program"),
        ("quarantine.db", "'ledger' in version 2 is wanted"),
    ):
        with pytest.raises(StateError, match=words):
            LedgerStore(tmp_path / name)
    with pytest.raises(StateError, match="cannot be opened"):
        LedgerReader(tmp_path / "absent.db")


def test_a_ledger_of_a_newer_nightproof_is_refused(ledger: LedgerStore, tmp_path: Path):
    ledger.close()
    changed = open_database(tmp_path / "ledger.db")
    changed.execute("UPDATE schema SET version = 3")
    changed.close()

    with pytest.raises(StateError, match="in version 3"):
        LedgerStore(tmp_path / "ledger.db")


# ---- what the disk does


FILLS_UP = """
import os, sys
from pathlib import Path
from nightproof.storage.ledger_rows import Row
from nightproof.storage.ledger_store import LedgerStore
from nightproof.storage.sqlite import StorageUnavailable
exec(sys.argv[2])
ledger = LedgerStore(Path(sys.argv[1]) / "ledger.db")
def row(seq):
    return Row(f"id-{seq}", seq, "request", "credit", "v1", "key", "answered", "", None, b"leaf", os.urandom(20_000))
begin()
written = refused = 0
while not refused and written < 500:
    try:
        ledger.append(written, [row(written)])
        written += 1
    except StorageUnavailable as error:
        refused += 1
        print("one", error)
try:
    ledger.append(written, [row(written + n) for n in range(200)])
except StorageUnavailable as error:
    print("many", error)
print("kept", ledger.count() == written > 0, ledger.is_fenced)
end()
ledger.append(written, [row(written)])
print("recovered", ledger.count() == written + 1, ledger.quick_check())
ledger.close()
"""


def test_a_file_that_may_not_grow_refuses_and_then_recovers(tmp_path: Path):
    limits = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = resource.getrlimit(resource.RLIMIT_FSIZE)
def begin(): resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most[1]))
def end(): resource.setrlimit(resource.RLIMIT_FSIZE, most)
"""

    told = output_of(FILLS_UP, tmp_path, limits)

    assert ["File too large" in line for line in told[:2]] == [True, True], told
    assert told[2:] == ["kept True False", "recovered True []"]


def test_a_full_disk_refuses_and_then_recovers(tmp_path: Path):
    own_mounts = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*own_mounts, "true"], capture_output=True).returncode != 0
    ):
        pytest.skip(
            "this machine gives us no mounts of our own; the file size limit stands in for the full disk"
        )
    disk = """
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", sys.argv[1]], check=True)
filler = Path(sys.argv[1]) / "filler"
def begin(): filler.write_bytes(bytes(1_000_000))
def end(): filler.unlink()
"""

    told = output_of(FILLS_UP, tmp_path, disk, before=own_mounts)

    assert ["full" in line for line in told[:2]] == [True, True], told
    assert told[2:] == ["kept True False", "recovered True []"]


FAILING_SYNC = """
import os, sys
from pathlib import Path
import apsw
from nightproof.storage.ledger_rows import Row
from nightproof.storage.ledger_store import LedgerStore
from nightproof.storage.sqlite import StorageOutcomeUnknown

failing = []
def fail(kind):
    error = apsw.IOError("injected")
    error.extendedresult = kind
    raise error

class File(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__("unix", name, flags)
    def xSync(self, flags):
        if "sync" in failing:
            fail(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)
    def xWrite(self, data, offset):
        if "write" in failing:
            fail(apsw.SQLITE_IOERR_WRITE)
        super().xWrite(data, offset)

class Disk(apsw.VFS):
    def __init__(self):
        super().__init__("failing", "unix", makedefault=True)
    def xOpen(self, name, flags):
        return File(name, flags)

disk = Disk()
ledger = LedgerStore(Path(sys.argv[1]) / "ledger.db")
def rows(first, count):
    plain = Row("id", 1, "request", "credit", "v1", "key", "answered", "", None, b"leaf", None)
    return [plain._replace(id=f"id-{n}", at_us=n) for n in range(first, first + count)]
ledger.append(0, rows(0, 3))
failing.append(sys.argv[2])
for attempt in range(2):
    try:
        ledger.append(3, rows(3, int(sys.argv[3])))
    except StorageOutcomeUnknown as error:
        print("unknown", ledger.is_fenced)
    failing.clear()
print("seen", ledger.count())
if sys.argv[4] == "close":
    ledger.close()
    print(Path(sys.argv[1], "ledger.db-wal").stat().st_size > 0)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("ending", ["close", "die"])
@pytest.mark.parametrize("count", [1, MOST_ROWS + 2])
def test_a_failed_sync_is_neither_yes_nor_no_and_fences_the_writer(tmp_path: Path, count: int, ending: str):
    told = output_of(FAILING_SYNC, tmp_path, "sync", count, ending)
    recovered = LedgerStore(tmp_path / "ledger.db")
    found, damage = recovered.count(), recovered.quick_check()
    recovered.close()

    assert told == ["unknown True", "unknown True", "seen 3"] + (["True"] if ending == "close" else [])
    # The live server did not see the rows, and recovery finds them in the log.
    assert found == 3 + count
    assert damage == []


def test_a_write_that_fails_without_a_reason_counts_as_unknown(tmp_path: Path):
    told = output_of(FAILING_SYNC, tmp_path, "write", 1, "die")

    assert told == ["unknown True", "unknown True", "seen 3"]


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path):
    program = """
    import sys
    from pathlib import Path
    from nightproof.storage.ledger_rows import Row
    from nightproof.storage.ledger_store import LedgerStore
    ledger = LedgerStore(Path(sys.argv[1]))
    row = Row("id", 1, "request", "credit", "v1", "key", "answered", "", None, b"leaf", b"x" * 300)
    seq = 0
    while True:
        count = seq % 40 + 1
        ledger.append(seq, [row] * count)
        seq += count
        print(seq, flush=True)
    """
    with python(program, tmp_path / "ledger.db") as writer:
        assert writer.stdout is not None
        for _ in range(25):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait(timeout=10)

    recovered = LedgerStore(tmp_path / "ledger.db")
    found = [one.seq for one in recovered.all_entries()]
    damage = recovered.quick_check()
    recovered.close()

    assert len(found) >= acknowledged
    assert found == list(range(len(found)))
    assert damage == []


def test_a_failed_transaction_leaves_nothing_behind(tmp_path: Path):
    connection = open_database(tmp_path / "any.db")
    connection.execute("CREATE TABLE t(a INTEGER) STRICT")

    with pytest.raises(RuntimeError), transaction(connection, tmp_path):
        connection.execute("INSERT INTO t VALUES (1)")
        raise RuntimeError
    left = connection.execute("SELECT count(*) FROM t").get
    in_transaction = connection.in_transaction
    connection.close()

    assert (left, in_transaction) == (0, False)


# ---- the state folder


def test_a_new_state_folder_is_private_and_kept_out_of_repositories(tmp_path: Path):
    folder = StateFolder.open(tmp_path / "a" / "state")

    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert (folder.path / ".gitignore").read_text() == "*\n"
    assert folder.bundles.is_dir()
    assert folder.disk_free_bytes() > 0
    assert StateFolder.open(folder.path).path == folder.path


def test_an_open_folder_is_made_private_and_one_with_other_files_is_left_alone(tmp_path: Path):
    loose, foreign = tmp_path / "loose", tmp_path / "foreign"
    for one in (loose, foreign):
        one.mkdir()
        one.chmod(0o755)
    (foreign / "thesis.tex").touch()

    StateFolder.open(loose)
    with pytest.raises(StateError, match=r"it holds thesis\.tex"):
        StateFolder.open(foreign)

    assert stat.S_IMODE(loose.stat().st_mode) == 0o700
    assert stat.S_IMODE(foreign.stat().st_mode) == 0o755


def test_who_only_looks_makes_nothing(tmp_path: Path):
    with pytest.raises(StateError, match="There is no state folder"):
        StateFolder.open(tmp_path / "state", create=False)

    assert not (tmp_path / "state").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(StateError, match="cannot be made"):
        StateFolder.open(tmp_path / "file")
    with pytest.raises(StateError, match="cannot be made"):
        StateFolder.open(tmp_path / "file" / "state")


def test_a_folder_of_another_form_is_refused(tmp_path: Path):
    folder = StateFolder.open(tmp_path / "state")
    (folder.path / "nightproof-state").write_text("nightproof state 2\n")

    with pytest.raises(StateError, match="nightproof state 2"):
        StateFolder.open(folder.path)


HOLDS_THE_FOLDER = """
import sys
from pathlib import Path
from nightproof.storage.statefolder import StateFolder
folder = StateFolder.open(Path(sys.argv[1]))
folder.lock()
folder.mark_running()
print("held", flush=True)
sys.stdin.read()
folder.mark_stopped()
folder.unlock()
"""


def test_a_second_server_is_refused_and_told_who_has_the_folder(tmp_path: Path):
    with python(HOLDS_THE_FOLDER, tmp_path / "state") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        second = StateFolder.open(tmp_path / "state")
        with pytest.raises(StateTaken, match=f"process {first.pid}, since 2"):
            second.lock()
        owner = second.owner()
        assert first.stdin is not None
        first.stdin.close()
        first.wait(timeout=10)

    second.lock()
    mine = second.owner()
    was_unclean = second.was_unclean
    second.unlock()

    assert owner is not None
    assert owner.pid == first.pid
    assert mine is not None
    assert mine.pid == os.getpid()
    assert not was_unclean
    assert second.owner() is None


def test_a_killed_server_leaves_the_folder_free_and_its_end_known(tmp_path: Path):
    with python(HOLDS_THE_FOLDER, tmp_path / "state") as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.kill()
        first.wait(timeout=10)

    folder = StateFolder.open(tmp_path / "state")
    owner_after = folder.owner()
    folder.lock()
    was_unclean = folder.was_unclean
    folder.mark_running()
    folder.mark_stopped()
    is_clean_now = not folder.was_unclean
    folder.unlock()

    assert owner_after is None
    assert was_unclean
    assert is_clean_now


def test_the_lock_is_not_inherited_by_children(tmp_path: Path):
    folder = StateFolder.open(tmp_path / "state")
    folder.lock()

    with python("import sys; print('up', flush=True); sys.stdin.read()") as child:
        assert child.stdout is not None
        child.stdout.readline()
        folder.unlock()
        other = StateFolder.open(tmp_path / "state")
        other.lock()
        other.unlock()
        child.communicate(timeout=10)


@pytest.mark.parametrize("name", ["state", "s" * 120])
def test_the_control_socket_can_be_bound_however_long_the_path_is(tmp_path: Path, name: str):
    folder = StateFolder.open(tmp_path / name)

    path = folder.prepare_socket()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    again = folder.prepare_socket()
    asked = StateFolder.open(tmp_path / name, create=False).socket
    if path.parent != folder.path:
        path.parent.rmdir()

    assert path == again == asked
    assert not path.exists()


MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /mnt/nas rw - nfs4 host:/export rw
31 30 0:41 / /mnt/nas/local rw - xfs /dev/vdb rw
32 22 0:42 / /mnt/my\040share rw master:1 - cifs //h/s rw
33 22 0:43 / /mnt/over rw - ext4 /dev/vdc rw
34 22 0:44 / /mnt/over rw - fuse.sshfs host: rw
"""


@pytest.mark.parametrize(
    ("path", "file_system", "is_refused"),
    [
        ("/var/lib/x", "ext4", False),
        ("/mnt/nas", "nfs4", True),
        ("/mnt/nas/x/y", "nfs4", True),
        ("/mnt/nas/local/x", "xfs", False),
        ("/mnt/nasty", "ext4", False),
        ("/mnt/my share/x", "cifs", True),
        ("/mnt/over/x", "fuse.sshfs", True),
    ],
)
def test_the_file_system_of_a_path_is_the_nearest_and_latest_mount(
    path: str, file_system: str, is_refused: bool
):
    assert file_system_of(Path(path), MOUNTS) == file_system
    assert is_network(file_system) is is_refused


# ---- quarantine


@pytest.fixture
def quarantine(tmp_path: Path) -> Iterator[QuarantineStore]:
    opened = QuarantineStore(
        tmp_path / "quarantine.db",
        seal=lambda content, subject: content[::-1],
        unseal=lambda content: content[::-1],
        most=5,
    )
    yield opened
    opened.close()


def hold(store: QuarantineStore, fingerprint: bytes, *, now_us: int = NOON_US, service: str = "credit"):
    return store.hold(
        service=service,
        release="r1",
        fingerprint=fingerprint,
        reason="poison_input",
        input_bytes=b'{"income": 41}',
        now_us=now_us,
    )


def test_a_held_record_is_refused_until_it_expires(quarantine: QuarantineStore):
    entry = hold(quarantine, b"a" * 32)

    assert quarantine.active_fingerprints("credit", "r1", NOON_US) == {b"a" * 32}
    assert quarantine.active_fingerprints("credit", "r2", NOON_US) == frozenset()
    assert quarantine.active_fingerprints("credit", "r1", entry.expires_us) == frozenset()
    assert entry.is_refused(entry.expires_us - 1)
    assert not entry.is_refused(entry.expires_us)
    assert entry.expires_us == NOON_US + 3_600_000_000


def test_the_input_is_stored_sealed_and_shown_in_clear(quarantine: QuarantineStore, tmp_path: Path):
    entry = hold(quarantine, b"a" * 32)

    stored = b"".join(one.read_bytes() for one in tmp_path.iterdir())

    assert quarantine.show(entry.id) == (entry, b'{"income": 41}')
    assert b"income" not in stored


def test_a_released_and_a_replayed_record_are_refused_no_longer(quarantine: QuarantineStore):
    first, second = hold(quarantine, b"a" * 32), hold(quarantine, b"b" * 32)

    released = quarantine.release(first.id)
    replayed = quarantine.mark_replayed(second.id)

    assert (released.state, replayed.state) == ("released", "replayed")
    assert quarantine.active_fingerprints("credit", "r1", NOON_US) == frozenset()
    assert len(quarantine.list()) == 2


def test_the_same_record_held_twice_is_one_entry_with_the_later_end(quarantine: QuarantineStore):
    first = hold(quarantine, b"a" * 32)
    again = hold(quarantine, b"a" * 32, now_us=NOON_US + 10)

    assert again.id == first.id
    assert again.expires_us == first.expires_us + 10
    assert len(quarantine.list("credit")) == 1


def test_the_quarantine_keeps_the_newest_entries_only(quarantine: QuarantineStore):
    for number in range(8):
        hold(
            quarantine,
            bytes([number]) * 32,
            now_us=NOON_US + number,
            service="credit" if number % 2 else "fraud",
        )

    assert [one.fingerprint[0] for one in quarantine.list()] == [7, 6, 5, 4, 3]
    assert [one.fingerprint[0] for one in quarantine.list("fraud")] == [6, 4]


def test_an_entry_that_is_not_there_says_so(quarantine: QuarantineStore):
    for act in (quarantine.show, quarantine.release, quarantine.mark_replayed):
        with pytest.raises(NotFound, match="no quarantine entry q_nope"):
            act("q_nope")


# ---- bundles


@pytest.fixture
def service(tmp_path: Path) -> Path:
    folder = tmp_path / "credit"
    for name, content in {
        "service.py": "x = 1\n",
        "artifacts/model.joblib": "weights",
        "golden.jsonl": "{}\n",
        "notes/draft.md": "later",
        "big.csv": "1,2",
        ".git/HEAD": "ref",
        ".env": "SECRET=1",
        "__pycache__/service.cpython-311.pyc": "x",
        "old.pyc": "x",
        ".nightproof/bundles/x": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / ".nightproofignore").write_text("# not for production\nnotes/\n*.csv\n")
    return folder


def names_in(path: Path) -> list[str]:
    return sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())


def test_a_snapshot_holds_what_belongs_and_nothing_else(service: Path, tmp_path: Path):
    bundle = bundles.snapshot(service, tmp_path / "bundles")

    assert names_in(bundle.path) == ["artifacts/model.joblib", "golden.jsonl", "service.py"]
    assert (bundle.files, len(bundle.digest), bundle.path.name) == (3, 64, bundle.digest)
    assert {stat.S_IMODE(one.stat().st_mode) for one in bundle.path.rglob("*") if one.is_file()} == {0o400}
    assert bundles.open_bundle(tmp_path / "bundles", bundle.digest) == bundle


def test_the_same_content_is_the_same_bundle_wherever_it_lies(service: Path, tmp_path: Path):
    first = bundles.snapshot(service, tmp_path / "bundles")
    shutil.copytree(service, tmp_path / "copy")
    (tmp_path / "copy" / "notes" / "draft.md").write_text("changed, but ignored")

    again = bundles.snapshot(tmp_path / "copy", tmp_path / "bundles")

    assert again == first
    assert [one.name for one in (tmp_path / "bundles").iterdir()] == [first.digest]


@pytest.mark.parametrize("change", ["content", "name"])
def test_any_change_is_another_bundle(service: Path, tmp_path: Path, change: str):
    first = bundles.snapshot(service, tmp_path / "bundles")
    if change == "content":
        (service / "service.py").write_text("x = 2\n")
    else:
        (service / "golden.jsonl").rename(service / "golden2.jsonl")

    second = bundles.snapshot(service, tmp_path / "bundles")

    assert second.digest != first.digest
    bundles.verify(first)


def test_a_state_folder_inside_the_service_folder_is_not_part_of_it(service: Path):
    before = bundles.snapshot(service, service / "state" / "bundles")
    after = bundles.snapshot(service, service / "state" / "bundles")

    assert before == after
    assert "state" not in {one.name for one in before.path.iterdir()}


def test_links_inside_the_folder_are_copied_and_links_out_of_it_refused(service: Path, tmp_path: Path):
    (service / "latest.joblib").symlink_to(service / "artifacts" / "model.joblib")
    bundle = bundles.snapshot(service, tmp_path / "bundles")
    assert not (bundle.path / "latest.joblib").is_symlink()
    assert (bundle.path / "latest.joblib").read_text() == "weights"

    (tmp_path / "secret").write_text("outside")
    for target, words in (
        (tmp_path / "secret", "leads out"),
        (tmp_path / "nowhere", "link to nothing"),
        (service, "leads back"),
    ):
        (service / "link").symlink_to(target)
        with pytest.raises(DeclarationError, match=words):
            bundles.snapshot(service, tmp_path / "bundles")
        (service / "link").unlink()

    assert [one.name for one in (tmp_path / "bundles").iterdir()] == [bundle.digest]


def test_what_is_not_a_file_is_refused(service: Path, tmp_path: Path):
    os.mkfifo(service / "pipe")

    with pytest.raises(DeclarationError, match="neither a file nor a folder"):
        bundles.snapshot(service, tmp_path / "bundles")


@pytest.mark.parametrize("change", ["byte", "extra", "missing", "link"])
def test_a_changed_bundle_is_noticed_and_made_again(service: Path, tmp_path: Path, change: str):
    bundle = bundles.snapshot(service, tmp_path / "bundles")
    target = bundle.path / "service.py"
    if change == "byte":
        target.chmod(0o600)
        target.write_text("x = 9\n")
    elif change == "extra":
        (bundle.path / "sitecustomize.py").touch()
    else:
        target.unlink()
        if change == "link":
            target.symlink_to(service / "service.py")

    with pytest.raises(StateError, match="was changed"):
        bundles.verify(bundle)
    with pytest.raises(StateError, match="was changed"):
        bundles.open_bundle(tmp_path / "bundles", bundle.digest)
    again = bundles.snapshot(service, tmp_path / "bundles")

    assert again == bundle
    bundles.verify(again)


def test_a_bundle_that_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(StateError, match="is not in"):
        bundles.open_bundle(tmp_path, "0" * 64)


# ---- the registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryStore]:
    opened = RegistryStore(tmp_path / "registry.db")
    yield opened
    opened.close()


def test_nothing_is_live_before_it_is_made_so(registry: RegistryStore):
    registered = registry.register("credit", "dev-1", "d1", now_us=NOON_US)

    assert registry.live("credit") is None
    assert registry.previous("credit") is None
    assert registry.releases("credit") == (registered,)


def test_one_release_is_live_and_the_one_before_is_known(registry: RegistryStore):
    for number in (1, 2):
        registry.register("credit", f"v{number}", f"d{number}", now_us=NOON_US + number)
        registry.set_live("credit", f"v{number}", now_us=NOON_US + number)
    live, previous = registry.live("credit"), registry.previous("credit")

    assert live is not None
    assert (live.label, live.digest, live.live) == ("v2", "d2", True)
    assert previous is not None
    assert previous.label == "v1"
    assert registry.live("fraud") is None


def test_rolling_back_makes_the_other_one_previous(registry: RegistryStore):
    for label in ("v1", "v2"):
        registry.register("credit", label, label)
        registry.set_live("credit", label)

    registry.set_live("credit", "v1")
    live, previous = registry.live("credit"), registry.previous("credit")

    assert live is not None
    assert previous is not None
    assert (live.label, previous.label) == ("v1", "v2")
    assert [(act.label, act.act) for act in registry.history("credit")] == [
        ("v1", "live"),
        ("v2", "live"),
        ("v2", "registered"),
        ("v1", "live"),
        ("v1", "registered"),
    ]


def test_a_label_never_changes_its_bytes(registry: RegistryStore):
    first = registry.register("credit", "v1", "d1", now_us=NOON_US)

    assert registry.register("credit", "v1", "d1", now_us=NOON_US + 9) == first
    with pytest.raises(StateError, match="with other content"):
        registry.register("credit", "v1", "d2")

    assert registry.register("credit", "v2", "d1").digest == "d1"


def test_an_unknown_release_cannot_go_live(registry: RegistryStore):
    registry.register("credit", "v1", "d1")
    registry.set_live("credit", "v1")

    with pytest.raises(NotFound, match="no release v9"):
        registry.set_live("credit", "v9")
    live = registry.live("credit")

    assert live is not None
    assert live.label == "v1"


def test_the_registry_survives_a_restart(registry: RegistryStore, tmp_path: Path):
    registry.register("credit", "v1", "d1")
    registry.set_live("credit", "v1")
    registry.close()

    reopened = RegistryStore(tmp_path / "registry.db")
    live = reopened.live("credit")
    reopened.close()

    assert live is not None
    assert live.digest == "d1"
