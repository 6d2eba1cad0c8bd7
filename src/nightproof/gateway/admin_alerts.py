"""Operators' routes on alerts, under `/admin/alerts`: what fires, silences, a test to every receiver, the objectives.

Each asks for its role (`gateway.admin` does). A silence, its end, and a test are recorded before they take effect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from nightproof.base.errors import Refusal
from nightproof.base.failures import CATALOGUE
from nightproof.base.roles import Action
from nightproof.runtime import Runtime
from nightproof.steer.oncall import REPORTABLE

Act = Callable[[str, bytes], Awaitable[Any]]
Read = Callable[[bytes, type[Any]], Any]

_Short = Annotated[str, msgspec.Meta(max_length=1_000)]
_MOST_SILENCE_S = 30 * 86_400


class SilenceAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/alerts/silence`. Without alert and service it silences everything."""

    for_s: Annotated[float, msgspec.Meta(gt=0, le=_MOST_SILENCE_S)]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
    alert: _Short = ""
    """Name of an alert, or of its failure."""
    service: _Short = ""


class UnsilenceAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/alerts/unsilence`."""

    id: _Short


class ReportAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/alerts/report`: what a verb found."""

    failure: _Short
    is_wrong: bool
    detail: Annotated[str, msgspec.Meta(max_length=300)] = ""


class AlertRoutes:
    """Answers operators' requests on alerts."""

    def __init__(self, runtime: Runtime, read: Read) -> None:
        self._runtime = runtime
        self._read = read

    def find(self, method: str, verb: str) -> tuple[Action, Act] | None:
        """Return what a route asks for and does; None if there is no such route."""
        found: dict[tuple[str, str], tuple[Action, Act]] = {
            ("GET", ""): (Action.READ_STATUS, self._picture),
            ("GET", "objectives"): (Action.READ_STATUS, self._objectives),
            ("POST", "test"): (Action.SILENCE, self._test),
            ("POST", "silence"): (Action.SILENCE, self._silence),
            ("POST", "unsilence"): (Action.SILENCE, self._unsilence),
            ("POST", "report"): (Action.READ_AUDIT, self._report),
        }
        return found.get((method, verb))

    async def _picture(self, who: str, _: bytes) -> Any:
        return self._runtime.on_call.picture()

    async def _objectives(self, who: str, _: bytes) -> Any:
        on_call = self._runtime.on_call
        return {"promises": on_call.promises, "runbooks_url": on_call.runbooks_url}

    async def _test(self, who: str, _: bytes) -> Any:
        await self._runtime.act(who, "alerts.test")
        return await self._runtime.on_call.test()

    async def _report(self, who: str, body: bytes) -> Any:
        asked: ReportAsked = self._read(body, ReportAsked)
        if asked.failure not in REPORTABLE:
            raise Refusal("Nothing is reported under this name.", failure="invalid_input")
        await self._runtime.act(who, "alerts.report", failure=asked.failure, is_wrong=asked.is_wrong)
        self._runtime.on_call.report(asked.failure, is_wrong=asked.is_wrong, detail=asked.detail)
        return {}

    async def _silence(self, who: str, body: bytes) -> Any:
        asked: SilenceAsked = self._read(body, SilenceAsked)
        known = {one.alert for one in CATALOGUE.values()} | set(CATALOGUE)
        if asked.alert and asked.alert not in known:
            raise Refusal(
                "No alert has this name.",
                failure="invalid_input",
                hint="`nightproof alerts` shows what fires; names of failures are taken too.",
            )
        await self._runtime.act(
            who, "alerts.silence", alert=asked.alert, service=asked.service, for_s=int(asked.for_s),
            reason=asked.reason,
        )  # fmt: skip
        return await self._runtime.on_call.silence(
            alertname=asked.alert, service=asked.service, for_s=asked.for_s, reason=asked.reason, who=who
        )

    async def _unsilence(self, who: str, body: bytes) -> Any:
        asked: UnsilenceAsked = self._read(body, UnsilenceAsked)
        await self._runtime.act(who, "alerts.unsilence", silence=asked.id)
        return await self._runtime.on_call.unsilence(asked.id)
