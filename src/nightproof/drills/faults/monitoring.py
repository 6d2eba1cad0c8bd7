"""Whether somebody is told: receivers that are down, budgets that burn, and pages that must help."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.drill import Drill
from nightproof.drills.faults.releases import made, promote
from nightproof.drills.folders import set_cue
from nightproof.drills.inputs import Inputs
from nightproof.drills.promise import promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Setting

_TWO_RECEIVERS = Setting(name="two receivers", settings={"alertmanager": "{receiver}"})
_BARE = Setting(
    name="no fallback, 100 ms promised",
    declares={
        "fallbacks": [],
        "objective": {"availability": 0.999, "latency_p99_ms": 100.0},
        "predict_timeout_ms": 280,
    },
)
_NO_PROBATION = Setting(
    name="a release that nobody takes back but operators",
    settings={"promotion.probation_s": "0"},
)
_BLOCK = re.compile(r"```(?:sh|bash)?\n(.*?)```", re.DOTALL)
_NOT_OF_THE_STAGE = frozenset({"journalctl", "systemctl", "timedatectl", "last", "dmesg", "df", "sudo"})
_NEEDS_A_NAME = re.compile(r"\b(ID|PID|FOLDER|FILE|SUBJECT|KEY_ID|VERSION)\b|FILE\.npb|/etc/|/mnt/|ca\.pem")
_MAY_SAY_BAD = re.compile(
    r"nightproof (status|alerts|drift|feedback|replay|audit (verify|reconcile)|check)\b"
)
_CUT_BY_HEAD = 141
_PAGES = (
    "model_timeout",
    "model_error",
    "overloaded",
    "audit_unavailable",
    "availability_burning",
    "drift_detected",
)


def _receiver_down(scene: Scene) -> None:
    """The webhook takes nothing: the other receiver must be told of that, and what was missed must come later."""
    receiver = scene.stage.receiver
    raised = "model_error" if scene.declared.chat is None else "check_failed"
    scene.prepare_marked()
    with scene.fault():
        scene.undo("the receiver", lambda: setattr(receiver, "is_refusing", False))
        receiver.is_refusing = True
        scene.misbehave_on_marked("raise", rate_per_s=15.0)
        scene.hold_until_alert(at_least_s=3.0)
    missed = {
        one.failure for one in receiver.told if one.by == "alertmanager" and one.at_s >= (scene.fault_s or 0)
    }

    def has_come() -> bool:
        return any(
            one.by == "webhook" and one.failure == raised and one.at_s >= (scene.undone_s or 0)
            for one in list(receiver.told)
        )

    later_s = scene.until(has_come, within_s=70.0) if raised in missed else None
    times = len(
        [
            one
            for one in receiver.told
            if one.by == "webhook" and one.failure == raised and one.state == "firing"
        ]
    )
    took_s = None if later_s is None else later_s - ((scene.undone_s or 0) - (scene.fault_s or 0))
    scene.claim(
        judge.claim_at_most("alerted", "what it missed came after", promised=65.0, seen=took_s, unit=" s")
    )
    scene.claim(judge.claim_equal("alerted", "and came once", promised=1, seen=times))


def _budget_burns(scene: Scene) -> None:
    scene.prepare_marked()
    with scene.fault():
        scene.misbehave_on_marked("raise", rate_per_s=25.0)
        scene.hold_until_alert(at_least_s=3.0)
        burning_s = scene.until(lambda: "availability_burning" in _shown(scene), within_s=30.0)
        held = _shown(scene).get("availability_burning", "")
    told = any(one.failure == "availability_burning" for one in scene.stage.receiver.told)
    scene.claim(
        judge.claim_at_most(
            "alerted", "the burning budget is judged", promised=30.0, seen=burning_s, unit=" s"
        )
    )
    scene.claim(judge.claim_equal("alerted", "it is told beside its cause", promised=False, seen=told))
    scene.notes.append(f"availability_burning is held by: {held or 'nothing'}")


def _shown(scene: Scene) -> dict[str, str]:
    told = scene.stage.operate("GET", "/admin/alerts") or {}
    return {one["failure"]: one["held_by"] for one in told.get("alerts", []) if one["state"] == "firing"}


def _slow_budget(scene: Scene) -> None:
    with scene.fault():
        scene.cue(act="slow", ms=140)
        scene.hold_until_alert(at_least_s=5.0)
        held = _shown(scene).get("latency_burning")
    if held is not None:
        scene.notes.append(f"latency_burning is held by: {held or 'nothing'}")


def _runbooks(scene: Scene) -> None:
    """Open the pages of what has fired here, and run what they say to look at, as they are printed."""
    fired = {one.failure for one in scene.stage.receiver.told}
    answers: list[tuple[str, object]] = []
    unfilled: list[tuple[str, object]] = []
    with scene.fault():
        for failure in dict.fromkeys([*sorted(fired), *_PAGES]):
            page = scene.stage.run("runbook", failure, "--service", scene.stage.service)
            if page.code != 0:
                answers.append((f"runbook {failure}", page.err.strip()[-200:]))
                continue
            unfilled.append((failure, "localhost:8000" in page.out))
            for command in _commands(page.out, "Look here"):
                answers.append((f"{failure}: {command}", _try(scene, command)))
    scene.claim(
        judge.claim_all(
            "contained", "commands under Look here", answers, promised="exit 0, or 1 that says what is bad",
            good=lambda told: told == "",
        )
    )  # fmt: skip
    scene.claim(
        judge.claim_all(
            "contained",
            "pages with this server's address",
            unfilled,
            promised="all",
            good=lambda told: told is False,
        )
    )
    scene.notes.append(f"{len(answers)} commands of {len(unfilled)} pages were run")


def _bad_release_by_the_page(scene: Scene) -> None:
    """Make a release live that fails on what its golden cases do not show; do what the alert's page says."""
    stage = scene.stage
    before, version = stage.live(), f"drill-page-{int(scene.began_s)}"
    failure = "model_error" if scene.declared.chat is None else "check_failed"
    cue_file, marked = made(scene, version), scene.prepare_marked()
    with scene.fault():
        scene.undo("the release's cue", lambda: set_cue(cue_file, None))
        promoted = promote(scene, version, "--now")
        set_cue(cue_file, {"act": "raise", "field": marked.field, "value": marked.value})
        scene.send_too([marked.record], rate_per_s=20.0)
        scene.hold_until_alert(at_least_s=1.0)
        page = stage.run("runbook", failure, "--service", stage.service)
        commands = _commands(page.out, "Do this")
        ended: list[tuple[str, object]] = [(command, _try(scene, command)) for command in commands]
        live = stage.live()
    scene.claim(judge.claim_equal("contained", "promote's exit code", promised=0, seen=promoted.code))
    scene.claim(
        judge.claim_all(
            "recovered", "commands under Do this", ended, promised="exit 0", good=lambda told: told == ""
        )
    )
    scene.claim(judge.claim_equal("recovered", "live after them", promised=before, seen=live))
    scene.notes.append(f"the page of {failure} says: {'; '.join(commands) or 'nothing to run'}")


