"""A folder that holds the log's checkpoints: one file each, never changed, and the newest under a fixed name.

Best on another machine's disk, where whoever rewrites this machine's ledger cannot reach. Promises: a file is whole
or not there; a checkpoint of a size that is there already is not replaced. Never reads what it was not asked for.
"""

from __future__ import annotations

import re
from pathlib import Path

from nightproof.base.errors import StateError
from nightproof.storage.statefolder import write_durably

_FILE = re.compile(r"checkpoint-(\d{1,18})\.note")
_LATEST = "latest.note"
MOST_FILES = 10_000


class WitnessConflict(StateError):
    """The folder has seen another log than the one that is given to it."""


class WitnessFolder:
    """Checkpoints in a folder, by size."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, size: int, note: bytes) -> None:
        """Add a checkpoint. Raises WitnessConflict where another of this size is there, StateError on a bad disk."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = self.path / f"checkpoint-{size}.note"
            if not file.exists():
                write_durably(file, note)
            elif file.read_bytes() != note:
                raise WitnessConflict(
                    f"{file} holds another checkpoint over as many entries.",
                    hint="Two logs, or two versions of this one, give to the same folder; see witness_refused.",
                )
            write_durably(self.path / _LATEST, note)
            self._thin()
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be written: {error.strerror}.",
                hint="Mount it, or name another folder with witness.folder.",
            ) from error

    def notes(self) -> list[bytes]:
        """Return all checkpoints that are there, the smallest first. Raises StateError where it cannot be read."""
        try:
            if not self.path.is_dir():
                return []
            return [(self.path / f"checkpoint-{size}.note").read_bytes() for size in self._sizes()]
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be read: {error.strerror}.", hint="Mount it, or look at its permissions."
            ) from error

    def newest(self) -> bytes | None:
        """Return the checkpoint over the most entries; None where none is there."""
        try:
            sizes = self._sizes() if self.path.is_dir() else []
            return (self.path / f"checkpoint-{sizes[-1]}.note").read_bytes() if sizes else None
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be read: {error.strerror}.", hint="Mount it, or look at its permissions."
            ) from error

    def _sizes(self) -> list[int]:
        return sorted(int(found[1]) for file in self.path.iterdir() if (found := _FILE.fullmatch(file.name)))

    def _thin(self) -> None:
        """Keep every other one of the older half when there are too many; the newest and the oldest stay."""
        sizes = self._sizes()
        if len(sizes) > MOST_FILES:
            for size in sizes[1 : MOST_FILES // 2 : 2]:
                (self.path / f"checkpoint-{size}.note").unlink(missing_ok=True)
