"""The server's end in every form, and its disk's: what was acknowledged is recorded, what cannot be recorded is
not answered."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from nightproof.drills.stage import SHIM
from nightproof.storage.ledger_postgres import PostgresReader
from nightproof.storage.ledger_store import LedgerReader
from tests.callers import Callers, entries_of, is_alive, leaf_of
from tests.postgres import Postgres
from tests.serving import SERVICES, Served, control_socket, run_nightproof, serving, wait_until

PATIENT = {"NIGHTPROOF_WORKERS_RESTARTS": "1000"}


def pids_of(served: Served) -> list[int]:
    """Return the workers' process ids."""
    return [pid for service in served.status()["services"] for pid in service["pids"]]


def damage_in(state: Path) -> list[str]:
    """Let SQLite look for damage in a ledger."""
    reader = LedgerReader(state / "ledger.db")
    try:
        return reader.quick_check()
    finally:
        reader.close()


def recorded_ids(state: Path) -> set[str]:
    """Return the ids of the requests in the ledger."""
    return {entry.id for entry in entries_of(state) if entry.kind == "request"}


def recorded_refusals(state: Path) -> Counter[str]:
    """Count what the ledger has of refused and failed requests by failure, in entries of their own and shared."""
    counts: Counter[str] = Counter()
    for entry in entries_of(state):
        facts = leaf_of(entry)
        if entry.kind == "request" and facts["failure"]:
            counts[facts["failure"]] += 1
        for line in facts.get("lines", []):
            counts[line["failure"]] += line["count"]
    return counts


def acknowledged(callers: Callers) -> set[str]:
    """Return the ids of the requests that were answered."""
    return {one.request_id for one in callers.told if one.status == 200}


def writer_of(served: Served) -> int:
    """Name the process that writes the log; 0 while there is none."""
    try:
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
        return next(
            (int(pid) for pid in children if b"log_program" in Path(f"/proc/{pid}/cmdline").read_bytes()), 0
        )
    except OSError:
        return 0  # one of them has just ended


# -- kill -9 ------------------------------------------------------------------------------------


def _killed_under_load(served: Served, *, at_least: int) -> set[str]:
    """Kill the server while it answers; return the ids that it acknowledged. Its workers die with it."""
    served.wait_until(lambda: len(pids_of(served)) == 3)
    workers = pids_of(served)
    os.kill(workers[-1], signal.SIGSTOP)
    with Callers(served, count=4, pause_s=0.0) as callers:
        wait_until(lambda: len(callers.told) > at_least)
        served.process.kill()
        wait_until(lambda: not any(map(is_alive, workers)), within_s=1.0)
    assert served.process.wait(10) == -signal.SIGKILL
    return acknowledged(callers)


def _kill_and_check(state: Path, *, rounds: int, at_least: int) -> None:
    """Kill the server under load, again and again on the same state, and look at what is left."""
    every: set[str] = set()
    for number in range(rounds):
        with serving("faulty", state, env=PATIENT) as served:
            kinds = Counter(entry.kind for entry in entries_of(state))
            assert kinds["recovery"] == number, "each start after a kill says so"
            every |= _killed_under_load(served, at_least=at_least)

        assert damage_in(state) == []
        assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0
        assert every <= recorded_ids(state), "what was acknowledged is there, in this run and those before"
        seqs = [entry.seq for entry in entries_of(state)]
        assert seqs == list(range(len(seqs))), "and no number is missing"

    with serving("faulty", state, env=PATIENT) as served:
        assert served.predict({"x": 1.0}).status_code == 200
        assert Counter(entry.kind for entry in entries_of(state))["recovery"] == rounds
        assert served.stop() == 0
    assert [entry.kind for entry in entries_of(state)][-1] == "stop"


def test_a_killed_server_loses_no_acknowledged_record_and_takes_its_workers_along(state: Path):
    _kill_and_check(state, rounds=10, at_least=100)


@pytest.mark.soak
def test_a_server_killed_ninety_times_loses_no_acknowledged_record(state: Path):
    _kill_and_check(state, rounds=90, at_least=300)


