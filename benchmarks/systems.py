"""Start a measured system, know when it answers, stop all of it.

A `Recipe` says how; `start` gives a `Running` with everything a load generator needs. A system that
cannot be installed or started raises `NotRun` with the reason, which the report prints in its place.
Each system keeps to its own environment, its own port and its own folder under `results/`.
"""

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import envelopes, machine
from benchmarks.make_model import field_names, records

HERE = Path(__file__).parent
VENVS = HERE / ".peers"
SYSTEM_MARK = "BENCH_SYSTEM"
STOP_PATIENCE_S = 10.0
INSTALL_PATIENCE_S = 1_800.0


class NotRun(Exception):
    """This part of the measurement could not be made; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where one start of a system lives."""

    python: Path
    """The interpreter of the system's own environment."""
    folder: Path
    """Scratch space of this start alone."""
    port: int
    environment: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to start one system in its best mode."""

    name: str
    title: str
    requirements: Path
    environment_name: str = ""
    """Another recipe's environment, where two recipes are modes of one system."""
    command: Callable[[Place], list[str]]
    prepare: Callable[[Place], object] | None = None
    path: str = "/predict"
    envelope: envelopes.Envelope = envelopes.plain
    environment: dict[str, str] = field(default_factory=dict)
    start_patience_s: float = 90.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a system is asked, where it is not the records of the one model."""

    bodies: tuple[bytes, ...]
    headers: dict[str, str] = field(default_factory=dict)
    number: bytes = b""
    """Digits in the bodies that are counted up, so that no two requests are the same; empty: nothing is."""


@dataclass(kw_only=True)
class Running:
    """A system that answers, and what a load generator needs to know of it."""

    name: str
    title: str
    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    path: str
    envelope: envelopes.Envelope
    mark: str
    token: str = ""
    asked: Asked | None = None
    launched_s: float = field(default_factory=time.perf_counter)
    ready_s: float = 0.0
    """From the launch to the first right answer."""
    state: Path | None = None
    """The state folder, where the system is Nightproof."""

    @property
    def pid(self) -> int:
        """The process that was started; Nightproof's is the server itself."""
        return self.process.pid

    def bodies(self) -> list[bytes]:
        """Wrap the 64 records as this system wants them, or give what is asked in their place."""
        if self.asked is not None:
            return list(self.asked.bodies)
        return [self.envelope(record) for record in records()]

    def head(self, size_bytes: int) -> bytes:
        """Give the request head for a body of that size."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            f"Content-Length: {size_bytes}",
        ]
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        if self.asked is not None:
            lines += [f"{name}: {value}" for name, value in self.asked.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def requests(self) -> list[bytes]:
        """Give the 64 requests whole, ready for a socket."""
        return [self.head(len(body)) + body for body in self.bodies()]

    def nth(self, requests: list[bytes], number: int) -> bytes:
        """Give the request whose turn it is, numbered where requests are."""
        request = requests[number % len(requests)]
        if self.asked is None or not self.asked.number:
            return request
        return request.replace(self.asked.number, b"%0*d" % (len(self.asked.number), number))

    def request(self, record: envelopes.Record) -> bytes:
        """Give one request for a record of the caller's choice."""
        body = self.envelope(record)
        return self.head(len(body)) + body

    def pids(self) -> set[int]:
        """Name every living process of this system, daemons included."""
        table = machine.processes()
        return machine.descendants({self.pid} | machine.carrying(f"{SYSTEM_MARK}={self.mark}", table), table)


def free_port() -> int:
    """Give a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def base_environment() -> dict[str, str]:
    """Give the environment every system starts with: one maths thread, and this run's mark."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, machine.MARK: machine.RUN, "PYTHONUNBUFFERED": "1"}


def last_words(log: Path, lines: int = 4) -> str:
    """Give the end of a log, in one line, for a reason that a person can act on."""
    try:
        text = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return " | ".join(line.strip() for line in text[-lines:] if line.strip())[-400:] or "empty log"


def environment_for(name: str, requirements: Path) -> Path:
    """Make the environment if it is missing or its requirements changed; return its interpreter."""
    home = VENVS / name
    python = home / "bin" / "python"
    stamp = home / "requirements.sha256"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    home.parent.mkdir(exist_ok=True)
    log = home.parent / f"{name}.install.log"
    steps = [
        [sys.executable, "-m", "venv", str(home)],
        [str(python), "-m", "pip", "install", "-q", "-r", str(requirements)],
    ]
    with log.open("wb") as output:
        for step in steps:
            try:
                subprocess.run(step, check=True, stdout=output, stderr=output, timeout=INSTALL_PATIENCE_S)
            except (subprocess.SubprocessError, OSError) as error:
                raise NotRun(f"install failed ({type(error).__name__}): {last_words(log)}") from error
    stamp.write_text(digest)
    return python


