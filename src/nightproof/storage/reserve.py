"""A file that holds space back, to be given up when the disk is full, so that operators can still act.

Called by the runtime's tick. While it is given up, requests are refused and the space is for records of operators'
acts, erasures and rollbacks. Never deletes anything else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Choice = Literal["give_up", "take_back", "leave"]


def choose(*, is_held: bool, is_refused: bool, free_bytes: int, size_bytes: int) -> Choice:
    """Choose what to do: give up when the disk refuses for want of space, take back at twice its size free.

    `is_refused` says that the ledger could not be written. Between the two thresholds nothing changes, so that it
    does not flap.
    """
    if not size_bytes:
        return "leave"
    if is_held and is_refused and free_bytes < size_bytes:
        return "give_up"
    if not is_held and free_bytes > 2 * size_bytes:
        return "take_back"
    return "leave"


class Reserve:
    """The file and whether it is there."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self.size_bytes = size_bytes

    @property
    def is_held(self) -> bool:
        """Say whether the space is held back."""
        try:
            return self._path.stat().st_size >= self.size_bytes
        except FileNotFoundError:
            return False

    def take_back(self) -> bool:
        """Hold the space; return whether that worked."""
        try:
            fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.size_bytes)
            finally:
                os.close(fd)
        except OSError:
            self.give_up()  # half of it is no reserve
            return False
        return True

    def give_up(self) -> None:
        """Give the space to whoever needs it."""
        self._path.unlink(missing_ok=True)
