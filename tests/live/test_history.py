"""The meters' history on real files: damage, full and locked files, clocks that step, restarts, kills."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nightproof.cli.timeline import from_file
from nightproof.drills.stage import SHIM
from nightproof.storage.sqlite import StorageUnavailable
from nightproof.storage.watch_store import StoredWindow, WatchStore, open_or_begin_anew
from nightproof.watch.history import History, merge_stored
from nightproof.watch.meters import Meters
from nightproof.watch.timeline import Asked
from nightproof.watch.windows import KEEP, Window
from tests.serving import Served, run_nightproof, serving, wait_until

NOON_S = 1_800_000_000
QUICK = {"NIGHTPROOF_HISTORY_WRITE_EVERY_S": "0.5"}


def opened(path: Path, *, most_bytes: int = 16 << 20) -> WatchStore:
    return open_or_begin_anew(path, merge=merge_stored, keep=KEEP, most_bytes=most_bytes)[0]


def one_window(
    at_s: int, *, scope: str = "a", span_s: int = 1, count: int = 1, weight: int = 0
) -> StoredWindow:
    import msgspec

    counts = {"answered": count} | {f"failure.{place}": 1 for place in range(weight)}
    return StoredWindow(span_s, scope, at_s, msgspec.msgpack.encode(Window(at_s, span_s, scope, 1, counts)))


class Past:
    """A history on a file, with meters that count one answer per second."""

    def __init__(self, path: Path, *, may_write: Callable[[], bool] = lambda: True) -> None:
        self.meters = Meters()
        self.history = History(
            path,
            most_bytes=16 << 20,
            totals=self.meters.totals,
            values=lambda: {"": {}, "a": {"queue_depth": 1.0}},
            may_write=may_write,
        )

    def live(self, *clock: int) -> None:
        """Live through one second per reading of the wall clock."""
        for at_s in clock:
            self.meters.count_story(
                service="a", release="r", ending="answered", failure="",
                duration_s=0.01, stages_us=[], items=[],
            )  # fmt: skip
            self.history.sample(at_s=at_s)

    async def answered(self, *, until_s: int, since_s: float = 900, span_s: int = 1) -> int:
        """Count the answers that are remembered."""
        found = await self.history.select(since_s=since_s, until_s=until_s, span_s=span_s, scope="a")
        return sum(one.counts.get("answered", 0) for one in found)


def test_what_is_kept_is_there_after_a_restart_and_goes_on_in_the_same_minute(tmp_path: Path):
    async def run(first_s: int) -> int:
        past = Past(tmp_path / "watch.db")
        past.live(*range(first_s, first_s + 11))
        await past.history.close()
        store = opened(tmp_path / "watch.db")
        minutes = store.select(60, since_s=NOON_S, until_s=NOON_S, scope="a")
        store.close()
        assert len(minutes) == 1
        return json.loads(json.dumps(merge_counts(minutes[0])))["answered"]

    assert asyncio.run(run(NOON_S)) == 11
    assert asyncio.run(run(NOON_S + 30)) == 22


def merge_counts(stored: bytes) -> dict[str, int]:
    from nightproof.watch.history import decode

    return decode(stored).counts


def test_what_waits_to_be_written_is_seen_too(tmp_path: Path):
    async def run() -> tuple[int, int]:
        past = Past(tmp_path / "watch.db")
        past.live(*range(NOON_S, NOON_S + 6))
        unwritten = await past.answered(until_s=NOON_S + 6)
        await past.history.keep()
        past.live(*range(NOON_S + 6, NOON_S + 9))
        both = await past.answered(until_s=NOON_S + 9)
        await past.history.close()
        return unwritten, both

    assert asyncio.run(run()) == (6, 9)


@pytest.mark.parametrize(
    "clock",
    [
        [0, 1, 2, 3, 1, 2, 3, 4, 5],  # two seconds back, lived through again
        [0, 1, -3_600, -3_599, 2, 3],  # an hour back, and mended
        [0, 1, 2, 40_000_000, 40_000_001, 3, 4, 5],  # a year ahead, and mended
        [5, 5, 5, 5, 5, 5],  # stands still
    ],
    ids=["back", "an hour back", "a year ahead", "still"],
)
def test_a_clock_that_steps_loses_no_count_and_no_past(tmp_path: Path, clock: list[int]):
    async def run() -> tuple[int, int]:
        past = Past(tmp_path / "watch.db")
        past.live(*range(NOON_S - 20, NOON_S))
        await past.history.keep()
        past.live(*[NOON_S + step for step in clock])
        await past.history.keep()
        everything = await past.answered(since_s=1e6, until_s=NOON_S + 50_000_000, span_s=3_600)
        everything += await past.answered(since_s=5e7, until_s=NOON_S + 50_000_000 - 1_000_000, span_s=3_600)
        before = await past.answered(since_s=20, until_s=NOON_S - 1)
        await past.history.close()
        return everything, before

    everything, before = asyncio.run(run())

    assert everything == 20 + len(clock)
    assert before >= 19


def test_old_windows_go_by_the_order_of_writing_and_not_by_what_a_clock_once_said(tmp_path: Path):
    store = opened(tmp_path / "watch.db")
    store.add([one_window(NOON_S + 10**9)])
    store.add(one_window(NOON_S + step) for step in range(950))

    kept = store.select(1, since_s=0, until_s=NOON_S + 2 * 10**9)

    assert len(kept) == KEEP[1]
    assert merge_counts(kept[-1]) == {"answered": 1}
    assert store.select(1, since_s=NOON_S + 10**9, until_s=NOON_S + 2 * 10**9) == []
    store.close()


def test_the_file_stays_under_its_size_and_the_newest_windows_stay(tmp_path: Path):
    path = tmp_path / "watch.db"
    store = opened(path, most_bytes=1 << 20)

    for batch in range(60):
        store.add(one_window(NOON_S + batch, scope=f"s{place}", weight=200) for place in range(40))

    newest = store.select(1, since_s=NOON_S + 59, until_s=NOON_S + 59)
    store.close()
    assert path.stat().st_size <= 1 << 20
    assert len(newest) == 40


@pytest.mark.parametrize("damage", ["zeros", "text", "middle", "other program"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: str):
    path = tmp_path / "watch.db"
    store = opened(path)
    store.add(one_window(NOON_S + step, weight=50) for step in range(300))
    store.close()
    spoil(path, damage)

    async def run() -> tuple[str, str, int]:
        past = Past(path)
        past.live(*range(NOON_S, NOON_S + 4))
        await past.history.keep()
        picture = past.history.snapshot()
        count = await past.answered(until_s=NOON_S + 9)
        await past.history.close()
        return picture.trouble, picture.set_aside, count

    trouble, aside, count = asyncio.run(run())

    assert trouble == ""
    assert aside.startswith("watch.db.damaged-")
    assert (tmp_path / aside).stat().st_size > 0
    assert count == 4


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "zeros":
        content[:4_096] = bytes(4_096)
    elif damage == "text":
        content[:] = b"not a database " * 500
    elif damage == "middle":
        content[8_192:40_960] = os.urandom(32_768)
    else:
        path.unlink()
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE theirs(x)")
        other.commit()
        other.close()
        return
    path.write_bytes(bytes(content))


def test_damage_while_it_runs_costs_the_past_and_not_the_server(tmp_path: Path):
    async def run() -> tuple[str, int]:
        past = Past(tmp_path / "watch.db")
        past.live(*range(NOON_S, NOON_S + 50))
        await past.history.keep()
        store, past.history._store = past.history._store, None  # opened again, as after any doubt
        assert store is not None
        store.close()
        spoil(tmp_path / "watch.db", "middle")
        past.history._tried_s = float("-inf")
        past.live(*range(NOON_S + 50, NOON_S + 60))
        await past.history.keep()
        told = past.history.snapshot().set_aside, await past.answered(until_s=NOON_S + 60)
        await past.history.close()
        return told

    aside, count = asyncio.run(run())

    assert aside
    assert count == 10


LOCKS = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_locked_file_makes_windows_wait_and_takes_them_afterwards(tmp_path: Path):
    path = tmp_path / "watch.db"

    async def run() -> tuple[str, int, str, int]:
        past = Past(path)
        past.live(*range(NOON_S, NOON_S + 3))
        await past.history.keep()
        other = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop
            [sys.executable, "-c", LOCKS, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        other.stdout.readline()
        past.live(*range(NOON_S + 3, NOON_S + 6))
        await past.history.keep()
        locked, seen = past.history.snapshot().trouble, await past.answered(until_s=NOON_S + 9)
        other.communicate(b"enough")
        await past.history.keep()
        freed = past.history.snapshot()
        await past.history.close()
        return locked, seen, freed.trouble, freed.waiting

    locked, seen, freed, waiting = asyncio.run(run())

    assert "locked" in locked
    assert seen == 6
    assert (freed, waiting) == ("", 0)


def test_a_fault_of_ours_loses_no_window_and_keeps_no_stop_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    past = Past(tmp_path / "watch.db")

    async def story() -> tuple[str, int, int]:
        past.live(NOON_S)
        with monkeypatch.context() as broken:
            broken.setattr(WatchStore, "add", lambda *given: [][0])
            past.history.begin_keeping()
            await past.history.close()
            trouble = past.history.snapshot().trouble
            waiting = past.history.snapshot().waiting
        past.live(NOON_S + 1)
        await past.history.keep()
        found = await past.answered(until_s=NOON_S + 2)
        await past.history.close()
        return trouble, waiting, found

    trouble, waiting, found = asyncio.run(story())

    assert trouble == "an unexpected IndexError"
    assert waiting > 0
    assert found == 2
    assert past.history.snapshot().trouble == ""


def test_the_last_of_the_disk_is_left_to_the_ledger(tmp_path: Path):
    async def run() -> tuple[bool, str]:
        past = Past(tmp_path / "watch.db", may_write=lambda: False)
        past.live(*range(NOON_S, NOON_S + 3))
        await past.history.keep()
        told = past.history.snapshot().trouble
        await past.history.close()
        return (tmp_path / "watch.db").exists(), told

    exists, told = asyncio.run(run())

    assert not exists
    assert "audit log" in told


def test_what_cannot_be_written_for_too_long_is_bounded_and_counted(tmp_path: Path):
    past = Past(tmp_path / "none" / "watch.db")

    async def run() -> None:
        past.live(*range(NOON_S, NOON_S + 2_000))
        await past.history.keep()

    asyncio.run(run())

    picture = past.history.snapshot()
    assert picture.trouble
    assert picture.waiting == 900 * 2
    assert picture.lost == 1_100 * 2


def test_a_batch_is_in_the_file_whole_or_not_at_all(tmp_path: Path):
    store = opened(tmp_path / "watch.db")
    store.add([one_window(NOON_S)])

    def broken() -> object:
        yield one_window(NOON_S + 1)
        raise StorageUnavailable("stopped half way")

    with pytest.raises(StorageUnavailable):
        store.add(broken())  # type: ignore[arg-type]

    assert store.count() == 1
    store.close()


# -- a real server ----------------------------------------------------------------------------


def remembered(served: Served, service: str, since_s: float = 600) -> int:
    told = served.operate("POST", "/admin/windows", {"since_s": since_s, "service": service}).json()
    return sum(point["endings"].get("answered", 0) for point in told["scopes"].get(service, []))


def component(served: Served, name: str) -> dict[str, object]:
    (found,) = [one for one in served.client.get("/healthz").json()["components"] if one["name"] == name]
    return dict(found)


def test_history_goes_on_over_a_stop_and_a_kill_and_is_read_when_no_server_runs(state: Path):
    with serving("mirror", state, env=QUICK) as served:
        for _ in range(5):
            assert served.predict(served.example).status_code == 200
        served.wait_until(lambda: remembered(served, served.service) == 5)
        assert served.stop() == 0
    with serving("mirror", state, env=QUICK) as served:
        for _ in range(4):
            assert served.predict(served.example).status_code == 200
        served.wait_until(lambda: remembered(served, served.service) == 9)
        wait_until(lambda: kept_answers(state) == 9)
        served.stop(signal.SIGKILL)

    shown = run_nightproof("status", "--state", str(state), "--since", "15m")
    told = run_nightproof("status", "--state", str(state), "--since", "1h", "--json")

    assert shown.returncode == told.returncode == 1, "no server answers"
    assert "No server answers" in shown.stderr
    assert "service mirror" in shown.stdout
    points = json.loads(told.stdout)["scopes"]["mirror"]
    assert sum(point["endings"].get("answered", 0) for point in points) == 9


def kept_answers(state: Path) -> int:
    """Count the answers that are in the file."""
    points = from_file(state, Asked(since_s=600)).get("scopes", {}).get("mirror", [])
    return sum(point["endings"].get("answered", 0) for point in points)


def test_status_since_shows_a_running_server_and_exits_0(shared_faulty: Served):
    shared_faulty.predict({"x": 1.0})
    shared_faulty.wait_until(lambda: remembered(shared_faulty, "faulty") > 0)

    done = run_nightproof("status", "--state", str(shared_faulty.state), "--since", "24h")
    wrong = run_nightproof("status", "--state", str(shared_faulty.state), "--since", "yesterday")

    assert done.returncode == 0, done.stderr
    assert {"rate", "p99", "queue", "workers", "memory", "cpu"} <= {
        word for line in done.stdout.splitlines() for word in line.split()
    }
    assert wrong.returncode == 2


def test_a_file_for_watching_that_is_full_or_damaged_keeps_nobody_from_his_answer(
    state: Path, tmp_path: Path
):
    env = {**QUICK, "FAILING_DISK": str(tmp_path), "FAILING_FILE": "watch.db", "PYTHONPATH": str(SHIM)}
    with serving("mirror", state, env=env) as served:
        served.wait_until(lambda: component(served, "history")["ok"] is True)
        (tmp_path / "fault").write_text("full")
        served.wait_until(lambda: component(served, "history")["ok"] is False)

        answers = [served.predict(served.example).status_code for _ in range(20)]
        assert answers == [200] * 20
        assert served.client.get("/readyz").status_code == 200
        assert served.client.get("/healthz").status_code == 200, "not needed, so the server is well"

        (tmp_path / "fault").unlink()
        served.wait_until(lambda: component(served, "history")["ok"] is True)
        served.wait_until(lambda: remembered(served, served.service) == 20)
        assert served.stop() == 0
    (state / "watch.db").write_bytes(b"this is no database" * 1_000)
    with serving("mirror", state, env=QUICK) as served:
        served.wait_until(lambda: "history_set_aside" in served.log.read_text())
        assert served.predict(served.example).status_code == 200
        assert component(served, "history")["ok"] is True


def test_two_servers_count_and_remember_each_its_own(tmp_path: Path):
    with (
        serving("mirror", tmp_path / "one", env=QUICK) as one,
        serving("mirror", tmp_path / "two", env=QUICK) as two,
    ):
        for _ in range(3):
            one.predict(one.example)
        two.predict(two.example)

        one.wait_until(lambda: remembered(one, one.service) == 3)
        two.wait_until(lambda: remembered(two, two.service) == 1)
        assert "nightproof_arrivals_total 3.0" in one.metrics()
        assert "nightproof_arrivals_total 1.0" in two.metrics()
