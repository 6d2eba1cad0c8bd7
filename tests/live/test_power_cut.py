"""The power goes at any moment: what the log acknowledged is there, whole, signed and readable.

A disk of our own stands between SQLite and its files. It lets everything through, and notes what was written to
each file since its last sync. When the power goes, the files are made anew as a disk may leave them: what was
synced, and of the rest any sectors of any write, each there, missing, or torn. Lives are lived in processes of
their own, since the default VFS is changed in them; the files they leave are judged here, with the usual one.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import apsw
import pytest

from nightproof.audit.record import Entry, make_entry
from nightproof.audit.seal import Signer, Verifier
from nightproof.audit.vault import Part, Vault
from nightproof.audit.verify import Anchor, verify
from nightproof.audit.writer import LogWriter
from nightproof.base.errors import NightproofError
from nightproof.storage.ledger_rows import Checkpoint
from nightproof.storage.ledger_store import LedgerReader, LedgerStore
from nightproof.storage.vault_store import VaultStore
from tests.serving import ROOT

NOON_US = 1_800_000_000_000_000
SIGNER = Signer("example.com/log", bytes(range(32)))
MASTER = bytes(32)
SECTOR_BYTES = 512
LIVES_OF_A_PROCESS = 25
"""A life leaves its files open; a process may have about a thousand."""
_JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
EXPIRING = "old"
"""The service whose contents are dropped after a while."""


# -- the disk -----------------------------------------------------------------------------------


class Write(NamedTuple):
    """Bytes that were written and not yet synced."""

    offset: int
    content: bytes


class Truncate(NamedTuple):
    """A file that was cut, not yet synced."""

    size: int


class Delete(NamedTuple):
    """A file that was deleted, its folder not yet synced. What follows belongs to another file of that name."""


class Platter:
    """One file name: what is there for certain, and what was done since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.since: list[Write | Truncate | Delete] = []

    def sync(self) -> None:
        """Make everything certain."""
        for act in self.since:
            _do(act, self.synced)
        self.since.clear()

    def make_deletion_certain(self) -> None:
        """Have the old file gone for good, if it was deleted; what the new one holds stays uncertain."""
        last = max((at for at, act in enumerate(self.since) if isinstance(act, Delete)), default=-1)
        if last >= 0:
            self.synced.clear()
            del self.since[: last + 1]

    def after_a_cut(self, luck: random.Random) -> bytes:
        """Return what may be found when the power is back."""
        found = bytearray(self.synced)
        for act in self.since:
            match act:
                case Write():
                    for sector in _sectors(act):
                        _do_perhaps(sector, found, luck)
                case Truncate():
                    if luck.random() < 0.5:
                        _do(act, found)
                case Delete():
                    if luck.random() < 0.5:
                        break  # the name still leads to the old file
                    _do(act, found)
        return bytes(found)


def _do(act: Write | Truncate | Delete, content: bytearray) -> None:
    match act:
        case Write(offset, written):
            if len(content) < offset:
                content.extend(bytes(offset - len(content)))
            content[offset : offset + len(written)] = written
        case Truncate(size):
            del content[size:]
        case Delete():
            content.clear()


