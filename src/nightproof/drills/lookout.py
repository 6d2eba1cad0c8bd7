"""Look at a server from outside, again and again: `/readyz` and `/metrics`, as a load balancer and Prometheus do."""

from __future__ import annotations

import http.client
import re
import ssl
import threading
from collections.abc import Callable

from nightproof.base.clock import monotonic_s
from nightproof.drills.observed import Sample

_EVERY_S = 0.25
_WITHIN_S = 2.0
_LOADED = ("ready", "busy", "spare")
_LINE = re.compile(r"^(nightproof_[a-z_]+)(?:\{(.*)\})? ([0-9.eE+-]+|NaN)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

Samples = dict[str, list[tuple[dict[str, str], float]]]


def read_metrics(page: str) -> Samples:
    """Read `/metrics`: the samples of each name, with their labels."""
    found: Samples = {}
    for line in page.splitlines():
        if match := _LINE.match(line):
            found.setdefault(match[1], []).append((dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return found


class Lookout:
    """Looks from `start` to `stop`; `samples` grows meanwhile."""

    def __init__(
        self, port: int, *, tls: ssl.SSLContext | None = None, memory_of: Callable[[], tuple[int, int]]
    ) -> None:
        self.samples: list[Sample] = []
        self._port = port
        self._tls = tls
        self._memory_of = memory_of
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_WITHIN_S * 2 + 1)

    def look(self) -> Sample:
        """Look once."""
        now_s = monotonic_s()
        try:
            status = self._get("/readyz")[0]
            page = read_metrics(self._get("/metrics")[1])
        except (OSError, http.client.HTTPException):
            return Sample(at_s=now_s, is_up=False)
        ready = sum(
            value for labels, value in page.get("nightproof_workers", ()) if labels.get("state") in _LOADED
        )
        conditions = {
            labels.get("failure", "") for labels, value in page.get("nightproof_condition", ()) if value
        }
        pid, memory_bytes = self._memory_of()
        return Sample(
            at_s=now_s,
            is_up=True,
            is_ready=status == 200,
            conditions=tuple(sorted(conditions)),
            workers_ready=int(ready),
            memory_bytes=memory_bytes,
            pid=pid,
        )

    def _get(self, path: str) -> tuple[int, str]:
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_WITHIN_S)
        else:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self._port, timeout=_WITHIN_S, context=self._tls
            )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.samples.append(self.look())
