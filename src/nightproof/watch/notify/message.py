"""What a receiver is told: a message with an id that stays the same however often it is sent.

Made once, when the alerts change, and kept until it arrives. Carries names, numbers and our own words only.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nightproof.base.clock import iso_us
from nightproof.base.failures import CATALOGUE
from nightproof.watch.alerts.machine import Alert


class ToldAlert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert inside a message."""

    id: str
    alertname: str
    service: str
    failure: str
    severity: Literal["page", "ticket"]
    state: Literal["firing", "resolved"]
    title: str
    why: str
    starts_us: int
    ends_us: int = 0
    """0 while it fires."""
    runbook_url: str

    def line(self) -> str:
        """Say it in one line, for chat and mail."""
        whose = f" · {self.service}" if self.service else ""
        return f"{self.alertname}{whose}: {self.title}. {self.why}".rstrip()


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent at once: alerts of one service."""

    id: str
    at_us: int
    instance: str
    service: str
    alerts: tuple[ToldAlert, ...]
    is_test: bool = False

    @property
    def is_firing(self) -> bool:
        """Say whether anything in it fires."""
        return any(alert.state == "firing" for alert in self.alerts)

    def title(self) -> str:
        """Return a subject line."""
        firing = sum(alert.state == "firing" for alert in self.alerts)
        state = "FIRING" if firing else "RESOLVED"
        names = ", ".join(dict.fromkeys(alert.alertname.removeprefix("Nightproof") for alert in self.alerts))
        whose = f" {self.service}" if self.service else ""
        return f"[{state}]{whose} {names} ({self.instance})"

    def text(self) -> str:
        """Return the whole text for people: what, why, since when, and where to look."""
        parts = []
        for alert in self.alerts:
            since = f"since {iso_us(alert.starts_us)[:19]}Z"
            over = f", over at {iso_us(alert.ends_us)[:19]}Z" if alert.ends_us else ""
            parts.append(f"{alert.state.upper()} {alert.line()}\n{since}{over}\nrunbook: {alert.runbook_url}")
        return "\n\n".join([*parts, f"message {self.id}"])


def told(alert: Alert, *, runbooks_url: str) -> ToldAlert:
    """Return an alert as receivers are told of it."""
    failure = CATALOGUE[alert.failure]
    is_over = alert.state == "resolved"
    return ToldAlert(
        id=alert.id,
        alertname=alert.alertname,
        service=alert.service,
        failure=alert.failure,
        severity=alert.severity,
        state="resolved" if is_over else "firing",
        title=failure.title,
        why=alert.why,
        starts_us=alert.fired_us,
        ends_us=alert.since_us if is_over else 0,
        runbook_url=f"{runbooks_url}/{failure.runbook}",
    )
