"""The operator's verbs on API keys: create, list, revoke.

Called by the command line (directly on the state folder) and by the control socket. Returns plain values that
can be printed as they are. Does not write the ledger: the caller records the act, before the token is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import msgspec

from nightproof.base.clock import iso_us
from nightproof.base.roles import Role
from nightproof.storage.keyring import DEFAULT_LIFE, KeyRecord, Keyring


class KeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """A key as operators see it."""

    id: str
    name: str
    role: str
    services: list[str]
    """Empty means all."""
    state: str
    """`active`, `expired` or `revoked`."""
    created: str
    expires: str | None
    revoked: str | None
    last_used: str


class KeyMade(msgspec.Struct, frozen=True, kw_only=True):
    """A new key, with the token in clear: the only time."""

    id: str
    key: str
    name: str
    role: str
    services: list[str]
    expires: str | None

    def __repr__(self) -> str:
        # A token must not reach a log by way of a printed value.
        return f"<KeyMade {self.id} role={self.role}>"


def create(
    keyring: Keyring,
    *,
    role: Role,
    name: str = "",
    services: Iterable[str] = (),
    expires_in: timedelta | None = DEFAULT_LIFE,
) -> KeyMade:
    """Make a key."""
    record, token = keyring.create(role, name, services, expires_in)
    return KeyMade(
        id=record.id,
        key=token,
        name=record.name,
        role=record.role.value,
        services=list(record.services),
        expires=_written(record.expires_us),
    )


def list_all(keyring: Keyring, *, now_us: int) -> list[KeyShown]:
    """Show all keys, the oldest first."""
    return [_shown(record, now_us) for record in keyring.list()]


def revoke(keyring: Keyring, key_id: str, *, now_us: int) -> KeyShown:
    """End a key. Raises NotFound."""
    return _shown(keyring.revoke(key_id, now_us=now_us), now_us)


def _shown(record: KeyRecord, now_us: int) -> KeyShown:
    return KeyShown(
        id=record.id,
        name=record.name,
        role=record.role.value,
        services=list(record.services),
        state=state_of(record, now_us),
        created=iso_us(record.created_us),
        expires=_written(record.expires_us),
        revoked=_written(record.revoked_us),
        last_used=record.last_used_day,
    )


def state_of(record: KeyRecord, now_us: int) -> str:
    """Say whether a key is active, expired or revoked."""
    if record.revoked_us is not None:
        return "revoked"
    if record.expires_us is not None and record.expires_us <= now_us:
        return "expired"
    return "active"


def _written(at_us: int | None) -> str | None:
    return None if at_us is None else iso_us(at_us)
