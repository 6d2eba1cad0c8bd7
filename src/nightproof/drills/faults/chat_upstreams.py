"""Upstreams of chat services that refuse, hang, limit, break off, lie about their end, or die."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun, Drill
from nightproof.drills.faults.chat import (
    ALSO,
    RECOVERS_WITHIN_S,
    STREAMING,
    both,
    chat_of,
    claim_others_unharmed,
    ending,
    needs_plain,
    of_some_callers,
    upstream_promise,
)
from nightproof.drills.inputs import Inputs
from nightproof.drills.promise import Promise, promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Setting, pause

_OWN_PROGRAM = Setting(
    name="the service's own programs, three restarts",
    declares={"own_upstreams": True},
    settings={"workers.restarts": "3"},
)
_DENIAL = ("OWASP LLM10", "ATLAS AML.T0029")
_MARK = "drillmark7"
_MALFORMED = (
    "malformed", "bad_utf8", "html", "wrong_type", "not_json", "truncated", "half_event", "no_finish", "no_done",
    "odd_finish", "two_choices", "error_mid", "raw_error_mid", "close_mid", "empty", "error_200", "gzip",
)  # fmt: skip
"""Each a way to answer that is none. Most would look like an answer to whoever does not look closely."""
_PAUSE_S = 4
_BROKEN = (
    "failed upstream_broken",
    "failed upstream_error",
    "failed upstream_unreachable",
    "failed upstream_limited",
)


def _refused(scene: Scene) -> None:
    with scene.fault():
        scene.undo("the upstream", scene.upstreams.revive)
        scene.upstreams.kill()
        scene.hold_until_alert()


def _lying(lie: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        with scene.fault():
            scene.lie(lie)
            scene.hold_until_alert()

    return act


def _limited(scene: Scene) -> None:
    """Ask for a pause of some seconds, and count what is asked in it."""
    before = scene.upstreams.seen().requests
    with scene.fault():
        scene.lie(f"status 429 {_PAUSE_S}")
        if scene.until(lambda: scene.upstreams.seen().requests > before + 1, within_s=10.0) is None:
            raise CannotRun("nobody asked the upstream")
        pause(0.5)  # what was on its way when the pause was asked for
        first = scene.upstreams.seen().requests
        pause(_PAUSE_S - 1.5)
        meanwhile = scene.upstreams.seen().requests - first
        scene.hold_until_alert()
    scene.claim(
        judge.claim_equal("contained", f"asked in a pause of {_PAUSE_S} s", promised=0, seen=meanwhile)
    )


def _rejects(scene: Scene) -> None:
    with scene.fault():
        scene.lie_about(_MARK, "status 400")
        body = scene.chats.chat(f"{scene.chats.question()} {_MARK}")
        scene.send_too([body, {**body, "stream": True}], rate_per_s=8.0)
        scene.hold_until_alert(at_least_s=3.0)
    claim_others_unharmed(scene)


def _slow(scene: Scene) -> None:
    """Take a while before each answer, and less than its clocks allow: nobody is to notice more than that."""
    ms = min(800, min(one.first_token_ms for one in chat_of(scene.declared).upstreams) // 2)
    with scene.fault():
        scene.lie(f"say_after {ms} {scene.upstreams.usual.partition(' ')[2]}")
        scene.hold(6.0)


def _malformed(scene: Scene) -> None:
    """Have a caller meet each lie, whole and streamed, while the crowd is answered; then look at what he has."""
    answers = []
    with scene.fault():
        for lie in _MALFORMED:
            scene.upstreams.lie_about(_MARK, lie)
            told = both(scene, f"{scene.chats.question()} {_MARK}")
            answers += [
                (f"{lie}, {how}", one) for how, (_, one) in zip(("whole", "streamed"), told, strict=True)
            ]
            pause(0.3)
        scene.undo("the upstreams' lie", lambda: scene.upstreams.lie_about(_MARK, ""))
        scene.hold_until_alert(at_least_s=0.5)
    wanted = (*_BROKEN, "failed upstream_timeout")
    scene.claim(
        judge.claim_all(
            "contained", "broken answers", [(name, ending(one)) for name, one in answers],
            promised="an error by name, or a fallback's answer",
            good=lambda told: str(told) in wanted or str(told).startswith("degraded "),
        )
    )  # fmt: skip


def _command_killed(scene: Scene) -> None:
    """Kill the service's own program as often as it is started, until its restarts are used up."""
    killed = 0
    with scene.fault():

        def kill() -> bool:
            nonlocal killed
            for pid in _programs(scene):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            return scene.has_alerted()

        scene.until(kill, within_s=scene.promise.alert_within_s)
    scene.notes.append(f"it was killed {killed} times")
    back_s = scene.until(lambda: bool(_programs(scene)), within_s=90.0)
    scene.claim(
        judge.claim_at_most("recovered", "the program runs again", promised=120.0, seen=back_s, unit=" s")
    )


