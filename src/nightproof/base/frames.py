"""Frames on a stream: four bytes of length, then the body. For sockets between our own processes."""

from __future__ import annotations

_LENGTH_BYTES = 4
FRAME_MOST_BYTES = 256 * 1024 * 1024


def framed(body: bytes) -> bytes:
    """Put the length in front of a body."""
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Cut a stream of bytes into bodies. Feed it what arrives; it returns what is whole."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, arrived: bytes) -> list[bytes]:
        """Return the bodies that are whole now. Raises ValueError on a length beyond the limit."""
        held = self._held
        held += arrived
        bodies = []
        at = 0
        while len(held) - at >= _LENGTH_BYTES:
            size = int.from_bytes(held[at : at + _LENGTH_BYTES], "big")
            if size > FRAME_MOST_BYTES:
                raise ValueError(f"a frame of {size} bytes is beyond {FRAME_MOST_BYTES}")
            end = at + _LENGTH_BYTES + size
            if len(held) < end:
                break
            bodies.append(bytes(memoryview(held)[at + _LENGTH_BYTES : end]))
            at = end
        if at:
            del held[:at]
        return bodies
