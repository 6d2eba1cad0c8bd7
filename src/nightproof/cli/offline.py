"""Reach the audit log: through the running server, or by opening it while no server has the state folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nightproof.cli.client import Client, from_options
from nightproof.settings.load import load
from nightproof.steer.archive import Archive, archive_of
from nightproof.storage.statefolder import StateFolder, StateTaken

T = TypeVar("T")
LOCAL = "local"


def running(state: Path, url: str | None) -> Client | None:
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


def ask(
    state: Path, url: str | None, verb: str, body: Any, offline: Callable[[Archive], Awaitable[Any]]
) -> Any:
    """Ask the running server's audit route, or do the same on the log itself; return plain values."""
    client = running(state, url)
    if client is not None:
        path = f"/admin/audit/{verb}"
        return client.get(path) if body is None else client.post(path, body)

    async def work() -> Any:
        settings = load(None, os.environ, {"state": state})
        async with archive_of(settings, StateFolder.open(state)) as archive:
            return msgspec.to_builtins(await offline(archive))

    return asyncio.run(work())
