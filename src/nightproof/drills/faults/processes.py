"""Signals to processes: workers, the log's writer, and the server itself."""

from __future__ import annotations

import contextlib
import os
import signal

from nightproof.drills import judge
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.promise import promised
from nightproof.drills.scene import Scene
from nightproof.storage import proc

_WORKER_BACK_WITHIN_S = 10.0
_DENIAL = ("ATLAS AML.T0029",)


def _a_worker(scene: Scene) -> int:
    """Return a worker that is at work: the one that has used the most time, for spares have not."""
    pids = scene.stage.worker_pids()
    if not pids:
        raise CannotRun("the server names no worker")
    return max(pids, key=proc.cpu_s)


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _kept(scene: Scene) -> int:
    """Return how many workers the server has and keeps: one that was added for a moment's load may go again."""
    declared = scene.declared
    return min(len(scene.stage.worker_pids()), declared.workers_min + declared.spares)


def _is_replaced(scene: Scene, gone: int, count: int) -> bool:
    pids = scene.stage.worker_pids()
    return gone not in pids and len(pids) >= count


def _claim_replaced(scene: Scene, gone: int, count: int) -> None:
    seconds = scene.until(lambda: _is_replaced(scene, gone, count), within_s=_WORKER_BACK_WITHIN_S)
    scene.claim(
        judge.claim_at_most(
            "recovered", "as many workers as before", promised=_WORKER_BACK_WITHIN_S, seen=seconds, unit=" s"
        )
    )


def _worker_killed(scene: Scene) -> None:
    pid, count = _a_worker(scene), _kept(scene)
    with scene.fault():
        _kill(pid)
    _claim_replaced(scene, pid, count)


def _worker_stopped(scene: Scene) -> None:
    pid, count = _a_worker(scene), _kept(scene)
    with scene.fault():
        scene.undo("the stopped worker", lambda: _kill(pid, signal.SIGCONT))
        _kill(pid, signal.SIGSTOP)
        # It is busy or idle: its request's clock finds it, or a ping does.
        seconds = scene.until(lambda: _is_replaced(scene, pid, count), within_s=_WORKER_BACK_WITHIN_S)
    scene.claim(
        judge.claim_at_most(
            "contained", "it was replaced", promised=_WORKER_BACK_WITHIN_S, seen=seconds, unit=" s"
        )
    )


def _all_workers_killed(scene: Scene) -> None:
    pids = scene.stage.worker_pids()
    with scene.fault():
        for pid in pids:
            _kill(pid)


def _server_killed(scene: Scene) -> None:
    server = scene.stage.server
    if server is None or not server.pid:
        raise CannotRun("no server runs")
    pid, workers, exits = server.pid, scene.stage.worker_pids(), len(server.exits)
    scene.crowd.rate_per_s = 100.0
    scene.hold(1.0)
    with scene.fault():
        scene.undo("the crowd's rate", lambda: setattr(scene.crowd, "rate_per_s", 25.0))
        _kill(pid)
        left_s = scene.until(lambda: not any(_is_alive(one) for one in workers), within_s=5.0)
        scene.until(lambda: len(server.exits) > exits, within_s=5.0)
        ready_s = scene.until(scene.stage.is_ready, within_s=60.0)
    code = server.exits[-1].code if len(server.exits) > exits else None
    scene.claim(judge.claim_equal("contained", "it ended by", promised=-int(signal.SIGKILL), seen=code))
    scene.claim(
        judge.claim_at_most("contained", "its workers died with it", promised=5.0, seen=left_s, unit=" s")
    )
    scene.claim(judge.claim_at_most("recovered", "ready again", promised=20.0, seen=ready_s, unit=" s"))


def _sigterm_under_load(scene: Scene) -> None:
    server = scene.stage.server
    if server is None or not server.pid:
        raise CannotRun("no server runs")
    exits = len(server.exits)
    scene.crowd.rate_per_s = 100.0
    scene.hold(1.0)
    with scene.fault():
        scene.undo("the crowd's rate", lambda: setattr(scene.crowd, "rate_per_s", 25.0))
        server.signal(signal.SIGTERM)
        not_ready_s = scene.until(lambda: not scene.stage.is_ready(), within_s=5.0)
        # As a load balancer does that has seen it: nobody is sent here any more.
        scene.crowd.rate_per_s = 0.0
        scene.until(lambda: len(server.exits) > exits, within_s=45.0)
        scene.until(scene.stage.is_ready, within_s=60.0)
    code = server.exits[-1].code if len(server.exits) > exits else None
    scene.claim(judge.claim_equal("contained", "exit code", promised=0, seen=code))
    scene.claim(
        judge.claim_at_most("contained", "not ready first", promised=1.0, seen=not_ready_s, unit=" s")
    )


