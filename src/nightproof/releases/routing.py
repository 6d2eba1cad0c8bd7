"""Which release answers a request, as a pure function of who asks.

Asked by `pipeline.choose` while a canary is on. A unit (a subject, a request, a caller) has one place between 0 and 1
for the whole trial; the canary takes the places below its share. So a unit keeps its release while the share
stands, and one that has met the canary stays with it while the share grows.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import msgspec

Unit = Literal["subject", "request", "caller"]
Arm = Literal["live", "canary"]

_PLACES = 2.0**64


class Split(msgspec.Struct, frozen=True):
    """How a service's requests are shared between the live release and the canary."""

    share: float
    """The canary's part of the units, 0 to 1."""
    unit: Unit
    salt: bytes
    """Of this trial: another trial meets other units first."""


def place_of(unit: bytes, salt: bytes) -> float:
    """Return the unit's place, from 0 to below 1: even over units, and the same for the whole trial."""
    return int.from_bytes(blake2b(unit, digest_size=8, key=salt[:64]).digest()) / _PLACES


def arm_of(unit: bytes, split: Split) -> Arm:
    """Say which release a unit's requests go to."""
    return "canary" if place_of(unit, split.salt) < split.share else "live"


def steps_from(first: float, steps: tuple[float, ...]) -> tuple[float, ...]:
    """Return the shares that a canary goes through: the first one, then those of `steps` that are larger."""
    if not 0 < first < 1:
        raise ValueError(f"a canary's share is above 0 and below 1, not {first:g}")
    return (first, *(share for share in sorted(set(steps)) if first < share < 1))
