"""Models that misbehave on cue: slow, hung, raising, crashing, hungry, wrong, unsure.

Callers who ask for one marked record meet the fault; the crowd asks for others, in the same batches.
"""

from __future__ import annotations

from typing import Any

from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.inputs import Inputs
from nightproof.drills.promise import Promise, has_cover, promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Setting

_INTEGRITY = ("OWASP ML09", "ATLAS AML.T0031")
_DENIAL = ("ATLAS AML.T0029",)
_TAKEN_DOWN = ("deadline_exceeded", "poison_input", "model_crash", "model_unavailable", "overloaded")
"""What else may be told where workers end faster than this machine starts them."""
SMALL_MEMORY = Setting(name="little memory", declares={"memory_mb": 640})
UNPATIENT = Setting(
    name="usual restart budget", settings={"workers.restarts": "10"}, declares={"load_timeout_s": 5}
)


def _on_marked(act: str, **more: Any) -> Any:
    def act_it(scene: Scene) -> None:
        scene.prepare_marked()
        with scene.fault():
            scene.misbehave_on_marked(act, **more)
            scene.hold_until_alert()
        _claim_guilty_named(scene)

    return act_it


def _claim_guilty_named(scene: Scene) -> None:
    """Claim that who asked for the marked record got a fallback's answer for that failure, or an error by its name."""
    guilty = [call for call in scene.others if call.ending != "answered"]
    allowed = set(scene.promise.may_fail)
    scene.claim(
        judge.claim_all(
            "contained",
            "what the guilty callers are told",
            [(call.ending, call.failure) for call in guilty],
            promised=" or ".join(sorted(allowed)),
            good=lambda failure: failure in allowed,
        )
    )


def _slow(scene: Scene) -> None:
    scene.prepare_marked()
    with scene.fault():
        scene.misbehave_on_marked("slow", rate_per_s=1.5, ms=3 * scene.declared.predict_timeout_ms)
        scene.hold_until_alert()
    _claim_guilty_named(scene)


def _unsure(scene: Scene) -> None:
    scene.prepare_marked()
    with scene.fault():
        scene.misbehave_on_marked(
            "unsure",
            rate_per_s=12.0,
            confidence=scene.declared.confidence_field,
            floor=scene.declared.confidence_floor,
        )
        scene.hold_until_alert()
    _claim_guilty_named(scene)


def _poison(scene: Scene) -> None:
    marked = scene.prepare_marked()
    with scene.fault():
        scene.cue(act="segfault", field=marked.field, value=marked.value)
        first = scene.ask(marked.record)
        found_s = scene.until(lambda: scene.ask(marked.record).failure == "poison_input", within_s=20.0)
        again = scene.ask(marked.record)
        held = scene.stage.operate("GET", "/admin/quarantine") or []
        scene.until(scene.has_alerted, within_s=scene.promise.alert_within_s)
        for one in held if isinstance(held, list) else []:
            scene.stage.operate("POST", f"/admin/quarantine/{one['id']}/release")
    scene.notes.append(f"the first caller was told {first.status} {first.failure}")
    scene.claim(
        judge.claim_at_most("contained", "found to be poison", promised=20.0, seen=found_s, unit=" s")
    )
    scene.claim(
        judge.claim_equal(
            "contained",
            "the record from then on",
            promised="422 poison_input",
            seen=f"{again.status} {again.failure}",
        )
    )
    scene.claim(judge.claim_equal("recorded", "records in quarantine", promised=1, seen=len(held)))


def _golden_wrong(scene: Scene) -> None:
    with scene.fault():
        scene.cue(act="lie", confidence=scene.declared.confidence_field)
        scene.hold_until_alert()
        out_s = scene.until(lambda: not scene.stage.is_ready(), within_s=25.0)
    # What is wrong and sure of itself can only be known by what ought to come out.
    scene.claim(
        judge.claim_at_most("contained", "no wrong answer after", promised=30.0, seen=out_s, unit=" s")
    )