def _sectors(write: Write) -> list[Write]:
    """Split a write where the disk's sectors end."""
    found: list[Write] = []
    offset, end = write.offset, write.offset + len(write.content)
    while offset < end:
        stop = min(end, (offset // SECTOR_BYTES + 1) * SECTOR_BYTES)
        found.append(Write(offset, write.content[offset - write.offset : stop - write.offset]))
        offset = stop
    return found


def _do_perhaps(sector: Write, content: bytearray, luck: random.Random) -> None:
    """Write a sector, or not, or with a tail of anything.

    Only what was being written is torn, not its neighbours in the sector: SQLite relies on that ("powersafe
    overwrite"), as does every file system.
    """
    lot = luck.random()
    if lot < 0.4:
        _do(sector, content)
    elif lot < 0.6:
        cut = luck.randrange(len(sector.content))
        _do(Write(sector.offset, sector.content[:cut] + luck.randbytes(len(sector.content) - cut)), content)


class Power:
    """Files by name, until the power goes at the nth act."""

    def __init__(self, *, cut_at: int, lies: bool) -> None:
        self.left = cut_at
        self.lies = lies
        """Syncs are acknowledged and not done."""
        self.files: dict[str, Platter] = {}
        self.in_flight: Platter | None = None
        """Whose last act was noted while the power went; None where that was a sync."""

    @property
    def is_off(self) -> bool:
        """Say whether the power is gone."""
        return self.left <= 0

    def act(self, name: str, act: Write | Truncate | Delete | None) -> None:
        """Note an act, None for a sync; the one during which the power goes may still leave its traces."""
        if self.is_off:
            _fail()
        self.left -= 1
        file = self.files.setdefault(name, Platter())
        if act is not None:
            file.since.append(act)
        if self.is_off:
            self.in_flight = None if act is None else file
            _fail()
        if act is None and not self.lies:
            file.sync()

    def sync_folder(self) -> None:
        """Make certain which files there are."""
        if not self.lies:
            for file in self.files.values():
                file.make_deletion_certain()


def _fail() -> NoReturn:
    error = apsw.IOError("the power is gone")
    error.extendedresult = apsw.SQLITE_IOERR  # type: ignore[attr-defined]
    raise error


class File(apsw.VFSFile):
    """A real file, whose changes are noted."""

    def __init__(self, name: str, flags: list[int], power: Power) -> None:
        super().__init__("unix", name, flags)
        self._name = Path(name).name
        self._power = power
        # As SQLite's own: with the first sync of a journal that it may have created, it syncs the folder.
        self._syncs_folder = bool(flags[0] & _JOURNALS and flags[0] & apsw.SQLITE_OPEN_CREATE)

    def xWrite(self, data: bytes, offset: int) -> None:
        """Note it and write it."""
        self._power.act(self._name, Write(offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        """Note it and cut the file."""
        self._power.act(self._name, Truncate(newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        """Note it; the real disk need not be asked."""
        self._power.act(self._name, None)
        if self._syncs_folder:
            self._power.sync_folder()
            self._syncs_folder = False


class Disk(apsw.VFS):
    """The default VFS of a process whose power may go."""

    def __init__(self) -> None:
        super().__init__("cut", "unix", makedefault=True)
        self.power = Power(cut_at=0, lies=False)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        """Open a file whose changes are noted."""
        if name is None:  # a file of SQLite's own, which no restart reads
            return apsw.VFSFile("unix", name, flags)
        text = name if isinstance(name, str) else name.filename()
        return File(text, flags, self.power)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Note it and delete the file; with `syncdir` it is certain."""
        name = Path(filename).name
        self.power.act(name, Delete())
        super().xDelete(filename, syncdir)
        if syncdir:
            self.power.sync_folder()


# -- a life -------------------------------------------------------------------------------------


class Life:
    """A server's writer until the power goes: runs, batches, checkpoints of both kinds, contents that expire."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._chance = random.Random(seed)
        self._number = 0
        self.sent: list[list[str]] = []
        """The ids of each batch that was handed to the log."""
        self.acknowledged = 0
        """How many of the batches it has taken: all, or all but the last."""
        self.note = b""
        """The last checkpoint that was given out."""
        self.open: list[object] = []

    def live(self, power: Power) -> None:
        """Go on until the power goes."""
        try:
            while True:
                self._run()
        except Exception:
            if not power.is_off:
                raise

    def _run(self) -> None:
        keys = VaultStore(self._folder / "vault.db")
        self.open.append(keys)
        vault = Vault(keys, MASTER, now_us=NOON_US)
        store = LedgerStore(self._folder / "ledger.db")
        self.open.append(store)
        store.write_meta("origin", SIGNER.name)
        store.write_meta("vkey", SIGNER.vkey)
        log = LogWriter(
            store,
            keep_keys=vault.keep,
            signer=SIGNER,
            seal_every_s=self._chance.choice([0.0, 3_600.0]),
            on_sealed=self._sealed,
        )
        for _ in range(self._chance.randrange(1, 80)):
            self._step(log, store, vault)
        store.close()
        keys.close()

    def _step(self, log: LogWriter, store: LedgerStore, vault: Vault) -> None:
        match self._chance.randrange(16):
            case 0:
                log.seal()
            case 1:
                store.checkpoint("passive")
            case 2:
                store.checkpoint("truncate")
            case 3:
                below, before_us = log.size, self._now_us()
                facts = {"service": EXPIRING, "before_us": before_us, "below_seq": below}
                self._write(log, [make_entry("retention", self._id(), self._now_us(), facts)])
                store.drop_payloads(EXPIRING, before_us, below)
            case _:
                self._write(log, [self._request(vault) for _ in range(self._size())])

    def _size(self) -> int:
        return self._chance.choice([1, 1, 2, 5, 20, 64, 65, 150])

    def _write(self, log: LogWriter, entries: Sequence[Entry]) -> None:
        self.sent.append([entry.row.id for entry in entries])
        log.write(entries)
        self.acknowledged += 1

    def _request(self, vault: Vault) -> Entry:
        chance = self._chance
        entry_id, at_us = self._id(), self._now_us()
        caller = f"key_{chance.randrange(20)}"
        subjects = (vault.pseudonym(f"person {chance.randrange(10)}"),) if chance.random() < 0.3 else ()
        sealed = vault.seal(
            [Part("content", content_of(entry_id, at_us), subjects)],
            entry_id=entry_id,
            kind="request",
            caller=caller,
            at_us=at_us,
        )
        return make_entry(
            "request",
            entry_id,
            at_us,
            {
                "service": chance.choice(["credit", EXPIRING]),
                "release": "r1",
                "key": caller,
                "ending": "answered",
            },
            payload=sealed.payload,
            subjects=subjects,
            keys=sealed.new_keys,
        )

    def _id(self) -> str:
        self._number += 1
        return f"{self._seed:08x}-{self._number:08x}"

    def _now_us(self) -> int:
        return NOON_US + self._number

    def _sealed(self, checkpoint: Checkpoint) -> None:
        self.note = checkpoint.note


def content_of(entry_id: str, at_us: int) -> bytes:
    """Return the content of an entry, some longer than a page."""
    return f"what {entry_id} was told ".encode() * (at_us % 50 + 1 if at_us % 11 else 400)


def moment(luck: random.Random) -> int:
    """Draw at which act the power goes: now and then while the files are made, else in the first thousands."""
    return int(10 ** (luck.uniform(0.3, 2.3) if luck.random() < 0.2 else luck.uniform(2.3, 3.9)))


def live_and_leave(folder: Path, seeds: range, *, lies: bool) -> None:
    """Live one life per seed, each in a folder of its own, and leave what the power cut leaves."""
    disk = Disk()
    lives: list[Life] = []
    for seed in seeds:
        luck = random.Random(~seed)
        before, after = folder / str(seed) / "before", folder / str(seed) / "after"
        before.mkdir(parents=True)
        after.mkdir()
        disk.power = power = Power(cut_at=moment(luck), lies=lies)
        life = Life(before, seed)
        lives.append(life)
        life.live(power)
        for name, file in power.files.items():
            (after / name).write_bytes(file.after_a_cut(luck))
        told = {
            "sent": life.sent,
            "acknowledged": life.acknowledged,
            "note": life.note.decode(),
            "unnoticed": unnoticed(power, before),
        }
        (folder / str(seed) / "told.json").write_text(json.dumps(told))
    sys.stdout.flush()
    os._exit(0)  # nothing is closed: nobody is there any more to do so


def unnoticed(power: Power, folder: Path) -> list[str]:
    """Name the files that are not what was noted of them. The act during which the power went was not done."""
    if power.in_flight is not None:
        power.in_flight.since.pop()
    found: list[str] = []
    for name, file in power.files.items():
        file.sync()
        real = folder / name
        if bytes(file.synced) != (real.read_bytes() if real.exists() else b""):
            found.append(name)
    return found


def lived(folder: Path, seeds: range, *, lies: bool = False) -> list[Path]:
    """Live those lives in processes of their own; return the folders that they left."""
    for first in range(seeds.start, seeds.stop, LIVES_OF_A_PROCESS):
        last = min(first + LIVES_OF_A_PROCESS, seeds.stop)
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.live.test_power_cut",
                str(folder), str(first), str(last), "lies" if lies else "holds",
            ],
            capture_output=True, text=True, timeout=600, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return [folder / str(seed) for seed in seeds]


# -- the judgement ------------------------------------------------------------------------------


def judge(left: Path) -> int:
    """Open what a life left, as the next start does, and hold it to what was acknowledged; return the records."""
    told = json.loads((left / "told.json").read_text())
    anchors = [Anchor("the last checkpoint given out", told["note"].encode())] if told["note"] else []
    sent: list[list[str]] = told["sent"]
    with (
        closing(LedgerStore(left / "after" / "ledger.db")) as store,
        closing(VaultStore(left / "after" / "vault.db")) as keys,
    ):
        vault = Vault(keys, MASTER, now_us=NOON_US)
        found = list(store.all_entries())
        _is_what_was_sent([entry.id for entry in found], sent, told["acknowledged"])
        assert [entry.seq for entry in found] == list(range(len(found)))
        for entry in found:
            if entry.payload is not None:
                opened = vault.open(entry.payload, entry_id=entry.id, kind=entry.kind)
                assert opened.parts == {"content": content_of(entry.id, entry.at_us)}, f"{left}: {entry.id}"
        _verifies(left, anchors, len(found))

        store.write_meta("origin", SIGNER.name)
        store.write_meta("vkey", SIGNER.vkey)
        log = LogWriter(store, keep_keys=vault.keep, signer=SIGNER, seal_every_s=3_600.0)
        next_ones = [make_entry("operator", f"next-{n}", NOON_US, {"who": "op"}) for n in range(300)]
        assert log.write(next_ones) == len(found)
        log.seal()
        _verifies(left, anchors, len(found) + 300)
    return len(found)


def _is_what_was_sent(ids: list[str], sent: list[list[str]], acknowledged: int) -> None:
    """Every acknowledged batch is there, in its place; of the last one handed over, all or nothing."""
    certain = [entry_id for batch in sent[:acknowledged] for entry_id in batch]
    perhaps = [entry_id for batch in sent[acknowledged:] for entry_id in batch]
    assert len(sent) <= acknowledged + 1
    assert ids in (certain, certain + perhaps)


def _verifies(left: Path, anchors: list[Anchor], records: int) -> None:
    with closing(LedgerReader(left / "after" / "ledger.db")) as reader:
        verdict = verify(reader, [Verifier(SIGNER.vkey)], anchors=anchors)
    assert verdict.ok, f"{left}: {verdict.findings}"
    assert verdict.records == records


def test_whenever_the_power_goes_what_was_acknowledged_is_there_and_verifies(tmp_path: Path) -> None:
    records = [judge(left) for left in lived(tmp_path, range(30))]

    assert max(records) > 1_000, "some lives are long"
    assert min(records) == 0, "and some end before anything is written"


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_the_power_may_go_five_hundred_times(tmp_path: Path) -> None:
    records = [judge(left) for left in lived(tmp_path, range(1_000, 1_500))]

    assert sum(one > 0 for one in records) > 250


def test_a_disk_whose_syncs_are_lies_is_found_out(tmp_path: Path) -> None:
    """The judgement is worth something: on such a disk nothing can hold, and it says so."""
    lives = [
        left
        for left in lived(tmp_path, range(30, 45), lies=True)
        if json.loads((left / "told.json").read_text())["acknowledged"]
    ]

    for left in lives:
        with pytest.raises((AssertionError, NightproofError)):
            judge(left)

    assert len(lives) > 5


def test_the_disk_notes_all_that_sqlite_does(tmp_path: Path) -> None:
    """Nothing goes past the disk: what was synced and everything since, taken together, is the real file."""
    told = [json.loads((left / "told.json").read_text())["unnoticed"] for left in lived(tmp_path, range(5))]

    assert told == [[]] * 5


if __name__ == "__main__":
    live_and_leave(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])), lies=sys.argv[4] == "lies")
