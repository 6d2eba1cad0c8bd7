"""The pool by itself, with real workers: how it starts, stops, and judges workers that speak nonsense."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import DeclarationError
from nightproof.settings.settings import WorkerSettings
from nightproof.workers.engine import Job, Outcome, Waiter
from nightproof.workers.pool import Pool
from nightproof.workers.suspects import REFUSALS
from tests.callers import is_alive
from tests.serving import SERVICES


class Watched:
    """A pool on the moody service, and what it told."""

    def __init__(self, mood: Path) -> None:
        self.events: list[tuple[str, str]] = []
        self.poison: list[bytes] = []
        self.mood = mood
        self.pool = Pool(
            SERVICES / "moody",
            release="test",
            settings=WorkerSettings(restarts=1_000, backoff_most_s=0.5),
            on_poison=lambda job: self.poison.append(job.input),
            observe=lambda event, **named: self.events.append((event, str(named.get("reason", "")))),
        )

    def send(self, *records: object, within_s: float = 10.0) -> Waiter:
        """Submit records; the waiter's future is done when all are answered."""
        waiter = Waiter(asyncio.get_running_loop().create_future())
        jobs = [
            Job(orjson.dumps(record), monotonic_s() + within_s, waiter, place=place)
            for place, record in enumerate(records)
        ]
        for job in jobs:
            waiter.add(job)
        self.pool.submit(jobs)
        return waiter

    async def ask(self, *records: object, within_s: float = 10.0) -> list[Outcome]:
        """Submit records and wait for what becomes of them."""
        waiter = self.send(*records, within_s=within_s)
        await asyncio.wait_for(waiter.future, within_s + 5)
        return waiter.outcomes

    async def until(self, count: int) -> None:
        """Wait for so many loaded workers."""
        while len(self.pool.snapshot().pids) < count:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(tmp_path: Path, mood: str = "") -> AsyncIterator[Watched]:
    """Start a pool; at the end none of its processes may be left."""
    (tmp_path / "mood").write_text(mood)
    watched = Watched(tmp_path / "mood")
    await watched.pool.start()
    try:
        yield watched
    finally:
        pids = watched.pool.process_pids()
        await watched.pool.stop()
        assert not any(map(is_alive, pids))


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_a_stop_while_spares_load_leaves_no_process_behind_and_answers_at_once(tmp_path: Path):
    async def run() -> tuple[list[Outcome], Outcome]:
        async with running(tmp_path) as watched:
            waiting = watched.send(*({"x": float(one)} for one in range(3)))
            await watched.pool.stop()
            late = await watched.ask({"x": 9.0}, within_s=1.0)
            assert waiting.future.done()
            assert not watched.pool.is_ready()
            return waiting.outcomes, late[0]

    outcomes, late = asyncio.run(run())

    assert {one.failure for one in outcomes} <= {"", "shutting_down"}
    assert late.failure == "shutting_down"


def test_a_start_that_is_given_up_leaves_no_process_behind(tmp_path: Path):
    async def run() -> list[int]:
        (tmp_path / "mood").write_text("load_hangs")
        watched = Watched(tmp_path / "mood")
        task = asyncio.create_task(watched.pool.start())
        while not any(watched.pool.process_pids()):
            await asyncio.sleep(0.01)
        pids = watched.pool.process_pids()
        task.cancel()
        await asyncio.wait([task])
        return pids

    assert not any(map(is_alive, asyncio.run(run())))


def test_a_load_that_fails_is_raised_with_its_own_words(tmp_path: Path):
    async def run() -> None:
        async with running(tmp_path, "load_raises"):
            raise AssertionError("it cannot have started")

    with pytest.raises(DeclarationError, match=r"model\.bin is not there"):
        asyncio.run(run())


