"""Values that more than one room hands on: who calls, what a reply says. Plain, typed, no behaviour."""

from __future__ import annotations

from typing import Literal

import msgspec

from nightproof.base.errors import FieldError
from nightproof.base.roles import Role

Ending = Literal["answered", "degraded", "refused", "failed", "abandoned"]


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request, as the keyring knows it."""

    key_id: str
    role: Role
    services: tuple[str, ...] = ()
    """Services the key is narrowed to; empty means all."""


class Degraded(msgspec.Struct, frozen=True):
    """A fallback answered: what went wrong, and which fallback it was."""

    failure: str
    by: str


class ItemReply(msgspec.Struct, omit_defaults=True):
    """One record's part of a reply: an output, or a failure."""

    output: msgspec.Raw = msgspec.Raw(b"")
    """JSON; empty where there is a failure."""
    degraded: Degraded | None = None
    failure: str = ""
    detail: str = ""
    errors: list[FieldError] = []


class Reply(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What the caller is told, before a protocol gives it its form. Also what idempotency keeps."""

    id: str
    service: str = ""
    release: str = ""
    ending: Ending = "failed"
    many: bool = False
    """The request was a list, so the reply is one."""
    items: list[ItemReply] = []
    failure: str = ""
    status: int = 0
    """One of the catalogue's statuses where it lists several; 0 takes the first."""
    detail: str = ""
    hint: str = ""
    errors: list[FieldError] = []
    retry_after_s: float = 0.0
    replayed: bool = False
    stages_us: list[tuple[str, int]] = []
