"""What one entry of the failure catalogue says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["page", "ticket", "none"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure mode: what it means and what belongs to it."""

    code: str
    title: str
    meaning: str
    statuses: tuple[int, ...]
    """HTTP statuses of an ending, the usual one first; empty for a condition of the server."""
    retryable: bool
    """Whether the same request may succeed later without being changed."""
    alert: str
    severity: Severity
    drill: str
    shed: bool = False
    """Ended before admission and cheap to send in masses: recorded as summaries, not one by one."""

    @property
    def runbook(self) -> str:
        """Name the runbook page: `runbooks/<code>.md`."""
        return self.code


def _alert_name(code: str) -> str:
    return "Nightproof" + "".join(part.capitalize() for part in code.split("_"))


def ending(
    code: str,
    status: int | tuple[int, ...],
    title: str,
    meaning: str,
    *,
    retry: bool = False,
    severity: Severity = "ticket",
    drill: str,
    shed: bool = False,
) -> Failure:
    """Make the entry of a way in which a request can end."""
    statuses = status if isinstance(status, tuple) else (status,)
    return Failure(
        code=code,
        title=title,
        meaning=meaning,
        statuses=statuses,
        retryable=retry,
        alert=_alert_name(code),
        severity=severity,
        drill=drill,
        shed=shed,
    )


def condition(code: str, title: str, meaning: str, *, severity: Severity = "ticket", drill: str) -> Failure:
    """Make the entry of something that can be wrong with the server: no request ends by it."""
    return Failure(
        code=code,
        title=title,
        meaning=meaning,
        statuses=(),
        retryable=False,
        alert=_alert_name(code),
        severity=severity,
        drill=drill,
    )
