"""The writer's program after one that was killed: what that one had in hand is found, written once, or in doubt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nightproof.audit import messages
from nightproof.audit.messages import ChannelClosed, FromWriter, ToWriter
from nightproof.audit.record import Entry, make_entry
from nightproof.audit.writer import LogWriter
from nightproof.audit.writing import OpenLog, write_until_closed
from nightproof.settings.settings import LedgerSettings
from nightproof.storage.ledger_rows import Head, Row, StoredEntry
from nightproof.storage.sqlite import StorageUnavailable
from nightproof.testing import MemoryLedgerStore


class Script:
    """A channel that gives what is written down, and keeps what is told."""

    def __init__(self, *asked: ToWriter) -> None:
        self._asked = list(asked)
        self.told: list[FromWriter] = []

    def receive(self, timeout_s: float | None) -> ToWriter | None:
        """Give the next line of the script."""
        if not self._asked:
            raise ChannelClosed
        return self._asked.pop(0)

    def send(self, message: FromWriter) -> None:
        """Keep it."""
        self.told.append(message)


class LateStore(MemoryLedgerStore):
    """A store in which a batch of a writer that is gone shows once its lock is had, some times not to be had."""

    def __init__(self, late: Sequence[Row], *, refusals: int = 0) -> None:
        super().__init__()
        self._late = list(late)
        self._refusals = refusals

    def begin(self) -> Head:
        """Wait for the lock: then what it guarded is there."""
        if self._refusals:
            self._refusals -= 1
            raise StorageUnavailable("The database cannot be reached.", hint="Start it.")
        if late := self._late:
            self._late = []
            super().append(self.size(), late, [], None, None)
        return super().begin()

    def by_id(self, entry_id: str) -> list[StoredEntry]:
        """Return what is there under an id."""
        return [StoredEntry(seq, *row[:-1]) for seq, row in enumerate(self.rows) if row.id == entry_id]


def entry(name: str) -> Entry:
    """Build an entry."""
    return make_entry("request", name, 1, {})


def told_after(store: MemoryLedgerStore, *asked: ToWriter) -> list[FromWriter]:
    """Run the writer on a store until the script ends; return what it said after it had opened the log."""
    channel = Script(*asked)
    writer = LogWriter(store, keep_keys=len, signer=None, seal_every_s=1.0)  # type: ignore[arg-type]
    write_until_closed(channel, lambda tell: OpenLog(writer), LedgerSettings())
    assert isinstance(channel.told[0], messages.Opened)
    return channel.told[1:]


def ids_in(store: MemoryLedgerStore) -> list[str]:
    """Return the ids of all entries, in order."""
    return [row.id for row in store.rows]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_batch_that_is_given_again_is_looked_for_behind_the_lock_and_written_if_it_is_not_there(
    is_there: bool,
):
    batch, after = [entry("a"), entry("b")], [entry("c")]
    store = LateStore([one.row for one in batch] if is_there else [])

    told = told_after(store, messages.Write(7, batch, is_again=True), messages.Write(8, after))

    assert told == [messages.Written(7, 0), messages.Written(8, 2)]
    assert ids_in(store) == ["a", "b", "c"]


@pytest.mark.parametrize(("refusals", "is_known"), [(2, True), (3, False)])
def test_a_log_that_cannot_be_asked_about_a_batch_is_no_certain_no(refusals: int, is_known: bool):
    """The writer before may have written it: who said no would be wrong."""
    batch = [entry("a")]
    store = LateStore([one.row for one in batch], refusals=refusals)

    told = told_after(store, messages.Write(7, batch, is_again=True), messages.Write(8, [entry("b")]))

    if is_known:
        assert told == [messages.Written(7, 0), messages.Written(8, 1)]
    else:
        assert told == [messages.NotWritten(7, False, "The database cannot be reached. Start it.")]
        assert ids_in(store) == [], "and nothing is written after it"


def test_a_new_batch_is_a_certain_no_where_the_log_cannot_be_reached():
    told = told_after(LateStore([], refusals=1), messages.Write(7, [entry("a")]))

    assert told == [messages.NotWritten(7, True, "The database cannot be reached.")]
