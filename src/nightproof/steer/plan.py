"""What an operator asks of a promotion, and how a canary goes on: values that the registry and the routes carry."""

from __future__ import annotations

from typing import Literal

import msgspec

from nightproof.base.errors import SettingError
from nightproof.releases.routing import Split, Unit

Way = Literal["now", "canary", "shadow"]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a promotion."""

    version: str
    way: Way = "now"
    share: float = 0.05
    """Of the canary's first step."""
    unit: Literal["", "subject", "request", "caller"] = ""
    """What the canary splits by; empty: by subject where the service declares one, else by request."""
    reason: str = ""
    again: bool = False
    """Although it was taken back by itself before."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a canary goes on; kept in the registry, so that it goes on after a restart."""

    shares: tuple[float, ...]
    at: int
    unit: Unit
    salt: str
    who: str
    why: str

    @property
    def split(self) -> Split:
        """Return the present split."""
        return Split(self.shares[self.at], self.unit, self.salt.encode())


def shares_of(written: str) -> tuple[float, ...]:
    """Read a canary's steps, in percent. Raises SettingError."""
    try:
        shares = tuple(float(part) / 100 for part in written.split(",") if part.strip())
    except ValueError:
        shares = (0.0,)
    if not all(0 < share < 1 for share in shares):
        raise SettingError(
            f"promotion.canary_steps is {written!r}.",
            hint='Give percents above 0 and below 100, like "5,20,50".',
        )
    return shares
