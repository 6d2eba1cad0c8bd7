"""Rows of the report: a drill with its verdicts, or with the reason why it has none."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Protocol

from nightproof.drills import judge
from nightproof.drills.observed import Observations, Result
from nightproof.drills.promise import Promise


class Listed(Protocol):
    """What every kind of drill says of itself."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def breaks(self) -> str: ...

    @property
    def proves(self) -> tuple[str, ...]: ...

    @property
    def frameworks(self) -> tuple[str, ...]: ...

    @property
    def runbook(self) -> str: ...


def judged(drill: Listed, promise: Promise, seen: Observations, *, name: str = "", took_s: float) -> Result:
    """Judge what was seen, and make the drill's row of it."""
    verdicts = judge.judge(promise, seen)
    short = [one for one in verdicts if one.word in ("fell short", "not restored")]
    return Result(
        name=name or drill.name,
        group=drill.group,
        breaks=drill.breaks,
        word=judge.worst(one.word for one in verdicts),
        why=short[0].seen if short else "",
        verdicts=verdicts,
        harm=judge.harm(judge.under_fault(seen), before=judge.before_fault(seen)),
        proves=drill.proves,
        runbook=drill.runbook,
        frameworks=drill.frameworks,
        took_s=round(took_s, 1),
        claims=tuple(seen.claims),
        notes=tuple(seen.notes),
        timeline=judge.timeline(promise, seen),
    )


def not_run(drill: Listed, word: str, why: str, *, took_s: float = 0.0) -> Result:
    """Make the row of a drill that has no verdicts."""
    return Result(
        name=drill.name,
        group=drill.group,
        breaks=drill.breaks,
        word="not applicable" if word == "not applicable" else "could not run",
        why=why,
        proves=drill.proves,
        runbook=drill.runbook,
        frameworks=drill.frameworks,
        took_s=round(took_s, 1),
    )


def place_of(error: Exception) -> str:
    """Say what went wrong in the drill itself, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"the drill failed: {type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
