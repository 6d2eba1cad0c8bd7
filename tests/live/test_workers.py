"""Workers that misbehave in every way we know, under a load of good requests that must not notice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.callers import Callers, is_alive
from tests.serving import SERVICES, Served, run_nightproof, serving, wait_until

PATIENT = {"NIGHTPROOF_WORKERS_RESTARTS": "1000", "NIGHTPROOF_WORKERS_BACKOFF_MOST_S": "0.5"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the service that misbehaves on cue; its workers are recycled when they grow by 32 MB."""
    state = tmp_path_factory.mktemp("workers") / "state"
    with serving("faulty", state, env={**PATIENT, "NIGHTPROOF_WORKERS_RECYCLE_GROWTH_MB": "32"}) as one:
        wait_until(lambda: is_whole(one))
        yield one
        assert one.process.poll() is None, "the server outlived all of it"


def pool_of(served: Served) -> dict[str, Any]:
    """Return the status of the one service."""
    (service,) = served.status()["services"]
    return dict(service)


def is_whole(served: Served) -> bool:
    """Say whether all workers and spares are up."""
    pool = pool_of(served)
    wanted = 3 if served.service == "faulty" else 2
    return pool["workers"]["starting"] == 0 and len(pool["pids"]) >= wanted


def events(served: Served, event: str, reason: str = "") -> float:
    """Read how often something happened, from the metrics."""
    label = f'event="{event}",reason="{reason}"'
    return sum(float(line.rpartition(" ")[2]) for line in served.metrics().splitlines() if label in line)


def test_workers_and_the_logs_writer_do_not_interrupt_the_server(served: Served) -> None:
    """Woken by the server, they wait for their turn: else each hand-over would cost it the processor."""
    pids = [*pool_of(served)["pids"], served.status()["ledger"]["writer_pid"]]

    policies = {os.sched_getscheduler(pid) for pid in pids}

    assert policies == {os.SCHED_BATCH}
    assert os.sched_getscheduler(served.process.pid) == os.SCHED_OTHER


# act, the failures that its caller may be told, how many workers it may cost at most
FAULTS = [
    ("raise", {"model_error": 502}, 0),
    ("sys_exit", {"model_error": 502}, 0),
    ("exit", {"poison_input": 422, "model_crash": 502}, 3),
    ("segfault", {"poison_input": 422, "model_crash": 502}, 3),
    ("abort", {"poison_input": 422, "model_crash": 502}, 3),
    ("hang", {"model_timeout": 504}, 2),
    ("spin", {"model_timeout": 504}, 2),
    ("stop", {"model_timeout": 504}, 2),
    ("allocate", {"model_out_of_memory": 502}, 1),
    ("short", {"invalid_output": 502}, 0),
    ("nan", {"invalid_output": 502}, 0),
    ("infinite", {"invalid_output": 502}, 0),
    ("wrong_type", {"invalid_output": 502}, 0),
    ("too_sure", {"invalid_output": 502}, 0),
    ("huge", {"invalid_output": 502}, 0),
    ("print", {"": 200}, 0),
]


@pytest.mark.parametrize(("act", "expected", "costs"), FAULTS, ids=[act for act, _, _ in FAULTS])
def test_a_fault_is_named_contained_and_felt_by_nobody_else(
    served: Served, act: str, expected: dict[str, int], costs: int
):
    wait_until(lambda: is_whole(served))
    before, pid = pool_of(served), served.status()["pid"]

    with Callers(served) as callers:
        wait_until(lambda: len(callers.told) > 5)
        told = served.predict({"x": 3.0, "act": act})
        asked_s = time.monotonic()
        again = served.predict({"x": 4.0})
        answered_s = time.monotonic()
        if costs:
            wait_until(lambda: is_whole(served))

    failure = told.json().get("failure", "")
    after = pool_of(served)
    assert (failure, told.status_code) in expected.items(), told.text
    assert "caller" not in told.text, "an exception's own words stay inside"
    assert (again.status_code, again.json()["output"]["y"]) == (200, 8.0)
    assert answered_s - asked_s < 2.0
    assert 0 <= after["restarts"] - before["restarts"] <= costs
    assert served.status()["pid"] == pid
    assert not callers.broken
    assert not callers.others(), callers.others()[:3]
    assert all(one.body["output"]["y"] == 2 * one.record["x"] for one in callers.told)


