"""The side file that takes records while the ledger cannot be written: framed, checked, synchronous.

Used by the audit room's spill, from one thread at a time. A frame is the length of its content (four bytes), the
CRC-32 of the content (four bytes), and the content, which is sealed. Promises: when `append` returns, the frame
survives a power cut; what does not read as frames (a torn tail) is set aside in `spill.torn` before anything is
written behind it, so that it hides nothing and is not lost. Never looks into a frame.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from nightproof.base.errors import StateError
from nightproof.storage.sqlite import StorageUnavailable
from nightproof.storage.statefolder import sync_folder

_HEAD = struct.Struct(">II")
_NAME = "spill.log"
_TORN = "spill.torn"


class SpillFile:
    """The file `spill.log` in a folder of the operator's choice, best on another disk than the ledger's."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_DSYNC | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
            sync_folder(folder)
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be opened: {error.strerror}.",
                hint="Name a folder that the server may write with ledger.spill_folder.",
            ) from error
        self.size_bytes = os.fstat(self._fd).st_size
        self.torn_bytes = 0
        """Bytes set aside since the last `clear`, because they read as no frame."""
        self._set_aside(self._whole()[1])

    def append(self, content: bytes) -> None:
        """Add a frame; it is durable at return. Raises StorageUnavailable, and then it is not there."""
        frame = _HEAD.pack(len(content), zlib.crc32(content)) + content
        before = self.size_bytes
        try:
            written = os.write(self._fd, frame)
            if written != len(frame):
                raise OSError(28, "the disk took only a part")
        except OSError as error:
            os.ftruncate(self._fd, before)  # what was written of it must not stand before the next frame
            raise StorageUnavailable(
                f"{self.path} cannot be written: {error.strerror}.",
                hint="Free space where records are spilled.",
            ) from error
        self.size_bytes = before + len(frame)

    def frames(self) -> list[bytes]:
        """Return the whole frames in their order."""
        found, end = self._whole()
        self._set_aside(end)
        return found

    def _whole(self) -> tuple[list[bytes], int]:
        """Return the whole frames, and where the last of them ends."""
        content = bytearray()
        at = 0
        while piece := os.pread(self._fd, 1 << 20, at):
            content += piece
            at += len(piece)
        found: list[bytes] = []
        start = 0
        while start + _HEAD.size <= len(content):
            length, checksum = _HEAD.unpack_from(content, start)
            end = start + _HEAD.size + length
            one = bytes(content[start + _HEAD.size : end])
            if end > len(content) or zlib.crc32(one) != checksum:
                break
            found.append(one)
            start = end
        return found, start

    def _set_aside(self, end: int) -> None:
        """Move what lies behind the last whole frame into a file of its own, durably, before it is cut off."""
        rest = os.pread(self._fd, self.size_bytes - end, end) if self.size_bytes > end else b""
        if not rest:
            return
        with open(self.path.with_name(_TORN), "ab", opener=_private) as aside:
            aside.write(rest)
            aside.flush()
            os.fsync(aside.fileno())
        sync_folder(self.path.parent)
        os.ftruncate(self._fd, end)
        os.fsync(self._fd)
        self.size_bytes = end
        self.torn_bytes += len(rest)

    def clear(self) -> None:
        """Empty the file: everything in it is in the ledger."""
        os.ftruncate(self._fd, 0)
        os.fsync(self._fd)
        self.size_bytes = self.torn_bytes = 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