def test_a_killed_writer_is_replaced_and_no_caller_notices(state: Path):
    with serving("faulty", state, env=PATIENT) as served:
        killed: set[int] = set()
        with Callers(served, count=4, pause_s=0.0) as callers:
            for _ in range(3):
                before = len(callers.told)
                wait_until(lambda before=before: len(callers.told) > before + 50)
                killed.add(pid := served.status()["ledger"]["writer_pid"])
                assert pid == writer_of(served)
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda: served.status()["ledger"]["writer_pid"] not in {0, *killed})
            before = len(callers.told)
            wait_until(lambda: len(callers.told) > before + 50)
        assert set(callers.statuses()) == {200}
        assert served.client.get("/readyz").status_code == 200
        assert 'event="audit_writer_lost"' in served.metrics()
        assert served.stop() == 0

    assert len(killed) == 3
    assert not any(map(is_alive, killed))
    told = [entry.id for entry in entries_of(state) if entry.kind == "request"]
    assert sorted(acknowledged(callers)) == sorted(told), "each answered request is there, and once"
    assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0


_HELD = 4_711


def _commits_wait(postgres: Postgres) -> psycopg.Connection[tuple[object, ...]]:
    """Let each COMMIT of the log wait until `pg_advisory_unlock`, after it was sent."""
    connection = psycopg.connect(postgres.url, autocommit=True)
    connection.execute(
        "CREATE FUNCTION nightproof.wait() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN PERFORM pg_advisory_xact_lock_shared({_HELD}); RETURN NULL; END$$"
    )
    connection.execute(
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON nightproof.entries DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION nightproof.wait()"
    )
    connection.execute(f"SELECT pg_advisory_lock({_HELD})")
    return connection


@pytest.mark.parametrize("is_sent", [True, False], ids=["in its commit", "before its batch"])
def test_what_a_killed_writer_had_in_hand_on_postgresql_is_written_once(
    postgres: Postgres, state: Path, is_sent: bool, monkeypatch: pytest.MonkeyPatch
):
    """A commit goes on without the one who sent it: the next writer waits for its end, and does not look past it."""
    monkeypatch.setenv("NIGHTPROOF_LEDGER_URL", postgres.url)
    monkeypatch.setenv("NIGHTPROOF_MASTER_KEY", "A" * 43 + "=")
    monkeypatch.setenv("NIGHTPROOF_LEDGER_COMMIT_SLOW_S", "30")

    def waiting(like: str) -> int:
        found = watch.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            f" AND wait_event_type = 'Lock' AND query ILIKE '{like}'"
        ).fetchone()
        return int(str(found[0])) if found else 0

    with serving("faulty", state, env=PATIENT) as served:
        if is_sent:
            connection = _commits_wait(postgres)
        else:
            connection = psycopg.connect(postgres.url)
            connection.execute("SELECT size FROM nightproof.head FOR UPDATE")
        watch = psycopg.connect(postgres.url, autocommit=True)
        with watch, connection, ThreadPoolExecutor(1) as thread:
            asked = thread.submit(served.predict, {"x": 1.0})
            wait_until(lambda: waiting("COMMIT" if is_sent else "%FOR UPDATE%") == 1)
            first = writer_of(served)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: writer_of(served) not in {0, first})
            wait_until(lambda: waiting("%head FOR UPDATE%") == (1 if is_sent else 2))
            if is_sent:
                connection.execute(f"SELECT pg_advisory_unlock({_HELD})")
                connection.execute("DROP TRIGGER wait ON nightproof.entries")
                connection.execute("DROP FUNCTION nightproof.wait()")
            else:
                connection.rollback()
            answer = asked.result(timeout=30)
        assert answer.status_code == 200, answer.text
        assert served.predict({"x": 2.0}).status_code == 200
        assert served.stop() == 0

    reader = PostgresReader(postgres.url)
    told = [entry.id for entry in reader.all_entries() if entry.kind == "request"]
    reader.close()
    assert told.count(answer.headers["x-request-id"]) == 1
    assert len(told) == 2
    verified = run_nightproof("audit", "verify", "--state", str(state))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_writer_that_ends_again_and_again_fences_the_ledger(state: Path):
    killed: set[int] = set()

    def kill_the_next(served: Served) -> bool:
        if served.process.poll() is not None:
            return True
        pid = writer_of(served)
        if pid and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return False

    with serving("faulty", state, env=PATIENT) as served:
        wait_until(lambda: kill_the_next(served), within_s=30)

        assert served.process.wait(10) == 70, "for the next start to judge"
    assert len(killed) == 6


