"""Frames on a stream between two of our own processes: four bytes of length, then the body.

Used by the workers' wire and by the way to the log's writer; what a body means is theirs. A length beyond
`FRAME_MOST_BYTES` is refused, so that a broken sender cannot fill the memory.
"""

from __future__ import annotations

FRAME_MOST_BYTES = 256 * 1024 * 1024
_LENGTH_BYTES = 4


def framed(body: bytes) -> bytes:
    """Put its length before a body."""
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Cut a stream of bytes into frames. Feed it what arrives; it returns whole frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, arrived: bytes) -> list[bytes]:
        """Return the frames that are whole now. Raises ValueError on a length beyond the limit."""
        held = self._held
        held += arrived
        frames = []
        at = 0
        while len(held) - at >= _LENGTH_BYTES:
            size = int.from_bytes(held[at : at + _LENGTH_BYTES], "big")
            if size > FRAME_MOST_BYTES:
                raise ValueError(f"a frame of {size} bytes is beyond {FRAME_MOST_BYTES}")
            end = at + _LENGTH_BYTES + size
            if len(held) < end:
                break
            frames.append(bytes(memoryview(held)[at + _LENGTH_BYTES : end]))
            at = end
        if at:
            del held[:at]
        return frames
