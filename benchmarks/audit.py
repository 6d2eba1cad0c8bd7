"""Measure the audit log: what a record costs, and how fast a large log is verified, proved and searched.

Everything is asked of the product's own reader in this process, each look with a connection of its own, as the server
does. "Cold" means that the file was put out of the page cache before that look.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import machine
from benchmarks.build_log import (
    BEGAN_US,
    CALLERS,
    MASTER,
    ORIGIN,
    SIGNER,
    STEP_US,
    SUBJECTS,
    Names,
    build,
    caller_of,
    entry_of,
)
from benchmarks.openloop import percentile
from nightproof.audit.ledger import Ledger
from nightproof.audit.links import ThreadLink
from nightproof.audit.seal import Verifier, check_proof_file, proof_file
from nightproof.audit.tree import inclusion_proof
from nightproof.audit.vault import Vault
from nightproof.audit.verify import verify
from nightproof.audit.writer import LogWriter
from nightproof.audit.writing import OpenLog
from nightproof.settings.settings import LedgerSettings
from nightproof.storage.ledger_rows import Query
from nightproof.storage.ledger_store import LedgerReader, LedgerStore
from nightproof.storage.vault_store import VaultStore

DEFAULT_RECORDS = 200_000
LOOKS, COLD_LOOKS = 300, 30
AT_ONCE = 64
MOST_VERIFIED = 2_000_000
"""A larger log takes minutes to verify: 10 million were verified by hand, see docs/audit.md, "What it costs"."""


@dataclass(frozen=True, kw_only=True)
class Took:
    """How long looks took, in milliseconds: right after the file was put out of memory, and one after the other."""

    p50_ms: float
    p99_ms: float
    cold_p50_ms: float
    cold_max_ms: float


@dataclass(frozen=True, kw_only=True)
class AuditFigures:
    """What one log showed."""

    records: int
    verify_per_s: float
    verify_cpu_per_s: float
    """Records verified in a second of CPU time, whatever others took."""
    verified_records: int
    bytes_per_record: float
    leaf_bytes: float
    payload_bytes: float
    proof: Took
    by_id: Took
    by_caller: Took
    by_subject: Took
    made_us: float
    """CPU of sealing and building one record, on the event loop's side."""
    kept_us: float
    """CPU of all threads for one record, made and committed, with many on the way."""
    kept_per_s: float
    commit_rows: float
    others_cores: float

    @property
    def overhead_bytes(self) -> float:
        """What a record takes on disk beyond its sealed content."""
        return self.bytes_per_record - self.payload_bytes


