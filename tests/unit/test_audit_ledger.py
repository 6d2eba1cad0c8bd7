"""The ledger's room on a store in memory: many entries in a commit, each waiter told once, nobody for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from nightproof.audit import messages
from nightproof.audit.ledger import AuditOutcomeUnknown, AuditUnavailable, Ledger, State
from nightproof.audit.links import ThreadLink
from nightproof.audit.record import make_entry
from nightproof.audit.writer import LogWriter
from nightproof.audit.writing import OpenLog
from nightproof.base.errors import StateError
from nightproof.settings.settings import LedgerSettings
from nightproof.storage.ledger_rows import Row
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.testing import MemoryLedgerStore


class GatedStore(MemoryLedgerStore):
    """A store whose commits wait while the gate is shut, as on a disk that stands still."""

    def __init__(self, faults: Sequence[Exception | None] = ()) -> None:
        super().__init__(faults)
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []

    def append(self, first_seq: int, rows: Sequence[Row], *rest: Any, **named: Any) -> None:
        """Commit when the gate is open."""
        self.gate.wait(10)
        self.sizes.append(len(rows))
        super().append(first_seq, rows, *rest, **named)


class Room:
    """A ledger with what it told its owner."""

    def __init__(self, *faults: Exception | None, **knobs: Any) -> None:
        self.store = GatedStore(faults)
        self.fences: list[str] = []
        self.lost = 0
        self.states: list[State] = []
        self.ledger = Ledger(
            lambda: ThreadLink(lambda tell: OpenLog(self._writer()), LedgerSettings(**knobs)),
            LedgerSettings(**knobs),
            on_fence=self.fences.append,
            on_lost=self._lose,
            on_state=lambda state, why: self.states.append(state),
        )

    def _writer(self) -> LogWriter:
        return LogWriter(self.store, keep_keys=len, signer=None, seal_every_s=1.0)  # type: ignore[arg-type]

    def _lose(self, entries: int) -> None:
        self.lost += entries

    def append(self, number: int) -> asyncio.Future[int]:
        """Append an entry."""
        return self.ledger.append(make_entry("request", f"id-{number}", number, {}))


async def outcomes(futures: list[asyncio.Future[int]]) -> list[Any]:
    """Wait for all; name the errors."""
    told = await asyncio.gather(*futures, return_exceptions=True)
    return [type(one).__name__ if isinstance(one, BaseException) else one for one in told]


def test_what_arrives_in_one_turn_shares_a_commit_and_what_arrives_meanwhile_the_next():
    async def run() -> Room:
        room = Room()
        await room.ledger.start()
        room.store.gate.clear()
        first = [room.append(number) for number in range(3)]
        await asyncio.sleep(0)
        second = [room.append(number) for number in range(3, 10)]
        room.store.gate.set()
        assert await outcomes(first + second) == list(range(10))
        await room.ledger.stop()
        return room

    room = asyncio.run(run())

    assert room.store.sizes == [3, 7]
    assert room.ledger.snapshot().commits == 2
    assert repr(room.ledger) == "<Ledger closed size=10 waiting=0>"


def test_a_commit_is_bounded_by_rows_and_bytes():
    async def run() -> Room:
        room = Room(batch_rows=4)
        await room.ledger.start()
        await outcomes([room.append(number) for number in range(10)])
        await room.ledger.stop()
        return room

    assert asyncio.run(run()).store.sizes == [4, 4, 2]


def test_a_full_disk_is_a_no_to_all_who_wait_and_the_next_commit_opens_the_ledger_again():
    async def run() -> Room:
        room = Room(StorageUnavailable("full"), batch_rows=2)
        await room.ledger.start()
        told = await outcomes([room.append(number) for number in range(5)])
        assert told == ["AuditUnavailable"] * 5
        assert not room.ledger.is_writable
        assert await outcomes([room.append(9)]) == [0]
        assert room.ledger.is_writable
        await room.ledger.stop()
        return room

    room = asyncio.run(run())

    assert room.states == ["open", "unavailable", "open", "closed"]
    assert [row.id for row in room.store.rows] == ["id-9"]


def test_entries_whose_callers_left_are_written_or_counted_as_lost():
    async def run() -> Room:
        room = Room(None, StorageUnavailable("full"))
        await room.ledger.start()
        for number in range(2):
            room.append(number).cancel()
            await outcomes([room.append(number + 10)])
        await room.ledger.stop()
        return room

    room = asyncio.run(run())

    assert [row.id for row in room.store.rows] == ["id-0", "id-10"]
    assert room.lost == 1


def test_an_outcome_that_nobody_knows_fences_the_ledger_for_good():
    async def run() -> Room:
        room = Room(StorageOutcomeUnknown("sync"), batch_rows=1)
        await room.ledger.start()
        told = await outcomes([room.append(number) for number in range(2)])
        assert told == ["AuditOutcomeUnknown", "AuditUnavailable"], "the second was never handed over"
        assert await outcomes([room.append(3)]) == ["AuditUnavailable"]
        assert not room.ledger.should_try
        await room.ledger.stop()
        return room

    room = asyncio.run(run())

    assert len(room.fences) == 1
    assert room.store.rows == []


def test_a_commit_that_stands_still_is_waited_for_no_longer_than_is_set_and_then_fenced():
    async def run() -> Room:
        room = Room(commit_slow_s=0.1)
        await room.ledger.start()
        room.store.gate.clear()
        first = room.append(1)
        await asyncio.sleep(0)
        second = room.append(2)
        assert await outcomes([first, second]) == ["AuditOutcomeUnknown", "AuditUnavailable"]
        assert not room.ledger.is_writable
        assert not room.fences
        third = room.append(3)
        assert await outcomes([third]) == ["AuditUnavailable"]
        while not room.fences:
            await asyncio.sleep(0.01)
        room.store.gate.set()
        await room.ledger.stop()
        return room

    room = asyncio.run(run())

    assert room.states == ["open", "unavailable", "fenced", "closed"]


def test_a_commit_that_stood_still_and_ended_well_opens_the_ledger_again():
    async def run() -> Room:
        room = Room(commit_slow_s=0.1)
        await room.ledger.start()
        room.store.gate.clear()
        assert await outcomes([room.append(1)]) == ["AuditOutcomeUnknown"]
        room.store.gate.set()
        while not room.ledger.is_writable:
            await asyncio.sleep(0.01)
        assert await outcomes([room.append(2)]) == [1]
        await room.ledger.stop()
        return room

    assert [row.id for row in asyncio.run(run()).store.rows] == ["id-1", "id-2"]


def test_an_owner_that_stumbles_over_the_news_leaves_no_waiter_behind():
    def stumble(state: State, why: str) -> None:
        if state == "unavailable":
            raise OSError("the log is on the same full disk")

    async def run() -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        room = Room(StorageUnavailable("full"))
        room.ledger._on_state = stumble  # type: ignore[method-assign]
        await room.ledger.start()
        first = await outcomes([room.append(1)])
        second = await outcomes([room.append(2)])
        await room.ledger.stop()
        return [*first, *second]

    assert asyncio.run(run()) == ["AuditUnavailable", 0]


def test_a_job_that_the_writer_does_not_come_to_is_refused_and_the_ledger_goes_on():
    async def run() -> None:
        room = Room(commit_slow_s=0.05)
        await room.ledger.start()
        room.store.gate.clear()
        room.append(1).cancel()
        await asyncio.sleep(0)
        job = room.ledger.do("size")
        async with asyncio.timeout(10):
            assert await outcomes([job]) == ["AuditUnavailable"]
        room.store.gate.set()
        await room.ledger.stop()

    asyncio.run(run())


class LostLink:
    """A link whose writer opens the log and is gone in the same turn of the loop."""

    pid = 0

    def start(self, heard: Any, lost: Any) -> None:
        """Say both at once."""
        heard(messages.Opened(0, "", "", None))
        lost("SIGKILL")

    def send(self, message: messages.ToWriter) -> None:
        """Drop it."""

    async def stop(self, within_s: float) -> None:
        """Nothing is left to end."""


def test_a_writer_that_ends_as_it_has_opened_the_log_lets_no_server_start():
    async def run() -> None:
        ledger = Ledger(LostLink, LedgerSettings(), on_fence=lambda why: None)
        with pytest.raises(StateError, match="ended at its start"):
            await ledger.start()

    asyncio.run(run())


@pytest.mark.parametrize("kind", [AuditUnavailable, AuditOutcomeUnknown])
def test_the_errors_say_what_to_do(kind: type[AuditUnavailable | AuditOutcomeUnknown]):
    async def run() -> BaseException | None:
        fault = StorageUnavailable("full") if kind is AuditUnavailable else StorageOutcomeUnknown("sync")
        room = Room(fault)
        await room.ledger.start()
        future = room.append(1)
        await asyncio.wait([future])
        await room.ledger.stop()
        return future.exception()

    error = asyncio.run(run())

    assert isinstance(error, kind)
    assert "Retry" in error.hint
    assert error.failure == kind.code
