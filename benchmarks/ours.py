"""Start Nightproof as its users do: keys made beforehand, then `nightproof serve FOLDER`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import envelopes, machine
from benchmarks.make_model import SERVICES, fill_services
from benchmarks.systems import (
    SYSTEM_MARK,
    NotRun,
    Running,
    base_environment,
    free_port,
    last_words,
    launch,
    stop,
    wait_until_it_answers,
)

START_PATIENCE_S = 60.0
COMMAND = [sys.executable, "-m", "nightproof"]


def _verb(*words: str) -> Any:
    """Run one verb of the command line and return the JSON it prints."""
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=60, env=base_environment(), check=False
    )
    if done.returncode != 0:
        raise NotRun(f"nightproof {words[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise NotRun(f"nightproof {words[0]} --json printed no JSON: {done.stdout[:200]!r}") from error


@contextmanager
def serve(service: str, results: Path) -> Iterator[Running]:
    """Serve one of the benchmark's services until the block ends, everything on."""
    fill_services()
    folder = results / f"{service}-{uuid.uuid4().hex[:6]}"
    state = folder / "state"
    state.mkdir(parents=True)
    key = _verb("keys", "create", "--role", "predict", "--state", str(state), "--json")["key"]
    mark = uuid.uuid4().hex
    port = free_port()
    command = [*COMMAND, "serve", str(SERVICES / service), "--state", str(state), "--port", str(port)]
    running = Running(
        name=service,
        title=f"Nightproof, {service}",
        process=launch(command, {**base_environment(), SYSTEM_MARK: mark}, folder),
        folder=folder,
        port=port,
        path=f"/services/{service}/predict",
        envelope=envelopes.plain,
        mark=mark,
        token=key,
        state=state,
    )
    try:
        _wait_until_ready(running)
        wait_until_it_answers(running, START_PATIENCE_S)
        yield running
    finally:
        stop(running)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(running: Running) -> None:
    until = time.perf_counter() + START_PATIENCE_S
    last = "nothing listens"
    while time.perf_counter() < until:
        if running.process.poll() is not None:
            raise NotRun(f"nightproof serve ended at start: {last_words(running.folder / 'output.log', 12)}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/readyz", timeout=2):
                return
        except urllib.error.HTTPError as error:
            last = f"/readyz says {error.code}"
        except OSError as error:
            last = str(error)
        time.sleep(0.05)
    raise NotRun(f"nightproof was not ready within {START_PATIENCE_S:.0f} s: {last}")


def worker_pids(running: Running) -> set[int]:
    """Name the living workers: as `nightproof status` tells, or else the server's direct children."""
    try:
        told = _pids_in(_verb("status", "--json", "--state", str(running.state)), inside=False)
    except (NotRun, subprocess.SubprocessError):
        told = set()
    return {pid for pid in told or machine.children(running.pid) if machine.is_alive(pid)}


def _pids_in(value: Any, inside: bool) -> set[int]:
    """Collect every `pid` at or below a `workers` entry, however the status nests them."""
    if isinstance(value, list):
        return set().union(*(_pids_in(item, inside) for item in value), set())
    if not isinstance(value, dict):
        return set()
    own = {value["pid"]} if inside and isinstance(value.get("pid"), int) else set()
    return own.union(*(_pids_in(item, inside or key == "workers") for key, item in value.items()), set())


def kill_at_once(running: Running) -> None:
    """Send SIGKILL to the server; its workers must end with it."""
    os.kill(running.pid, signal.SIGKILL)
    running.process.wait()
