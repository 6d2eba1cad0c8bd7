"""Plots of the report as inline SVG: one drill's timeline, and how soon things were seen, told and well again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from nightproof.drills.observed import Result, Timeline

_WIDTH, _HEIGHT = 340, 72
_TOP, _BASE = 25, 58
_ROWS = (7.0, 15.0, 23.0)
_WORD_PX = 30
_MOST_BARS = 110
_LEAST_S = 6.0
_BEFORE_S = 2.0


def timeline(plot: Timeline) -> str:
    """Draw what callers got, a bar a stretch, with the fault, its end, the alert and the recovery marked."""
    begin_s = max(plot.from_s, plot.fault_s - _BEFORE_S)
    end_s = max(_end_of(plot), begin_s + _LEAST_S)
    span_s = end_s - begin_s

    def x(at_s: float) -> float:
        return max(0.0, min(_WIDTH, (at_s - begin_s) / span_s * _WIDTH))

    parts = [
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_in_words(plot))}">',
        f'<rect class="during" x="{x(plot.fault_s):.1f}" y="{_TOP}" '
        f'width="{max(1.5, x(plot.undone_s) - x(plot.fault_s)):.1f}" height="{_BASE - _TOP}"/>',
        *_bars(plot, begin_s, end_s, x(begin_s + plot.bucket_s) - x(begin_s)),
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_BASE}" y2="{_BASE}"/>',
    ]
    parts += _ticks(plot.fault_s, begin_s, end_s, span_s)
    taken: list[tuple[float, float]] = []
    for at_s, kind, word in (
        (plot.fault_s, "fault", "fault"),
        (plot.alert_s, "alert", "alert"),
        (plot.steady_s, "steady", "well"),
    ):
        if at_s is not None and at_s <= end_s:
            row = next(
                row for row in _ROWS if all(abs(left - x(at_s)) > _WORD_PX or row != at for left, at in taken)
            )
            taken.append((x(at_s), row))
            parts.append(_mark(x(at_s), kind, word, row))
    return "".join(parts) + "</svg>"


def _end_of(plot: Timeline) -> float:
    ends = [plot.undone_s, plot.alert_s, plot.steady_s]
    return max(at_s for at_s in ends if at_s is not None) + 1.5


def _bars(plot: Timeline, begin_s: float, end_s: float, width: float) -> list[str]:
    """Draw the stacked bars; several buckets together where there are many."""
    first = max(0, int((begin_s - plot.from_s) / plot.bucket_s))
    last = min(len(plot.answered), int((end_s - plot.from_s) / plot.bucket_s) + 1)
    together = max(1, -(-(last - first) // _MOST_BARS))
    groups = [range(at, min(last, at + together)) for at in range(first, last, together)]
    rows = [
        [sum(counts[place] for place in group) for counts in (plot.answered, plot.degraded, plot.harmed)]
        for group in groups
    ]
    most = max((sum(row) for row in rows), default=0) or 1
    drawn = []
    for number, row in enumerate(rows):
        left, bottom = number * together * width, float(_BASE)
        for count, kind in zip(row, ("ok", "degraded", "harmed"), strict=True):
            if count:
                height = count / most * (_BASE - _TOP - 2)
                bottom -= height
                wide = max(0.6, together * width - 0.4)
                drawn.append(
                    f'<rect class="{kind}" x="{left:.1f}" y="{bottom:.1f}" width="{wide:.1f}" height="{height:.1f}"/>'
                )
    return drawn


def _ticks(fault_s: float, begin_s: float, end_s: float, span_s: float) -> list[str]:
    step_s = next(step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3_600) if span_s / step <= 8)
    drawn = []
    second = 0
    while fault_s + second <= end_s:
        left = (fault_s + second - begin_s) / span_s * _WIDTH
        drawn.append(
            f'<text class="tick" x="{left:.1f}" y="{_HEIGHT - 2}">{second}{" s" if not second else ""}</text>'
        )
        second += step_s
    return drawn


def _mark(left: float, kind: str, word: str, row: float) -> str:
    side = "end" if left > _WIDTH - 26 else "start"
    shift = -3 if side == "end" else 3
    return (
        f'<line class="mark {kind}" x1="{left:.1f}" x2="{left:.1f}" y1="2" y2="{_BASE}"/>'
        f'<text class="word {kind}" x="{left + shift:.1f}" y="{row}" text-anchor="{side}">{word}</text>'
    )


def _in_words(plot: Timeline) -> str:
    told = (
        f"{sum(plot.answered)} answered, {sum(plot.degraded)} degraded, {sum(plot.harmed)} without an answer"
    )
    alert = "" if plot.alert_s is None else f"; alert after {plot.alert_s - plot.fault_s:.1f} s"
    return told + alert


def seconds(results: Sequence[Result], aspect: str, words: str) -> str:
    """Draw one strip: each drill's seconds as a dot on a scale that shows tenths and minutes alike."""
    found = sorted(
        (verdict.seconds, result.name)
        for result in results
        for verdict in result.verdicts
        if verdict.aspect == aspect and verdict.seconds is not None and verdict.word != "not applicable"
    )
    if not found:
        return ""
    width, height, left = 660, 46, 150

    def x(value: float) -> float:
        # Square root: most are small, and the large ones are what one looks for.
        return left + math.sqrt(min(value, 60.0) / 60.0) * (width - left - 20)

    median = found[len(found) // 2][0]
    parts = [
        f'<svg class="strip" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(words)}">',
        f'<text class="label" x="0" y="18">{escape(words)}</text>',
        f'<text class="sub" x="0" y="32">median {median:.1f} s, most {found[-1][0]:.1f} s</text>',
        f'<line class="axis" x1="{left}" x2="{width - 20}" y1="18" y2="18"/>',
    ]
    for tick in (0, 1, 5, 10, 20, 30, 60):
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="42">{tick}{" s" if tick == 60 else ""}</text>')
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="10" y2="30"/>')
    for value, name in found:
        parts.append(
            f'<circle class="dot" cx="{x(value):.1f}" cy="18" r="4">'
            f"<title>{escape(name)}: {value:.1f} s</title></circle>"
        )
    return "".join(parts) + "</svg>"
