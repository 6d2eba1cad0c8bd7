"""Make a chat service ask the stage's upstreams, and its checks misbehave on cue. Run in the workers of a stage.

What stands in for a model that misbehaves is one more input check: it runs in the worker, on the same clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightproof.declare.chat import ChatService
from nightproof.declare.chat_description import BudgetDescription, InputCheckDescription
from nightproof.declare.endpoint import DeclaredCheck
from nightproof.drills.misbehave import Cue, declare

CHECK = "drill_check"
_OURS = ("upstream_urls", "own_upstreams", "clocks", "checks", "budget", "rules", "files")


def wrap_chat(service: ChatService, cue: Cue, declares: Mapping[str, Any]) -> ChatService:
    """Return the service with the stage's upstreams, a check that does as the cue says, and what is declared here."""
    cue.load()
    urls = [] if declares.get("own_upstreams") else declares.get("upstream_urls", [])
    clocks = declares.get("clocks", {})
    if urls:
        service.upstreams = [
            msgspec.structs.replace(
                one, base_url=url, command=[], secret="", proxy="", http2=False, private=False
            )
            for one, url in zip(service.upstreams, urls, strict=False)
        ]
        if len(service.upstreams) < 2:
            service.hedge_ms = 0
    service.upstreams = [msgspec.structs.replace(one, **clocks) for one in service.upstreams]
    checks = msgspec.convert(declares.get("checks", {}), dict[str, InputCheckDescription])
    service.checks = {**service.checks, **checks}
    service.rules = msgspec.structs.replace(service.rules, **declares.get("rules", {}))
    if "budget" in declares:
        service.budget = msgspec.convert(declares["budget"], BudgetDescription)
    declare(service, {name: value for name, value in declares.items() if name not in _OURS})
    look = DeclaredCheck(CHECK, lambda given: cue.look_at_chat(_said(given)), "refuse")
    service.input_checks = [*service.input_checks, look]
    return service


def _said(given: Any) -> str:
    """Write what a check is given, so that a word can be found in it."""
    return json.dumps(given, ensure_ascii=False, default=lambda value: value.model_dump(mode="json"))


def failing_check(name: str, cue_file: str) -> Callable[[Sequence[str]], dict[str, list[float]]]:
    """Return a check that finds nothing, and does as the cue says where that is about it and what it is given."""
    cue = Cue(Path(cue_file))

    def look(texts: Sequence[str]) -> dict[str, list[float]]:
        told = cue.told()
        if told.get("check") == name and str(told.get("value", "")) in " ".join(texts):
            cue.misbehave(str(told.get("act", "")), told)
        return {"scores": [0.0 for _ in texts]}

    return look
