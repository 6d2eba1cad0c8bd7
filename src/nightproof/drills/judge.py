"""Hold what was seen against what was promised. Pure: the same observations give the same verdicts.

Four questions. Contained: what did callers suffer? Recorded: does the audit log hold it, and does it verify? Alerted:
was somebody told, by the right name, in time? Recovered: is the service as it was before?
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from nightproof.base.failures import CATALOGUE
from nightproof.drills.observed import (
    Aspect,
    Call,
    Claim,
    Harm,
    Observations,
    Sample,
    Timeline,
    Verdict,
    Word,
)
from nightproof.drills.promise import Promise, in_words

_ORDER: dict[Word, int] = {
    "held": 1,
    "not applicable": 0,
    "could not run": 2,
    "fell short": 3,
    "not restored": 4,
}
LOOK_AT_LEAST_S = 1.5
_BUCKET_S = 0.25
_SHOWN = 3
_STEADY_CALLS = 10
_STEADY_OF = 0.98


def judge(promise: Promise, seen: Observations) -> tuple[Verdict, ...]:
    """Return the four verdicts."""
    return tuple(ask(promise, seen) for ask in (_contained, _recorded, _alerted, _recovered))


def worst(words: Iterable[Word]) -> Word:
    """Return the word that a reader must see: the worst; held where nothing else is said."""
    return max(words, key=lambda word: _ORDER[word], default="held")


# -- contained --------------------------------------------------------------------------------


def under_fault(seen: Observations) -> list[Call]:
    """Return the calls that the fault may have touched: unanswered when it began, or due before all was well."""
    marks = seen.marks
    until_s = marks.steady_s if marks.steady_s is not None else marks.ended_s
    # What is over in a moment is looked at for a little longer: the crowd must have had a chance to meet it.
    until_s = max(until_s, marks.fault_s + LOOK_AT_LEAST_S)
    return [call for call in seen.calls if call.ended_s >= marks.fault_s and call.sent_s <= until_s]


def harm(calls: Sequence[Call], *, before: Sequence[Call] = ()) -> Harm:
    """Count what callers suffered; what the same inputs were answered before tells wrong answers."""
    right: dict[int, set[str]] = {}
    for call in before:
        if call.output:
            right.setdefault(call.asked, set()).add(call.output)
    endings = Counter(call.ending for call in calls)
    took = sorted(call.took_s for call in calls)
    failures = Counter(call.failure for call in calls if call.failure)
    return Harm(
        calls=len(calls),
        answered=endings["answered"],
        degraded=endings["degraded"],
        refused=endings["refused"],
        failed=endings["failed"],
        lost=endings["lost"],
        torn=endings["torn"],
        hung=endings["hung"],
        slowest_s=took[-1] if took else 0.0,
        p99_s=took[min(len(took) - 1, math.ceil(0.99 * len(took)) - 1)] if took else 0.0,
        wrong=sum(
            bool(call.output) and call.output not in right.get(call.asked, {call.output}) for call in calls
        ),
        failures=dict(failures.most_common()),
    )


def before_fault(seen: Observations) -> list[Call]:
    """Return the crowd's calls that were over before the fault."""
    return [call for call in seen.calls if call.ended_s < seen.marks.fault_s]


