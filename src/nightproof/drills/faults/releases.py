"""Releases that are bad, unsigned, damaged or made elsewhere; and two operators at once."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.folders import set_cue
from nightproof.drills.promise import Promise, promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Ran, Setting

QUICK_STEPS = Setting(
    name="canaries in seconds",
    settings={
        "promotion.step_least_s": "5",
        "promotion.step_most_s": "10",
        "promotion.step_least_requests": "30",
        "promotion.canary_steps": "50,90",
    },
)
_SUPPLY = ("OWASP ML06", "ATLAS AML.T0010")
_CODES = ("release_unsigned", "release_damaged", "release_incompatible", "release_refused")


def made(scene: Scene, version: str) -> Path:
    """Make a release that is as good as the live one, until its own cue says otherwise; return its cue file."""
    folder, cue_file = scene.stage.make_folder(version)
    ran = scene.stage.release(folder, version)
    if ran.code != 0:
        raise CannotRun(f"the release {version} could not be made: {(ran.out + ran.err).strip()[-300:]}")
    return cue_file


def promote(scene: Scene, version: str, *more: str) -> Ran:
    return scene.stage.run("promote", scene.stage.service, version, "--json", "--again", *more)


def _bad_promoted(scene: Scene) -> None:
    """Make live what turns bad as soon as it is: its probation must take it back."""
    before, version = scene.stage.live(), f"drill-bad-{int(scene.began_s)}"
    cue_file = made(scene, version)
    with scene.fault():
        scene.undo("the release's cue", lambda: set_cue(cue_file, None))
        promoted = promote(scene, version, "--now")
        set_cue(cue_file, {"act": "raise"})
        turned_s = scene.since_fault_s
        back_s = scene.until(lambda: scene.stage.live() == before, within_s=60.0)
        scene.hold_until_alert(at_least_s=0.5)
    scene.claim(judge.claim_equal("contained", "promote's exit code", promised=0, seen=promoted.code))
    took_s = None if back_s is None else back_s - turned_s
    scene.claim(
        judge.claim_at_most("contained", "back on the release before", promised=60.0, seen=took_s, unit=" s")
    )


def _bad_canary(scene: Scene) -> None:
    before, version = scene.stage.live(), f"drill-canary-{int(scene.began_s)}"
    cue_file = made(scene, version)
    scene.crowd.rate_per_s = 60.0
    with scene.fault():
        scene.undo("the crowd's rate", lambda: setattr(scene.crowd, "rate_per_s", 25.0))
        scene.undo("the release's cue", lambda: set_cue(cue_file, None))
        promoted = promote(scene, version, "--canary", "50%")
        # Not before: what fails its golden cases while it loads is no canary at all.
        set_cue(cue_file, {"act": "raise", "share": 0.8})
        gone_s = scene.until(lambda: "canary" not in parts_of(scene), within_s=60.0)
        scene.hold_until_alert(at_least_s=0.5)
        live = scene.stage.live()
    scene.claim(judge.claim_equal("contained", "promote's exit code", promised=0, seen=promoted.code))
    scene.claim(judge.claim_at_most("contained", "taken back", promised=60.0, seen=gone_s, unit=" s"))
    scene.claim(judge.claim_equal("contained", "live stayed", promised=before, seen=live))


def _idle_canary(scene: Scene) -> None:
    version = f"drill-idle-{int(scene.began_s)}"
    made(scene, version)
    scene.crowd.rate_per_s = 0.5
    with scene.fault():
        scene.undo("the crowd's rate", lambda: setattr(scene.crowd, "rate_per_s", 25.0))
        promote(scene, version, "--canary", "50%")
        gone_s = scene.until(lambda: "canary" not in parts_of(scene), within_s=40.0)
        scene.hold_until_alert(at_least_s=0.5)
    scene.claim(
        judge.claim_at_most("contained", "taken back for want of data", promised=40.0, seen=gone_s, unit=" s")
    )


def parts_of(scene: Scene) -> set[str]:
    services = scene.stage.status().get("services") or [{}]
    return {str(one.get("part")) for one in services[0].get("parts", [])}


def _nothing_behind(scene: Scene) -> None:
    """The only release there is turns sure of itself and wrong: it stays, since nothing is better, and says so."""
    before = scene.stage.live()
    with scene.fault():
        scene.cue(act="lie", confidence=scene.declared.confidence_field)
        scene.hold_until_alert(at_least_s=2.0)
    scene.claim(judge.claim_equal("contained", "the live release", promised=before, seen=scene.stage.live()))


def _two_operators(scene: Scene) -> None:
    versions = [f"drill-{name}-{int(scene.began_s)}" for name in ("one", "two")]
    before = scene.stage.live()
    for version in versions:
        made(scene, version)
    ran: dict[str, Ran] = {}
    with scene.fault():
        threads = [
            threading.Thread(
                target=lambda version=version: ran.update({version: promote(scene, version, "--now")})
            )
            for version in versions
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        live = scene.stage.live()
    back = scene.stage.run("rollback", scene.stage.service, before, "--json")
    won = [version for version in versions if ran[version].code == 0]
    scene.claim(
        judge.claim_equal("contained", "the one that is live was told yes", promised=True, seen=live in won)
    )
    scene.claim(judge.claim_equal("recovered", "rollback's exit code", promised=0, seen=back.code))
    refused = [ran[version].err.strip() for version in versions if ran[version].code != 0]
    scene.notes.append(f"{len(won)} were told yes; refused: {refused[0][:160] if refused else 'none'}")
    named = all("promotion_refused" in text for text in refused)
    scene.claim(judge.claim_equal("recorded", "who was refused was told by name", promised=True, seen=named))


def _rolled_back_by_hand(scene: Scene) -> None:
    """Promote and go back under load: no caller may notice either."""
    before, version = scene.stage.live(), f"drill-good-{int(scene.began_s)}"
    made(scene, version)
    scene.crowd.rate_per_s = 60.0
    with scene.fault():
        scene.undo("the crowd's rate", lambda: setattr(scene.crowd, "rate_per_s", 25.0))
        there = promote(scene, version, "--now")
        scene.hold(1.0)
        back = scene.stage.run("rollback", scene.stage.service, "--json")
    took_ms = float((back.json or {}).get("took_ms", 1e9))
    scene.claim(judge.claim_equal("contained", "exit codes", promised=(0, 0), seen=(there.code, back.code)))
    scene.claim(judge.claim_equal("contained", "live again", promised=before, seen=scene.stage.live()))
    scene.claim(
        judge.claim_at_most("recovered", "the switch back", promised=1_000.0, seen=took_ms, unit=" ms")
    )


def _key(scene: Scene, name: str) -> Path:
    path = scene.stage.root / f"{name}.pem"
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private)
    path.chmod(0o600)
    return path


def _packed(scene: Scene, version: str) -> Path:
    """Make a release elsewhere, signed by a key that nobody here trusts."""
    folder, _ = scene.stage.make_folder(version)
    file = scene.stage.root / f"{version}.npb"
    ran = scene.stage.run(
        "release", str(folder), "--version", version, "--key", str(_key(scene, version)), "-o", str(file)
    )
    if ran.code != 0 or not file.exists():
        raise CannotRun(f"no release could be made elsewhere: {ran.err.strip()[-300:]}")
    return file


def _claim_refused(scene: Scene, ran: Ran, wanted: str) -> None:
    told = ran.json or {}
    said = str(told.get("failure") or "")
    if not said:
        said = next((code for code in _CODES if code in ran.out + ran.err), f"exit {ran.code}")
    scene.claim(judge.claim_equal("contained", "refused as", promised=wanted, seen=said))
    scene.claim(judge.claim_equal("contained", "exit code", promised=1, seen=ran.code))


def _by_a_stranger(scene: Scene) -> None:
    file = _packed(scene, f"drill-stranger-{int(scene.began_s)}")
    with scene.fault():
        ran = scene.stage.run("release", str(file), "--json")
        scene.hold_until_alert(at_least_s=0.5)
    _claim_refused(scene, ran, "release_unsigned")


def _byte_flipped(scene: Scene) -> None:
    file = _packed(scene, f"drill-flipped-{int(scene.began_s)}")
    raw = bytearray(file.read_bytes())
    at = raw.find(b"Made by `nightproof drill`")
    if at < 0:
        raise CannotRun("the release's own file is packed so that no byte of it could be found")
    raw[at] ^= 1
    file.write_bytes(bytes(raw))
    key = scene.stage.root / f"{file.stem}.pem"
    trusted = _trust(scene, key)
    with scene.fault():
        ran = scene.stage.run("release", str(file), "--json")
        scene.hold_until_alert(at_least_s=0.5)
    scene.notes.append(f"trust add ended with {trusted.code}")
    _claim_refused(scene, ran, "release_damaged")


def _trust(scene: Scene, key: Path) -> Ran:
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    public = key.with_suffix(".pub")
    public.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return scene.stage.run("trust", "add", str(public), "--json")


def _other_framework(scene: Scene) -> None:
    version = f"drill-python-{int(scene.began_s)}"
    folder, _ = scene.stage.make_folder(version)
    with scene.fault():
        ran = scene.stage.run(
            "release", str(folder), "--version", version, "--python", "/nowhere/bin/python", "--json"
        )
        scene.hold_until_alert(at_least_s=0.5)
    _claim_refused(scene, ran, "release_incompatible")


def _worse_than_it_says(scene: Scene) -> None:
    version = f"drill-worse-{int(scene.began_s)}"
    folder, cue_file = scene.stage.make_folder(version)
    set_cue(cue_file, {"act": "lie", "confidence": scene.declared.confidence_field})
    with scene.fault():
        scene.undo("the release's cue", lambda: set_cue(cue_file, None))
        ran = scene.stage.release(folder, version)
        scene.hold_until_alert(at_least_s=0.5)
    _claim_refused(scene, ran, "release_refused")


def _pickle_with_code(scene: Scene) -> None:
    """Put a pickle that runs code and calls itself JSON into a release: it must be refused before it runs."""
    version = f"drill-pickle-{int(scene.began_s)}"
    folder, _ = scene.stage.make_folder(version)
    canary = scene.stage.root / "it-ran"
    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    # By hand, not by pickle: a call of os.system when it is loaded.
    (artifacts / "extra.json").write_bytes(
        b"\x80\x02cos\nsystem\n(S'touch " + json.dumps(str(canary)).encode() + b"'\ntR."
    )
    with scene.fault():
        ran = scene.stage.release(folder, version)
        scene.hold_until_alert(at_least_s=0.5)
    _claim_refused(scene, ran, "release_refused")
    scene.claim(judge.claim_equal("contained", "its code ran", promised=False, seen=canary.exists()))


def _gate(failure: str) -> object:
    def make(declared: Description) -> Promise:
        return promised(declared, failure, shelter="all", harmed_at_most=0.02, ends_within_s=0.0)

    return make


DRILLS = [
    Drill(
        name="rollback_under_load",
        group="rollback",
        breaks="a release is promoted and rolled back by hand while callers ask",
        proves=("release_rolled_back",),
        promise=lambda declared: promised(
            declared, shelter="all", harmed_at_most=0.01, alert="", no_alert_why="an operator did it"
        ),
        act=_rolled_back_by_hand,
        setting=QUICK_STEPS,
    ),
    Drill(
        name="bad_release_as_canary",
        group="rollback",
        breaks="a canary fails four requests of five",
        proves=("canary_worse",),
        promise=lambda declared: promised(
            declared, "canary_worse", may_fail=("model_error",), alert_within_s=90.0, ends_within_s=0.0,
        ),
        act=_bad_canary,
        setting=QUICK_STEPS,
        frameworks=_SUPPLY,
    ),
    Drill(
        name="canary_without_traffic",
        group="rollback",
        breaks="a canary gets no traffic that it could be judged by",
        proves=("canary_undecided",),
        promise=lambda declared: promised(
            declared, "canary_undecided", shelter="all", alert_within_s=60.0, ends_within_s=0.0,
        ),
        act=_idle_canary,
        setting=QUICK_STEPS,
    ),
    Drill(
        name="two_operators_at_once",
        group="rollback",
        breaks="two operators promote two releases in the same moment",
        proves=("promotion_refused",),
        promise=lambda declared: promised(
            declared, "promotion_refused", shelter="all", harmed_at_most=0.01, recorded=False, alert="",
            no_alert_why="who asked has the answer",
        ),
        act=_two_operators,
        setting=QUICK_STEPS,
    ),
    Drill(
        name="release_by_a_stranger",
        group="rollback",
        breaks="a release signed by a key that nobody trusts is handed in",
        proves=("release_unsigned",),
        promise=_gate("release_unsigned"),  # type: ignore[arg-type]
        act=_by_a_stranger,
        setting=QUICK_STEPS,
        frameworks=_SUPPLY,
    ),
    Drill(
        name="release_byte_flipped",
        group="rollback",
        breaks="one byte of a signed release is changed on its way",
        proves=("release_damaged",),
        promise=_gate("release_damaged"),  # type: ignore[arg-type]
        act=_byte_flipped,
        setting=QUICK_STEPS,
        frameworks=_SUPPLY,
    ),
    Drill(
        name="release_on_another_framework",
        group="rollback",
        breaks="a release asks for an interpreter that is not here",
        proves=("release_incompatible",),
        promise=_gate("release_incompatible"),  # type: ignore[arg-type]
        act=_other_framework,
        setting=QUICK_STEPS,
    ),
    Drill(
        name="release_worse_than_it_says",
        group="rollback",
        breaks="a release fails its own golden cases",
        proves=("release_refused",),
        promise=_gate("release_refused"),  # type: ignore[arg-type]
        act=_worse_than_it_says,
        setting=QUICK_STEPS,
    ),
    Drill(
        name="release_with_disguised_pickle",
        group="rollback",
        breaks="a release carries a pickle that runs a command and calls itself JSON",
        proves=("release_refused",),
        promise=lambda declared: promised(
            declared, "release_refused", shelter="all", harmed_at_most=0.02, alert="",
            no_alert_why="the same alert stands already, for ten minutes",
        ),
        act=_pickle_with_code,
        setting=QUICK_STEPS,
        frameworks=_SUPPLY,
    ),
    Drill(
        name="bad_release_promoted",
        group="rollback",
        breaks="a release goes live at once and fails every request",
        proves=("release_rolled_back", "availability_burning"),
        promise=lambda declared: promised(
            declared, "release_rolled_back", shelter="covered", may_fail=("model_error", "model_unavailable"),
            harmed_at_most=1.0, alert_within_s=90.0, ends_within_s=0.0, recover_within_s=20.0,
        ),
        act=_bad_promoted,
        setting=QUICK_STEPS,
        frameworks=_SUPPLY,
        spoils_stage=True,
    ),
    Drill(
        name="bad_release_without_history",
        group="rollback",
        breaks="the only release there is turns wrong, and nothing stands behind it",
        proves=("no_way_back", "golden_case_failed"),
        promise=lambda declared: promised(
            declared, "no_way_back", shelter=None if declared.chat is None else "named",
            may_fail=(
                "model_unavailable", "model_crash", "overloaded", "deadline_exceeded",
                *(("invalid_input",) if declared.chat is not None else ()),
            ),
            alert_within_s=45.0, recover_within_s=30.0, ends_within_s=90.0,
        ),
        act=_nothing_behind,
        applies=lambda declared, inputs: "" if declared.golden_cases else "the service has no golden cases",
    ),
]  # fmt: skip
