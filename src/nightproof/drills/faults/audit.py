"""Somebody changes the audit log, cuts it, or puts an older one in its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from nightproof.drills import judge
from nightproof.drills.books import entries_of
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.promise import promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Ran

_REFUSES_TO_START = 78
_PARTS = ("ledger.db", "ledger.db-wal", "ledger.db-shm", "checkpoint.note")
_VAULT = ("vault.db", "vault.db-wal", "vault.db-shm")
_TAMPERING = ("ATLAS AML.T0031",)


def _open(scene: Scene) -> apsw.Connection:
    connection = apsw.Connection(str(scene.stage.state / "ledger.db"))
    connection.set_busy_timeout(5_000)
    return connection


def _signed_seq(scene: Scene) -> int:
    """Return a record that a checkpoint covers: one of the middle."""
    verdict = scene.stage.run("audit", "verify", "--json").json or {}
    signed = int(verdict.get("signed", 0))
    if signed < 10:
        raise CannotRun("too few records are signed for yet")
    return signed // 2


def _verify(scene: Scene) -> tuple[Ran, int | None]:
    """Verify the log; return how that ended and the first record that it names."""
    ran = scene.stage.run("audit", "verify", "--json")
    first = (ran.json or {}).get("first_bad") or {}
    return ran, first.get("seq")


def _tamper(scene: Scene, seq: int, change: Callable[[apsw.Connection], Callable[[], Any]]) -> None:
    """Change one record under the running server; verify must name it, and somebody must be told."""
    connection = _open(scene)
    with scene.fault():
        scene.undo("the connection", connection.close)
        scene.undo("the record", change(connection))
        ran, named = _verify(scene)
        scene.hold_until_alert(at_least_s=0.5)
    after, _ = _verify(scene)
    scene.claim(judge.claim_equal("recorded", "verify's exit code", promised=1, seen=ran.code))
    scene.claim(judge.claim_equal("recorded", "the record that verify names", promised=seq, seen=named))
    scene.claim(judge.claim_equal("recovered", "verify's exit code afterwards", promised=0, seen=after.code))


def _byte_flipped(scene: Scene) -> None:
    seq = _signed_seq(scene)

    def change(connection: apsw.Connection) -> Callable[[], Any]:
        leaf: Any = connection.execute("SELECT leaf FROM entries WHERE seq = ?", (seq,)).get
        raw = bytes(leaf) if not isinstance(leaf, str) else leaf.encode()
        place = len(raw) // 2
        other = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        connection.execute("UPDATE entries SET leaf = ? WHERE seq = ?", (other, seq))
        return lambda: connection.execute("UPDATE entries SET leaf = ? WHERE seq = ?", (leaf, seq))

    _tamper(scene, seq, change)


def _row_deleted(scene: Scene) -> None:
    seq = _signed_seq(scene)

    def change(connection: apsw.Connection) -> Callable[[], Any]:
        cursor = connection.execute("SELECT * FROM entries WHERE seq = ?", (seq,))
        names = [one[0] for one in cursor.getdescription()]
        row = cursor.fetchone()
        connection.execute("DELETE FROM entries WHERE seq = ?", (seq,))
        places = ", ".join("?" for _ in names)
        columns = ", ".join(names)
        # Its names are the table's own, read a moment ago.
        return lambda: connection.execute(f"INSERT INTO entries ({columns}) VALUES ({places})", row)  # noqa: S608

    _tamper(scene, seq, change)


def _paused(scene: Scene, parts: tuple[str, ...], work: Callable[[], None]) -> None:
    """Stop the server in order, do something to its state, and put everything back afterwards."""
    server, state = scene.stage.server, scene.stage.state
    if server is None:
        raise CannotRun("no server runs")
    aside = scene.stage.root / "as-it-was"

    def put_back() -> None:
        for name in parts:
            (state / name).unlink(missing_ok=True)
            if (aside / name).exists():
                shutil.move(aside / name, state / name)
        shutil.rmtree(aside, ignore_errors=True)

    scene.crowd.rate_per_s = 0.0
    with scene.fault():
        scene.undo("the crowd's rate", lambda: setattr(scene.crowd, "rate_per_s", 25.0))
        scene.undo("the server", lambda: _resume(scene))
        server.pause()
        aside.mkdir()
        for name in parts:
            if (state / name).exists():
                shutil.copy2(state / name, aside / name)
        scene.undo("the state folder", put_back)
        work()


def _resume(scene: Scene) -> None:
    if scene.stage.server is not None:
        scene.stage.server.resume()
    if not scene.stage.wait_until(scene.stage.is_ready, within_s=60.0):
        raise TimeoutError("the server is not ready again")


def _try_to_start(scene: Scene) -> Ran:
    """Start a server on the state as it is now, and see how it ends."""
    return scene.stage.run_command(scene.stage.command(), within_s=60.0)


def _older_copy(scene: Scene) -> Path:
    """Copy the log as it is in this moment, as a backup does."""
    copy = scene.stage.root / "yesterday.db"
    copy.unlink(missing_ok=True)
    source, target = _open(scene), apsw.Connection(str(copy))
    try:
        with target.backup("main", source, "main") as backup:
            backup.step()
    finally:
        source.close()
        target.close()
    return copy


def _older_ledger(scene: Scene) -> None:
    yesterday = _older_copy(scene)
    scene.hold(3.0)
    beats: list[int] = []
    ran: list[Ran] = []

    def work() -> None:
        state = scene.stage.state
        for name in ("ledger.db-wal", "ledger.db-shm"):
            (state / name).unlink(missing_ok=True)
        shutil.copy2(yesterday, state / "ledger.db")
        before = len(scene.stage.receiver.heartbeats)
        ran.append(_try_to_start(scene))
        beats.append(len(scene.stage.receiver.heartbeats) - before)

    _paused(scene, _PARTS, work)
    scene.claim(
        judge.claim_equal("contained", "exit code of the start", promised=_REFUSES_TO_START, seen=ran[0].code)
    )
    scene.claim(
        judge.claim_equal(
            "recorded", "audit_rolled_back is said", promised=True, seen="audit_rolled_back" in ran[0].err
        )
    )
    scene.claim(
        judge.claim_equal("alerted", "heartbeats meanwhile, whose absence pages", promised=0, seen=beats[0])
    )


def _tail_cut(scene: Scene) -> None:
    """Cut the last ten records off a copy; whoever holds a checkpoint sees it."""
    yesterday, note = scene.stage.root / "cut.db", scene.stage.root / "held.note"
    with scene.fault():
        copy = _older_copy(scene)
        shutil.copy2(copy, yesterday)
        scene.hold(1.5)
        shutil.copy2(scene.stage.state / "checkpoint.note", note)
        connection = apsw.Connection(str(yesterday))
        last: Any = connection.execute("SELECT max(seq) FROM entries").get
        connection.execute("DELETE FROM entries WHERE seq > ?", (last - 10,))
        connection.close()
        ran = scene.stage.run(
            "audit", "verify", "--ledger", str(yesterday), "--key", str(scene.stage.state / "ledger.vkey"),
            "--checkpoint", str(note), "--json",
        )  # fmt: skip
    told = [one.get("kind", "") for one in (ran.json or {}).get("findings", [])]
    scene.notes.append("verify says: " + ", ".join(sorted(set(told))))
    scene.claim(
        judge.claim_equal("recorded", "verify's exit code on what is left", promised=1, seen=ran.code)
    )


def _master_key_lost(scene: Scene) -> None:
    ran: list[Ran] = []

    def work() -> None:
        (scene.stage.state / "master.key").unlink()
        ran.append(_try_to_start(scene))
        (scene.stage.state / "master.key").unlink(missing_ok=True)

    if not (scene.stage.state / "master.key").exists():
        raise CannotRun("the master key is not in the state folder")
    _paused(scene, ("master.key",), work)
    scene.claim(
        judge.claim_equal("contained", "exit code of the start", promised=_REFUSES_TO_START, seen=ran[0].code)
    )
    scene.claim(
        judge.claim_equal(
            "recorded", "vault_locked is said", promised=True, seen="vault_locked" in ran[0].err
        )
    )


def _older_vault(scene: Scene) -> None:
    """Put back a vault from before some records: their keys are gone, their records are not."""
    source, copy = (
        apsw.Connection(str(scene.stage.state / "vault.db")),
        scene.stage.root / "vault-yesterday.db",
    )
    copy.unlink(missing_ok=True)
    target = apsw.Connection(str(copy))
    with target.backup("main", source, "main") as backup:
        backup.step()
    source.close()
    target.close()
    rotated = scene.stage.run("audit", "rotate-key")
    answer = scene.ask(scene.inputs.good()[0])
    entry = answer.headers.get("x-request-id", "")
    shown: list[Ran] = []

    def work() -> None:
        for name in ("vault.db-wal", "vault.db-shm"):
            (scene.stage.state / name).unlink(missing_ok=True)
        shutil.copy2(copy, scene.stage.state / "vault.db")
        shown.append(scene.stage.run("audit", "show", entry, "--json"))
        shown.append(scene.stage.run("audit", "verify", "--json"))

    _paused(scene, _VAULT, work)
    found = shown[0].json or [{}]
    first = found[0] if isinstance(found, list) and found else {}
    scene.notes.append(f"rotate-key ended with {rotated.code}")
    scene.claim(
        judge.claim_equal(
            "recorded", "the record itself", promised=entry, seen=(first.get("facts") or {}).get("id")
        )
    )
    scene.claim(
        judge.claim_equal("recorded", "its content", promised="unreadable", seen=first.get("content_state"))
    )
    scene.claim(judge.claim_equal("contained", "the log verifies", promised=0, seen=shown[1].code))


def _books(scene: Scene) -> None:
    """Ask with known good and bad requests, then look whether each of them is in the log exactly once."""
    good = scene.inputs.good()
    with scene.fault():
        ids = [scene.ask(good[number % len(good)]).headers.get("x-request-id", "") for number in range(50)]
        bad = [scene.ask(b"{").headers.get("x-request-id", "") for _ in range(20)]
        scene.hold(0.5)
    found = [
        json.loads(entry.leaf)["id"] for entry in entries_of(scene.stage.state) if entry.kind == "request"
    ]
    once = [one for one in [*ids, *bad] if found.count(one) == 1]
    scene.claim(
        judge.claim_equal("recorded", "requests with exactly one record", promised=70, seen=len(once))
    )


DRILLS = [
    Drill(
        name="every_call_has_one_record",
        group="audit",
        breaks="50 good requests and 20 bad ones among the crowd's: is each in the log exactly once?",
        proves=("malformed_request",),
        promise=lambda declared: promised(
            declared, "malformed_request", shelter="all", alert="", no_alert_why="nothing is wrong"
        ),
        act=_books,
        is_quick=True,
        in_soak=True,
    ),
    Drill(
        name="ledger_byte_flipped",
        group="audit",
        breaks="one bit of a signed record is changed under the running server",
        proves=("audit_tampered",),
        promise=lambda declared: promised(declared, "audit_tampered", shelter="all", harmed_at_most=0.02),
        act=_byte_flipped,
        is_quick=True,
        frameworks=_TAMPERING,
    ),
    Drill(
        name="row_deleted",
        group="audit",
        breaks="a signed record is deleted under the running server",
        proves=("audit_tampered",),
        promise=lambda declared: promised(declared, "audit_tampered", shelter="all", harmed_at_most=0.02),
        act=_row_deleted,
        frameworks=_TAMPERING,
    ),
    Drill(
        name="tail_cut",
        group="audit",
        breaks="the last ten records are cut off a copy; a checkpoint from before is at hand",
        proves=("audit_tampered", "audit_rolled_back"),
        promise=lambda declared: promised(
            declared, shelter="all", alert="", no_alert_why="it is a copy: who verifies it is told"
        ),
        act=_tail_cut,
        frameworks=_TAMPERING,
    ),
    Drill(
        name="older_ledger_restored",
        group="audit",
        breaks="yesterday's log is put in the place of today's, and the server started on it",
        proves=("audit_rolled_back",),
        promise=lambda declared: promised(
            declared, "audit_rolled_back", shelter="named", may_lose=True, alert="", recover_within_s=15.0,
            no_alert_why="nothing starts on such a log; the dead-man's switch notices",
            may_fail=("shutting_down", "model_unavailable", "audit_unavailable"),
        ),
        act=_older_ledger,
        frameworks=_TAMPERING,
    ),
    Drill(
        name="master_key_lost",
        group="audit",
        breaks="the master key is gone when the server starts",
        proves=("vault_locked",),
        promise=lambda declared: promised(
            declared, "vault_locked", shelter="named", may_lose=True, alert="", recover_within_s=15.0,
            no_alert_why="nothing starts without it; the dead-man's switch notices",
            may_fail=("shutting_down", "model_unavailable", "audit_unavailable"),
        ),
        act=_master_key_lost,
    ),
    Drill(
        name="older_vault_restored",
        group="audit",
        breaks="a vault from before the newest records is put back",
        proves=("content_unreadable",),
        promise=lambda declared: promised(
            declared, shelter="named", may_lose=True, alert="", recover_within_s=15.0,
            no_alert_why="who opens such a record is told",
            may_fail=("shutting_down", "model_unavailable", "audit_unavailable"),
        ),
        act=_older_vault,
    ),
]  # fmt: skip
