"""What the drills of chat services have in common: their stages, promises, and how an answer is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nightproof.declare.chat_description import ChatDescription
from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun
from nightproof.drills.inputs import Inputs
from nightproof.drills.load import Answer, classify
from nightproof.drills.promise import Promise, Shelter, has_cover, promised
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Setting

_CLOCKS = {"connect_ms": 1_000, "first_token_ms": 1_000, "idle_ms": 1_000, "total_ms": 3_000}
STREAMING = Setting(
    name="answers leave as they come, upstream clocks of 1 to 3 s",
    declares={"clocks": _CLOCKS, "output_checks": [], "rules": {"max_chars": 262_144}},
)
"""Functions that look at whole answers are left out here: streams would be held for them."""
ALSO = ("upstream_unreachable", "upstream_limited", "upstream_timeout", "deadline_exceeded")
"""What else may be told while an upstream is in trouble: its breaker is open, or its line too long."""
RECOVERS_WITHIN_S = 40.0
"""A breaker that opened twice or three times asks again after 5, 10 and 20 s, each a fifth more or less."""


def chat_of(declared: Description) -> ChatDescription:
    """Return what makes it a chat service. Raises CannotRun for another one."""
    if declared.chat is None:
        raise CannotRun("it needs a chat service")
    return declared.chat


def upstream_promise(
    failure: str, *, begins: bool = False, also: Sequence[str] = (), **more: Any
) -> Callable[[Description], Promise]:
    """Promise what holds while the first upstream fails: the next one answers, or a fallback, or an error by name.

    With `begins` it fails after its first token, so that nobody else can take over what has left.
    """

    def make(declared: Description) -> Promise:
        is_alone = declared.chat is None or len(declared.chat.upstreams) < 2
        shelter: Shelter = "covered" if not begins and (not is_alone or has_cover(declared)) else "named"
        return promised(
            declared, failure, shelter=shelter, may_fail=(*ALSO, *also), recorded=is_alone or begins,
            alert="upstream_down", or_alerts=(failure,),
            **{"recover_within_s": RECOVERS_WITHIN_S, "ends_within_s": 90.0, **more},
        )  # fmt: skip

    return make


def of_some_callers(failure: str, **more: Any) -> Callable[[Description], Promise]:
    """Promise that who sends or asks for what is refused is told so by name; what others get is claimed by itself."""

    def make(declared: Description) -> Promise:
        return promised(declared, failure, shelter="named", **more)

    return make


def both(scene: Scene, text: str, **more: Any) -> list[tuple[str, Answer]]:
    """Ask the same, whole and streamed."""
    return [
        (
            f"{text[:40]!r}, {'streamed' if streamed else 'whole'}",
            scene.ask(scene.chats.chat(text, streamed=streamed, **more)),
        )
        for streamed in (False, True)
    ]


def ending(answer: Answer) -> str:
    """Say in a word or two how a caller was answered: `answered`, `degraded unsafe_output`, `refused tool_denied` …"""
    if not answer.status:
        return "lost"
    call = classify(answer, sent_s=0.0, took_s=0.0)
    return f"{call.ending} {call.failure}".strip()


def text_of(answer: Answer) -> str:
    """Return every word that reached the caller, also of an answer that broke off."""
    told = answer.told
    output = told.get("output")
    return str(output.get("content", "") if isinstance(output, dict) else told.get("text", ""))


def claim_endings(
    scene: Scene, what: str, answers: Sequence[tuple[str, Answer]], *, wanted: Sequence[str]
) -> None:
    """Claim that each of these ended in one of the wanted ways."""
    scene.claim(
        judge.claim_all(
            "contained", what, [(name, ending(one)) for name, one in answers], promised=" or ".join(wanted),
            good=lambda told: str(told) in wanted,
        )
    )  # fmt: skip


def claim_others_unharmed(scene: Scene) -> None:
    """Claim that the crowd, which asks for nothing of all this, was answered."""
    calls = [call for call in list(scene.crowd.calls) if call.sent_s >= (scene.fault_s or 0.0)]
    scene.claim(
        judge.claim_all(
            "contained", "the other callers", [(f"call {at}", call.ending) for at, call in enumerate(calls)],
            promised="answered", good=lambda told: told == "answered",
        )
    )  # fmt: skip


def withheld(failure: str, declared: Description) -> tuple[str, ...]:
    """Return how an answer may end that is not to leave: by its name, or by a fallback that stands in for it."""
    return (f"failed {failure}", *((f"degraded {failure}",) if declared.fallbacks else ()))


def needs_plain(declared: Description, inputs: Inputs) -> str:
    """Say why a drill that talks to the service does not fit a typed one."""
    if declared.chat is not None and declared.chat.is_typed:
        return "the service takes records and no conversations"
    return ""
