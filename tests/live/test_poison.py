"""The one record that kills models: found, refused, kept, and let through again; and who is never blamed for it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.callers import Callers, entries_of, leaf_of
from tests.serving import Served, run_nightproof, serving, wait_until

PATIENT = {"NIGHTPROOF_WORKERS_RESTARTS": "1000"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the service that misbehaves on cue."""
    with serving("faulty", tmp_path_factory.mktemp("poison") / "state", env=PATIENT) as one:
        yield one


def pool_of(served: Served) -> dict[str, Any]:
    """Return the status of the one service."""
    (service,) = served.status()["services"]
    return dict(service)


def await_whole(served: Served) -> dict[str, Any]:
    """Wait for all workers and spares; return the status then."""

    def is_whole() -> bool:
        pool = pool_of(served)
        return pool["workers"]["starting"] == 0 and len(pool["pids"]) == 3

    wait_until(is_whole)
    return pool_of(served)


def held(served: Served, x: float) -> list[dict[str, Any]]:
    """Return the quarantine's entries of the record with this x, the newest first."""
    found = served.operate("GET", "/admin/quarantine").json()
    shown = [served.operate("GET", f"/admin/quarantine/{one['id']}").json() for one in found]
    return [one for one in shown if one["input"]["x"] == x]


def make_poison(served: Served, x: float) -> dict[str, Any]:
    """Have a record found to be poison; return its quarantine entry."""
    await_whole(served)
    served.predict({"x": x, "act": "exit"})
    wait_until(lambda: held(served, x))
    return held(served, x)[0]


def quarantine(served: Served, verb: str, *arguments: str) -> tuple[int, Any]:
    """Use the command line; return its exit code and what it printed."""
    done = run_nightproof("quarantine", verb, *arguments, "--state", str(served.state), "--json")
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize(("killers", "x"), [(1, 101.0), (4, 102.0)])
def test_mates_of_a_killer_are_answered_and_it_is_refused_from_then_on(
    served: Served, killers: int, x: float
):
    before = await_whole(served)
    killer = {"x": x, "act": "segfault"}
    records = [*({"x": float(one)} for one in range(8)), *[killer] * killers]

    told = served.predict(records)

    *mates, last = told.json()["items"]
    assert told.status_code == 200
    assert [mate["output"]["y"] for mate in mates[:8]] == [2.0 * one for one in range(8)]
    assert last["failure"] in {"poison_input", "model_crash"}, "which one depends on how fast a worker loads"
    served.wait_until(lambda: held(served, x))
    assert len(held(served, x)) == 1
    found = await_whole(served)
    assert found["restarts"] - before["restarts"] <= 4, "one with its batch, two or three alone: not two each"

    again = served.predict(records)
    alone = served.predict({"act": "segfault", "x": x})

    assert [mate["output"]["y"] for mate in again.json()["items"][:8]] == [2.0 * one for one in range(8)]
    assert again.json()["items"][-1]["failure"] == "poison_input"
    assert (alone.status_code, alone.json()["failure"]) == (422, "poison_input")
    assert alone.json()["retryable"] is False
    after = pool_of(served)
    assert after["restarts"] == found["restarts"], "no worker ended by it"


def test_the_trial_goes_on_when_the_caller_has_left_and_its_next_one_costs_nothing(served: Served):
    await_whole(served)
    record = {"x": 103.0, "act": "exit", "ms": 40}

    # Long enough to end the first worker, too short for the second.
    told = served.predict(record, x_request_timeout_ms="60")
    served.wait_until(lambda: held(served, 103.0))
    before = await_whole(served)
    again = served.predict(record)

    assert told.status_code in (422, 502, 504)
    assert (again.status_code, again.json()["failure"]) == (422, "poison_input")
    assert pool_of(served)["restarts"] == before["restarts"]


