"""Operators' routes on releases, under `/admin/releases` and `/admin/trust`: hand in, list, collect, trust.

Each asks for its role (`gateway.admin` does) and calls `steer`. A release is handed in by parts, and judged beside.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from nightproof.base.errors import Refusal
from nightproof.base.roles import Action
from nightproof.releases.manifest import VERSION_FORM, is_version
from nightproof.releases.signing import KeyRefused
from nightproof.runtime import Runtime
from nightproof.steer.intake import PART_MOST_BYTES
from nightproof.steer.making import Asked

Act = Callable[[str, bytes], Awaitable[Any]]
Read = Callable[[bytes, type[Any]], Any]

_PART = re.compile(r"/admin/releases/([0-9a-f]{16})/part/([0-9]{1,15})")
_INTAKE = re.compile(r"/admin/releases/([0-9a-f]{16})(?:/(finish|abandon))?")
_Short = Annotated[str, msgspec.Meta(max_length=1_000)]


class ReleaseAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/releases`."""

    size: Annotated[int, msgspec.Meta(ge=1)]
    version: _Short = ""
    reason: _Short = ""
    python: _Short = ""
    made_by: _Short = ""
    allow_breaking: bool = False


class CollectAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/releases/collect`."""

    only_say: bool = False


class TrustAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/trust`."""

    pem: Annotated[str, msgspec.Meta(max_length=10_000)]
    name: _Short = ""
    services: list[_Short] = []
    reason: _Short = ""


class DistrustAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/trust/remove`."""

    id: _Short
    reason: _Short = ""


class ReleaseRoutes:
    """The acts behind the routes."""

    def __init__(self, runtime: Runtime, read: Read, *, is_local: bool) -> None:
        self._runtime = runtime
        self._read = read
        self._is_local = is_local

    def find(self, method: str, path: str) -> tuple[Action, Act] | None:
        """Return what a route needs and does; None where there is none."""
        fixed: dict[tuple[str, str], tuple[Action, Act]] = {
            ("POST", "/admin/releases"): (Action.RELEASE, self._begin),
            ("GET", "/admin/releases"): (Action.READ_STATUS, self._list),
            ("POST", "/admin/releases/collect"): (Action.RELEASE, self._collect),
            ("GET", "/admin/trust"): (Action.READ_STATUS, self._keys),
            ("POST", "/admin/trust"): (Action.KEYS, self._trust),
            ("POST", "/admin/trust/remove"): (Action.KEYS, self._distrust),
        }
        if found := fixed.get((method, path)):
            return found
        if method == "POST" and (match := _PART.fullmatch(path)):
            intake_id, at = match[1], int(match[2])
            return Action.RELEASE, lambda who, body: self._runtime.intakes.take(intake_id, at, body)
        if match := _INTAKE.fullmatch(path):
            intake_id = match[1]
            if match[2] == "finish" and method == "POST":
                return Action.RELEASE, lambda who, _: self._finish(intake_id)
            if match[2] == "abandon" and method == "POST":
                return Action.RELEASE, lambda who, _: self._abandon(intake_id)
            if not match[2] and method == "GET":
                return Action.RELEASE, lambda who, _: self._told(intake_id)
        return None

    @staticmethod
    def most_bytes(path: str) -> int | None:
        """Return how large a body of this route may be, where it is larger than others'."""
        return PART_MOST_BYTES if _PART.fullmatch(path) else None

    async def _begin(self, who: str, body: bytes) -> Any:
        asked: ReleaseAsked = self._read(body, ReleaseAsked)
        if asked.version and not is_version(asked.version):
            raise Refusal("This cannot be a version.", failure="invalid_input", hint=f"Use {VERSION_FORM}.")
        if asked.python and not self._is_local:
            raise Refusal(
                "Only who owns the state folder may name an interpreter.",
                failure="forbidden",
                hint="Sign the release where it is made: nightproof release FOLDER --python FILE --key FILE.",
            )
        return self._runtime.intakes.begin(
            asked.size,
            Asked(
                who=who,
                reason=asked.reason,
                version=asked.version,
                python=asked.python,
                made_by=asked.made_by if self._is_local else who,
                allow_breaking=asked.allow_breaking,
                may_be_unsigned=self._is_local,
            ),
        )

    async def _finish(self, intake_id: str) -> Any:
        return self._runtime.intakes.finish(intake_id, self._runtime.tasks.begin)

    async def _abandon(self, intake_id: str) -> Any:
        return self._runtime.intakes.abandon(intake_id)

    async def _told(self, intake_id: str) -> Any:
        return self._runtime.intakes.told(intake_id)

    async def _list(self, who: str, _: bytes) -> Any:
        return await asyncio.to_thread(self._runtime.releasing.list_all)

    async def _collect(self, who: str, body: bytes) -> Any:
        asked: CollectAsked = self._read(body, CollectAsked)
        return await self._runtime.releasing.collect(who, only_say=asked.only_say)

    async def _keys(self, who: str, _: bytes) -> Any:
        return await asyncio.to_thread(self._runtime.releasing.keys)

    async def _trust(self, who: str, body: bytes) -> Any:
        asked: TrustAsked = self._read(body, TrustAsked)
        try:
            return await self._runtime.releasing.trust(
                who, asked.pem, name=asked.name, services=list(asked.services), reason=asked.reason
            )
        except KeyRefused as error:
            raise Refusal(error.text, failure="invalid_input", hint=error.hint) from error

    async def _distrust(self, who: str, body: bytes) -> Any:
        asked: DistrustAsked = self._read(body, DistrustAsked)
        key, affected = await self._runtime.releasing.distrust(who, asked.id, reason=asked.reason)
        return {"key": key, "no_longer_loads": affected}
