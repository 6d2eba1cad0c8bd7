"""What one exchange costs in CPU, process by process, from `/proc`: what a busy machine disturbs least."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks import load, machine, ours
from benchmarks.systems import Running

_WRITER = b"nightproof.steer.log_program"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU µs per exchange at one number of connections."""

    connections: int
    answers_per_s: float
    server_us: float
    workers_us: float
    writer_us: float
    rest_us: float
    """The other processes of the server: the drift watch's, for example."""
    upstream_us: float
    others_cores: float


def read_cost(subject: Running, upstream: Running, connections: int, seconds: float) -> Cost:
    """Load the service, and read what each process used meanwhile."""
    workers = ours.worker_pids(subject)
    family = subject.pids()
    writers = {pid for pid in family if _WRITER in _command_of(pid)}
    parts = [{subject.pid}, workers, writers, family - workers - writers - {subject.pid}, upstream.pids()]
    load.drive(subject, connections, 1, warm_up_s=0, quiet_s=0)
    before = [_own_cpu_s(part) for part in parts]
    point = load.drive(subject, connections, seconds, warm_up_s=0, quiet_s=0)
    used = [_own_cpu_s(part) - was for part, was in zip(parts, before, strict=True)]
    answers = max(1.0, (point.good_per_s + point.refused_per_s) * point.seconds)
    server, checks, writer, rest, fast = (one / answers * 1e6 for one in used)
    return Cost(
        connections=connections,
        answers_per_s=point.good_per_s,
        server_us=server,
        workers_us=checks,
        writer_us=writer,
        rest_us=rest,
        upstream_us=fast,
        others_cores=point.others_cores,
    )


def _own_cpu_s(pids: set[int]) -> float:
    return sum(machine.own_cpu_s(pid) for pid in pids if machine.is_alive(pid))


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
