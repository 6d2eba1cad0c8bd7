"""Program: tell the formats of a release's files, or put its reference data into figures.

Started by `steer.examine` as `python -m nightproof.releases.inspect formats|profile FOLDER`, with the files to look
at, or the columns to hide, as JSON on standard input: in a process of its own with bounded memory and time, since the
files are somebody else's. Prints one JSON text. Loads no model, imports nothing from the folder.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
from pathlib import Path
from typing import Any

import msgspec

from nightproof.releases.formats import Looked, look
from nightproof.storage import proc

MEMORY_BYTES = 2 * 1024**3
CPU_S = 600
PROFILED = "reference.parquet"


class LookedAt(msgspec.Struct, frozen=True):
    """One file's format."""

    name: str
    looked: Looked


def formats(folder: Path, names: list[str]) -> list[LookedAt]:
    """Look at these files of a folder."""
    beside = frozenset(names)
    found = []
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            if file.seek(0, 2) == 0:
                found.append(
                    LookedAt(name, look(name, b"", beside=beside) if _may_be_empty(name) else _EMPTY)
                )
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                view = memoryview(content)
                try:
                    looked = look(name, view, beside=beside)
                except MemoryError:
                    looked = Looked("unknown", "unknown", "looking at it took too much memory")
                try:
                    view.release()
                    found.append(LookedAt(name, looked))
                except (
                    BufferError
                ):  # a part of it is still held by what was raised: the map goes with the process
                    found.append(LookedAt(name, looked))
    return found


_EMPTY = Looked("nothing", "unknown", "it is empty")


def _may_be_empty(name: str) -> bool:
    last = name.rpartition("/")[2]
    return "." not in last or last.endswith((".py", ".txt", ".md", ".csv", ".jsonl"))


def main() -> None:
    """Do what the command line says, and print it."""
    proc.die_with(os.getppid())
    what, folder = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    named = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
    told: Any
    if what == "formats":
        told = formats(Path(folder), named)
    else:
        from nightproof.releases.profile import profile  # pyarrow, only where there is something to profile

        told = profile(Path(folder) / PROFILED, frozenset(named))
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
