"""Speak to a running server: through its socket in the state folder, or by `--url` and a key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx

from nightproof.base.errors import NightproofError
from nightproof.storage.statefolder import StateFolder

_WITHIN_S = 40.0


class NotRunning(NightproofError):
    """No server answers where one was looked for."""


class Client:
    """Operators' requests."""

    def __init__(self, state: Path, url: str | None, key: str | None, *, within_s: float = _WITHIN_S) -> None:
        self._within_s = within_s
        self._headers: dict[str, str] = {}
        self._socket: str | None = None
        if url:
            if key:
                self._headers["authorization"] = f"Bearer {key}"
            self._base_url = self._where = url
            return
        if not state.is_dir():
            raise NotRunning(
                f"There is no state folder {state}.",
                hint="Start a server with `nightproof serve FOLDER`, or name its folder with --state.",
            )
        self._socket = str(StateFolder.open(state, create=False).socket)
        self._base_url, self._where = "http://nightproof", str(state)

    def get(self, path: str) -> Any:
        """Ask; return the JSON answer. Raises NightproofError with the server's own words."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any = None) -> Any:
        """Tell; return the JSON answer. Raises NightproofError with the server's own words."""
        return self._ask("POST", path, body)

    def post_bytes(self, path: str, content: bytes) -> Any:
        """Send bytes as they are; return the JSON answer. Raises NightproofError with the server's own words."""
        return self._ask("POST", path, None, content=content)

    def _ask(self, method: str, path: str, body: Any, *, content: bytes | None = None) -> Any:
        try:
            transport = httpx.HTTPTransport(uds=self._socket) if self._socket else None
            with httpx.Client(
                base_url=self._base_url, headers=self._headers, transport=transport, timeout=self._within_s
            ) as client:
                answer = client.request(method, path, json=body, content=content)
        except httpx.TransportError as error:
            raise NotRunning(
                f"No server answers for {self._where}.",
                hint="Start it with `nightproof serve FOLDER`, or name another with --state or --url.",
            ) from error
        try:
            told = answer.json()
        except ValueError:
            raise NightproofError(f"The server answered {answer.status_code} without JSON.") from None
        if answer.is_success:
            return told
        raise NightproofError(
            f"{told.get('failure', answer.status_code)}: {told.get('detail', '')}", hint=told.get("hint", "")
        )


def from_options(state: Path, url: str | None, *, within_s: float = _WITHIN_S) -> Client:
    """Make the client that the common options ask for; the key comes from `NIGHTPROOF_KEY`."""
    return Client(
        state, url or os.environ.get("NIGHTPROOF_URL"), os.environ.get("NIGHTPROOF_KEY"), within_s=within_s
    )
