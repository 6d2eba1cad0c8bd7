"""The e-detector: windows of counts in, evidence and alarms out. Pure functions of values and `now`.

Called by the drift child and by the benchmarks. Promises: under no drift an alarm comes at most once in
`promise_s` on average, over all signals, scales and looks together. How: each closed window gives each signal an
e-value against the profile (`statistics`), their plain average is an e-value too, and Shiryaev-Roberts adds them up
over time, M = (M + w) e, with w = the window's own time / `promise_s`. M less the time that went by is a
supermartingale, so M >= 1 comes no sooner, on average, than `promise_s`. Silent until a window has enough rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from nightproof.base.profile import Profile, Signal
from nightproof.watch.drift import statistics

MOST_WEIGHT = 1 / 200
"""After a silence a window covers much time; it is never given more than one 200th of the promise."""
_SELECTED_AT = 20.0
"""A feature is named when its evidence is this strong, for each one named and over all of them (e-BH at 5 %)."""
_CALM_WINDOWS = 3
_MOST_EVIDENCE = 1e300


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How a release is watched."""

    promise_s: float = 30 * 86_400.0
    window_rows: int = 500
    window_s: float = 10.0
    """A window takes at least this long, however many rows come."""
    multiples: tuple[int, ...] = (1, 2, 8)
    """The scales: windows of so many small windows each. The first has half of the promise, the others the rest."""

    def share_of(self, multiple: int) -> float:
        """Return which share of the promise a scale may use up."""
        others = len(self.multiples) - 1
        if not others:
            return 1.0
        return 0.5 if multiple == self.multiples[0] else 0.5 / others


class Counts(msgspec.Struct, kw_only=True):
    """Rows of a stretch of time as counts; two of them merge by addition."""

    rows: int = 0
    answered: int = 0
    """Of how many rows an answer is in."""
    elapsed_s: float = 0.0
    began_us: int = 0
    ended_us: int = 0
    segments: list[int] = []
    cells: list[list[int]] = []


class Scale(msgspec.Struct, kw_only=True):
    """One window length with what was seen at it."""

    multiple: int
    filling: Counts
    parts: int = 0
    last: Counts | None = None
    last_average: float = 1.0
    evidence: float = 0.0
    """M of Shiryaev-Roberts; 1 alarms."""
    weight_sum: float = 0.0
    by_signal: list[float] = []
    run: float = 1.0
    """Evidence since `run_since_us`: the beginning that makes it largest."""
    run_since_us: int = 0
    windows: int = 0


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """The data moved."""

    at_us: int
    since_us: int
    multiple: int
    rows: int
    signals: list[str]
    """Those that moved, strongest evidence first."""


class State(msgspec.Struct, kw_only=True):
    """The detector of one release. Kept across restarts; its size does not depend on traffic."""

    digest: str
    scales: list[Scale]
    windows: int = 0
    rows: int = 0
    alarms: int = 0
    alarm: Alarm | None = None
    """The one that still stands."""
    calm: int = 0


def fresh_counts(profile: Profile) -> Counts:
    """Return counts of nothing."""
    return Counts(
        segments=[0] * len(profile.segment_rows), cells=[[0] * signal.cells for signal in profile.signals]
    )


def fresh_state(profile: Profile, rules: Rules) -> State:
    """Begin to watch a release."""
    scales = [
        Scale(multiple=multiple, filling=fresh_counts(profile), by_signal=[0.0] * len(profile.signals))
        for multiple in rules.multiples
    ]
    return State(digest=profile.digest, scales=scales)


def fits(state: State, profile: Profile, rules: Rules) -> bool:
    """Say whether a kept state belongs to this profile and these rules."""
    return (
        state.digest == profile.digest
        and [scale.multiple for scale in state.scales] == list(rules.multiples)
        and all(
            [len(cells) for cells in scale.filling.cells] == [signal.cells for signal in profile.signals]
            for scale in state.scales
        )
    )


def add(into: Counts, more: Counts) -> None:
    """Merge counts by addition."""
    into.rows += more.rows
    into.answered += more.answered
    into.elapsed_s += more.elapsed_s
    into.began_us = into.began_us or more.began_us
    into.ended_us = more.ended_us or into.ended_us
    into.segments = [a + b for a, b in zip(into.segments, more.segments, strict=True)]
    into.cells = [
        [a + b for a, b in zip(ours, theirs, strict=True)]
        for ours, theirs in zip(into.cells, more.cells, strict=True)
    ]


