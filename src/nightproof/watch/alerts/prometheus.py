"""Write the rules for Prometheus: recorded ratios for each window, objectives, and one alert for each failure mode.

From the same data as `judge` judges by. Prometheus has no exact tail here, so its rules ask for a least number of
events instead, and what they see is as old as the last scrape: a second opinion, and the one that also speaks when
the server is gone. A symptom is left to its cause while that cause is a condition of the same service, pending or not;
what counts endings holds nothing back here: that is for the Alertmanager's own inhibition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import orjson

from nightproof.base.alerting import CAUSES, alert_share
from nightproof.base.failures import CATALOGUE
from nightproof.watch.alerts.counts import bucket_of
from nightproof.watch.alerts.rules import BURNS, Promise, Rule, rules_of
from nightproof.watch.meters import DURATION_BUCKETS_S

WINDOWS_S = (300.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 86_400.0, 259_200.0)
_BY_THE_CALLER = "|".join(
    sorted(
        code
        for code, one in CATALOGUE.items()
        if one.statuses and (one.statuses[0] < 500 or code == "shutting_down")
    )
)
_JUDGED = f'service!="",ending=~"answered|degraded|failed|refused",failure!~"{_BY_THE_CALLER}"'
_BAD = f'service!="",ending=~"failed|refused",failure!~"|{_BY_THE_CALLER}"'
_LEAST_EVENTS = 2
_SHARE_WINDOW_S = 300.0
_SILENT_S = 30.0


class RuleGroup(msgspec.Struct, frozen=True):
    """Rules that Prometheus evaluates one after the other."""

    name: str
    rules: list[dict[str, Any]]


def rule_groups(promises: Iterable[Promise], *, runbooks_url: str, scale: float = 1.0) -> list[RuleGroup]:
    """Return the groups of a rule file."""
    promises = list(promises)
    return [
        RuleGroup("nightproof-ratios", _recorded(promises, scale)),
        RuleGroup("nightproof-objectives", _objectives(promises, runbooks_url, scale)),
        RuleGroup("nightproof-failures", _failures(runbooks_url, scale)),
    ]


def rule_file(groups: Sequence[RuleGroup]) -> str:
    """Write the groups as YAML."""
    lines = [
        "# Made by `nightproof alerts rules`; make it again after the services' objectives change.",
        "groups:",
    ]
    for group in groups:
        lines += [f"- name: {group.name}", "  rules:"]
        for rule in group.rules:
            for place, (name, value) in enumerate(rule.items()):
                lines.append(f"  {'- ' if place == 0 else '  '}{name}:{_value(value)}")
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    if not isinstance(value, dict):
        return f" {_quoted(value)}"
    return "".join(f"\n      {name}: {_quoted(one)}" for name, one in value.items())


def _quoted(value: Any) -> str:
    return orjson.dumps(str(value)).decode()  # a JSON text is a YAML text


def _recorded(promises: Sequence[Promise], scale: float) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    for window_s in WINDOWS_S:
        span = duration(window_s * scale)
        bad = f"sum by (service) (rate(nightproof_requests_total{{{_BAD}}}[{span}]))"
        judged = f"sum by (service) (rate(nightproof_requests_total{{{_JUDGED}}}[{span}]))"
        rules.append(
            {
                "record": f"service:nightproof_errors:ratio_rate{name_of(window_s)}",
                "expr": f"{bad} / {judged}",
            }
        )
    for promise in promises:
        if promise.latency_p99_ms is None:
            continue
        for window_s in WINDOWS_S:
            expr = slow_ratio(promise, duration(window_s * scale))
            if expr:
                rules.append(
                    {
                        "record": f"service:nightproof_slow:ratio_rate{name_of(window_s)}",
                        "expr": expr,
                        "labels": {"service": promise.service},
                    }
                )
    return rules


def slow_ratio(promise: Promise, span: str) -> str:
    """Return the expression of the share of requests slower than promised; nothing where no bucket can tell."""
    place = bucket_of(promise.latency_p99_ms or 0.0, DURATION_BUCKETS_S)
    if place >= len(DURATION_BUCKETS_S):
        return ""
    whose = f'service="{promise.service}"'
    bound = repr(float(DURATION_BUCKETS_S[place]))
    name = "nightproof_request_duration_seconds"
    fast = f'sum(rate({name}_bucket{{{whose},le="{bound}"}}[{span}]))'
    return f"1 - {fast} / sum(rate({name}_count{{{whose}}}[{span}]))"


def _objectives(promises: Sequence[Promise], runbooks_url: str, scale: float) -> list[dict[str, Any]]:
    rules = []
    for rule in rules_of(promises, scale=scale):
        if rule.budget is None:
            continue
        kind = "errors" if rule.slower_than_ms is None else "slow"
        parts = []
        for burn in BURNS:
            if burn.severity == rule.severity:
                limit = f"{burn.factor * rule.budget:.6g}"
                long, short = (
                    f'service:nightproof_{kind}:ratio_rate{name_of(window_s)}{{service="{rule.service}"}} > {limit}'
                    for window_s in (burn.long_s, burn.short_s)
                )
                parts.append(f"({long} and {short})")
        rules.append(_alert(rule, _unless_caused(rule, " or ".join(parts)), runbooks_url))
    return rules


def _failures(runbooks_url: str, scale: float) -> list[dict[str, Any]]:
    rules = []
    for rule in rules_of([], scale=scale):
        failure = CATALOGUE[rule.failure]
        expr = f'max by (service) (nightproof_condition{{failure="{failure.code}"}}) == 1'
        share = alert_share(failure)
        if share is not None:
            span = duration(_SHARE_WINDOW_S * scale)
            ended = (
                f'sum by (service) (increase(nightproof_requests_total{{failure="{failure.code}"}}[{span}]))'
            )
            of_all = f"sum by (service) (increase(nightproof_requests_total[{span}]))"
            often = (
                f"({ended} / {of_all} > {share:g} and {ended} >= {_LEAST_EVENTS})"
                if share
                else f"{ended} > 0"
            )
            expr = f"({expr}) or {often}"
        if failure.code == "watch_blind":
            silent = f"max(nightproof_alerts_judged_age_seconds) > {_SILENT_S:g}"
            expr = f"({expr}) or ({silent}) or absent(nightproof_ready)"
        rules.append(_alert(rule, _unless_caused(rule, expr), runbooks_url, for_s=rule.for_s))
    return rules


def _unless_caused(rule: Rule, expr: str) -> str:
    """Leave a symptom to its cause, where the cause weighs as much."""
    causes = [
        code
        for code in CAUSES.get(rule.failure, ())
        if rule.severity == "ticket" or CATALOGUE[code].severity == "page"
    ]
    if not causes:
        return expr
    caused = f'max by (service) (nightproof_condition{{failure=~"{"|".join(causes)}"}}) == 1'
    return f"({expr}) unless on (service) ({caused})"


def _alert(rule: Rule, expr: str, runbooks_url: str, *, for_s: float = 0.0) -> dict[str, Any]:
    failure = CATALOGUE[rule.failure]
    labels = {"severity": rule.severity, "failure": rule.failure}
    if rule.service:
        labels["service"] = rule.service
    told: dict[str, Any] = {"alert": rule.alertname, "expr": expr}
    if for_s:
        told["for"] = duration(for_s)
    told["labels"] = labels
    told["annotations"] = {
        "summary": failure.title,
        "description": failure.meaning,
        "runbook_url": f"{runbooks_url}/{failure.runbook}",
    }
    return told


def duration(seconds: float) -> str:
    """Write a duration as Prometheus does."""
    ms = max(1, round(seconds * 1_000))
    for size, word in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")):
        if ms % size == 0:
            return f"{ms // size}{word}"
    return f"{ms}ms"


def name_of(window_s: float) -> str:
    """Name a window by its length at scale 1: what it is for stays the same in a test."""
    return duration(window_s)
