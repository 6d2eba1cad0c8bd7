"""Places where a ledger can be kept, so that one test is run on every store.

A test takes the fixture `ledger_place` and opens writers and readers through it. A place starts empty, and
closes what was opened through it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import apsw
import psycopg
import pytest

from nightproof.base.errors import NightproofError
from nightproof.storage.ledger_postgres import SCHEMA, PostgresLedger, PostgresReader
from nightproof.storage.ledger_protocol import LedgerReading, LedgerWriting
from nightproof.storage.ledger_store import LedgerReader, LedgerStore


class LedgerPlace(Protocol):
    """A place for one ledger, of one kind of store."""

    kind: str
    """sqlite or postgres."""

    def writer(self) -> LedgerWriting:
        """Open the ledger for writing, creating it where it is new."""

    def reader(self) -> LedgerReading:
        """Open another connection to it, that only reads."""

    def plan_of(self, statement: str, values: tuple[object, ...] = ()) -> str:
        """Return the database's own plan for a statement, as text."""

    def spoil(self, statement: str, values: tuple[object, ...] = ()) -> None:
        """Change the stored rows behind the store's back, as somebody with the database's password could.

        Placeholders are `?` in every store.
        """

    def clean_up(self) -> None:
        """Close whatever was opened and remove what was made."""


class SQLitePlace:
    """A ledger in a file of a temporary folder."""

    kind = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.db"
        self._opened: list[LedgerReading] = []

    def writer(self) -> LedgerStore:
        opened = LedgerStore(self.path)
        self._opened.append(opened)
        return opened

    def reader(self) -> LedgerReader:
        opened = LedgerReader(self.path)
        self._opened.append(opened)
        return opened

    def plan_of(self, statement: str, values: tuple[object, ...] = ()) -> str:
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            found = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        finally:
            connection.close()
        return "\n".join(str(row[3]) for row in found)

    def spoil(self, statement: str, values: tuple[object, ...] = ()) -> None:
        connection = apsw.Connection(str(self.path))
        try:
            connection.execute(statement, values)
        finally:
            connection.close()

    def clean_up(self) -> None:
        for one in self._opened:
            with suppress(NightproofError):
                one.close()


class PostgresPlace:
    """A ledger in a database of its own."""

    kind = "postgres"

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[LedgerReading] = []

    def writer(self) -> PostgresLedger:
        opened = PostgresLedger(self.url)
        self._opened.append(opened)
        return opened

    def reader(self) -> PostgresReader:
        opened = PostgresReader(self.url)
        self._opened.append(opened)
        return opened

    def plan_of(self, statement: str, values: tuple[object, ...] = ()) -> str:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"SET search_path TO {SCHEMA}".encode())
            found = connection.execute(f"EXPLAIN {statement}".encode(), values).fetchall()
        return "\n".join(str(row[0]) for row in found)

    def spoil(self, statement: str, values: tuple[object, ...] = ()) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"SET search_path TO {SCHEMA}".encode())
            connection.execute(statement.replace("?", "%s").encode(), values)

    def clean_up(self) -> None:
        for one in self._opened:
            with suppress(NightproofError):
                one.close()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LedgerPlace]:
    """Give an empty place for a ledger, of each kind of store in turn."""
    place: LedgerPlace
    if request.param == "postgres":
        place = PostgresPlace(request.getfixturevalue("postgres").url)
    else:
        place = SQLitePlace(tmp_path)
    yield place
    place.clean_up()
