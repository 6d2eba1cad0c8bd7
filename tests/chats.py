"""A chat service of tests, with the upstreams that it asks in processes of their own; these misbehave as told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.serving import ROOT, SERVICES, Served, free_port, run_nightproof, serving, wait_until

UPSTREAM = ROOT / "examples" / "support-chat" / "upstream.py"
SECRET = "sk-test-0123456789abcdefghijklmnop"


@dataclass
class Upstream:
    """A running upstream."""

    process: subprocess.Popen[bytes]
    url: str

    def control(self, act: str = "", times: int = 0) -> dict[str, Any]:
        """Tell it how to behave from now on; return what it has seen."""
        told = httpx.post(f"{self.url}/control", json={"act": act, "times": times})
        seen: dict[str, Any] = told.json()
        return seen

    @property
    def seen(self) -> dict[str, Any]:
        """What it has seen: calls, and callers that left in the middle."""
        seen: dict[str, Any] = httpx.get(f"{self.url}/control").json()
        return seen


@contextmanager
def an_upstream() -> Iterator[Upstream]:
    """Run the example's upstream on a free port until the block ends."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(UPSTREAM), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    upstream = Upstream(process, f"http://127.0.0.1:{port}")

    def is_up() -> bool:
        try:
            return httpx.get(f"{upstream.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(is_up)
        yield upstream
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class Chatting:
    """A served chat service and its upstreams."""

    served: Served
    upstreams: list[Upstream] = field(default_factory=list)

    @property
    def first(self) -> Upstream:
        """The upstream that is asked first."""
        return self.upstreams[0]

    def ask(self, text: str, *, history: list[dict[str, Any]] | None = None, **more: Any) -> httpx.Response:
        """Send a chat, whole."""
        headers = {name.replace("_", "-"): value for name, value in more.pop("headers", {}).items()}
        messages = [*(history or []), {"role": "user", "content": text}]
        return self.served.client.post(
            "/v1/chat/completions",
            json={"model": self.served.service, "messages": messages, **more},
            headers=headers,
        )

    def stream(self, text: str, **more: Any) -> Streamed:
        """Send a chat, streamed, and read it to its end."""
        streamed = Streamed()
        messages = [*more.pop("history", []), {"role": "user", "content": text}]
        asked = {"model": self.served.service, "messages": messages, "stream": True, **more}
        with self.served.client.stream("POST", "/v1/chat/completions", json=asked) as response:
            streamed.status, streamed.headers = response.status_code, response.headers
            if not response.headers["content-type"].startswith("text/event-stream"):
                streamed.error = json.loads(response.read())["error"]
                return streamed
            for line in response.iter_lines():
                streamed.take(line)
        return streamed

    def entries(self, request_id: str) -> list[dict[str, Any]]:
        """Return what the audit log holds of a request, with its content: of a stream two entries."""
        shown = run_nightproof(
            "audit", "show", request_id, "--reveal", "--json", "--state", str(self.served.state)
        )
        assert shown.returncode == 0, shown.stderr + shown.stdout
        entries: list[dict[str, Any]] = json.loads(shown.stdout)
        return entries

    def record(self, request_id: str) -> dict[str, Any]:
        """Return how a request ended, as the audit log has it."""
        return self.entries(request_id)[-1]


@dataclass
class Streamed:
    """What came of a stream."""

    status: int = 0
    headers: Any = None
    text: str = ""
    chunks: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    is_done: bool = False
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The request's id."""
        return str(self.headers["x-request-id"])

    @property
    def looks_complete(self) -> bool:
        """Say whether a client takes it for whole."""
        return self.is_done or self.finish_reason is not None

    def take(self, line: str) -> None:
        """Take one line of the stream."""
        if not line.startswith("data: "):
            assert not line, f"a line that is no event: {line!r}"
            return
        assert not self.is_done, "an event after the end"
        if line == "data: [DONE]":
            self.is_done = True
            return
        told = json.loads(line.removeprefix("data: "))
        if "error" in told:
            self.error = told["error"]
            return
        self.chunks.append(told)
        self.usage = told.get("usage") or self.usage
        for choice in told["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.finish_reason = choice["finish_reason"] or self.finish_reason


def chat_folder(name: str, parent: Path, upstreams: list[Upstream], **given: str) -> Path:
    """Copy a service of the tests, and write beside it what it is given: workers see nothing of our environment."""
    path = parent / name
    if not path.exists():
        shutil.copytree(SERVICES / name, path)
    addresses = ",".join(f"{one.url}/v1" for one in upstreams)
    (path / "given.json").write_text(json.dumps({"CHAT_UPSTREAMS": addresses, **given}))
    return path


@contextmanager
def chatting(
    folder: str | Path, state: Path, *flags: str, upstreams: int = 1, **given: str
) -> Iterator[Chatting]:
    """Serve a chat service with this many upstreams until the block ends; `given` is what its service.py reads."""
    with ExitStack() as stack:
        started = [stack.enter_context(an_upstream()) for _ in range(upstreams)]
        path = folder if isinstance(folder, Path) else chat_folder(folder, state.parent, started, **given)
        served = stack.enter_context(serving(path, state, *flags, env={"CHAT_SECRET": SECRET}))
        yield Chatting(served, started)