def test_a_killed_and_a_stopped_worker_cost_no_caller_an_answer(served: Served):
    wait_until(lambda: is_whole(served))
    killed, stopped, _ = pool_of(served)["pids"][:3]

    with Callers(served, count=4) as callers:
        wait_until(lambda: len(callers.told) > 10)
        os.kill(killed, signal.SIGKILL)
        os.kill(stopped, signal.SIGSTOP)
        served.wait_until(lambda: not {killed, stopped} & set(pool_of(served)["pids"]), within_s=8)
        served.wait_until(lambda: is_whole(served))

    assert not callers.broken
    assert callers.statuses() == {200: len(callers.told)}
    assert not is_alive(killed)
    assert not is_alive(stopped)


def test_an_idle_worker_that_falls_silent_is_replaced(served: Served):
    wait_until(lambda: is_whole(served))
    before = events(served, "worker_gone", "silent")
    *_, idle = pool_of(served)["pids"]

    os.kill(idle, signal.SIGSTOP)

    served.wait_until(lambda: idle not in pool_of(served)["pids"], within_s=8)
    assert events(served, "worker_gone", "silent") == before + 1
    assert not is_alive(idle)


def test_all_workers_killed_at_once_are_back_and_who_had_time_to_wait_was_answered(served: Served):
    wait_until(lambda: is_whole(served))

    for pid in pool_of(served)["pids"]:
        os.kill(pid, signal.SIGKILL)
    told = served.predict({"x": 2.0})

    # Whether a worker is up again within the request's second is the machine's affair.
    assert (told.status_code, told.json().get("failure")) in {
        (200, None),
        (503, "model_unavailable"),
        (502, "model_crash"),
    }
    served.wait_until(lambda: served.predict({"x": 2.0}).status_code == 200)


def test_a_server_that_was_held_up_itself_does_not_blame_its_workers(served: Served):
    wait_until(lambda: is_whole(served))
    before = pool_of(served)

    with Callers(served, record=lambda number: {"x": 1.0, "ms": 100}) as callers:
        wait_until(lambda: len(callers.told) > 2)
        served.process.send_signal(signal.SIGSTOP)
        time.sleep(1.6)  # longer than predict_timeout_ms and than the patience with pings
        served.process.send_signal(signal.SIGCONT)
        many = len(callers.told) + 20
        wait_until(lambda: len(callers.told) > many)

    after = pool_of(served)
    assert after["restarts"] == before["restarts"]  # not the pids: one too many may be let go of meanwhile


def test_a_worker_that_grows_is_recycled_between_two_requests(served: Served):
    before = events(served, "worker_gone", "memory_growth")

    with Callers(served, count=1, pause_s=0.05) as callers:

        def is_recycled() -> bool:
            # Growth counts from when a worker has settled, ten seconds after it loaded.
            served.predict({"x": 1.0, "act": "leak"})
            callers_due_s = time.monotonic() + 0.8
            wait_until(lambda: time.monotonic() > callers_due_s)
            return events(served, "worker_gone", "memory_growth") > before

        served.wait_until(is_recycled, within_s=40)

    assert not callers.broken
    assert callers.statuses() == {200: len(callers.told)}


def test_what_user_code_prints_does_not_reach_the_caller_or_the_log(served: Served):
    told = served.predict({"x": 1.0, "act": "print"})

    assert (told.status_code, told.json()["output"]["y"]) == (200, 2.0)
    assert "noise" not in served.log.read_text()


# -- a caller's own, shorter deadline -----------------------------------------------------------


def test_a_caller_s_shorter_deadline_ends_its_wait_and_no_worker(served: Served):
    wait_until(lambda: is_whole(served))
    before = pool_of(served)

    began_s = time.monotonic()
    told = served.predict({"x": 5.0, "ms": 300}, x_request_timeout_ms="50")
    took_s = time.monotonic() - began_s
    later = [served.predict({"x": float(number)}).json()["output"]["y"] for number in range(20)]

    assert (told.status_code, told.json()["failure"]) == (504, "deadline_exceeded")
    assert took_s < 0.25
    assert later == [2.0 * number for number in range(20)], "the late answer went to nobody"
    after = pool_of(served)
    # Not the pids: one too many may be let go of meanwhile. Every other end of a worker is a restart.
    assert (after["restarts"], after["queued"]) == (before["restarts"], 0)
    assert served.status()["in_flight"] == 0


