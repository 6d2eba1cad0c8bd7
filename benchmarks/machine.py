"""Read what the machine does: processes, CPU, memory, disk. Everything comes from `/proc` and one file.

Called by every experiment. Changes nothing, except `wait_for_quiet`, which waits. A process counts as
ours when it descends from this one or carries this run's mark in its environment (peers start daemons).
"""

import os
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MARK = "BENCH_RUN"
RUN = uuid.uuid4().hex
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
QUIET_CORES = 0.2
"""Above this many cores of other people's work a reading is marked as disturbed."""
STEPS = 200


@dataclass(frozen=True)
class Process:
    """One line of the process table; `cpu_s` includes children that have ended."""

    pid: int
    parent: int
    cpu_s: float
    rss_bytes: int


def processes() -> dict[int, Process]:
    """Read the process table."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        after_name = text.rpartition(")")[2].split()
        if after_name[0] == "Z":
            continue
        ticks = sum(int(word) for word in after_name[11:15])
        pid = int(entry)
        found[pid] = Process(pid, int(after_name[1]), ticks / TICKS_PER_S, int(after_name[21]) * PAGE_BYTES)
    return found


def descendants(roots: set[int], table: dict[int, Process]) -> set[int]:
    """Name the roots and everything below them that is alive."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    reached, waiting = set(), list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in table and pid not in reached:
            reached.add(pid)
            waiting.extend(children.get(pid, ()))
    return reached


def carrying(mark: str, table: dict[int, Process]) -> set[int]:
    """Name the processes whose environment holds `mark` as one of its lines."""
    wanted = mark.encode()
    found = set()
    for pid in table:
        try:
            lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in lines:
            found.add(pid)
    return found


def _busy_and_ours_s() -> tuple[float, float]:
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(word) for word in words[:8])
    table = processes()
    ours = descendants({os.getpid()} | carrying(f"{MARK}={RUN}", table), table)
    busy = (user + nice + system + irq + softirq + steal) / TICKS_PER_S
    return busy, sum(table[pid].cpu_s for pid in ours)


class Others:
    """How many cores the rest of the machine used in a stretch of time."""

    cores: float = 0.0


@contextmanager
def watch_others() -> Iterator[Others]:
    """Measure, over the block, the CPU that nobody of ours used (stolen time included)."""
    others = Others()
    start = time.perf_counter()
    busy, ours = _busy_and_ours_s()
    yield others
    busy_after, ours_after = _busy_and_ours_s()
    spent = (busy_after - busy) - (ours_after - ours)
    others.cores = round(max(0.0, spent / (time.perf_counter() - start)), 2)


def wait_for_quiet(at_most_s: float) -> None:
    """Return once the others use less than `QUIET_CORES`, or when patience ends."""
    until = time.perf_counter() + at_most_s
    while time.perf_counter() < until:
        with watch_others() as others:
            time.sleep(0.5)
        if others.cores < QUIET_CORES:
            return


def rss_bytes(pid: int) -> int:
    """Give the resident memory of one process."""
    return processes()[pid].rss_bytes


def own_rss_bytes(pid: int) -> int:
    """Give the resident memory of one process, read from its own file alone: cheap enough for ten times a second."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def tree_memory(pid: int) -> tuple[int, int]:
    """Give the processes and the summed resident bytes of a process and all below it."""
    table = processes()
    pids = descendants({pid}, table)
    return len(pids), sum(table[one].rss_bytes for one in pids)


def cpu_s(pids: set[int]) -> float:
    """Sum the CPU seconds of these processes, their ended children included."""
    table = processes()
    return sum(table[pid].cpu_s for pid in pids if pid in table)


def own_cpu_s(pid: int) -> float:
    """Give the CPU seconds of one process alone, its children left out."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS_PER_S


def is_alive(pid: int) -> bool:
    """Say whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> set[int]:
    """Name the direct children of a process."""
    return {process.pid for process in processes().values() if process.parent == pid}


def fdatasync_ms(folder: Path, size_bytes: int = 4_096) -> tuple[float, float]:
    """Measure p50 and p99 of append + fdatasync in the folder; 4 KiB is a page of the database's log."""
    path = folder / "fdatasync.probe"
    block = os.urandom(size_bytes)
    times = []
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for _ in range(STEPS):
            start = time.perf_counter()
            os.write(handle, block)
            os.fdatasync(handle)
            times.append((time.perf_counter() - start) * 1_000)
    finally:
        os.close(handle)
        path.unlink()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def describe() -> dict[str, str | int | float]:
    """Say what machine this is, for the head of the report."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cores": os.cpu_count() or 1,
        "cpu": model,
        "memory_gib": round(memory_kib / 2**20, 1),
        "linux": os.uname().release,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
    }
