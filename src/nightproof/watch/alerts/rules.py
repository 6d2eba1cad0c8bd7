"""What alerts, as data: one rule for each objective and severity, and one for each failure mode.

Made from the services' objectives and the catalogue. The same rules are judged here, and written out for Prometheus
and Grafana. Windows are those of Google's SRE workbook for 30 days; `scale` shortens them all for tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from nightproof.base.alerting import alert_share
from nightproof.base.failures import CATALOGUE

Severity = Literal["page", "ticket"]
Key = tuple[str, str, str]
"""Failure, service (empty: the server), severity."""


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What a service promises: its objective, as the rules need it."""

    service: str
    availability: float
    latency_p99_ms: float | None = None


class Burn(msgspec.Struct, frozen=True):
    """One pair of windows: burning `factor` times the budget in both alerts."""

    severity: Severity
    factor: float
    long_s: float
    short_s: float


_H = 3_600.0
_D = 24 * _H
BURNS = (
    Burn("page", 14.4, _H, 300.0),
    Burn("page", 6.0, 6 * _H, 1_800.0),
    Burn("ticket", 3.0, _D, 2 * _H),
    Burn("ticket", 1.0, 3 * _D, 6 * _H),
)
LATENCY_BUDGET = 0.01
"""The share of requests that may be slower than a 99th percentile."""
SHARE_WINDOWS_S = (60.0, 300.0, 1_800.0, 21_600.0)
"""A failure's share is judged in the shortest of these that holds enough requests."""
_FOR_S = {"page": 2.0, "ticket": 15.0}
_CLEAR_S = 20.0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One alert that may be."""

    failure: str
    service: str
    severity: Severity
    share: float | None = None
    """Endings by this failure may be this share of all; None if only a condition alerts."""
    budget: float | None = None
    """The share of requests that may break the objective; None if it is not about one."""
    slower_than_ms: float | None = None
    for_s: float = 0.0
    """How long a condition lasts before it fires."""
    clear_s: float = _CLEAR_S
    """How long it must be well before it counts as resolved."""

    @property
    def key(self) -> Key:
        """Name the rule."""
        return (self.failure, self.service, self.severity)

    @property
    def alertname(self) -> str:
        """Name the alert, as the catalogue does."""
        return CATALOGUE[self.failure].alert


def rules_of(promises: Iterable[Promise], *, scale: float = 1.0) -> list[Rule]:
    """Return every rule of these services and of the server itself."""
    promises = list(promises)
    rules: list[Rule] = []
    for promise in promises:
        rules += _objective_rules(promise, scale)
    for service in ("", *(promise.service for promise in promises)):
        rules += _failure_rules(service, scale)
    return rules


def _objective_rules(promise: Promise, scale: float) -> list[Rule]:
    severities: tuple[Severity, ...] = ("page", "ticket")
    rules = [
        Rule(
            failure="availability_burning",
            service=promise.service,
            severity=severity,
            budget=1.0 - promise.availability,
            clear_s=_CLEAR_S * scale,
        )
        for severity in severities
    ]
    if promise.latency_p99_ms is not None:
        rules += [
            Rule(
                failure="latency_burning",
                service=promise.service,
                severity=severity,
                budget=LATENCY_BUDGET,
                slower_than_ms=promise.latency_p99_ms,
                clear_s=_CLEAR_S * scale,
            )
            for severity in severities
        ]
    return rules


def _failure_rules(service: str, scale: float) -> list[Rule]:
    return [
        Rule(
            failure=failure.code,
            service=service,
            severity=failure.severity,
            share=alert_share(failure),
            for_s=_FOR_S[failure.severity] * scale,
            clear_s=_CLEAR_S * scale,
        )
        for failure in CATALOGUE.values()
        if failure.severity != "none" and failure.code not in ("availability_burning", "latency_burning")
    ]
