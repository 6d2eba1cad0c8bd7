"""Put a disk under SQLite that fails on cue, in the server and the writer of its log. For tests; found by PYTHONPATH.

The file `fault` in the folder FAILING_DISK says how: `sync` (an fsync that fails), `stall` (one that does
not return while the file is there), `full` (no room for what is written), `full for all` (no room in any database).
FAILING_FILE names another file than the ledger.
"""

import os
import sys
import time
from pathlib import Path

if {"serve", "nightproof.steer.log_program"} & set(sys.orig_argv) and "FAILING_DISK" in os.environ:
    import apsw

    FAULT = Path(os.environ["FAILING_DISK"]) / "fault"

    def fault() -> str:
        """Read the word; nothing when there is no file."""
        try:
            return FAULT.read_text()
        except OSError:
            return ""

    class File(apsw.VFSFile):
        """A file whose sync fails."""

        def __init__(self, name: object, flags: list[int]) -> None:
            super().__init__("unix", name, flags)
            self._is_ours = os.environ.get("FAILING_FILE", "ledger.db") in str(
                name.filename() if isinstance(name, apsw.URIFilename) else name
            )

        def xSync(self, flags: int) -> None:
            """Sync, fail or stand still (SQLite's callback)."""
            if self._is_ours and fault() == "sync":
                error = apsw.IOError("the disk failed")
                error.extendedresult = apsw.SQLITE_IOERR_FSYNC
                raise error
            while self._is_ours and fault() == "stall":
                time.sleep(0.02)
            super().xSync(flags)

        def xWrite(self, data: bytes, offset: int) -> None:
            """Write, or have no room (SQLite's callback)."""
            if fault() == ("full" if self._is_ours else "full for all") or (
                self._is_ours and fault() == "full for all"
            ):
                error = apsw.FullError("the disk is full")
                error.result = error.extendedresult = apsw.SQLITE_FULL
                raise error
            super().xWrite(data, offset)

    class Disk(apsw.VFS):
        """The usual disk with such files."""

        def __init__(self) -> None:
            super().__init__("failing", "unix", makedefault=True)

        def xOpen(self, name: object, flags: list[int]) -> File:
            """Open a file (SQLite's callback)."""
            return File(name, flags)

    disk = Disk()
