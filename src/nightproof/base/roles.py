"""What a key may do: four fixed roles and the one table that says what each allows.

The gateway asks `allows` before every route, the steer verbs before every act. Deny by default: an
action that is in no row is the admin's alone. Roles never depend on settings or on user code.
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a key is for."""

    PREDICT = "predict"
    OPERATE = "operate"
    AUDIT = "audit"
    ADMIN = "admin"


class Action(StrEnum):
    """What a caller or an operator can ask for."""

    PREDICT = "predict"
    """Call a service, read its metadata."""
    READ_STATUS = "read_status"
    """See workers, rates, health details, metrics, live values of runbook pages."""
    QUARANTINE = "quarantine"
    """List, show, replay and release quarantined records."""
    SILENCE = "silence"
    """Silence alerts, end a silence, send a test alert."""
    DRAIN = "drain"
    """Stop taking work, or take it again."""
    RELEASE = "release"
    """Promote a release, or roll back."""
    READ_AUDIT = "read_audit"
    """Search, show, verify and export the audit log."""
    REPLAY = "replay"
    """Run recorded inputs through another release, and see what it answers otherwise."""
    KEYS = "keys"
    """Create, list and revoke keys."""
    ERASE = "erase"
    """Destroy a data subject's keys."""


_OPERATE = frozenset(
    {
        Action.PREDICT,
        Action.READ_STATUS,
        Action.QUARANTINE,
        Action.SILENCE,
        Action.DRAIN,
        Action.RELEASE,
    }
)

ALLOWED: dict[Role, frozenset[Action]] = {
    Role.PREDICT: frozenset({Action.PREDICT}),
    Role.OPERATE: _OPERATE,
    Role.AUDIT: frozenset({Action.READ_AUDIT}),
    Role.ADMIN: frozenset(Action),
}
"""Every role with the actions it allows."""


def allows(role: Role, action: Action) -> bool:
    """Say whether a key of this role may do this."""
    return action in ALLOWED[role]
