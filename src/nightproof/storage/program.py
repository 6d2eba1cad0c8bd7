"""A program that is not ours, in a process group of its own, that ends when the server does.

Used for the commands of chat services. Its environment has none of the server's secrets. `gone` is done once the
process is no more, and what it started in its group with it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_KEPT = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|VIRTUAL_ENV|XDG_CACHE_HOME"
    r"|(?:CUDA|NVIDIA|HIP|ROCR|HF|HUGGINGFACE|TRANSFORMERS|TORCH|OLLAMA|VLLM|LLAMA|GGML|OMP|MKL|OPENBLAS)_\w+"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL")


def program_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a model's server needs to run, and nothing whose name says that it is a secret."""
    return {
        name: value
        for name, value in environ.items()
        if _KEPT.fullmatch(name) and not _SECRET.search(name.upper())
    }


class Program:
    """A running program. Made by `start`, on the loop's thread, which must be the main one."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(popen.pid)
        self.gone: asyncio.Future[int] = self._loop.create_future()
        """Its return code, once it is no more."""
        self._loop.add_reader(self._pidfd, self._reap)

    @classmethod
    def start(cls, command: Sequence[str], *, folder: Path | None, show_output: bool) -> Program:
        """Start a program. Raises OSError where the system has no room for it."""
        output = None if show_output else subprocess.DEVNULL
        popen = subprocess.Popen(
            [sys.executable, "-m", "nightproof.storage.launch", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,  # a Ctrl-C is for the server, which then ends it
            cwd=folder,
            env=program_environment(os.environ) | {"PYTHONUNBUFFERED": "1"},
        )
        return cls(popen)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def kill(self) -> None:
        """Send SIGKILL to the whole group; `gone` follows."""
        if self._popen.returncode is None:
            try:
                os.killpg(self._popen.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself in the meantime

    def _reap(self) -> None:
        if self._popen.poll() is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)  # what it started must not outlive it
        except (ProcessLookupError, PermissionError):
            pass
        if not self.gone.done():
            self.gone.set_result(self._popen.returncode)

    def __repr__(self) -> str:
        return f"<Program pid={self.pid}>"
