"""More load than there is room for: from everybody, from one key, in waves.

The model of these stages takes 20 ms and one record at a time, so that this machine can send ten times what it can do.
"""

from __future__ import annotations

import json
from dataclasses import replace

from nightproof.base.clock import monotonic_s
from nightproof.drills import judge
from nightproof.drills.drill import Drill
from nightproof.drills.load import Crowd, ask_all
from nightproof.drills.promise import promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Setting, pause

_MODEL_MS = 20
_SLOWER = {"act": "slow", "ms": _MODEL_MS}
_NARROW = Setting(
    name="20 ms a record, one at a time",
    declares={"max_batch": 1, "workers": [1, 1], "spares": 1},
    cue=_SLOWER,
)
_ELASTIC_SPARES = 1
_ELASTIC = Setting(
    name="one to three workers, 20 ms a record",
    declares={"max_batch": 1, "workers": [1, 3], "spares": _ELASTIC_SPARES},
    cue=_SLOWER,
)
_QUOTA = Setting(name="a quota per key", settings={"limits.quota_per_s": "80", "limits.quota_burst": "40"})
_FLOOD = ("OWASP API4", "ATLAS AML.T0029", "ATLAS AML.T0046")
_FOR_S = 6.0
_GOODPUT_SHARE = 0.8
"""Of the capacity measured before; the callers run on the same cores as the server."""


def _capacity(scene: Scene) -> float:
    """Measure what the service answers a second with callers who wait for their answer."""
    body = json.dumps(scene.inputs.good()[0]).encode()
    requests = [scene.stage.place.request(body)] * 120
    began_s = monotonic_s()
    calls = ask_all(scene.stage.place, requests, at_once=4)
    return sum(call.ending == "answered" for call in calls) / (monotonic_s() - began_s)


def _overload(scene: Scene) -> None:
    scene.crowd.rate_per_s = 5.0
    capacity = _capacity(scene)
    offered = 10 * capacity
    with scene.fault():
        scene.undo("the crowd's rate", lambda: setattr(scene.crowd, "rate_per_s", 15.0))
        flood = scene.send_too(scene.inputs.good(), rate_per_s=offered)
        scene.hold(_FOR_S)
        scene.until(scene.has_alerted, within_s=6.0)
        sent, lasted_s = flood.sent, scene.since_fault_s
    calls = [call for call in scene.others if call.sent_s <= (scene.fault_s or 0) + lasted_s]
    good = sum(call.ending == "answered" for call in calls) / lasted_s
    refused = sorted(call.took_s for call in calls if call.ending == "refused")
    scene.notes.append(f"capacity {capacity:.0f}/s, offered {sent / lasted_s:.0f}/s, answered {good:.0f}/s")
    scene.claim(
        judge.claim_at_least(
            "contained",
            "answered a second meanwhile",
            promised=_GOODPUT_SHARE * capacity,
            seen=good,
            unit="/s",
        )
    )
    p99_s = refused[int(0.99 * (len(refused) - 1))] if refused else None
    scene.claim(judge.claim_at_most("contained", "p99 of a refusal", promised=0.25, seen=p99_s, unit=" s"))
    scene.claim(
        judge.claim_at_least(
            "contained", "times the capacity that was offered", promised=5.0, seen=sent / lasted_s / capacity
        )
    )


def _greedy(scene: Scene) -> None:
    greedy_key = scene.stage.make_key("predict", "--name", "greedy")
    place = scene.stage.place
    theirs = replace(place, key=greedy_key)
    bodies = [json.dumps(record).encode() for record in scene.inputs.good()]
    with scene.fault():
        crowd = Crowd(theirs, bodies, rate_per_s=300.0, patience_s=5.0, seed=scene.seed)
        scene.undo("the greedy caller", crowd.stop)
        crowd.start()
        scene.hold_until_alert(at_least_s=5.0)
    let_in = [call for call in crowd.calls if call.ending == "answered"]
    span_s = max(0.1, crowd.calls[-1].sent_s - crowd.calls[0].sent_s) if crowd.calls else 0.1
    shut_out = {call.failure for call in crowd.calls if call.ending == "refused"}
    scene.claim(
        judge.claim_at_most(
            "contained", "answers a second for the greedy key", promised=90.0, seen=len(let_in) / span_s
        )
    )
    scene.claim(judge.claim_equal("contained", "what it is told", promised={"quota_exceeded"}, seen=shut_out))


def _scale(scene: Scene) -> None:
    """More than one worker can do for a while, then little again: count the workers, and how often they change."""
    seen: list[tuple[float, int]] = []

    def note() -> int:
        # All there are, those that load included, but for the spare.
        counts = scene.stage.metrics().get("nightproof_workers", ())
        active = int(sum(value for _, value in counts)) - _ELASTIC_SPARES
        if not seen or seen[-1][1] != active:
            seen.append((scene.since_fault_s, active))
        return active

    with scene.fault():
        scene.undo("the crowd's rate", lambda: setattr(scene.crowd, "rate_per_s", 15.0))
        note()
        scene.crowd.rate_per_s = 75.0
        up_s = scene.until(lambda: note() >= 2, within_s=25.0)
        _watch(note, 6.0)
        scene.crowd.rate_per_s = 6.0
        quiet_from_s = scene.since_fault_s
        down_s = scene.until(lambda: note() <= 1, within_s=90.0)
    waited_s = None if down_s is None else down_s - quiet_from_s
    changes = len(seen) - 1
    scene.notes.append("workers: " + ", ".join(f"{count} at {at:.1f} s" for at, count in seen))
    scene.claim(
        judge.claim_at_most("contained", "a second worker answers after", promised=20.0, seen=up_s, unit=" s")
    )
    scene.claim(
        judge.claim_at_most(
            "recovered", "one again after the load fell", promised=75.0, seen=waited_s, unit=" s"
        )
    )
    scene.claim(judge.claim_at_most("contained", "changes of their number", promised=5, seen=changes))


def _watch(look: object, seconds: float) -> None:
    until_s = monotonic_s() + seconds
    while monotonic_s() < until_s:
        look()  # type: ignore[operator]
        pause(0.2)


DRILLS = [
    Drill(
        name="greedy_caller",
        group="scaling",
        breaks="one key sends 300 requests a second, four times its quota",
        proves=("quota_exceeded",),
        promise=lambda declared: promised(declared, "quota_exceeded", shelter="all", harmed_at_most=0.02),
        act=_greedy,
        setting=_QUOTA,
        frameworks=_FLOOD,
    ),
    Drill(
        name="overload_10x",
        group="scaling",
        breaks="ten times the load that the service can answer, from callers who do not wait",
        proves=("overloaded",),
        promise=lambda declared: promised(
            declared, "overloaded", shelter="named", may_fail=("deadline_exceeded", "model_timeout"),
            alert_within_s=12.0, recover_within_s=10.0,
        ),
        act=_overload,
        setting=_NARROW,
        rate_per_s=15.0,
        frameworks=_FLOOD,
    ),
    Drill(
        name="scale_up_and_down",
        group="scaling",
        breaks="the load rises to one and a half times what one worker can do, and falls again",
        proves=("overloaded",),
        promise=lambda declared: promised(
            declared, "overloaded", shelter="named", may_fail=("deadline_exceeded",), recorded=False, alert="",
            no_alert_why="growing is no fault; what is refused until it has grown is told to its callers",
        ),
        act=_scale,
        setting=_ELASTIC,
        rate_per_s=15.0,
    ),
]  # fmt: skip
