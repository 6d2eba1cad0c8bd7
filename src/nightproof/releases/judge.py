"""Say of a canary whether it is worse than the live release, not worse, or whether nobody can know yet.

A pure function of counts, rules and time, asked several times a second; it may be, since its tests are valid at
every look (`sequential`). `docs/releases.md` states the method and its error rate. A metric that has no name here
is an error: a gate that looks at nothing would let everything pass.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from nightproof.base.errors import SettingError
from nightproof.releases.sequential import log_arms, log_arms_fewer, log_mean, lower_rate, upper_rate
from nightproof.releases.tally import Picture, Slack, Step

Verdict = Literal["worse", "not_worse", "not_enough_data"]

RARE = ("errors", "refusals", "fallbacks", "output_checks")
"""Events that should not happen, counted over all requests."""
SHAPE = ("latency", "confidence", "outputs")
"""How answers are spread, counted over answers by cuts that live's own made."""
METRICS = (*RARE, *SHAPE)


class UnknownMetric(SettingError):
    """A canary was to be judged by something that is not measured."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a canary is judged by."""

    metrics: tuple[str, ...] = METRICS
    false_alarm: float = 0.01
    """Highest probability, over the whole trial and all metrics, that a canary which is not worse is called so."""
    false_pass: float = 0.05
    """Highest probability, per step and metric, that one worse than the margin is called not worse."""
    rare_margin: float = 0.02
    """Part of all requests by which a rare event may come more often, to count as not worse."""
    shape_margin: float = 0.1
    """The same for parts of the answers: slow, unsure, with a value."""
    rare_ratio: float = 1.25
    """How many times as often a rare event may come before it counts as evidence against the canary."""
    output_ratio: float = 1.5
    """The same for an output's value, in both directions."""
    slack: Slack = Slack()
    least_requests: int = 100
    """Requests of the canary in this step before it may pass."""
    least_s: float = 30.0
    most_s: float = 3_600.0
    """Longest wait for enough data in one step."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise UnknownMetric(
                "A canary must be judged by something.", hint=f"Metrics: {', '.join(METRICS)}."
            )
        for name in self.metrics:
            if name not in METRICS:
                raise UnknownMetric(
                    f"Nothing is measured under the name {name!r}.", hint=f"Metrics: {', '.join(METRICS)}."
                )


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one metric says."""

    metric: str
    verdict: Verdict
    evidence: float
    """How many times likelier the counts are if the canary is worse; capped for printing."""
    needed: float
    """Evidence at which it counts as worse."""
    text: str


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one step, with its reasons."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    is_overdue: bool
    """There was not enough data for longer than the rules wait."""

    @property
    def why(self) -> str:
        """Say it in a sentence: what is worse, or what is still missing."""
        told = list(dict.fromkeys(one.text for one in self.findings if one.verdict == self.verdict))
        return "; ".join(told[:3])


def judge(picture: Picture, rules: Rules, *, step_s: float, has_confidence: bool = True) -> Judgement:
    """Judge the canary after `step_s` seconds in the present step."""
    step = picture.steps[-1]
    metrics = [name for name in rules.metrics if has_confidence or name != "confidence"]
    needed = math.log(len(metrics) / rules.false_alarm)
    may_pass = step.canary >= rules.least_requests and step_s >= rules.least_s
    findings = tuple(_find(name, picture, step, rules, needed, may_pass=may_pass) for name in metrics)
    verdicts = {one.verdict for one in findings}
    verdict: Verdict = "not_worse"
    if "worse" in verdicts:
        verdict = "worse"
    elif "not_enough_data" in verdicts:
        verdict = "not_enough_data"
    is_overdue = verdict == "not_enough_data" and step_s >= rules.most_s
    return Judgement(verdict=verdict, findings=findings, is_overdue=is_overdue)


