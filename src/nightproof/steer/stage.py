"""What `steer.promote` needs of the running server: pools of workers, and the pointers that say who plays which part.

The seam between deciding to promote and doing it; `parts.services` is the one that does it.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from nightproof.base.errors import Refusal
from nightproof.releases.judge import Rules
from nightproof.releases.probation import Counted, Terms
from nightproof.releases.routing import Split
from nightproof.releases.tally import Picture
from nightproof.storage.registry_store import RegisteredRelease, SwitchAct


class Promised(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to know of a service to judge its releases."""

    availability: float
    latency_p99_ms: float | None
    has_subject: bool
    has_confidence: bool
    is_chat: bool = False
    """Its answers are somebody's LLM's: asked twice, it says two things."""


class Stage(Protocol):
    """Where releases play their parts: pools of workers and the pointers to them."""

    def describes(self, service: str) -> Promised | None:
        """Return what the live release declares; None where the service is not served here."""

    def parts(self, service: str) -> dict[str, str]:
        """Return the loaded releases: part by label."""

    async def warm(self, release: RegisteredRelease, *, workers: Literal["all", "few"]) -> None:
        """Verify the bundle and have it loaded beside. Raises StateError or DeclarationError."""

    async def let_go(self, service: str, label: str) -> None:
        """End the workers of a release that plays no part; nothing where it plays one."""

    def make_live(self, service: str, label: str, *, act: SwitchAct) -> None:
        """Move the pointer to a loaded release; the one that was live becomes standby. Never waits."""

    def make_canary(self, service: str, label: str, split: Split, rules: Rules) -> None:
        """Give a loaded release its share of the requests, and begin to count."""

    def move_canary(self, service: str, split: Split) -> None:
        """Give the canary another share."""

    def make_shadow(self, service: str, label: str, *, since_us: int) -> None:
        """Give a loaded release copies of requests; what was compared in this trial before stays."""

    def end_trial(self, service: str) -> None:
        """Take canary or shadow off the way; its workers finish what they have, and end."""

    def picture(self, service: str) -> Picture | None:
        """Return what was counted of the canary."""

    def rates_before(self, service: str) -> tuple[int, int]:
        """Return how many requests of the live release ended badly since the start, and how many there were."""

    def slow_before(self, service: str, limit_s: float) -> tuple[int, int]:
        """Return how many answers of the service took longer since the start, and how many there were."""

    def golden_trouble(self, service: str, label: str) -> str:
        """Say that every worker of a loaded release answers a golden case wrongly; empty where that is not so."""

    def begin_probation(self, service: str, label: str, terms: Terms, counted: Counted) -> None:
        """Count how the fresh live release does, beside what was counted before."""

    def end_probation(self, service: str) -> None:
        """Count no more."""

    def warm_standby(self, service: str) -> None:
        """Have the release before loaded again, in the background, if there is one and it is not."""


def must_be_served(stage: Stage, service: str) -> Promised:
    """Return what the live release declares. Raises Refusal where the service is not served here."""
    promised = stage.describes(service)
    if promised is None:
        raise Refusal(
            f"Service {service!r} is not served here.",
            failure="unknown_service",
            hint="See `nightproof status` for the names.",
        )
    return promised


def refuse_shadow_of_chat(service: str, promised: Promised) -> None:
    """Raise Refusal where the answers are an LLM's."""
    if promised.is_chat:
        raise refused(
            f"{service} is a chat service: a shadow compares answers, and those of an LLM always differ.",
            "Give it a share of the requests: --canary.",
            422,
        )


def refused(text: str, hint: str, status: int) -> Refusal:
    """Make the refusal of an operator's act on releases."""
    return Refusal(text, failure="promotion_refused", hint=hint, status=status)
