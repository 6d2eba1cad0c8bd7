"""Start the real server on a service folder, in a process of its own, and speak to it. Used by live tests."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from nightproof.cli import keys
from nightproof.storage.registry_store import RegistryStore
from tests.warm import Forked

ROOT = Path(__file__).parent.parent
SERVICES = Path(__file__).parent / "material" / "services"
START_WITHIN_S = 60.0
SMALL = {"NIGHTPROOF_LEDGER_RESERVE_BYTES": "65536", "NIGHTPROOF_DRAIN_WAIT_S": "0"}
"""Settings of every server in tests: hundreds of state folders would else hold back gigabytes, and hundreds of stops
wait for load balancers that are not there. Tests of the drain set a pause of their own."""


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_AS_STARTED = re.compile(r"PYTHON|LD_|LC_|LANG|TZ")
"""Variables that a program looks at when it begins, so that one that has begun does not see them."""
_starting = threading.Lock()
_warm: list[subprocess.Popen[bytes]] = []


def warm() -> str:
    """Name the socket of this test process's warm command line; start it if it does not run."""
    name = f"nightproof-warm-{os.getpid()}"
    with _starting:
        if not _warm:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", "--serve", name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            )  # fmt: skip
            _warm.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
    return name


def cool_down() -> None:
    """End the warm command line."""
    for process in _warm:
        process.communicate(timeout=10)
    _warm.clear()


