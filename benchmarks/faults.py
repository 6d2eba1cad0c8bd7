"""Break one thing under load, and say what the guilty caller, the others and the ledger saw.

The faults come from outside the product: a record that makes the benchmark's own model hang or die, and
SIGKILL to the server. Callers are real connections in a closed loop; every outcome is written down.
"""

import asyncio
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import uvloop

from benchmarks import machine, ours
from benchmarks.caller import Crowd, Outcome, ask_once
from benchmarks.make_model import records
from benchmarks.openloop import name_status
from benchmarks.systems import NotRun, Running

CALLERS = 32
MAGIC_FIELD, MAGIC_VALUE = "mean_radius", 9_999.0
"""The same value as in `services/measurements.py`."""
PATIENCE_S = 14.0
BEFORE_S = 3.0
KILL_CALLERS = 64


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """What one poisonous record did."""

    guilty_saw: str
    guilty_after_s: float
    guilty_again_saw: str
    workers_before: int
    workers_gone: int
    first_gone_after_s: float | None
    workers_lost_by_second_try: int
    others_before: dict[str, int]
    others_after: dict[str, int]
    others_lost: int
    good_per_s_before: float
    good_per_s_first_second: float
    good_per_s_after: float
    longest_gap_before_s: float
    longest_gap_s: float


def magic_record() -> dict[str, float]:
    """Give the record that the misbehaving services misbehave on."""
    return {**records()[0], MAGIC_FIELD: MAGIC_VALUE}


def _told(outcome: Outcome) -> str:
    try:
        answer = json.loads(outcome.body)
    except ValueError:
        return name_status(outcome.status)
    failure = answer.get("failure") or (answer.get("degraded") or {}).get("failure") or ""
    return f"{name_status(outcome.status)} {failure}".strip()


def _longest_gap_s(good: Sequence[Outcome], since_s: float, until_s: float) -> float:
    """Give the longest stretch without a good answer in the window."""
    ends = [since_s, *sorted(one.ended_s for one in good if since_s < one.ended_s < until_s), until_s]
    return max(later - earlier for earlier, later in pairwise(ends))


def _rate(good: Sequence[Outcome], since_s: float, until_s: float) -> float:
    return sum(since_s <= one.ended_s < until_s for one in good) / (until_s - since_s)


async def _poison(target: Running, workers: set[int], *, pause_s: float, watch_s: float) -> Poisoned:
    loop = asyncio.get_running_loop()
    gone: dict[int, float] = {}

    async def watch_workers() -> None:
        while len(gone) < len(workers):
            for pid in workers - gone.keys():
                if not machine.is_alive(pid):
                    gone[pid] = loop.time()
            await asyncio.sleep(0.005)

    crowd = Crowd(target.port, target.requests(), pause_s=pause_s)
    poison = target.request(magic_record())
    started = loop.time()
    crowd.start(CALLERS)
    await asyncio.sleep(BEFORE_S)
    watching = asyncio.create_task(watch_workers())
    fault_s = loop.time()
    guilty_task = asyncio.create_task(ask_once(target.port, poison, PATIENCE_S))
    await asyncio.sleep(watch_s)
    after_s = loop.time()
    guilty = await guilty_task
    gone_first = dict(gone)
    again = await ask_once(target.port, poison, PATIENCE_S)
    await asyncio.sleep(0.5)
    await crowd.finish(3.0)
    watching.cancel()
    # The second try is a test of its own: what the others saw is judged before it.
    others = [one for one in crowd.outcomes if one.ended_s < after_s]
    good = [one for one in others if one.is_good]
    before = [one for one in others if one.ended_s < fault_s]
    after = [one for one in others if one.ended_s >= fault_s]
    return Poisoned(
        guilty_saw=_told(guilty),
        guilty_after_s=guilty.ended_s - guilty.begun_s,
        guilty_again_saw=_told(again),
        workers_before=len(workers),
        workers_gone=len(gone_first),
        first_gone_after_s=min(gone_first.values()) - fault_s if gone_first else None,
        workers_lost_by_second_try=len(gone) - len(gone_first),
        others_before=dict(Counter(name_status(one.status) for one in before)),
        others_after=dict(Counter(name_status(one.status) for one in after)),
        others_lost=sum(not one.is_good for one in after),
        good_per_s_before=_rate(good, started + 1.0, fault_s),
        good_per_s_first_second=_rate(good, fault_s, fault_s + 1.0),
        good_per_s_after=_rate(good, fault_s + 1.0, after_s),
        longest_gap_before_s=_longest_gap_s(good, started + 1.0, fault_s),
        longest_gap_s=_longest_gap_s(good, fault_s, after_s),
    )


def poison(target: Running, *, pause_s: float, watch_s: float) -> Poisoned:
    """Send one poisonous record among 32 callers, watch, and send it once more."""
    workers = ours.worker_pids(target)
    if not workers:
        raise NotRun(f"{target.title}: no worker process was found")
    return uvloop.run(_poison(target, workers, pause_s=pause_s, watch_s=watch_s))


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What was acknowledged before SIGKILL, and what the ledger holds after it."""

    acknowledged: int
    found: int
    missing: int
    workers_left: int
    is_intact: bool


async def _load_and_kill(target: Running, seconds: float) -> list[Outcome]:
    crowd = Crowd(target.port, target.requests(), keep_body=True)
    crowd.start(KILL_CALLERS)
    await asyncio.sleep(seconds)
    ours.kill_at_once(target)
    await asyncio.sleep(0.2)
    await crowd.finish(1.0)
    return [one for one in crowd.outcomes if one.is_good]


def kill(target: Running, seconds: float) -> Killed:
    """Load the server, kill it with SIGKILL, and compare acknowledged ids with the ledger's."""
    if target.state is None:
        raise NotRun(f"{target.title} keeps no ledger")
    workers = ours.worker_pids(target)
    acknowledged = {json.loads(one.body)["id"] for one in uvloop.run(_load_and_kill(target, seconds))}
    found, is_intact = _read_ledger(target.state / "ledger.db")
    return Killed(
        acknowledged=len(acknowledged),
        found=len(found),
        missing=len(acknowledged - found),
        workers_left=sum(machine.is_alive(pid) for pid in workers),
        is_intact=is_intact,
    )


def _read_ledger(path: Path) -> tuple[set[str], bool]:
    """Read the ids from a copy, so that recovery of the log touches nothing of the server's."""
    with tempfile.TemporaryDirectory() as folder:
        for part in path.parent.glob(f"{path.name}*"):
            if not part.name.endswith("-shm"):
                shutil.copy(part, folder)
        connection = sqlite3.connect(Path(folder) / path.name)
        try:
            ids = {row[0] for row in connection.execute("SELECT id FROM entries")}
            is_intact = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            connection.close()
    return ids, is_intact
