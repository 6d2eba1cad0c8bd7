"""Many deadlines on one timer: never early, a little late, and not at all once taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from nightproof.base.clock import monotonic_s
from nightproof.base.deadlines import Deadlines


def run(work: Callable[[Deadlines, list[tuple[str, float]]], Awaitable[Any]]) -> list[tuple[str, float]]:
    """Run the work with deadlines and a list of what was called, and how late."""
    called: list[tuple[str, float]] = []

    async def all_of_it() -> None:
        await work(Deadlines(), called)

    asyncio.run(all_of_it())
    return called


def note(called: list[tuple[str, float]], name: str, at_s: float) -> Callable[[], None]:
    """Return what notes its name and how late it was called."""
    return lambda: called.append((name, monotonic_s() - at_s))


async def until(called: list[tuple[str, float]], count: int) -> None:
    """Wait until so many were called."""
    async with asyncio.timeout(10):
        while len(called) < count:
            await asyncio.sleep(0.005)


def test_what_is_due_is_called_once_in_its_order_and_never_early_whatever_was_set_before():
    async def work(deadlines: Deadlines, called: list[tuple[str, float]]) -> None:
        now = monotonic_s()
        owners = [object() for _ in range(3)]
        for owner, name, in_s in zip(owners, ("far", "first", "second"), (60.0, 0.02, 0.05), strict=True):
            deadlines.set(now + in_s, owner, note(called, name, now + in_s))
        await until(called, 2)
        await asyncio.sleep(0.02)
        assert repr(deadlines) == "<Deadlines 1 set>"

    called = run(work)

    assert [name for name, _ in called] == ["first", "second"]
    assert all(late_s >= 0 for _, late_s in called)


def test_what_is_taken_back_is_not_called_and_holds_nothing():
    async def work(deadlines: Deadlines, called: list[tuple[str, float]]) -> None:
        due_s = monotonic_s() + 0.03
        kept, left = object(), object()
        deadlines.set(due_s, kept, note(called, "kept", due_s))
        tick = deadlines.set(due_s, left, note(called, "left", due_s))
        deadlines.take_back(tick, left)
        deadlines.take_back(tick, left)  # again is fine
        assert repr(deadlines) == "<Deadlines 1 set>"
        await until(called, 1)
        await asyncio.sleep(0.03)

    assert [name for name, _ in run(work)] == ["kept"]


def test_one_long_past_is_called_at_once_and_one_set_meanwhile_too():
    async def work(deadlines: Deadlines, called: list[tuple[str, float]]) -> None:
        first, second = object(), object()
        now = monotonic_s()

        def again() -> None:
            called.append(("first", 0.0))
            deadlines.set(monotonic_s() + 0.01, second, note(called, "second", now))

        deadlines.set(now - 1, first, again)  # long past: at once
        await until(called, 2)

    assert [name for name, _ in run(work)] == ["first", "second"]