def _contained(promise: Promise, seen: Observations) -> Verdict:
    calls = under_fault(seen)
    short: list[str] = []
    if not calls:
        short.append("no call was made meanwhile, so nothing is known")
    if hung := [call for call in calls if call.ending == "hung"]:
        short.append(f"{len(hung)} callers were never answered")
    if torn := [call for call in calls if call.ending == "torn"]:
        short.append(f"{len(torn)} streams ended as if they were whole, and were not")
    if not promise.may_lose and (lost := [call for call in calls if call.ending == "lost"]):
        short.append(f"{len(lost)} connections were cut without an answer")
    told_no = [call for call in calls if call.ending in ("refused", "failed")]
    unnamed = Counter(
        call.failure or f"status {call.status}" for call in told_no if call.failure not in promise.may_fail
    )
    if unnamed:
        short.append("callers were told " + _counted(unnamed))
    named = [call for call in told_no if call.failure in promise.may_fail]
    allowed = 1.0 if promise.shelter == "named" else promise.harmed_at_most
    if named and len(named) > allowed * len(calls):
        failures = Counter(call.failure for call in named)
        short.append(f"{len(named)} of {len(calls)} callers got no answer ({_counted(failures)})")
    degraded = sum(call.ending == "degraded" for call in calls)
    if promise.shelter == "all" and degraded > allowed * len(calls):
        # A fallback's answer is less than the model's; the same share of the crowd may get it.
        short.append(f"{degraded} of {len(calls)} answers were a fallback's")
    slowest_s = max(
        (call.took_s for call in calls if call.ending not in ("hung", "lost", "torn")), default=0.0
    )
    if slowest_s > promise.answer_within_s:
        short.append(f"the slowest caller waited {slowest_s:.2f} s")
    suffered = harm(calls, before=before_fault(seen))
    told = f"{suffered.calls} calls: {_endings(suffered)}; slowest {suffered.slowest_s:.2f} s"
    if suffered.wrong and promise.same_answers:
        short.append(f"{suffered.wrong} answers looked whole and were other than before")
    elif suffered.wrong:
        told += f"; {suffered.wrong} answers were other than before"
    return _verdict(
        "contained", promise=in_words(promise), told=told, short=short, seen=seen, seconds=detected_s(seen)
    )


def detected_s(seen: Observations) -> float | None:
    """Return the seconds from the fault to the first sign of it outside: an ending that names it, or a condition."""
    marks = seen.marks
    before = {one for sample in seen.samples if sample.at_s < marks.fault_s for one in sample.conditions}
    signs = [
        call.ended_s
        for call in seen.calls
        if call.ended_s >= marks.fault_s and call.sent_s <= marks.undone_s and call.failure
    ]
    signs += [
        sample.at_s
        for sample in seen.samples
        if sample.at_s >= marks.fault_s
        and (set(sample.conditions) - before or (not sample.is_ready and sample.is_up))
    ]
    return min(signs) - marks.fault_s if signs else None


# -- recorded ---------------------------------------------------------------------------------


def _recorded(promise: Promise, seen: Observations) -> Verdict:
    if promise.no_record_why:
        return Verdict(aspect="recorded", word="not applicable", promised=promise.no_record_why)
    records = seen.records
    short: list[str] = []
    if records.missing:
        short.append(f"{records.missing} of {records.acknowledged} acknowledged calls have no record")
    if not records.is_verified:
        short.append(f"the log does not verify: {records.verified}")
    if not records.balances:
        short.append(f"the books do not balance: {records.balance}")
    names = promise.recorded_names
    if names and not any(records.failures.get(name) for name in names):
        short.append(f"no record names {' or '.join(names)}")
    wanted = "each answered call has its record, and the log verifies"
    if names:
        wanted += f"; {' or '.join(names)} is in it"
    told = (
        f"{records.acknowledged - records.missing} of {records.acknowledged} acknowledged calls are recorded"
    )
    found = {name: records.failures[name] for name in names if records.failures.get(name)}
    told += "".join(f"; {count} × {name}" for name, count in found.items())
    return _verdict("recorded", promise=wanted, told=told, short=short, seen=seen)


# -- alerted ----------------------------------------------------------------------------------


