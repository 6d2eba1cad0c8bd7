"""What the server stands on fails: the disk, the database, the clock, the witness, the collector."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import signal
import subprocess
from pathlib import Path

import apsw

from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.inputs import Inputs
from nightproof.drills.promise import Promise, promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Setting

SICK_DISK = Setting(name="a disk and a clock that fail", has_shim=True, settings={"retention.every_s": "1"})
_LITTLE_ROOM = Setting(name="little room on the disk", watermark_under_free_bytes=200 << 20)
WATCHED = Setting(
    name="witness and collector",
    settings={"witness.folder": "{root}/witness", "witness.every_s": "0.5", "witness.late_after_s": "3"},
    env={"OTEL_EXPORTER_OTLP_ENDPOINT": "{receiver}/otel", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"},
)
_SPILLING_LITTLE = Setting(
    name="it may spill a little",
    declares={"audit_on_failure": "spill"},
    settings={"ledger.spill_bytes": "65536"},
)
_FSYNC_EXIT = 70


def _writer(scene: Scene) -> int:
    pid = int((scene.stage.status().get("ledger") or {}).get("writer_pid") or 0)
    if not pid:
        raise CannotRun("the log is not written by a process of its own here")
    return pid


def _forbid_writes(scene: Scene, *pids: int) -> None:
    """Let the kernel refuse every write of these processes to a file: as on a full disk, and for them alone."""
    for pid in pids:
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)

        def allow(pid: int = pid, before: tuple[int, int] = before) -> None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

        scene.undo("the limit on files", allow)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))


def _disk_full(scene: Scene) -> None:
    writer = _writer(scene)
    with scene.fault():
        _forbid_writes(scene, writer)
        not_ready_s = scene.until(lambda: not scene.stage.is_ready(), within_s=10.0)
        scene.hold_until_alert(at_least_s=3.0)
    scene.claim(judge.claim_at_most("contained", "not ready", promised=5.0, seen=not_ready_s, unit=" s"))


def _spill(scene: Scene) -> None:
    writer = _writer(scene)
    with scene.fault():
        _forbid_writes(scene, writer)
        scene.hold_until_alert(at_least_s=3.0)
    merged_s = scene.until(lambda: scene.stage.count("nightproof_spilled_bytes") == 0, within_s=20.0)
    scene.claim(
        judge.claim_at_most(
            "recovered", "spilled records are merged", promised=30.0, seen=merged_s, unit=" s"
        )
    )


def _locked(scene: Scene) -> None:
    """Hold a write transaction on the log, as a backup tool or a forgotten shell does."""
    connection = apsw.Connection(str(scene.stage.state / "ledger.db"))
    connection.set_busy_timeout(5_000)
    with scene.fault():
        scene.undo("the connection", connection.close)
        connection.execute("BEGIN IMMEDIATE")
        scene.undo("the lock", lambda: connection.execute("ROLLBACK"))
        scene.hold_until_alert(at_least_s=7.0)


def _writer_stopped(scene: Scene) -> None:
    pid = _writer(scene)

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    with scene.fault():
        scene.undo("the stopped writer", go_on)
        os.kill(pid, signal.SIGSTOP)
        scene.hold(4.0)


def _failing_fsync(scene: Scene) -> None:
    server = scene.stage.server
    if server is None:
        raise CannotRun("no server runs")
    exits = len(server.exits)
    with scene.fault():
        scene.undo("the failing disk", lambda: scene.stage.fault_file.unlink(missing_ok=True))
        scene.stage.fault_file.write_text("sync")
        scene.until(lambda: len(server.exits) > exits, within_s=20.0)
    code = server.exits[-1].code if len(server.exits) > exits else None
    ready_s = scene.until(scene.stage.is_ready, within_s=40.0)
    scene.claim(judge.claim_equal("contained", "it ended by exit code", promised=_FSYNC_EXIT, seen=code))
    scene.claim(judge.claim_at_most("recovered", "ready again", promised=40.0, seen=ready_s, unit=" s"))


def _history(scene: Scene) -> None:
    with scene.fault():
        scene.undo("the failing disk", lambda: scene.stage.fault_file.unlink(missing_ok=True))
        scene.stage.fault_file.write_text("full watch.db")
        scene.hold_until_alert(at_least_s=5.0)


def _clock(scene: Scene) -> None:
    with scene.fault():
        scene.undo("the clock", lambda: scene.stage.ahead_file.unlink(missing_ok=True))
        scene.stage.ahead_file.write_text(str(2 * 86_400))
        scene.hold_until_alert(at_least_s=3.0)
    expired = scene.stage.count("nightproof_events_total", event="expired")
    scene.claim(
        judge.claim_equal(
            "contained", "content destroyed by a clock that is wrong", promised=0.0, seen=expired
        )
    )


def _little_room(scene: Scene) -> None:
    """Use up what is over the watermark, by one file of our own; the disk itself stays far from full."""
    ballast = scene.stage.root / "ballast"
    with scene.fault():
        scene.undo("the ballast", lambda: ballast.unlink(missing_ok=True))
        try:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 2 * scene.stage.setting.watermark_under_free_bytes)
        except OSError as error:
            raise CannotRun(f"no file of 400 MB could be made: {error.strerror}") from error
        scene.hold_until_alert(at_least_s=2.0)


def _witness_away(scene: Scene) -> None:
    folder = scene.stage.root / "witness"
    aside = scene.stage.root / "witness-aside"
    if not scene.stage.wait_until(lambda: folder.is_dir() and any(folder.iterdir()), within_s=10.0):
        raise CannotRun("the witness took no checkpoint before anything was broken")

    def put_back() -> None:
        folder.unlink(missing_ok=True)
        aside.rename(folder)

    with scene.fault():
        folder.rename(aside)
        scene.undo("the witness", put_back)
        folder.write_text("a file where a folder should be")
        scene.hold_until_alert(at_least_s=3.0)


def _two_logs(scene: Scene) -> None:
    """Put another log's witness in this one's place: somebody mounted the wrong folder, or the log was forked."""
    other = _another_witness(scene)
    folder = scene.stage.root / "witness"
    aside = scene.stage.root / "witness-aside"

    def put_back() -> None:
        if folder.is_dir():
            folder.rename(other)
        else:
            folder.unlink(missing_ok=True)
        aside.rename(folder)

    with scene.fault():
        folder.rename(aside)
        scene.undo("the witness", put_back)
        folder.write_text("not mounted")
        scene.hold(2.0)
        folder.unlink()
        other.rename(folder)
        scene.hold_until_alert(at_least_s=2.0)


def _another_witness(scene: Scene) -> Path:
    """Run another server for a moment, so that its witness holds checkpoints of another log."""
    stage, witness = scene.stage, scene.stage.root / "witness-of-another"
    command = [
        part.replace(str(stage.root / "witness"), str(witness)) for part in stage.command()
    ]  # fmt: skip
    command[command.index("--state") + 1] = str(stage.root / "another")
    command[command.index("--port") + 1] = "0"
    with (stage.root / "another.log").open("wb") as log:
        process = subprocess.Popen(command, env=stage.env(), cwd=stage.root, stdout=log, stderr=log)
    try:
        if not stage.wait_until(lambda: witness.is_dir() and any(witness.iterdir()), within_s=60.0):
            raise CannotRun("another log for the witness could not be made")
    finally:
        process.terminate()
        process.wait(40)
    return witness


def _collector_away(scene: Scene) -> None:
    with scene.fault():
        scene.undo("the collector", lambda: setattr(scene.stage.receiver, "is_collector_down", False))
        scene.stage.receiver.is_collector_down = True
        scene.hold_until_alert(at_least_s=3.0)


def _needs_collector(declared: Description, inputs: Inputs) -> str:
    if importlib.util.find_spec("opentelemetry") is None:
        return "the extra 'otel' is not installed, so nothing is sent to a collector"
    return ""


def _refusing(declared: Description, inputs: Inputs) -> str:
    if declared.audit_on_failure == "spill":
        return "the service declares audit_on_failure='spill'; spill_and_merge is its drill"
    return ""


def _spills(declared: Description, inputs: Inputs) -> str:
    if declared.audit_on_failure != "spill":
        return "the service declares audit_on_failure='refuse': no record, no answer"
    return ""


def _unrecorded(names: tuple[str, ...] = (), **more: object) -> object:
    def make(declared: Description) -> Promise:
        return promised(
            declared, "audit_unavailable", shelter="named", may_fail=("deadline_exceeded", "overloaded", *names),
            answer_within_s=declared.deadline_ms / 1_000 + 6.0, ends_within_s=0.0, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    return make


DRILLS = [
    Drill(
        name="disk_full",
        group="audit",
        breaks="the kernel refuses every write of the log's writer, as on a full disk",
        proves=("audit_unavailable",),
        promise=_unrecorded(),  # type: ignore[arg-type]
        act=_disk_full,
        applies=_refusing,
        is_quick=True,
        in_soak=True,
    ),
    Drill(
        name="database_locked",
        group="audit",
        breaks="another program holds a write lock on the log",
        proves=("audit_unavailable",),
        # A commit that waits beyond ledger.commit_slow_s may still come when the lock goes: it is told as unknown.
        promise=_unrecorded(alert_within_s=15.0, names=("audit_outcome_unknown",)),  # type: ignore[arg-type]
        act=_locked,
        applies=_refusing,
    ),
    Drill(
        name="audit_writer_stopped",
        group="audit",
        breaks="the log's writer stands still for 4 s: a disk that does not answer",
        proves=("audit_unavailable", "audit_writer_lost"),
        promise=_unrecorded(
            recorded=False, alert="", no_alert_why="it is over before it lasts", names=("audit_outcome_unknown",)
        ),  # type: ignore[arg-type]
        act=_writer_stopped,
        applies=_refusing,
        spoils_stage=True,
    ),
    Drill(
        name="spill_and_merge",
        group="audit",
        breaks="the kernel refuses every write of the log's writer; the service may spill",
        proves=("spilling",),
        promise=lambda declared: promised(declared, "spilling", shelter="covered"),
        act=_spill,
        applies=_spills,
    ),
    Drill(
        name="spill_to_the_brim",
        group="audit",
        breaks="the log cannot be written, and the side file has room for 64 KiB",
        proves=("spill_full",),
        promise=lambda declared: promised(
            declared, "spill_full", shelter="named", may_fail=("audit_unavailable",), alert_within_s=60.0
        ),
        act=_spill,
        setting=_SPILLING_LITTLE,
        applies=_spills,
    ),
    Drill(
        name="disk_nearly_full",
        group="monitoring",
        breaks="free space falls under the watermark (set 200 MB under what is free now)",
        proves=("disk_low",),
        promise=lambda declared: promised(declared, "disk_low", shelter="all"),
        act=_little_room,
        setting=_LITTLE_ROOM,
    ),
    Drill(
        name="failing_fsync",
        group="audit",
        breaks="the disk fails while a record is made durable",
        proves=("audit_outcome_unknown",),
        promise=lambda declared: promised(
            declared, "audit_outcome_unknown", shelter="named", may_lose=True,
            may_fail=("audit_unavailable", "shutting_down", "model_unavailable", "overloaded", "deadline_exceeded"),
            recorded=False, or_alerts=("unclean_stop", "audit_unavailable"), alert_within_s=60.0, recover_within_s=30.0,
            ends_within_s=0.0, answer_within_s=declared.deadline_ms / 1_000 + 6.0,
        ),
        act=_failing_fsync,
        setting=SICK_DISK,
        spoils_stage=True,
    ),
    Drill(
        name="history_disk_full",
        group="monitoring",
        breaks="what the meters remember cannot be written",
        proves=("history_not_kept",),
        promise=lambda declared: promised(
            declared, "history_not_kept", shelter="all", harmed_at_most=0.02, alert_within_s=40.0
        ),
        act=_history,
        setting=SICK_DISK,
    ),
    Drill(
        name="clock_jump",
        group="monitoring",
        breaks="the wall clock jumps two days ahead",
        proves=("clock_jumped",),
        promise=lambda declared: promised(
            declared, "clock_jumped", shelter="all", harmed_at_most=0.02, ends_within_s=0.0
        ),
        act=_clock,
        setting=SICK_DISK,
    ),
    Drill(
        name="witness_unreachable",
        group="audit",
        breaks="the folder of the witness is gone",
        proves=("witness_late",),
        promise=lambda declared: promised(declared, "witness_late", shelter="all", alert_within_s=40.0),
        act=_witness_away,
        setting=WATCHED,
    ),
    Drill(
        name="witness_sees_two_logs",
        group="audit",
        breaks="the witness is unmounted, and another log's is mounted in its place",
        proves=("witness_refused",),
        promise=lambda declared: promised(
            declared, "witness_refused", shelter="all", alert_within_s=30.0, ends_within_s=0.0
        ),
        act=_two_logs,
        setting=WATCHED,
    ),
    Drill(
        name="collector_unreachable",
        group="monitoring",
        breaks="the OpenTelemetry collector takes nothing",
        proves=("telemetry_failing",),
        promise=lambda declared: promised(
            declared, "telemetry_failing", shelter="all", alert_within_s=60.0, ends_within_s=120.0
        ),
        act=_collector_away,
        setting=WATCHED,
        applies=_needs_collector,
    ),
]  # fmt: skip
