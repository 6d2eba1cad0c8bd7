"""Where a target is asked, how a request to it is written, and what its answers mean."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

import orjson

from nightproof.base.errors import SettingError
from nightproof.drills.load import Answer, digest
from nightproof.drills.observed import Call, Ending
from nightproof.drills.target.adapter import Adapter, filled_in, lacks, picked

TOLD_TO_WAIT = ("status 408", "status 429", "status 503", "status 504")
"""How a server may tell callers that there is too much to do, or that it took too long."""
TOLD_NO = (*TOLD_TO_WAIT, "status 500", "status 502")
"""How a server may tell callers that something of its own is broken."""
SHED = (429, 503)
NO_ANSWER = "a bad answer"
"""What an answer is called that says by its status that it is good, and is not."""


@dataclass(frozen=True, kw_only=True)
class TargetPlace:
    """A server at a URL, seen through its adapter."""

    adapter: Adapter
    host: str
    port: int
    prefix: str = ""
    """The URL's own path: the adapter's paths lie below it."""
    headers: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None

    @property
    def path(self) -> str:
        """Where predictions are asked for."""
        return self.prefix + self.adapter.request.path

    @property
    def authority(self) -> str:
        """The host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The server's URL, without its path."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    @property
    def is_local(self) -> bool:
        """Say whether it is this very machine."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def head(self, size_bytes: int, headers: Sequence[tuple[str, str]] = ()) -> bytes:
        """Write the head of a request with a body of that size."""
        lines = [
            f"{self.adapter.request.method} {self.path} HTTP/1.1",
            f"host: {self.authority}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            *(f"{name}: {value}" for name, value in headers),
            f"content-length: {size_bytes}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def request(self, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
        """Write a whole request."""
        return self.head(len(body), headers) + body

    def read(self, answer: Answer, *, sent_s: float, took_s: float) -> Call:
        """Say how a call ended. An error is named by its status; a good status without a good answer is told apart."""
        form = self.adapter.answer
        ending: Ending = "answered"
        failure, output = "", ""
        if answer.status in form.status:
            failure = self.what_is_bad(answer)
            ending = "failed" if failure else "answered"
            if form.same and form.has and not failure:
                output = digest(picked(orjson.loads(answer.body), form.has))
        else:
            failure = f"status {answer.status}"
            is_no = answer.status < 500 or answer.status in SHED
            ending = "refused" if is_no else "failed"
        return Call(
            sent_s=sent_s, took_s=took_s, status=answer.status, ending=ending, failure=failure, output=output
        )

    def what_is_bad(self, answer: Answer) -> str:
        """Say what is bad about an answer that calls itself good; empty where nothing is."""
        try:
            told = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            return f"{NO_ANSWER}: no JSON"
        missing = lacks(told, self.adapter.answer.has)
        return f"{NO_ANSWER}: {missing}" if missing else ""


def place_at(url: str, adapter: Adapter) -> TargetPlace:
    """Read a target's URL. Raises SettingError."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise SettingError(f"{url!r} is no URL: {error}.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise SettingError(
            f"{url!r} is no target.", hint="Write http://host:port or https://host:port, a path may follow."
        )
    headers = {"content-type": "application/json", **filled_in(adapter.request.headers)}
    return TargetPlace(
        adapter=adapter,
        host=parts.hostname,
        port=port,
        prefix=parts.path.rstrip("/"),
        headers=headers,
        tls=ssl.create_default_context() if parts.scheme == "https" else None,
    )
