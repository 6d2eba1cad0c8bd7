"""What the server's processes use: CPU, memory, open files; each worker under a place that stays small.

Asked once a second by the runtime. A worker's label is not its process id, of which there is no end, but the
lowest place that is free when it appears: a counter of a place only grows, whoever sits there.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence

import msgspec

from nightproof.storage import proc

_FILES_EVERY = 5
"""Counting open files walks a directory: not each second."""


class Usage(msgspec.Struct, frozen=True):
    """What one process uses."""

    memory_bytes: int
    cpu_s: float
    """Of its place, since the server's start."""
    cpu_cores: float
    """How many cores it kept busy since the last look."""
    open_files: int


class Resources:
    """Remembers who sits at which place, and what each place has used."""

    def __init__(self) -> None:
        self.server = Usage(0, 0.0, 0.0, 0)
        self.workers: dict[tuple[str, int], Usage] = {}
        """By service and place."""
        self.most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._places: dict[str, dict[int, int]] = {}
        self._cpu_of_pid: dict[int, float] = {}
        self._cpu_of_place: dict[tuple[str, int], float] = {}
        self._looked_s = 0.0
        self._turn = 0

    def look(self, workers: Mapping[str, Sequence[int]], *, now: float) -> None:
        """Read what the kernel says of the server and of its workers, given as process ids by service."""
        span_s = now - self._looked_s if self._looked_s else 0.0
        self._looked_s = now
        counts_files = self._turn % _FILES_EVERY == 0
        self._turn += 1
        cpu_s = proc.cpu_s()
        self.server = Usage(
            proc.rss_bytes(),
            cpu_s,
            (cpu_s - self.server.cpu_s) / span_s if span_s else 0.0,
            proc.open_files() if counts_files else self.server.open_files,
        )
        found: dict[tuple[str, int], Usage] = {}
        cpu_of_pid: dict[int, float] = {}
        for service, pids in workers.items():
            places = self._places[service] = next_places(self._places.get(service, {}), pids)
            for pid, place in places.items():
                key = (service, place)
                used_s = proc.cpu_s(pid)
                grown_s = max(0.0, used_s - self._cpu_of_pid.get(pid, 0.0))
                cpu_of_pid[pid] = used_s
                self._cpu_of_place[key] = self._cpu_of_place.get(key, 0.0) + grown_s
                known = self.workers.get(key)
                found[key] = Usage(
                    proc.rss_bytes(pid),
                    self._cpu_of_place[key],
                    grown_s / span_s if span_s else 0.0,
                    proc.open_files(pid) if counts_files or known is None else known.open_files,
                )
        self.workers, self._cpu_of_pid = found, cpu_of_pid


def next_places(known: Mapping[int, int], pids: Sequence[int]) -> dict[int, int]:
    """Return each process's place: who has one keeps it, who is new gets the lowest that is free."""
    places = {pid: known[pid] for pid in pids if pid in known}
    taken = set(places.values())
    for pid in pids:
        if pid not in places:
            place = next(number for number in range(1, len(pids) + 2) if number not in taken)
            places[pid] = place
            taken.add(place)
    return places
