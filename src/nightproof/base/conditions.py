"""A condition of the server: something that is wrong now, by its name in the failure catalogue.

Rooms return theirs when asked; the runtime gathers them, and the alerts are decided from them. A condition that is
not returned any more is over.
"""

from __future__ import annotations

import msgspec


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong now."""

    failure: str
    """Its name in the catalogue."""
    service: str = ""
    """Whose it is; empty for the whole server."""
    since_s: float = 0.0
    """When it began, on the monotonic clock."""
    detail: str = ""
    """Why, in our own words and numbers; never a caller's data."""
