"""Data that is stale, missing, in another encoding, or not what the release was made for."""

from __future__ import annotations

import json

from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.faults import wire
from nightproof.drills.faults.callers import claim_told, unharmed
from nightproof.drills.inputs import Inputs
from nightproof.drills.promise import promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Setting

_DRIFTING = Setting(
    name="drift in a minute",
    settings={"drift.watch": "true", "drift.window_s": "1", "drift.rows_per_s": "4000"},
)
_ROWS = 2_400
_AT_ONCE = 60


def _stale(scene: Scene) -> None:
    record = scene.inputs.stale()
    with scene.fault():
        answer = scene.ask(record)
        ahead = dict(record or {})
    del ahead
    claim_told(scene, "an input that is too old", [("it", wire.told(answer))], wanted=("422 stale_input",))


def _missing(scene: Scene) -> None:
    record = scene.inputs.good()[0]
    required = scene.declared.input_schema.get("required", [])
    cases = [
        (f"without {name}", {key: value for key, value in record.items() if key != name})
        for name in required[:20]
    ]
    cases += [("nothing at all", {}), ("null", dict.fromkeys(record))]
    with scene.fault():
        answers = [(name, wire.told(scene.ask(one))) for name, one in cases if required or one != {}]
        several = scene.ask([record, {}, record])
    items = several.told.get("items")
    endings = (
        [("failure" if "failure" in one else "answer") for one in items]
        if isinstance(items, list)
        else [wire.told(several)]
    )
    claim_told(scene, "records with gaps", answers, wanted=("422 invalid_input",))
    if required:
        scene.claim(
            judge.claim_equal(
                "contained", "one gap among three", promised=["answer", "failure", "answer"], seen=endings
            )
        )


def _encoding(scene: Scene) -> None:
    record = scene.inputs.good()[0]
    text = json.dumps(record, ensure_ascii=False)
    name = next(iter(record), "x")
    cases = [
        ("UTF-16", text.encode("utf-16")),
        ("UTF-16 without a mark", text.encode("utf-16-le")),
        ("a byte order mark", b"\xef\xbb\xbf" + text.encode()),
        ("Latin-1", f'{{"{name}": "caf\u00e9"}}'.encode("latin-1")),
        ("an overlong slash", b'{"' + name.encode() + b'": "\xc0\xaf"}'),
        ("half a surrogate", f'{{"{name}": "\\ud800"}}'.encode()),
        ("zeros", b"\x00" * 64),
    ]
    with scene.fault():
        answers = [(what, wire.told(scene.ask(body))) for what, body in cases]
    claim_told(scene, "bodies in another encoding", answers, wanted=("400 malformed_request",))


def _drifts(scene: Scene) -> None:
    rows = scene.inputs.drifted(_ROWS)
    if not rows:
        raise CannotRun("no number of the input has room to move within its limits")
    ready_s = scene.until(lambda: _drift_state(scene) not in ("preparing", "unknown", ""), within_s=60.0)
    if ready_s is None:
        raise CannotRun("the drift watch did not become ready")
    most = min(_AT_ONCE, scene.declared.max_items)
    batches = [rows[at : at + most] for at in range(0, len(rows), most)]
    with scene.fault():
        scene.send_too(batches, rate_per_s=4.0)
        drifting_s = scene.until(lambda: _drift_state(scene) == "drifting", within_s=40.0)
        scene.hold_until_alert(at_least_s=0.5)
    named = ((scene.stage.status().get("services") or [{}])[0].get("drift") or {}).get("features", [])
    scene.notes.append(f"drift was seen in {', '.join(named)}")
    scene.claim(judge.claim_at_most("contained", "drift is seen", promised=40.0, seen=drifting_s, unit=" s"))


def _drift_state(scene: Scene) -> str:
    told = scene.stage.operate("GET", f"/admin/drift/{scene.stage.service}")
    return str((told or {}).get("state", ""))


def _has_fresh(declared: Description, inputs: Inputs) -> str:
    return "" if inputs.stale() is not None else "no field of the input is declared Fresh"


DRILLS = [
    Drill(
        name="stale_input",
        group="data",
        breaks="an input whose time is older than the service allows",
        proves=("stale_input",),
        promise=unharmed("stale_input"),
        act=_stale,
        applies=_has_fresh,
        in_soak=True,
    ),
    Drill(
        name="missing_data",
        group="data",
        breaks="records with gaps, alone and among good ones",
        proves=("invalid_input",),
        promise=unharmed("invalid_input"),
        act=_missing,
        is_quick=True,
        in_soak=True,
    ),
    Drill(
        name="encoding_mess",
        group="input",
        breaks="texts in UTF-16 and Latin-1, half a surrogate, zeros",
        proves=("malformed_request",),
        promise=unharmed("malformed_request"),
        act=_encoding,
        in_soak=True,
    ),
    Drill(
        name="data_drifts",
        group="data",
        breaks="callers send what the release was not made for (windows of a second instead of ten)",
        proves=("drift_detected",),
        promise=lambda declared: promised(
            declared, "drift_detected", shelter="covered", may_fail=("invalid_input", "overloaded"), harmed_at_most=1.0,
            recorded=False, alert_within_s=75.0, ends_within_s=0.0,
        ),
        act=_drifts,
        setting=_DRIFTING,
        rate_per_s=15.0,
        frameworks=("OWASP ML08", "ATLAS AML.T0031"),
    ),
]  # fmt: skip
