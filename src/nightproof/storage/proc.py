"""What the kernel says of a process: memory, open files, CPU; and what it does for one. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def cpu_s(pid: int | str = "self") -> float:
    """Return the CPU seconds (user and system) that a process has used; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped by a signal, or held by a debugger; not if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def open_files(pid: int | str = "self") -> int:
    """Count the open file descriptors of a process; 0 if they cannot be read."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def die_with(parent_pid: int) -> None:
    """End with the process that started this one, even when stopped: the kernel sends SIGKILL.

    It does so when the parent's thread that forked ends, so children are started from the main thread.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it was gone before the line above
        os._exit(1)


def give_way() -> None:
    """Have this process, when it is woken, wait for its turn and not interrupt the one that woke it.

    Its share of the processor stays the same. A container may forbid it; the work is then done in smaller pieces.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def cause_of(returncode: int) -> str:
    """Say in words how a process ended, from its return code."""
    if returncode >= 0:
        return f"exit {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
