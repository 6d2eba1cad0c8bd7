"""The alerts' keeper without a server: a disk that takes nothing, a room that cannot be asked, a log that is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from nightproof.audit.ledger import AuditUnavailable
from nightproof.base.conditions import Condition
from nightproof.settings.settings import AlertSettings, NotifySettings, Settings
from nightproof.steer.oncall import OnCall, Readings
from nightproof.storage.alert_store import AlertStore, Change
from nightproof.storage.sqlite import StorageUnavailable
from nightproof.watch.alerts.rules import Promise
from nightproof.watch.conditions import Conditions, Question
from nightproof.watch.meters import Meters
from tests.receivers import Hook, hook


class FullDisk(AlertStore):
    """A store on a disk that may be full."""

    is_full = False

    def apply(self, changes: Iterable[Change]) -> None:
        """Keep changes, or refuse."""
        if self.is_full:
            raise StorageUnavailable("the disk is full")
        super().apply(changes)


class Watched:
    """An OnCall whose rooms say what the test says."""

    def __init__(self, folder: Path, one: Hook) -> None:
        self.conditions: Sequence[Condition] = ()
        self.recorded: list[dict[str, Any]] = []
        self.is_log_closed = False
        self.store = FullDisk(folder / "alerts.db")
        settings = Settings(
            alerts=AlertSettings(every_s=0.05, scale=0.01, instance="here"),
            notify=NotifySettings(webhook=one.url, within_s=2.0, backoff_first_s=0.05, backoff_most_s=0.1),
        )
        self.on_call = OnCall(
            settings,
            self.store,
            meters=Meters(),
            read=lambda: Readings(
                promises=[Promise(service="loans", availability=0.999)], conditions=self.conditions
            ),
            note=self._note,
            address=lambda: "http://here:1",
        )

    async def _note(self, kind: str, **facts: Any) -> None:
        if self.is_log_closed:
            raise AuditUnavailable("the log is closed")
        self.recorded.append({"kind": kind, **facts})

    def break_it(self) -> None:
        """Make something wrong."""
        self.conditions = [Condition(failure="disk_low", since_s=0.0, detail="0 MB free")]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test on a loop."""
    asyncio.run(work())


async def until(holds: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Wait on the loop until it holds."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


def test_a_disk_that_takes_nothing_keeps_no_alert_from_its_receiver_and_catches_up_later(tmp_path: Path):
    async def work() -> None:
        with hook() as one:
            watched = Watched(tmp_path, one)
            await watched.on_call.start()
            watched.store.is_full = True
            watched.break_it()
            await until(lambda: bool(one.alerts("firing", "NightproofDiskLow")))
            assert watched.store.read().alerts == []
            watched.store.is_full = False
            await until(lambda: len(watched.store.read().alerts) > 0)
            await until(lambda: watched.store.read().parcels == [])
            await watched.on_call.stop()
            assert len(one.alerts("firing", "NightproofDiskLow")) == 1

    run(work)


def test_what_the_audit_log_does_not_take_is_recorded_when_it_does_also_by_the_next_run(tmp_path: Path):
    async def work() -> None:
        with hook() as one:
            watched = Watched(tmp_path, one)
            watched.is_log_closed = True
            await watched.on_call.start()
            watched.break_it()
            await until(lambda: bool(one.alerts("firing", "NightproofDiskLow")))
            await watched.on_call.stop()
            assert watched.recorded == []

            again = Watched(tmp_path, one)
            again.break_it()
            await again.on_call.start()
            await until(lambda: len(again.recorded) >= 2)
            await again.on_call.stop()

        told = [(entry["failure"], entry["before"], entry["state"]) for entry in again.recorded]
        assert told == [("disk_low", "quiet", "pending"), ("disk_low", "pending", "firing")]
        # The stop may come between a message and the note that it was taken: it is then sent once more, by its id.
        assert len({got.headers["webhook-id"] for got in one.took}) == 1

    run(work)


def test_a_receiver_that_is_not_set_any_more_is_waited_for_no_longer(tmp_path: Path):
    async def work() -> None:
        with hook() as old, hook() as new:
            old.answers = 500
            watched = Watched(tmp_path, old)
            await watched.on_call.start()
            watched.break_it()
            await until(lambda: len(old.refused) > 0)
            await watched.on_call.stop()
            assert len(watched.store.path.read_bytes()) > 0

            again = Watched(tmp_path, new)
            again.break_it()
            await again.on_call.start()
            await until(lambda: again.store.read().parcels == [])
            await again.on_call.stop()

    run(work)


def test_a_room_that_cannot_be_asked_is_itself_what_is_wrong_and_hides_no_other():
    def broken() -> Iterable[Condition]:
        raise RuntimeError("gone")

    asked = Conditions()
    disk = Condition(failure="disk_low", detail="low")
    questions = [
        Question("ledger", ("audit_unavailable",), broken),
        Question("upkeep", ("disk_low",), lambda: [disk]),
    ]

    first, unread = asked.ask(questions, now_s=10.0)
    second, _ = asked.ask(questions, now_s=20.0)
    third, _ = asked.ask([Question("upkeep", ("disk_low",), list)], now_s=30.0)

    assert {one.failure for one in first} == {"disk_low", "watch_blind"}
    assert unread == ["audit_unavailable"]
    assert {one.since_s for one in second} == {10.0}, "since when is remembered"
    assert third == []