def test_operators_list_show_replay_and_release_from_the_command_line(served: Served):
    entry = make_poison(served, 104.0)
    await_whole(served)

    code, listed = quarantine(served, "list")
    (mine,) = [one for one in listed if one["id"] == entry["id"]]
    assert (code, mine["state"], mine["refused_now"], mine["reason"]) == (0, "held", True, "poison_input")
    assert "input" not in mine, "the list shows no content"

    code, shown = quarantine(served, "show", entry["id"])
    assert (code, shown["input"]) == (0, {"x": 104.0, "act": "exit"})

    code, replayed = quarantine(served, "replay", entry["id"])
    assert (code, replayed["answered"]) == (1, False)
    assert served.predict({"x": 104.0, "act": "exit"}).status_code == 422, "it is refused still"
    before = await_whole(served)

    code, released = quarantine(served, "release", entry["id"])
    assert (code, released["state"], released["refused_now"]) == (0, "released", False)
    served.predict({"x": 104.0, "act": "exit"})
    assert await_whole(served)["restarts"] >= before["restarts"] + 2, "it was tried again, and killed again"
    served.wait_until(lambda: len(held(served, 104.0)) == 2)

    acts = [leaf_of(one).get("act") for one in entries_of(served.state) if one.kind == "operator"]
    assert {"quarantine.show", "quarantine.replay", "quarantine.release"} <= set(acts)


def test_an_entry_that_is_not_there_is_a_clear_no(served: Served):
    done = run_nightproof("quarantine", "show", "q_nothing", "--state", str(served.state))

    assert done.returncode == 1
    assert "q_nothing" in done.stderr


def test_a_record_that_is_answered_on_replay_is_let_through(served: Served, tmp_path: Path):
    state = tmp_path / "state"
    (tmp_path / "mood").write_text("")
    env = {**PATIENT, "TMPDIR": str(tmp_path)}
    with serving("moody", state, env=env) as moody:
        moody.predict({"x": 1.0, "act": "die"})
        moody.wait_until(lambda: moody.operate("GET", "/admin/quarantine").json())
        (entry,) = moody.operate("GET", "/admin/quarantine").json()
        assert moody.predict({"x": 1.0, "act": "die"}).json()["failure"] == "poison_input"

        (tmp_path / "mood").write_text("healed")
        outcome = moody.operate("POST", f"/admin/quarantine/{entry['id']}/replay").json()

        assert outcome == {"id": entry["id"], "answered": True, "output": {"y": 2.0}}
        assert moody.predict({"x": 1.0, "act": "die"}).json()["output"] == {"y": 2.0}


def test_a_record_whose_worker_is_killed_from_outside_is_never_blamed(served: Served):
    await_whole(served)
    quarantined = len(served.operate("GET", "/admin/quarantine").json())
    record = {"x": 105.0, "ms": 150}

    with Callers(served, count=1, record=lambda number: record) as callers:
        for _ in range(2):
            served.wait_until(lambda: pool_of(served)["workers"]["busy"] == 1)
            restarts = pool_of(served)["restarts"]
            os.kill(pool_of(served)["pids"][0], signal.SIGKILL)
            served.wait_until(lambda before=restarts: pool_of(served)["restarts"] == before + 1)
        callers.stop_sending()

    assert not callers.broken
    assert callers.statuses() == {200: len(callers.told)}
    assert len(served.operate("GET", "/admin/quarantine").json()) == quarantined
    attempts = [leaf_of(one).get("attempts", 1) for one in entries_of(served.state) if one.kind == "request"]
    assert max(attempts[-len(callers.told) :]) >= 2, "it was tried again"


def test_running_over_time_is_never_poison_however_often(served: Served):
    await_whole(served)

    told = [served.predict({"x": 106.0, "act": "hang"}).json()["failure"] for _ in range(2)]
    await_whole(served)

    assert told == ["model_timeout"] * 2
    assert not held(served, 106.0)


def test_poison_is_remembered_by_the_next_server(tmp_path: Path):
    state = tmp_path / "state"
    with serving("faulty", state, env=PATIENT) as first:
        make_poison(first, 107.0)

    with serving("faulty", state, env=PATIENT) as second:
        await_whole(second)
        told = second.predict({"x": 107.0, "act": "exit"})
        good = second.predict({"x": 107.0})
        pool = pool_of(second)

    assert (told.status_code, told.json()["failure"]) == (422, "poison_input")
    assert good.status_code == 200
    assert pool["restarts"] == 0
