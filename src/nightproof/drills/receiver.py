"""The receiver of a stage's alerts: a real HTTP server on loopback that keeps what it is told, and can be down.

It takes the server's webhook and its heartbeat. What it was told is what the person on call would have been told.
"""

from __future__ import annotations

import json
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nightproof.base.clock import monotonic_s, utc_now
from nightproof.drills.observed import Told


class Receiver:
    """Listens from `start` to `stop`; `told` has the alerts in the order of their arrival, on the monotonic clock."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.heartbeats: list[float] = []
        self.refused = 0
        self.is_refusing = False
        """Answer the webhook with 503, as a receiver in trouble does."""
        self.is_collector_down = False
        """Answer what comes to the OpenTelemetry collector with 503."""
        self._seen: set[str] = set()
        self._at_alertmanager: set[tuple[str, str, str]] = set()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="receiver", daemon=True
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The address of its webhook."""
        return f"http://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End, also where it never began."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(5)
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Take one post; return the status to answer. A message that came twice is told once."""
        now_s = monotonic_s()
        if path.startswith("/beat"):
            self.heartbeats.append(now_s)
            return 200
        if path.startswith("/otel"):
            return 503 if self.is_collector_down else 200
        if path.startswith("/api/v2/alerts"):
            self._take_alertmanager(json.loads(body or b"[]"), now_s)
            return 200
        if self.is_refusing:
            self.refused += 1
            return 503
        message_id = headers.get("webhook-id", "")
        if message_id and message_id in self._seen:
            return 200
        self._seen.add(message_id)
        for alert in json.loads(body or b"{}").get("alerts", ()):
            labels: dict[str, Any] = alert["labels"]
            self.told.append(
                Told(
                    at_s=now_s,
                    alertname=labels.get("alertname", ""),
                    failure=labels.get("failure", ""),
                    service=labels.get("service", ""),
                    severity=labels.get("severity", ""),
                    state="firing" if alert["status"] == "firing" else "resolved",
                )
            )
        return 200

    def _take_alertmanager(self, alerts: list[dict[str, Any]], now_s: float) -> None:
        """Take a post in Alertmanager's form: what fires is told again and again, and is new once."""
        now = utc_now()
        for alert in alerts:
            labels = alert["labels"]
            is_over = datetime.fromisoformat(alert["endsAt"]) <= now
            key = (labels.get("failure", ""), labels.get("service", ""), labels.get("severity", ""))
            if is_over == (key in self._at_alertmanager):
                (self._at_alertmanager.discard if is_over else self._at_alertmanager.add)(key)
                self.told.append(
                    Told(
                        at_s=now_s, alertname=labels.get("alertname", ""), failure=key[0], service=key[1],
                        severity=key[2], state="resolved" if is_over else "firing", by="alertmanager",
                    )
                )  # fmt: skip

    def firing(self) -> set[tuple[str, str, str]]:
        """Return what is firing by what was told last: failure, service, severity."""
        now: dict[tuple[str, str, str], bool] = {}
        for one in list(self.told):
            now[one.failure, one.service, one.severity] = one.state == "firing"
        return {key for key, fires in now.items() if fires}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of a caller who did not wait."""


def _handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take(self.path, headers, body)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
