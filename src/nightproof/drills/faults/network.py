"""Connections that are slow, silent, cut, or never read."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct

from nightproof.drills import judge
from nightproof.drills.drill import Drill
from nightproof.drills.faults import wire
from nightproof.drills.faults.callers import unharmed
from nightproof.drills.scene import Scene
from nightproof.drills.stage import pause

_SLOW = 150
_FLOOD = ("OWASP API4", "ATLAS AML.T0029")


def _close(connections: list[socket.socket]) -> None:
    for one in connections:
        one.close()


def _slow_loris(scene: Scene) -> None:
    """Drip a header byte by byte on many connections; the server's own limit of 10 s must end them."""
    with scene.fault():
        drips = [wire.connect(scene) for _ in range(_SLOW)]
        scene.undo("the slow connections", lambda: _close(drips))
        opened = f"POST /services/{scene.stage.service}/predict HTTP/1.1\r\nhost: he".encode()
        for one in drips:
            one.sendall(opened)

        def drip() -> bool:
            for one in drips:
                with contextlib.suppress(OSError, ssl.SSLError):
                    one.setblocking(True)
                    one.send(b"x")
            pause(0.4)
            return all(wire.is_closed(one) for one in drips)

        closed_s = scene.until(drip, within_s=15.0)
    scene.claim(
        judge.claim_at_most(
            "contained", "all slow connections closed", promised=13.0, seen=closed_s, unit=" s"
        )
    )


def _silent(scene: Scene) -> None:
    with scene.fault():
        idle = [wire.connect(scene) for _ in range(500)]
        scene.undo("the idle connections", lambda: _close(idle))
        fresh = scene.ask(scene.inputs.good()[0])
        closed_s = scene.until(lambda: all(wire.is_closed(one) for one in idle), within_s=10.0)
    scene.claim(
        judge.claim_equal("contained", "a new caller beside 500 silent ones", promised=200, seen=fresh.status)
    )
    scene.claim(
        judge.claim_at_most("contained", "silent connections closed", promised=8.0, seen=closed_s, unit=" s")
    )


def _client_gone(scene: Scene) -> None:
    """Ask and leave, again and again, by a reset and by a close, while the model is at work."""
    marked = scene.prepare_marked()
    body = json.dumps(marked.record).encode()
    before = scene.stage.count("nightproof_requests_total", ending="abandoned")
    with scene.fault():
        scene.cue(
            act="slow",
            ms=max(20, scene.declared.predict_timeout_ms // 2),
            field=marked.field,
            value=marked.value,
        )
        for number in range(20):
            connection = wire.connect(scene)
            connection.sendall(wire.head_of(scene, len(body)) + body)
            pause(0.02)
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        scene.until(
            lambda: scene.stage.count("nightproof_requests_total", ending="abandoned") - before >= 10,
            within_s=5.0,
        )
        # What they left behind: nothing may be held for them.
        free_s = scene.until(lambda: scene.stage.count("nightproof_in_flight") <= 3, within_s=5.0)
    gone = scene.stage.count("nightproof_requests_total", ending="abandoned") - before
    scene.claim(judge.claim_at_least("recorded", "callers who left, as counted", promised=10, seen=gone))
    scene.claim(
        judge.claim_at_most("contained", "their places are free", promised=10.0, seen=free_s, unit=" s")
    )


def _half_body(scene: Scene) -> None:
    body = json.dumps(scene.inputs.good()[0]).encode()
    before = scene.stage.count("nightproof_requests_total", failure="internal_error")
    with scene.fault():
        for _ in range(10):
            with contextlib.closing(wire.connect(scene)) as connection:
                connection.sendall(wire.head_of(scene, len(body)) + body[: len(body) // 2])
                connection.shutdown(socket.SHUT_WR)
                wire.receive(connection)
    wrong = scene.stage.count("nightproof_requests_total", failure="internal_error") - before
    scene.claim(judge.claim_equal("contained", "faults of ours", promised=0.0, seen=wrong))


def _reader_stops(scene: Scene) -> None:
    """Pipeline many requests and read none of the answers: the server must not buffer without end."""
    body = json.dumps(scene.inputs.good()[0]).encode()
    request = wire.head_of(scene, len(body)) + body
    before = scene.stage.memory_bytes()
    with scene.fault():
        connections = [wire.connect(scene) for _ in range(4)]
        scene.undo("the connections", lambda: _close(connections))
        for one in connections:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            one.settimeout(1.0)
            with contextlib.suppress(OSError):
                one.sendall(request * 400)
        scene.hold(2.0)
        grown = scene.stage.memory_bytes() - before
    scene.claim(
        judge.claim_at_most(
            "contained", "memory that it cost", promised=64.0, seen=max(0.0, grown / 1e6), unit=" MB"
        )
    )


DRILLS = [
    Drill(
        name="client_gone",
        group="degradation",
        breaks="20 callers hang up while their request is at work",
        proves=("caller_gone",),
        promise=unharmed("caller_gone"),
        act=_client_gone,
        is_quick=True,
        in_soak=True,
    ),
    Drill(
        name="half_a_body",
        group="input",
        breaks="callers who close in the middle of a body",
        proves=("caller_gone", "malformed_request"),
        promise=unharmed("caller_gone", recorded=False),
        act=_half_body,
        in_soak=True,
    ),
    Drill(
        name="slow_loris",
        group="security",
        breaks=f"{_SLOW} connections that send a header byte by byte",
        proves=("slow_request",),
        promise=unharmed("slow_request"),
        act=_slow_loris,
        frameworks=_FLOOD,
    ),
    Drill(
        name="silent_connections",
        group="security",
        breaks="500 connections that say nothing",
        proves=("slow_request",),
        promise=unharmed("slow_request", recorded=False),
        act=_silent,
        frameworks=_FLOOD,
    ),
    Drill(
        name="answers_not_read",
        group="security",
        breaks="callers who send 400 requests at once and read none of the answers",
        proves=("caller_gone",),
        promise=unharmed("caller_gone", recorded=False),
        act=_reader_stops,
        frameworks=_FLOOD,
    ),
]
