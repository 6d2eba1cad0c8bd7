"""Health of each component, with since-when and why. Asked for the real thing, never assumed."""

from __future__ import annotations

import msgspec

from nightproof.base.clock import iso_us, utc_us


class Component(msgspec.Struct, frozen=True):
    """One part of the server at one moment."""

    name: str
    ok: bool
    why: str
    since: str
    """When it took this state, ISO 8601 in UTC."""
    needed: bool = True
    """Whether the server is not ready without it."""


class Health:
    """Remember since when each component is as it is. Written by the runtime's tick and by probes."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[bool, int]] = {}

    def see(self, name: str, *, ok: bool, why: str = "", needed: bool = True) -> Component:
        """Take in a component's present state and return it with its since-when."""
        known = self._seen.get(name)
        if known is None or known[0] != ok:
            known = self._seen[name] = (ok, utc_us())
        return Component(name, ok, why, iso_us(known[1]), needed)

    def __repr__(self) -> str:
        return f"<Health {self._seen}>"
