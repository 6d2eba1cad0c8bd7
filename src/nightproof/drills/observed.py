"""What a drill saw, and what is found of it: plain values, so that judging needs no server.

All times are seconds since the drill began. Made by `run`, judged by `judge`, shown by `report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Aspect = Literal["contained", "recorded", "alerted", "recovered"]
ASPECTS: tuple[Aspect, ...] = ("contained", "recorded", "alerted", "recovered")
Word = Literal["held", "fell short", "not restored", "not applicable", "could not run"]
Ending = Literal["answered", "degraded", "refused", "failed", "lost", "torn", "hung"]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the crowd, as its caller saw it."""

    sent_s: float
    """When it was due: a server that is slow cannot hide by slowing its callers down."""
    took_s: float
    status: int = 0
    ending: Ending = "answered"
    """lost: the connection ended without an answer; torn: a stream that ended as if it were whole, and was not; hung:
    no answer in the caller's patience."""
    failure: str = ""
    """The failure that an error names, or that a fallback stands in for."""
    by: str = ""
    id: str = ""
    release: str = ""
    asked: int = 0
    """Which of the crowd's inputs it was."""
    output: str = ""
    """A digest of the model's own answer, to tell a wrong one by."""

    @property
    def ended_s(self) -> float:
        """When it was over."""
        return self.sent_s + self.took_s

    @property
    def is_harmed(self) -> bool:
        """Say whether its caller has no answer at all."""
        return self.ending in ("refused", "failed", "lost", "torn", "hung")


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One alert that reached the receiver."""

    at_s: float
    alertname: str
    failure: str
    service: str
    severity: str
    state: Literal["firing", "resolved"]
    by: str = "webhook"
    """Which of the stage's receivers was told."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the server from outside, as Prometheus and a load balancer take it."""

    at_s: float
    is_up: bool
    """It answered at all."""
    is_ready: bool = False
    is_live: bool = True
    """What its liveness path said, where that is asked for."""
    conditions: tuple[str, ...] = ()
    workers_ready: int = 0
    memory_bytes: int = 0
    pid: int = 0
    """Of the server process, whose memory it is."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that this drill alone promises, with what was seen of it."""

    aspect: Aspect
    what: str
    promised: str
    seen: str
    holds: bool


class Records(msgspec.Struct, frozen=True, kw_only=True):
    """What the auditor found afterwards."""

    acknowledged: int = 0
    """Calls of which a caller was told an id."""
    missing: int = 0
    """Those of them that have no record."""
    is_verified: bool = True
    verified: str = ""
    """What `audit verify` said."""
    balances: bool = True
    balance: str = ""
    """What `audit reconcile` said."""
    failures: dict[str, int] = {}
    """How often each failure was recorded meanwhile."""


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """When things happened."""

    fault_s: float
    undone_s: float
    steady_s: float | None
    """When the service was as before again; None if it was not while we waited."""
    ended_s: float


class Observations(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one drill saw."""

    marks: Marks
    calls: Sequence[Call] = ()
    told: Sequence[Told] = ()
    samples: Sequence[Sample] = ()
    claims: Sequence[Claim] = ()
    records: Records = Records()
    not_restored: str = ""
    """Why the undoing failed, if it did."""
    still_firing: tuple[str, ...] = ()
    """Alerts of this drill that were not over when we stopped waiting."""
    notes: Sequence[str] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one aspect."""

    aspect: Aspect
    word: Word
    promised: str = ""
    seen: str = ""
    seconds: float | None = None
    """To detect (contained), to alert, to recover; None where that says nothing."""


class Harm(msgspec.Struct, frozen=True, kw_only=True):
    """What callers suffered between the fault and the steady state after it."""

    calls: int = 0
    answered: int = 0
    degraded: int = 0
    refused: int = 0
    failed: int = 0
    lost: int = 0
    torn: int = 0
    hung: int = 0
    slowest_s: float = 0.0
    p99_s: float = 0.0
    wrong: int = 0
    """Answers that differ from what the same input was answered before the fault."""
    failures: dict[str, int] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One drill with its verdicts: a row of the report."""

    name: str
    group: str
    breaks: str
    word: Word
    """The worst of its verdicts."""
    why: str = ""
    """Why it did not apply or could not run; or what fell short first."""
    verdicts: tuple[Verdict, ...] = ()
    harm: Harm = Harm()
    proves: tuple[str, ...] = ()
    runbook: str = ""
    frameworks: tuple[str, ...] = ()
    took_s: float = 0.0
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    timeline: Timeline | None = None


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """What a plot of a drill needs: a bucket per quarter second, and what happened when."""

    bucket_s: float
    from_s: float
    answered: list[int]
    degraded: list[int]
    harmed: list[int]
    slowest_ms: list[float]
    fault_s: float
    undone_s: float
    alert_s: float | None = None
    steady_s: float | None = None
    resolved_s: float | None = None
