"""Inside the first step: which release answers, where there is a choice: a canary is on, or a version is named.

The choice is `releases.routing`'s pure function of who asks; here it is given what it asks for.
"""

from __future__ import annotations

from nightproof.base.errors import Refusal
from nightproof.base.values import Caller
from nightproof.pipeline.house import ServedRelease, ServedService
from nightproof.pipeline.story import Story
from nightproof.releases.routing import arm_of


def choose(served: ServedService, story: Story, caller: Caller) -> ServedRelease:
    """Return the release for this request before its body is known. Raises Refusal for a version not served."""
    version, split = story.arrival.version, served.split
    if version:
        return _named(served, story, version)
    if split is None or split.unit == "subject":
        return served.live
    unit = caller.key_id.encode() if split.unit == "caller" else story.arrival.id.encode()
    if split.unit == "caller":
        story.unit = unit
    return _of_arm(served, story, unit)


def choose_by_subject(served: ServedService, story: Story, subject: bytes) -> ServedRelease:
    """Return the release for the person that a request is about; without one, for the request itself."""
    story.unit = subject
    return _of_arm(served, story, subject or story.arrival.id.encode())


def _of_arm(served: ServedService, story: Story, unit: bytes) -> ServedRelease:
    split, canary = served.split, served.canary
    if split is None or canary is None:
        return served.live
    story.arm = arm_of(unit, split)
    if story.arm == "live":
        return served.live
    if not canary.engine.is_ready():
        story.decisions.append(f"canary:{canary.label} had no worker, live answers")
        return served.live
    story.release = canary.label
    return canary


def _named(served: ServedService, story: Story, version: str) -> ServedRelease:
    """Return the release that the caller names: the live one, or the canary. It takes no part in a trial."""
    for release in (served.live, served.canary):
        if release is not None and release.label == version:
            story.release = release.label
            return release
    raise Refusal(
        "This version of the model is not live.",
        failure="unknown_service",
        hint=f"Live: {served.live.label}. Leave the version out to get it.",
    )
