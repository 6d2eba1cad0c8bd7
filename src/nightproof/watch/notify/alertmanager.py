"""Prometheus' Alertmanager, by its API v2: what fires is posted again each minute, and ends by `endsAt`.

Alertmanager knows an alert by its labels, so posting it twice notifies once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from nightproof.base.clock import iso_us
from nightproof.watch.notify.message import Message, ToldAlert
from nightproof.watch.notify.post import Sender

_JSON = {"content-type": "application/json"}
_PATH = "/api/v2/alerts"
_HELD_PERIODS = 4
"""For how many periods a firing alert stands without being posted again, as Prometheus itself does it."""


class Alertmanager:
    """One Alertmanager."""

    def __init__(self, url: str, sender: Sender, *, repeat_s: float) -> None:
        self._url = url.rstrip("/").removesuffix(_PATH) + _PATH
        self._sender = sender
        self._held_us = int(_HELD_PERIODS * repeat_s * 1e6)

    @property
    def name(self) -> str:
        """Name it by its host; where its path is another than the usual one, with a digest of it."""
        parts = urlsplit(self._url)
        digest = hashlib.sha256(parts.path.encode()).hexdigest()[:6] if parts.path != _PATH else ""
        return f"alertmanager {parts.netloc.rpartition('@')[2]} {digest}".rstrip()

    async def tell(self, message: Message, *, now_us: int) -> str:
        """Post the message's alerts; return the status."""
        status = await self._post(message.alerts, instance=message.instance, now_us=now_us)
        return f"status {status}"

    async def keep_up(self, firing: Sequence[ToldAlert], *, instance: str, now_us: int) -> None:
        """Post again what fires; also where nothing does, so that a dead Alertmanager shows before it is needed."""
        await self._post(firing, instance=instance, now_us=now_us)

    async def _post(self, alerts: Sequence[ToldAlert], *, instance: str, now_us: int) -> int:
        body = [alert_body(one, instance=instance, now_us=now_us, held_us=self._held_us) for one in alerts]
        status, _ = await self._sender.post(self._url, orjson.dumps(body), _JSON)
        return status


def alert_body(alert: ToldAlert, *, instance: str, now_us: int, held_us: int) -> dict[str, Any]:
    """Write an alert as Alertmanager's API wants it.

    Its clock and ours may differ, and ours may step: a start is never in the future, and an end never before it.
    """
    starts_us = min(alert.starts_us, now_us)
    ends_us = now_us + held_us if alert.state == "firing" else max(starts_us + 1, min(alert.ends_us, now_us))
    labels = {
        "alertname": alert.alertname,
        "service": alert.service,
        "failure": alert.failure,
        "severity": alert.severity,
        "instance": instance,
    }
    return {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {
            "summary": alert.title,
            "description": alert.why,
            "runbook_url": alert.runbook_url,
        },
        "startsAt": iso_us(starts_us),
        "endsAt": iso_us(ends_us),
        "generatorURL": alert.runbook_url,
    }