def measure(folder: Path, log: Path | None, records: int, say: Callable[[str], None]) -> AuditFigures:
    """Build a log, unless one is given, and measure on it."""
    if log is None:
        say(f"audit: build {records:,} records")
        log = folder / "log"
        build(log, records)
    with machine.watch_others() as others:
        say("audit: cost of a record")
        made_us = _made(folder)
        kept_us, kept_per_s, commit_rows = uvloop.run(_kept(folder))
        path = log / "ledger.db"
        with closing(LedgerReader(path)) as reader:
            size = reader.size()
            sample = reader.entries(size // 2, 1_000)
        say("audit: looks")
        looks = _looks(path, size)
        say("audit: verify")
        verified = path if size <= MOST_VERIFIED else build(folder / "verified", DEFAULT_RECORDS)
        verify_per_s, verify_cpu_per_s, verified_records = _verified(verified)
    return AuditFigures(
        records=size,
        verify_per_s=verify_per_s,
        verify_cpu_per_s=verify_cpu_per_s,
        verified_records=verified_records,
        bytes_per_record=path.stat().st_size / size,
        leaf_bytes=sum(len(one.leaf) for one in sample) / len(sample),
        payload_bytes=sum(len(one.payload or b"") for one in sample) / len(sample),
        made_us=made_us,
        kept_us=kept_us,
        kept_per_s=kept_per_s,
        commit_rows=commit_rows,
        others_cores=others.cores,
        **looks,
    )


def _verified(path: Path) -> tuple[float, float, int]:
    with closing(LedgerReader(path)) as reader:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        verdict = verify(reader, [Verifier(SIGNER.vkey)])
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    if not verdict.ok:
        raise RuntimeError(f"the log does not hold: {verdict.first_bad}")
    return verdict.records / wall_s, verdict.records / cpu_s, verdict.records


def _looks(path: Path, size: int) -> dict[str, Took]:
    chance = random.Random(7)
    with closing(LedgerReader(path)) as reader:
        ids = [reader.entries(chance.randrange(size), 1)[0].id for _ in range(LOOKS)]
    with closing(VaultStore(path.with_name("vault.db"))) as keys:
        vault = Vault(keys, MASTER, now_us=BEGAN_US)
        # `entry_of` names every tenth person only.
        people = [vault.pseudonym(f"person {chance.randrange(0, SUBJECTS, 10)}") for _ in range(LOOKS)]
    callers = [caller_of(chance.randrange(CALLERS)) for _ in range(LOOKS)]
    since = [BEGAN_US + chance.randrange(size) * STEP_US for _ in range(LOOKS)]
    span_us = max(1, size // 10) * STEP_US

    def prove(reader: LedgerReader, at: int) -> None:
        entry = reader.by_id(ids[at])[0]
        last = reader.last_checkpoint()
        if last is None:
            raise RuntimeError("the log has no checkpoint")
        path = inclusion_proof(reader, entry.seq, last.size)
        check_proof_file(proof_file(entry.leaf, entry.seq, path, last.note), [Verifier(SIGNER.vkey)])

    def find(reader: LedgerReader, at: int) -> None:
        if not reader.by_id(ids[at]):
            raise RuntimeError("a record was not found")

    def by_caller(reader: LedgerReader, at: int) -> None:
        reader.search(Query(caller=callers[at], since_us=since[at], until_us=since[at] + span_us))

    def by_subject(reader: LedgerReader, at: int) -> None:
        if not reader.search(Query(subject=people[at])):
            raise RuntimeError("a person's records were not found")

    asked = {"proof": prove, "by_id": find, "by_caller": by_caller, "by_subject": by_subject}
    return {name: _timed(path, look) for name, look in asked.items()}


def _timed(path: Path, look: Callable[[LedgerReader, int], None]) -> Took:
    def once(at: int) -> float:
        began_s = time.perf_counter()
        with closing(LedgerReader(path)) as reader:
            look(reader, at)
        return (time.perf_counter() - began_s) * 1_000

    cold = []
    for at in range(COLD_LOOKS):
        _put_out_of_memory(path)
        cold.append(once(at))
    warm = [once(at) for at in range(LOOKS)]
    return Took(
        p50_ms=percentile(warm, 0.5),
        p99_ms=percentile(warm, 0.99),
        cold_p50_ms=percentile(cold, 0.5),
        cold_max_ms=max(cold),
    )


def _put_out_of_memory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _made(folder: Path) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    with closing(VaultStore(folder / "made.db")) as keys:
        vault = Vault(keys, MASTER, now_us=BEGAN_US)
        names = Names(random.Random(1))
        for number in range(2_000):
            entry_of(number, vault, names)
        began_s = time.process_time()
        for number in range(20_000):
            entry_of(number, vault, names)
        return (time.process_time() - began_s) / 20_000 * 1e6


async def _kept(folder: Path) -> tuple[float, float, float]:
    """Append as a server does under load: 64 at once, each made when the one before it is durable.

    The writer is a thread here, a process in a server: what goes over the socket between them is not in the figure.
    """
    records, done = 30_000, 0
    keys = VaultStore(folder / "kept-vault.db")
    vault = Vault(keys, MASTER, now_us=BEGAN_US)

    def open_log(tell: object) -> OpenLog:
        store = LedgerStore(folder / "kept.db")
        store.write_meta("origin", ORIGIN)
        return OpenLog(LogWriter(store, keep_keys=vault.keep, signer=SIGNER, seal_every_s=1.0))

    settings = LedgerSettings()
    ledger = Ledger(lambda: ThreadLink(open_log, settings), settings, on_fence=lambda why: None)
    await ledger.start()
    names = Names(random.Random(2))

    async def one_caller() -> None:
        nonlocal done
        while done < records:
            number, done = done, done + 1
            await ledger.append(entry_of(number, vault, names), others=AT_ONCE)

    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_caller() for _ in range(AT_ONCE)))
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    picture = ledger.snapshot()
    await ledger.stop()
    keys.close()
    return cpu_s / records * 1e6, records / wall_s, picture.rows / max(1, picture.commits)
