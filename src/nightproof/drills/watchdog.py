"""Undo what a drill left behind when the drill itself was killed. Run as a program of its own, in its own session.

    python -m nightproof.drills.watchdog FOLDER

Its standard input is held by the drill: a line says that all is undone; an end without one says that the drill is
gone. Then every process of the stage is ended (they carry the stage's folder in their environment) and the folder is
removed, files that cannot be changed included.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "nightproof-drill-stage"
VARIABLE = "DRILL_STAGE_OF_NIGHTPROOF"
_DIES_WITHIN_S = 5.0
_LOOK_AGAIN_S = 0.05


def main(root: Path) -> None:
    """Wait for the drill's word, or for its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.readline().strip() != "done":
        clear(root)


def clear(root: Path) -> None:
    """End every process of the stage, and remove its folder. Touches nothing that does not carry the stage's mark."""
    if not (root / MARK).is_file():
        return
    for _ in range(int(_DIES_WITHIN_S / _LOOK_AGAIN_S)):
        found = processes_of(root)
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_AGAIN_S)
    make_changeable(root)
    shutil.rmtree(root, ignore_errors=True)


def processes_of(root: Path) -> list[int]:
    """Return the processes that were started in this stage, ourselves not counted."""
    wanted = f"{VARIABLE}={root}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # it is gone, or somebody else's
    return found


def make_changeable(root: Path) -> None:
    """Take back what makes files unchangeable: the immutable flag, which only root can have set."""
    if os.geteuid() == 0 and shutil.which("chattr"):
        subprocess.run(["chattr", "-R", "-i", str(root)], capture_output=True, check=False)
    for path in [root, *root.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.chmod(0o700)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
