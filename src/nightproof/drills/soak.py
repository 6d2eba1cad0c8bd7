"""Random faults for hours, unattended: chosen by a seed, one after the other, on one stage; at the end the books.

Answers what single drills cannot: does anything add up? Records that are missing, callers that are stuck, memory that
grows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nightproof.base.clock import monotonic_s
from nightproof.drills import judge
from nightproof.drills.drill import Drill, NotRun
from nightproof.drills.observed import Claim, Result, Sample, Verdict
from nightproof.drills.run import Suite
from nightproof.drills.stage import pause

_SELDOM = 0.2
_BETWEEN_S = 0.2
_WARM_S = 60.0
_LEAST_SAMPLES = 40
_MOST_GROWTH_MB_PER_H = 20.0
_SHORTEST_S = 600.0
"""Of less than that no slope is told: a server that has just begun still fills its caches."""


def soak(suite: Suite, drills: Sequence[Drill | NotRun], *, seconds: float, seed: int) -> list[Result]:
    """Run drills at random until the time is up; the last result is about all of it.

    Those that end the server come in the first half only: whether memory grows, only a long life can tell.
    """
    fit = [one for one in drills if isinstance(one, Drill) and one.in_soak and suite.applies(one)]
    # It only chooses what is broken next; nothing secret depends on it.
    draw = random.Random(seed)  # noqa: S311
    half_s, until_s = monotonic_s() + seconds / 2, monotonic_s() + seconds
    rounds: Counter[str] = Counter()
    weights = [_SELDOM if drill.ends_server else 1.0 for drill in fit]
    weights_later = [0.0 if drill.ends_server else 1.0 for drill in fit]
    while monotonic_s() < until_s and fit:
        weights = weights if monotonic_s() < half_s or not any(weights_later) else weights_later
        (drill,) = draw.choices(fit, weights)
        rounds[drill.name] += 1
        suite.run_one(drill, name=f"{drill.name}#{rounds[drill.name]}")
        pause(_BETWEEN_S)
    faults = len(suite.results)
    suite.close()
    suite.add(result_of(suite.books, suite.samples(), faults=faults))
    return suite.results


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How the memory of a server process went."""

    slope_mb_per_h: float
    """Over the later half of its life."""
    lived_s: float
    first_mb: float
    """Once it had been up for a minute."""
    last_mb: float


def growth(samples: Sequence[Sample]) -> Growth | None:
    """Return how memory went in the longest life of a server process; None of too little.

    The slope is that of the later half: each kind of fault leaves its high-water mark the first time, a leak goes on.
    By Theil and Sen, the median of slopes between pairs: a garbage collection or a busy minute does not move it.
    """
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        if sample.memory_bytes and sample.pid:
            lives.setdefault(sample.pid, []).append(sample)
    longest = max(lives.values(), key=lambda life: life[-1].at_s - life[0].at_s, default=[])
    life = [sample for sample in longest if sample.at_s - longest[0].at_s > _WARM_S]
    if len(life) < _LEAST_SAMPLES:
        return None
    lived_s = life[-1].at_s - longest[0].at_s
    later_half = [sample for sample in life if sample.at_s - longest[0].at_s >= lived_s / 2]
    thin = later_half[:: max(1, len(later_half) // 200)]
    slopes = sorted(
        (later.memory_bytes - earlier.memory_bytes) / (later.at_s - earlier.at_s)
        for place, earlier in enumerate(thin)
        for later in thin[place + 1 :]
        if later.at_s > earlier.at_s
    )
    return Growth(
        slope_mb_per_h=slopes[len(slopes) // 2] * 3_600 / 1e6,
        lived_s=lived_s,
        first_mb=life[0].memory_bytes / 1e6,
        last_mb=life[-1].memory_bytes / 1e6,
    )


def result_of(books: Sequence[Claim], samples: Sequence[Sample], *, faults: int) -> Result:
    """Say what all of it came to. Pure."""
    found = growth(samples)
    notes = [f"{faults} faults"]
    claims = list(books)
    if found is not None:
        notes.append(
            f"memory of one server process over {found.lived_s / 60:.0f} min: {found.first_mb:.0f} MB after a minute, "
            f"{found.last_mb:.0f} MB at its end, {found.slope_mb_per_h:+.1f} MB/h over the later half"
        )
        if found.lived_s >= _SHORTEST_S:
            claims.append(
                judge.claim_at_most(
                    "contained",
                    "memory's slope",
                    promised=_MOST_GROWTH_MB_PER_H,
                    seen=found.slope_mb_per_h,
                    unit=" MB/h",
                )
            )
    else:
        notes.append("no server process lived long enough to tell a slope of its memory")
    verdicts = tuple(_verdict(claim) for claim in claims)
    short = [one for one in verdicts if one.word != "held"]
    return Result(
        name="soak",
        group="scaling",
        breaks="everything, at random, for as long as was asked",
        word=judge.worst(one.word for one in verdicts),
        why=short[0].seen if short else "",
        verdicts=verdicts,
        claims=tuple(claims),
        notes=tuple(notes),
    )


def _verdict(claim: Claim) -> Verdict:
    return Verdict(
        aspect=claim.aspect,
        word="held" if claim.holds else "fell short",
        promised=f"{claim.what}: {claim.promised}",
        seen=f"{claim.what}: {claim.seen}",
    )


def span_s(text: str) -> float | None:
    """Read a span of time: 90s, 30min, 8h; None where it is none."""
    for ending, unit_s in (("min", 60.0), ("h", 3_600.0), ("s", 1.0), ("m", 60.0)):
        if text.endswith(ending):
            try:
                return float(text.removesuffix(ending)) * unit_s
            except ValueError:
                return None
    return None
