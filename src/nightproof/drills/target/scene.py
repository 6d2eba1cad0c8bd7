"""One drill of a target, and what such a drill is: like a stage's, but all that is known is what an adapter tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from nightproof.drills.load import Crowd, ask_all
from nightproof.drills.observed import Call
from nightproof.drills.promise import Promise, Shelter
from nightproof.drills.scene import Experiment
from nightproof.drills.target.adapter import Adapter
from nightproof.drills.target.place import TOLD_NO, TargetPlace

GRACE_S = 0.5
_PATIENCE_S = 3.0


class TargetScene(Experiment):
    """Where one drill of a target happens."""

    def __init__(self, place: TargetPlace, crowd: Crowd, *, promise: Promise, seed: int) -> None:
        super().__init__(crowd, promise=promise, seed=seed)
        self.place = place
        self.adapter = place.adapter

    @property
    def deadline_s(self) -> float:
        """How long a caller waits at most."""
        return self.adapter.deadline_s

    def ask(
        self,
        bodies: Sequence[Any],
        *,
        at_once: int = 4,
        patience_s: float = 0.0,
        headers: Sequence[tuple[str, str]] = (),
    ) -> list[Call]:
        """Ask for each of these, on connections of their own; bytes go as they are."""
        requests = [self.place.request(as_bytes(body), headers) for body in bodies]
        calls = ask_all(
            self.place, requests, at_once=at_once, patience_s=patience_s or self.deadline_s + _PATIENCE_S
        )
        self.own += calls
        return calls

    def crowd_of(self, bodies: Sequence[Any], *, rate_per_s: float) -> Crowd:
        """Make more callers; whoever makes them starts them, and registers their stop."""
        return Crowd(
            self.place,
            [as_bytes(body) for body in bodies],
            rate_per_s=rate_per_s,
            patience_s=self.deadline_s + _PATIENCE_S,
            seed=self.seed + 1,
        )

    def judge_too(self, crowd: Crowd) -> None:
        """Judge what these callers were told like what the first crowd was told; their inputs are others."""
        self.others += [msgspec.structs.replace(call, output="") for call in crowd.calls]


@dataclass(frozen=True, kw_only=True)
class TargetDrill:
    """One experiment on a server of which only an adapter is known."""

    name: str
    group: str
    breaks: str
    proves: tuple[str, ...]
    """What the failure is called in our catalogue."""
    promise: Callable[[Adapter], Promise]
    act: Callable[[TargetScene], None]
    needs: Callable[[Adapter], str] = lambda adapter: ""
    """What the adapter lacks for it; empty where it has all."""
    frameworks: tuple[str, ...] = ()
    rate_per_s: float = 20.0
    runbook: str = ""
    """Runbooks are about Nightproof: another server's are its own."""


def promised_of(
    adapter: Adapter,
    *,
    shelter: Shelter = "all",
    harmed_at_most: float = 0.0,
    may_fail: tuple[str, ...] = TOLD_NO,
) -> Promise:
    """Say what may be expected of any server: the adapter's deadline is kept, and an error is told by its status."""
    has_health = adapter.health.live or adapter.health.ready
    return Promise(
        shelter=shelter,
        may_fail=may_fail,
        harmed_at_most=harmed_at_most,
        answer_within_s=adapter.deadline_s + GRACE_S,
        recover_within_s=adapter.recover_within_s,
        no_record_why="an audit log cannot be read from outside",
        no_alert_why="" if has_health else "the adapter knows no health path",
    )


def as_bytes(body: Any) -> bytes:
    """Write a body; bytes go as they are."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def told(call: Call) -> str:
    """Say in a word what a caller was told."""
    if call.ending == "hung":
        return f"nothing in {call.took_s:.0f} s"
    if call.ending == "lost":
        return "hung up"
    return f"{call.status}" + (f", {call.failure}" if call.status < 400 and call.failure else "")
