"""`python -m benchmarks`: run the experiments asked for, print the tables.

Without flags: everything but the peers and the chats, which have peers of their own. `--peers` adds them (the first
time this installs each into an environment of its own, which takes minutes). `--quick` shortens every point: to find
mistakes, not figures.
"""

import argparse
import dataclasses
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks import (
    audit,
    faults,
    footprint,
    load,
    machine,
    openloop,
    ours,
    peers,
    report,
    systems,
    watching,
)
from benchmarks.load import FULL, QUICK, Pace
from benchmarks.promises import Findings, Row
from benchmarks.systems import NotRun, Running

RESULTS = systems.HERE / "results"
OVERLOAD_FACTOR = 10
CALM_SHARE = 0.7
CAPACITY_CONNECTIONS = 4
"""Two callers per worker: enough to keep both busy, too few to be refused."""


@dataclasses.dataclass(kw_only=True)
class Bench:
    """One run: how long, where, and what was found so far."""

    pace: Pace
    is_quick: bool
    results: Path
    findings: Findings
    say: Callable[[str], None]
    audit_log: Path | None = None
    """A log that `benchmarks.build_log` made; without it a small one is built."""
    audit_records: int = audit.DEFAULT_RECORDS

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of connections of the side-by-side table."""
        return (1, 64) if self.is_quick else (1, 64, 256)

    def seconds(self, full: float, quick: float) -> float:
        """Choose by the length of this run."""
        return quick if self.is_quick else full


def measure_row(bench: Bench, name: str, title: str, subject: Running, baseline: Running) -> None:
    """Fill one row of the side-by-side table."""
    row = bench.findings.rows.setdefault(name, Row(title=title))
    row.ready_s = subject.ready_s
    for connections in bench.counts:
        bench.say(f"{title}: {connections} connections")
        row.points[connections] = load.compare(subject, baseline, connections, bench.pace)
    table = machine.processes()
    row.tree_mb = sum(table[pid].rss_bytes for pid in subject.pids() if pid in table) / 1e6


def run_load(bench: Bench) -> None:
    """Measure Nightproof beside the baseline, batching on and off."""
    load.wrk_program()
    with systems.start(peers.BASELINE, bench.results) as baseline:
        for service, title in (
            ("fast", "Nightproof, everything on"),
            ("rowwise", "Nightproof, everything on, batching off"),
        ):
            try:
                with ours.serve(service, bench.results) as subject:
                    measure_row(bench, service, title, subject, baseline)
            except NotRun as reason:
                bench.findings.rows[service] = Row(title=title, not_run=str(reason))


def run_peers(bench: Bench) -> None:
    """Measure every neighbour beside the same baseline."""
    load.wrk_program()
    with systems.start(peers.BASELINE, bench.results) as baseline:
        for recipe in peers.NEIGHBOURS:
            bench.say(f"{recipe.title}: install and start")
            try:
                with systems.start(recipe, bench.results) as subject:
                    measure_row(bench, recipe.name, recipe.title, subject, baseline)
            except NotRun as reason:
                bench.findings.rows[recipe.name] = Row(title=recipe.title, not_run=str(reason))


def run_overload(bench: Bench) -> None:
    """Offer ten times what the slow service can do, then 70 % of it."""
    with ours.serve("slow20", bench.results) as subject:
        bench.say("overload: capacity")
        capacity = load.drive(
            subject,
            CAPACITY_CONNECTIONS,
            bench.seconds(8, 4),
            warm_up_s=2,
            quiet_s=bench.pace.quiet_patience_s,
        ).good_per_s
        if capacity < 1:
            raise NotRun("the slow service answered nothing in a closed loop")
        phases = [
            openloop.Phase(CALM_SHARE * capacity, bench.seconds(6, 3)),
            openloop.Phase(OVERLOAD_FACTOR * capacity, bench.seconds(20, 5)),
            openloop.Phase(CALM_SHARE * capacity, bench.seconds(12, 7)),
        ]
        bench.say(f"overload: {phases[1].rate_per_s:.0f}/s offered to {capacity:.0f}/s")
        arrivals = openloop.schedule(phases)
        with machine.watch_others() as others:
            uvloop.run(openloop.OpenLoop(subject).offer(arrivals))
        bench.findings.overload = openloop.judge(
            arrivals, phases, capacity_per_s=capacity, others_cores=others.cores
        )


def run_stampede(bench: Bench) -> None:
    """Let 1,024 callers ask the fast service again at once, and compare with its own peak."""
    with ours.serve("fast", bench.results) as subject:
        for connections in (64, 256, 1_024):
            bench.say(f"stampede: {connections} connections")
            bench.findings.stampede.append(
                load.drive(
                    subject,
                    connections,
                    bench.pace.point_s,
                    warm_up_s=bench.pace.warm_up_s,
                    quiet_s=bench.pace.quiet_patience_s,
                )
            )


def run_hang(bench: Bench) -> None:
    """Send one record that hangs the model."""
    with ours.serve("hang", bench.results) as subject:
        bench.say("hang: one record that never returns")
        bench.findings.hang = faults.poison(subject, pause_s=0.02, watch_s=bench.seconds(10, 4))


def run_crash(bench: Bench) -> None:
    """Send one record that ends the model's process."""
    with ours.serve("crash", bench.results) as subject:
        bench.say("crash: one record that ends the process")
        bench.findings.crash = faults.poison(subject, pause_s=0.0, watch_s=bench.seconds(8, 4))


