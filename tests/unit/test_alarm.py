"""Alarms end waits in time, name the clock, and never swallow a cancellation from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nightproof.base.clock import monotonic_s
from nightproof.base.deadlines import Deadlines
from nightproof.workers.upstream.alarm import Alarm, Clock
from nightproof.workers.upstream.values import UpstreamFault


def run(work: Callable[[Deadlines], Awaitable[None]]) -> None:
    """Run work with deadlines; none is left set."""

    async def all_of_it() -> None:
        deadlines = Deadlines()
        await work(deadlines)
        assert repr(deadlines) == "<Deadlines 0 set>"

    asyncio.run(all_of_it())


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def test_a_wait_that_is_over_in_time_rings_nothing():
    async def work(deadlines: Deadlines) -> None:
        with Alarm(deadlines, Clock(monotonic_s() + 5, "late")):
            await asyncio.sleep(0)

    run(work)


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_wait_that_is_not_over_ends_by_its_clocks_name(is_cut: bool):
    async def work(deadlines: Deadlines) -> None:
        began_s = monotonic_s()
        with pytest.raises(UpstreamFault) as fault, Alarm(deadlines, Clock(began_s + 0.05, "late", is_cut)):
            await for_ever()
        assert (fault.value.failure, fault.value.detail, fault.value.was_cut) == (
            "upstream_timeout",
            "late",
            is_cut,
        )
        assert 0.05 <= monotonic_s() - began_s < 1
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "what comes after it can wait again"
        await asyncio.sleep(0)

    run(work)


def test_the_clock_can_be_put_off_and_the_last_one_counts():
    async def work(deadlines: Deadlines) -> None:
        began_s = monotonic_s()
        with (
            pytest.raises(UpstreamFault, match="second"),
            Alarm(deadlines, Clock(began_s + 0.02, "first")) as alarm,
        ):
            alarm.set(Clock(began_s + 0.06, "second"))
            await for_ever()
        assert monotonic_s() - began_s >= 0.06

    run(work)


def test_a_cancellation_from_outside_stays_one():
    async def work(deadlines: Deadlines) -> None:
        async def waits() -> None:
            with Alarm(deadlines, Clock(monotonic_s() + 60, "late")):
                await for_ever()

        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    run(work)


def test_both_at_once_is_a_cancellation():
    async def work(deadlines: Deadlines) -> None:
        async def waits() -> None:
            with Alarm(deadlines, Clock(monotonic_s() + 60, "late")) as alarm:
                alarms.append(alarm)
                await for_ever()

        alarms: list[Alarm] = []
        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        alarms[0].ring()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    run(work)


def test_alarms_nest_and_the_inner_one_does_not_end_the_outer():
    async def work(deadlines: Deadlines) -> None:
        with Alarm(deadlines, Clock(monotonic_s() + 60, "outer")):
            with (
                pytest.raises(UpstreamFault, match="inner"),
                Alarm(deadlines, Clock(monotonic_s() + 0.01, "inner")),
            ):
                await for_ever()
            await asyncio.sleep(0)

    run(work)
