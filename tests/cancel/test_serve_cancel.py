"""Stop a request at every point where it waits: it ends once, is recorded once, and gives back what it held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from nightproof.audit.ledger import AuditUnavailable
from nightproof.audit.record import Entry
from nightproof.base.errors import Fault, Refusal
from nightproof.base.roles import Role
from nightproof.base.values import Caller
from nightproof.declare import fallback
from nightproof.declare.describe import Description, describe
from nightproof.declare.service import Model, Service
from nightproof.pipeline.accept import decode_native
from nightproof.pipeline.house import House
from nightproof.pipeline.record import record_abandoned
from nightproof.pipeline.serve import serve
from nightproof.pipeline.story import Arrival, Decoded, Story
from nightproof.settings.settings import LedgerSettings, Settings
from nightproof.steer.tick import flush_summaries
from nightproof.storage.ledger_rows import Row
from nightproof.storage.sqlite import StorageUnavailable
from nightproof.testing import MemoryLedgerStore, ScriptedEngine, house_of
from nightproof.workers.engine import Job, Outcome

GOOD = orjson.dumps({"y": 1.0})
TURNS = 40
"""More turns of the loop than any request of these takes."""


class Given(BaseModel):
    x: float


class Answer(BaseModel):
    y: float


class Never(Model[Given, Answer]):
    def predict(self, batch: list[Given]) -> list[Answer]:
        raise AssertionError("the engine is a double")


def described(*fallbacks: fallback.Fallback) -> Description:
    """Describe a service with these fallbacks."""
    return describe(Service("double", model=Never, fallbacks=list(fallbacks)), Path("."))


class GatedStore(MemoryLedgerStore):
    """A store whose commits wait until the gate opens, so that a request can be met waiting for its record."""

    def __init__(self, faults: list[Exception | None]) -> None:
        super().__init__(faults)
        self.gate = threading.Event()

    def append(self, first_seq: int, rows: Sequence[Row], *rest: Any, **named: Any) -> None:
        """Commit when the gate is open."""
        self.gate.wait(10)
        super().append(first_seq, rows, *rest, **named)


def by_turns(outcome_of: Callable[[Job], Outcome], turns: int = 3) -> Callable[[Job], Outcome | None]:
    """Script: answer after a few turns of the loop, so that there is something to wait for."""

    def script(job: Job) -> None:
        loop = asyncio.get_running_loop()

        def turn(left: int) -> None:
            if left:
                loop.call_soon(turn, left - 1)
            elif job.waiter is not None:
                job.waiter.tell(job, outcome_of(job))

        turn(turns)

    return script


@dataclass
class Case:
    """One request in its rooms: what it carries, and what it will meet."""

    records: Any = field(default_factory=lambda: {"x": 1.0})
    fallbacks: tuple[fallback.Fallback, ...] = ()
    outcome_of: Callable[[Job], Outcome] = lambda job: Outcome(GOOD)
    faults: tuple[Exception | None, ...] = ()
    fault: Fault | None = None
    token: str | None = "key"
    in_thread: bool = False
    ending: str = "answered"


def crash_then_rule(job: Job) -> Outcome:
    """Fail at the model, answer by the rule."""
    return Outcome(GOOD) if job.rule >= 0 else Outcome(failure="model_crash")


def full() -> StorageUnavailable:
    """Make the error of a full disk."""
    return StorageUnavailable("the disk is full")


CASES = {
    "one record": Case(),
    "a list": Case(records=[{"x": 1.0}, {"x": "bad"}, {"x": 3.0}]),
    "an answer by a rule": Case(
        fallbacks=(fallback.rule(lambda given: Answer(y=0.0)),), outcome_of=crash_then_rule, ending="degraded"
    ),
    "an answer by a constant": Case(
        fallbacks=(fallback.constant(Answer(y=0.0)),),
        outcome_of=lambda job: Outcome(failure="model_crash"),
        ending="degraded",
    ),
    "no answer": Case(outcome_of=lambda job: Outcome(failure="model_timeout"), ending="failed"),
    "an invalid input": Case(records={"x": "seven"}, ending="refused"),
    "refused by the gateway": Case(
        fault=Refusal("Not JSON.", failure="unsupported_media_type"), ending="refused"
    ),
    "without a key": Case(token=None, ending="refused"),
    "a body decoded in a thread": Case(in_thread=True),
    "a ledger that is full": Case(faults=(full(),), ending="failed"),
}


@dataclass
class Books:
    """What the rooms know of the one request, when all has come to rest."""

    arrivals: int
    endings: dict[str, int]
    entries: int
    shared: int
    in_flight: int
    bytes_inside: int
    running_keys: int
    waiting_jobs: int


class Stage:
    """The rooms, with one request on its way."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.store = GatedStore(list(case.faults))
        self.engine = ScriptedEngine(described(*case.fallbacks), by_turns(case.outcome_of))
        self.house: House = house_of(self.engine, self.store)
        self.in_thread = threading.Event()
        self.decoding = asyncio.Event()

    def arrival(self) -> Arrival:
        """Make the request; its body takes two turns of the loop to arrive."""
        body = orjson.dumps(self.case.records)
        loop = asyncio.get_running_loop()

        async def read_body(most_bytes: int) -> bytes:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return body if not self.case.in_thread else body + b" " * 200_000

        def decode(body: bytes, description: Description) -> Decoded:
            loop.call_soon_threadsafe(self.decoding.set)
            self.in_thread.wait(10)
            return decode_native(body, self.house.services["double"].live.input_checks)

        return Arrival(
            id=self.house.ids.draw(),
            service="double",
            protocol="native",
            token=self.case.token,
            read_body=read_body,
            decode=decode if self.case.in_thread else None,
            client="127.0.0.1",
            idempotency_key="once",
            fault=self.case.fault,
        )

    async def rest(self) -> Books:
        """Let everything come to its end and look at the books."""
        self.in_thread.set()
        self.store.gate.set()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await self.house.ledger.stop()
        meters, limiter = self.house.meters.snapshot(), self.house.limiter.snapshot()
        return Books(
            arrivals=meters.arrivals,
            endings=meters.endings,
            entries=len(self.store.rows),
            shared=sum(self.house.summaries.values()),
            in_flight=limiter.in_flight,
            bytes_inside=limiter.bytes_inside,
            running_keys=len(self.house.running_keys),
            waiting_jobs=sum(job.waiter is not None for job in self.engine.jobs),
        )


