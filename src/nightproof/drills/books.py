"""Close the books of a stage: what the audit log holds, read as an auditor reads it, without the server's help."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightproof.storage.ledger_rows import StoredEntry
from nightproof.storage.ledger_store import LedgerReader
from nightproof.storage.statefolder import StateFolder


@dataclass
class Books:
    """What the ledger holds of one run, or of a stretch of it."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    """The leaves of requests that have an entry of their own."""
    summaries: list[dict[str, Any]] = field(default_factory=list)
    """The leaves of entries that requests share."""
    operators: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    stop: dict[str, Any] | None = None
    """What the server itself says at its end; None after a kill."""
    next_seq: int = 0
    """Where to go on reading."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of all summaries."""
        return [line for summary in self.summaries for line in summary["lines"]]

    @property
    def failures(self) -> Counter[str]:
        """How often each failure is recorded; empty for answers."""
        counted = Counter(leaf["failure"] for leaf in self.requests)
        for line in self.lines:
            counted[line["failure"]] += line["count"]
        return counted

    @property
    def total(self) -> int:
        """How many requests are recorded."""
        return len(self.requests) + sum(int(summary["count"]) for summary in self.summaries)

    def add(self, entry: StoredEntry) -> None:
        """Take in one entry of the log."""
        self.next_seq = entry.seq + 1
        leaf = json.loads(entry.leaf)
        match entry.kind:
            case "request":
                self.requests.append(leaf)
            case "summary":
                self.summaries.append(leaf)
            case "operator":
                self.operators.append(leaf)
            case "alert":
                self.alerts.append(leaf)
            case "stop":
                self.stop = leaf


def entries_of(state: Path, first_seq: int = 0) -> Iterator[StoredEntry]:
    """Go through a ledger's entries."""
    reader = LedgerReader(StateFolder.open(state, create=False).ledger_db)
    try:
        yield from reader.all_entries(first_seq)
    finally:
        reader.close()


def read_books(state: Path, first_seq: int | None = None) -> Books:
    """Read the ledger's last run; with `first_seq`, what was recorded from there on, whichever run it was."""
    books = Books(next_seq=first_seq or 0)
    for entry in entries_of(state, first_seq or 0):
        if entry.kind == "start" and first_seq is None:
            books = Books()
        books.add(entry)
    return books
