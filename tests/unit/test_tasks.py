"""What goes on beside the requests: nothing of it ends silently, and what is to go on goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nightproof.base.errors import StateError
from nightproof.steer import tasks as room
from nightproof.steer.tasks import Tasks
from nightproof.watch.health import Health


class Told:
    """What is told of tasks, by a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.logged: list[str] = []
        self.tasks = Tasks()
        monkeypatch.setattr(room, "monotonic_s", lambda: self.now)
        monkeypatch.setattr(
            room, "log", lambda event, **named: self.logged.append(f"{event} {named['task']}")
        )
        monkeypatch.setattr(
            room, "log_unexpected", lambda error, doing: self.logged.append(f"unexpected {doing}")
        )
        monkeypatch.setattr(room, "_AGAIN_S", 0.0)

    def why(self) -> str:
        (part,) = self.tasks.health(Health())
        assert part.ok == (not part.why)
        assert not part.needed
        return part.why

    def pages(self) -> list[str]:
        return [f"{one.failure}: {one.detail}" for one in self.tasks.conditions()]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


async def fails_by(error: Exception) -> None:
    raise error


async def rounds(number: int, holds: Callable[[], bool] = lambda: False) -> None:
    """Let the tasks run for a while."""
    for _ in range(number):
        if holds():
            return
        await asyncio.sleep(0)


def test_a_fault_of_ours_is_logged_with_its_place_told_in_health_and_pages(told: Told):
    async def story() -> None:
        told.tasks.begin(fails_by(KeyError("x")))
        await rounds(5)

    asyncio.run(story())

    assert told.logged == ["unexpected fails_by"]
    assert told.why() == "fails_by fails: KeyError"
    assert told.pages() == ["internal_error: beside the requests: fails_by: KeyError"]
    told.now += 601
    assert told.why() == ""
    assert told.pages() == []


@pytest.mark.parametrize("error", [StateError("gone", hint="-"), OSError("full")])
def test_a_disk_or_a_store_that_is_away_is_told_and_is_no_fault_of_ours(told: Told, error: Exception):
    async def story() -> None:
        told.tasks.begin(fails_by(error), name="keep")
        await rounds(5)

    asyncio.run(story())

    assert told.logged == ["task_failed keep"]
    assert told.why() == f"keep fails: {type(error).__name__}"
    assert told.pages() == []


def test_what_is_awaited_tells_its_caller_and_a_fault_of_ours_here_too(told: Told):
    async def story() -> None:
        with pytest.raises(StateError):
            await told.tasks.hold(fails_by(StateError("no", hint="-")))
        assert told.why() == ""
        with pytest.raises(KeyError):
            await told.tasks.hold(fails_by(KeyError("x")))
        await rounds(2)

    asyncio.run(story())

    assert told.why() == "fails_by fails: KeyError"


def test_what_goes_on_for_ever_is_begun_again_and_told_until_it_works(told: Told):
    done: list[str] = []

    def go_on(fails: int) -> Callable[[], Awaitable[None]]:
        async def do() -> None:
            done.append("tried")
            if len(done) <= fails:
                raise KeyError
            await asyncio.sleep(0)

        return do

    async def story() -> None:
        told.tasks.keep_up("loop", go_on(3))
        await rounds(50, lambda: len(done) == 3)
        assert told.why() == "loop fails: KeyError"
        await rounds(50, lambda: len(done) >= 6)
        await told.tasks.end()

    asyncio.run(story())

    assert len(done) >= 6
    assert told.why() == ""
    assert told.logged == ["unexpected loop"], "once, however often it was tried"


def test_what_is_insisted_on_is_done_once_and_tried_until_then(told: Told):
    tried: list[int] = []

    async def do() -> None:
        tried.append(1)
        if len(tried) < 4:
            raise StateError("away", hint="-")

    async def story() -> None:
        told.tasks.insist("resume", do)
        await rounds(50)

    asyncio.run(story())

    assert len(tried) == 4
    assert told.why() == ""


def test_the_same_is_not_begun_beside_itself_and_again_once_it_ended(told: Told):
    begun: list[int] = []

    async def story() -> None:
        gate = asyncio.Event()

        async def work(number: int) -> None:
            begun.append(number)
            await gate.wait()

        told.tasks.begin_alone("record", work(1))
        told.tasks.begin_alone("record", work(2))
        await rounds(3)
        gate.set()
        await rounds(3)
        told.tasks.begin_alone("record", work(3))
        await rounds(3)

    asyncio.run(story())

    assert begun == [1, 3]


def test_what_is_cancelled_has_not_failed(told: Told):
    async def story() -> None:
        told.tasks.begin(asyncio.sleep(60), name="sleep")
        told.tasks.keep_up("loop", lambda: asyncio.sleep(60))
        await rounds(2)
        await told.tasks.end()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(story())

    assert told.why() == ""
    assert told.logged == []
