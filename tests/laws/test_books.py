"""The law above all: arrivals = endings = ledger entries + counts in summaries, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from nightproof.audit.ledger import AuditUnavailable
from nightproof.audit.record import make_entry
from nightproof.declare import fallback
from nightproof.declare.describe import Description, describe
from nightproof.declare.service import Model, Service
from nightproof.pipeline.house import House
from nightproof.pipeline.serve import serve
from nightproof.pipeline.story import Arrival
from nightproof.settings.settings import LedgerSettings, LimitSettings, Settings
from nightproof.steer.tick import flush_summaries
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.testing import MemoryLedgerStore, ScriptedEngine, house_of
from nightproof.workers.engine import Job, Outcome

LAW = settings(max_examples=80, deadline=None)
GOOD = orjson.dumps({"y": 1.0})


class Given(BaseModel):
    x: float
    act: str = "answer"


class Answer(BaseModel):
    y: float


class Never(Model[Given, Answer]):
    def predict(self, batch: list[Given]) -> list[Answer]:
        raise AssertionError("the engine is a double")


def described(*fallbacks: fallback.Fallback) -> Description:
    """Describe a service with these fallbacks."""
    return describe(Service("double", model=Never, fallbacks=list(fallbacks)), Path("."))


PLAIN = described()
SOFT = described(fallback.rule(lambda given: Answer(y=0.0)), fallback.last_good())
OUTCOMES = {
    "answer": Outcome(GOOD),
    "crash": Outcome(failure="model_crash"),
    "poison": Outcome(failure="poison_input"),
    "time": Outcome(failure="model_timeout"),
    "raise": Outcome(failure="model_error", detail="ValueError"),
    "nonsense": Outcome(b"\xff not JSON"),
    "nan": Outcome(b'{"y": NaN}'),
    "misshapen": Outcome(b'{"y": "seven"}'),
}


@dataclass(frozen=True)
class Sent:
    """One request: what it carries, when it comes, when it leaves."""

    acts: tuple[str, ...]
    many: bool
    token: str | None
    key: str
    garbage: bool
    timeout_ms: float | None
    leaves_after: int | None
    """Turns of the loop until its caller hangs up."""


sent = st.builds(
    Sent,
    acts=st.lists(st.sampled_from([*OUTCOMES, "silence", "invalid"]), min_size=1, max_size=3).map(tuple),
    many=st.booleans(),
    token=st.sampled_from(["a", "a", "a", "unknown", None]),
    key=st.sampled_from(["", "", "k1", "k2"]),
    garbage=st.sampled_from([False, False, False, True]),
    timeout_ms=st.sampled_from([None, None, 0.001, 20.0]),
    leaves_after=st.none() | st.integers(0, 25),
)


class Rooms:
    """The house with its doubles, and the requests that were sent into it."""

    def __init__(self, description: Description, faults: list[Exception | None], most_inside: int) -> None:
        self.store = MemoryLedgerStore(faults)
        self.engine = ScriptedEngine(description, self._play)
        self.house: House = house_of(
            self.engine,
            self.store,
            settings=Settings(
                limits=LimitSettings(max_in_flight=most_inside), ledger=LedgerSettings(batch_rows=2)
            ),
        )
        find = self.house.find_caller
        self.house.find_caller = lambda token: None if token == "unknown" else find(token)

    def _play(self, job: Job) -> Outcome | None:
        if job.rule >= 0:
            return Outcome(GOOD)
        return OUTCOMES.get(orjson.loads(job.input)["act"])

    def arrival(self, one: Sent) -> Arrival:
        """Make the request."""
        records: list[Any] = [
            {"x": "bad"} if act == "invalid" else {"x": 1.0, "act": act} for act in one.acts
        ]
        body = b"{" if one.garbage else orjson.dumps(records if one.many else records[0])

        async def read_body(most_bytes: int) -> bytes:
            await asyncio.sleep(0)
            return body

        return Arrival(
            id=self.house.ids.draw(),
            service="double",
            protocol="native",
            token=one.token,
            read_body=read_body,
            decode=None,
            client="127.0.0.1",
            idempotency_key=one.key,
            timeout_ms=one.timeout_ms if "silence" not in one.acts else 20.0,
        )

    async def send(self, one: Sent) -> str:
        """Send a request and wait for its reply or until its caller leaves; return the ending it was told."""
        task = asyncio.create_task(serve(self.arrival(one), self.house))
        for _ in range(one.leaves_after if one.leaves_after is not None else 0):
            await asyncio.sleep(0)
        if one.leaves_after is not None:
            task.cancel()
        await asyncio.wait([task])
        return "" if task.cancelled() else task.result().ending

    async def rest(self) -> None:
        """Bring everything to its end, as a stop does."""
        self.store.faults.clear()
        while True:
            try:  # behind the commit that may be on its way, and may fail still
                await self.house.ledger.append(make_entry("mark", "mark", 0, {}))
                break
            except AuditUnavailable:
                continue
        await flush_summaries(self.house.summaries, self.house.ledger, self.house.ids)
        await self.house.ledger.stop()

    def recorded(self) -> Counter[str]:
        """Count the endings in the ledger; those in summaries are refusals, or answers that were lost."""
        counts: Counter[str] = Counter()
        for row in self.store.rows:
            kind, leaf = row.kind, row.leaf
            facts = orjson.loads(leaf)
            if kind == "request":
                counts[facts["ending"]] += 1
            elif kind == "summary":
                counts["shared"] += facts["count"]
        return counts


def holds_nothing(rooms: Rooms) -> bool:
    """Say whether every place, key and job is given back."""
    limiter = rooms.house.limiter.snapshot()
    return (
        (limiter.in_flight, limiter.bytes_inside) == (0, 0)
        and not rooms.house.running_keys
        and not any(job.waiter is not None for job in rooms.engine.jobs)
    )


@LAW
@given(
    requests=st.lists(sent, min_size=1, max_size=12),
    soft=st.booleans(),
    most_inside=st.sampled_from([1, 3, 100]),
    full=st.lists(st.booleans(), max_size=6),
)
def test_every_arrival_ends_once_and_is_in_the_ledger_once(
    requests: list[Sent], soft: bool, most_inside: int, full: list[bool]
):
    async def run() -> tuple[Rooms, list[str]]:
        faults = [StorageUnavailable("the disk is full") if one else None for one in full]
        rooms = Rooms(SOFT if soft else PLAIN, faults, most_inside)
        await rooms.house.ledger.start()
        told = await asyncio.gather(*map(rooms.send, requests))
        await rooms.rest()
        return rooms, told

    rooms, told = asyncio.run(run())

    meters, recorded = rooms.house.meters.snapshot(), rooms.recorded()
    answered = sum(ending in ("answered", "degraded") for ending in told)
    assert meters.arrivals <= len(requests), "one that left before its first step was never here"
    assert sum(meters.endings.values()) == meters.arrivals
    assert sum(recorded.values()) == meters.arrivals
    assert recorded["answered"] + recorded["degraded"] >= answered, "what was told is recorded"
    assert holds_nothing(rooms)
    assert not rooms.house.summaries


@LAW
@given(requests=st.lists(sent, min_size=1, max_size=8), good_commits=st.integers(0, 4))
def test_after_a_commit_of_which_nobody_knows_no_answer_goes_out(requests: list[Sent], good_commits: int):
    async def run() -> tuple[Rooms, list[str], str]:
        faults: list[Exception | None] = [None] * good_commits
        rooms = Rooms(PLAIN, [*faults, StorageOutcomeUnknown("the sync failed")], 100)
        await rooms.house.ledger.start()
        told = [await rooms.send(one) for one in requests]
        state = rooms.house.ledger.snapshot().state
        await rooms.house.ledger.stop()
        return rooms, told, state

    rooms, told, state = asyncio.run(run())

    meters, recorded = rooms.house.meters.snapshot(), rooms.recorded()
    assert sum(meters.endings.values()) == meters.arrivals
    assert recorded["answered"] >= told.count("answered")
    assert recorded["answered"] <= good_commits
    assert state == "open" or not rooms.store.faults
    assert holds_nothing(rooms)