def is_full(counts: Counts, rules: Rules) -> bool:
    """Say whether a small window may be judged: enough rows, and enough time."""
    return counts.rows >= rules.window_rows and counts.elapsed_s >= rules.window_s


def advance(state: State, window: Counts, profile: Profile, rules: Rules) -> Alarm | None:
    """Take in one small window; return the alarm that it raises, if it does. Changes `state`.

    While an alarm stands it is not raised again, unless by signals that had no part in it.
    """
    state.windows += 1
    state.rows += window.rows
    raised: Alarm | None = None
    for scale in state.scales:
        add(scale.filling, window)
        scale.parts += 1
        if scale.parts < scale.multiple:
            continue
        closed, scale.filling, scale.parts = scale.filling, fresh_counts(profile), 0
        if _judge(scale, closed, profile, rules) and raised is None:
            raised = Alarm(
                at_us=closed.ended_us,
                since_us=scale.run_since_us or closed.began_us,
                multiple=scale.multiple,
                rows=closed.rows,
                signals=[profile.signals[place].name for place in moved(scale)],
            )
    if raised is not None:
        raised = _note(state, raised)
        for scale in state.scales:
            _begin_anew(scale, profile)
    elif state.alarm is not None:
        _calm_down(state)
    return raised


def _judge(scale: Scale, closed: Counts, profile: Profile, rules: Rules) -> bool:
    """Weigh one closed window; say whether it makes the evidence enough."""
    weight = min(MOST_WEIGHT, closed.elapsed_s / rules.promise_s) * rules.share_of(scale.multiple)
    values = e_values(closed, profile)
    average = average_of(values, profile)
    if scale.run <= 1.0:
        scale.run, scale.run_since_us = 1.0, closed.began_us
    scale.run = min(_MOST_EVIDENCE, scale.run * average)
    scale.evidence = min(_MOST_EVIDENCE, (scale.evidence + weight) * average)
    scale.weight_sum += weight
    scale.by_signal = [
        min(_MOST_EVIDENCE, (kept + weight) * value)
        for kept, value in zip(scale.by_signal, values, strict=True)
    ]
    scale.last, scale.last_average = closed, average
    scale.windows += 1
    return scale.evidence >= 1.0


def e_values(window: Counts, profile: Profile) -> list[float]:
    """Return each signal's e-value on one window."""
    return [
        signal_e_value(signal, cells, window.segments)
        for signal, cells in zip(profile.signals, window.cells, strict=True)
    ]


def average_of(values: Sequence[float], profile: Profile) -> float:
    """Average over the signals; what fields show together counts as one of them, however many directions it has."""
    total = weights = 0.0
    relations = sum(signal.side == "relation" for signal in profile.signals) or 1
    for value, signal in zip(values, profile.signals, strict=True):
        weight = 1 / relations if signal.side == "relation" else 1.0
        total += weight * value
        weights += weight
    return total / weights if weights else 1.0


def signal_e_value(signal: Signal, cells: Sequence[int], segments: Sequence[int]) -> float:
    """Weigh one signal: half on its whole distribution, half on its rare values."""
    rows = sum(cells)
    if not rows or not any(map(sum, signal.counts)):
        return 1.0
    reference, size = statistics.weighed_reference(signal.counts, segments)
    p = statistics.differ_p(
        cells,
        reference,
        tolerance=signal.tolerance,
        inflation=signal.inflation,
        is_ordered=signal.kind == "number",
    )
    p_rare = _rare_p(signal, cells, reference, rows, size)
    return 0.5 * statistics.e_value(p) + 0.5 * statistics.e_value(p_rare)


def _rare_p(
    signal: Signal, cells: Sequence[int], reference: Sequence[float], rows: int, size: float
) -> float:
    """Weigh the rare values, on as many independent rows as these are worth."""
    rare = signal.rare_cells()
    worth = 1 / signal.inflation
    return statistics.rare_p(
        sum(cells[place] for place in rare) * worth,
        rows * worth,
        sum(reference[place] for place in rare) * worth,
        size * worth,
        tolerance=signal.tolerance,
    )


