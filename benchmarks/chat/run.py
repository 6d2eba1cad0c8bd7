"""The experiment `chat`: one fast upstream, Nightproof before it with everything on, and the gateways that do less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from benchmarks import load, machine, openloop
from benchmarks.chat import costs, peers, streams
from benchmarks.chat.costs import Cost
from benchmarks.chat.streams import Streamed
from benchmarks.load import Comparison, Pace
from benchmarks.systems import NotRun, Running

COUNTS = (1, 64)
OPEN_LOOP_PER_S = 300.0
STREAMS = 100


@dataclass(frozen=True, kw_only=True)
class Offered:
    """What came of an even rate of whole answers. Times in milliseconds, from the moment each request was due."""

    title: str
    rate_per_s: float
    good: int
    bad: int
    p50_ms: float
    p99_ms: float
    driver_delay_p99_ms: float
    others_cores: float


@dataclass(kw_only=True)
class ChatRow:
    """One system's line: its points at each number of connections, beside the bare upstream's."""

    title: str
    points: dict[int, Comparison] = field(default_factory=dict)
    offered: Offered | None = None
    not_run: str = ""


@dataclass(kw_only=True)
class ChatFindings:
    """Everything that was found of chats."""

    bare_offered: Offered | None = None
    rows: dict[str, ChatRow] = field(default_factory=dict)
    cost: Cost | None = None
    bare_streamed: Streamed | None = None
    streamed: Streamed | None = None
    not_run: dict[str, str] = field(default_factory=dict)


def run(results: Path, *, pace: Pace, is_quick: bool, say: Callable[[str], None]) -> ChatFindings:
    """Measure everything, one system at a time before the same upstream."""
    load.wrk_program()
    found = ChatFindings()
    with peers.bare(results) as upstream:
        say("chat: the bare upstream, open loop")
        found.bare_offered = offer(upstream, 4 if is_quick else 8)
        _measure_ours(found, results, upstream, pace, is_quick, say)
        for name, gateway in peers.NEIGHBOURS.items():
            row = found.rows[name] = ChatRow(title=name)
            say(f"chat: {name}, install and start")
            try:
                with gateway(results, upstream) as subject:
                    row.title = subject.title
                    _measure_points(row, subject, upstream, pace, say)
                    row.offered = offer(subject, 4 if is_quick else 8) if name == "portkey" else None
            except NotRun as reason:
                row.not_run = str(reason)
    return found


def _measure_ours(
    found: ChatFindings,
    results: Path,
    upstream: Running,
    pace: Pace,
    is_quick: bool,
    say: Callable[[str], None],
) -> None:
    row = found.rows["nightproof"] = ChatRow(title="Nightproof, everything on")
    seconds = 6.0 if is_quick else 15.0
    try:
        with peers.nightproof(results, upstream) as subject:
            row.title = subject.title
            _measure_points(row, subject, upstream, pace, say)
            say("chat: CPU of each process")
            found.cost = costs.read_cost(subject, upstream, 64, pace.point_s)
            say(f"chat: {OPEN_LOOP_PER_S:.0f}/s, open loop")
            row.offered = offer(subject, 4 if is_quick else 8)
            say(f"chat: {STREAMS} streams at once, bare and ours")
            found.bare_streamed = streams.read_streams(
                upstream, upstream, at_once=STREAMS, seconds=seconds / 2
            )
            found.streamed = streams.read_streams(subject, upstream, at_once=STREAMS, seconds=seconds)
    except NotRun as reason:
        if row.points:  # what was found before stands
            found.not_run["nightproof"] = str(reason)
        else:
            row.not_run = str(reason)


def _measure_points(
    row: ChatRow, subject: Running, upstream: Running, pace: Pace, say: Callable[[str], None]
) -> None:
    for connections in COUNTS:
        say(f"chat: {subject.title}, {connections} connections")
        row.points[connections] = load.compare(subject, upstream, connections, pace)


def offer(target: Running, seconds: float) -> Offered:
    """Offer whole answers at an even rate that does not care how the server fares."""
    openloop_s = 1.0 + seconds
    arrivals = openloop.schedule([openloop.Phase(OPEN_LOOP_PER_S, openloop_s)])
    with machine.watch_others() as others:
        uvloop.run(openloop.OpenLoop(target).offer(arrivals))
    counted = [one for one in arrivals if one.due_s >= 1.0]
    good = [one.latency_ms for one in counted if one.is_good]
    return Offered(
        title=target.title,
        rate_per_s=OPEN_LOOP_PER_S,
        good=len(good),
        bad=len(counted) - len(good),
        p50_ms=openloop.percentile(good, 0.5),
        p99_ms=openloop.percentile(good, 0.99),
        driver_delay_p99_ms=openloop.percentile(
            [(one.sent_s - one.due_s) * 1e3 for one in counted if one.sent_s], 0.99
        ),
        others_cores=others.cores,
    )
