"""Health of each component, with since-when and why. Asked for the real thing, never assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        self._sources: list[Callable[[Health], Sequence[Component]]] = []

    def see(self, name: str, *, ok: bool, why: str = "", needed: bool = True) -> Component:
        """Take in a component's present state and return it with its since-when."""
        known = self._seen.get(name)
        if known is None or known[0] != ok:
            known = self._seen[name] = (ok, utc_us())
        return Component(name, ok, why, iso_us(known[1]), needed)

    def ask_also(self, source: Callable[[Health], Sequence[Component]]) -> None:
        """Let another room tell its components: alert delivery, an upstream's reach, drift."""
        self._sources.append(source)

    def others(self) -> list[Component]:
        """Return what the other rooms tell."""
        return [part for source in self._sources for part in source(self)]

    def __repr__(self) -> str:
        return f"<Health {self._seen}>"


class Thrift:
    """Says whether something that costs may be done afresh, so that asking for it cannot load the server.

    A leaky bucket of seconds spent: a tenth of the time may go into it. Whoever asks for more gets what was
    made last.
    """

    _SHARE = 0.1
    _MOST_S = 0.2

    def __init__(self) -> None:
        self._level_s = 0.0
        self._looked_s = 0.0

    def may_spend(self, now: float) -> bool:
        """Say whether there is room for one more."""
        self._level_s = max(0.0, self._level_s - (now - self._looked_s) * self._SHARE)
        self._looked_s = now
        return self._level_s < self._MOST_S

    def spent(self, took_s: float) -> None:
        """Note what one has cost."""
        self._level_s += took_s