def _programs(scene: Scene) -> list[int]:
    """Return the programs of the service's upstreams: children of the server that run their command."""
    words = [one.command[1] for one in chat_of(scene.declared).upstreams if len(one.command) > 1]
    server = scene.stage.server
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or server is None or not server.pid:
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            line = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == server.pid and any(word.encode() in line for word in words):
            found.append(int(entry.name))
    return found


def _has_command(declared: Description, inputs: Inputs) -> str:
    if declared.chat is None or not declared.chat.upstreams[0].command:
        return "the service's first upstream is no program that the server starts"
    return ""


def _mid(failure: str) -> Callable[[Description], Promise]:
    return upstream_promise(failure, begins=True, also=("upstream_broken", "upstream_timeout"))


DRILLS = [
    Drill(
        name="upstream_refused",
        group="degradation",
        breaks="the upstream's process is killed: its port takes no connection",
        proves=("upstream_unreachable", "upstream_down"),
        promise=upstream_promise("upstream_unreachable", also=("upstream_broken",)),
        act=_refused,
        needs_chat=True,
        is_quick=True,
        in_soak=True,
    ),
    Drill(
        name="upstream_500",
        group="degradation",
        breaks="the upstream answers everything with 500",
        proves=("upstream_error", "upstream_down"),
        promise=upstream_promise("upstream_error"),
        act=_lying("status 500"),
        needs_chat=True,
        in_soak=True,
    ),
    Drill(
        name="upstream_429",
        group="degradation",
        breaks=f"the upstream limits us and asks for a pause of {_PAUSE_S} s",
        proves=("upstream_limited",),
        promise=upstream_promise("upstream_limited", alert_within_s=40.0),
        act=_limited,
        needs_chat=True,
        in_soak=True,
        frameworks=("OWASP LLM10",),
    ),
    Drill(
        name="upstream_rejects",
        group="degradation",
        breaks="the upstream says of some requests that they are wrong",
        proves=("upstream_rejected",),
        promise=of_some_callers("upstream_rejected", alert_within_s=45.0),
        act=_rejects,
        applies=needs_plain,
        needs_chat=True,
        in_soak=True,
    ),
    Drill(
        name="upstream_slow",
        group="degradation",
        breaks="the upstream takes up to 0.8 s to its first token",
        proves=("upstream_timeout",),
        promise=lambda declared: promised(
            declared, shelter="all", harmed_at_most=0.02, alert="", no_alert_why="it is within all its clocks",
        ),
        act=_slow,
        needs_chat=True,
        in_soak=True,
    ),
    Drill(
        name="upstream_hangs",
        group="degradation",
        breaks="the upstream takes requests and never says a word",
        proves=("upstream_timeout", "upstream_down"),
        promise=upstream_promise("upstream_timeout", alert_within_s=20.0),
        act=_lying("hang"),
        setting=STREAMING,
        needs_chat=True,
        frameworks=_DENIAL,
    ),
    Drill(
        name="upstream_hangs_mid_stream",
        group="degradation",
        breaks="the upstream begins its answers and then says no more",
        proves=("upstream_timeout",),
        promise=_mid("upstream_timeout"),
        act=_lying("hang_mid"),
        setting=STREAMING,
        needs_chat=True,
        frameworks=_DENIAL,
    ),
    Drill(
        name="upstream_reset",
        group="degradation",
        breaks="the upstream hangs up in the middle of its answers",
        proves=("upstream_broken",),
        promise=_mid("upstream_broken"),
        act=_lying("reset_mid"),
        setting=STREAMING,
        needs_chat=True,
        is_quick=True,
    ),
    Drill(
        name="upstream_malformed",
        group="degradation",
        breaks=f"the upstream answers in {len(_MALFORMED)} ways that are none: cut, half a character, another type",
        proves=("upstream_broken",),
        promise=upstream_promise(
            "upstream_broken", begins=True, also=("upstream_broken", "upstream_error"), same_answers=True
        ),
        act=_malformed,
        applies=needs_plain,
        setting=STREAMING,
        needs_chat=True,
    ),
    Drill(
        name="upstream_command_killed",
        group="health",
        breaks="the program that serves the model is killed as often as it is started",
        proves=("upstream_command_failed", "upstream_down"),
        promise=lambda declared: promised(
            declared, "upstream_command_failed", shelter="named", may_fail=(*ALSO, "upstream_broken"),
            or_alerts=("upstream_down",), alert_within_s=60.0, recover_within_s=90.0 + RECOVERS_WITHIN_S,
            ends_within_s=120.0, answer_within_s=declared.deadline_ms / 1_000 + 0.5,
        ),
        act=_command_killed,
        applies=_has_command,
        setting=_OWN_PROGRAM,
        needs_chat=True,
        spoils_stage=True,
    ),
]  # fmt: skip