# -- SIGTERM ------------------------------------------------------------------------------------


class Probe(threading.Thread):
    """Asks for readiness over new connections until the server is gone; behaves as a load balancer does."""

    def __init__(self, served: Served, callers: Callers) -> None:
        super().__init__()
        self._served, self._callers = served, callers
        self.seen: list[int | str] = []

    def run(self) -> None:
        """Ask until refused; at the first 503 have the callers send no more."""
        while True:
            try:
                status: int | str = httpx.get(f"{self._served.base_url}/readyz").status_code
            except httpx.TransportError:
                status = "gone"
            if not self.seen or self.seen[-1] != status:
                self.seen.append(status)
            if status == 503:
                self._callers.stop_sending()
            if status == "gone":
                return
            time.sleep(0.01)


def test_a_stop_under_load_answers_and_records_everyone_and_says_so_first(state: Path):
    with serving("faulty", state, "--set", "drain_wait_s=0.5", env=PATIENT) as served:
        callers = Callers(served, count=6, pause_s=0.0, record=lambda number: {"x": 1.0, "ms": number % 5})
        long = Callers(served, count=1, record=lambda number: {"x": 2.0, "ms": 350})
        probe = Probe(served, callers)
        with callers, long:
            wait_until(lambda: len(callers.told) > 100)
            probe.start()
            wait_until(lambda: probe.seen == [200])
            served.process.send_signal(signal.SIGTERM)
            probe.join()
            long.stop_sending()

        assert served.process.wait(10) == 0

    assert probe.seen == [200, 503, "gone"], "not ready first, then no new connections"
    assert not callers.broken, "nobody's connection was cut"
    assert callers.statuses().keys() <= {200, 503}
    assert {one.failure for one in callers.others()} <= {"shutting_down"}
    assert long.told[-1].status in (200, 503)
    entries = entries_of(state)
    assert acknowledged(callers) | acknowledged(long) <= recorded_ids(state)
    assert entries[-1].kind == "stop"
    last = leaf_of(entries[-1])
    counted: Counter[str] = Counter()
    for entry in entries:
        facts = leaf_of(entry)
        if entry.kind == "request":
            counted[facts["ending"]] += 1
        elif entry.kind == "summary":
            counted["refused"] += facts["count"]
    assert last["arrivals"] == sum(last["endings"].values()), "every arrival has ended"
    assert last["endings"] == dict(counted), "and every ending is recorded"


def test_an_admitted_request_is_finished_before_the_server_ends(state: Path):
    with serving("faulty", state, env={**PATIENT, "NIGHTPROOF_DRAIN_WAIT_S": "0"}) as served:
        with Callers(served, count=1, record=lambda number: {"x": 2.0, "ms": 390}) as callers:
            served.wait_until(lambda: served.status()["in_flight"] == 1)
            served.process.send_signal(signal.SIGTERM)
            callers.stop_sending()

        assert callers.statuses() == {200: len(callers.told)}
        assert not callers.broken
        assert served.process.wait(10) == 0
    assert acknowledged(callers) <= recorded_ids(state)


def test_a_second_signal_hurries(state: Path):
    with serving("faulty", state, env={**PATIENT, "NIGHTPROOF_DRAIN_WAIT_S": "30"}) as served:
        served.process.send_signal(signal.SIGTERM)
        served.wait_until(lambda: served.client.get("/readyz").status_code == 503)
        assert served.process.poll() is None

        began_s = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began_s < 10
    assert [entry.kind for entry in entries_of(state)][-1] == "stop"