def _load_never_ends(scene: Scene) -> None:
    import os
    import signal

    with scene.fault():
        scene.cue(load="raise")
        for pid in scene.stage.worker_pids():
            os.kill(pid, signal.SIGKILL)
        scene.hold_until_alert()


def _output_check(scene: Scene) -> None:
    """Find an input and a misbehaviour at which a declared output check says no."""
    floor = scene.declared.confidence_floor or 0.0
    named = {"confidence": scene.declared.confidence_field}
    barely = floor + 0.01
    tries: list[dict[str, Any]] = [
        {"act": "lie", **named},
        {"act": "lie", "sure": barely, **named},
        {"act": "unsure", "floor": 2 * barely, **named},
    ]
    records = [
        *scene.inputs.good(),
        *scene.inputs.far(),
        *(one.record for one in list(scene.inputs.marked())[:40]),
    ]
    for cue in tries:
        scene.undo("the model's cue", lambda: scene.stage.cue(None))
        scene.stage.cue(cue)
        found = [record for record in records if scene.ask(record).failure == "unsafe_output"]
        scene.undo_all()
        if found:
            with scene.fault():
                scene.cue(**cue)
                scene.send_too(found[:1], rate_per_s=8.0)
                scene.hold_until_alert()
            return
    raise CannotRun("no input was found at which an output check of the service says no")


def _failing(failure: str, **more: Any) -> Any:
    def make(declared: Description) -> Promise:
        return promised(declared, failure, **more)

    return make


def _needs_confidence(declared: Description, inputs: Inputs) -> str:
    if declared.confidence_floor is None:
        return "the service declares no confidence_floor"
    return ""


def _needs_output_check(declared: Description, inputs: Inputs) -> str:
    return "" if declared.output_checks else "the service declares no output check"


def _needs_golden(declared: Description, inputs: Inputs) -> str:
    return (
        ""
        if declared.golden_cases
        else "the service has no golden cases: a model that lies would not be noticed"
    )


def _golden_promise(declared: Description) -> Promise:
    # A model that is wrong answers wrongly until its golden cases show it; a check that is wrong refuses what is good.
    wrongly = ("invalid_input",) if declared.chat is not None else ()
    return promised(
        declared, "golden_case_failed", shelter="covered" if has_cover(declared) and not wrongly else "named",
        may_fail=("model_unavailable", "model_crash", "overloaded", "deadline_exceeded", *wrongly),
        alert_within_s=30.0, recover_within_s=30.0, ends_within_s=90.0,
    )  # fmt: skip


def _eat(scene: Scene) -> None:
    scene.prepare_marked()
    with scene.fault():
        scene.misbehave_on_marked("eat", rate_per_s=2.0)
        scene.hold_until_alert(at_least_s=4.0)
        scene.until(lambda: scene.stage.count("nightproof_worker_restarts_total") > 0, within_s=10.0)
        for one in scene.stage.operate("GET", "/admin/quarantine") or []:
            scene.stage.operate("POST", f"/admin/quarantine/{one['id']}/release")


