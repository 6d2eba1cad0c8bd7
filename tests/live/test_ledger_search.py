"""Search by person on both stores: a page in the log's order, whatever the clock did, and quick for who has many."""

from __future__ import annotations

from nightproof.storage.ledger_rows import Query, Row
from tests.ledger_places import LedgerPlace

NOON_US = 1_800_000_000_000_000
ADA, BOB = b"a" * 16, b"b" * 16


def rows_of(count: int, *, clock_falls_back_at: int) -> list[Row]:
    """Return requests about two people in turn; the clock once falls back by half of what has passed."""
    rows = []
    for number in range(count):
        at_us = NOON_US + (number - (count // 2 if number >= clock_falls_back_at else 0)) * 1_000
        who = (ADA, BOB) if number % 10 == 0 else (ADA,) if number % 2 else (BOB,)
        rows.append(
            Row(
                f"id-{number}",
                at_us,
                "request",
                "ward",
                "r1",
                "key",
                "answered",
                "",
                None,
                b"{}",
                b"sealed",
                who,
            )
        )
    return rows


def filled(place: LedgerPlace, count: int) -> list[Row]:
    """Write that many requests; return them."""
    writer = place.writer()
    rows = rows_of(count, clock_falls_back_at=count * 3 // 4)
    writer.begin()
    writer.append(0, rows, [], b"\0" * 32, None)
    return rows


def test_a_person_is_found_in_the_order_of_the_log_page_by_page_and_within_a_time(ledger_place: LedgerPlace):
    rows = filled(ledger_place, 400)
    reader = ledger_place.reader()
    window = (NOON_US + 100_000, NOON_US + 300_000)
    for newest_first in (True, False):
        for since_us, until_us in ((None, None), window):
            asked = Query(
                subject=ADA, since_us=since_us, until_us=until_us, newest_first=newest_first, most=17
            )
            wanted = [
                seq
                for seq, row in enumerate(rows)
                if ADA in row.subjects and (since_us is None or window[0] <= row.at_us < window[1])
            ]
            found: list[int] = []
            while page := reader.search(asked):
                found += [one.seq for one in page]
                asked = asked._replace(before_seq=found[-1])

            assert found == (wanted[::-1] if newest_first else wanted)
            assert len(wanted) > 50, "more than one page, or the case says nothing"


def test_all_that_the_index_of_people_holds_is_gone_through_in_its_order(ledger_place: LedgerPlace):
    """More than a page of any store; `audit verify` reads it beside its other questions."""
    rows = filled(ledger_place, 6_000)
    reader = ledger_place.reader()

    with reader.snapshot():
        found = []
        for pair in reader.all_subjects():
            found.append(pair)
            if len(found) % 1_000 == 0:
                assert reader.count() == 6_000

    wanted = [(seq, who) for seq, row in enumerate(rows) for who in row.subjects]
    assert found == sorted(wanted, key=lambda pair: (pair[1], pair[0]))
    assert len(found) == 6_600


def test_a_page_about_a_person_is_read_off_the_index_and_not_sorted(ledger_place: LedgerPlace):
    filled(ledger_place, 4_000)
    reader = ledger_place.reader()
    statements: list[tuple[str, tuple[object, ...]]] = []
    run = reader._all  # type: ignore[attr-defined]

    def noted(statement: str, *values: object) -> object:
        statements.append((statement, values))
        return run(statement, *values)

    reader._all = noted  # type: ignore[attr-defined]
    ledger_place.spoil("ANALYZE")

    found = reader.search(Query(subject=ADA, since_us=NOON_US, most=20))

    assert len(found) == 20
    plan = ledger_place.plan_of(*statements[-1])
    assert "Sort" not in plan, plan
    assert "TEMP B-TREE" not in plan, plan
