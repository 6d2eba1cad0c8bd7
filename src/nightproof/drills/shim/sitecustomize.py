"""Make the disk under SQLite fail, and the wall clock jump, on cue, in a server that knows nothing of it.

Python imports this by itself where the folder is on PYTHONPATH. The server is the program as it is: what fails lies
below it. Without FAILING_DISK and JUMPING_CLOCK in the environment nothing is touched.

The file `fault` in the folder FAILING_DISK says how: `sync` (an fsync that fails), `stall` (one that does not return
while the file is there), `full` (no room for what is written), `full for all` (no room in any database). That is of the
ledger, unless FAILING_FILE or a second word (`full watch.db`) names another database.

JUMPING_CLOCK names a file that holds the seconds by which the wall clock is ahead; the time since boot is left alone,
as it is on a machine whose clock somebody set.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

if {"serve", "nightproof.steer.log_program"} & set(sys.orig_argv) and "FAILING_DISK" in os.environ:
    import apsw

    _FAULT = Path(os.environ["FAILING_DISK"]) / "fault"
    _MEANT = os.environ.get("FAILING_FILE", "ledger.db")

    def _fault(file: str) -> str:
        """Return what is wrong with a file now; nothing where the disk is well, or another file is meant."""
        try:
            told = _FAULT.read_text()
        except OSError:
            return ""
        if told == "full for all":
            return "full"
        act, _, meant = told.strip().partition(" ")
        return act if (meant or _MEANT) in file else ""

    class _File(apsw.VFSFile):
        def __init__(self, name: object, flags: list[int]) -> None:
            super().__init__("unix", name, flags)  # type: ignore[arg-type]
            self._name = str(name.filename() if isinstance(name, apsw.URIFilename) else name)

        def xSync(self, flags: int) -> None:
            """Sync, fail or stand still (SQLite's callback)."""
            if _fault(self._name) == "sync":
                error = apsw.IOError("the disk failed")
                error.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
                raise error
            while _fault(self._name) == "stall":
                time.sleep(0.02)
            super().xSync(flags)

        def xWrite(self, data: bytes, offset: int) -> None:
            """Write, or have no room (SQLite's callback)."""
            if _fault(self._name) == "full":
                error = apsw.FullError("the disk is full")
                error.result = error.extendedresult = apsw.SQLITE_FULL  # type: ignore[attr-defined]
                raise error
            super().xWrite(data, offset)

    class _Disk(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("failing", "unix", makedefault=True)

        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
            """Open a file (SQLite's callback)."""
            return _File(name, flags)

    _disk = _Disk()

if "JUMPING_CLOCK" in os.environ:
    _told_ns = time.time_ns

    def _time_ns() -> int:
        try:
            with open(os.environ["JUMPING_CLOCK"], "rb") as file:
                ahead_s = int(file.read() or b"0")
        except OSError:
            ahead_s = 0
        return _told_ns() + ahead_s * 1_000_000_000

    time.time_ns = _time_ns
