"""A warm command line: one process that has imported `nightproof` and forks for each command that a test runs.

A command costs a third of a second of imports and a few milliseconds of work, a server's start over half a second
of them, and tests run more than a thousand commands and hundreds of servers. Each still is a process of its own, with
its own arguments, environment, working folder, pipes and exit code; only its imports are done before it begins. What
it starts itself, workers and the log's writer, begins as always. `tests/docs/test_runbook_commands.py` runs each verb
once as an operator's shell does, cold; and so begin the servers that many tests share.

Started once for each pytest process by `tests.serving`, and ends with it: it reads its standard input to the end.
Run as `python -m tests.warm --serve NAME` it serves on that abstract socket; as `python tests/warm.py ARGUMENTS` it is
what a shell finds under the name `nightproof` in a test, and asks the process that `WARM_NIGHTPROOF` names.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys

NAMED_BY = "WARM_NIGHTPROOF"
_HEAD = struct.Struct("!I")
_TOLD = struct.Struct("!i")
_PR_SET_PDEATHSIG = 1


class Forked:
    """A command that runs; its end is told as `subprocess.Popen` tells it, -N where signal N ended it."""

    def __init__(
        self, name: str, arguments: list[str], *, env: dict[str, str], cwd: str, fds: list[int]
    ) -> None:
        self.returncode: int | None = None
        self._line = socket.socket(socket.AF_UNIX)
        try:
            self._line.connect(f"\0{name}")
            asked = json.dumps({"arguments": arguments, "env": env, "cwd": cwd}).encode()
            socket.send_fds(self._line, [_HEAD.pack(len(asked))], fds)
            self._line.sendall(asked)
            (self.pid,) = _TOLD.unpack(_read(self._line, _TOLD.size))
        except BaseException:
            self._line.close()
            raise

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            self.wait(1)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises TimeoutError, and ConnectionError where nobody is left to tell."""
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                (self.returncode,) = _TOLD.unpack(_read(self._line, _TOLD.size))
            except ConnectionError:
                self._line.close()
                raise
            self._line.close()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _read(line: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = line.recv(size - len(got))
        if not more:
            raise ConnectionError("the warm command line hung up")
        got += more
    return got


def _warm_up() -> None:
    """Import what the verbs import."""
    import importlib

    import alembic.migration
    import alembic.operations
    import alembic.script  # noqa: F401

    from nightproof.cli.main import cli

    for verb in sorted(cli._LAZY):
        importlib.import_module(cli._LAZY[verb][0])
    for module in ("archive", "audit_find", "audit_keep", "audit_verify", "client", "keys", "status"):
        home = "steer" if module == "archive" else "cli"
        importlib.import_module(f"nightproof.{home}.{module}")


def serve(name: str) -> None:
    """Fork for every command that is asked for, until standard input ends."""
    import gc

    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(32)
        os.write(1, b"ready\n")
        _warm_up()
        gc.collect()
        gc.freeze()
        while True:
            readable, _, _ = select.select([listener, wake, 0], [], [])
            if wake in readable:
                os.read(wake, 4_096)
                _tell(running)
            if 0 in readable:
                return  # whoever started us is gone; what we forked goes with us
            if listener in readable:
                line, _ = listener.accept()
                _run(line, running, listener, [wake, woken])


def _tell(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as line:
            try:
                line.sendall(_TOLD.pack(os.waitstatus_to_exitcode(status)))
            except OSError:
                pass  # the asker did not wait


def _run(
    line: socket.socket, running: dict[int, socket.socket], listener: socket.socket, pipes: list[int]
) -> None:
    head, fds, _, _ = socket.recv_fds(line, _HEAD.size, 3)
    asked = json.loads(_read(line, *_HEAD.unpack(head)))
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        running[pid] = line
        line.sendall(_TOLD.pack(pid))
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for one in (listener, line, *running.values()):
        one.close()
    for fd in pipes:
        os.close(fd)
    for place, fd in enumerate(fds):
        os.dup2(fd, place)
        os.close(fd)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.path[0] = asked["cwd"]
    sys.argv = ["nightproof", *asked["arguments"]]

    import atexit
    import threading
    import traceback

    from nightproof.cli.main import main

    code = 1
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    # It ends as an interpreter does, but for taking apart, module by module, what the next one needs as well.
    threading._shutdown()  # type: ignore[attr-defined]  # idle threads of pools are told, the others waited for
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        _code = Forked(
            os.environ[NAMED_BY], sys.argv[1:], env=dict(os.environ), cwd=os.getcwd(), fds=[0, 1, 2]
        ).wait()
        if _code < 0:
            signal.signal(-_code, signal.SIG_DFL)
            os.kill(os.getpid(), -_code)
        sys.exit(_code)