def run_kill(bench: Bench) -> None:
    """Kill the server under load and look for its acknowledged requests."""
    with ours.serve("fast", bench.results) as subject:
        bench.say("kill -9 under load")
        bench.findings.kill = faults.kill(subject, bench.seconds(5, 2))


def run_footprint(bench: Bench) -> None:
    """Read memory after load, then CPU at rest."""
    with ours.serve("fast", bench.results) as subject:
        bench.say("footprint: load, then rest")
        load.drive(subject, 64, bench.seconds(5, 2), warm_up_s=1, quiet_s=0)
        bench.findings.footprint = footprint.read_footprint(subject, bench.seconds(10, 3))


def run_stages(bench: Bench) -> None:
    """Read what each stage of a request costs."""
    with ours.serve("fast", bench.results) as subject:
        bench.say("stages: one connection")
        machine.wait_for_quiet(bench.pace.quiet_patience_s)
        bench.findings.stages = footprint.read_stages(subject, bench.seconds(8, 3))


def run_audit(bench: Bench) -> None:
    """Measure the audit log: cost of a record, verification, proof and search."""
    records = 20_000 if bench.is_quick else bench.audit_records
    bench.findings.audit = audit.measure(bench.results / "audit", bench.audit_log, records, bench.say)


def run_watch(bench: Bench) -> None:
    """Read what watching costs the server under load."""
    with ours.serve("fast", bench.results) as subject:
        bench.say("watch: 64 connections")
        bench.findings.watch = watching.read_watch_cost(subject, 64, bench.pace)


def run_drift(bench: Bench) -> None:
    """Hold the drift watch to its truth, beside Evidently and River, and read what it costs."""
    from benchmarks.drift import run  # numpy and the rest only where they are needed

    bench.findings.drift = run.run(bench.results, is_quick=bench.is_quick, say=bench.say)


def run_injection(bench: Bench) -> None:
    """Hold the input checks of chat services to their truth, on sources they never saw."""
    from benchmarks.injection import measure  # numpy and scikit-learn only where they are needed

    bench.findings.injection = measure.run(is_quick=bench.is_quick, say=bench.say)


def run_obeying(bench: Bench) -> None:
    """Have a model obey every row of the public prompts, and count what gets out."""
    from benchmarks.injection import obeying

    bench.findings.obeying = obeying.run(is_quick=bench.is_quick, say=bench.say)


def run_chat(bench: Bench) -> None:
    """Measure a chat service beside the gateways, before the same fast upstream; installs them the first time."""
    from benchmarks.chat import run

    bench.findings.chat = run.run(bench.results, pace=bench.pace, is_quick=bench.is_quick, say=bench.say)


EXPERIMENTS: dict[str, Callable[[Bench], None]] = {
    "load": run_load,
    "overload": run_overload,
    "stampede": run_stampede,
    "hang": run_hang,
    "crash": run_crash,
    "kill": run_kill,
    "footprint": run_footprint,
    "stages": run_stages,
    "audit": run_audit,
    "watch": run_watch,
    "drift": run_drift,
    "injection": run_injection,
    "obeying": run_obeying,
    "chat": run_chat,
    "peers": run_peers,
}


INSTALLING = ("chat", "peers")
"""Experiments that install other systems, and run only where they are asked for."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Nightproof beside its neighbours."
    )
    parser.add_argument("--quick", action="store_true", help="short points, 1 and 64 connections")
    parser.add_argument(
        "--peers", action="store_true", help="measure the peers too; installs them the first time"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=EXPERIMENTS,
        metavar="NAME",
        help=f"one of {', '.join(EXPERIMENTS)}; may repeat",
    )
    parser.add_argument(
        "--audit-records",
        type=int,
        default=audit.DEFAULT_RECORDS,
        metavar="N",
        help="records of the log that `audit` builds and measures on (default: %(default)s)",
    )
    parser.add_argument(
        "--audit-log",
        type=Path,
        metavar="FOLDER",
        help="measure `audit` on a log that `python -m benchmarks.build_log FOLDER` made",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found to FILE")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for, one experiment after the other; a failed one does not stop the rest."""
    asked = arguments()
    names = asked.only or [name for name in EXPERIMENTS if name not in INSTALLING or asked.peers]
    if asked.peers:
        names += [name for name in INSTALLING if name not in names]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if soft < hard else soft, hard))
    progress = Console(stderr=True)
    pace = QUICK if asked.quick else FULL
    bench = Bench(
        pace=pace,
        is_quick=asked.quick,
        results=RESULTS / f"run-{os.getpid()}",
        audit_log=asked.audit_log,
        audit_records=asked.audit_records,
        findings=Findings(
            machine=machine.describe(),
            started_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            pace=dataclasses.asdict(pace),
        ),
        say=lambda text: progress.print(f"[dim]{time.strftime('%H:%M:%S')} {text}[/dim]", highlight=False),
    )
    try:
        for name in names:
            try:
                EXPERIMENTS[name](bench)
            except NotRun as reason:
                bench.findings.not_run[name] = str(reason)
            except Exception as error:
                # One broken experiment must not cost the hours of the others; the report shows it.
                bench.findings.not_run[name] = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(bench.results, ignore_errors=True)
        if asked.json:
            report.write_json(bench.findings, asked.json)
    report.print_report(bench.findings, Console(width=None if sys.stdout.isatty() else 160))
    return 0


if __name__ == "__main__":
    sys.exit(main())
