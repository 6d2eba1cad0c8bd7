"""Is what the drift watch says true? Windows without drift must be silent, spoiled ones must be found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from benchmarks.drift import population
from nightproof.base.profile import Profile
from nightproof.watch.drift import detector, learn, measures

PROMISE_WINDOWS = 1_000
REFERENCE_ROWS = 5_000
POOL_ROWS = 20_000


def rules(promise_windows: int = PROMISE_WINDOWS) -> detector.Rules:
    """Return the product's rules, with the promise in windows: a window counts as a second."""
    return detector.Rules(promise_s=float(promise_windows), window_rows=1, window_s=0.0)


def parsed(rows: list[population.Row]) -> measures.Parsed:
    """Hand rows on as the drift child would have them."""
    return measures.Parsed(rows, [None] * len(rows), [[] for _ in rows])


def profile_of(rows: list[population.Row], schema: dict[str, Any] = population.SCHEMA) -> Profile:
    """Learn a profile."""
    return learn.learn(
        parsed(rows),
        service="census",
        digest="census",
        input_schema=schema,
        output_schema={},
        checks=[],
        origin="reference",
        made_us=0,
    )


class Pool:
    """Rows whose cells are worked out once, to draw windows from."""

    def __init__(self, profile: Profile, rows: list[population.Row]) -> None:
        self._profile = profile
        self._codes, self._answered = measures.Reader(profile).codes(parsed(rows))

    def window(self, places: Any, at: int) -> detector.Counts:
        """Count the rows at these places."""
        codes = self._codes[:, places]
        return msgspec.structs.replace(
            detector.fresh_counts(self._profile),
            rows=len(places),
            segments=[len(places)],
            elapsed_s=1.0,
            began_us=at + 1,
            ended_us=at + 2,
            cells=measures.counted(codes, self._profile.signals, self._answered[places]),
        )

    def __len__(self) -> int:
        return int(self._codes.shape[1])


@dataclass(frozen=True)
class Silence:
    """What windows without drift gave."""

    rows: int
    windows: int
    alarms: int
    most_evidence: float


def silence(windows: int, rows: int, seed: int) -> Silence:
    """Draw windows from the reference's own population, and count the alarms."""
    profile = profile_of(population.rows(REFERENCE_ROWS, seed))
    pool = Pool(profile, population.rows(POOL_ROWS, seed + 1_000))
    rng = np.random.default_rng(seed)
    state = detector.fresh_state(profile, rules())
    most = 0.0
    for at in range(windows):
        detector.advance(state, pool.window(rng.integers(0, len(pool), rows), at), profile, rules())
        most = max(most, *(scale.evidence for scale in state.scales))
    return Silence(rows, windows, state.alarms, most)


@dataclass(frozen=True)
class Found:
    """How a change was found."""

    name: str
    field: str
    rows: int
    """Of a window."""
    windows: list[int | None]
    """Until the alarm, per repeat; None where it was not found."""
    named: int
    """In how many repeats the right field was named first among the single fields."""
    strangers: int
    """In how many repeats another single field was named, too."""


def find(name: str, *, rows: int = 500, repeats: int = 20, most_windows: int = 60, seed: int = 7) -> Found:
    """Spoil rows in one way and count the windows until the alarm."""
    field, spoil = population.SPOILS[name]
    rng = np.random.default_rng(seed)
    windows: list[int | None] = []
    named = strangers = 0
    for repeat in range(repeats):
        if repeat % 5 == 0:
            profile = profile_of(population.rows(REFERENCE_ROWS, seed + repeat))
            drawn = population.rows(POOL_ROWS, seed + repeat + 5_000)
            pool = Pool(profile, [spoil(row, rng) for row in drawn])
        state = detector.fresh_state(profile, rules())
        alarm = None
        for at in range(most_windows):
            places = rng.choice(len(pool), rows, replace=False)
            alarm = detector.advance(state, pool.window(places, at), profile, rules())
            if alarm is not None:
                windows.append(at + 1)
                break
        else:
            windows.append(None)
        if alarm is not None:
            single = [one for one in alarm.signals if not one.startswith("relation")]
            named += single[:1] == [field]
            strangers += any(one != field for one in single)
    return Found(name, field, rows, windows, named, strangers)
