"""The seam between a call of an upstream and the HTTP that carries it.

A transport keeps connections to one upstream, asks once, follows nobody elsewhere, verifies TLS, and raises
UpstreamFault for everything that goes wrong on the wire. `http1.py` and `http2.py` are the two; nothing else in the
house knows which one is in use. What an answer means is the client's.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from typing import Protocol

from nightproof.workers.upstream.values import UpstreamFault


class Reply(Protocol):
    """An answer whose head has come."""

    status: int

    def header(self, name: str) -> str:
        """Return a header by its name in lower case; empty if it is not there."""

    async def read(self) -> bytes:
        """Return the next piece of the body; empty at its end. Raises UpstreamFault `upstream_broken`."""

    def close(self) -> None:
        """Let go: the connection is kept if the body was read to its end, and closed at once otherwise."""


class Transport(Protocol):
    """Keeps connections to one upstream."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, connect_s: float) -> Reply:
        """Send once and return when the head of the answer is there. Raises UpstreamFault."""

    async def aclose(self) -> None:
        """Close all connections."""


def unreachable(error: BaseException) -> UpstreamFault:
    """Name why there is no connection, in the system's words at the bottom of what a library made of it."""
    return UpstreamFault("upstream_unreachable", reason_of(error))


def reason_of(error: BaseException) -> str:
    """Say in the system's words, never in an upstream's, what went wrong."""
    said = type(error).__name__
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        if isinstance(inner, Forbidden):
            return str(inner)
        if isinstance(inner, ssl.SSLError) and (
            kind := getattr(inner, "reason", "")
        ):  # a library's own has none
            return f"TLS: {kind}"
        if isinstance(inner, socket.gaierror):
            return "its name is not known"
        if isinstance(inner, OSError) and inner.errno:
            said = os.strerror(inner.errno) if inner.errno > 0 else said
        inner = inner.__cause__ or inner.__context__
    return said


class Forbidden(OSError):
    """The upstream's name came to an address that it may not have."""

    def __init__(self) -> None:
        super().__init__("its name came to an address that it may not have")
