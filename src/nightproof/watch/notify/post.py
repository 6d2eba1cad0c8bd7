"""Send bytes to an address that the settings name, once: within a deadline, without following anybody elsewhere.

The address is taken as written. A redirect is an error, never followed, so a receiver cannot send us to a private
address. Proxies of the environment are not used. Of the answer, a bounded piece is read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nightproof.base.errors import NightproofError

if TYPE_CHECKING:
    import httpx

_MOST_ANSWER_BYTES = 65_536
_TOLD_BYTES = 200
_REFUSED_FOR_GOOD = frozenset({400, 413, 415, 422})


class NotDelivered(NightproofError):
    """A receiver did not take what it was told."""

    is_final: bool = False
    """The receiver will never take this very message, so what waits behind it may go."""
    retry_after_s: float = 0.0


class Sender:
    """Posts, with one pool of connections. Made off the loop: reading the system's certificates takes a while."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """Send once; return status and the beginning of the answer. Raises NotDelivered with the reason."""
        client = await self._ready()
        import httpx  # the client has it

        try:
            async with (
                asyncio.timeout(self._within_s),
                client.stream("POST", url, content=content, headers=dict(headers)) as answer,
            ):
                text = await _beginning(answer)
        except TimeoutError:
            raise NotDelivered(f"no answer within {self._within_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise NotDelivered(f"no answer ({_reason(error)})") from error
        if answer.is_success:
            return answer.status_code, text
        raise _refused(answer, text)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _ready(self) -> httpx.AsyncClient:
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(_new_client, self._within_s)
        return self._client


def _new_client(within_s: float) -> httpx.AsyncClient:
    import httpx  # not before there is somebody to tell: every start would wait for it

    return httpx.AsyncClient(
        verify=ssl.create_default_context(),
        follow_redirects=False,
        trust_env=False,
        timeout=httpx.Timeout(within_s),
        limits=httpx.Limits(max_connections=16, keepalive_expiry=5.0),
    )


def _refused(answer: httpx.Response, text: str) -> NotDelivered:
    if answer.is_redirect:
        return NotDelivered(
            f"status {answer.status_code}: it redirects, which is not followed",
            hint="Set the address that answers itself.",
        )
    told = " ".join(text[:_TOLD_BYTES].split())
    refused = NotDelivered(f"status {answer.status_code}" + (f": {told}" if told else ""))
    refused.is_final = answer.status_code in _REFUSED_FOR_GOOD
    pause = answer.headers.get("retry-after", "")
    if pause.isascii() and pause.isdigit():
        refused.retry_after_s = float(min(int(pause), 3_600))
    return refused


async def _beginning(answer: httpx.Response) -> str:
    content = b""
    async for piece in answer.aiter_bytes():
        content += piece
        if len(content) >= _MOST_ANSWER_BYTES:
            break
    return content[:_MOST_ANSWER_BYTES].decode("utf-8", "replace")


def _reason(error: BaseException) -> str:
    """Name what the system said, which is at the bottom of what the libraries made of it."""
    said = type(error).__name__
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        if isinstance(inner, ssl.SSLError):
            return f"TLS: {inner.reason or type(inner).__name__}"
        if isinstance(inner, socket.gaierror):
            return "its name is not known"
        if isinstance(inner, OSError) and inner.errno:
            said = os.strerror(inner.errno)
        inner = inner.__cause__ or inner.__context__
    return said