def _alerted(promise: Promise, seen: Observations) -> Verdict:
    fault_s = seen.marks.fault_s
    fired = [one for one in seen.told if one.state == "firing" and one.at_s >= fault_s]
    if not promise.alert:
        claims = [one for one in seen.claims if one.aspect == "alerted"]
        if claims:
            return _verdict("alerted", promise=promise.no_alert_why, told="", short=[], seen=seen)
        why = promise.no_alert_why or "nobody is to be woken by this"
        return Verdict(aspect="alerted", word="not applicable", promised=why)
    names = " or ".join(CATALOGUE[one].alert for one in (promise.alert, *promise.or_alerts))
    wanted = f"{names} ({promise.severity}) within {promise.alert_within_s:g} s"
    mine = [one for one in fired if one.failure in promise.alerts]
    if not mine:
        others = ", ".join(sorted({one.alertname for one in fired}))
        missing = f"it did not arrive in {seen.marks.ended_s - fault_s:.0f} s"
        if others:
            missing += f"; these did: {others}"
        return _verdict("alerted", promise=wanted, told="", short=[missing], seen=seen)
    first = min(mine, key=lambda one: one.at_s)
    seconds = first.at_s - fault_s
    short: list[str] = []
    if first.alertname != CATALOGUE[first.failure].alert:
        short.append(f"it is called {first.alertname}")
    if not any(one.severity == CATALOGUE[one.failure].severity for one in mine):
        short.append(f"it is a {first.severity}")
    if seconds > promise.alert_within_s:
        short.append(f"it took {seconds:.1f} s")
    more = sorted({one.alertname for one in fired} - {first.alertname})
    told = f"{first.alertname} after {seconds:.1f} s" + (f"; also {', '.join(more)}" if more else "")
    return _verdict("alerted", promise=wanted, told=told, short=short, seen=seen, seconds=seconds)


# -- recovered --------------------------------------------------------------------------------


def _recovered(promise: Promise, seen: Observations) -> Verdict:
    marks = seen.marks
    wanted = f"as before within {promise.recover_within_s:g} s"
    if seen.not_restored:
        return Verdict(aspect="recovered", word="not restored", promised=wanted, seen=seen.not_restored)
    if marks.steady_s is None:
        waited_s = marks.ended_s - marks.undone_s
        return Verdict(
            aspect="recovered",
            word="not restored",
            promised=wanted,
            seen=f"the service was not as before in {waited_s:.0f} s: {_why_not_steady(seen)}",
        )
    seconds = max(0.0, marks.steady_s - marks.undone_s)
    short = [f"it took {seconds:.1f} s"] if seconds > promise.recover_within_s else []
    if seen.still_firing:
        short.append(f"{', '.join(seen.still_firing)} did not end")
    told = f"as before after {seconds:.1f} s"
    if any(one.failure in promise.alerts and one.state == "resolved" for one in seen.told):
        told += "; its alert is over"
    return _verdict("recovered", promise=wanted, told=told, short=short, seen=seen, seconds=seconds)


def is_steady(
    calls: Sequence[Call], samples: Sequence[Sample], *, since_s: float, workers: int, within_s: float
) -> bool:
    """Say whether a service is as it should be in this stretch: answers of its own, in time, all workers there.

    A service whose model is unsure now and then also has its fallbacks on a good day, so a fiftieth is let pass.
    """
    recent = [call for call in calls if call.sent_s >= since_s]
    looks = [sample for sample in samples if sample.at_s >= since_s]
    if len(recent) < _STEADY_CALLS or not looks:
        return False
    good = sum(call.ending == "answered" and call.took_s <= within_s for call in recent)
    last = looks[-1]
    return good >= _STEADY_OF * len(recent) and last.is_ready and last.workers_ready >= workers


def _why_not_steady(seen: Observations) -> str:
    recent = [call for call in seen.calls if call.sent_s >= seen.marks.ended_s - 2.0]
    last = seen.samples[-1] if seen.samples else None
    if last is None or not last.is_up:
        return "the server does not answer"
    if not last.is_ready:
        return "it is not ready"
    failures = Counter(call.failure or call.ending for call in recent if call.ending != "answered")
    if failures:
        return f"callers are told {_counted(failures)}"
    return f"{last.workers_ready} workers are ready"


# -- words and plots --------------------------------------------------------------------------