# -- loading ------------------------------------------------------------------------------------

MOODS = {
    "load_exits": "load raised SystemExit",
    "load_raises": "model.bin is not there",
    "load_hangs": "Load did not end within 4 s",
    "load_dies": "ended while it loaded (exit 9)",
    "load_allocates": "load ran out of memory",
    "wrong": "golden.jsonl line 1: y is 3.0, expected 2.0",
}


@pytest.mark.parametrize(("mood", "expected"), MOODS.items(), ids=MOODS.keys())
def test_what_cannot_load_is_not_served_and_says_why(tmp_path: Path, mood: str, expected: str):
    (tmp_path / "mood").write_text(mood)

    done = run_nightproof(
        "serve",
        str(SERVICES / "moody"),
        "--state",
        str(tmp_path / "state"),
        "--port",
        "0",
        env={"TMPDIR": str(tmp_path)},
    )

    assert done.returncode == 1
    assert expected.lower() in done.stderr.replace("\n", " ").lower(), done.stderr
    assert "→" in done.stderr, "and what to do"
    assert "Traceback" not in done.stderr or mood in ("load_raises", "load_exits"), "but the user's own"


@pytest.fixture
def moody(tmp_path: Path) -> Iterator[Served]:
    """Serve the service whose mood is a file, with golden cases twice a second."""
    env = {**PATIENT, "TMPDIR": str(tmp_path), "NIGHTPROOF_WORKERS_GOLDEN_EVERY_S": "0.5"}
    with serving("moody", tmp_path / "state", env=env) as one:
        wait_until(lambda: is_whole(one))
        yield one


def test_golden_cases_that_turn_wrong_take_one_worker_out_or_all(moody: Served, tmp_path: Path):
    mood = tmp_path / "mood"

    assert moody.predict({"x": 1.0, "act": "turn"}).json()["output"] == {"y": 3.0}, "one has turned"
    moody.wait_until(lambda: events(moody, "golden_case_failed") == 1)
    assert moody.client.get("/readyz").status_code == 200, "the other one answers"
    moody.wait_until(lambda: is_whole(moody))
    assert [moody.predict({"x": 1.0}).json()["output"] for _ in range(10)] == [{"y": 2.0}] * 10

    mood.write_text("wrong")
    moody.wait_until(lambda: moody.client.get("/readyz").status_code == 503)
    told = moody.predict({"x": 1.0})
    assert (told.status_code, told.json()["failure"]) == (503, "model_unavailable")
    assert int(told.headers["retry-after"]) >= 1
    assert "golden.jsonl line 1" in pool_of(moody)["trouble"]
    assert moody.client.get("/livez").status_code == 200

    mood.unlink()
    moody.wait_until(lambda: moody.client.get("/readyz").status_code == 200)
    assert moody.predict({"x": 1.0}).json()["output"] == {"y": 2.0}


def test_a_worker_that_is_never_idle_is_asked_for_its_golden_cases_too(moody: Served):
    with Callers(moody, count=8, pause_s=0.0) as callers:
        wait_until(lambda: len(callers.told) > 20)
        moody.predict({"x": 1.0, "act": "turn"})
        moody.wait_until(lambda: events(moody, "golden_case_failed") == 1)
        many = len(callers.told) + 50
        moody.wait_until(lambda: len(callers.told) > many)

    assert callers.statuses() == {200: len(callers.told)}
    assert all(one.body["output"]["y"] == 2 * one.record["x"] for one in callers.told[-20:])


def test_while_replacements_cannot_load_the_last_worker_answers(moody: Served, tmp_path: Path):
    (tmp_path / "mood").write_text("load_raises")
    first, last = pool_of(moody)["pids"]

    os.kill(first, signal.SIGKILL)
    moody.wait_until(lambda: events(moody, "load_failed", "model_unavailable") >= 3)
    meanwhile = [moody.predict({"x": 1.0}).status_code for _ in range(5)]
    pool = pool_of(moody)
    (tmp_path / "mood").unlink()

    assert meanwhile == [200] * 5
    assert pool["pids"] == [last]
    assert "model.bin is not there" in pool["trouble"]
    assert moody.client.get("/readyz").status_code == 200
    moody.wait_until(lambda: is_whole(moody))
    assert pool_of(moody)["trouble"] == ""