def check(books: Books) -> None:
    """One ending, one entry or one line of a summary, and nothing held."""
    assert books.arrivals in (0, 1), "stopped before its first step, it has never been here"
    assert sum(books.endings.values()) == books.arrivals
    assert books.entries + books.shared == books.arrivals
    assert (books.in_flight, books.bytes_inside) == (0, 0)
    assert books.running_keys == 0
    assert books.waiting_jobs == 0


async def stopped(case: Case, when: Callable[[Stage], Awaitable[None]], *, open_gate: bool = False) -> Books:
    """Run the request, stop it at some moment, let the rest happen."""
    stage = Stage(case)
    await stage.house.ledger.start()
    if open_gate:
        stage.store.gate.set()
    task = asyncio.create_task(serve(stage.arrival(), stage.house))
    await when(stage)
    task.cancel()
    await asyncio.wait([task])
    return await stage.rest()


def after(turns: int) -> Callable[[Stage], Awaitable[None]]:
    """Wait for so many turns of the loop."""

    async def wait(stage: Stage) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    return wait


@pytest.mark.parametrize("name", CASES)
def test_left_alone_it_ends_as_it_should(name: str):
    async def run() -> tuple[Books, str]:
        stage = Stage(CASES[name])
        await stage.house.ledger.start()
        stage.store.gate.set()
        stage.in_thread.set()
        reply = await serve(stage.arrival(), stage.house)
        return await stage.rest(), reply.ending

    books, ending = asyncio.run(run())

    check(books)
    assert books.arrivals == 1
    assert ending == CASES[name].ending


@pytest.mark.parametrize("name", CASES)
def test_wherever_it_is_stopped_it_ends_once_and_holds_nothing(name: str):
    async def run() -> list[Books]:
        return [await stopped(CASES[name], after(turns)) for turns in range(TURNS)]

    every = asyncio.run(run())

    for books in every:
        check(books)
    assert every[0].arrivals == 0
    assert every[-1].arrivals == 1


@pytest.mark.parametrize("name", CASES)
def test_stopped_while_its_record_is_being_committed_it_ends_once(name: str):
    async def run() -> list[Books]:
        return [await stopped(CASES[name], after(turns), open_gate=True) for turns in range(0, 4 * TURNS, 3)]

    for books in asyncio.run(run()):
        check(books)


def test_stopped_while_a_thread_decodes_its_body_it_is_abandoned():
    async def run() -> Books:
        return await stopped(CASES["a body decoded in a thread"], lambda stage: stage.decoding.wait())

    books = asyncio.run(run())

    check(books)
    assert books.endings == {"abandoned": 1}
    assert books.entries == 1


def test_stopped_in_the_turn_in_which_its_record_fails_it_is_counted_once():
    async def when(stage: Stage) -> None:
        await after(TURNS)(stage)
        stage.store.gate.set()
        while stage.house.ledger.snapshot().state == "open":
            await asyncio.sleep(0)

    books = asyncio.run(stopped(CASES["a ledger that is full"], when))

    check(books)