DRILLS = [
    Drill(
        name="slow_model",
        group="degradation",
        breaks="the model takes three times its time for one record, which comes again and again",
        proves=("model_timeout", "deadline_exceeded"),
        promise=_failing(
            "model_timeout", may_fail=_TAKEN_DOWN, or_alerts=("model_unavailable",),
            or_recorded=_TAKEN_DOWN, alert_within_s=30.0,
            recover_within_s=20.0,
        ),
        act=_slow,
        is_quick=True,
        in_soak=True,
        frameworks=_DENIAL,
    ),
    Drill(
        name="model_hangs",
        group="degradation",
        breaks="the model never returns for one record",
        proves=("model_timeout",),
        promise=_failing(
            "model_timeout", may_fail=_TAKEN_DOWN, or_alerts=("model_unavailable",),
            or_recorded=_TAKEN_DOWN, alert_within_s=30.0,
            recover_within_s=20.0,
        ),
        act=_on_marked("hang", rate_per_s=1.5),
        in_soak=True,
        frameworks=_DENIAL,
    ),
    Drill(
        name="model_raises",
        group="degradation",
        breaks="the model raises an exception for one record",
        proves=("model_error",),
        promise=_failing("model_error"),
        act=_on_marked("raise"),
        is_quick=True,
        in_soak=True,
    ),
    Drill(
        name="model_answers_garbage",
        group="output",
        breaks="the model answers something of another type for one record",
        proves=("invalid_output",),
        promise=_failing("invalid_output"),
        act=_on_marked("wrong_type"),
        is_quick=True,
        in_soak=True,
        frameworks=_INTEGRITY,
    ),
    Drill(
        name="model_answers_nan",
        group="output",
        breaks="the model answers NaN for one record",
        proves=("invalid_output",),
        promise=_failing("invalid_output"),
        act=_on_marked("nan"),
        in_soak=True,
        frameworks=_INTEGRITY,
    ),
    Drill(
        name="model_answers_too_few",
        group="output",
        breaks="the model answers one row too few",
        proves=("invalid_output",),
        promise=_failing("invalid_output"),
        act=_on_marked("short"),
        in_soak=True,
        frameworks=_INTEGRITY,
    ),
    Drill(
        name="low_confidence",
        group="output",
        breaks="the model is not sure of one record in three",
        proves=("low_confidence",),
        promise=_failing("low_confidence"),
        act=_unsure,
        applies=_needs_confidence,
        in_soak=True,
    ),
    Drill(
        name="output_check_fails",
        group="output",
        breaks="the model answers what an output check of the service refuses",
        proves=("unsafe_output",),
        promise=_failing("unsafe_output", may_fail=("low_confidence", "invalid_output")),
        act=_output_check,
        applies=_needs_output_check,
        frameworks=_INTEGRITY,
    ),
    Drill(
        name="poison_record",
        group="input",
        breaks="one record makes the model's process segfault, and is sent again and again",
        proves=("poison_input", "model_crash"),
        promise=_failing(
            "poison_input", shelter="covered", may_fail=("model_crash",), harmed_at_most=0.05, alert_within_s=25.0
        ),
        act=_poison,
        is_quick=True,
        frameworks=("ATLAS AML.T0043", "ATLAS AML.T0029"),
    ),
    Drill(
        name="golden_cases_wrong",
        group="output",
        breaks="the model turns sure of itself and wrong, golden cases included",
        proves=("golden_case_failed", "model_unavailable"),
        promise=_golden_promise,
        act=_golden_wrong,
        applies=_needs_golden,
        frameworks=_INTEGRITY,
    ),
    Drill(
        name="worker_out_of_memory",
        group="health",
        breaks="the model eats all memory for one record (declared down to 640 MB for this stage)",
        proves=("model_out_of_memory",),
        promise=_failing(
            "model_out_of_memory", shelter="covered", harmed_at_most=0.2, recorded=False, alert="",
            may_fail=("poison_input", "model_crash", "model_timeout", "deadline_exceeded"),
            no_alert_why="a record that does it again is poison, and that alerts",
        ),
        act=_eat,
        setting=SMALL_MEMORY,
        frameworks=_DENIAL,
    ),
    Drill(
        name="load_never_ends",
        group="health",
        breaks="every worker dies, and the model cannot be loaded any more",
        proves=("workers_exhausted", "model_unavailable"),
        promise=_failing(
            "workers_exhausted", shelter="named", alert_within_s=60.0, recover_within_s=80.0, ends_within_s=90.0,
            may_fail=("model_unavailable", "model_crash", "overloaded", "deadline_exceeded"),
        ),
        act=_load_never_ends,
        setting=UNPATIENT,
        spoils_stage=True,
    ),
]  # fmt: skip
