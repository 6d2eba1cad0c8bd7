"""Stand-in until the detectors are merged: the interface, with one rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from nightproof.checks.chat_tasks import Finding
from nightproof.declare.chat_description import InputCheckDescription

Channel = Literal["user", "document", "tool"]
_RULE = re.compile(r"ignore (?:all |the )?(?:previous|prior|above) instructions", re.IGNORECASE)


class Untrusted(msgspec.Struct, frozen=True):
    text: str
    channel: Channel
    pointer: str


class Inspection(msgspec.Struct, omit_defaults=True):
    failure: str = ""
    detail: str = ""
    findings: list[Finding] = []
    redacted: dict[str, str] = {}
    bypassed: list[str] = []
    check_us: dict[str, int] = {}


class Inspector:
    def __init__(
        self,
        checks: Mapping[str, InputCheckDescription],
        *,
        calibration: Any = None,
        adapters: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._checks = checks

    def inspect(self, texts: Sequence[Untrusted]) -> Inspection:
        action = self._checks["injection_rules"].action
        for one in texts:
            if _RULE.search(one.text) and action != "off":
                found = Finding(check="injection_rules", rule="ignore", pointer=one.pointer, action=action)
                failure = "injection_suspected" if action == "refuse" else ""
                return Inspection(failure=failure, findings=[found])
        return Inspection()