# -- the disk -----------------------------------------------------------------------------------


def test_a_full_disk_lets_no_answer_out_and_heals_by_itself(state: Path):
    with serving("faulty", state, env=PATIENT) as served:
        pid = writer_of(served)
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        with Callers(served, count=3, pause_s=0.0) as callers:
            wait_until(lambda: len(callers.told) > 100)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (64 * 1024, most))
            wait_until(lambda: callers.statuses()[503] > 20)

            told = served.predict({"x": 1.0})
            ready = served.client.get("/readyz")
            health = served.client.get("/healthz")
            assert (told.status_code, told.json()["failure"]) == (503, "audit_unavailable")
            assert int(told.headers["retry-after"]) >= 1
            assert ready.status_code == 503
            assert "ledger" in ready.text
            assert health.status_code == 503
            assert served.client.get("/livez").status_code == 200
            assert served.client.get("/metrics").status_code == 200

            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
            served.wait_until(lambda: served.client.get("/readyz").status_code == 200, within_s=3)
            good = callers.statuses()[200]
            wait_until(lambda: callers.statuses()[200] > good + 20)

        assert not callers.broken
        assert callers.statuses().keys() == {200, 503}
        assert {one.failure for one in callers.others()} == {"audit_unavailable"}
        assert acknowledged(callers) <= recorded_ids(state)
        assert served.process.poll() is None
        assert served.stop() == 0
    assert damage_in(state) == []
    assert recorded_refusals(state)["audit_unavailable"] > callers.statuses()[503], (
        "each is counted, when it can be"
    )


def test_a_log_that_cannot_be_written_keeps_nobody_from_doing_his_work(state: Path):
    limit = 5_000_000
    log = state.parent / f"{state.name}.server.log"
    log.write_bytes(b"\n" * 2 * limit)  # its disk is full, the ledger's is not
    with serving("faulty", state, env=PATIENT) as served:
        served.wait_until(lambda: len(pids_of(served)) == 3)
        _, most = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (limit, most))

        raised = served.predict({"x": 1.0, "act": "raise"})
        with Callers(served, count=1, record=lambda number: {"x": 1.0, "ms": 200}) as callers:
            served.wait_until(lambda: served.status()["services"][0]["workers"]["busy"] == 1)
            os.kill(pids_of(served)[0], signal.SIGKILL)
            served.wait_until(lambda: served.status()["services"][0]["restarts"] == 1)
            callers.stop_sending()

        assert (raised.status_code, raised.json()["failure"]) == (502, "model_error")
        assert callers.statuses() == {200: len(callers.told)}
        served.wait_until(lambda: len(pids_of(served)) == 3)
        status = served.status()
        assert status["arrivals"] == sum(status["endings"].values())
        assert served.stop() == 0


def on_a_failing_disk(tmp_path: Path, **more: str) -> dict[str, str]:
    """Return the environment of a server whose disk fails on cue."""
    path = f"{SHIM}:{os.environ.get('PYTHONPATH', '')}"
    return {**PATIENT, "PYTHONPATH": path.rstrip(":"), "FAILING_DISK": str(tmp_path), **more}


def test_a_failed_sync_is_neither_yes_nor_no_and_ends_the_server_for_recovery_to_judge(
    tmp_path: Path, state: Path
):
    with serving("faulty", state, env=on_a_failing_disk(tmp_path)) as served:
        with Callers(served, count=4, pause_s=0.0) as callers:
            wait_until(lambda: len(callers.told) > 50)
            (tmp_path / "fault").write_text("sync")
            assert served.process.wait(15) == 70
        (tmp_path / "fault").unlink()

    unknown = [one for one in callers.told if one.failure == "audit_outcome_unknown"]
    assert unknown, "who was in that commit is told that nobody knows"
    assert {one.status for one in unknown} == {503}
    assert {one.failure for one in callers.others()} <= {
        "audit_outcome_unknown",
        "audit_unavailable",
        "shutting_down",
    }
    assert acknowledged(callers) <= recorded_ids(state)

    with serving("faulty", state, env=PATIENT) as again:
        assert again.predict({"x": 1.0}).status_code == 200
        kinds = Counter(entry.kind for entry in entries_of(state))
    assert kinds["recovery"] == 1
    assert damage_in(state) == []
    assert acknowledged(callers) <= recorded_ids(state)


