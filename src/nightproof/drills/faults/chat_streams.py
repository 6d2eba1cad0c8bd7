"""Callers and servers that go while an answer is on its way: no stream may look whole that is not."""

from __future__ import annotations

import contextlib
import json
import signal
import socket

from nightproof.drills import judge
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.faults import wire
from nightproof.drills.faults.callers import unharmed
from nightproof.drills.faults.chat import STREAMING, needs_plain
from nightproof.drills.promise import promised
from nightproof.drills.scene import Scene

_MARK = "drillmark7"
_CALLERS = 10
_READ_WITHIN_S = 5.0
_LONG_TOKENS = 2_500
"""Half a megabyte of events each. With much more the lying upstream, one process, would be what is slow."""


def _open_streams(scene: Scene, count: int, *, small: bool = False) -> list[socket.socket]:
    """Ask for streamed answers and read none of them yet."""
    body = json.dumps(scene.chats.chat(f"{scene.chats.question()} {_MARK}", streamed=True)).encode()
    opened = []
    for _ in range(count):
        one = wire.connect(scene)
        if small:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        one.sendall(wire.head_of(scene, len(body)) + body)
        opened.append(one)
    return opened


def _close(connections: list[socket.socket]) -> None:
    for one in connections:
        one.close()


def _gone(scene: Scene) -> None:
    """Read the beginning of an answer and leave, many at once: the upstream's call must end, and the record too."""
    gone = scene.upstreams.seen().gone
    before = scene.stage.count("nightproof_requests_total", ending="abandoned")
    with scene.fault():
        scene.lie_about(_MARK, "tokens 400 50")
        callers = _open_streams(scene, _CALLERS)
        scene.undo("the callers", lambda: _close(callers))
        begun = 0
        for one in callers:
            one.settimeout(_READ_WITHIN_S)
            with contextlib.suppress(OSError):
                begun += b"data:" in _first(one)
        _close(callers)
        left_s = scene.until(lambda: scene.upstreams.seen().gone - gone >= _CALLERS, within_s=10.0)
        counted_s = scene.until(
            lambda: scene.stage.count("nightproof_requests_total", ending="abandoned") - before >= _CALLERS,
            within_s=10.0,
        )
        open_now = scene.stage.count("nightproof_chat_streams_open")
    scene.claim(judge.claim_equal("contained", "streams that had begun", promised=_CALLERS, seen=begun))
    scene.claim(
        judge.claim_at_most("contained", "the upstream's calls ended", promised=5.0, seen=left_s, unit=" s")
    )
    scene.claim(
        judge.claim_at_most("recorded", "their records are closed", promised=5.0, seen=counted_s, unit=" s")
    )
    scene.notes.append(f"{open_now:g} streams were open after they had left: the crowd's")


def _first(connection: socket.socket) -> bytes:
    """Read until the first event of an answer has come."""
    got = b""
    while b"data:" not in got and (part := connection.recv(65_536)):
        got += part
    return got


def _slow_reader(scene: Scene) -> None:
    """Ask for long answers and read nothing: the server must hold little of them, and answer everybody else."""
    before = scene.stage.memory_bytes()
    with scene.fault():
        scene.lie_about(_MARK, f"flood {_LONG_TOKENS}")
        readers = _open_streams(scene, _CALLERS, small=True)
        scene.undo("the readers", lambda: _close(readers))
        scene.hold(5.0)
        grown = scene.stage.memory_bytes() - before
    free_s = scene.until(lambda: scene.stage.count("nightproof_in_flight") <= 3, within_s=10.0)
    scene.claim(
        judge.claim_at_most(
            "contained", "memory that it cost", promised=64.0, seen=max(0.0, grown / 1e6), unit=" MB"
        )
    )
    scene.claim(
        judge.claim_at_most("recovered", "their places are free", promised=20.0, seen=free_s, unit=" s")
    )


def _server_killed(scene: Scene) -> None:
    """Kill the server while answers leave: none may look whole, and the next start must name those that had begun."""
    server = scene.stage.server
    if server is None or not server.pid:
        raise CannotRun("no server runs")
    scene.lie_about(_MARK, "tokens 400 50")
    long = scene.send_too(
        [scene.chats.chat(f"{scene.chats.question()} {_MARK}", streamed=True)], rate_per_s=8.0
    )
    has_some = scene.stage.wait_until(
        lambda: scene.stage.count("nightproof_chat_streams_open") >= _CALLERS, within_s=15.0
    )
    long.rate_per_s = 0.0
    if not has_some:
        raise CannotRun("no streams were open")
    exits = len(server.exits)
    with scene.fault():
        server.signal(signal.SIGKILL)
        scene.until(lambda: len(server.exits) > exits, within_s=5.0)
        ready_s = scene.until(scene.stage.is_ready, within_s=60.0)
    cut = {call.id for call in scene.others if call.id and call.ending != "answered"}
    named = _unfinished(scene)
    scene.claim(
        judge.claim_at_least("contained", "streams that were cut", promised=_CALLERS // 2, seen=len(cut))
    )
    scene.claim(
        judge.claim_equal(
            "recorded", "cut streams that recovery does not name", promised=0, seen=len(cut - named)
        )
    )
    scene.claim(judge.claim_at_most("recovered", "ready again", promised=20.0, seen=ready_s, unit=" s"))


def _unfinished(scene: Scene) -> set[str]:
    """Return the answers of which the log says that they had begun and have no end."""
    found = scene.stage.run("audit", "search", "--kind", "recovery", "--json").json or {}
    named: set[str] = set()
    for one in found.get("records", [])[:3]:
        shown = scene.stage.run("audit", "show", one["id"], "--json").json or []
        for entry in shown:
            named |= set((entry.get("facts") or {}).get("unfinished", []))
    return named


DRILLS = [
    Drill(
        name="stream_caller_gone",
        group="degradation",
        breaks=f"{_CALLERS} callers hang up in the middle of a streamed answer",
        proves=("caller_gone",),
        promise=unharmed("caller_gone"),
        act=_gone,
        applies=needs_plain,
        setting=STREAMING,
        needs_chat=True,
        is_quick=True,
    ),
    Drill(
        name="slow_stream_reader",
        group="degradation",
        breaks=f"{_CALLERS} callers ask for long answers and read nothing of them",
        proves=("caller_gone",),
        promise=unharmed("caller_gone", recorded=False),
        act=_slow_reader,
        applies=needs_plain,
        setting=STREAMING,
        needs_chat=True,
        frameworks=("OWASP LLM10",),
    ),
    Drill(
        name="server_killed_mid_stream",
        group="health",
        breaks="kill -9 of the server while streamed answers leave",
        proves=("unclean_stop",),
        promise=lambda declared: promised(
            declared, "unclean_stop", shelter="named", may_lose=True,
            may_fail=("model_unavailable", "overloaded", "shutting_down"),
            recorded=False, ends_within_s=0.0, alert_within_s=60.0, recover_within_s=20.0,
        ),
        act=_server_killed,
        applies=needs_plain,
        setting=STREAMING,
        needs_chat=True,
    ),
]  # fmt: skip