@pytest.mark.parametrize("act", ["babble", "hang_up", "die"])
def test_a_record_that_makes_workers_break_their_word_is_poison_like_one_that_crashes_them(
    tmp_path: Path, act: str
):
    async def run() -> Watched:
        async with running(tmp_path) as watched:
            await watched.until(2)
            mates = [{"x": 1.0}, {"x": 2.0, "act": act}, {"x": 3.0}]
            told = await watched.ask(*mates)
            assert [orjson.loads(told[0].output), told[1].failure, orjson.loads(told[2].output)] == [
                {"y": 2.0},
                "poison_input",
                {"y": 6.0},
            ]
            await watched.until(2)
            return watched

    watched = asyncio.run(run())

    assert watched.poison == [orjson.dumps({"x": 2.0, "act": act})]
    assert watched.events.count(("worker_gone", "model_crash")) == 3, "with its mates, and twice alone"


def test_a_verdict_falls_only_while_golden_cases_hold(tmp_path: Path):
    async def run() -> tuple[list[Outcome], Watched]:
        async with running(tmp_path) as watched:
            await watched.until(2)
            watched.mood.write_text("wrong")  # from now on no worker passes its golden cases
            told = await watched.ask({"x": 2.0, "act": "die"}, within_s=1.5)
            return told, watched

    told, watched = asyncio.run(run())

    assert told[0].failure == "model_crash"
    assert watched.poison == []


def test_a_record_that_runs_over_its_time_again_and_again_costs_no_worker_in_the_end(tmp_path: Path):
    async def run() -> tuple[list[Outcome], list[Outcome], Watched]:
        async with running(tmp_path) as watched:
            await watched.until(2)
            slow = {"x": 2.0, "act": "hang"}
            while (
                "slow_record",
                "",
            ) not in watched.events:  # where the machine is slow too, it is not blamed yet
                await watched.ask(*({"x": float(one)} for one in range(20)))
                await watched.ask(slow)
                await watched.until(2)
            killed = watched.events.count(("worker_gone", "model_timeout"))
            told = await watched.ask({"act": "hang", "x": 2.0})
            mates = await watched.ask({"x": 3.0}, slow, {"x": 4.0, "act": "hang"})
            assert watched.events.count(("worker_gone", "model_timeout")) - killed == 2, (
                "for the other record only"
            )
            return told, mates, watched

    told, mates, watched = asyncio.run(asyncio.wait_for(run(), 60))

    assert told == [REFUSALS["over_time"]]
    assert [mates[0].failure, mates[1].failure, mates[2].failure] == ["", "model_timeout", "model_timeout"]
    assert watched.poison == []


def test_a_record_whose_worker_was_stopped_from_outside_is_not_blamed_for_the_time(tmp_path: Path):
    async def run() -> Watched:
        async with running(tmp_path) as watched:
            await watched.until(2)
            await watched.ask(*({"x": float(one)} for one in range(20)))
            waiter, stopped = watched.send({"x": 2.0, "act": "hang"}), set[int]()
            while not waiter.future.done():
                pid = waiter.jobs[0].worker_pid
                if pid and pid not in stopped:
                    stopped.add(pid)
                    os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(0.01)
            assert len(stopped) == 2, "it was tried twice"
            await watched.until(2)
            watched.mood.write_text("healed")
            (answer,) = await watched.ask({"x": 2.0, "act": "hang"})
            assert orjson.loads(answer.output) == {"y": 4.0}
            return watched

    watched = asyncio.run(asyncio.wait_for(run(), 60))

    assert ("slow_record", "") not in watched.events


def test_a_caller_that_left_is_not_worked_for(tmp_path: Path):
    async def run() -> dict[str, int]:
        async with running(tmp_path) as watched:
            await watched.until(2)
            waiters = [watched.send({"x": float(one)}) for one in range(50)]
            for waiter in waiters:
                waiter.give_up("caller_gone")
            (answer,) = await watched.ask({"x": 7.0})
            picture = watched.pool.snapshot()
            assert orjson.loads(answer.output) == {"y": 14.0}
            return {"queued": picture.queued, "bytes": picture.queue_bytes}

    assert asyncio.run(run()) == {"queued": 0, "bytes": 0}
