"""`nightproof keys`: through the running server if there is one, else on the state folder itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from nightproof.audit.record import make_entry
from nightproof.base.clock import utc_us
from nightproof.base.ids import RequestIds
from nightproof.base.roles import Role
from nightproof.cli.client import Client, from_options
from nightproof.steer import keys
from nightproof.storage.keyring import Keyring
from nightproof.storage.ledger_store import LedgerStore
from nightproof.storage.statefolder import StateFolder, StateTaken


def create(
    state: Path, url: str | None, *, role: str, name: str, services: Sequence[str], expires_days: float | None
) -> dict[str, Any]:
    """Make a key and return it with its token, the only time."""
    client = _running(state, url)
    if client is not None:
        body = {"role": role, "name": name, "services": list(services), "expires_days": expires_days}
        made: dict[str, Any] = client.post("/admin/keys", body)
        return made
    with _offline(state) as (keyring, folder):
        expires_in = None if expires_days is None else timedelta(days=expires_days)
        key = keys.create(keyring, role=Role(role), name=name, services=services, expires_in=expires_in)
        _note(folder, "keys.create", key=key.id, role=role, services=list(services))
        return dict(msgspec.to_builtins(key))


def list_all(state: Path, url: str | None) -> list[dict[str, Any]]:
    """List the keys."""
    client = _running(state, url)
    if client is not None:
        found: list[dict[str, Any]] = client.get("/admin/keys")
        return found
    with _offline(state) as (keyring, _):
        return [msgspec.to_builtins(key) for key in keys.list_all(keyring, now_us=utc_us())]


def revoke(state: Path, url: str | None, key_id: str) -> dict[str, Any]:
    """Revoke a key."""
    client = _running(state, url)
    if client is not None:
        told: dict[str, Any] = client.post(f"/admin/keys/{key_id}/revoke")
        return told
    with _offline(state) as (keyring, folder):
        revoked = keys.revoke(keyring, key_id, now_us=utc_us())
        _note(folder, "keys.revoke", key=key_id)
        return dict(msgspec.to_builtins(revoked))


def _running(state: Path, url: str | None) -> Client | None:
    """Return a client if a server has the state folder, or `--url` says so; None if the folder is free."""
    if url:
        return from_options(state, url)
    folder = StateFolder.open(state)
    try:
        folder.lock()
    except StateTaken:
        return from_options(state, None)
    folder.unlock()
    return None


@contextmanager
def _offline(state: Path) -> Iterator[tuple[Keyring, StateFolder]]:
    """Hold the state folder while no server does."""
    folder = StateFolder.open(state)
    folder.lock()
    keyring = Keyring(folder.keyring_db, folder.keyring_pepper)
    try:
        yield keyring, folder
    finally:
        keyring.close()
        folder.unlock()


def _note(folder: StateFolder, act: str, **named: Any) -> None:
    """Record the act, as the server would."""
    store = LedgerStore(folder.ledger_db)
    try:
        entry = make_entry("operator", RequestIds().draw(), utc_us(), {"who": "local", "act": act, **named})
        store.append(
            [(store.last_seq() + 1, entry.id, entry.at_us, entry.kind, entry.idem, entry.leaf, entry.payload)]
        )
    finally:
        store.close()