@contextmanager
def start(recipe: Recipe, results: Path) -> Iterator[Running]:
    """Run a neighbour until the block ends; raise NotRun where it cannot be."""
    home = recipe.environment_name or recipe.name
    python = environment_for(home, recipe.requirements)
    folder = results / f"{recipe.name}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(parents=True)
    mark = uuid.uuid4().hex
    artifacts = VENVS / home / "artifacts"
    environment = {
        **base_environment(),
        "BENCH_ARTIFACTS": str(artifacts),
        "BENCH_FIELDS": ",".join(field_names()),
        "PATH": f"{python.parent}:{os.environ.get('PATH', '')}",
        SYSTEM_MARK: mark,
        **recipe.environment,
    }
    place = Place(python, folder, free_port(), environment)
    if not (artifacts / "model.joblib").exists():
        run_step([str(python), str(HERE / "make_model.py"), "--into", str(artifacts)], place)
    if recipe.prepare is not None:
        recipe.prepare(place)
    with running(
        recipe.command(place), environment, folder, name=recipe.name, title=recipe.title, port=place.port,
        path=recipe.path, envelope=recipe.envelope, patience_s=recipe.start_patience_s,
    ) as subject:  # fmt: skip
        yield subject


@contextmanager
def running(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    *,
    name: str,
    title: str,
    port: int,
    path: str,
    envelope: envelopes.Envelope = envelopes.plain,
    asked: Asked | None = None,
    patience_s: float = 90.0,
) -> Iterator[Running]:
    """Run a program that answers, until the block ends; `environment` carries its mark, `folder` is removed."""
    subject = Running(
        name=name,
        title=title,
        process=launch(command, environment, folder),
        folder=folder,
        port=port,
        path=path,
        envelope=envelope,
        mark=environment[SYSTEM_MARK],
        asked=asked,
    )
    try:
        wait_until_it_answers(subject, patience_s)
        yield subject
    finally:
        stop(subject)
        shutil.rmtree(folder, ignore_errors=True)


def run_step(command: Sequence[str], place: Place) -> None:
    """Run a preparing program to its end; raise NotRun with its last words when it fails."""
    log = place.folder / "prepare.log"
    with log.open("ab") as output:
        done = subprocess.run(
            command, stdout=output, stderr=output, env=place.environment, timeout=300, check=False
        )
    if done.returncode != 0:
        raise NotRun(f"{Path(command[1]).name} failed: {last_words(log)}")


def launch(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start the program in its own session, with its output in a log in the folder."""
    with (folder / "output.log").open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )


def ask(running: Running, body: bytes, timeout_s: float = 10.0) -> tuple[int, bytes]:
    """Send one request over a connection of its own; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=timeout_s)
    headers = {"Content-Type": "application/json"}
    if running.token:
        headers["Authorization"] = f"Bearer {running.token}"
    if running.asked is not None:
        headers |= running.asked.headers
    try:
        connection.request("POST", running.path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_until_it_answers(running: Running, patience_s: float) -> None:
    """Return once a real record is answered with 200 and JSON; raise NotRun when that never comes."""
    begun = time.perf_counter()
    body = running.bodies()[0]
    last = "nothing listens"
    while time.perf_counter() - begun < patience_s:
        if running.process.poll() is not None:
            code = running.process.returncode
            raise NotRun(f"ended with code {code} at start: {last_words(running.folder / 'output.log')}")
        try:
            status, answer = ask(running, body)
            if status == 200:
                json.loads(answer)
                running.ready_s = time.perf_counter() - running.launched_s
                return
            last = f"{status} {answer[:200].decode(errors='replace')}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            last = f"{type(error).__name__}: {error}"
        time.sleep(0.05)
    raise NotRun(f"no answer within {patience_s:.0f} s, last was: {last}")


def stop(running: Running) -> None:
    """Ask the system to end, and kill what is left of it; only processes of this start are touched."""
    pids = running.pids()
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        try:
            running.process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass
    for pid in (pids | running.pids()) - {running.pid}:
        if machine.is_alive(pid):
            _kill(pid)
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
