"""Published streams with known drifts, rebuilt, and our detector on them with one fixed configuration.

WaveformDrift2: Breiman's waveform generator without its noise features; every `DRIFT_EVERY` rows the table of
base waves switches to another of H, H+6, 6-H, -H. SineClusters: two sines and two cosines with a period of 500 rows
and noise of deviation 0.25, in three arrangements; no arrangement can be told from another by one column alone.
The figures are those of Lukats et al.: mean rows between false alarms, to detection, and their ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from nightproof.base.profile import Profile
from nightproof.watch.drift import detector, learn, measures

DRIFT_EVERY = 5_000
PERIOD = 500
LEARN_ROWS = 1_000
RULES = detector.Rules(promise_s=1_000.0, window_rows=500, window_s=0.0, multiples=(1, 2, 8))
"""Windows of 500, 1,000 and 4,000 rows; one false alarm per 1,000 windows of 500, a window counting as a second."""

Table = np.ndarray[Any, np.dtype[np.float64]]


def waveform(rows: int, seed: int) -> Iterator[Table]:
    """Yield the stream in blocks of `DRIFT_EVERY` rows, one concept each."""
    rng = np.random.default_rng(seed)
    places = np.arange(1, 22)
    base = np.array([np.maximum(6 - np.abs(places - centre), 0) for centre in (7, 15, 11)], dtype=np.float64)
    tables = (base, base + 6, 6 - base, -base)
    concept = int(rng.integers(4))
    for _ in range(rows // DRIFT_EVERY):
        kind = rng.integers(3, size=DRIFT_EVERY)
        first, second = np.array([0, 0, 1])[kind], np.array([1, 2, 2])[kind]
        share = rng.random((DRIFT_EVERY, 1))
        table = tables[concept]
        yield share * table[first] + (1 - share) * table[second] + rng.standard_normal((DRIFT_EVERY, 21))
        concept = int(rng.choice([one for one in range(4) if one != concept]))


def sine_clusters(rows: int, seed: int) -> Iterator[Table]:
    """Yield the stream in blocks of `DRIFT_EVERY` rows, one concept each."""
    rng = np.random.default_rng(seed)
    turn = np.arange(DRIFT_EVERY) % PERIOD * (2 * math.pi / PERIOD)
    sine, cosine = np.sin(turn), np.cos(turn)
    concepts = ((sine, cosine), (-sine, cosine), (-cosine, -cosine))
    concept = int(rng.integers(3))
    for _ in range(rows // DRIFT_EVERY):
        columns = (*concepts[concept], sine, cosine)
        yield np.column_stack(columns) + rng.normal(0.0, 0.25, (DRIFT_EVERY, 4))
        concept = int(rng.choice([one for one in range(3) if one != concept]))


STREAMS = {"WaveformDrift2": waveform, "SineClusters": sine_clusters}


@dataclass(frozen=True)
class Score:
    """How a detector did on a stream."""

    rows: int
    drifts: int
    detected: int
    false_alarms: int
    mtfa: float
    """Mean rows between false alarms; with one or none, the stream's length."""
    mtd: float
    """Mean rows from a drift to its detection."""
    mdr: float
    """Share of drifts that were missed."""
    mtr: float
    """mtfa / mtd x (1 - mdr)."""


def score(rows: int, drifts: list[int], alarms: list[int]) -> Score:
    """Hold alarms against the drifts: the first one after a drift detects it, every other one is false."""
    delays: list[int] = []
    false: list[int] = []
    pending: int | None = None
    known = set(drifts)
    for at in sorted(known | set(alarms)):
        if at in known:
            pending = at
        if at in alarms:
            if pending is None:
                false.append(at)
            else:
                delays.append(at - pending)
            pending = None
    mtfa = float(np.mean(np.diff(false))) if len(false) > 1 else float(rows)
    mtd = float(np.mean(delays)) if delays else math.inf
    mdr = 1 - len(delays) / len(drifts)
    return Score(rows, len(drifts), len(delays), len(false), mtfa, mtd, mdr, mtfa / mtd * (1 - mdr))


class Watched:
    """Our detector on a table of numbers: learns the first rows, then watches, and learns anew after an alarm."""

    def __init__(self, columns: int, *, learn_rows: int = LEARN_ROWS, rules: detector.Rules = RULES) -> None:
        self._rules = rules
        self._learn_rows = learn_rows
        self._schema = {"properties": {f"x{place}": {"type": "number"} for place in range(columns)}}
        self._names = list(self._schema["properties"])
        self._held: list[Table] = []
        self._profile: Profile | None = None
        self._reader: measures.Reader | None = None
        self._state: detector.State | None = None
        self.windows = 0
        self.alarms: list[detector.Alarm] = []

    def take(self, rows: Table) -> bool:
        """Take in one small window; say whether it raised an alarm."""
        if self._profile is None:
            self._held.append(rows)
            if sum(map(len, self._held)) >= self._learn_rows:
                self._learn(np.vstack(self._held))
                self._held = []
            return False
        assert self._reader is not None
        assert self._state is not None
        codes, answered = self._reader.codes(self._parsed(rows))
        self.windows += 1
        window = detector.fresh_counts(self._profile)
        window = msgspec.structs.replace(
            window,
            rows=len(rows),
            segments=[len(rows)],
            elapsed_s=1.0,
            began_us=self.windows,
            ended_us=self.windows,
            cells=measures.counted(codes, self._profile.signals, answered),
        )
        alarm = detector.advance(self._state, window, self._profile, self._rules)
        if alarm is None:
            return False
        self.alarms.append(alarm)
        self._profile = None
        return True

    def _parsed(self, rows: Table) -> measures.Parsed:
        records = [dict(zip(self._names, row, strict=True)) for row in rows.tolist()]
        return measures.Parsed(records, [None] * len(records), [[] for _ in records])

    def _learn(self, rows: Table) -> None:
        self._profile = learn.learn(
            self._parsed(rows),
            service="stream",
            digest="stream",
            input_schema=self._schema,
            output_schema={},
            checks=[],
            origin="live",
            made_us=0,
        )
        self._reader = measures.Reader(self._profile)
        self._state = detector.fresh_state(self._profile, self._rules)


def run(name: str, rows: int, seed: int) -> tuple[Score, int]:
    """Run our detector over a stream; return its score and the windows that it judged."""
    alarms: list[int] = []
    watched: Watched | None = None
    at = 0
    windows = 0
    for block in STREAMS[name](rows, seed):
        watched = watched or Watched(block.shape[1])
        for start in range(0, len(block), RULES.window_rows):
            at += RULES.window_rows
            if watched.take(block[start : start + RULES.window_rows]):
                alarms.append(at)
        windows = watched.windows
    return score(at, list(range(DRIFT_EVERY, at, DRIFT_EVERY)), alarms), windows
