"""Receivers of alerts for tests: a small HTTP server that can be down, slow, lying, and real ones from Debian."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import free_port, wait_until


@dataclass
class Got:
    """One request that a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def json(self) -> Any:
        """Return its body."""
        return json.loads(self.body)


@dataclass
class Hook:
    """A receiver on loopback that keeps what it took."""

    port: int
    took: list[Got] = field(default_factory=list)
    refused: list[Got] = field(default_factory=list)
    answers: int = 200
    location: str = ""
    slow_s: float = 0.0
    cut: bool = False
    """Take the message and then hang up without an answer."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/hook"

    def alerts(self, state: str = "", name: str = "") -> list[dict[str, Any]]:
        """Return the alerts in what it took, of a state and a name."""
        every = [one for got in list(self.took) for one in got.json["alerts"]]
        return [
            one for one in every if state in ("", one["status"]) and name in ("", one["labels"]["alertname"])
        ]


@contextmanager
def hook(port: int = 0) -> Iterator[Hook]:
    """Run a receiver until the block ends."""
    one = Hook(port or free_port())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            got = Got(self.path, headers, body, time.monotonic())
            if one.slow_s:
                time.sleep(one.slow_s)
            (one.took if one.answers == 200 else one.refused).append(got)
            if one.cut:
                self.close_connection = True
                return
            self.send_response(one.answers)
            if one.location:
                self.send_header("location", one.location)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Say nothing of a caller who did not wait."""

    server = Server(("127.0.0.1", one.port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def program(name: str, package: str) -> str:
    """Return the path of a Debian program; skip the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


@contextmanager
def alertmanager(folder: Path, hook_url: str, *, port: int = 0) -> Iterator[str]:
    """Run a real Alertmanager that tells a webhook; return its address."""
    binary = program("prometheus-alertmanager", "prometheus-alertmanager")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "alertmanager.yml"
    config.write_text(
        "route: {receiver: hook, group_by: [alertname, service], group_wait: 0s, group_interval: 1s}\n"
        f"receivers: [{{name: hook, webhook_configs: [{{url: '{hook_url}', send_resolved: true}}]}}]\n"
    )
    subprocess.run(
        [program("amtool", "prometheus-alertmanager"), "check-config", str(config)],
        check=True,
        capture_output=True,
    )
    port = port or free_port()
    arguments = [
        f"--storage.path={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with _running(
        [binary, f"--config.file={config}", *arguments, "--log.level=warn"], folder / "alertmanager.log"
    ):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{url}/-/ready"), within_s=20)
        yield url


@contextmanager
def prometheus(folder: Path, target: str, rules: str, alertmanager_url: str) -> Iterator[str]:
    """Run a real Prometheus that scrapes a server each second by these rules; return its address."""
    binary = program("prometheus", "prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yml").write_text(rules)
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{folder}/rules.yml']\n"
        "scrape_configs:\n"
        f"- {{job_name: nightproof, static_configs: [{{targets: ['{target}']}}]}}\n"
        "alerting:\n"
        f"  alertmanagers: [{{static_configs: [{{targets: ['{alertmanager_url.partition('://')[2]}']}}]}}]\n"
    )
    subprocess.run(
        [program("promtool", "prometheus"), "check", "config", str(config)], check=True, capture_output=True
    )
    port = free_port()
    arguments = [
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with _running([binary, f"--config.file={config}", *arguments], folder / "prometheus.log"):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{url}/-/ready"), within_s=20)
        yield url


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("ab") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
