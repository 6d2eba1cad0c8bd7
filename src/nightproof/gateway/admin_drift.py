"""Operators' routes of drift and feedback, under `/admin/drift` and `/admin/feedback`. Called by `admin.py`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from nightproof.base.errors import Refusal
from nightproof.base.roles import Action
from nightproof.runtime import Runtime
from nightproof.steer.drift import masked_reports

Act = Callable[[str, bytes], Awaitable[Any]]
_ONE = re.compile(r"/admin/drift/([^/]{1,200})(/examples)?")

_FEEDBACK = re.compile(r"/admin/feedback/([^/]{1,200})(?:/([A-Za-z0-9_-]{1,64})/(accept|reject))?")


class DriftRoutes:
    """Says how services stand against their profiles."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def find(self, method: str, path: str) -> tuple[Action, Act] | None:
        """Return which right a route needs and what it does; None where the route is not one of these."""
        if match := _FEEDBACK.fullmatch(path):
            service, key, verb = match[1], match[2], match[3]
            if method == "GET" and key is None:
                return Action.READ_STATUS, lambda who, _: self._feedback(service)
            if method == "POST" and key is not None:
                return Action.QUARANTINE, lambda who, _: self._decide(who, service, key, verb == "accept")
        if method != "GET":
            return None
        if path == "/admin/drift":
            return Action.READ_STATUS, self._all
        if match := _ONE.fullmatch(path):
            service, examples = match[1], bool(match[2])
            right = Action.QUARANTINE if examples else Action.READ_STATUS
            return right, lambda who, _: self._one(who, service, with_examples=examples)
        return None

    async def _all(self, who: str, _: bytes) -> Any:
        return [msgspec.structs.replace(one, signals=[]) for one in self._runtime.drift_watch.drift.status()]

    async def _one(self, who: str, service: str, *, with_examples: bool) -> Any:
        status = self._runtime.drift_watch.drift.status_of(service)
        if status is None:
            raise Refusal(f"Service {service!r} is not served here.", failure="unknown_service")
        if with_examples:
            await self._runtime.act(who, "drift.examples", service=service)
        desk = self._runtime.drift_watch.desk
        alarms = await asyncio.to_thread(lambda: desk.alarms(service, with_examples=with_examples))
        hidden = self._runtime.archive.sensitive_of(service, status.release)
        shown = msgspec.structs.replace(status, signals=masked_reports(status.signals, hidden))
        return {**msgspec.to_builtins(shown), "history": msgspec.to_builtins(alarms)}

    async def _feedback(self, service: str) -> Any:
        served = self._runtime.house.services.get(service)
        if served is None:
            raise Refusal(f"Service {service!r} is not served here.", failure="unknown_service")
        drift, desk, label = (
            self._runtime.drift_watch.drift,
            self._runtime.drift_watch.feedback,
            served.live.label,
        )
        confidence, is_drifting = drift.mean_confidence(service), drift.is_drifting(service)
        return await asyncio.to_thread(
            lambda: desk.status(service, label, mean_confidence=confidence, is_drifting=is_drifting)
        )

    async def _decide(self, who: str, service: str, key: str, accept: bool) -> Any:
        await self._runtime.act(
            who, "feedback.accept" if accept else "feedback.reject", service=service, target=key
        )
        desk = self._runtime.drift_watch.feedback
        moved = await asyncio.to_thread(lambda: desk.decide(service, key, accept=accept))
        return {"service": service, "key": key, "labels": moved, "accepted": accept}
