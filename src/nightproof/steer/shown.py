"""Releases as operators see them: the parts they play, what was done to them, what an act came to."""

from __future__ import annotations

import msgspec

from nightproof.base.clock import iso_us
from nightproof.releases.judge import Judgement
from nightproof.storage.registry_store import RegisteredRelease, RegistryAct


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What an act came to."""

    service: str
    act: str
    version: str
    before: str
    """The release that was live before."""
    text: str
    took_ms: float = 0.0
    """From the command to the moved pointer."""


class PartShown(msgspec.Struct, frozen=True, kw_only=True):
    """A release with the part it plays."""

    version: str
    part: str
    digest: str
    since: str
    share: float = 0.0
    text: str = ""


class ReleaseShown(msgspec.Struct, frozen=True, kw_only=True):
    """A registered release."""

    version: str
    digest: str
    created: str
    part: str
    held: str
    latched: str


class ActShown(msgspec.Struct, frozen=True, kw_only=True):
    """One line of history."""

    at: str
    act: str
    version: str
    before: str
    who: str
    why: str
    digest: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A service's releases and what was done to them."""

    service: str
    releases: list[ReleaseShown]
    acts: list[ActShown]


def shown(release: RegisteredRelease, parts: dict[str, str]) -> ReleaseShown:
    """Show a registered release."""
    return ReleaseShown(
        version=release.label,
        digest=release.digest,
        created=iso_us(release.created_us),
        part="live" if release.live else parts.get(release.label, ""),
        held=release.held,
        latched=release.latched,
    )


def act_shown(act: RegistryAct) -> ActShown:
    """Show a line of history."""
    return ActShown(
        at=iso_us(act.at_us),
        act=act.act,
        version=act.label,
        before=act.origin,
        who=act.who,
        why=act.why,
        digest=act.digest,
    )


def judged(judgement: Judgement) -> str:
    """Say in a few words how a canary does."""
    words = {"worse": "worse", "not_worse": "not worse", "not_enough_data": "not enough data yet"}
    return words[judgement.verdict] + (f": {judgement.why}" if judgement.verdict != "not_worse" else "")
