"""Choose which releases' files stay on the disk: a pure function of what plays a part, what is held, and time.

Called by `steer.releasing` before it collects anything. What is collected is a release's files; its signed
manifest and its line in the registry stay, so that history can still be told and verified.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

_DAY_US = 86_400 * 1_000_000


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A release as garbage collection sees it."""

    service: str
    version: str
    digest: str
    made_us: int
    part: str = ""
    """live, canary, shadow, standby; empty: none."""
    is_held: bool = False


def reasons_to_keep(
    releases: Iterable[Kept], *, now_us: int, newest: int, days: float
) -> dict[tuple[str, str], str]:
    """Return, for each release whose files stay, why they do; those that are not named may be collected.

    Kept are what plays a part, what is held, the newest of each service, and what is young: an operator who has
    just made a release is about to promote it.
    """
    found: dict[tuple[str, str], str] = {}
    seen: dict[str, int] = {}
    for one in sorted(releases, key=lambda release: (-release.made_us, release.version)):
        rank = seen.get(one.service, 0) + 1
        seen[one.service] = rank
        if one.part:
            why = one.part
        elif one.is_held:
            why = "held"
        elif rank <= newest:
            why = f"one of the {newest} newest"
        elif now_us - one.made_us < days * _DAY_US:
            why = f"younger than {days:g} days"
        else:
            continue
        found[one.service, one.version] = why
    return found


def collectable(
    releases: Iterable[Kept], present: Iterable[str], *, now_us: int, newest: int, days: float
) -> list[str]:
    """Return the digests on the disk that no kept release needs. Two releases may share their bytes."""
    every = list(releases)
    kept = reasons_to_keep(every, now_us=now_us, newest=newest, days=days)
    needed = {one.digest for one in every if (one.service, one.version) in kept}
    return sorted(set(present) - needed)
