"""Find what a killed run left open: streams whose opening is recorded and whose ending is not."""

from __future__ import annotations

from nightproof.audit.record import OPENED
from nightproof.storage.ledger_protocol import LedgerReading
from nightproof.storage.ledger_rows import Query

MOST_TOLD = 500
_MOST_OPEN_US = 15 * 60 * 1_000_000
"""A stream ends with its deadline, which no service may set beyond ten minutes."""
_PAGE = 500


def unfinished_streams(reader: LedgerReading) -> list[str]:
    """Return the ids of streams that were opened shortly before the log's end and have no ending, newest first."""
    last = reader.search(Query(most=1))
    if not last:
        return []
    since_us = last[0].at_us - _MOST_OPEN_US
    found: list[str] = []
    before: int | None = None
    while len(found) < MOST_TOLD:
        page = reader.search(Query(kind=OPENED, since_us=since_us, before_seq=before, most=_PAGE))
        found += [entry.id for entry in page if all(one.kind == OPENED for one in reader.by_id(entry.id))]
        if len(page) < _PAGE:
            break
        before = page[-1].seq
    return found[:MOST_TOLD]
