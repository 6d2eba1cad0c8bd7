"""People who mean harm: keys that are stolen, ended or reach too far, labels that lie, certificates that end."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.certificates import write_pair
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.faults import wire
from nightproof.drills.faults.callers import claim_told, unharmed
from nightproof.drills.inputs import Inputs
from nightproof.drills.promise import Promise, promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Setting

_KEYS = ("OWASP API2", "ATLAS AML.T0012")
_OLD_CERTIFICATE = Setting(name="certificate near its end", has_tls=True, certificate_days=3.0)


def _strangers(scene: Scene) -> None:
    """Guess keys, as somebody does who found half of one; the log must not grow with that."""
    record = scene.inputs.good()[0]
    key = scene.stage.key
    spoiled = key[:-1] + ("a" if key[-1] != "a" else "b")
    entries = scene.stage.count("nightproof_audit_entries")
    with scene.fault():
        answers = [
            ("no key", wire.told(scene.ask(record, key=""))),
            ("a spoiled key", wire.told(scene.ask(record, key=spoiled))),
        ]
        answers += [
            ("a guessed key", wire.told(scene.ask(record, key=f"np_{secrets.token_urlsafe(32)}")))
            for _ in range(300)
        ]
        by_address = scene.ask(record, key="", path=f"/services/{scene.stage.service}/predict?key={key}")
    grown = scene.stage.count("nightproof_audit_entries") - entries
    # The crowd's own records are the difference: strangers share summaries.
    share = grown - len([call for call in scene.crowd.calls if call.ended_s >= (scene.fault_s or 0)])
    claim_told(scene, "strangers", answers, wanted=("401 unauthenticated",))
    claim_told(
        scene, "a key in the address", [("it", wire.told(by_address))], wanted=("401 unauthenticated",)
    )
    scene.claim(
        judge.claim_at_most("recorded", "records that 302 strangers cost", promised=60, seen=max(0.0, share))
    )
    log = scene.stage.log.read_text("utf-8", "replace")
    scene.claim(judge.claim_equal("recorded", "a key in the server's log", promised=False, seen=key in log))


def _revoked(scene: Scene) -> None:
    made = scene.stage.run("keys", "create", "--role", "predict", "--name", "stolen", "--json").json
    if not made:
        raise CannotRun("no key could be made")
    record = scene.inputs.good()[0]
    before = scene.ask(record, key=made["key"])
    with scene.fault():
        scene.stage.operate("POST", f"/admin/keys/{made['id']}/revoke")
        refused_s = scene.until(lambda: scene.ask(record, key=made["key"]).status == 401, within_s=5.0)
    scene.claim(judge.claim_equal("contained", "before it is revoked", promised=200, seen=before.status))
    scene.claim(judge.claim_at_most("contained", "refused after", promised=1.5, seen=refused_s, unit=" s"))


def _expired(scene: Scene) -> None:
    made = scene.stage.run("keys", "create", "--role", "predict", "--expires-days", "0.00003", "--json").json
    if not made:
        raise CannotRun("no key could be made")
    record = scene.inputs.good()[0]
    with scene.fault():
        refused_s = scene.until(lambda: scene.ask(record, key=made["key"]).status == 401, within_s=8.0)
    scene.claim(
        judge.claim_at_most("contained", "refused after its 2.6 s", promised=5.0, seen=refused_s, unit=" s")
    )


def _overreach(scene: Scene) -> None:
    record = scene.inputs.good()[0]
    narrow = scene.stage.make_key("predict", "--service", "elsewhere")
    auditor = scene.stage.make_key("audit")
    service = scene.stage.service
    with scene.fault():
        answers = [
            ("another service's key asks", wire.told(scene.ask(record, key=narrow))),
            ("an auditor's key asks", wire.told(scene.ask(record, key=auditor))),
            (
                "a caller promotes",
                wire.told(scene.ask({"version": "x"}, path=f"/admin/releases/{service}/promote")),
            ),
            ("a caller rolls back", wire.told(scene.ask({}, path=f"/admin/releases/{service}/rollback"))),
            ("a caller makes a key", wire.told(scene.ask({"role": "admin"}, path="/admin/keys"))),
            (
                "an auditor erases",
                wire.told(scene.ask({"subject": "x"}, key=auditor, path="/admin/audit/erase")),
            ),
        ]
        live = (scene.stage.status().get("services") or [{}])[0].get("release")
    claim_told(scene, "keys that reach too far", answers, wanted=("403 forbidden",))
    scene.claim(judge.claim_equal("contained", "a release is live still", promised=True, seen=bool(live)))


def _poisoned_labels(scene: Scene) -> None:
    """An honest source says what is usual; another one gives the opposite of what was answered."""
    honest, liar = (
        scene.stage.make_key("predict", "--name", "honest"),
        scene.stage.make_key("predict", "--name", "liar"),
    )
    good = scene.inputs.good()

    def label(key: str, *, lies: bool, count: int) -> str:
        last = ""
        for number in range(count):
            told = scene.ask(good[number % len(good)], key=key).told
            output = told.get("output")
            if not isinstance(output, dict):
                continue
            name = _label_field(scene.declared, output)
            said = output[name]
            given = {
                "id": told["id"],
                "label": {name: (not said if isinstance(said, bool) else _other(said)) if lies else said},
            }
            answer = scene.ask(given, key=key, path=f"/services/{scene.stage.service}/feedback")
            last = str((answer.told.get("output") or {}).get("label", answer.failure))
        return last

    counted = label(honest, lies=False, count=80)
    with scene.fault():
        held = label(liar, lies=True, count=60)
        scene.hold_until_alert(at_least_s=0.5)
        sources = (scene.stage.operate("GET", f"/admin/feedback/{scene.stage.service}") or {}).get(
            "sources", []
        )
        for source in sources:
            if source.get("state") == "held":
                scene.stage.operate("POST", f"/admin/feedback/{scene.stage.service}/{source['key']}/reject")
    scene.claim(judge.claim_equal("contained", "labels of an honest key", promised="counted", seen=counted))
    scene.claim(judge.claim_equal("contained", "labels of a key that lies", promised="held", seen=held))


def _other(value: object) -> object:
    return value + 1 if isinstance(value, int | float) else f"not {value}"


def _label_field(declared: Description, output: dict[str, object]) -> str:
    return next(name for name in output if name != declared.confidence_field)


def _old_certificate(scene: Scene) -> None:
    with scene.fault():
        scene.hold_until_alert(at_least_s=0.5)
        write_pair(scene.stage.root, days=365)
        if scene.stage.server is not None:
            scene.stage.server.signal(signal.SIGHUP)
        scene.until(lambda: "certificate_expiring" not in scene.stage.conditions(), within_s=10.0)
    scene.claim(
        judge.claim_equal(
            "recovered",
            "a new certificate ended it",
            promised=False,
            seen="certificate_expiring" in scene.stage.conditions(),
        )
    )


def _bad_reload(scene: Scene) -> None:
    root: Path = scene.stage.root
    server = scene.stage.server
    if server is None:
        raise CannotRun("no server runs")
    good = (root / "cert.pem").read_bytes(), (root / "key.pem").read_bytes()

    def put_back() -> None:
        (root / "cert.pem").write_bytes(good[0])
        (root / "key.pem").write_bytes(good[1])
        server.signal(signal.SIGHUP)

    with scene.fault():
        scene.undo("the certificate", put_back)
        (root / "key.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
        server.signal(signal.SIGHUP)
        scene.hold_until_alert(at_least_s=1.0)
        fresh = scene.ask(scene.inputs.good()[0])
    scene.claim(
        judge.claim_equal(
            "contained", "a new connection on the old certificate", promised=200, seen=fresh.status
        )
    )


def _certificate_promise(declared: Description) -> Promise:
    return promised(declared, "certificate_expiring", shelter="all")


def _has_output_field(declared: Description, inputs: Inputs) -> str:
    fields = [
        name for name in declared.output_schema.get("properties", {}) if name != declared.confidence_field
    ]
    return "" if fields else "the output has no field that a label could name"


DRILLS = [
    Drill(
        name="stolen_key",
        group="security",
        breaks="302 strangers guess keys, or show one in the address",
        proves=("unauthenticated",),
        promise=unharmed("unauthenticated"),
        act=_strangers,
        is_quick=True,
        in_soak=True,
        frameworks=_KEYS,
    ),
    Drill(
        name="revoked_key",
        group="security",
        breaks="a key that was stolen is revoked while it is in use",
        proves=("unauthenticated",),
        promise=unharmed("unauthenticated"),
        act=_revoked,
        is_quick=True,
        frameworks=_KEYS,
    ),
    Drill(
        name="expired_key",
        group="security",
        breaks="a key comes to its end while it is in use",
        proves=("unauthenticated",),
        promise=unharmed("unauthenticated"),
        act=_expired,
        frameworks=_KEYS,
    ),
    Drill(
        name="role_overreach",
        group="security",
        breaks="callers' and auditors' keys try what is an operator's",
        proves=("forbidden",),
        promise=unharmed("forbidden"),
        act=_overreach,
        is_quick=True,
        frameworks=("OWASP API5", "ATLAS AML.T0012"),
    ),
    Drill(
        name="labels_poisoned",
        group="data",
        breaks="one key gives labels that say the opposite of what is right",
        proves=("feedback_poisoned",),
        promise=lambda declared: promised(declared, "feedback_poisoned", shelter="all"),
        act=_poisoned_labels,
        applies=_has_output_field,
        frameworks=("OWASP ML02", "ATLAS AML.T0020"),
    ),
    Drill(
        name="certificate_near_end",
        group="security",
        breaks="a server whose certificate ends in three days",
        proves=("certificate_expiring",),
        promise=_certificate_promise,
        act=_old_certificate,
        setting=_OLD_CERTIFICATE,
    ),
    Drill(
        name="certificate_bad_reload",
        group="security",
        breaks="a key that does not hold is put in the certificate's place, and a reload asked for",
        proves=("certificate_reload_failed",),
        promise=lambda declared: promised(declared, "certificate_reload_failed", shelter="all"),
        act=_bad_reload,
        setting=_OLD_CERTIFICATE,
    ),
]