def moved(scale: Scale) -> list[int]:
    """Choose the signals to name, by e-BH over their evidence; the one with most of it in any case."""
    if not scale.by_signal:
        return []
    floor = scale.weight_sum or 1.0
    ranked = sorted(
        ((kept / floor, place) for place, kept in enumerate(scale.by_signal)), key=lambda pair: -pair[0]
    )
    count = len(ranked)
    named = 1
    for rank, (evidence, _) in enumerate(ranked, start=1):
        if evidence >= _SELECTED_AT * count / rank:
            named = rank
    return [place for _, place in ranked[:named]]


def _note(state: State, raised: Alarm) -> Alarm | None:
    """Let an alarm stand; one that stands already keeps its beginning and gains what is new. Return what is news."""
    state.calm = 0
    before = state.alarm
    if before is None:
        state.alarms += 1
        state.alarm = raised
        return raised
    new = [name for name in raised.signals if name not in before.signals]
    state.alarm = msgspec.structs.replace(
        before, signals=[*before.signals, *new], multiple=raised.multiple, rows=raised.rows
    )
    return state.alarm if new else None


def _begin_anew(scale: Scale, profile: Profile) -> None:
    """Start over after an alarm, and with an empty window: what was alarmed about is not to alarm again."""
    scale.filling, scale.parts = fresh_counts(profile), 0
    scale.evidence = scale.weight_sum = 0.0
    scale.run = 1.0
    scale.by_signal = [0.0] * len(scale.by_signal)


def _calm_down(state: State) -> None:
    """Let go of an alarm once a few windows in a row of its scale say nothing against the profile."""
    alarm = state.alarm
    if alarm is None:
        return
    scale = next((one for one in state.scales if one.multiple == alarm.multiple), state.scales[0])
    if scale.parts:
        return  # none of its windows closed just now
    state.calm = state.calm + 1 if scale.last_average < 1.0 else 0
    if state.calm >= _CALM_WINDOWS:
        state.alarm, state.calm = None, 0


class SignalReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one signal stands: for people and gauges."""

    name: str
    feature: str
    side: str
    moved: bool
    rows: int
    effect: float
    """Share of rows that would have to move for window and reference to agree, noise taken off."""
    psi: float
    missing: float
    reference_missing: float
    unseen: float
    evidence: float
    labels: list[str] = []
    reference: list[float] = []
    """Share of each cell."""
    live: list[float] = []


def report(state: State, profile: Profile, *, with_cells: Sequence[str] = ()) -> list[SignalReport]:
    """Say how each signal stands, on the largest window that is complete; the strongest effect first."""
    scale = _to_report(state)
    if scale is None or scale.last is None:
        return []
    window = scale.last
    names = set(state.alarm.signals) if state.alarm else set()
    found = []
    for place, (signal, cells) in enumerate(zip(profile.signals, window.cells, strict=True)):
        rows = sum(cells)
        reference, size = statistics.weighed_reference(signal.counts, window.segments)
        full = signal.name in names or signal.name in with_cells
        found.append(
            SignalReport(
                name=signal.name,
                feature=signal.feature,
                side=signal.side,
                moved=signal.name in names,
                rows=rows,
                effect=statistics.effect(cells, reference),
                psi=statistics.psi(cells, reference),
                missing=cells[signal.missing_cell] / rows if rows else 0.0,
                reference_missing=reference[signal.missing_cell] / size if size else 0.0,
                unseen=cells[signal.odd_cell] / rows if rows else 0.0,
                evidence=_log10(scale.by_signal[place] / scale.weight_sum if scale.weight_sum else 1.0),
                labels=signal.labels() if full else [],
                reference=[one / size for one in reference] if full and size else [],
                live=[one / rows for one in cells] if full and rows else [],
            )
        )
    return sorted(found, key=lambda one: (not one.moved, -one.effect))


def _to_report(state: State) -> Scale | None:
    """Choose the window to show: where an alarm stands its own scale, else the largest that has one."""
    done = [scale for scale in state.scales if scale.last is not None]
    if state.alarm is not None:
        return next((one for one in done if one.multiple == state.alarm.multiple), None)
    return done[-1] if done else None


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -300.0