def test_a_fault_of_ours_ends_as_internal_error_and_holds_nothing():
    class Broken(ScriptedEngine):
        """Raises where it should queue."""

        def submit(self, jobs: Any) -> None:
            """Fail."""
            raise RuntimeError("a fault of ours")

    async def run() -> tuple[Books, str]:
        stage = Stage(Case())
        stage.engine = Broken(described(), lambda job: None)
        stage.house = house_of(stage.engine, stage.store)
        await stage.house.ledger.start()
        stage.store.gate.set()
        reply = await serve(stage.arrival(), stage.house)
        return await stage.rest(), reply.failure

    books, failure = asyncio.run(run())

    check(books)
    assert failure == "internal_error"
    assert books.endings == {"failed": 1}


def test_a_job_that_nobody_answers_ends_with_the_deadline():
    async def run() -> tuple[Books, str]:
        stage = Stage(Case())
        stage.engine = ScriptedEngine(described(), lambda job: None)
        stage.house = house_of(stage.engine, stage.store)
        await stage.house.ledger.start()
        stage.store.gate.set()
        arrival = stage.arrival()
        arrival.timeout_ms = 30
        reply = await serve(arrival, stage.house)
        return await stage.rest(), reply.failure

    books, failure = asyncio.run(run())

    check(books)
    assert failure == "deadline_exceeded"


def test_left_while_the_ledger_is_closed_it_is_counted_into_a_summary():
    """A closed ledger says no at once, so there is nothing left to cancel and nobody else to count it."""

    async def run() -> tuple[dict[str, int], int]:
        stage = Stage(Case())
        story = Story.of(stage.arrival())
        story.caller = Caller("key_1", Role.PREDICT)

        record_abandoned(story, stage.house)
        return stage.house.meters.snapshot().endings, sum(stage.house.summaries.values())

    endings, counted = asyncio.run(run())

    assert endings == {"abandoned": 1}
    assert counted == 1


@pytest.mark.parametrize("fault", [None, full()], ids=["it commits", "it is full"])
@pytest.mark.parametrize("leaves", [False, True])
def test_a_commit_that_stood_still_is_in_the_books_once_whatever_becomes_of_it(
    fault: Exception | None, leaves: bool
):
    async def run() -> Books:
        stage = Stage(Case(faults=(fault,)))
        settings = Settings(ledger=LedgerSettings(commit_slow_s=0.3))
        stage.house = house_of(stage.engine, stage.store, settings=settings)
        await stage.house.ledger.start()
        task = asyncio.create_task(serve(stage.arrival(), stage.house))
        if leaves:
            await after(TURNS)(stage)
            task.cancel()
            await asyncio.wait([task])
        while stage.house.ledger.snapshot().state == "open":
            await asyncio.sleep(0.01)
        if not leaves:
            assert (await task).failure == "audit_outcome_unknown"
        return await stage.rest()

    check(asyncio.run(run()))


def test_a_summary_whose_commit_stood_still_is_written_once():
    async def run() -> tuple[int, int]:
        store = GatedStore([])
        settings = Settings(ledger=LedgerSettings(commit_slow_s=0.3))
        house = house_of(ScriptedEngine(described(), lambda job: None), store, settings=settings)
        await house.ledger.start()
        house.summaries["overloaded", "double", "key"] = 300
        await flush_summaries(house.summaries, house.ledger, house.ids)
        store.gate.set()
        await house.ledger.stop()
        return len(store.rows), sum(house.summaries.values())

    assert asyncio.run(run()) == (1, 0)


class GatedSpill:
    """A side file whose writes wait until the gate opens, and fail where they are told to."""

    has_room = True

    def __init__(self, fault: Exception | None) -> None:
        self.gate, self.fault = threading.Event(), fault
        self.entries: list[Entry] = []
        self.is_asked = asyncio.Event()

    async def append(self, entry: Entry) -> None:
        """Write in a thread, which nothing stops."""
        self.is_asked.set()
        await asyncio.to_thread(self.gate.wait, 10)
        if self.fault is not None:
            raise self.fault
        self.entries.append(entry)


@pytest.mark.parametrize(
    "fault", [None, AuditUnavailable("the spill is full")], ids=["it is taken", "it is not"]
)
def test_stopped_while_its_record_is_spilled_it_is_in_the_books_once(fault: Exception | None):
    async def run() -> tuple[Books, int]:
        stage = Stage(Case(faults=(full(), full())))
        spill = GatedSpill(fault)
        stage.house.spill = spill  # type: ignore[assignment]
        stage.house.spilling_services.add("double")
        await stage.house.ledger.start()
        stage.store.gate.set()
        arrival = stage.arrival()
        arrival.idempotency_key = ""
        task = asyncio.create_task(serve(arrival, stage.house))
        await spill.is_asked.wait()
        task.cancel()
        await asyncio.wait([task])
        spill.gate.set()
        while spill.fault is None and not spill.entries:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return await stage.rest(), len(spill.entries)

    books, spilled = asyncio.run(run())

    assert books.entries + books.shared + spilled == books.arrivals == 1
    assert (books.in_flight, books.running_keys) == (0, 0)
