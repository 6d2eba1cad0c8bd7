"""The side file that takes records while the ledger cannot be written: framed, checked, synchronous.

Used by the audit room's spill, from one thread at a time. A frame is the length of its content (four bytes), the
CRC-32 of the content (four bytes), and the content, which is sealed. Promises: when `append` returns, the frame
survives a power cut; a frame that was torn by one is noticed, and ends what is read. Never looks into a frame.
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

    def frames(self) -> tuple[list[bytes], int]:
        """Return the whole frames in their order, and how many bytes behind them are torn."""
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
        return found, len(content) - start

    def clear(self) -> None:
        """Empty the file: everything in it is in the ledger."""
        os.ftruncate(self._fd, 0)
        os.fsync(self._fd)
        self.size_bytes = 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
