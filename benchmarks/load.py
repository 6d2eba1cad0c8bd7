"""Closed-loop load with wrk, and every point of ours between two of the baseline.

wrk asks again as soon as it is answered, also after a refusal, and does not correct for coordinated
omission: tails under saturation are optimistic, for all systems alike. The open loop is in `openloop`.
"""

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.systems import HERE, NotRun, Running


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long each point takes."""

    point_s: int
    baseline_s: int
    warm_up_s: int
    quiet_patience_s: float


FULL = Pace(point_s=10, baseline_s=4, warm_up_s=3, quiet_patience_s=10.0)
QUICK = Pace(point_s=3, baseline_s=2, warm_up_s=1, quiet_patience_s=3.0)


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one system did at one number of connections. `good` means answered with 2xx."""

    connections: int
    seconds: float
    good_per_s: float
    refused_per_s: float
    socket_errors: int
    timeouts: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    server_us: float
    """CPU of the started process per answer, its children left out."""
    tree_us: float
    """CPU of the whole system per answer."""
    others_cores: float

    @property
    def is_disturbed(self) -> bool:
        """Others used the machine while this was read."""
        return self.others_cores > machine.QUIET_CORES


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A point between two points of the baseline."""

    point: Point
    before: Point
    after: Point

    @property
    def baseline_per_s(self) -> float:
        """The mean of the two."""
        return statistics.fmean((self.before.good_per_s, self.after.good_per_s))

    @property
    def baseline_p99_ms(self) -> float:
        """The mean of the two."""
        return statistics.fmean((self.before.p99_ms, self.after.p99_ms))

    @property
    def ratio(self) -> float:
        """Good answers per second over the baseline's."""
        return self.point.good_per_s / self.baseline_per_s if self.baseline_per_s else float("nan")


def wrk_program() -> str:
    """Find wrk, or say what to install."""
    found = shutil.which("wrk")
    if found is None:
        raise NotRun("wrk is not installed (Debian package wrk)")
    return found


def _run_wrk(target: Running, connections: int, seconds: float, bodies: Path) -> dict[str, int]:
    command = [
        wrk_program(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s",
        "-s", str(HERE / "cycle.lua"), f"http://127.0.0.1:{target.port}{target.path}",
    ]  # fmt: skip
    environment = {**os.environ, "BENCH_BODIES": str(bodies), "BENCH_TOKEN": target.token}
    if target.asked is not None:
        environment["BENCH_NUMBER"] = target.asked.number.decode()
        environment["BENCH_HEADERS"] = "\n".join(
            f"{name}: {value}" for name, value in target.asked.headers.items()
        )
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=seconds + 60, check=False
    )
    for line in done.stdout.splitlines():
        if line.startswith("BENCH "):
            told: dict[str, int] = json.loads(line.removeprefix("BENCH "))
            return told
    raise NotRun(f"wrk gave no result against {target.title}: {(done.stderr or done.stdout).strip()[-200:]}")


def drive(target: Running, connections: int, seconds: float, *, warm_up_s: float, quiet_s: float) -> Point:
    """Warm up, then load the system with this many connections, and read what it did."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as bodies:
        bodies.write(b"\n".join(target.bodies()) + b"\n")
        bodies.flush()
        if warm_up_s:
            _run_wrk(target, connections, warm_up_s, Path(bodies.name))
        machine.wait_for_quiet(quiet_s)
        server_s, tree_s = machine.own_cpu_s(target.pid), machine.cpu_s(target.pids())
        with machine.watch_others() as others:
            told = _run_wrk(target, connections, seconds, Path(bodies.name))
        server_s = machine.own_cpu_s(target.pid) - server_s
        tree_s = machine.cpu_s(target.pids()) - tree_s
    lasted_s = told["duration_us"] / 1e6
    answers = max(1, told["requests"])
    return Point(
        connections=connections,
        seconds=round(lasted_s, 2),
        good_per_s=(told["requests"] - told["bad_status"]) / lasted_s,
        refused_per_s=told["bad_status"] / lasted_s,
        socket_errors=told["connect"] + told["read"] + told["write"],
        timeouts=told["timeout"],
        p50_ms=told["p50_us"] / 1_000,
        p99_ms=told["p99_us"] / 1_000,
        max_ms=told["max_us"] / 1_000,
        server_us=server_s / answers * 1e6,
        tree_us=tree_s / answers * 1e6,
        others_cores=others.cores,
    )


def compare(subject: Running, baseline: Running, connections: int, pace: Pace) -> Comparison:
    """Read the baseline, the subject, and the baseline again, at the same number of connections."""

    def point(target: Running, seconds: float, warm_up_s: float) -> Point:
        return drive(target, connections, seconds, warm_up_s=warm_up_s, quiet_s=pace.quiet_patience_s)

    before = point(baseline, pace.baseline_s, 1)
    found = point(subject, pace.point_s, pace.warm_up_s)
    after = point(baseline, pace.baseline_s, 1)
    return Comparison(point=found, before=before, after=after)