def timeline(promise: Promise, seen: Observations) -> Timeline:
    """Gather what a plot of the drill needs."""
    marks = seen.marks
    from_s = min((call.sent_s for call in seen.calls), default=0.0)
    buckets = max(1, math.ceil((marks.ended_s - from_s) / _BUCKET_S))
    answered, degraded, harmed = [0] * buckets, [0] * buckets, [0] * buckets
    slowest = [0.0] * buckets
    for call in seen.calls:
        place = min(buckets - 1, max(0, int((call.sent_s - from_s) / _BUCKET_S)))
        counts = answered if call.ending == "answered" else degraded if call.ending == "degraded" else harmed
        counts[place] += 1
        slowest[place] = max(slowest[place], round(call.took_s * 1_000, 1))
    mine = [one for one in seen.told if one.failure in promise.alerts and one.at_s >= marks.fault_s]
    return Timeline(
        bucket_s=_BUCKET_S,
        from_s=round(from_s, 3),
        answered=answered,
        degraded=degraded,
        harmed=harmed,
        slowest_ms=slowest,
        fault_s=round(marks.fault_s, 3),
        undone_s=round(marks.undone_s, 3),
        alert_s=_first(one.at_s for one in mine if one.state == "firing"),
        resolved_s=_first(one.at_s for one in mine if one.state == "resolved"),
        steady_s=None if marks.steady_s is None else round(marks.steady_s, 3),
    )


def _first(times: Iterable[float]) -> float | None:
    found = min(times, default=None)
    return None if found is None else round(found, 3)


def _verdict(
    aspect: Aspect,
    *,
    promise: str,
    told: str,
    short: Sequence[str],
    seen: Observations,
    seconds: float | None = None,
) -> Verdict:
    """Add this drill's own claims to what is asked of every drill."""
    claims = [claim for claim in seen.claims if claim.aspect == aspect]
    broken = [*short, *(_claim(claim) for claim in claims if not claim.holds)]
    wanted = "; ".join(filter(None, [promise, *(f"{claim.what}: {claim.promised}" for claim in claims)]))
    kept = [f"{claim.what}: {claim.seen}" for claim in claims if claim.holds]
    return Verdict(
        aspect=aspect,
        word="fell short" if broken else "held",
        promised=wanted,
        seen="; ".join(broken) if broken else "; ".join(filter(None, [told, *kept])),
        seconds=None if seconds is None else round(max(0.0, seconds), 2),
    )


def _claim(claim: Claim) -> str:
    return f"{claim.what}: {claim.seen}, not {claim.promised}"


def _counted(counts: Counter[str]) -> str:
    shown = ", ".join(f"{count} × {name}" for name, count in counts.most_common(_SHOWN))
    return shown + (f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")


def _endings(suffered: Harm) -> str:
    counts = {
        name: getattr(suffered, name)
        for name in ("answered", "degraded", "refused", "failed", "lost", "torn", "hung")
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def claim_equal(aspect: Aspect, what: str, *, promised: object, seen: object) -> Claim:
    """Claim that two things are the same."""
    return Claim(aspect=aspect, what=what, promised=str(promised), seen=str(seen), holds=promised == seen)


def claim_at_most(aspect: Aspect, what: str, *, promised: float, seen: float | None, unit: str = "") -> Claim:
    """Claim that a figure is not above a bound; a figure that is missing is none."""
    told = "not seen" if seen is None else f"{seen:.4g}{unit}"
    holds = seen is not None and seen <= promised
    return Claim(aspect=aspect, what=what, promised=f"at most {promised:.4g}{unit}", seen=told, holds=holds)


def claim_at_least(
    aspect: Aspect, what: str, *, promised: float, seen: float | None, unit: str = ""
) -> Claim:
    """Claim that a figure is not under a bound; a figure that is missing is none."""
    told = "not seen" if seen is None else f"{seen:.4g}{unit}"
    holds = seen is not None and seen >= promised
    return Claim(aspect=aspect, what=what, promised=f"at least {promised:.4g}{unit}", seen=told, holds=holds)


def claim_all(
    aspect: Aspect,
    what: str,
    answers: Sequence[tuple[str, object]],
    *,
    promised: str,
    good: Callable[[object], bool],
) -> Claim:
    """Claim the same of many cases; the first that breaks it is named."""
    broken = [(name, answer) for name, answer in answers if not good(answer)]
    if not answers:
        return Claim(aspect=aspect, what=what, promised=promised, seen="nothing was tried", holds=False)
    told = (
        f"all {len(answers)}"
        if not broken
        else f"{len(broken)} of {len(answers)} not: "
        + "; ".join(f"{name} → {answer}" for name, answer in broken[:_SHOWN])
    )
    return Claim(aspect=aspect, what=what, promised=promised, seen=told, holds=not broken)
