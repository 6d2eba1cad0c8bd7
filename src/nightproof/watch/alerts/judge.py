"""Judge every rule by counts and conditions: bad, good, or not known. Pure.

Not known is not good: an alert that fires stays, and one that does not is not raised by silence alone. A share is
bad only where chance explains it badly (the exact binomial tail), so that one failure in two requests at night and a
hundred in a million at noon are both judged rightly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from nightproof.base.conditions import Condition
from nightproof.watch.alerts.counts import ALL, BAD, FAILED, JUDGED, SLOW, TIMED, Series
from nightproof.watch.alerts.rules import BURNS, SHARE_WINDOWS_S, Key, Rule

Judgement = Literal["bad", "good", "unknown"]

_CHANCE = 0.001
_ENOUGH = 20
_ENOUGH_TO_CLEAR = 5
_STREAK_CHANCE = 0.01
"""A row of good requests counts as mended where it would be this unlikely if nothing had changed."""
_CLEAR_BELOW = 0.5
"""A share must fall under this part of its limit before it counts as good again."""


class Verdict(msgspec.Struct, frozen=True):
    """What was found of one rule."""

    judgement: Judgement
    why: str = ""
    is_condition: bool = False
    """A condition has its own clock: it fires only after the rule's `for_s`."""


_GOOD = Verdict("good")
_UNKNOWN = Verdict("unknown", "no requests to judge by")


def judge(
    rules: Sequence[Rule],
    series: Mapping[str, Series],
    conditions: Sequence[Condition],
    *,
    now_s: float,
    unread: Sequence[str] = (),
) -> dict[Key, Verdict]:
    """Return the verdict on every rule. `unread` names the failures whose conditions could not be asked for."""
    found = {(one.failure, one.service): one for one in conditions}
    verdicts: dict[Key, Verdict] = {}
    for rule in rules:
        counted = series.get(rule.service)
        parts = []
        condition = found.get((rule.failure, rule.service))
        if condition is not None:
            lasts_s = max(0.0, now_s - condition.since_s)
            detail = condition.detail or f"for {lasts_s:.0f} s"
            parts.append(Verdict("bad", detail, is_condition=True))
        elif rule.failure in unread:
            parts.append(Verdict("unknown", "its state could not be asked for"))
        if rule.budget is not None:
            parts.append(_burn(rule, counted))
        elif rule.share is not None:
            parts.append(_share(rule, counted))
        verdicts[rule.key] = _worst(parts)
    return verdicts


def _worst(parts: Sequence[Verdict]) -> Verdict:
    for wanted in ("bad", "unknown"):
        for part in parts:
            if part.judgement == wanted:
                return part
    return _GOOD


def _burn(rule: Rule, series: Series | None) -> Verdict:
    """Judge an objective: bad where any pair of windows of this severity burns beyond its factor."""
    if series is None or rule.budget is None:
        return _UNKNOWN
    whole, part = (JUDGED, BAD) if rule.slower_than_ms is None else (TIMED, SLOW)
    is_known = False
    for burn in BURNS:
        if burn.severity != rule.severity:
            continue
        long, short = series.window(burn.long_s), series.window(burn.short_s)
        if not short.get(whole):
            continue
        is_known = True
        limit = burn.factor * rule.budget
        of_long, of_short = long.get(part) / long.get(whole), short.get(part) / short.get(whole)
        is_chance = tail(long.get(part), long.get(whole), rule.budget) >= _CHANCE
        if of_long > limit and of_short > limit and not is_chance:
            return Verdict("bad", _burn_words(rule, burn.factor, of_long, long.get(part), long.get(whole)))
    return _GOOD if is_known else _UNKNOWN


def _burn_words(rule: Rule, factor: float, ratio: float, part: int, whole: int) -> str:
    what = "failed" if rule.slower_than_ms is None else f"took over {rule.slower_than_ms:g} ms"
    budget = rule.budget or 1.0
    return (
        f"{part} of {whole} requests {what}: {ratio / budget:.1f} times the budget of {budget:.3%}"
        f" (alerts at {factor:g})"
    )


def _share(rule: Rule, series: Series | None) -> Verdict:
    """Judge how often requests end by one failure."""
    if series is None or rule.share is None:
        return _GOOD
    name = FAILED + rule.failure
    if not series.newest.get(name):
        return _GOOD  # it has never been
    windows = [series.window(window_s) for window_s in SHARE_WINDOWS_S]
    chosen = next((one for one in windows if one.get(ALL) >= _ENOUGH), windows[-1])
    count, whole = chosen.get(name), chosen.get(ALL)
    if rule.share == 0.0:
        recent = windows[1]
        if recent.get(name):
            return Verdict("bad", f"{recent.get(name)} in the last {recent.span_s:.0f} s")
        return _GOOD if recent.get(ALL) or not windows[-1].get(name) else _UNKNOWN
    longest = windows[-1]
    if not longest.get(name):
        return _GOOD
    streak = series.streak(name, ALL)
    failed_before = min(1.0, longest.get(name) / max(1, longest.get(ALL) - streak))
    if streak >= _ENOUGH_TO_CLEAR and (1.0 - failed_before) ** streak < _STREAK_CHANCE:
        return _GOOD
    if windows[1].get(name) and tail(count, whole, rule.share) < _CHANCE:
        return Verdict("bad", f"{count} of {whole} requests in {chosen.span_s:.0f} s ({count / whole:.1%})")
    is_well = whole >= _ENOUGH and count <= _CLEAR_BELOW * rule.share * whole
    return _GOOD if is_well else Verdict("unknown", "not yet clearly better")


def tail(count: int, whole: int, share: float) -> float:
    """Return the chance of at least `count` of `whole`, each with the chance `share`: the exact binomial tail."""
    if count <= 0:
        return 1.0
    if count > whole or share <= 0.0:
        return 0.0
    if count <= whole * share:
        return 1.0  # not more than expected: near enough, and never taken for news
    log_term = (
        math.lgamma(whole + 1)
        - math.lgamma(count + 1)
        - math.lgamma(whole - count + 1)
        + count * math.log(share)
        + (whole - count) * math.log1p(-share)
    )
    term = math.exp(log_term)
    total, odds = 0.0, share / (1.0 - share)
    for k in range(count, whole + 1):
        total += term
        term *= (whole - k) / (k + 1) * odds
        if (
            term <= total * 1e-9
        ):  # also where the first is too small for a float: those after it are smaller still
            break
    return min(1.0, total)
