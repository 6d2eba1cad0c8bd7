"""`python -m benchmarks.build_log FOLDER --records 10000000`: write an audit log of any size, once, to measure on.

Every record goes the product's own way (sealed, hashed, into tree, tiles, indexes and checkpoints); only the commits
are larger than a server's, so that millions are a matter of minutes. 10 million need about 20 GB.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nightproof.audit.record import Entry, make_entry
from nightproof.audit.seal import Signer
from nightproof.audit.vault import Part, Vault
from nightproof.audit.writer import LogWriter
from nightproof.storage.ledger_store import LedgerStore
from nightproof.storage.vault_store import VaultStore

ORIGIN = "benchmark/log"
SIGNER = Signer(ORIGIN, bytes(range(32)))
MASTER = bytes(32)
CALLERS = 200
SUBJECTS = 2_000
BEGAN_US = 1_700_000_000_000_000
STEP_US = 9_000
"""Between two records: ten million of them are 25 hours at 110 requests a second."""
BATCH = 2_000
SEAL_EVERY = 50_000
_INPUT = (
    b'{"income":52000.0,"age":41,"debt":3200.5,"purpose":"car","months":36,"as_of":"2026-11-22T03:00:00Z"}'
)
_OUTPUT = b'{"approve":true,"confidence":0.8731,"reason":"income covers the rate"}'


@dataclass(frozen=True)
class Names:
    """How records are told apart, the same each time for the same number."""

    chance: random.Random

    def id_of(self, number: int, at_us: int) -> str:
        """Return an id of the product's form."""
        return f"{at_us // 1_000:011x}-{self.chance.getrandbits(80):020x}"


def caller_of(number: int) -> str:
    """Return the key of a record's caller: some call often, most seldom."""
    return f"key_{(number * 2_654_435_761 % CALLERS) ** 2 // CALLERS:012x}"


def entry_of(number: int, vault: Vault, names: Names) -> Entry:
    """Build a record as the pipeline does: nine in ten answered, one in ten about a named person."""
    at_us = BEGAN_US + number * STEP_US
    entry_id, caller = names.id_of(number, at_us), caller_of(number)
    is_refused = number % 12 == 0
    subjects = (vault.pseudonym(f"person {number * 7 % SUBJECTS}"),) if number % 10 == 0 else ()
    content = b'{"items":[{"input":%b,"output":%b}]}' % (_INPUT, b"null" if is_refused else _OUTPUT)
    sealed = vault.seal(
        [Part("content", content, subjects)], entry_id=entry_id, kind="request", caller=caller, at_us=at_us
    )
    facts = {
        "service": "credit" if number % 4 else "limits",
        "release": "2026.11",
        "protocol": "native",
        "key": caller,
        "ending": "refused" if is_refused else "answered",
        "failure": "invalid_input" if is_refused else "",
        "decisions": [],
        "stages_us": {"accept": 210, "admit": 38, "call": 590 + number % 90, "check": 44},
        "batch": 1 + number % 8,
        "predict_us": 140 + number % 60,
        "queue_us": 30,
        "worker": 6_642,
    }
    return make_entry(
        "request", entry_id, at_us, facts, payload=sealed.payload, subjects=subjects, keys=sealed.new_keys
    )


def build(folder: Path, records: int, say: Callable[[str], None] = lambda text: None) -> Path:
    """Write the log into a folder, or go on with one that is too short; return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ledger.db"
    began_s = told_s = time.monotonic()
    with closing(VaultStore(folder / "vault.db")) as keys, closing(LedgerStore(path)) as store:
        vault = Vault(keys, MASTER, now_us=BEGAN_US)
        store.write_meta("origin", ORIGIN)
        store.write_meta("vkey", SIGNER.vkey)
        log = LogWriter(store, keep_keys=vault.keep, signer=SIGNER, seal_every_s=3_600.0)
        names = Names(random.Random(log.size))
        first_size = log.size
        while log.size < records:
            numbers = range(log.size, min(log.size + BATCH, records))
            log.write([entry_of(number, vault, names) for number in numbers])
            if log.size % SEAL_EVERY == 0:
                log.seal()
                store.checkpoint("truncate")
            if time.monotonic() - told_s > 10:
                told_s = time.monotonic()
                rate = (log.size - first_size) / (told_s - began_s)
                say(f"{log.size:,} of {records:,} records, {rate:,.0f}/s")
        log.seal()
        store.checkpoint("truncate")
    return path


def main() -> int:
    """Build the log that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build_log", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=10_000_000)
    asked = parser.parse_args()
    build(asked.folder, asked.records, lambda text: print(text, file=sys.stderr, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
