"""What happens by itself: each step in its time, and none kept from it by another that fails."""

from __future__ import annotations

import asyncio

from nightproof.steer.tasks import Tasks
from nightproof.steer.tick import Step, Ticking
from nightproof.watch.health import Health


def test_a_step_that_fails_keeps_no_other_from_being_done_and_is_told_until_it_works():
    done: list[str] = []
    is_broken = True

    def may_fail(now: float) -> None:
        if is_broken:
            raise OSError("gone")

    async def later(now: float) -> None:
        done.append("second")

    tasks = Tasks()
    ticking = Ticking([Step("first", may_fail), Step("second", later)], tasks)
    asyncio.run(ticking.tick(1.0))
    (told,) = tasks.health(Health())
    assert done == ["second"]
    assert not told.ok
    assert "first" in told.why
    assert not told.needed

    is_broken = False
    asyncio.run(ticking.tick(2.0))
    assert tasks.health(Health())[0].ok


def test_a_step_is_done_no_more_often_than_it_should_be():
    done: list[float] = []
    ticking = Ticking([Step("rare", done.append, every_s=lambda: 5.0)], Tasks())
    for now in range(12):
        asyncio.run(ticking.tick(float(now)))
    assert done == [0.0, 5.0, 10.0]


def test_a_step_that_waits_for_a_disk_holds_nobody_up_and_is_not_begun_twice():
    done: list[str] = []

    async def story() -> None:
        disk = asyncio.Event()

        async def write(now: float) -> None:
            done.append("begun")
            await disk.wait()
            done.append("written")

        def look(now: float) -> None:
            done.append("looked")

        ticking = Ticking([Step("write", write, is_apart=True), Step("look", look)], Tasks())
        for now in range(3):
            await ticking.tick(float(now))
            await asyncio.sleep(0)
        assert done.count("begun") == 1
        assert done.count("looked") == 3
        disk.set()
        await asyncio.sleep(0)
        await ticking.tick(3.0)
        await asyncio.sleep(0)
        assert done.count("begun") == 2

    asyncio.run(story())


def test_what_a_step_finds_may_change_when_it_is_done_next():
    """A witness that does not answer is asked less and less often."""
    pause_s = 1.0
    done: list[float] = []

    async def ask(now: float) -> None:
        nonlocal pause_s
        done.append(now)
        pause_s *= 2

    ticking = Ticking([Step("ask", ask, every_s=lambda: pause_s)], Tasks())
    for now in range(16):
        asyncio.run(ticking.tick(float(now)))

    assert done == [0.0, 2.0, 6.0, 14.0]
