"""Print what the experiment `chat` found, and hold it against what was promised."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks import machine
from benchmarks.chat.costs import Cost
from benchmarks.chat.run import COUNTS, STREAMS, ChatFindings, ChatRow, Offered
from benchmarks.chat.streams import Streamed
from benchmarks.load import Comparison

GOALS = {"portkey": 3.0, "litellm": 30.0}
"""Times their requests a second, at 64 connections."""
SERVER_US = 450.0
FIRST_PIECE_MS = 50.0
FLAT_KB_PER_S = 50.0
"""What a server may seem to grow by in a short look, from windows and caches that fill."""


def chat_tables(found: ChatFindings) -> Iterator[Table]:
    """Return every table that has something to say."""
    yield _side_by_side(found)
    offers = [found.bare_offered, *(row.offered for row in found.rows.values())]
    if any(offers):
        yield _open_loop([one for one in offers if one is not None])
    if found.cost:
        yield _cost(found.cost)
    if found.streamed and found.bare_streamed:
        yield _streams(found.bare_streamed, found.streamed)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    return table


def _side_by_side(found: ChatFindings) -> Table:
    many = [f"{count} connection{'s' if count > 1 else ''}" for count in COUNTS]
    table = _table(
        "Chats: good answers per second (share of the bare upstream's next to it), p50/p99 in ms, CPU µs per answer of"
        " all its processes; * others used the machine",
        "system",
        *many,
    )
    ours = found.rows.get("nightproof")
    if ours is not None and ours.points:
        table.add_row(
            "The upstream, bare", *(_bare(ours.points[count]) for count in ours.points), end_section=True
        )
    for row in found.rows.values():
        if row.not_run:
            table.add_row(row.title, *["[yellow]not run[/yellow]"] * len(COUNTS))
        else:
            table.add_row(row.title, *(_cell(row.points.get(count)) for count in COUNTS))
    return table


def _bare(one: Comparison) -> str:
    point = one.before
    return (
        f"{one.baseline_per_s:,.0f}\n{point.p50_ms:.2f}/{one.baseline_p99_ms:.1f} ms  {point.tree_us:.0f} µs"
    )


def _cell(one: Comparison | None) -> str:
    if one is None:
        return ""
    point = one.point
    is_disturbed = point.is_disturbed or one.before.is_disturbed or one.after.is_disturbed
    lines = [
        f"[bold]{point.good_per_s:,.0f} (×{one.ratio:.3f}){'*' if is_disturbed else ''}[/bold]",
        f"{point.p50_ms:.2f}/{point.p99_ms:.1f} ms  {point.tree_us:.0f} µs",
    ]
    bad = {
        "refused/s": round(point.refused_per_s, 1),
        "socket errors": point.socket_errors,
        "timeouts": point.timeouts,
    }
    lines += [f"[red]{count:g} {name}[/red]" for name, count in bad.items() if count]
    return "\n".join(lines)


def _open_loop(offers: list[Offered]) -> Table:
    title = f"Chats: {offers[0].rate_per_s:.0f}/s, open loop, from the moment each request was due"
    table = _table(title, "system", "answered", "not", "p50 ms", "p99 ms", "driver's own p99 ms")
    for one in offers:
        star = "*" if one.others_cores > machine.QUIET_CORES else ""
        table.add_row(
            f"{one.title}{star}", f"{one.good:,}", str(one.bad), f"{one.p50_ms:.2f}", f"{one.p99_ms:.1f}",
            f"{one.driver_delay_p99_ms:.1f}",
        )  # fmt: skip
    return table


def _cost(cost: Cost) -> Table:
    star = "*" if cost.others_cores > machine.QUIET_CORES else ""
    table = _table(
        f"Chats: CPU of one exchange at {cost.connections} connections and {cost.answers_per_s:,.0f}/s{star}",
        "process",
        "µs",
    )
    for name, us in (
        ("server", cost.server_us),
        ("workers: checks of what came in", cost.workers_us),
        ("writer of the log", cost.writer_us),
        ("the rest: the drift watch", cost.rest_us),
        ("the upstream", cost.upstream_us),
    ):
        table.add_row(name, f"{us:.0f}")
    return table


def _streams(bare: Streamed, ours: Streamed) -> Table:
    table = _table(
        f"Chats: {STREAMS} streams at once, 50 pieces a second each"
        + ("*" if max(bare.others_cores, ours.others_cores) > machine.QUIET_CORES else ""),
        "",
        "bare",
        "Nightproof",
    )
    rows = {
        "streams (broken)": lambda one: f"{one.streams:,} ({one.broken})",
        "pieces": lambda one: f"{one.pieces:,}",
        "first piece, p50/p99 ms": lambda one: f"{one.first_p50_ms:.1f}/{one.first_p99_ms:.1f}",
        "a piece on its way, p50/p99 ms": lambda one: f"{one.delay_p50_ms:.1f}/{one.delay_p99_ms:.1f}",
        "the driver's own delay, p99 ms": lambda one: f"{one.driver_late_p99_ms:.1f}",
        "server CPU of a piece, µs": lambda one: f"{one.server_us_per_piece:.0f}",
        "server memory, MB": lambda one: f"{one.server_mb:.0f}",
        "growing by, kB a second": lambda one: f"{one.growth_kb_per_s:.0f}",
    }
    for name, told in rows.items():
        table.add_row(name, told(bare), told(ours))
    table.add_row("beyond its hold-back, p99/most ms", "", f"{ours.late_p99_ms:.1f}/{ours.late_max_ms:.1f}")
    return table


def chat_goals(found: ChatFindings) -> Iterator[tuple[str, str, bool | None]]:
    """Yield each goal with what was found and whether it is kept; None where it could not be measured."""
    ours = found.rows.get("nightproof")
    for name, least in GOALS.items():
        yield _against(found.rows.get(name), ours, least)
    if ours is None or not ours.points:
        return
    for count, most, what in ((1, 3.0, "p50"), (64, 80.0, "p99")):
        one = ours.points.get(count)
        if one is not None:
            bare = one.before.p50_ms if what == "p50" else one.baseline_p99_ms
            added = (one.point.p50_ms if what == "p50" else one.point.p99_ms) - bare
            many = "connection" if count == 1 else "connections"
            text = f"chats, {count} {many}: {what} at most {most:g} ms over the bare upstream"
            yield text, f"{added:.1f} ms", added <= most
    if ours.offered and found.bare_offered:
        added = ours.offered.p99_ms - found.bare_offered.p99_ms
        yield "chats, 300/s open loop: added p99 at most 25 ms", f"{added:.1f} ms", added <= 25.0
    if found.cost:
        us = found.cost.server_us
        yield (
            f"chats: at most {SERVER_US:.0f} µs of the server's CPU an exchange",
            f"{us:.0f} µs",
            us <= SERVER_US,
        )
    if found.streamed and found.bare_streamed:
        yield from _stream_goals(found.bare_streamed, found.streamed)


def _stream_goals(bare: Streamed, ours: Streamed) -> Iterator[tuple[str, str, bool | None]]:
    added = ours.first_p99_ms - bare.first_p99_ms
    yield (
        f"{STREAMS} streams: added p99 of the first piece at most {FIRST_PIECE_MS:.0f} ms",
        f"{added:.1f} ms",
        added <= FIRST_PIECE_MS,
    )
    yield (
        f"{STREAMS} streams: no piece later than its hold-back by more than {FIRST_PIECE_MS:.0f} ms",
        f"latest {ours.late_max_ms:.1f} ms, p99 {ours.late_p99_ms:.1f} ms",
        ours.late_max_ms <= FIRST_PIECE_MS,
    )
    yield (
        f"{STREAMS} streams: memory flat (at most {FLAT_KB_PER_S:.0f} kB a second)",
        f"{ours.growth_kb_per_s:.0f} kB/s",
        ours.growth_kb_per_s <= FLAT_KB_PER_S,
    )
    yield f"{STREAMS} streams: none broken", f"{ours.broken} of {ours.streams + ours.broken}", not ours.broken


def _against(theirs: ChatRow | None, ours: ChatRow | None, least: float) -> tuple[str, str, bool | None]:
    title = theirs.title if theirs is not None else "a gateway"
    text = f"chats, 64 connections: at least {least:g}× {title}"
    if theirs is None or 64 not in theirs.points:
        return text, theirs.not_run if theirs is not None else "not asked for", None
    if ours is None or 64 not in ours.points:
        return text, "Nightproof itself was not measured", None
    mine, other = ours.points[64], theirs.points[64]
    # Each against the bare upstream next to it, so that a slow minute hurts neither.
    ratio = mine.ratio / other.ratio if other.ratio else float("inf")
    return (
        text,
        f"{ratio:.1f}× ({mine.point.good_per_s:,.0f}/s and {other.point.good_per_s:,.0f}/s;"
        f" CPU {other.point.tree_us / mine.point.tree_us:.1f}×)",
        ratio >= least,
    )
