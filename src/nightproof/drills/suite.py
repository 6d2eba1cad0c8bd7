"""All drills, in the order in which they are run: those of one stage after the other, the one that spoils it last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nightproof.base.errors import SettingError
from nightproof.base.failures import CATALOGUE
from nightproof.drills.drill import GROUPS, USUAL, Drill, NotRun
from nightproof.drills.faults import (
    audit,
    callers,
    chat_checks,
    chat_streams,
    chat_upstreams,
    data,
    dependencies,
    load,
    model,
    monitoring,
    network,
    not_run,
    processes,
    releases,
    security,
)

_FAMILIES: tuple[Sequence[Drill | NotRun], ...] = (
    model.DRILLS,
    processes.DRILLS,
    callers.DRILLS,
    network.DRILLS,
    security.DRILLS,
    data.DRILLS,
    audit.DRILLS,
    dependencies.DRILLS,
    load.DRILLS,
    releases.DRILLS,
    monitoring.DRILLS,
    chat_upstreams.DRILLS,
    chat_streams.DRILLS,
    chat_checks.DRILLS,
    not_run.DRILLS,
)


def all_drills() -> list[Drill | NotRun]:
    """Return every drill, in the order of the report: by item of the checklist."""
    every = [drill for family in _FAMILIES for drill in family]
    order = list(GROUPS)
    return sorted(every, key=lambda drill: order.index(drill.group))


def choose(only: Sequence[str] = (), *, quick: bool = False) -> list[Drill | NotRun]:
    """Return the drills that are asked for, in the order of running. Raises SettingError for an unknown name."""
    every = {drill.name: drill for drill in all_drills()}
    wanted: list[str] = []
    for name in only:
        found = [drill.name for drill in every.values() if name in (drill.name, drill.group, *drill.proves)]
        if not found:
            raise SettingError(
                f"There is no drill {name!r}.", hint="`nightproof drill --list` names them all."
            )
        wanted += found
    chosen = [every[name] for name in dict.fromkeys(wanted)] if only else list(every.values())
    if quick and not only:
        chosen = [drill for drill in chosen if isinstance(drill, Drill) and drill.is_quick]
    return in_order(chosen)


def in_order(drills: Sequence[Drill | NotRun]) -> list[Drill | NotRun]:
    """Order drills for running: one stage after the other, the usual one first, spoilers at each one's end.

    Within a stage those that raise the same alert are kept apart: the second would wait for the first one's to end.
    """
    settings = [USUAL.name]
    for drill in drills:
        if isinstance(drill, Drill) and drill.setting.name not in settings:
            settings.append(drill.setting.name)
    places: dict[str, tuple[int, int]] = {}
    """By drill: how many before it raise the same, and where it stands."""
    raised: Counter[tuple[str, ...]] = Counter()
    for place, drill in enumerate(drills):
        same = (drill.setting.name, *drill.proves[:1]) if isinstance(drill, Drill) else ()
        places[drill.name] = (raised[same] if drill.proves else 0, place)
        raised[same] += 1

    def key(drill: Drill | NotRun) -> tuple[int, bool, tuple[int, int]]:
        if isinstance(drill, NotRun):
            return len(settings), False, places[drill.name]
        return settings.index(drill.setting.name), drill.spoils_stage, places[drill.name]

    return sorted(drills, key=key)


def undrilled() -> list[str]:
    """Return the failures of the catalogue of which no drill, run or not, says that it proves them."""
    proven = {failure for drill in all_drills() for failure in drill.proves}
    return sorted(set(CATALOGUE) - proven)