def _find(
    metric: str, picture: Picture, step: Step, rules: Rules, needed: float, *, may_pass: bool
) -> Finding:
    if metric in RARE:
        counts = picture.arms(metric)
        log_evidence = log_arms(counts, allowed=rules.rare_ratio)
        names: tuple[str, ...] = (metric,)
        totals, margin, ratio = (step.canary, step.live), rules.rare_margin, rules.rare_ratio
    else:
        names = picture.names.get(metric, ())
        totals, margin = (step.shape_canary, step.shape_live), rules.shape_margin
        ratio = rules.output_ratio if metric == "outputs" else 1.0
        log_evidence = _shape_evidence(metric, names, picture, rules)
    verdict: Verdict = "not_worse"
    text = f"{metric}: not worse"
    if log_evidence >= needed:
        verdict, text = "worse", _worse_text(metric, names, picture)
    elif not may_pass:
        verdict, text = "not_enough_data", f"the step is young: {step.canary} requests of the canary"
    elif metric in SHAPE and not picture.has_scales:
        verdict, text = "not_enough_data", f"{metric}: too few answers of live to measure by"
    elif not all(_is_settled(name, metric, step, totals, rules, margin, ratio, len(names)) for name in names):
        verdict = "not_enough_data"
        text = f"{metric}: {totals[0]} requests of the canary do not settle it yet"
    return Finding(
        metric=metric,
        verdict=verdict,
        evidence=math.exp(min(log_evidence, 60.0)),
        needed=math.exp(needed),
        text=text,
    )


def _is_settled(
    name: str,
    metric: str,
    step: Step,
    totals: tuple[int, int],
    rules: Rules,
    margin: float,
    ratio: float,
    parts: int,
) -> bool:
    """Say whether the event is known to differ by less than the margin; an output's value in both directions."""
    turns = (False, True) if metric == "outputs" else (False,)
    return all(_is_close(name, step, totals, rules, margin, ratio, parts, turned=turned) for turned in turns)


def _shape_evidence(metric: str, names: tuple[str, ...], picture: Picture, rules: Rules) -> float:
    if not names:
        return 0.0
    if metric != "outputs":
        return log_mean(log_arms(picture.arms(name)) for name in names)
    # A value that comes too often or too seldom: both are a change, and both are looked for.
    return log_mean(
        look(picture.arms(name), allowed=rules.output_ratio)
        for name in names
        for look in (log_arms, log_arms_fewer)
    )


def _is_close(
    name: str,
    step: Step,
    totals: tuple[int, int],
    rules: Rules,
    margin: float,
    ratio: float,
    parts: int,
    *,
    turned: bool = False,
) -> bool:
    """Say whether the event cannot come more often with the canary than the margin allows; `turned`: with live."""
    alpha = rules.false_pass / (2 * parts)
    canary, live = step.rates.get(name, (0, 0))
    more, less = (
        ((live, totals[1]), (canary, totals[0])) if turned else ((canary, totals[0]), (live, totals[1]))
    )
    if not more[1] or not less[1]:
        return False
    return upper_rate(*more, alpha) <= ratio * lower_rate(*less, alpha) + margin


def _worse_text(metric: str, names: tuple[str, ...], picture: Picture) -> str:
    """Say what is worse, by the event that differs most."""
    if not names:
        return metric

    def strength(name: str) -> float:
        arms = picture.arms(name)
        return max(log_arms(arms), log_arms_fewer(arms)) if metric == "outputs" else log_arms(arms)

    worst = max(names, key=strength)
    counts = picture.arms(worst)
    canary, live = sum(one.canary for one in counts), sum(one.live for one in counts)
    of_canary = sum(one.shape_canary if metric in SHAPE else one.canary for one in picture.steps)
    of_live = sum(one.shape_live if metric in SHAPE else one.live for one in picture.steps)
    what = {"latency": "slower", "confidence": "less sure", "outputs": "other outputs"}.get(metric, metric)
    # Of outputs only the field: a value of it may be a caller's data.
    told = f" ({worst.replace('#', '=').partition('=')[0]})" if metric == "outputs" else ""
    return f"{what}{told}: {canary} of {of_canary} requests with the canary, {live} of {of_live} with live"
