"""`nightproof keys`: through the running server if there is one, else on the state folder itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from nightproof.base.clock import utc_us
from nightproof.base.errors import NightproofError
from nightproof.base.roles import Role
from nightproof.cli.client import Client, from_options
from nightproof.settings.load import load
from nightproof.steer import keys
from nightproof.steer.archive import Archive, archive_of
from nightproof.storage.keyring import Keyring
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
    expires_in = None if expires_days is None else timedelta(days=expires_days)

    async def make() -> dict[str, Any]:
        async with _offline(state) as (keyring, archive):
            key = keys.create(keyring, role=Role(role), name=name, services=services, expires_in=expires_in)
            try:
                await archive.note(
                    "operator",
                    who="local",
                    act="keys.create",
                    target=key.id,
                    role=role,
                    services=list(services),
                )
            except NightproofError:
                keys.revoke(keyring, key.id, now_us=utc_us())  # a key without its record must not live
                raise
            return dict(msgspec.to_builtins(key))

    return asyncio.run(make())


def list_all(state: Path, url: str | None) -> list[dict[str, Any]]:
    """List the keys."""
    client = _running(state, url)
    if client is not None:
        found: list[dict[str, Any]] = client.get("/admin/keys")
        return found
    folder = StateFolder.open(state)
    with contextlib.closing(Keyring(folder.keyring_db, folder.keyring_pepper)) as keyring:
        return [msgspec.to_builtins(key) for key in keys.list_all(keyring, now_us=utc_us())]


def revoke(state: Path, url: str | None, key_id: str) -> dict[str, Any]:
    """Revoke a key."""
    client = _running(state, url)
    if client is not None:
        told: dict[str, Any] = client.post(f"/admin/keys/{key_id}/revoke")
        return told

    async def end() -> dict[str, Any]:
        async with _offline(state) as (keyring, archive):
            await archive.note("operator", who="local", act="keys.revoke", target=key_id)
            return dict(msgspec.to_builtins(keys.revoke(keyring, key_id, now_us=utc_us())))

    return asyncio.run(end())


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


@asynccontextmanager
async def _offline(state: Path) -> AsyncIterator[tuple[Keyring, Archive]]:
    """Hold the state folder while no server does."""
    folder = StateFolder.open(state)
    async with archive_of(load(None, os.environ, {"state": state}), folder) as archive:
        with contextlib.closing(Keyring(folder.keyring_db, folder.keyring_pepper)) as keyring:
            yield keyring, archive
