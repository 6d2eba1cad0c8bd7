"""Bytes on sockets, for drills whose callers do not keep to the rules: what to send, and what came back."""

from __future__ import annotations

import contextlib
import socket
import ssl

from nightproof.drills.load import Answer, Door
from nightproof.drills.scene import Scene

_WITHIN_S = 20.0
_MOST_BYTES = 1 << 20


def connect(scene: Scene) -> socket.socket:
    """Open a connection to the stage's server."""
    return connect_to(scene.stage.place)


def connect_to(door: Door) -> socket.socket:
    """Open a connection to any server."""
    plain = socket.create_connection((door.host, door.port), timeout=_WITHIN_S)
    if door.tls is None:
        return plain
    return door.tls.wrap_socket(plain, server_hostname="localhost" if door.host == "127.0.0.1" else door.host)


def send_raw(scene: Scene, request: bytes) -> Answer:
    """Send bytes on a connection of their own; return the answer, with status 0 where the server just hung up."""
    connection = connect(scene)
    with contextlib.closing(connection):
        with contextlib.suppress(OSError, ssl.SSLError):
            connection.sendall(request)  # it may be refused before all is sent
        return receive(connection)


def receive(connection: socket.socket) -> Answer:
    """Read one answer to its end."""
    got = b""
    with contextlib.suppress(OSError, ssl.SSLError):
        while len(got) < _MOST_BYTES:
            head, found, body = got.partition(b"\r\n\r\n")
            if found and len(body) >= _length(head):
                break
            part = connection.recv(65_536)
            if not part:
                break
            got += part
    head, found, body = got.partition(b"\r\n\r\n")
    if not found:
        return Answer(0, {}, got)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split(" ")[1]), headers, body)


def is_closed(connection: socket.socket) -> bool:
    """Say whether the other end has hung up; takes what it may have said before."""
    connection.setblocking(False)
    try:
        while True:
            if not connection.recv(65_536):
                return True
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def head_of(scene: Scene, body_bytes: int, *more: str) -> bytes:
    """Write the head of an ordinary request with a body of that size."""
    lines = [
        f"POST {scene.stage.place.path} HTTP/1.1", f"host: 127.0.0.1:{scene.stage.port}",
        f"authorization: Bearer {scene.stage.key}", "content-type: application/json",
        f"content-length: {body_bytes}", *more,
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def told(answer: Answer) -> str:
    """Say in a word what came back."""
    return f"{answer.status} {answer.failure}".strip() if answer.status else "hung up"


def _length(head: bytes) -> int:
    """Return the length that an answer's head announces; 0 where it announces none."""
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0
