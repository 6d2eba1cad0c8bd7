"""What happens by itself: each step in its time, and none kept from it by another that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from nightproof.steer.tick import Step, Ticking
from nightproof.watch.health import Health


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.ensure_future(work)


def test_a_step_that_fails_keeps_no_other_from_being_done_and_is_told_until_it_works():
    done: list[str] = []
    is_broken = True

    def may_fail(now: float) -> None:
        if is_broken:
            raise OSError("gone")

    async def later(now: float) -> None:
        done.append("second")

    ticking = Ticking([Step("first", may_fail), Step("second", later)], begin)
    asyncio.run(ticking.tick(1.0))
    (told,) = ticking.health(Health())
    assert done == ["second"]
    assert not told.ok
    assert "first" in told.why
    assert not told.needed

    is_broken = False
    asyncio.run(ticking.tick(2.0))
    assert ticking.health(Health())[0].ok


def test_a_step_is_done_no_more_often_than_it_should_be():
    done: list[float] = []
    ticking = Ticking([Step("rare", done.append, every_s=lambda: 5.0)], begin)
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

        ticking = Ticking([Step("write", write, is_apart=True), Step("look", look)], begin)
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
