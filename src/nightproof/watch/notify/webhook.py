"""A webhook of anybody's, signed as Standard Webhooks says: `webhook-id`, `webhook-timestamp`, `webhook-signature`.

The id is the message's and the same at each try, so the receiver can tell a repetition. The body is what Alertmanager
posts to its webhooks (version 4), which many programs read already.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from nightproof.base.clock import iso_us
from nightproof.base.errors import SettingError
from nightproof.watch.notify.message import Message, ToldAlert
from nightproof.watch.notify.post import Sender

_PREFIX = "whsec_"
_LEAST_SECRET_BYTES = 24
_NEVER = "0001-01-01T00:00:00Z"


class Webhook:
    """One webhook."""

    def __init__(self, url: str, sender: Sender, *, secret: str) -> None:
        self._url = url
        self._sender = sender
        self._key = key_of(secret) if secret else None

    @property
    def name(self) -> str:
        """Name it by its host, and a digest of the rest: the path may be a secret."""
        digest = hashlib.sha256(self._url.encode()).hexdigest()[:6]
        return f"webhook {urlsplit(self._url).netloc.rpartition('@')[2]} {digest}"

    async def tell(self, message: Message, *, now_us: int) -> str:
        """Post the message, signed for now; return the status."""
        body = orjson.dumps(webhook_body(message))
        headers = {"content-type": "application/json", **signed_headers(message.id, body, self._key, now_us)}
        status, _ = await self._sender.post(self._url, body, headers)
        return f"status {status}"

    async def keep_up(self, firing: Sequence[ToldAlert], *, instance: str, now_us: int) -> None:
        """Say nothing again: a webhook is told of changes."""


def key_of(secret: str) -> bytes:
    """Read a secret in Standard Webhooks' form: base64 after `whsec_`. Raises SettingError."""
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _LEAST_SECRET_BYTES:
        raise SettingError(
            "notify.webhook_secret is no secret of a webhook.",
            hint='Make one: echo "whsec_$(openssl rand -base64 32)"; give the receiver the same.',
        )
    return key


def signed_headers(message_id: str, body: bytes, key: bytes | None, now_us: int) -> dict[str, str]:
    """Return the headers that name, date and (with a key) sign a body."""
    timestamp = str(now_us // 1_000_000)
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp}
    if key is not None:
        signed = f"{message_id}.{timestamp}.".encode() + body
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def webhook_body(message: Message) -> dict[str, Any]:
    """Write a message in the form of Alertmanager's webhook, version 4."""
    alerts = [_alert(one, message) for one in message.alerts]
    common = _in_common([one["labels"] for one in alerts])
    return {
        "version": "4",
        "id": message.id,
        "groupKey": f"{{}}:{{service={orjson.dumps(message.service).decode()}}}",
        "truncatedAlerts": 0,
        "status": "firing" if message.is_firing else "resolved",
        "receiver": "nightproof",
        "groupLabels": {"service": message.service} if message.service else {},
        "commonLabels": common,
        "commonAnnotations": _in_common([one["annotations"] for one in alerts]),
        "externalURL": message.alerts[0].runbook_url.rpartition("/runbooks/")[0] if message.alerts else "",
        "test": message.is_test,
        "alerts": alerts,
    }


def _alert(alert: ToldAlert, message: Message) -> dict[str, Any]:
    labels = {
        "alertname": alert.alertname,
        "service": alert.service,
        "failure": alert.failure,
        "severity": alert.severity,
        "instance": message.instance,
    }
    return {
        "status": alert.state,
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {
            "summary": alert.title,
            "description": alert.why,
            "runbook_url": alert.runbook_url,
        },
        "startsAt": iso_us(alert.starts_us),
        "endsAt": iso_us(alert.ends_us) if alert.ends_us else _NEVER,
        "generatorURL": alert.runbook_url,
        "fingerprint": alert.id,
    }


def _in_common(maps: Sequence[dict[str, str]]) -> dict[str, str]:
    first, *others = maps or [{}]
    return {name: value for name, value in first.items() if all(one.get(name) == value for one in others)}
