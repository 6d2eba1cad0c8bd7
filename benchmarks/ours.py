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

from benchmarks import envelopes
from benchmarks.make_model import SERVICES, fill_services
from benchmarks.systems import (
    SYSTEM_MARK,
    Asked,
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
def serve(
    service: str,
    results: Path,
    *flags: str,
    served: Path | None = None,
    envelope: envelopes.Envelope = envelopes.plain,
    path: str = "",
    asked: Asked | None = None,
) -> Iterator[Running]:
    """Serve one of the benchmark's services, or the folder given, until the block ends, everything on."""
    if served is None:
        fill_services()
    folder = results / f"{service}-{uuid.uuid4().hex[:6]}"
    state = folder / "state"
    state.mkdir(parents=True)
    key = _verb("keys", "create", "--role", "predict", "--state", str(state), "--json")["key"]
    mark = uuid.uuid4().hex
    port = free_port()
    given = served or SERVICES / service
    command = [*COMMAND, "serve", str(given), "--state", str(state), "--port", str(port), *flags]
    running = Running(
        name=service,
        title=f"Nightproof, {service}",
        process=launch(command, {**base_environment(), SYSTEM_MARK: mark}, folder),
        folder=folder,
        port=port,
        path=path or f"/services/{service}/predict",
        envelope=envelope,
        mark=mark,
        token=key,
        asked=asked,
        state=state,
    )
    try:
        _wait_until_ready(running)
        wait_until_it_answers(running, START_PATIENCE_S)
        wait_until_whole(running)
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


def _service_status(running: Running) -> dict[str, Any]:
    services = _verb("status", "--json", "--state", str(running.state))["services"]
    return next(one for one in services if one["name"] == running.name)


def drift_rows(running: Running) -> int:
    """Return how many rows the drift watch has seen."""
    told = subprocess.run(
        [*COMMAND, "drift", "--json", "--state", str(running.state)],
        capture_output=True, text=True, timeout=60, env=base_environment(), check=False,
    )  # fmt: skip
    return sum(int(one["rows"]) for one in json.loads(told.stdout or "[]"))


def worker_pids(running: Running) -> set[int]:
    """Name the living workers, warm spares included, as `nightproof status` tells."""
    return set(_service_status(running)["pids"])


def wait_until_whole(running: Running) -> None:
    """Return once no worker is starting: the service answers earlier, but its spares make it whole."""
    until = time.perf_counter() + START_PATIENCE_S
    while time.perf_counter() < until:
        if not _service_status(running)["workers"].get("starting"):
            return
        time.sleep(0.2)
    raise NotRun(f"{running.title}: workers were still starting after {START_PATIENCE_S:.0f} s")


def kill_at_once(running: Running) -> None:
    """Send SIGKILL to the server; its workers must end with it."""
    os.kill(running.pid, signal.SIGKILL)
    running.process.wait()
