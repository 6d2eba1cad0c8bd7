"""Take in releases that come over HTTP in parts, and say how far each one is.

Called by the gateway's operator routes. Promises: what arrives is bounded in size, number and time, lies in one
file that `sweep` knows, and is judged only when it is whole. Judging goes on beside, so that no request waits for a
model to load; whoever handed it in asks for the outcome.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import msgspec

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import NightproofError, Refusal
from nightproof.settings.settings import Settings
from nightproof.steer.making import Asked, ReleaseRefused
from nightproof.steer.releasing import Released, Releasing, refuse_full_disk
from nightproof.storage.bundles import append_at, arriving_in
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.log import log

PART_MOST_BYTES = 1 << 20
_MOST_AT_ONCE = 4
_IDLE_S = 600.0
_TOLD_S = 3_600.0

State = Literal["arriving", "judging", "accepted", "refused", "failed"]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How far an intake is, and what came of it."""

    id: str
    state: State
    received: int
    size: int
    released: Released | None = None
    failure: str = ""
    """The catalogue's name of why it was refused."""
    text: str = ""
    hint: str = ""
    findings: list[dict[str, Any]] = []


class _Intake(msgspec.Struct):
    id: str
    path: Path
    size: int
    asked: Asked
    seen_s: float
    received: int = 0
    told: Told | None = None
    is_judged: bool = False


class Intakes:
    """What is arriving. Touched on the event loop only."""

    def __init__(self, releasing: Releasing, state: StateFolder, settings: Settings) -> None:
        self._releasing = releasing
        self._state = state
        self._settings = settings
        self._intakes: dict[str, _Intake] = {}

    def begin(self, size: int, asked: Asked) -> Told:
        """Expect a file of this size. Raises Refusal."""
        self._forget_old()
        underway = [one for one in self._intakes.values() if one.told is None]
        if len(underway) >= _MOST_AT_ONCE:
            raise Refusal(
                f"{len(underway)} releases are arriving already.",
                failure="overloaded",
                hint="Try again in a while.",
            )
        most = self._settings.releases.bundle_bytes
        if not 0 < size <= most + (64 << 20):
            raise Refusal(
                f"A release of {size} bytes is not taken; at most {most} are.",
                failure="oversized_request",
                hint="Raise releases.bundle_bytes, or take out what does not belong to it.",
            )
        try:
            refuse_full_disk(self._state, 2 * size, self._settings)
        except NightproofError as error:
            raise Refusal(error.text, failure="oversized_request", hint=error.hint) from error
        intake_id = os.urandom(8).hex()
        path = arriving_in(self._state.bundles, intake_id)
        intake = _Intake(intake_id, path, size, asked, monotonic_s())
        self._intakes[intake_id] = intake
        return self._tell(intake)

    async def take(self, intake_id: str, at: int, part: bytes) -> Told:
        """Take the next part; one that came twice is taken once. Raises Refusal."""
        intake = self._find(intake_id)
        if intake.is_judged:
            raise Refusal("It was all taken already.", failure="invalid_input")
        if at + len(part) == intake.received and part:
            return self._tell(intake)
        if at != intake.received or at + len(part) > intake.size:
            raise Refusal(
                f"Byte {intake.received} of {intake.size} comes next, not {at}.",
                failure="invalid_input",
                hint="Send the parts in order, each once.",
            )
        intake.received += len(part)
        intake.seen_s = monotonic_s()
        try:
            await asyncio.to_thread(append_at, intake.path, at, part)
        except OSError as error:
            self._drop(intake)
            raise Refusal(
                f"The release cannot be kept: {error.strerror}.",
                failure="oversized_request",
                hint="Free space; nothing was accepted.",
            ) from error
        return self._tell(intake)

    def finish(self, intake_id: str, begin: Callable[[Coroutine[Any, Any, None]], object]) -> Told:
        """Begin to judge what has arrived. Raises Refusal where it is not whole."""
        intake = self._find(intake_id)
        if not intake.is_judged:
            if intake.received != intake.size:
                raise Refusal(
                    f"Only {intake.received} of {intake.size} bytes have come.", failure="invalid_input"
                )
            intake.is_judged = True
            begin(self._judge(intake))
        return self._tell(intake)

    def abandon(self, intake_id: str) -> Told:
        """Expect the rest no longer; what is judged already goes on. Raises Refusal for one that is not known."""
        intake = self._find(intake_id)
        if not intake.is_judged:
            self._drop(intake)
        return self._tell(intake)

    def told(self, intake_id: str) -> Told:
        """Say how far it is. Raises Refusal for one that is not known."""
        return self._tell(self._find(intake_id))

    async def _judge(self, intake: _Intake) -> None:
        facts: dict[str, Any]
        try:
            released = await self._releasing.take_in(intake.path, intake.asked)
            facts = {"state": "accepted", "released": released}
        except ReleaseRefused as error:
            findings = [msgspec.to_builtins(one) for one in error.findings]
            facts = {"state": "refused", "failure": error.failure, "findings": findings}
            facts |= {"text": error.text, "hint": error.hint}
        except NightproofError as error:
            facts = {"state": "failed", "text": error.text, "hint": error.hint}
        except Exception as error:  # noqa: BLE001
            # A border: whoever handed it in is told, and the log has the kind; the server goes on.
            log("release_not_judged", level="error", error=type(error).__name__)
            facts = {
                "state": "failed",
                "text": f"An unexpected {type(error).__name__}.",
                "hint": "See the log.",
            }
        finally:
            await asyncio.to_thread(intake.path.unlink, missing_ok=True)
        intake.seen_s = monotonic_s()
        intake.told = Told(id=intake.id, received=intake.received, size=intake.size, **facts)

    def _tell(self, intake: _Intake) -> Told:
        state: State = "judging" if intake.is_judged else "arriving"
        return intake.told or Told(id=intake.id, state=state, received=intake.received, size=intake.size)

    def _find(self, intake_id: str) -> _Intake:
        found = self._intakes.get(intake_id)
        if found is None:
            raise Refusal(
                "No release of this id is arriving.",
                failure="unknown_service",
                hint="It may have waited too long, or the server was started again. Begin again.",
            )
        return found

    def _forget_old(self) -> None:
        now = monotonic_s()
        for intake in list(self._intakes.values()):
            rests_s = now - intake.seen_s
            if rests_s > (_TOLD_S if intake.told else _IDLE_S) and (intake.told or not intake.is_judged):
                self._drop(intake)

    def _drop(self, intake: _Intake) -> None:
        self._intakes.pop(intake.id, None)
        intake.path.unlink(missing_ok=True)