def _audit_writer_killed(scene: Scene) -> None:
    pid = int((scene.stage.status().get("ledger") or {}).get("writer_pid") or 0)
    if not pid:
        raise CannotRun("the log is not written by a process of its own here")
    with scene.fault():
        _kill(pid)
        other_s = scene.until(
            lambda: int((scene.stage.status().get("ledger") or {}).get("writer_pid") or 0) not in (0, pid),
            within_s=10.0,
        )
    scene.claim(judge.claim_at_most("contained", "another writer", promised=10.0, seen=other_s, unit=" s"))


def _server_held_up(scene: Scene) -> None:
    server = scene.stage.server
    if server is None or not server.pid:
        raise CannotRun("no server runs")
    held_s = 2.0
    with scene.fault():
        scene.undo("the stopped server", lambda: server.signal(signal.SIGCONT))
        server.signal(signal.SIGSTOP)
        scene.hold(held_s)
    scene.claim(
        judge.claim_equal("contained", "the process is the same", promised=True, seen=bool(server.pid))
    )


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


DRILLS = [
    Drill(
        name="worker_killed",
        group="health",
        breaks="kill -9 of a worker that is at work",
        proves=("model_crash",),
        promise=lambda declared: promised(
            declared, "model_crash", shelter="all", recorded=False, alert="",
            no_alert_why="one dead worker is replaced; nobody is woken", harmed_at_most=0.02,
        ),
        act=_worker_killed,
        is_quick=True,
        in_soak=True,
        frameworks=_DENIAL,
    ),
    Drill(
        name="worker_stopped",
        group="health",
        breaks="SIGSTOP to a worker: it is there, and does nothing",
        proves=("model_timeout", "model_crash"),
        promise=lambda declared: promised(
            declared, "model_timeout", shelter="covered", may_fail=("model_crash",), recorded=False, alert="",
            no_alert_why="one silent worker is replaced; nobody is woken", harmed_at_most=0.05,
        ),
        act=_worker_stopped,
        in_soak=True,
        frameworks=_DENIAL,
    ),
    Drill(
        name="all_workers_killed",
        group="health",
        breaks="kill -9 of every worker at once, the spares included",
        proves=("model_unavailable", "model_crash"),
        promise=lambda declared: promised(
            declared, "model_unavailable", may_fail=("model_crash", "overloaded", "deadline_exceeded"),
            alert_within_s=12.0,
            recorded=False, alert="", no_alert_why="it may be over before it has lasted for the 2 s that a page takes",
        ),
        act=_all_workers_killed,
        in_soak=True,
        frameworks=_DENIAL,
    ),
    Drill(
        name="audit_writer_killed",
        group="health",
        breaks="kill -9 of the process that writes the audit log",
        proves=("audit_writer_lost",),
        promise=lambda declared: promised(
            declared, "audit_writer_lost", shelter="covered", may_fail=("audit_unavailable", "deadline_exceeded"),
            harmed_at_most=0.1, ends_within_s=0.0, answer_within_s=declared.deadline_ms / 1_000 + 6.0,
        ),
        act=_audit_writer_killed,
        in_soak=True,
    ),
    Drill(
        name="server_held_up",
        group="health",
        breaks="SIGSTOP to the server for 2 s: a host that stands still",
        proves=("loop_lagging",),
        promise=lambda declared: promised(
            declared, "loop_lagging", shelter="named",
            may_fail=("deadline_exceeded", "overloaded", "model_timeout", "slow_request"),
            answer_within_s=declared.deadline_ms / 1_000 + 4.0,
        ),
        act=_server_held_up,
        in_soak=True,
    ),
    Drill(
        name="sigterm_under_load",
        group="health",
        breaks="SIGTERM while callers ask: a deployment",
        proves=("shutting_down",),
        promise=lambda declared: promised(
            declared, "shutting_down", shelter="covered", harmed_at_most=1.0, alert="", recorded=False,
            no_alert_why="it is meant to be so",
        ),
        act=_sigterm_under_load,
        in_soak=True,
        ends_server=True,
    ),
    Drill(
        name="server_killed",
        group="health",
        breaks="kill -9 of the server under load; started again as the unit file does",
        proves=("unclean_stop",),
        promise=lambda declared: promised(
            declared, "unclean_stop", shelter="named", may_lose=True,
            may_fail=("model_unavailable", "overloaded", "shutting_down"),
            recorded=False, ends_within_s=0.0, alert_within_s=60.0, recover_within_s=20.0,
        ),
        act=_server_killed,
        is_quick=True,
        in_soak=True,
        ends_server=True,
    ),
]  # fmt: skip
