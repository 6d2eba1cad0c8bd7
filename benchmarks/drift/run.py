"""The experiment `drift`: truth, streams, sets, rivals and cost, in one run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import systems
from benchmarks.drift import cost, population, sets, streams, truth

_RIVALS = Path(__file__).parent / "rivals"
_RIVAL_PATIENCE_S = 1_500.0
Rows = list[population.Row]


@dataclass(kw_only=True)
class DriftFindings:
    """What the run found."""

    silence: list[truth.Silence] = field(default_factory=list)
    found: list[truth.Found] = field(default_factory=list)
    streams: dict[str, streams.Score] = field(default_factory=dict)
    sets: list[sets.Verdicts] = field(default_factory=list)
    rivals: list[dict[str, Any]] = field(default_factory=list)
    ours_beside: dict[str, dict[str, Any]] = field(default_factory=dict)
    """On the very windows that the rivals saw."""
    cost: cost.Cost | None = None
    not_run: dict[str, str] = field(default_factory=dict)


def run(results: Path, *, is_quick: bool, say: Callable[[str], None]) -> DriftFindings:
    """Run all of it."""
    findings = DriftFindings()
    say("drift: cost at 64 connections and 100 features")
    try:
        findings.cost = cost.measure(results, seconds=3 if is_quick else 6, rounds=1 if is_quick else 2)
    except systems.NotRun as reason:
        findings.not_run["cost"] = str(reason)
    say("drift: windows without drift")
    for rows, windows in ((200, 2_500), (500, 2_500), (1_000, 1_500)):
        findings.silence.append(truth.silence(windows // 10 if is_quick else windows, rows, seed=rows))
    for name in population.SPOILS:
        say(f"drift: {name}")
        findings.found.append(truth.find(name, repeats=5 if is_quick else 20))
    for name in streams.STREAMS:
        say(f"drift: {name}")
        findings.streams[name] = streams.run(name, 100_000 if is_quick else 2_000_000, seed=1)[0]
    say("drift: public sets")
    found, findings.not_run = sets.load()
    scenarios = _population_scenarios(2 if is_quick else 20)
    for table in found:
        _, reference, windows = sets.shuffled(table)
        findings.sets.append(sets.judge(table, reference, windows))
        findings.sets.append(sets.in_order(table, with_times=False))
        if table.times_s:
            findings.sets.append(sets.in_order(table, with_times=True))
        scenarios.append(
            _Scenario(f"{table.name}, shuffled", reference, windows[: 3 if is_quick else 10], table.schema)
        )
    for scenario in scenarios:
        findings.ours_beside[scenario.name] = scenario.ours()
    try:
        say("drift: Evidently and River on the same windows; the first time this installs them")
        findings.rivals = _rivals(scenarios)
    except systems.NotRun as reason:
        findings.not_run["rivals"] = str(reason)
    return findings


@dataclass(frozen=True)
class _Scenario:
    """A reference and windows that every detector sees."""

    name: str
    reference: Rows
    windows: list[Rows]
    schema: dict[str, Any]

    def numbers(self) -> list[str]:
        return [
            name
            for name in self.reference[0]
            if all(row[name] is None or isinstance(row[name], int | float) for row in self.reference)
        ]

    def ours(self) -> dict[str, Any]:
        """Watch the windows with our detector."""
        table = sets.TableSet(self.name, [], self.schema)
        verdicts = sets.judge(table, self.reference, self.windows)
        return {
            "windows": verdicts.windows,
            "alarms": verdicts.alarms,
            "first": verdicts.first,
            "fields": verdicts.fields,
        }


def _population_scenarios(windows: int) -> list[_Scenario]:
    reference, pool = population.rows(5_000, 7), population.rows(20_000, 5_007)
    rng = np.random.default_rng(1)

    def drawn(count: int, spoil: population.Spoil | None = None) -> list[Rows]:
        found = []
        for _ in range(count):
            rows = [pool[place] for place in rng.choice(len(pool), 500, replace=False)]
            found.append([spoil(row, rng) for row in rows] if spoil else rows)
        return found

    scenarios = [_Scenario("no drift", reference, drawn(windows), population.SCHEMA)]
    for name, (_, spoil) in population.SPOILS.items():
        scenarios.append(_Scenario(name, reference, drawn(min(windows, 4), spoil), population.SCHEMA))
    return scenarios


def _rivals(scenarios: list[_Scenario]) -> list[dict[str, Any]]:
    python = systems.environment_for("drift-rivals", _RIVALS / "requirements.txt")
    lines = []
    for scenario in scenarios:
        lines.append({"reference": scenario.reference, "numbers": scenario.numbers()})
        lines.append({"name": scenario.name, "windows": scenario.windows})
    try:
        done = subprocess.run(
            [str(python), str(_RIVALS / "judge.py")],
            input="\n".join(map(json.dumps, lines)),
            capture_output=True,
            text=True,
            timeout=_RIVAL_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise systems.NotRun(f"they took longer than {_RIVAL_PATIENCE_S:g} s") from error
    if done.returncode:
        raise systems.NotRun(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "they ended")
    return [json.loads(line) for line in done.stdout.splitlines()]