def _commands(page: str, section: str) -> list[str]:
    """Return the commands in one section of a page that can be run in a stage as they stand."""
    part = page.partition(f"## {section}\n")[2].partition("\n## ")[0]
    blocks = [block.replace("\\\n", " ") for block in _BLOCK.findall(part)]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    wanted = [line.partition("  #")[0].strip() for line in lines if line and not line.startswith("#")]
    return [
        line for line in wanted if line.split()[0] not in _NOT_OF_THE_STAGE and not _NEEDS_A_NAME.search(line)
    ]


def _try(scene: Scene, command: str) -> str:
    """Run a line as somebody pastes it; return what is wrong with how it ended, or nothing."""
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "NIGHTPROOF_STATE": str(scene.stage.state),
    }
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in env.items())
    done = scene.stage.run_command(
        ["bash", "-o", "pipefail", "-c", f"export {exports}\n{command}"], within_s=60.0
    )
    is_answer = done.code == 1 and _MAY_SAY_BAD.match(command) is not None
    finds_nothing = done.code == 1 and "grep" in command
    if done.code in (0, _CUT_BY_HEAD) or is_answer or finds_nothing:
        return ""
    return f"exit {done.code}: {(done.err or done.out).strip()[-160:]}"


def _has_room_to_be_slow(declared: Description, inputs: Inputs) -> str:
    if declared.deadline_ms < 300:
        return "deadline_ms leaves no room for an answer that is slow and still in time"
    return ""


DRILLS = [
    Drill(
        name="runbooks_followed",
        group="runbooks",
        breaks="nothing: the pages of what has fired are opened, and their commands run",
        proves=(),
        promise=lambda declared: promised(
            declared, shelter="all", harmed_at_most=0.02, alert="", no_alert_why="nothing is wrong"
        ),
        act=_runbooks,
    ),
    Drill(
        name="bad_release_by_the_page",
        group="runbooks",
        breaks="a release fails half of its requests and stays: an operator does what the alert's page says",
        proves=("model_error",),
        promise=lambda declared: promised(
            declared, "model_error", shelter="covered", may_fail=("model_unavailable",), harmed_at_most=1.0,
            alert_within_s=40.0, recover_within_s=15.0, ends_within_s=120.0,
        ),
        act=_bad_release_by_the_page,
        setting=_NO_PROBATION,
        spoils_stage=True,
    ),
    Drill(
        name="receiver_down",
        group="alerting",
        breaks="the webhook takes no alerts while the model fails",
        proves=("delivery_failing",),
        promise=lambda declared: promised(
            declared, "delivery_failing", shelter="covered", may_fail=("model_error",), harmed_at_most=1.0,
            alert_within_s=40.0, recover_within_s=15.0, ends_within_s=120.0,
        ),
        act=_receiver_down,
        setting=_TWO_RECEIVERS,
    ),
    Drill(
        name="error_budget_burn",
        group="alerting",
        breaks="half of all requests fail, and no fallback is declared (in this stage)",
        proves=("availability_burning", "model_error"),
        promise=lambda declared: promised(declared, "model_error", shelter="named"),
        act=_budget_burns,
        setting=_BARE,
        spoils_stage=True,
    ),
    Drill(
        name="slow_budget_burn",
        group="alerting",
        breaks="every answer takes 140 ms where 100 ms are promised (in this stage)",
        proves=("latency_burning",),
        promise=lambda declared: promised(
            declared, "latency_burning", shelter="named", may_fail=("overloaded", "deadline_exceeded", "model_timeout"),
            alert_within_s=30.0, ends_within_s=0.0,
        ),
        act=_slow_budget,
        setting=_BARE,
        applies=_has_room_to_be_slow,
        rate_per_s=6.0,
    ),
]  # fmt: skip