def run_nightproof(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, is_cold: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end: `is_cold` in an interpreter of its own, else in one that has begun."""
    if is_cold or any(map(_AS_STARTED.match, env or {})):
        return subprocess.run(
            [sys.executable, "-m", "nightproof", *arguments],
            capture_output=True, text=True, timeout=60, cwd=cwd, env={**os.environ, **(env or {})}, check=False,
        )  # fmt: skip
    with (
        tempfile.TemporaryFile() as nothing,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        command = _forked(arguments, env, cwd, nothing.fileno(), out.fileno(), err.fileno())
        try:
            code = command.wait(60)
        except TimeoutError:
            command.kill()
            command.wait(10)
            raise
        said = [file.seek(0) or file.read().decode() for file in (out, err)]
    return subprocess.CompletedProcess(arguments, code, *said)


def _forked(arguments: Sequence[str], env: dict[str, str] | None, cwd: Path | None, *fds: int) -> Forked:
    whole = {**os.environ, **(env or {})}
    return Forked(warm(), list(arguments), env=whole, cwd=str(cwd or Path.cwd()), fds=list(fds))


def make_key(state: Path, role: str = "predict", *, name: str = "", services: Sequence[str] = ()) -> str:
    """Make an API key and return its token: by what the verb calls, without the half second of a process."""

    def create() -> str:
        return str(keys.create(state, None, role=role, name=name, services=services, expires_days=90)["key"])

    with ThreadPoolExecutor(1) as apart:  # it runs a loop of its own, and so may the caller
        return apart.submit(create).result()


def make_live(folder: Path, state: Path, version: str = "") -> str:
    """Release a folder while no server runs, and make that release live; return its version."""
    done = run_nightproof(
        "release", str(folder), "--state", str(state), "--json", *(("--version", version) if version else ())
    )
    assert done.returncode == 0, done.stderr + done.stdout
    released = json.loads(done.stdout)["released"]
    with closing(RegistryStore(state / "registry.db")) as registry:
        registry.set_live(released["service"], released["version"])
    return str(released["version"])


@dataclass
class Served:
    """A running server, with a client that has a predict key."""

    process: subprocess.Popen[bytes] | Forked
    state: Path
    base_url: str
    key: str
    service: str
    log: Path
    client: httpx.Client
    example: dict[str, Any] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """`address:port`."""
        return self.base_url.partition("://")[2]

    @property
    def port(self) -> int:
        """The port."""
        return int(self.base_url.rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a good request."""
        return {"authorization": f"Bearer {self.key}", "content-type": "application/json"}

    def predict(self, record: Any, **headers: str) -> httpx.Response:
        """Ask for a prediction; `x_name` in a keyword is the header `x-name`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/services/{self.service}/predict", json=record, headers=named)

    def predict_bytes(self, body: bytes, **headers: str) -> httpx.Response:
        """Send these very bytes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(
            f"/services/{self.service}/predict",
            content=body,
            headers={"content-type": "application/json", **named},
        )

    def status(self) -> dict[str, Any]:
        """Ask `nightproof status --json`'s source, over the control socket."""
        transport = httpx.HTTPTransport(uds=str(control_socket(self.state)))
        with httpx.Client(transport=transport, base_url="http://nightproof") as control:
            told: dict[str, Any] = control.get("/admin/status").json()
            return told

    def operate(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Use an operator's route over the control socket."""
        transport = httpx.HTTPTransport(uds=str(control_socket(self.state)))
        with httpx.Client(transport=transport, base_url="http://nightproof", timeout=30) as control:
            return control.request(method, path, json=body)

    def metrics(self) -> str:
        """Return `/metrics`."""
        return self.client.get("/metrics").text

    def wait_until(self, holds: Any, *, within_s: float = 45.0) -> None:
        """Wait until `holds()` is true."""
        wait_until(holds, within_s=within_s)

    def stop(self, number: int = signal.SIGTERM, *, within_s: float = 40.0) -> int:
        """Send a signal and wait for the end; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within_s)


def control_socket(state: Path) -> Path:
    """Return the path of the control socket of a state folder."""
    from nightproof.storage.statefolder import StateFolder

    return StateFolder.open(state, create=False).socket


def wait_until(holds: Any, *, within_s: float = 45.0) -> None:
    """Wait until `holds()` is true; fail with its name after `within_s`."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s: {getattr(holds, '__name__', holds)}"
        time.sleep(0.02)


@contextmanager
def serving(
    folder: Path | str,
    state: Path,
    *flags: str,
    service: str = "",
    env: dict[str, str] | None = None,
    wait: bool = True,
    scheme: str = "http",
    client_options: dict[str, Any] | None = None,
    is_cold: bool = False,
) -> Iterator[Served]:
    """Serve a folder on a free port until the block ends. The state folder may be used again afterwards.

    `is_cold`: in an interpreter of its own; else in a fork of one that has imported all it needs.
    """
    path = SERVICES / folder if isinstance(folder, str) else folder
    key = make_key(state)
    port = free_port()
    log = state.parent / f"{state.name}.server.log"
    arguments = ["serve", str(path), "--state", str(state), "--port", str(port), *flags]
    process: subprocess.Popen[bytes] | Forked
    with log.open("ab") as sink, Path(os.devnull).open() as nothing:
        if is_cold or any(map(_AS_STARTED.match, env or {})):
            process = subprocess.Popen(
                [sys.executable, "-m", "nightproof", *arguments],
                stdout=sink, stderr=sink, stdin=nothing, env={**os.environ, **SMALL, **(env or {})},
            )  # fmt: skip
        else:
            process = _forked(
                arguments, {**SMALL, **(env or {})}, None, nothing.fileno(), sink.fileno(), sink.fileno()
            )
    base_url = f"{scheme}://127.0.0.1:{port}"
    name = service or path.name
    golden = path / "golden.jsonl"
    example = json.loads(golden.read_text().splitlines()[0])["input"] if golden.exists() else {}
    with httpx.Client(
        base_url=base_url, headers={"authorization": f"Bearer {key}"}, timeout=30, **(client_options or {})
    ) as client:
        served = Served(process, state, base_url, key, name, log, client, example)
        try:
            if wait:
                _wait_ready(served)
            yield served
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(40)
                except (subprocess.TimeoutExpired, TimeoutError):
                    process.kill()
                    process.wait()


def _wait_ready(served: Served) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        assert served.process.poll() is None, f"the server ended:\n{served.log.read_text()}"
        assert time.monotonic() < deadline, f"not ready:\n{served.log.read_text()}"
        try:
            if served.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
