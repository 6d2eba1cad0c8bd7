"""Who gets which release: the split, the named version, the way back of a canary. The pipeline on its doubles."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel

from nightproof import Subject
from nightproof.base.values import Reply
from nightproof.checks.input import InputChecks
from nightproof.checks.output import OutputChecks
from nightproof.declare import fallback
from nightproof.declare.describe import Description, describe
from nightproof.declare.service import Model, Service
from nightproof.parts.lookout import Lookout
from nightproof.pipeline.house import House, ServedRelease
from nightproof.pipeline.serve import serve
from nightproof.pipeline.story import Arrival
from nightproof.releases.routing import Split, Unit
from nightproof.releases.tally import Slack, Tally
from nightproof.testing import MemoryLedgerStore, ScriptedEngine, house_of
from nightproof.workers.decide import Forecast
from nightproof.workers.engine import Job, Outcome


class Given(BaseModel):
    x: float
    person: Annotated[str | None, Subject()] = None


class Answer(BaseModel):
    y: float


class Never(Model[Given, Answer]):
    def predict(self, batch: list[Given]) -> list[Answer]:
        raise AssertionError("the engine is a double")


DESCRIBED: Description = describe(
    Service("double", model=Never, fallbacks=[fallback.previous_release()]), Path(".")
)
GOOD = Outcome(b'{"y":1.0}')
BAD = Outcome(b'{"y":"no"}')


def release(label: str, outcome: Outcome, *, ready: bool = True) -> ServedRelease:
    """Make a loaded release that always answers the same."""
    engine = ScriptedEngine(DESCRIBED, lambda job: outcome, ready=ready)
    return ServedRelease(
        service="double",
        label=label,
        digest="",
        engine=engine,
        input_checks=InputChecks(DESCRIBED),
        output_checks=OutputChecks(DESCRIBED),
        poison=set(),
    )


async def ask(house: House, record: Any, *, version: str = "", key: str = "") -> Reply:
    """Send one request."""
    body = orjson.dumps(record)

    async def read_body(most_bytes: int) -> bytes:
        return body

    arrival = Arrival(house.ids.draw(), "double", "native", "any", read_body, None)
    arrival.version, arrival.idempotency_key = version, key
    return await serve(arrival, house)


def with_canary(
    play: Callable[[House], Any],
    *,
    share: float = 0.3,
    unit: Unit = "request",
    canary: ServedRelease | None = None,
) -> tuple[Any, Tally]:
    """Play something in a house with a canary; return what came of it and what was counted."""

    async def run() -> tuple[Any, Tally]:
        house = house_of(ScriptedEngine(DESCRIBED, _good), MemoryLedgerStore())
        served = house.services["double"]
        served.canary, served.split = canary or release("canary", GOOD), Split(share, unit, b"salt")
        lookout = Lookout()
        tally = lookout.tally = Tally(share, Slack())
        served.watcher = lookout
        await house.ledger.start()
        try:
            return await play(house), tally
        finally:
            await house.ledger.stop()

    return asyncio.run(run())


def _good(job: Job) -> Outcome:
    return GOOD


def test_a_canary_by_request_gets_its_share_and_both_are_counted():
    async def play(house: House) -> Counter[str]:
        return Counter([(await ask(house, {"x": 1.0})).release for _ in range(400)])

    by, tally = with_canary(play)

    (step,) = tally.picture().steps
    assert 80 < by["canary"] < 160
    assert (step.canary, step.live) == (by["canary"], by["test"])


def test_a_person_meets_one_release_only():
    async def play(house: House) -> dict[str, set[str]]:
        met: dict[str, set[str]] = {}
        for number in range(300):
            person = f"p{number % 30}"
            met.setdefault(person, set()).add((await ask(house, {"x": 1.0, "person": person})).release)
        return met

    met, tally = with_canary(play, unit="subject")

    assert all(len(releases) == 1 for releases in met.values())
    assert {"canary"} in met.values()
    assert {"test"} in met.values()
    (step,) = tally.picture().steps
    assert step.canary + step.live == 30, "a person counts once"


def test_a_record_about_nobody_is_split_by_its_request():
    async def play(house: House) -> set[str]:
        return {(await ask(house, {"x": 1.0})).release for _ in range(60)}

    by, _ = with_canary(play, unit="subject")

    assert by == {"canary", "test"}


def test_by_caller_one_key_meets_one_release():
    async def play(house: House) -> set[str]:
        return {(await ask(house, {"x": 1.0})).release for _ in range(60)}

    by, _ = with_canary(play, unit="caller")

    assert len(by) == 1


def test_a_version_by_name_is_that_version_and_takes_no_part_in_the_trial():
    async def play(house: House) -> list[Reply]:
        return [
            await ask(house, {"x": 1.0}, version=version) for version in ("test", "canary", "test", "older")
        ]

    (live, canary, again, older), tally = with_canary(play, share=0.5)

    assert (live.release, canary.release, again.release) == ("test", "canary", "test")
    assert (older.ending, older.failure) == ("refused", "unknown_service")
    assert (tally.picture().steps[0].canary, tally.picture().steps[0].live) == (0, 0)


def test_a_canary_without_a_worker_costs_callers_nothing_and_counts_against_it():
    async def play(house: House) -> Counter[str]:
        return Counter([(await ask(house, {"x": 1.0})).release for _ in range(100)])

    by, tally = with_canary(play, canary=release("canary", GOOD, ready=False))

    assert by == {"test": 100}
    (step,) = tally.picture().steps
    assert step.canary > 10
    assert step.events["errors"] == (step.canary, 0)


def test_where_the_canary_fails_the_live_release_is_its_previous_one():
    async def play(house: House) -> list[Reply]:
        return [await ask(house, {"x": 1.0}) for _ in range(100)]

    replies, tally = with_canary(play, canary=release("canary", BAD))

    degraded = [one for one in replies if one.ending == "degraded"]
    assert len(degraded) > 10
    assert {one.release for one in degraded} == {"canary"}
    assert {one.ending for one in replies} == {"answered", "degraded"}
    (step,) = tally.picture().steps
    assert step.events["fallbacks"] == step.events["output_checks"] == (len(degraded), 0)


def test_a_release_that_was_withdrawn_is_nobodys_fallback():
    async def run() -> tuple[Reply, Reply]:
        house = house_of(ScriptedEngine(DESCRIBED, lambda job: BAD), MemoryLedgerStore())
        served = house.services["double"]
        served.standby = release("before", GOOD)
        await house.ledger.start()
        try:
            helped = await ask(house, {"x": 1.0})
            served.standby.is_withdrawn = True
            return helped, await ask(house, {"x": 1.0})
        finally:
            await house.ledger.stop()

    helped, alone = asyncio.run(run())

    assert helped.ending == "degraded"
    assert (alone.ending, alone.failure) == ("failed", "invalid_output")


def test_what_the_new_live_release_cannot_take_in_time_the_old_one_does():
    """Just after a switch: its one warm worker is busy, and the others are still loading."""

    async def run() -> tuple[Reply, Reply]:
        house = house_of(ScriptedEngine(DESCRIBED, _good), MemoryLedgerStore())
        served = house.services["double"]
        slow = release("new", GOOD)
        slow.engine.forecast = lambda jobs: Forecast(10.0, 0.001)  # type: ignore[method-assign]
        served.overflow, served.live = served.live, slow
        await house.ledger.start()
        try:
            helped = await ask(house, {"x": 1.0})
            served.overflow = None
            return helped, await ask(house, {"x": 1.0})
        finally:
            await house.ledger.stop()

    helped, alone = asyncio.run(run())

    assert (helped.ending, helped.release) == ("answered", "test")
    assert (alone.ending, alone.failure) == ("refused", "overloaded")
