"""Operators' routes on releases, under `/admin/releases/`: promote, roll back, hold, history, shadow, replay.

Each asks for its role (`gateway.admin` does), reads a strict JSON body, and calls `steer`. What opens recorded
inputs is the admin's alone.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from nightproof.base.roles import Action
from nightproof.runtime import Runtime
from nightproof.steer.plan import Asked

Act = Callable[[str, bytes], Awaitable[Any]]
Read = Callable[[bytes, type[Any]], Any]

_Short = Annotated[str, msgspec.Meta(max_length=1_000)]
_PATH = re.compile(r"/admin/releases/([a-z][a-z0-9_-]{0,62})/([a-z]{1,20})")


class RollbackAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/releases/NAME/rollback`; no version means the release before."""

    version: _Short = ""
    reason: _Short = ""


class HoldAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/releases/NAME/hold`; no reason lets the release go again."""

    version: _Short
    reason: _Short = ""


class ReplayAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/releases/NAME/replay`."""

    version: _Short
    last: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000


class RunAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/releases/NAME/progress` and `/report`."""

    id: _Short
    examples: bool = False


class ShadowAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/releases/NAME/shadow`."""

    examples: bool = False


class PromotionRoutes:
    """The acts behind the routes."""

    def __init__(self, runtime: Runtime, read: Read) -> None:
        self._runtime = runtime
        self._read = read

    def find(self, method: str, path: str) -> tuple[Action, Act] | None:
        """Return what a route needs and does; None where there is none."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        service, verb = match[1], match[2]
        acts: dict[tuple[str, str], tuple[Action, Callable[[str, str, bytes], Awaitable[Any]]]] = {
            ("GET", "history"): (Action.READ_STATUS, self._history),
            ("POST", "promote"): (Action.RELEASE, self._promote),
            ("POST", "rollback"): (Action.RELEASE, self._rollback),
            ("POST", "hold"): (Action.RELEASE, self._hold),
            ("POST", "replay"): (Action.REPLAY, self._replay),
            ("POST", "progress"): (Action.REPLAY, self._progress),
            ("POST", "report"): (Action.REPLAY, self._report),
            ("POST", "shadow"): (Action.REPLAY, self._shadow),
        }
        found = acts.get((method, verb))
        if found is None:
            return None
        action, act = found
        return action, lambda who, body: act(who, service, body)

    async def _history(self, who: str, service: str, _: bytes) -> Any:
        return self._runtime.helm.history(service)

    async def _promote(self, who: str, service: str, body: bytes) -> Any:
        return await self._runtime.helm.promote(who, service, self._read(body, Asked))

    async def _rollback(self, who: str, service: str, body: bytes) -> Any:
        asked: RollbackAsked = self._read(body, RollbackAsked)
        return await self._runtime.helm.rollback(who, service, asked.version, why=asked.reason)

    async def _hold(self, who: str, service: str, body: bytes) -> Any:
        asked: HoldAsked = self._read(body, HoldAsked)
        return await self._runtime.helm.hold(who, service, asked.version, asked.reason)

    async def _replay(self, who: str, service: str, body: bytes) -> Any:
        asked: ReplayAsked = self._read(body, ReplayAsked)
        return await self._runtime.replays.start(who, service, asked.version, asked.last)

    async def _progress(self, who: str, service: str, body: bytes) -> Any:
        asked: RunAsked = self._read(body, RunAsked)
        return await self._runtime.replays.progress(asked.id)

    async def _report(self, who: str, service: str, body: bytes) -> Any:
        asked: RunAsked = self._read(body, RunAsked)
        return await self._runtime.replays.report(who, asked.id, examples=asked.examples)

    async def _shadow(self, who: str, service: str, body: bytes) -> Any:
        asked: ShadowAsked = self._read(body, ShadowAsked)
        return await self._runtime.replays.shadow_report(who, service, examples=asked.examples)
