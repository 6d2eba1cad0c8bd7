"""Operators' routes on the audit log, under `/admin/audit/`: search, show, export, erase, holds, retention, keys.

Each asks for its role (`gateway.admin` does), reads a strict JSON body, and calls `steer`. Every route records what
was asked before it answers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from nightproof.base.errors import Refusal
from nightproof.base.roles import Action
from nightproof.runtime import Runtime
from nightproof.steer import keep
from nightproof.steer.find import Asked
from nightproof.storage.master_key import KEY_BYTES

Act = Callable[[str, bytes], Awaitable[Any]]
Read = Callable[[bytes, type[Any]], Any]

_Short = Annotated[str, msgspec.Meta(max_length=1_000)]


class ShowAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/audit/show`."""

    id: _Short
    reveal: bool = False


class ExportAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/audit/export`: one page."""

    asked: Asked
    content: bool = False


class ExportedTold(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/audit/exported`: a manifest, to be recorded."""

    manifest_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    records: Annotated[int, msgspec.Meta(ge=0)]


class SubjectNamed(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/audit/erase`."""

    subject: _Short


class HoldAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/audit/hold` and `/unhold`; no service means all."""

    service: _Short = ""
    reason: _Short = ""


class RotateAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/audit/rotate`; the new master key in base64, if it changes too."""

    new_master: _Short = ""


class AuditRoutes:
    """The acts behind the routes."""

    def __init__(self, runtime: Runtime, read: Read) -> None:
        self._runtime = runtime
        self._read = read
        self._acts: dict[tuple[str, str], tuple[Action, Act]] = {
            ("POST", "search"): (Action.READ_AUDIT, self._search),
            ("POST", "show"): (Action.READ_AUDIT, self._show),
            ("POST", "export"): (Action.READ_AUDIT, self._export),
            ("POST", "exported"): (Action.READ_AUDIT, self._exported),
            ("POST", "erase"): (Action.ERASE, self._erase),
            ("GET", "holds"): (Action.READ_AUDIT, self._holds),
            ("POST", "hold"): (Action.ERASE, self._hold),
            ("POST", "unhold"): (Action.ERASE, self._unhold),
            ("POST", "expire"): (Action.ERASE, self._expire),
            ("POST", "rotate"): (Action.KEYS, self._rotate),
        }

    def find(self, method: str, verb: str) -> tuple[Action, Act] | None:
        """Return what a route needs and does; None where there is none."""
        return self._acts.get((method, verb))

    async def _search(self, who: str, body: bytes) -> Any:
        return await self._runtime.desk.search(who, self._read(body, Asked))

    async def _show(self, who: str, body: bytes) -> Any:
        asked: ShowAsked = self._read(body, ShowAsked)
        shown = await self._runtime.desk.show(who, asked.id, reveal=asked.reveal)
        on_call, detail = self._runtime.on_call, f"record {asked.id}"
        is_wrong = any(one.content_state == "unreadable" for one in shown)
        if is_wrong or on_call.reported("content_unreadable") == detail:
            on_call.report("content_unreadable", is_wrong=is_wrong, detail=detail)
        return shown

    async def _export(self, who: str, body: bytes) -> Any:
        told: ExportAsked = self._read(body, ExportAsked)
        page, after = await self._runtime.desk.export_page(who, told.asked, content=told.content)
        return {"records": page, "next": after, "origin": self._runtime.archive.origin, "who": who}

    async def _exported(self, who: str, body: bytes) -> Any:
        told: ExportedTold = self._read(body, ExportedTold)
        proof = await self._runtime.desk.exported(who, told.manifest_sha256, told.records)
        return {"proof": proof.decode()}

    async def _erase(self, who: str, body: bytes) -> Any:
        asked: SubjectNamed = self._read(body, SubjectNamed)
        return await keep.erase(
            self._runtime.archive, who, asked.subject, forget=self._runtime.forget_subject
        )

    async def _holds(self, who: str, _: bytes) -> Any:
        await self._runtime.archive.note("access", who=who, act="audit.holds")
        return await asyncio.to_thread(keep.holds, self._runtime.archive)

    async def _hold(self, who: str, body: bytes) -> Any:
        asked: HoldAsked = self._read(body, HoldAsked)
        return await keep.hold(self._runtime.archive, who, asked.service, asked.reason)

    async def _unhold(self, who: str, body: bytes) -> Any:
        asked: HoldAsked = self._read(body, HoldAsked)
        await keep.unhold(self._runtime.archive, who, asked.service)
        return {"service": asked.service, "held": False}

    async def _expire(self, who: str, _: bytes) -> Any:
        self._runtime.upkeep.clock.trust()  # asked by somebody: the runbook clock_jumped has him look at it first
        return await keep.expire(self._runtime.archive, who, self._runtime.keep_days())

    async def _rotate(self, who: str, body: bytes) -> Any:
        asked: RotateAsked = self._read(body, RotateAsked)
        new_master = None
        if asked.new_master:
            try:
                new_master = base64.b64decode(asked.new_master, validate=True)
            except binascii.Error:
                new_master = b""
            if len(new_master) != KEY_BYTES:
                raise Refusal("The new master key is not 32 bytes in base64.", failure="invalid_input")
        return {"epoch": await keep.rotate(self._runtime.archive, who, new_master=new_master)}
