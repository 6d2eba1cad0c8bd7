"""What the server costs: memory, idle CPU, and each stage of one request in microseconds.

Stages come from the `Server-Timing` header of real answers at one connection, read over a blocking
socket, so that the client adds as little as it can. What a request would have taken unrecorded is its own
time less its own `record` stage: nothing in the product can be switched off for a measurement.
"""

import re
import socket
import statistics
import time
from dataclasses import dataclass

from benchmarks import machine
from benchmarks.openloop import percentile
from benchmarks.systems import NotRun, Running

STAGES = ("accept", "admit", "call", "check", "record", "reply")
SETTLE_S = 5.0
WARM_UP_REQUESTS = 200
_TIMING = re.compile(rb"server-timing:([^\r\n]*)", re.IGNORECASE)
_STAGE = re.compile(rb"([a-z_]+);[^,]*?dur=([0-9.]+)")
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The server process alone, and with its workers."""

    server_mb: float
    tree_mb: float
    processes: int
    idle_server_percent: float
    idle_tree_percent: float
    ready_s: float


@dataclass(frozen=True, kw_only=True)
class Stages:
    """One request's way at one connection. All times in microseconds."""

    requests: int
    p50_us: dict[str, float]
    p99_us: dict[str, float]
    mean_us: dict[str, float]
    total_p50_us: float
    total_p99_us: float
    unrecorded_p50_us: float
    outside_p50_us: float
    """What the client waited beyond the sum of the stages: kernel, HTTP and the client itself."""
    fdatasync_p50_us: float
    fdatasync_p99_us: float
    others_cores: float

    @property
    def added_by_record_us(self) -> float:
        """How much later half of the answers come because they are recorded."""
        return self.total_p50_us - self.unrecorded_p50_us


def read_footprint(target: Running, idle_s: float) -> Footprint:
    """Read memory as the load left it, then let the server rest and read its CPU."""
    processes, tree_bytes = machine.tree_memory(target.pid)
    server_bytes = machine.rss_bytes(target.pid)
    time.sleep(min(SETTLE_S, idle_s))
    begun = time.perf_counter()
    server_s, tree_s = machine.own_cpu_s(target.pid), machine.cpu_s(target.pids())
    time.sleep(idle_s)
    server_s, tree_s = machine.own_cpu_s(target.pid) - server_s, machine.cpu_s(target.pids()) - tree_s
    lasted_s = time.perf_counter() - begun
    return Footprint(
        server_mb=server_bytes / 1e6,
        tree_mb=tree_bytes / 1e6,
        processes=processes,
        idle_server_percent=server_s / lasted_s * 100,
        idle_tree_percent=tree_s / lasted_s * 100,
        ready_s=target.ready_s,
    )


def _exchange(connection: socket.socket, request: bytes) -> tuple[float, bytes]:
    """Send one request, read its whole answer; return microseconds and the head."""
    begun = time.perf_counter()
    connection.sendall(request)
    answer = connection.recv(65_536)
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += _some(connection)
    length = _LENGTH.search(answer, 0, end + 2)
    if length is None:
        raise NotRun("an answer came without Content-Length")
    while len(answer) < end + 4 + int(length.group(1)):
        answer += _some(connection)
    return (time.perf_counter() - begun) * 1e6, answer[: end + 2]


def _some(connection: socket.socket) -> bytes:
    more = connection.recv(65_536)
    if not more:
        raise NotRun("the server closed the connection in the middle of an answer")
    return more


def stages_us(head: bytes) -> dict[str, float]:
    """Read the stages of one answer from its head."""
    found = _TIMING.search(head)
    if found is None:
        return {}
    return {name.decode(): float(ms) * 1_000 for name, ms in _STAGE.findall(found.group(1))}


def read_stages(target: Running, seconds: float) -> Stages:
    """Ask one request after the other over one connection, and collect what each stage took."""
    if target.state is None:
        raise NotRun(f"{target.title} tells no stages")
    sync_before = machine.fdatasync_ms(target.state)
    requests = target.requests()
    totals: list[float] = []
    rows: list[dict[str, float]] = []
    with (
        machine.watch_others() as others,
        socket.create_connection(("127.0.0.1", target.port), 10) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.perf_counter() + seconds
        turn = 0
        while time.perf_counter() < until or turn <= WARM_UP_REQUESTS:
            total_us, head = _exchange(connection, requests[turn % len(requests)])
            if not head.startswith(b"HTTP/1.1 200"):
                raise NotRun(f"an answer was {head[:40]!r}")
            turn += 1
            if turn > WARM_UP_REQUESTS:
                totals.append(total_us)
                rows.append(stages_us(head))
    sync_after = machine.fdatasync_ms(target.state)
    if not any("record" in row for row in rows):
        raise NotRun(f"no Server-Timing header with a record stage in {len(rows)} answers")
    names = [name for name in STAGES if any(name in row for row in rows)]
    columns = {name: [row.get(name, 0.0) for row in rows] for name in names}
    # Stages named otherwise than expected still belong to the sum.
    inside = [sum(value for name, value in row.items() if name != "total") for row in rows]
    return Stages(
        requests=len(rows),
        p50_us={name: statistics.median(values) for name, values in columns.items()},
        p99_us={name: percentile(values, 0.99) for name, values in columns.items()},
        mean_us={name: statistics.fmean(values) for name, values in columns.items()},
        total_p50_us=statistics.median(totals),
        total_p99_us=percentile(totals, 0.99),
        unrecorded_p50_us=statistics.median(
            total - row.get("record", 0.0) for total, row in zip(totals, rows, strict=True)
        ),
        outside_p50_us=statistics.median(total - one for total, one in zip(totals, inside, strict=True)),
        fdatasync_p50_us=statistics.fmean((sync_before[0], sync_after[0])) * 1_000,
        fdatasync_p99_us=statistics.fmean((sync_before[1], sync_after[1])) * 1_000,
        others_cores=others.cores,
    )