def test_a_disk_that_stands_still_makes_nobody_wait_for_ever(tmp_path: Path, state: Path):
    env = on_a_failing_disk(tmp_path, NIGHTPROOF_LEDGER_COMMIT_SLOW_S="0.5")
    with serving("faulty", state, env=env) as served:
        assert served.predict({"x": 1.0}).status_code == 200

        (tmp_path / "fault").write_text("stall")
        began_s = time.monotonic()
        first = served.predict({"x": 2.0})
        second = served.predict({"x": 3.0})
        took_s = time.monotonic() - began_s
        ready = served.client.get("/readyz").status_code
        (tmp_path / "fault").unlink()

        assert (first.status_code, first.json()["failure"]) == (503, "audit_outcome_unknown")
        assert (second.status_code, second.json()["failure"]) == (503, "audit_unavailable")
        assert took_s < 2.0
        assert ready == 503
        served.wait_until(lambda: served.predict({"x": 4.0}).status_code == 200)
        assert first.headers["x-request-id"] in recorded_ids(state), "it turned out to be recorded"

        (tmp_path / "fault").write_text("stall")
        served.predict({"x": 5.0})
        assert served.process.wait(15) == 70, "too long, and it is ended"
        (tmp_path / "fault").unlink()


# -- the state folder ---------------------------------------------------------------------------


def start(folder: str, state: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Start a server that is expected to end at once."""
    serve = [sys.executable, "-m", "nightproof", "serve", str(SERVICES / folder)]
    return subprocess.run(
        [*before, *serve, "--state", str(state), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_second_server_on_the_same_state_refuses_and_leaves_the_first_alone(state: Path):
    with serving("faulty", state, env=PATIENT) as first:
        second = start("faulty", state)

        assert second.returncode == 75, "what a service manager takes for: try again later"
        assert str(first.process.pid) in second.stderr, "it says who has the folder"
        assert first.predict({"x": 1.0}).status_code == 200
        assert control_socket(state).exists()
        assert first.status()["pid"] == first.process.pid
        assert first.stop() == 0
    assert Counter(entry.kind for entry in entries_of(state))["recovery"] == 0


def _read_only(state: Path) -> tuple[str, ...]:
    """Make the folder read-only to a program that is started behind what is returned."""
    if os.geteuid() != 0:
        state.chmod(0o500)
        return ()
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("for root, a read-only folder takes a mount of our own, and this machine gives none")
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(state))


def test_a_read_only_state_folder_is_refused_with_what_to_do_and_left_untouched(state: Path):
    with serving("faulty", state, env=PATIENT) as served:
        served.predict({"x": 1.0})
        assert served.stop() == 0
    before = {path.name: path.stat().st_mtime_ns for path in state.iterdir()}

    refused = start("faulty", state, *_read_only(state))

    state.chmod(0o700)
    assert refused.returncode == 1
    assert "cannot be written" in refused.stderr
    assert "→" in refused.stderr
    assert {path.name: path.stat().st_mtime_ns for path in state.iterdir()} == before


def test_status_of_a_server_that_is_not_there_says_so(state: Path):
    with serving("faulty", state, env=PATIENT) as served:
        told: dict[str, Any] = json.loads(run_nightproof("status", "--state", str(state), "--json").stdout)
        assert told["ledger"]["state"] == "open"
        served.process.kill()
        served.process.wait(10)

        gone = run_nightproof("status", "--state", str(state))

    assert gone.returncode == 1
    assert "→" in gone.stderr
