"""Close the books of a run: arrivals = endings = records, whatever happened in between (the first law)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from nightproof.storage.ledger_store import LedgerReader
from nightproof.storage.statefolder import StateFolder
from tests.serving import Served


@dataclass
class Books:
    """What the ledger holds of one run."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    """The leaves of requests that have an entry of their own."""
    summaries: list[dict[str, Any]] = field(default_factory=list)
    """The leaves of entries that requests share."""
    operators: list[dict[str, Any]] = field(default_factory=list)
    stop: dict[str, Any] | None = None
    """What the server itself says at its end; None after a kill."""

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
        return len(self.requests) + sum(summary["count"] for summary in self.summaries)


def leaves_of(state: Path, request_id: str) -> list[dict[str, Any]]:
    """Return what the ledger holds under an id."""
    return [json.loads(entry.leaf) for entry in entries_of(state) if entry.id == request_id]


def entries_of(state: Path, first_seq: int = 0) -> Iterator[Any]:
    """Go through a ledger's entries."""
    reader = LedgerReader(StateFolder.open(state, create=False).ledger_db)
    try:
        yield from reader.all_entries(first_seq)
    finally:
        reader.close()


def read_books(state: Path) -> Books:
    """Read the ledger's last run."""
    books = Books()
    for entry in entries_of(state):
        leaf = json.loads(entry.leaf)
        match entry.kind:
            case "start":
                books = Books()
            case "request":
                books.requests.append(leaf)
            case "summary":
                books.summaries.append(leaf)
            case "operator":
                books.operators.append(leaf)
            case "stop":
                books.stop = leaf
    return books


def samples(metrics: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the samples of one name from `/metrics`, by their labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name
    }


def books_balance(state: Path, served: Served) -> Books:
    """Stop a server on which nothing is running any more, and hold its counters against its ledger.

    Arrivals, endings, records, and the failures among them, are the same numbers in `/metrics`, in the
    entry of the stop, and in the ledger.
    """
    metrics = served.metrics()
    exit_code = served.stop()
    books = read_books(state)

    arrivals = sum(samples(metrics, "nightproof_arrivals_total").values())
    endings = samples(metrics, "nightproof_requests_total")
    by_failure: Counter[str] = Counter()
    for labels, count in endings.items():
        by_failure[dict(labels)["failure"]] += int(count)

    assert exit_code == 0
    assert arrivals == sum(endings.values())
    assert books.total == arrivals, (
        f"{arrivals:g} arrivals, {books.total} recorded: {by_failure} {books.failures}"
    )
    assert +books.failures == +by_failure
    assert books.stop is not None
    assert books.stop["arrivals"] == arrivals
    assert sum(books.stop["endings"].values()) == arrivals
    ids = [leaf["id"] for leaf in books.requests]
    assert len(set(ids)) == len(ids), "one request has two records"
    return books
