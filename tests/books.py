"""Close the books of a run: arrivals = endings = records, whatever happened in between (the first law)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from nightproof.drills.books import Books, entries_of, read_books
from tests.serving import Served

__all__ = ["Books", "books_balance", "entries_of", "leaves_of", "read_books", "samples"]


def leaves_of(state: Path, request_id: str) -> list[dict[str, Any]]:
    """Return what the ledger holds under an id."""
    return [json.loads(entry.leaf) for entry in entries_of(state) if entry.id == request_id]


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
